package provisioning_test

import (
	"errors"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/tenants"
)

func readTokens(t *testing.T, body []byte) prismasimtest.Tokens {
	t.Helper()
	return prismasimtest.ReadTokens(t, body)
}

// A hundred parallel calls with one key on two replicas: one create, and every
// other call is told to wait or gets the same answer.
func TestParallelSameKey(t *testing.T) {
	t.Parallel()
	const callers = 100
	w := open(t)
	replicas := []*provisioning.Service{w.Service, w.service(t)}
	in := provisioning.NewDatabase{Name: "shop", Region: "us-east-1", IdempotencyKey: "same"}
	var mu sync.Mutex
	var fresh, replayed, waiting int
	answers := map[string]bool{}
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			created, err := replicas[i%2].CreateDatabase(t.Context(), tenants.System(), w.tenant, w.connection, in)
			for errors.Is(err, postgres.ErrBusy) { // a 503 on a slow machine: its client asks again
				created, err = replicas[i%2].CreateDatabase(t.Context(), tenants.System(), w.tenant, w.connection, in)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case fault.KindOf(err) == fault.OperationInProgress:
				waiting++
				return
			case err != nil:
				t.Errorf("CreateDatabase(): %v", err)
				return
			case created.Replayed:
				replayed++
			default:
				fresh++
			}
			answers[created.Resource.ID+created.Resource.Credentials.ConnectionString] = true
		})
	}
	all.Wait()
	if fresh != 1 || len(answers) != 1 || fresh+replayed+waiting != callers {
		t.Errorf("%d fresh, %d replayed, %d waiting, %d different answers", fresh, replayed, waiting, len(answers))
	}
	if n := w.wire.posts("/v1/projects"); n != 1 || w.count(t, "/v1/projects") != 1 {
		t.Errorf("%d creates were sent, want 1", n)
	}
	again, err := w.CreateDatabase(t.Context(), tenants.System(), w.tenant, w.connection, in)
	check(t, err)
	if !again.Replayed || !answers[again.Resource.ID+again.Resource.Credentials.ConnectionString] {
		t.Error("a later call does not get the same answer")
	}
}

func TestReplay(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	in := provisioning.NewDatabase{Name: "shop", Region: "us-east-1", IdempotencyKey: "k"}
	create := func() provisioning.Created[provisioning.Database] {
		t.Helper()
		created, err := w.CreateDatabase(ctx, by, w.tenant, w.connection, in)
		check(t, err)
		return created
	}
	first := create()
	more := provisioning.NewCredentials{Name: "app", IdempotencyKey: "k"} // the same key names another kind
	credentials, err := w.CreateCredentials(ctx, by, w.tenant, w.connection, first.Resource.ID, more)
	check(t, err)

	second := create()
	want := first
	want.Replayed = true
	if diff := cmp.Diff(want, second); diff != "" {
		t.Errorf("replay (-want +got):\n%s", diff)
	}

	w.db.Advance(t, 59*time.Minute)
	if got := create(); got.SecretExpired || got.Resource.Credentials == nil {
		t.Error("the secret was gone before its hour")
	}
	w.db.Advance(t, 2*time.Minute)
	late := create()
	want.SecretExpired, want.Resource.Credentials = true, nil
	if diff := cmp.Diff(want, late); diff != "" {
		t.Errorf("replay after 61 minutes (-want +got):\n%s", diff)
	}
	lateCredentials, err := w.CreateCredentials(ctx, by, w.tenant, w.connection, first.Resource.ID, more)
	check(t, err)
	if !lateCredentials.SecretExpired || lateCredentials.Resource.ConnectionString != "" ||
		lateCredentials.Resource.ID != credentials.Resource.ID {
		t.Errorf("credentials after 61 minutes = %+v", lateCredentials)
	}
	if n := w.query(t, `SELECT count(*)::text FROM operations WHERE secret_sealed IS NOT NULL`); n != "0" {
		t.Errorf("%s sealed copies are left", n)
	}
	if n := w.wire.posts("/v1/projects"); n != 1 {
		t.Errorf("%d creates were sent, want 1", n)
	}
}

// After a week the key is free; the grant outlives it by a refresh.
func TestKeyLife(t *testing.T) {
	t.Parallel()
	w := open(t)
	check(t, w.project(t, "shop", "us-east-1", "k")())
	w.db.Advance(t, tenants.KeyLife-time.Minute)
	wantKind(t, w.project(t, "other", "us-east-1", "k")(), fault.IdempotencyConflict)
	w.db.Advance(t, 2*time.Minute)
	check(t, w.project(t, "other", "us-east-1", "k")())
	stored, err := w.store.TokensOf(w.tenant, w.connection).Tokens(t.Context())
	check(t, err)
	w.tokens.Access = stored.Access
	if n := w.count(t, "/v1/projects"); n != 2 {
		t.Errorf("%d projects, want 2", n)
	}
}

func TestKeyConflicts(t *testing.T) {
	t.Parallel()
	w := open(t)
	check(t, w.project(t, "shop", "us-east-1", "k")())
	wantKind(t, w.project(t, "shop", "us-west-1", "k")(), fault.IdempotencyConflict)
	wantKind(t, w.project(t, "shop2", "us-east-1", "k")(), fault.IdempotencyConflict)

	// The same key on another connection of the tenant is another request …
	mine := w.connection
	grant := w.sim.Connect(t, prismasimtest.WorkspaceB)
	w.connection = w.connectAs(t, w.tenant, prismasimtest.WorkspaceB, grant)
	wantKind(t, w.project(t, "shop", "us-east-1", "k")(), fault.IdempotencyConflict)

	// … and in another tenant it has nothing to do with this one.
	acme := w.tenant
	w.tenant = w.newTenant(t, "Other")
	w.connection = w.connect(t, w.tenant, w.tokens)
	check(t, w.project(t, "shop", "us-east-1", "k")())
	w.tenant, w.connection = acme, mine
	if n := w.count(t, "/v1/projects"); n != 2 {
		t.Errorf("%d projects, want 2", n)
	}
}

// A request that was refused does not keep its key: the client mends it and sends it
// again. One of which something may have been made does.
func TestKeysOfRefusedRequests(t *testing.T) {
	t.Parallel()
	w := open(t)
	for _, h := range []harm{reject, throttle} {
		w.wire.harms(onPost("/v1/projects", h, 1))
		if w.project(t, "shop", "us-east-1", "k")() == nil {
			t.Fatal("it was not refused")
		}
	}
	check(t, w.project(t, "store", "us-east-1", "k")())
	wantKind(t, w.project(t, "shop", "us-east-1", "k")(), fault.IdempotencyConflict)
	w.wire.harms(func(*http.Request) harm { return lose })
	wantKind(t, w.project(t, "shop", "us-east-1", "lost")(), fault.PrismaUnavailable)
	w.wire.harms(nil)
	wantKind(t, w.project(t, "store", "us-east-1", "lost")(), fault.IdempotencyConflict)
	if n := w.count(t, "/v1/projects"); n != 2 {
		t.Errorf("%d projects, want 2", n)
	}
}

// Without a key every call is one of its own.
func TestWithoutKey(t *testing.T) {
	t.Parallel()
	w := open(t)
	check(t, w.project(t, "shop", "us-east-1", "")())
	check(t, w.project(t, "shop", "us-east-1", "")())
	if n := w.count(t, "/v1/projects"); n != 2 {
		t.Errorf("%d projects, want 2", n)
	}
}

// Neither the rows of operations nor events nor the audit log hold a secret in
// clear, and a sealed one opens nowhere else.
func TestSecretsAreSealed(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	in := provisioning.NewDatabase{Name: "shop", Region: "us-east-1", IdempotencyKey: "k"}
	created, err := w.CreateDatabase(ctx, by, w.tenant, w.connection, in)
	check(t, err)
	secret := created.Resource.Credentials.ConnectionString
	parsed, err := url.Parse(secret)
	check(t, err)
	password, _ := parsed.User.Password()
	for _, table := range []string{"operations", "events", "audit_log"} {
		for _, part := range []string{secret, password} {
			hits := w.query(t, `SELECT count(*)::text FROM `+table+` r
				WHERE strpos(r::text, $1) > 0 OR strpos(r::text, encode(convert_to($1, 'UTF8'), 'hex')) > 0`, part)
			if hits != "0" {
				t.Errorf("%s rows of %s hold a secret in clear", hits, table)
			}
		}
	}
	in.IdempotencyKey = "other"
	_, err = w.CreateDatabase(ctx, by, w.tenant, w.connection, in)
	check(t, err)
	w.exec(t, `UPDATE operations o SET secret_sealed = p.secret_sealed FROM operations p
		WHERE o.idempotency_key = 'other' AND p.idempotency_key = 'k'`)
	_, err = w.CreateDatabase(ctx, by, w.tenant, w.connection, in)
	if err == nil {
		t.Error("a secret moved to another operation still opens")
	}
}

var _ provisioning.Caller = (*prisma.Caller)(nil)
