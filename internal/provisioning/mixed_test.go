package provisioning_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/tenants"
)

// begun is an operation that a replica of this version began and one of the version
// before ended, with what it made, and with a double of that at Prisma.
type begun struct {
	real, double string // paths at Prisma
	removed      string // the events that tell of the double's removal
}

// beginMixed makes the thing of a kind and its double, and leaves the operation's row as
// the version before ends it: with its resource, its database and its answer, but with
// nothing in the columns that it does not know; those still have what this version put
// there at the beginning.
func (w *world) beginMixed(t *testing.T, kind string) begun {
	t.Helper()
	ctx, by := t.Context(), tenants.System()
	base := w.database(t, "base")
	w.exec(t, `DELETE FROM operations`)
	w.sim.Control(t, http.MethodPut, "faults", map[string]any{"logicalIdMode": "ignored"}, nil)
	var b begun
	switch kind {
	case "project":
		b.removed = "project.deleted"
		made, err := w.CreateProject(ctx, by, w.tenant, w.connection, provisioning.NewProject{Name: "shop", Region: "us-east-1", IdempotencyKey: "k"})
		check(t, err)
		b.real = "/v1/projects/" + made.Resource.ID
		b.double = w.makeDirectly(t, "/v1/projects", map[string]any{"name": "shop", "createDatabase": false, "logicalId": w.marker(t)})
	case "database":
		b.removed = "database.deleted project.deleted"
		made, err := w.CreateDatabase(ctx, by, w.tenant, w.connection, provisioning.NewDatabase{Name: "shop", Region: "us-east-1", IdempotencyKey: "k"})
		check(t, err)
		b.real = "/v1/projects/" + made.Resource.ProjectID
		b.double = w.makeDirectly(t, "/v1/projects", map[string]any{"name": "shop", "createDatabase": true, "region": "us-east-1", "logicalId": w.marker(t)})
	case "database in a project":
		b.removed = "database.deleted"
		made, err := w.CreateDatabase(ctx, by, w.tenant, w.connection, provisioning.NewDatabase{Name: "shop", ProjectID: base.ProjectID, IdempotencyKey: "k"})
		check(t, err)
		b.real = "/v1/databases/" + made.Resource.ID
		b.double = w.makeDirectly(t, "/v1/databases", map[string]any{"name": "shop", "projectId": base.ProjectID, "logicalId": w.marker(t)})
	case "credentials":
		b.removed = "credentials.deleted"
		made, err := w.CreateCredentials(ctx, by, w.tenant, w.connection, base.ID, provisioning.NewCredentials{Name: "shop", IdempotencyKey: "k"})
		check(t, err)
		b.real = "/v1/connections/" + made.Resource.ID
		b.double = w.makeDirectly(t, "/v1/connections", map[string]any{"name": "shop " + w.marker(t), "databaseId": base.ID})
	}
	w.exec(t, `UPDATE operations SET project_id = NULL, credentials_id = NULL,
		sweep_at = app.now() - interval '1 s', sweep_until = app.now() + interval '20 h'`)
	if kind == "project" {
		w.exec(t, `UPDATE operations SET database_id = NULL`)
	}
	return b
}

// marker is the id of the only operation.
func (w *world) marker(t *testing.T) string {
	t.Helper()
	var id tenants.OperationID
	check(t, id.Scan(w.row(t, "id::text")))
	return id.String()
}

// makeDirectly makes something past the service and returns its path.
func (w *world) makeDirectly(t *testing.T, path string, body any) string {
	t.Helper()
	status, answer := w.sim.Do(t, http.MethodPost, path, w.tokens.Access, body)
	if status != http.StatusCreated {
		t.Fatalf("POST %s = %d", path, status)
	}
	var made struct{ Data struct{ ID string } }
	check(t, json.Unmarshal(answer, &made))
	return path + "/" + made.Data.ID
}

func (w *world) isThere(t *testing.T, path string) bool {
	t.Helper()
	status, _ := w.sim.Do(t, http.MethodGet, path, w.tokens.Access, nil)
	return status == http.StatusOK
}

// During a rolling upgrade a replica of the version before ends what one of this version
// began: the thing that it gave out is never taken for a double, the double goes, and the
// looks come to an end.
func TestEndedByTheVersionBefore(t *testing.T) {
	t.Parallel()
	for _, kind := range kinds() {
		for name, alter := range map[string]string{
			"as it is": `UPDATE operations SET attempt = attempt`,
			// Prisma takes and may give ids without the prefix of their kind.
			"ids without prefixes": `UPDATE operations SET resource_id = substring(resource_id FROM '[^_]*$'),
				database_id = substring(database_id FROM '[^_]*$'),
				answer = regexp_replace(answer::text, '"(proj|db|con)_', '"', 'g')::jsonb`,
		} {
			t.Run(kind+", "+name, func(t *testing.T) {
				t.Parallel()
				w := open(t)
				b := w.beginMixed(t, kind)
				w.exec(t, alter)
				result, err := w.LookForLandings(t.Context())
				check(t, err)
				if want := (provisioning.Landings{Looked: 1, Removed: 1}); result != want {
					t.Errorf("the look = %+v, want %+v", result, want)
				}
				if !w.isThere(t, b.real) || w.isThere(t, b.double) {
					t.Errorf("the real one is there: %t; its double: %t", w.isThere(t, b.real), w.isThere(t, b.double))
				}
				w.wantRemovalTold(t, b)
				w.wantLooksToEnd(t)
			})
		}
	}
}

// wantRemovalTold checks that the removal of a double is told like any other deletion,
// with the operation that had made it.
func (w *world) wantRemovalTold(t *testing.T, b begun) {
	t.Helper()
	w.wantToldOnce(t, deletable{events: b.removed}, w.query(t, `SELECT count(secret_sealed)::text FROM operations`))
	got := w.query(t, `SELECT string_agg(DISTINCT concat(data->>'operationId', ' ', data->>'connectionId'), ',') FROM events WHERE type LIKE '%.deleted'`)
	if want := w.marker(t) + " " + w.connection.String(); got != want {
		t.Errorf("the events tell of %q, want %q", got, want)
	}
}

// Where not even the answer tells what is the operation's own, nothing is deleted.
func TestNothingIsADoubleBesideTheUnknown(t *testing.T) {
	t.Parallel()
	w := open(t)
	b := w.beginMixed(t, "database")
	w.exec(t, `UPDATE operations SET answer = answer - 'projectId' - 'credentials'`)
	result, err := w.LookForLandings(t.Context())
	check(t, err)
	if want := (provisioning.Landings{Looked: 1}); result != want {
		t.Errorf("the look = %+v, want %+v", result, want)
	}
	if !w.isThere(t, b.real) || !w.isThere(t, b.double) {
		t.Error("something was deleted")
	}
	w.wantLooksToEnd(t)
}

// wantLooksToEnd checks that an operation is looked at at growing pauses, and no longer
// after its day.
func (w *world) wantLooksToEnd(t *testing.T) {
	t.Helper()
	const pause = `(sweep_at - app.now() > interval '10 s')::text`
	if got := w.row(t, pause); got != "true" {
		t.Error("the next look comes at once")
	}
	w.exec(t, `UPDATE operations SET sweep_at = app.now() - interval '1 s', sweep_until = app.now() - interval '1 s'`)
	result, err := w.LookForLandings(t.Context())
	check(t, err)
	if result.Looked != 1 || result.Adopted+result.Removed+result.Failed != 0 {
		t.Errorf("the last look = %+v", result)
	}
	if got := w.row(t, `concat(status, ' ', sweep_at IS NULL)`); got != "done t" {
		t.Errorf("after the last look the operation is %q", got)
	}
	if events := w.query(t, fmt.Sprintf(`SELECT count(*)::text FROM events WHERE tenant_id = '%s' AND type LIKE '%%.created'
		AND data->>'operationId' = '%s' GROUP BY type ORDER BY 1 DESC LIMIT 1`, w.tenant.UUID, w.marker(t))); events != "1" {
		t.Errorf("%s events of one type, want 1", events)
	}
}
