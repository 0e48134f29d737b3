package provisioning_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/tenants"
)

// A double that Prisma does not delete keeps none of the others, and is tried again.
func TestADoubleThatStaysKeepsNoOther(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.sim.Control(t, http.MethodPut, "faults", map[string]any{"logicalIdMode": "ignored"}, nil)
	w.wire.harms(onPost("", lose, 1))
	check(t, w.project(t, "shop", "us-east-1", "")())
	status, body := w.sim.Do(t, http.MethodGet, "/v1/projects", w.tokens.Access, nil)
	if status != http.StatusOK {
		t.Fatalf("GET /v1/projects = %d", status)
	}
	var doubles []string
	for range 3 {
		status, body := w.sim.Do(t, http.MethodPost, "/v1/projects", w.tokens.Access, map[string]string{"name": "double", "logicalId": field(t, body, "logicalId")})
		if status != http.StatusCreated {
			t.Fatalf("POST /v1/projects = %d", status)
		}
		doubles = append(doubles, bareID(field(t, body, "id")))
	}
	w.wire.harms(func(r *http.Request) harm {
		if r.Method == http.MethodDelete && strings.HasSuffix(r.URL.Path, doubles[0]) {
			return reject
		}
		return none
	})
	w.advance(t, time.Minute)
	if result, err := w.LookForLandings(t.Context()); err != nil || result.Removed != 2 || result.Failed != 1 {
		t.Errorf("the look: %+v, %v; want 2 removed and 1 failed", result, err)
	}
	w.wire.harms(nil)
	w.advance(t, 10*time.Minute)
	if result, err := w.LookForLandings(t.Context()); err != nil || result.Removed != 1 {
		t.Errorf("the next look: %+v, %v; want the last one removed", result, err)
	}
	if n := w.count(t, "/v1/projects"); n != 1 {
		t.Errorf("%d projects are left, want 1", n)
	}
}

// bareID is an id without the prefix of its kind.
func bareID(id string) string { return id[strings.LastIndexByte(id, '_')+1:] }

// Credentials of the longest name have their marker, at Prisma no name is longer than one may
// be, and they are found by it.
func TestLongNamesOfCredentials(t *testing.T) {
	t.Parallel()
	w := open(t)
	database := w.database(t, "shop").ID
	w.wire.harms(onPost("/connections", lose, 1))
	name := strings.Repeat("é", 255)
	made, err := w.CreateCredentials(t.Context(), tenants.System(), w.tenant, w.connection, database, provisioning.NewCredentials{Name: name})
	check(t, err)
	if !opens(t, made.Resource.ConnectionString) || len(made.Resource.Name) < 2*200 || !strings.HasPrefix(name, made.Resource.Name) {
		t.Errorf("made with a name of %d bytes", len(made.Resource.Name))
	}
	status, body := w.sim.Do(t, http.MethodGet, "/v1/connections/"+made.Resource.ID, w.tokens.Access, nil)
	if status != http.StatusOK {
		t.Fatalf("GET /v1/connections/{id} = %d", status)
	}
	if n := len([]rune(field(t, body, "name"))); n > 255 {
		t.Errorf("at Prisma its name has %d characters", n)
	}
}
