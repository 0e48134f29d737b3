package prismasim_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

func TestAWorkspaceSeesItsOwnAlone(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	shop := newProject(t, sim, prismasimtest.ServiceToken, "shop")
	foreign := prismasimtest.OtherServiceToken
	body := map[string]any{"name": "n", "databaseId": shop.database, "projectId": shop.project}
	source := map[string]any{"source": map[string]string{"type": "backup", "databaseId": shop.database, "backupId": "bak_x"}}
	tests := []struct {
		method, path string
		body         any
	}{
		{http.MethodGet, "/v1/workspaces/" + prismasimtest.PartnerWorkspace, nil},
		{http.MethodGet, "/v1/workspaces/" + prismasimtest.PartnerWorkspace + "/subscription", nil},
		{http.MethodGet, "/v1/workspaces/" + prismasimtest.PartnerWorkspace + "/integrations", nil},
		{http.MethodPost, "/v1/workspaces/" + prismasimtest.PartnerWorkspace + "/service-tokens", body},
		{http.MethodPost, "/v1/workspaces/" + prismasimtest.PartnerWorkspace + "/projects", body},
		{http.MethodPost, "/v1/projects", map[string]string{"workspaceId": prismasimtest.PartnerWorkspace}},
		{http.MethodGet, "/v1/projects/" + shop.project, nil},
		{http.MethodPatch, "/v1/projects/" + shop.project, body},
		{http.MethodDelete, "/v1/projects/" + shop.project, nil},
		{http.MethodPost, "/v1/projects/" + shop.project + "/transfer", map[string]string{"recipientAccessToken": "x"}},
		{http.MethodGet, "/v1/projects/" + shop.project + "/databases", nil},
		{http.MethodPost, "/v1/projects/" + shop.project + "/databases", map[string]string{}},
		{http.MethodPost, "/v1/databases", body},
		{http.MethodGet, "/v1/databases/" + shop.database, nil},
		{http.MethodPatch, "/v1/databases/" + shop.database, body},
		{http.MethodDelete, "/v1/databases/" + shop.database, nil},
		{http.MethodGet, "/v1/databases/" + shop.database + "/connections", nil},
		{http.MethodPost, "/v1/databases/" + shop.database + "/connections", body},
		{http.MethodGet, "/v1/databases/" + shop.database + "/backups", nil},
		{http.MethodGet, "/v1/databases/" + shop.database + "/usage", nil},
		{http.MethodPost, "/v1/databases/" + shop.database + "/restore", source},
		{http.MethodPost, "/v1/connections", body},
		{http.MethodGet, "/v1/connections/" + shop.connection, nil},
		{http.MethodPost, "/v1/connections/" + shop.connection + "/rotate", nil},
		{http.MethodDelete, "/v1/connections/" + shop.connection, nil},
	}
	for _, tc := range tests {
		status, answer := sim.Do(t, tc.method, tc.path, foreign, tc.body)
		if status != http.StatusNotFound || text(t, answer, "error.code") != "resource-not-found" {
			t.Errorf("%s %s of another = %d, want 404", tc.method, tc.path, status)
		}
		if status, _ := sim.Do(t, tc.method, tc.path, "no-token", tc.body); status != http.StatusUnauthorized {
			t.Errorf("%s %s without a token = %d, want 401", tc.method, tc.path, status)
		}
	}
	for _, path := range []string{
		"/v1/projects", "/v1/databases", "/v1/connections", "/v1/databases?projectId=" + shop.project,
		"/v1/connections?databaseId=" + shop.database, "/v1/integrations?workspaceId=" + prismasimtest.PartnerWorkspace,
		"/v1/workspaces/" + prismasimtest.PartnerWorkspace + "/service-tokens",
	} {
		if answer := api(t, sim, http.MethodGet, path, foreign, nil, http.StatusOK); count(t, answer, "data") != 0 {
			t.Errorf("%s lists another's", path)
		}
	}
	open(t, shop.url)
}

func TestIDsWithAndWithoutPrefix(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	token := prismasimtest.ServiceToken
	shop := newProject(t, sim, token, "shop")
	bare := func(id string) string { return id[len(id)-25:] }
	for _, path := range []string{
		"/v1/projects/" + bare(shop.project), "/v1/databases/" + bare(shop.database), "/v1/connections/" + bare(shop.connection),
		"/v1/projects/" + bare(shop.project) + "/databases", "/v1/workspaces/partner",
	} {
		api(t, sim, http.MethodGet, path, token, nil, http.StatusOK)
	}
	body := api(t, sim, http.MethodGet, "/v1/databases?projectId="+bare(shop.project), token, nil, http.StatusOK)
	if count(t, body, "data") != 1 || text(t, body, "data.0.id") != shop.database {
		t.Error("the filter does not take a bare id")
	}
}

func TestPagination(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	token := prismasimtest.ServiceToken
	var want []string
	for range 7 {
		body := api(t, sim, http.MethodPost, "/v1/projects", token, map[string]any{"createDatabase": false}, http.StatusCreated)
		if dig(t, body, "data.database") != nil {
			t.Fatal("a database was made")
		}
		want = append(want, text(t, body, "data.id"))
	}
	var got []string
	for cursor, more := "", true; more; {
		body := api(t, sim, http.MethodGet, "/v1/projects?limit=3&cursor="+cursor, token, nil, http.StatusOK)
		for i := range count(t, body, "data") {
			got = append(got, text(t, body, "data."+strconv.Itoa(i)+".id"))
		}
		if len(got) == 3 { // what goes between two pages changes nothing behind it
			api(t, sim, http.MethodDelete, "/v1/projects/"+got[2], token, nil, http.StatusNoContent)
		}
		if more = dig(t, body, "pagination.hasMore") == true; more {
			cursor = text(t, body, "pagination.nextCursor")
		} else if dig(t, body, "pagination.nextCursor") != nil {
			t.Error("the last page has a cursor")
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
	for _, query := range []string{"limit=0", "limit=-1", "limit=1.5", "limit=x", "cursor=zzz"} {
		api(t, sim, http.MethodGet, "/v1/projects?"+query, token, nil, http.StatusBadRequest)
	}
	api(t, sim, http.MethodGet, "/v1/projects?limit=1000", token, nil, http.StatusOK)
}

func TestServiceTokensAreNewestFirst(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	path := "/v1/workspaces/" + prismasimtest.PartnerWorkspace + "/service-tokens"
	want := []string{"c", "b", "a", "provisioning"}
	var value, id string
	for _, name := range []string{"a", "b", "c"} {
		body := api(t, sim, http.MethodPost, path, prismasimtest.ServiceToken, map[string]string{"name": name}, http.StatusCreated)
		value, id = text(t, body, "data.value"), text(t, body, "data.id")
	}
	var got []string
	for cursor, more := "", true; more; {
		body := api(t, sim, http.MethodGet, path+"?limit=3&cursor="+cursor, value, nil, http.StatusOK)
		for i := range count(t, body, "data") {
			got = append(got, text(t, body, "data."+strconv.Itoa(i)+".name"))
		}
		if more = dig(t, body, "pagination.hasMore") == true; more {
			cursor = text(t, body, "pagination.nextCursor")
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tokens (-want +got):\n%s", diff)
	}
	api(t, sim, http.MethodPost, path, value, map[string]string{"name": ""}, http.StatusUnprocessableEntity)
	api(t, sim, http.MethodDelete, path+"/"+id, prismasimtest.ServiceToken, nil, http.StatusNoContent)
	api(t, sim, http.MethodGet, "/v1/me", value, nil, http.StatusUnauthorized)
	api(t, sim, http.MethodDelete, path+"/"+id, prismasimtest.ServiceToken, nil, http.StatusNotFound)
}

func TestRequestsAreValidated(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	token := prismasimtest.ServiceToken
	shop := newProject(t, sim, token, "shop")
	tests := map[string]struct {
		method, path, body string
		status             int
	}{
		"not JSON":               {http.MethodPost, "/v1/projects", `{`, http.StatusBadRequest},
		"wrong type":             {http.MethodPost, "/v1/projects", `{"name":5}`, http.StatusBadRequest},
		"array":                  {http.MethodPost, "/v1/projects", `[]`, http.StatusBadRequest},
		"null name":              {http.MethodPost, "/v1/projects", `{"name":null}`, http.StatusBadRequest},
		"empty name":             {http.MethodPost, "/v1/projects", `{"name":" "}`, http.StatusBadRequest},
		"empty logicalId":        {http.MethodPost, "/v1/projects", `{"logicalId":""}`, http.StatusBadRequest},
		"unknown region":         {http.MethodPost, "/v1/projects", `{"region":"mars"}`, http.StatusBadRequest},
		"too large":              {http.MethodPost, "/v1/projects", `{"name":"` + strings.Repeat("x", 1<<20) + `"}`, http.StatusRequestEntityTooLarge},
		"long name in PATCH":     {http.MethodPatch, "/v1/projects/" + shop.project, `{"name":"` + strings.Repeat("x", 257) + `"}`, http.StatusUnprocessableEntity},
		"wrong type in PATCH":    {http.MethodPatch, "/v1/projects/" + shop.project, `{"settings":1}`, http.StatusUnprocessableEntity},
		"connection, no name":    {http.MethodPost, "/v1/connections", `{"databaseId":"x"}`, http.StatusBadRequest},
		"connection, no body":    {http.MethodPost, "/v1/connections", ``, http.StatusBadRequest},
		"connection, empty name": {http.MethodPost, "/v1/connections", `{"databaseId":"` + shop.database + `","name":""}`, http.StatusBadRequest},
		"no project":             {http.MethodPost, "/v1/databases", `{}`, http.StatusBadRequest},
		"unknown source":         {http.MethodPost, "/v1/databases", `{"projectId":"` + shop.project + `","source":{"type":"tape"}}`, http.StatusBadRequest},
		"both branches":          {http.MethodPost, "/v1/databases", `{"projectId":"` + shop.project + `","branchId":"b","branchGitName":"b"}`, http.StatusBadRequest},
		"null branch":            {http.MethodPost, "/v1/databases", `{"projectId":"` + shop.project + `","branchId":null}`, http.StatusBadRequest},
		"logicalId and git name": {http.MethodPost, "/v1/databases", `{"projectId":"` + shop.project + `","logicalId":"l","branchGitName":"b"}`, http.StatusBadRequest},
		"logicalId and a move":   {http.MethodPatch, "/v1/databases/" + shop.database, `{"logicalId":"l","branchId":"b"}`, http.StatusBadRequest},
		"two sources":            {http.MethodPost, "/v1/projects/" + shop.project + "/databases", `{"source":{"type":"empty"},"fromDatabase":{"id":"x"}}`, http.StatusBadRequest},
		"source of another":      {http.MethodPost, "/v1/projects/" + shop.project + "/databases", `{"fromDatabase":{"id":"db_other"}}`, http.StatusNotFound},
		"unknown branch":         {http.MethodPost, "/v1/databases", `{"projectId":"` + shop.project + `","branchId":"b"}`, http.StatusNotFound},
		"workspace missing":      {http.MethodGet, "/v1/integrations", ``, http.StatusBadRequest},
		"unknown product":        {http.MethodGet, "/v1/regions?product=tape", ``, http.StatusBadRequest},
		"recipient missing":      {http.MethodPost, "/v1/projects/" + shop.project + "/transfer", `{}`, http.StatusBadRequest},
		"not stood in for":       {http.MethodGet, "/v1/buckets", ``, http.StatusNotImplemented},
		"unknown operation":      {http.MethodGet, "/v1/nothing", ``, http.StatusNotFound},
		"wrong method":           {http.MethodPut, "/v1/projects", `{}`, http.StatusNotFound},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response := send(t, tc.method, sim.URL+tc.path, tc.body, http.Header{
				"Content-Type": {"application/json"}, "Authorization": {"Bearer " + token},
			})
			if response.StatusCode != tc.status {
				t.Errorf("status = %d, want %d", response.StatusCode, tc.status)
			}
		})
	}
}

func TestCreateWithoutABodyTakesTheDefaults(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	response := send(t, http.MethodPost, sim.URL+"/v1/projects", "", http.Header{"Authorization": {"Bearer " + prismasimtest.ServiceToken}})
	if response.StatusCode != http.StatusCreated {
		t.Fatalf("status = %d", response.StatusCode)
	}
	body := api(t, sim, http.MethodGet, "/v1/databases", prismasimtest.ServiceToken, nil, http.StatusOK)
	if text(t, body, "data.0.region.id") != "us-east-1" || dig(t, body, "data.0.isDefault") != true || dig(t, body, "data.0.branchId") != nil {
		t.Errorf("database: %s", body)
	}
}

func TestUpdateAndRegions(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	token := prismasimtest.ServiceToken
	body := api(t, sim, http.MethodPost, "/v1/workspaces/partner/projects", token, map[string]any{"name": "shop", "region": "eu-west-3"}, http.StatusCreated)
	project := text(t, body, "data.id")
	if text(t, body, "data.defaultRegion") != "eu-west-3" || text(t, body, "data.database.region.id") != "eu-west-3" {
		t.Errorf("regions: %s, %s", text(t, body, "data.defaultRegion"), text(t, body, "data.database.region.id"))
	}
	body = api(t, sim, http.MethodPatch, "/v1/projects/"+project, token, map[string]any{"name": "new name", "settings": map[string]any{"a": 1}}, http.StatusOK)
	if text(t, body, "data.name") != "new name" {
		t.Error("the name did not change")
	}
	body = api(t, sim, http.MethodPost, "/v1/databases", token, map[string]any{"projectId": project, "region": "inherit", "isDefault": true}, http.StatusCreated)
	if text(t, body, "data.region.id") != "eu-west-3" {
		t.Errorf("inherited region = %s", text(t, body, "data.region.id"))
	}
	second := text(t, body, "data.id")
	list := api(t, sim, http.MethodGet, "/v1/projects/"+project+"/databases", token, nil, http.StatusOK)
	if dig(t, list, "data.0.isDefault") != false || dig(t, list, "data.1.isDefault") != true {
		t.Error("a project has not exactly its newest default database")
	}
	body = api(t, sim, http.MethodPatch, "/v1/databases/"+second, token, map[string]any{"name": "renamed", "logicalId": "l"}, http.StatusOK)
	if text(t, body, "data.name") != "renamed" || text(t, body, "data.logicalId") != "l" {
		t.Errorf("database: %s", body)
	}
	for path, want := range map[string]int{
		"/v1/regions": 12, "/v1/regions?product=postgres": 6, "/v1/regions/postgres": 6, "/v1/regions/accelerate": 6,
	} {
		if body := api(t, sim, http.MethodGet, path, token, nil, http.StatusOK); count(t, body, "data") != want {
			t.Errorf("%s lists %d", path, count(t, body, "data"))
		}
	}
}
