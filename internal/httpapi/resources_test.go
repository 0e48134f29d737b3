package httpapi_test

import (
	"net/http"
	"testing"

	"github.com/connect-prisma/server/internal/apitest"
)

type shownCredentials struct {
	ID, Name         string
	ConnectionString *string
	SecretExpired    bool
}

type shownDatabase struct {
	ID, Name, Status, ProjectID string
	Credentials                 shownCredentials
}

// workspace is a connection with a database.
func workspace(t *testing.T, w *apitest.World) (base string, database shownDatabase) {
	t.Helper()
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	base = "/v1/connections/" + connection.ID
	answer := w.Call(t, w.Tenant.Key, http.MethodPost, base+"/databases", map[string]string{"name": "shop", "region": "us-east-1"})
	return base, apitest.Data[shownDatabase](t, answer)
}

// Everything in a workspace can be read, renamed and deleted.
func TestWorkspaceResources(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	base, database := workspace(t, w)
	call := func(method, path string, body any, status int) apitest.Answer {
		t.Helper()
		answer := w.Call(t, w.Tenant.Key, method, base+path, body)
		if answer.Status != status {
			t.Fatalf("%s %s = %d %s", method, path, answer.Status, answer.Body)
		}
		return answer
	}
	project := "/projects/" + database.ProjectID
	at := "/databases/" + database.ID
	rename := map[string]string{"name": "store"}
	call(http.MethodPatch, project, rename, http.StatusOK)
	if got := apitest.Data[shownDatabase](t, call(http.MethodGet, project, nil, http.StatusOK)); got.Name != "store" || got.ID != database.ProjectID {
		t.Errorf("project = %+v", got)
	}
	if got := apitest.Data[shownDatabase](t, call(http.MethodPatch, at, rename, http.StatusOK)); got.Name != "store" {
		t.Errorf("database = %+v", got)
	}
	usage := apitest.Data[struct{ Period struct{ Start, End string } }](t,
		call(http.MethodGet, at+"/usage?startDate=2026-01-01T00:00:00Z&endDate=2026-02-01T00:00:00Z", nil, http.StatusOK))
	if usage.Period.Start != "2026-01-01T00:00:00Z" || usage.Period.End != "2026-02-01T00:00:00Z" {
		t.Errorf("usage = %+v", usage)
	}
	apitest.WantProblem(t, call(http.MethodGet, at+"/usage?startDate=yesterday", nil, http.StatusBadRequest), http.StatusBadRequest, "invalid-request")
	if p := apitest.WantProblem(t, call(http.MethodGet, at+"/usage?startDate=2026-02-01T00:00:00Z&endDate=2026-01-01T00:00:00Z", nil,
		http.StatusBadRequest), http.StatusBadRequest, "invalid-request"); len(p.Errors) != 1 || !p.Names("endDate") {
		t.Errorf("a period that ends before it begins points at %v", p.Errors)
	}

	backups := apitest.Data[[]struct{ ID string }](t, call(http.MethodGet, at+"/backups?limit=1", nil, http.StatusOK))
	if len(backups) != 1 {
		t.Fatalf("%d backups", len(backups))
	}
	restored := call(http.MethodPost, at+"/restore", map[string]string{"backupId": backups[0].ID}, http.StatusAccepted)
	if got := apitest.Data[shownDatabase](t, restored); got.Status != "recovering" {
		t.Errorf("restored = %+v", got)
	}
	apitest.WantProblem(t, call(http.MethodPost, at+"/restore", map[string]string{"backupId": "none"}, http.StatusNotFound), http.StatusNotFound, "not-found")
	apitest.WantProblem(t, call(http.MethodDelete, at, nil, http.StatusConflict), http.StatusConflict, "default-database")
	call(http.MethodDelete, project, nil, http.StatusNoContent)
	for _, path := range []string{project, at, at + "/credentials", at + "/backups", at + "/usage"} {
		apitest.WantProblem(t, call(http.MethodGet, path, nil, http.StatusNotFound), http.StatusNotFound, "not-found")
	}
}

// Credentials are made, listed without their string, rotated, and deleted.
func TestCredentialsOfADatabase(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	base, database := workspace(t, w)
	other := apitest.Data[shownDatabase](t, w.Call(t, w.Tenant.Key, http.MethodPost, base+"/databases",
		map[string]string{"name": "other", "region": "us-east-1"}))
	list := base + "/databases/" + database.ID + "/credentials"
	made := apitest.Data[shownCredentials](t, w.Call(t, w.Tenant.Key, http.MethodPost, list, map[string]string{"name": "worker"}))
	shown := apitest.Data[[]shownCredentials](t, w.Call(t, w.Tenant.Key, http.MethodGet, list, nil))
	if len(shown) != 2 || shown[1].ID != made.ID || shown[1].Name != "worker" || shown[1].ConnectionString != nil {
		t.Errorf("list = %+v", shown)
	}
	key := http.Header{"Idempotency-Key": {"rotate-1"}}
	rotate := func(header http.Header) apitest.Answer {
		t.Helper()
		return w.Call(t, w.Tenant.Key, http.MethodPost, list+"/"+made.ID+"/rotate", nil, header)
	}
	first := rotate(key)
	rotated := apitest.Data[shownCredentials](t, first)
	if first.Status != http.StatusOK || rotated.ConnectionString == nil || *rotated.ConnectionString == *made.ConnectionString {
		t.Errorf("rotate = %d", first.Status)
	}
	again := rotate(key)
	if again.Header.Get("Idempotent-Replayed") != "true" || !sameBut(t, first, again) {
		t.Error("the same key rotates again")
	}
	if fresh := apitest.Data[shownCredentials](t, rotate(nil)); *fresh.ConnectionString == *rotated.ConnectionString {
		t.Error("without a key nothing is rotated")
	}
	elsewhere := base + "/databases/" + other.ID + "/credentials/" + made.ID
	apitest.WantProblem(t, w.Call(t, w.Tenant.Key, http.MethodPost, elsewhere+"/rotate", nil), http.StatusNotFound, "not-found")
	apitest.WantProblem(t, w.Call(t, w.Tenant.Key, http.MethodDelete, elsewhere, nil), http.StatusNotFound, "not-found")
	if answer := w.Call(t, w.Tenant.Key, http.MethodDelete, list+"/"+made.ID, nil); answer.Status != http.StatusNoContent {
		t.Errorf("delete = %d", answer.Status)
	}
	apitest.WantProblem(t, w.Call(t, w.Tenant.Key, http.MethodPost, list+"/"+made.ID+"/rotate", nil), http.StatusNotFound, "not-found")
}

// A create of unknown outcome names its operation, and so does the event that tells
// what became of it.
func TestAnUnknownOutcomeNamesItsOperation(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	base, _ := workspace(t, w)
	w.Expect(http.StatusServiceUnavailable)
	w.Faults(t, map[string]any{"apiFailBefore": 1})
	answer := w.Call(t, w.Tenant.Key, http.MethodPost, base+"/projects", map[string]string{"name": "shop", "region": "us-east-1"})
	apitest.WantProblem(t, answer, http.StatusServiceUnavailable, "prisma-unavailable")
	var problem struct{ OperationID string }
	answer.JSON(t, &problem)
	if want := apitest.Query[string](t, w, `SELECT count(*)::text FROM operations WHERE status = 'unknown'`); want != "1" || len(problem.OperationID) != 29 {
		t.Errorf("%s operations are unknown, and %q was named", want, problem.OperationID)
	}
}
