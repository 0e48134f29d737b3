package tenants_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// stuck lets calls come until the database has so many of them that wait for a lock, and
// ends them with the test.
func (s *service) stuck(t *testing.T, want int, call func(context.Context)) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			for ctx.Err() == nil { // they are given up after a while
				call(ctx)
			}
		})
	}
	t.Cleanup(func() {
		cancel()
		calls.Wait()
	})
	eventually(t, "the calls hang", func() bool { return s.hanging(t) >= want })
}

// hanging counts the connections of the store's pool that wait for a lock.
func (s *service) hanging(t *testing.T) int {
	t.Helper()
	return one[int](t, s, `SELECT count(*) FROM pg_stat_activity
		WHERE datname = current_database() AND application_name = 'shared' AND wait_event_type = 'Lock'`)
}

// sharing opens a replica with a pool of 8.
func (s *service) sharing(t *testing.T) (*tenants.Store, *pgxpool.Pool) {
	t.Helper()
	pool, err := postgres.OpenPool(t.Context(), postgres.PoolConfig{URL: s.db.AppURL, Name: "shared", MaxConns: 8})
	ok(t, err)
	t.Cleanup(pool.Close)
	entry := openPool(t, s.db.AppURL, 1, nil)
	return s.store(t, tenants.Config{Pool: pool, EntryPool: entry}), pool
}

// locked holds a lock until the test ends.
func (s *service) locked(t *testing.T, sql string, args ...any) {
	t.Helper()
	tx, err := openPool(t, s.db.AdminURL, 1, nil).Begin(t.Context())
	ok(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(t.Context())) })
	_, err = tx.Exec(t.Context(), sql, args...)
	ok(t, err)
}

// A tenant whose calls all hang in the database has half of a replica's connections.
func TestASlowTenantLeavesConnectionsToOthers(t *testing.T) {
	t.Parallel()
	s := openService(t)
	store, _ := s.sharing(t)
	quiet, slow := s.tenant(t, "Quiet").ID, s.tenant(t, "Slow").ID
	c := s.connect(t, slow, "ada", prisma.Tokens{WorkspaceID: "wksp_1", Access: "a", Refresh: "r"})
	s.locked(t, `SELECT FROM connections WHERE tenant_id = $1 FOR UPDATE`, slow)
	value := "x"
	s.stuck(t, 4, func(ctx context.Context) {
		_, _ = store.ChangeMetadata(ctx, tenants.System(), slow, c.ID, map[string]*string{"plan": &value})
	})
	if _, _, err := store.Connections(t.Context(), quiet, tenants.ConnectionFilter{Limit: 1}); err != nil {
		t.Errorf("beside a slow tenant: %v", err)
	}
	if n := s.hanging(t); n > 4 {
		t.Errorf("the slow tenant has %d of 8 connections, want half", n)
	}
}

// When every connection of the pool is taken, it is still found out whose a key is and what
// its tenant may do.
func TestABusyPoolKeepsNobodyOut(t *testing.T) {
	t.Parallel()
	s := openService(t)
	store, pool := s.sharing(t)
	tenant := s.tenant(t, "Acme").ID
	_, secret := s.key(t, tenant, time.Time{})
	for range 8 {
		conn, err := pool.Acquire(t.Context())
		ok(t, err)
		t.Cleanup(conn.Release)
	}
	_, err := store.Authenticate(t.Context(), secret)
	ok(t, err)
	if !one[bool](t, s, `SELECT last_used_at IS NOT NULL FROM api_keys`) {
		t.Error("its use was not noted")
	}
	loan, err := store.BorrowBudget(t.Context(), tenant, tenants.BudgetRequests, tenants.Rate{PerSecond: 10, Burst: 20}, 1)
	if ok(t, err); loan.Granted != 1 {
		t.Errorf("of a full bucket: %+v", loan)
	}
}

// Whoever tries links has a fourth of a replica's connections, all together.
func TestLinksLeaveConnectionsToTenants(t *testing.T) {
	t.Parallel()
	s := openService(t)
	store, _ := s.sharing(t)
	tenant := s.tenant(t, "Acme").ID
	session, link, err := s.CreateSession(t.Context(), tenants.System(), tenant, tenants.NewSession{UserID: "ada", Completion: tenants.CompletionAutomatic})
	ok(t, err)
	found, err := store.SessionByLink(t.Context(), link)
	ok(t, err)
	byID, err := store.SessionByID(t.Context(), session.ID)
	ok(t, err)
	if found.ID != session.ID || byID.ID != session.ID || found.Tenant != tenant {
		t.Errorf("found %s of %s and %s, want %s", found.ID, found.Tenant, byID.ID, session.ID)
	}
	_, err = store.SessionByLink(t.Context(), tenants.RandomToken())
	wantKind(t, "a wrong link", err, fault.NotFound)

	s.locked(t, `LOCK TABLE connect_sessions IN ACCESS EXCLUSIVE MODE`)
	s.stuck(t, 2, func(ctx context.Context) { _, _ = store.SessionByLink(ctx, tenants.RandomToken()) })
	if _, _, err := store.Connections(t.Context(), tenant, tenants.ConnectionFilter{Limit: 1}); err != nil {
		t.Errorf("a tenant beside them: %v", err)
	}
	if n := s.hanging(t); n > 2 {
		t.Errorf("those who try links have %d of 8 connections, want a fourth", n)
	}
}
