package httpapi_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/tenants"
)

// A partner's own pair is taken over without Prisma's hearing of it, and serves from then
// on like one that was connected here.
func TestImportedConnection(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	pair := w.Sim.Connect(t, workspaceA)
	w.Secret("access token", pair.Access)
	w.Secret("refresh token", pair.Refresh)
	before := w.Sim.Ledger(t).Counters
	line := tenants.ImportLine{
		Number: 1, Tenant: w.Tenant.ID, UserID: "ada", WorkspaceID: workspaceA, Access: pair.Access, Refresh: pair.Refresh,
		ExpiresAt: w.Now().Add(time.Hour),
	}
	for range 2 {
		done, err := w.Store.Import(t.Context(), tenants.Actor{Type: tenants.ActorCommand}, []tenants.ImportLine{line})
		if err != nil || done[0].Refused != "" {
			t.Fatalf("import: %+v, %v", done, err)
		}
		line.Number++
	}
	if after := w.Sim.Ledger(t).Counters; after != before {
		t.Errorf("importing made requests to Prisma: %+v, then %+v", before, after)
	}
	list := apitest.Query[string](t, w, `SELECT id::text FROM connections`)
	done, err := w.Store.Import(t.Context(), tenants.System(), []tenants.ImportLine{line})
	if err != nil {
		t.Fatal(err)
	}
	id := done[0].Connection
	if id.UUID.String() != list {
		t.Errorf("the connection is %s and %s", id.UUID, list)
	}
	if n := apitest.Query[int](t, w, namings); n != 0 {
		t.Errorf("%d jobs would use the tokens before anybody else does", n)
	}
	if got := w.Check(t, w.Tenant, id.String()); got.Status != "active" {
		t.Errorf("checked, it is %s", got.Status)
	}
	if answer := call(t, w, id.String()); answer.Status != http.StatusOK {
		t.Errorf("a call: %d", answer.Status)
	}
	w.Advance(t, 61*time.Minute)
	if answer := call(t, w, id.String()); answer.Status != http.StatusOK {
		t.Errorf("a call after the access token's end: %d", answer.Status)
	}
	named(t, w, id)
	if after := w.Sim.Ledger(t).Counters; after.Refreshes != before.Refreshes+1 || after.Replays != 0 {
		t.Errorf("counters %+v, want one refresh more than %+v", after, before)
	}
}

// namings counts the jobs that ask for the name of a workspace.
const namings = `SELECT count(*)::int FROM river.river_job WHERE kind = 'name_workspace'`

// named fails the test unless the connection's first use has its workspace's name asked
// for, once, without an event or audit row of its own.
func named(t *testing.T, w *apitest.World, id tenants.ConnectionID) {
	t.Helper()
	if err := w.Store.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := apitest.Query[int](t, w, namings); n != 1 {
		t.Fatalf("%d jobs ask for the workspace's name after its first uses, want 1", n)
	}
	const told = `SELECT (SELECT count(*) FROM events)::int * 1000 + (SELECT count(*) FROM audit_log)::int`
	before, asked := apitest.Query[int](t, w, told), w.Sim.Ledger(t).Counters.APIRequests
	for range 2 { // the job, and a repetition
		if err := w.Flow.NameWorkspace(t.Context(), w.Tenant.ID, id); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.Sim.Ledger(t).Counters.APIRequests - asked; n != 1 {
		t.Errorf("%d requests to Prisma, want 1", n)
	}
	if after := apitest.Query[int](t, w, told); after != before {
		t.Errorf("events and audit rows: %d, then %d", before, after)
	}
	if got := w.GetConnection(t, w.Tenant, id.String()); got.Workspace.Name == "" || got.Workspace.Name == got.Workspace.ID {
		t.Errorf("the workspace is called %q", got.Workspace.Name)
	}
}
