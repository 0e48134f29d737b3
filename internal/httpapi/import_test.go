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
	if after := w.Sim.Ledger(t).Counters; after.Refreshes != before.Refreshes+1 || after.Replays != 0 {
		t.Errorf("counters %+v, want one refresh more than %+v", after, before)
	}
}
