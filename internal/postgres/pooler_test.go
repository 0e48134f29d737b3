package postgres_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/pgtest/pooltest"
	"github.com/connect-prisma/server/internal/postgres"
)

func TestBehindPooler(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	pooler := pooltest.Start(t, db, 2)
	for name, tc := range map[string]struct {
		url    string
		pooled bool
		mode   pgx.QueryExecMode
	}{
		"straight":                         {db.AppURL, false, pgx.QueryExecModeCacheStatement},
		"through a pooler":                 {pooler.AppURL, true, pgx.QueryExecModeCacheDescribe},
		"straight, with a mode":            {db.AppURL + "&default_query_exec_mode=exec", false, pgx.QueryExecModeExec},
		"through a pooler, with that mode": {pooler.AppURL + "&default_query_exec_mode=exec", true, pgx.QueryExecModeExec},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := openPool(t, postgres.PoolConfig{URL: tc.url, MaxConns: 3})
			if pooled, err := postgres.BehindPooler(t.Context(), pool); err != nil || pooled != tc.pooled {
				t.Errorf("BehindPooler() = %t, %v; want %t", pooled, err, tc.pooled)
			}
			for range 3 { // all of them, those opened before the first answer too
				conn, err := pool.Acquire(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Release()
				if mode := conn.Conn().Config().DefaultQueryExecMode; mode != tc.mode {
					t.Errorf("a connection has the mode %s, want %s", mode, tc.mode)
				}
			}
		})
	}
}

// TestTenantsThroughAPooler lets two tenants and nobody ask who they are, over more
// client connections than there are server connections: a setting that outlived its
// transaction would show.
func TestTenantsThroughAPooler(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	pooler := pooltest.Start(t, db, 2)
	pool := openPool(t, postgres.PoolConfig{URL: pooler.AppURL, MaxConns: 8})
	scopes := []postgres.Scope{{Tenant: uuid.New()}, {Tenant: uuid.New()}, {}}
	const askers, times = 12, 100
	var wrong, seen atomic.Int64
	var all sync.WaitGroup
	for i := range askers {
		scope := scopes[i%len(scopes)]
		want := ""
		if scope.Tenant != uuid.Nil {
			want = scope.Tenant.String()
		}
		all.Go(func() {
			for j := range times {
				var got string
				var err error
				if j%2 == 0 {
					err = whoInTx(t, pool, scope, &got)
				} else {
					err = whoRead(t, pool, scope, &got)
				}
				if err != nil {
					t.Errorf("%v: %v", scope.Tenant, err)
					return
				}
				seen.Add(1)
				if got != want {
					wrong.Add(1)
				}
			}
		})
	}
	all.Wait()
	if wrong.Load() != 0 || seen.Load() != askers*times {
		t.Errorf("%d of %d transactions had another tenant, want 0 of %d", wrong.Load(), seen.Load(), askers*times)
	}
	// The roles as well: an operator's must not stay behind.
	if err := postgres.InTx(t.Context(), pool, postgres.Scope{Operator: true}, func(tx pgx.Tx) error {
		return tx.QueryRow(t.Context(), `SELECT current_user`).Scan(new(string))
	}); err != nil {
		t.Error(err)
	}
	for range 10 {
		var role string
		if err := pool.QueryRow(t.Context(), `SELECT current_user`).Scan(&role); err != nil || role != "connect_app" {
			t.Errorf("outside of an operator's transaction the role is %q, %v", role, err)
		}
	}
}

// TestPoolerThatRestarts: a pool goes on by itself, and what it can't do meanwhile
// counts as a database that is away.
func TestPoolerThatRestarts(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	scratch(t, db)
	pooler := pooltest.Start(t, db, 2)
	pool := openPool(t, postgres.PoolConfig{URL: pooler.AppURL, MaxConns: 2})
	add := func(n int) error {
		return postgres.InTx(t.Context(), pool, postgres.Scope{}, func(tx pgx.Tx) error { return insert(t.Context(), tx, n) })
	}
	if err := add(1); err != nil {
		t.Fatal(err)
	}
	pooler.Stop(t)
	for range 2 { // a connection that it has cut, and one that can't be opened
		if err := add(2); err == nil || !postgres.IsUnavailable(err) {
			t.Errorf("without the pooler: %v, want that the database is unavailable", err)
		}
	}
	pooler.Start(t)
	if err := add(3); err != nil {
		t.Errorf("after the pooler's restart: %v", err)
	}
	if n := count(t, pool); n != 2 {
		t.Errorf("%d rows, want the first and the last", n)
	}
}

const who = `SELECT coalesce(current_setting('app.tenant', true), '')`

func whoInTx(t *testing.T, pool *pgxpool.Pool, scope postgres.Scope, got *string) error {
	t.Helper()
	return postgres.InTx(t.Context(), pool, scope, func(tx pgx.Tx) error {
		return tx.QueryRow(t.Context(), who).Scan(got)
	})
}

func whoRead(t *testing.T, pool *pgxpool.Pool, scope postgres.Scope, got *string) error {
	t.Helper()
	return postgres.Read(t.Context(), pool, scope, func(rows pgx.Rows) error {
		var err error
		*got, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
		return err
	}, who)
}
