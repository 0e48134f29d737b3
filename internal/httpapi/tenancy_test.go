package httpapi_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/tenants"
)

// route is one route of the API as the router has it.
type route struct{ method, path string }

// apiRoutes asks the router: a route that is added later is tested by itself.
func apiRoutes(t *testing.T, w *apitest.World) []route {
	t.Helper()
	var found []route
	for _, r := range w.API.Routes() {
		if strings.HasPrefix(r.Path, "/v1/") && r.Method != echo.RouteNotFound {
			found = append(found, route{r.Method, r.Path})
		}
	}
	if len(found) < 14 {
		t.Fatalf("the router has %d routes only", len(found))
	}
	return found
}

// passesThrough reports whether what is behind the route is Prisma's.
func (r route) passesThrough() bool { return strings.Contains(r.path, "/prisma/") }

// body is a body that the route accepts, nil when it takes none.
func (r route) body() any {
	if r.method == http.MethodPatch && r.path == "/v1/connections/:connectionId" {
		return map[string]any{"metadata": map[string]string{"plan": "pro"}}
	}
	if r.method == http.MethodPatch {
		return map[string]string{"name": "store"}
	}
	if r.method != http.MethodPost {
		return nil
	}
	switch {
	case strings.HasSuffix(r.path, "/keys/rotate"):
		return map[string]string{"name": "next"}
	case strings.HasSuffix(r.path, "/rotate"):
		return nil
	case strings.HasSuffix(r.path, "/restore"):
		return map[string]string{"backupId": "bak_x"}
	case strings.HasSuffix(r.path, "/check"):
		return nil
	case strings.HasSuffix(r.path, "/complete"):
		return map[string]string{"completionCode": "x", "userId": "ada"}
	case strings.HasSuffix(r.path, "/connect-sessions"):
		return map[string]string{"userId": "ada", "returnUrl": apitest.ReturnURL}
	case strings.HasSuffix(r.path, "/credentials"):
		return map[string]string{"name": "worker"}
	default:
		return map[string]string{"name": "shop", "region": "us-east-1"}
	}
}

// fill puts ids in the places of a path; hasID tells whether there were any.
func (r route) fill(ids map[string]string) (path string, hasID bool) {
	parts := strings.Split(r.path, "/")
	for i, part := range parts {
		if name, ok := strings.CutPrefix(part, ":"); ok {
			parts[i], hasID = ids[name], true
		}
		if part == "*" { // Prisma's own path
			parts[i] = map[string]string{
				http.MethodPost: "projects", http.MethodPut: "projects/proj_x/branches/x/application-topology",
			}[r.method]
			if parts[i] == "" {
				parts[i] = "projects/proj_x"
			}
		}
	}
	return strings.Join(parts, "/"), hasID
}

// sameBut compares two answers without their request ids.
func sameBut(t *testing.T, a, b apitest.Answer) bool {
	t.Helper()
	strip := func(answer apitest.Answer) []byte {
		return bytes.ReplaceAll(answer.Body, []byte(answer.Header.Get("X-Request-Id")), []byte("req"))
	}
	return a.Status == b.Status && bytes.Equal(strip(a), strip(b))
}

// changed returns an id of the same form that nothing has.
func changed(id string) string {
	last := byte('a')
	if id[len(id)-5] == last {
		last = 'b'
	}
	return id[:len(id)-5] + string(last) + id[len(id)-4:]
}

func TestATenantNeverSeesAnothers(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	owner, stranger := w.Tenant, w.NewTenant(t, "Stranger", nil)
	session, code := w.Return(t, owner, "ada", workspaceA, nil)
	connection := apitest.Data[apitest.Connection](t, w.Complete(t, owner.Key, session, code, "ada"))
	database := apitest.Data[struct {
		ID, ProjectID string
		Credentials   struct{ ID string }
	}](t, w.Call(t, owner.Key, http.MethodPost,
		"/v1/connections/"+connection.ID+"/databases", map[string]string{"name": "shop", "region": "us-east-1"}))

	foreign := map[string]string{
		"sessionId": session, "connectionId": connection.ID, "databaseId": database.ID,
		"projectId": database.ProjectID, "credentialsId": database.Credentials.ID,
	}
	unknown := map[string]string{
		"sessionId": changed(session), "connectionId": changed(connection.ID), "databaseId": "db_unknown",
		"projectId": "proj_unknown", "credentialsId": "con_unknown",
	}
	malformed := map[string]string{
		"sessionId": "cs_1' OR 1=1", "connectionId": "cnx_x", "databaseId": "..x",
		"projectId": "..x", "credentialsId": "..x",
	}
	requests := w.Sim.Ledger(t).Counters.APIRequests
	tried := 0
	for _, r := range apiRoutes(t, w) {
		var answers []apitest.Answer
		for _, ids := range []map[string]string{foreign, unknown, malformed} {
			path, hasID := r.fill(ids)
			if !hasID {
				break
			}
			tried++
			path = strings.NewReplacer("'", "%27", " ", "%20").Replace(path)
			answers = append(answers, w.Call(t, stranger.Key, r.method, path, r.body()))
		}
		for i, answer := range answers {
			if answer.Status != http.StatusNotFound || !sameBut(t, answer, answers[0]) {
				t.Errorf("%s %s, id %d: %d %s", r.method, r.path, i, answer.Status, answer.Body)
			}
		}
	}
	if n := w.Sim.Ledger(t).Counters.APIRequests; n != requests {
		t.Errorf("%d requests were sent to Prisma", n-requests)
	}
	lists := 0
	for _, filter := range []string{"", "?userId=ada", "?workspaceId=" + workspaceA, "?status=active", "?limit=1"} {
		lists++
		answer := w.Call(t, stranger.Key, http.MethodGet, "/v1/connections"+filter, nil)
		if list := apitest.Data[[]apitest.Connection](t, answer); len(list) != 0 {
			t.Errorf("the list %s shows %d connections of another tenant", filter, len(list))
		}
	}
	t.Logf("%d foreign, unknown and malformed ids over all routes: all 404 alike; %d lists empty", tried, lists)
	// And nothing of it touched what it aimed at.
	if got := w.Call(t, owner.Key, http.MethodGet, "/v1/connections/"+connection.ID+"/databases/"+database.ID, nil).Status; got != http.StatusOK {
		t.Errorf("the owner's database: %d", got)
	}
}

func TestEachRouteWantsItsScope(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	ids := map[string]string{"sessionId": "cs_x", "connectionId": connection.ID, "databaseId": "db_x", "projectId": "proj_x", "credentialsId": "con_x"}
	keys := map[tenants.Scope]string{}
	for _, scope := range tenants.AllScopes() {
		keys[scope] = w.NewKey(t, w.Tenant.ID, scope)
	}
	refused := 0
	for _, r := range apiRoutes(t, w) {
		path, _ := r.fill(ids)
		var let []tenants.Scope
		for _, scope := range tenants.AllScopes() {
			answer := w.Call(t, keys[scope], r.method, path, r.body())
			if answer.Status == http.StatusForbidden {
				apitest.WantProblem(t, answer, http.StatusForbidden, "forbidden-scope")
				refused++
				continue
			}
			let = append(let, scope)
		}
		want := []tenants.Scope{tenants.ScopeRead}
		switch {
		case r.path == "/v1/tenant" || r.path == "/v1/keys/rotate":
			want = tenants.AllScopes()
		case r.passesThrough():
			want = []tenants.Scope{tenants.ScopePassthrough}
		case strings.Contains(r.path, "connect-sessions"):
			want = []tenants.Scope{tenants.ScopeConnect}
		case r.method != http.MethodGet && !strings.HasSuffix(r.path, "/check"):
			want = []tenants.Scope{tenants.ScopeWrite}
		}
		if !slices.Equal(let, want) {
			t.Errorf("%s %s lets in %v, want %v", r.method, r.path, let, want)
		}
		if r.method == http.MethodDelete && r.path == "/v1/connections/:connectionId" { // the write key ended it
			ids["connectionId"] = w.Connect(t, w.Tenant, "ada", workspaceA).ID
		}
	}
	t.Logf("%d calls with a key of another scope refused", refused)
}

func TestUnknownParametersAndFieldsAreRefused(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	ids := map[string]string{"sessionId": changed(connection.ID), "connectionId": connection.ID, "databaseId": "db_x", "projectId": "proj_x", "credentialsId": "con_x"}
	ids["sessionId"] = w.CreateSession(t, w.Tenant, "ada", nil).ID
	parameters, fields := 0, 0
	for _, r := range apiRoutes(t, w) {
		path, _ := r.fill(ids)
		for _, query := range []string{"?marker-of-the-input=1", "?UserId=ada", "?limit=1&limit=1", "?cursor=%ff", "?%zz", "?tenant=" + w.Tenant.ID.String()} {
			parameters++
			answer := w.Call(t, w.Tenant.Key, r.method, path+query, r.body())
			p := apitest.WantProblem(t, answer, http.StatusBadRequest, "invalid-request")
			if bytes.Contains(answer.Body, []byte("marker-of-the-input")) {
				t.Errorf("%s %s echoes the parameter: %s", r.method, r.path, p.Detail)
			}
		}
		if r.body() == nil || r.passesThrough() { // there the fields are Prisma's to judge
			continue
		}
		text, err := json.Marshal(r.body())
		if err != nil {
			t.Fatal(err)
		}
		for _, field := range []string{"tenantId", "status", "id", "Generation", "NAME", "UserId", "a.b", "a-b", "a/b", "<i>x</i>"} {
			fields++
			answer := w.Call(t, w.Tenant.Key, r.method, path, string(text[:len(text)-1])+`,"`+field+`":"`+marker+`"}`)
			p := apitest.WantProblem(t, answer, http.StatusBadRequest, "invalid-request")
			plain := !strings.ContainsAny(field, "/<")
			if p.Names("/"+field) != plain || bytes.Contains(answer.Body, []byte(marker)) || bytes.Contains(answer.Body, []byte("<i>")) {
				t.Errorf("%s %s, field %s: %s", r.method, r.path, field, answer.Body)
			}
		}
	}
	t.Logf("%d unknown parameters and %d unknown fields refused", parameters, fields)
}
