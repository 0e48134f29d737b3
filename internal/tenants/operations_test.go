package tenants_test

import (
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// operations is a store with one tenant and one of its connections.
type operations struct {
	*tenants.Store

	db         *pgtest.Database
	tenant     tenants.TenantID
	connection tenants.ConnectionID
}

func openOperations(t *testing.T) operations {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	text, err := sealing.Generate()
	must(err)
	keyset, err := sealing.Parse(text, "test")
	must(err)
	o := operations{db: pgtest.Open(t)}
	o.Store, err = tenants.NewStore(tenants.Config{Pool: o.db.Pool, Keyset: keyset})
	must(err)
	ctx, by := t.Context(), tenants.System()
	tenant, err := o.CreateTenant(ctx, by, tenants.TenantInput{
		Name: "Acme", Completion: tenants.CompletionAutomatic, Client: tenants.OAuthClient{ID: "client"},
	})
	must(err)
	o.tenant = tenant.ID
	x, _, err := o.CreateSession(ctx, by, o.tenant, tenants.NewSession{UserID: "user"})
	must(err)
	must(o.StartSession(ctx, by, x, tenants.Start{State: "s", ClientID: "client", RedirectURI: "https://connect.example/cb"}))
	_, err = o.ReturnSession(ctx, by, x, tenants.Return{State: "s", Code: "c", Verifier: "v"})
	must(err)
	connection, err := o.FinishSession(ctx, by, x, "client", prisma.Tokens{WorkspaceID: "wksp_1", Access: "a", Refresh: "r"})
	must(err)
	o.connection = connection.ID
	return o
}

func (o operations) begin(t *testing.T, lease time.Duration) (tenants.Operation, error) {
	t.Helper()
	return o.BeginOperation(t.Context(), o.tenant, tenants.NewOperation{
		Connection: o.connection, Kind: tenants.OperationCreateDatabase, Key: "k", Lease: lease,
	})
}

// Without a key nothing is kept for replays, but whoever has to store an end twice, because
// the answer of the first time was lost, still has the string for its client.
func TestOperationEndWithoutAKeyIsRepeated(t *testing.T) {
	t.Parallel()
	o := openOperations(t)
	ctx, by := t.Context(), tenants.System()
	op, err := o.BeginOperation(ctx, o.tenant, tenants.NewOperation{
		Connection: o.connection, Kind: tenants.OperationCreateDatabase, Lease: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	made := tenants.Made{
		ResourceID: "db_1", Answer: []byte(`{"id":"db_1"}`), Secret: "postgres://one", DatabaseID: "db_1", ProjectID: "proj_1",
	}
	for _, time := range []string{"first", "second"} {
		done, err := o.FinishOperation(ctx, by, op, made)
		if err != nil || done.Secret != made.Secret || done.SecretExpired {
			t.Errorf("the %s time: the string is there: %t, expired: %t, %v", time, done.Secret != "", done.SecretExpired, err)
		}
	}
	made.ResourceID = "db_2"
	if done, err := o.FinishOperation(ctx, by, op, made); err != nil || done.Secret != "" || !done.SecretExpired {
		t.Errorf("another resource's string was kept: %t, expired: %t, %v", done.Secret != "", done.SecretExpired, err)
	}
}

// Only the holder of the newest lease may write; the first answer stays.
func TestOperationFence(t *testing.T) {
	t.Parallel()
	o := openOperations(t)
	ctx, by := t.Context(), tenants.System()
	old, err := o.begin(t, 0) // its lease is over at once
	if err != nil || old.Attempt != 1 || old.Previous != "" {
		t.Fatalf("BeginOperation() = %+v, %v", old, err)
	}
	held, err := o.begin(t, time.Minute)
	if err != nil || held.ID != old.ID || held.Attempt != 2 || held.Previous != tenants.OperationRunning {
		t.Fatalf("BeginOperation() again = %+v, %v", held, err)
	}
	made := tenants.Made{
		ResourceID: "db_1", Answer: []byte(`{"id":"db_1"}`), Secret: "postgres://one", DatabaseID: "db_1", ProjectID: "proj_1",
	}
	_, begun := o.begin(t, time.Minute)
	_, finished := o.FinishOperation(ctx, by, old, made)
	for name, err := range map[string]error{
		"BeginOperation":  begun,
		"FinishOperation": finished,
		"RenewOperation":  o.RenewOperation(ctx, old, time.Minute),
		"EndOperation":    o.EndOperation(ctx, old, tenants.OperationEnd{As: tenants.OperationFailed}),
	} {
		if fault.KindOf(err) != fault.OperationInProgress {
			t.Errorf("%s with a lease that was lost: %v, want operation-in-progress", name, err)
		}
	}
	if err := o.RenewOperation(ctx, held, time.Minute); err != nil {
		t.Errorf("RenewOperation() = %v", err)
	}
	if _, err := o.FinishOperation(ctx, by, held, made); err != nil {
		t.Fatalf("FinishOperation() = %v", err)
	}
	made.Secret = "postgres://two"
	for name, op := range map[string]tenants.Operation{"repeated": held, "late": old} {
		done, err := o.FinishOperation(ctx, by, op, made)
		if err != nil || !done.Done || done.Secret != "postgres://one" {
			t.Errorf("%s FinishOperation() = %t %v, want the first answer", name, done.Done, err)
		}
	}
	if err := o.EndOperation(ctx, held, tenants.OperationEnd{As: tenants.OperationUnknown}); fault.KindOf(err) != fault.OperationInProgress {
		t.Errorf("EndOperation() of one that is done = %v", err)
	}
}

// A clock that is set back makes nobody wait for as long: not for an operation whose holder
// is dead, not for a look, and no connection string is kept for longer.
func TestOperationsAfterTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	o := openOperations(t)
	ctx, by := t.Context(), tenants.System()
	const lease = 30 * time.Second
	dead, err := o.begin(t, lease)
	if err != nil {
		t.Fatal(err)
	}
	ended, err := o.BeginOperation(ctx, o.tenant, tenants.NewOperation{
		Connection: o.connection, Kind: tenants.OperationCreateDatabase, Key: "ended", Lease: lease,
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.FinishOperation(ctx, by, ended, tenants.Made{
		ResourceID: "db_1", Answer: []byte(`{"id":"db_1"}`), Secret: "postgres://one", DatabaseID: "db_1", ProjectID: "proj_1", MayLand: true,
	}); err != nil {
		t.Fatal(err)
	}
	shorten := func() {
		t.Helper()
		if err := o.ShortenWaits(ctx, lease); err != nil {
			t.Fatal(err)
		}
	}
	due := func() map[tenants.OperationID]bool {
		t.Helper()
		list, err := o.LandingsToLookFor(ctx)
		if err != nil {
			t.Fatal(err)
		}
		found := map[tenants.OperationID]bool{}
		for _, l := range list {
			found[l.Operation] = true
		}
		return found
	}
	kept := func() bool {
		t.Helper()
		again, err := o.BeginOperation(ctx, o.tenant, tenants.NewOperation{
			Connection: o.connection, Kind: tenants.OperationCreateDatabase, Key: "ended", Lease: lease,
		})
		if err != nil {
			t.Fatal(err)
		}
		return again.Secret != ""
	}

	o.db.Advance(t, 10*time.Second)
	shorten() // changes nothing while the clock is right
	o.db.Advance(t, lease-5*time.Second)
	if _, err := o.begin(t, lease); err != nil {
		t.Errorf("a lease that had ended was made longer: %v", err)
	}

	if _, err := o.BeginDeletion(ctx, tenants.ResourceChange{Tenant: o.tenant, Connection: o.connection, DatabaseID: "db_2"}); err != nil {
		t.Fatal(err)
	}
	o.db.Advance(t, -2*time.Hour)
	shorten()
	if _, err := o.begin(t, lease); fault.KindOf(err) != fault.OperationInProgress {
		t.Errorf("its holder may live, but %v", err)
	}
	o.db.Advance(t, lease+time.Second)
	if !due()[dead.ID] {
		t.Error("nobody looks for what a dead holder may have made")
	}
	if _, err := o.begin(t, lease); err != nil {
		t.Errorf("the operation of a dead holder can't be taken over: %v", err)
	}
	if !due()[ended.ID] {
		t.Error("no look is due for what may have landed twice")
	}
	if deletions, err := o.DeletionsInDoubt(ctx); err != nil || len(deletions) != 1 {
		t.Errorf("%d looks are due for deletions, want 1; %v", len(deletions), err)
	}
	if !kept() {
		t.Error("its answer is not kept for an hour")
	}
	o.db.Advance(t, time.Hour)
	if kept() {
		t.Error("its answer is kept for longer")
	}
}

// What an attempt leaves behind that dies in the last hour of looking is looked for as long
// as what the first one left.
func TestEachAttemptIsLookedForAsLong(t *testing.T) {
	t.Parallel()
	o := openOperations(t)
	ctx := t.Context()
	op, err := o.begin(t, time.Minute)
	ok(t, err)
	ok(t, o.EndOperation(ctx, op, tenants.OperationEnd{As: tenants.OperationUnknown}))
	look := func() tenants.Look {
		t.Helper()
		look, due, err := o.BeginLook(ctx, tenants.Landing{Tenant: o.tenant, Operation: op.ID}, time.Minute)
		ok(t, err)
		if !due {
			t.Fatal("no look is due")
		}
		return look
	}
	o.db.Advance(t, tenants.SweepFor-time.Hour)
	ok(t, o.EndLook(ctx, look(), true)) // a look is no attempt
	_, err = o.begin(t, time.Minute)    // it dies
	ok(t, err)
	o.db.Advance(t, 2*time.Hour)
	last := look()
	if last.Last {
		t.Error("nothing of its last attempt is waited for")
	}
	ok(t, o.EndLook(ctx, last, true))
	o.db.Advance(t, tenants.SweepFor-2*time.Hour)
	if last = look(); !last.Last {
		t.Error("a look made it longer")
	}
}
