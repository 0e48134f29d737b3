package app_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const createCall = "POST /v1/connections/cnx_1/databases"

func TestCreateDatabase(t *testing.T) {
	t.Parallel()

	p := newPartner(t)
	b := p.signedIn("ada")
	page := b.get("/connections/cnx_1")
	page.says(http.StatusOK, "shop", "orders", "Europe (Paris) (eu-west-3)")
	for _, hook := range []string{"input[name=name]", "select[name=region]", "button"} {
		if page.Find("form#create-database "+hook).Length() != 1 {
			t.Errorf("form#create-database lacks %s", hook)
		}
	}
	operation, _ := page.Find("form#create-database input[name=operation]").Attr("value")
	if len(operation) < 20 {
		t.Errorf("operation = %q, want a random word", operation)
	}

	fields := []string{"name", " bookings ", "region", "eu-west-3", "operation", operation}
	made := b.post("/connections/cnx_1/databases", fields...)
	made.says(http.StatusCreated, "bookings is ready", "Copy this now")
	if got := made.Find("code#connection-string").Text(); got != connectionString {
		t.Errorf("connection string = %q, want %q", got, connectionString)
	}
	if got, want := made.Find("code#psql").Text(), `psql "`+connectionString+`"`; got != want {
		t.Errorf("psql line = %q, want %q", got, want)
	}
	if got := made.header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("Cache-Control = %q, want no-store", got)
	}

	b.post("/connections/cnx_1/databases", fields...) // a double click
	fields[5] = "another"
	b.post("/connections/cnx_1/databases", fields...)
	calls := p.api.calls(createCall)
	if diff := cmp.Diff(map[string]any{"name": "bookings", "region": "eu-west-3"}, calls[0].Body); diff != "" {
		t.Errorf("create (-want +got):\n%s", diff)
	}
	if calls[0].IdempotencyKey == "" || calls[0].IdempotencyKey != calls[1].IdempotencyKey {
		t.Errorf("a double click sends the keys %q and %q, want the same", calls[0].IdempotencyKey, calls[1].IdempotencyKey)
	}
	if calls[2].IdempotencyKey == calls[0].IdempotencyKey {
		t.Error("another wish has the same key")
	}
	if strings.Contains(p.log.String(), "p%27ss") {
		t.Error("the log has the password")
	}
}

func TestCreateDatabaseRefused(t *testing.T) {
	t.Parallel()

	invalid := problem(http.StatusUnprocessableEntity, "invalid-value", "The name can't be used.")
	invalid.problem["errors"] = []any{map[string]any{"pointer": "/name", "detail": "Use letters."}}
	tests := map[string]struct {
		answer answer
		status int
		texts  []string
		form   bool // the form is shown again, with what was typed
		keeps  bool // and asks for the same wish
	}{
		"invalid": {
			answer: invalid, status: 422, texts: []string{"The name can't be used.", "name: Use letters.", "req_test"}, form: true,
		},
		"running": {
			answer: problem(409, "operation-in-progress", "Still being made."), status: 409,
			texts: []string{"Still being made.", "Ask again"}, form: true, keeps: true,
		},
		"outcome unknown": {
			answer: problem(502, "prisma-unavailable", "Prisma failed."), status: 502,
			texts: []string{"Prisma failed.", "Ask again"}, form: true, keeps: true,
		},
		"quota":     {answer: problem(429, "quota-exceeded", "Ten databases at most."), status: 429, texts: []string{"Ten databases at most."}},
		"reconnect": {answer: problem(409, "reconnect-required", "Reconnect first."), status: 409, texts: []string{"Reconnect first."}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPartner(t)
			p.api.routes["POST /v1/connections/{connection}/databases"] = func(*http.Request, map[string]any) answer {
				return tc.answer
			}
			page := p.signedIn("ada").post(
				"/connections/cnx_1/databases", "name", "book\"ings", "region", "eu-west-3", "operation", "wish-1")
			page.says(tc.status, tc.texts...)
			form := page.Find("form#create-database")
			if (form.Length() == 1) != tc.form {
				t.Fatalf("%d forms, want one: %v", form.Length(), tc.form)
			}
			if !tc.form {
				return
			}
			if got, _ := form.Find("input[name=name]").Attr("value"); got != `book"ings` {
				t.Errorf("name = %q, want what was typed", got)
			}
			if got, _ := form.Find("option[selected]").Attr("value"); got != "eu-west-3" {
				t.Errorf("region = %q, want what was chosen", got)
			}
			if got, _ := form.Find("input[name=operation]").Attr("value"); (got == "wish-1") != tc.keeps {
				t.Errorf("operation = %q; kept should be %v", got, tc.keeps)
			}
		})
	}
}

func TestDeleteDatabase(t *testing.T) {
	t.Parallel()

	t.Run("deleted", func(t *testing.T) {
		t.Parallel()
		p := newPartner(t)
		p.signedIn("ada").post("/connections/cnx_1/databases/db_1/delete").redirects("/connections/cnx_1")
		if n := len(p.api.calls("DELETE /v1/connections/cnx_1/databases/db_1")); n != 1 {
			t.Errorf("%d DELETE calls, want 1", n)
		}
	})
	t.Run("a default database stays, in words", func(t *testing.T) {
		t.Parallel()
		p := newPartner(t)
		p.api.routes["DELETE /v1/connections/{connection}/databases/{database}"] = func(*http.Request, map[string]any) answer {
			return problem(http.StatusConflict, "default-database", "It is the default of project proj_1.")
		}
		page := p.signedIn("ada").post("/connections/cnx_1/databases/db_1/delete")
		page.says(http.StatusConflict, "its project's default database", "It is the default of project proj_1.",
			"only together with the project", "req_test")
		if page.Find(`a[href="/connections/cnx_1"]`).Length() != 1 {
			t.Error("no way back to the workspace")
		}
	})
}

func TestNewConnectionString(t *testing.T) {
	t.Parallel()

	p := newPartner(t)
	page := p.signedIn("ada").post(
		"/connections/cnx_1/databases/db_1/credentials", "operation", "wish-1", "name", "orders")
	page.says(http.StatusCreated, "A new connection string for orders")
	if got := page.Find("#connection-string").Text(); got != connectionString {
		t.Errorf("connection string = %q, want %q", got, connectionString)
	}
	call := p.api.calls("POST /v1/connections/cnx_1/databases/db_1/credentials")[0]
	if name, _ := call.Body["name"].(string); name == "" || call.IdempotencyKey == "" {
		t.Errorf("call = %+v, want a name and an idempotency key", call)
	}
}

// TestForeignConnection: the API key may act on the connections of every user, so
// that this app is what keeps them apart.
func TestForeignConnection(t *testing.T) {
	t.Parallel()

	p := newPartner(t) // cnx_1 is Ada's
	b := p.signedIn("grace")
	b.get("/connections/cnx_1").says(http.StatusNotFound, "Not found")
	for _, path := range []string{
		"/connections/cnx_1/disconnect", "/connections/cnx_1/databases",
		"/connections/cnx_1/databases/db_1/delete", "/connections/cnx_1/databases/db_1/credentials",
	} {
		b.post(path).says(http.StatusNotFound, "Not found")
	}
	b.post("/connect", "connection", "cnx_1").says(http.StatusNotFound, "Not found")
	for _, call := range p.api.seen {
		if call.Route != "GET /v1/connections/cnx_1" {
			t.Errorf("call %s for a stranger", call.Route)
		}
	}
}

func TestBrokenConnectionAsksPrismaNothing(t *testing.T) {
	t.Parallel()

	p := newPartner(t)
	p.api.routes["GET /v1/connections/{connection}"] = func(*http.Request, map[string]any) answer {
		broken := connection("cnx_1", "ada", "Analytical Engines", "needs_reconnect")
		broken["diagnosis"] = map[string]any{"message": "Prisma revoked the access."}
		return ok(broken)
	}
	page := p.signedIn("ada").get("/connections/cnx_1")
	page.says(http.StatusOK, "Reconnect needed", "Prisma revoked the access.")
	if page.Find("form#create-database").Length() != 0 {
		t.Error("a broken connection offers to create databases")
	}
	if n := len(p.api.calls("GET /v1/connections/cnx_1/projects")); n != 0 {
		t.Errorf("%d calls for projects, want 0", n)
	}
}
