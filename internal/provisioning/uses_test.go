package provisioning_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/provisioning/passthrough"
	"github.com/connect-prisma/server/internal/tenants"
)

// doubled is a double at Prisma and what came with it.
type doubled struct {
	*world

	path                           string
	project, database, credentials string // ids; "" for what it has not
}

// openDoubled makes a double of a kind.
func openDoubled(t *testing.T, kind string) *doubled {
	t.Helper()
	d := &doubled{world: open(t)}
	d.path = d.beginMixed(t, kind).double
	id := d.path[strings.LastIndexByte(d.path, '/')+1:]
	get := func(path, at string) string {
		t.Helper()
		status, body := d.sim.Do(t, http.MethodGet, path, d.tokens.Access, nil)
		if status != http.StatusOK {
			t.Fatalf("GET %s = %d", path, status)
		}
		return field(t, body, at)
	}
	switch kind {
	case "project":
		d.project = id
	case "database":
		d.project, d.database = id, get("/v1/projects/"+id+"/databases", "id")
	case "database in a project":
		d.database = id
	case "credentials":
		d.credentials, d.database = id, get("/v1/connections/"+id, "database.id")
	}
	if d.database != "" && d.credentials == "" {
		d.credentials = get("/v1/databases/"+d.database+"/connections", "id")
	}
	return d
}

// pass sends a request through the pass-through.
func (w *world) pass(t *testing.T, method, path, body string) error {
	t.Helper()
	status, err := w.passTo(t, w.store, method, path, body)
	if err == nil && status >= 300 {
		t.Errorf("%s %s = %d", method, path, status)
	}
	return err
}

// passTo sends a request through a pass-through with a store of its own, and returns the
// status of an answer that was passed on.
func (w *world) passTo(t *testing.T, store passthrough.Store, method, path, body string) (int, error) {
	t.Helper()
	proxy, err := passthrough.New(passthrough.Config{Store: store, Caller: w.caller})
	check(t, err)
	r := httptest.NewRequestWithContext(t.Context(), method, "/x", strings.NewReader(body))
	if body == "" {
		r = httptest.NewRequestWithContext(t.Context(), method, "/x", nil)
	}
	r.Header.Set("Content-Type", "application/json")
	answer := httptest.NewRecorder()
	err = proxy.Serve(answer, r, passthrough.Request{By: tenants.System(), Tenant: w.tenant, Connection: w.connection, Path: path})
	return answer.Code, err
}

// plain is an id as Prisma takes it too.
func plain(id string) string { return tenants.PlainID(id) }

// Whatever somebody has begun with a double, through whichever door, it is not deleted.
func TestTouchedDoublesStay(t *testing.T) {
	t.Parallel()
	by := tenants.System()
	for name, tc := range map[string]struct {
		kind string
		use  func(t *testing.T, d *doubled) error
	}{
		"its credentials are rotated": {"database", func(t *testing.T, d *doubled) error {
			t.Helper()
			return failed(d.RotateCredentials(t.Context(), by, d.tenant, d.connection, d.database, d.credentials, ""))
		}},
		"credentials are rotated, with no clear answer": {"credentials", func(t *testing.T, d *doubled) error {
			t.Helper()
			d.wire.harms(onPost("/rotate", lose, -1))
			defer d.wire.harms(nil)
			wantKind(t, failed(d.RotateCredentials(t.Context(), by, d.tenant, d.connection, d.database, d.credentials, "")), fault.PrismaUnavailable)
			return nil
		}},
		"its name is changed": {"project", func(t *testing.T, d *doubled) error {
			t.Helper()
			return failed(d.UpdateProject(t.Context(), by, d.tenant, d.connection, plain(d.project), "mine"))
		}},
		"its database's name is changed": {"database in a project", func(t *testing.T, d *doubled) error {
			t.Helper()
			return failed(d.UpdateDatabase(t.Context(), by, d.tenant, d.connection, d.database, "mine"))
		}},
		"passed through: its credentials are rotated": {"database", func(t *testing.T, d *doubled) error {
			t.Helper()
			return d.pass(t, http.MethodPost, "/v1/connections/"+plain(d.credentials)+"/rotate", "")
		}},
		"passed through: credentials are rotated": {"credentials", func(t *testing.T, d *doubled) error {
			t.Helper()
			return d.pass(t, http.MethodPost, "/v1/connections/"+d.credentials+"/rotate", "")
		}},
		"passed through: its name is changed": {"database", func(t *testing.T, d *doubled) error {
			t.Helper()
			return d.pass(t, http.MethodPatch, "/v1/projects/"+d.project, `{"name": "mine"}`)
		}},
		"passed through: its database's name is changed": {"database", func(t *testing.T, d *doubled) error {
			t.Helper()
			return d.pass(t, http.MethodPatch, "/v1/databases/"+plain(d.database), `{"name": "mine"}`)
		}},
		"passed through: credentials are made for it and deleted": {"database", func(t *testing.T, d *doubled) error {
			t.Helper()
			check(t, d.pass(t, http.MethodPost, "/v1/connections", `{"name": "mine", "databaseId": "`+plain(d.database)+`"}`))
			status, body := d.sim.Do(t, http.MethodGet, "/v1/databases/"+d.database+"/connections", d.tokens.Access, nil)
			var list struct{ Data []struct{ ID, Name string } }
			if err := json.Unmarshal(body, &list); err != nil || status != http.StatusOK || len(list.Data) != 2 {
				t.Fatalf("the double's credentials = %d %v, %v", status, list, err)
			}
			for _, one := range list.Data {
				if one.Name == "mine" {
					check(t, d.pass(t, http.MethodDelete, "/v1/connections/"+one.ID, ""))
				}
			}
			return nil
		}},
		"made twice by the operation, and nobody's": {"credentials", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := openDoubled(t, tc.kind)
			want := 1 // of what nobody uses
			if tc.use != nil {
				check(t, tc.use(t, d))
				want = 0
			}
			result, err := d.LookForLandings(t.Context())
			check(t, err)
			if result.Removed != want || result.Failed != 0 || d.isThere(t, d.path) != (want == 0) {
				t.Errorf("the look = %+v; the double is there: %t", result, d.isThere(t, d.path))
			}
		})
	}
}
