package tenants_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/tenants"
)

// cacheFor is long, so that nothing but the injected clock ends it.
const cacheFor = time.Hour

// remembering is a replica that remembers callers.
type remembering struct {
	*tenants.Store

	service *service
	ahead   atomic.Int64 // how far its clock has gone, which stands still otherwise but for
	looks   atomic.Int64 // a nanosecond each time that somebody looks
	asked   atomic.Int64 // the queries that it sent, in batches
	answer  func()       // called with each answer in hand, before it is used
}

func (r *remembering) now() time.Time {
	return time.Unix(0, 0).Add(time.Duration(r.ahead.Load() + r.looks.Add(1)))
}

func (r *remembering) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	r.asked.Add(1)
	return ctx
}

func (*remembering) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}

func (r *remembering) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {
	if r.answer != nil {
		r.answer()
	}
}

func (*remembering) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

func (*remembering) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// remember starts a replica that hears of no changes.
func (s *service) remember(t *testing.T) *remembering {
	t.Helper()
	r := &remembering{service: s}
	cfg, err := pgxpool.ParseConfig(s.db.AppURL)
	if err != nil {
		t.Fatal("the test database's URL can't be parsed")
	}
	cfg.ConnConfig.Tracer = r
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	ok(t, err)
	t.Cleanup(pool.Close)
	r.Store = s.store(t, tenants.Config{Pool: pool, Now: r.now, CacheFor: cacheFor})
	return r
}

// follow lets it hear of changes, and returns when it does.
func (r *remembering) follow(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var following sync.WaitGroup
	following.Go(func() { r.FollowChanges(ctx, postgres.Dial(r.service.db.Pool, "changes")) })
	t.Cleanup(func() {
		cancel()
		following.Wait()
	})
	r.listens(t)
}

// listens waits until the replica listens.
func (r *remembering) listens(t *testing.T) {
	t.Helper()
	eventually(t, "the replica listens", func() bool {
		return one[int](t, r.service, `SELECT count(*) FROM pg_stat_activity
			WHERE application_name = 'changes' AND datname = current_database() AND query ILIKE 'listen %' AND state = 'idle'`) == 1
	})
}

// lets reports whether a key lets its holder in.
func (r *remembering) lets(t *testing.T, key string) bool {
	t.Helper()
	_, err := r.Authenticate(t.Context(), key)
	if err != nil && fault.KindOf(err) != fault.Unauthorized {
		t.Fatal(err)
	}
	return err == nil
}

// costs counts the queries of presenting a key that often.
func (r *remembering) costs(t *testing.T, times int, key string, want bool) int {
	t.Helper()
	before := r.asked.Load()
	for range times {
		if got := r.lets(t, key); got != want {
			t.Fatalf("let in: %t, want %t", got, want)
		}
	}
	return int(r.asked.Load() - before)
}

// pause pauses a tenant, or lets it go on, through that replica.
func pause(t *testing.T, through *tenants.Store, tenant tenants.TenantID, paused bool) {
	t.Helper()
	_, err := through.UpdateTenant(t.Context(), tenants.System(), tenant, tenants.TenantChange{Paused: &paused})
	ok(t, err)
}

// eventually waits until something that comes by itself is so.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	late := time.After(10 * time.Second)
	for !so() {
		select {
		case <-late:
			t.Fatalf("%s: not within 10 s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestCallerIsRemembered(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	_, good := s.key(t, tenant, time.Time{}, tenants.ScopeRead)
	gone, revoked := s.key(t, tenant, time.Time{})
	s.mustRevoke(t, tenant, gone.ID)
	r := s.remember(t)

	if n := r.costs(t, 100, good, true); n != 1 {
		t.Errorf("a key presented 100 times cost %d queries, want 1", n)
	}
	if n := r.costs(t, 100, revoked, false); n != 1 {
		t.Errorf("a revoked key presented 100 times cost %d queries, want 1", n)
	}
	caller, err := r.Authenticate(t.Context(), good)
	ok(t, err)
	if caller.Tenant.ID != tenant || caller.Tenant.Name != "Acme" || caller.May(tenants.ScopeWrite) || !caller.May(tenants.ScopeRead) {
		t.Errorf("remembered: %+v", caller)
	}
	if _, err := r.AuthenticateAnew(t.Context(), good); err != nil || r.asked.Load() != 3 {
		t.Errorf("asked %d times, error %v; a key that is to be asked for anew was not", r.asked.Load(), err)
	}

	// A thousand at the same time ask once.
	r.ahead.Add(int64(cacheFor))
	before := r.asked.Load()
	var all sync.WaitGroup
	var refused atomic.Int64
	for range 1000 {
		all.Go(func() {
			if _, err := r.Authenticate(context.WithoutCancel(t.Context()), good); err != nil {
				refused.Add(1)
			}
		})
	}
	all.Wait()
	if n := r.asked.Load() - before; n != 1 || refused.Load() != 0 {
		t.Errorf("a thousand at once cost %d queries and %d were refused", n, refused.Load())
	}
}

// Whoever hears of nothing is behind for as long as was promised, and no longer.
func TestRememberedCallersEnd(t *testing.T) {
	t.Parallel()
	s := openService(t)
	acme, bolt := s.tenant(t, "Acme").ID, s.tenant(t, "Bolt").ID
	key, leaked := s.key(t, acme, time.Time{})
	_, brief := s.key(t, acme, s.now(t).Add(2*time.Second))
	_, paused := s.key(t, bolt, time.Time{})
	r := s.remember(t)
	for _, key := range []string{leaked, brief, paused} {
		r.costs(t, 1, key, true)
	}
	s.mustRevoke(t, acme, key.ID)
	pause(t, s.Store, bolt, true)

	r.ahead.Add(int64(2 * time.Second))
	s.db.Advance(t, 2*time.Second)
	r.costs(t, 1, brief, false) // knows its own end
	r.costs(t, 1, leaked, true)
	r.ahead.Add(int64(cacheFor - 2*time.Second))
	r.costs(t, 1, leaked, false)
	r.costs(t, 1, paused, false)
	pause(t, s.Store, bolt, false)
	r.ahead.Add(int64(cacheFor))
	r.costs(t, 1, paused, true)
}

// A replica knows at once what it did itself.
func TestOwnChangesAreNotRemembered(t *testing.T) {
	t.Parallel()
	s := openService(t)
	ctx, by, tenant := t.Context(), tenants.System(), s.tenant(t, "Acme").ID
	r := s.remember(t)
	key, leaked := s.key(t, tenant, time.Time{})
	other, rotated := s.key(t, tenant, time.Time{})
	r.costs(t, 1, leaked, true)
	_, err := r.RevokeKey(ctx, by, tenant, key.ID)
	ok(t, err)
	r.costs(t, 1, leaked, false)

	r.costs(t, 1, rotated, true)
	_, err = r.RotateKey(ctx, by, tenant, other.ID, tenants.NewRotation{Overlap: 0})
	ok(t, err)
	r.costs(t, 1, rotated, false)

	chain, last := s.key(t, tenant, time.Time{})
	r.costs(t, 1, last, true)
	_, err = r.RevokeKeyAndSuccessors(ctx, by, tenant, chain.ID)
	ok(t, err)
	r.costs(t, 1, last, false)

	_, good := s.key(t, tenant, time.Time{})
	r.costs(t, 1, good, true)
	limit := 7
	_, err = r.UpdateTenant(ctx, by, tenant, tenants.TenantChange{Limits: tenants.LimitsChange{Requests: &limit}})
	ok(t, err)
	if caller, err := r.Authenticate(ctx, good); err != nil || caller.Tenant.Limits.Requests != limit {
		t.Errorf("limits %+v, error %v; want the new ones", caller.Tenant.Limits, err)
	}
	pause(t, r.Store, tenant, true)
	r.costs(t, 1, good, false)
}

// What another replica, or a command, changed is heard of; what others' tenants have is
// remembered all the same.
func TestChangesAreHeardOf(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	key, leaked := s.key(t, tenant, time.Time{})
	_, good := s.key(t, tenant, time.Time{})
	_, another := s.key(t, s.tenant(t, "Bolt").ID, time.Time{})
	r := s.remember(t)
	r.follow(t)
	for _, key := range []string{leaked, good, another} {
		r.costs(t, 1, key, true)
	}
	s.mustRevoke(t, tenant, key.ID)
	eventually(t, "a revoked key is refused", func() bool { return !r.lets(t, leaked) })
	if n := r.costs(t, 10, another, true); n != 0 {
		t.Errorf("another tenant's key cost %d queries", n)
	}
	pause(t, s.Store, tenant, true)
	eventually(t, "a paused tenant is refused", func() bool { return !r.lets(t, good) })
	pause(t, s.Store, tenant, false)
	eventually(t, "the tenant goes on", func() bool { return r.lets(t, good) })
	s.db.Advance(t, time.Hour) // only to be told of it
	eventually(t, "all are asked for again", func() bool { return r.costs(t, 1, another, true) == 1 })
}

// A change that is told while the answer from before it is on its way.
func TestChangeOvertakesAnAnswer(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	key, leaked := s.key(t, tenant, time.Time{})
	_, marker := s.key(t, tenant, time.Time{})
	r := s.remember(t)
	r.follow(t)
	r.costs(t, 1, marker, true)

	answered, goOn := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(goOn) })
	t.Cleanup(release)
	r.answer = sync.OnceFunc(func() { close(answered); <-goOn })
	var before sync.WaitGroup
	before.Go(func() { _, _ = r.Authenticate(context.WithoutCancel(t.Context()), leaked) })
	<-answered
	r.answer = nil
	s.mustRevoke(t, tenant, key.ID)
	eventually(t, "the change is heard of", func() bool { return r.costs(t, 1, marker, true) == 1 })
	release()
	before.Wait()
	r.costs(t, 1, leaked, false)
}

// Nobody knows what was told while the connection was lost.
func TestChangesWhileNobodyListened(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	key, leaked := s.key(t, tenant, time.Time{})
	r := s.remember(t)
	r.follow(t)
	// Told to nobody: as if it had been while no connection was there.
	s.sql(t, `ALTER TABLE api_keys DISABLE TRIGGER tell_change`)
	r.costs(t, 1, leaked, true)
	s.mustRevoke(t, tenant, key.ID)
	r.costs(t, 1, leaked, true)
	s.sql(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'changes' AND datname = current_database()`)
	eventually(t, "a revoked key is refused", func() bool { return !r.lets(t, leaked) })
}

// A tenant that changes all the time is asked for all the time, and let in.
func TestTenantThatAlwaysChanges(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	_, good := s.key(t, tenant, time.Time{})
	r := s.remember(t)
	r.answer = func() { r.ForgetCallers(tenant) }
	for range 5 {
		if n := r.costs(t, 1, good, true); n != 3 {
			t.Errorf("cost %d queries, want 3", n)
		}
	}
}

// Guesses come once each. However many, they take no more room than there is, and the
// keys that partners use are still known.
func TestGuessesPushNoKeysOut(t *testing.T) {
	t.Parallel()
	s := openService(t)
	_, good := s.key(t, s.tenant(t, "Acme").ID, time.Time{})
	r := s.remember(t)
	r.costs(t, 1, good, true)
	for i := range 2 * tenants.RememberedKeys {
		asked := false
		err := r.Present(t.Context(), strconv.Itoa(i), func(context.Context) error { asked = true; return nil })
		if err != nil || !asked {
			t.Fatalf("guess %d: asked %t, error %v", i, asked, err)
		}
		if i%100 == 0 {
			r.lets(t, good)
		}
	}
	if n := r.Remembered(); n > tenants.RememberedKeys {
		t.Errorf("%d keys are remembered", n)
	}
	if n := r.asked.Load(); n > 10 {
		t.Errorf("a key in use was asked for %d times", n)
	}
}

// Whoever asks first asks for all; when it hangs up, the others don't.
func TestFirstToAskLeaves(t *testing.T) {
	t.Parallel()
	s := openService(t)
	r := s.remember(t)
	first, leave := context.WithCancel(t.Context())
	asking := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		err := r.Present(first, "key", func(ctx context.Context) error {
			close(asking)
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("the one that left: error %v", err)
		}
	})
	<-asking
	for range 10 {
		all.Go(func() {
			if err := r.Present(t.Context(), "key", func(context.Context) error { return nil }); err != nil {
				t.Errorf("one that stayed: error %v", err)
			}
		})
	}
	leave()
	all.Wait()
}
