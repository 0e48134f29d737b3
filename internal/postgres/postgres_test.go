package postgres_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/postgres"
)

var errFn = errors.New("fn failed")

func insert(ctx context.Context, tx pgx.Tx, n int) error {
	_, err := tx.Exec(ctx, `INSERT INTO public.scratch VALUES ($1)`, n)
	return err
}

// idle fails the test if the one connection of the pool stays taken, or comes back
// in a transaction.
func idle(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := pool.Acquire(ctx)
	if err != nil {
		t.Fatalf("no connection came back: %v", err)
	}
	defer conn.Release()
	if status := conn.Conn().PgConn().TxStatus(); status != 'I' {
		t.Errorf("the connection's transaction status is %c, want I", status)
	}
}

func TestInTx(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fn        func(cancel context.CancelFunc) error
		panics    bool
		committed bool
	}{
		"commits":                             {func(context.CancelFunc) error { return nil }, false, true},
		"commits although the caller left":    {func(cancel context.CancelFunc) error { cancel(); return nil }, false, true},
		"rolls back on an error":              {func(context.CancelFunc) error { return errFn }, false, false},
		"rolls back although the caller left": {func(cancel context.CancelFunc) error { cancel(); return errFn }, false, false},
		"rolls back on a panic":               {func(context.CancelFunc) error { panic("fn panicked") }, true, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Open(t)
			scratch(t, db)
			pool := openPool(t, postgres.PoolConfig{URL: db.AppURL, MaxConns: 1})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var want, got error
			func() {
				defer func() {
					if p := recover(); (p != nil) != tc.panics {
						t.Errorf("panicked with %v, want %t", p, tc.panics)
					}
				}()
				got = postgres.InTx(ctx, pool, postgres.Scope{}, func(tx pgx.Tx) error {
					if err := insert(ctx, tx, 1); err != nil {
						return err
					}
					want = tc.fn(cancel)
					return want
				})
			}()
			if got != want { //nolint:errorlint // fn's error comes back as it is
				t.Errorf("InTx() = %v, want %v itself", got, want)
			}
			idle(t, pool)
			if n := pool.Stat().NewConnsCount(); n != 1 {
				t.Errorf("the transaction's end cost its connection: %d were opened", n)
			}
			if n := count(t, pool); (n == 1) != tc.committed {
				t.Errorf("%d rows, want committed = %t", n, tc.committed)
			}
		})
	}
}

func TestInTxWhenTheCallerLeavesDuringAQuery(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	pool := openPool(t, postgres.PoolConfig{URL: db.AppURL, MaxConns: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := postgres.InTx(ctx, pool, postgres.Scope{Statement: time.Minute}, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `SELECT pg_sleep(60)`)
		return err
	})
	if !errors.Is(err, context.DeadlineExceeded) || postgres.CommitUnknown(err) {
		t.Errorf("InTx() = %v, CommitUnknown = %t; want a passed deadline and false", err, postgres.CommitUnknown(err))
	}
	idle(t, pool)
}

// Behind a pooler in transaction mode the next transaction may be anybody's: what
// a scope sets must end with its transaction, however that ends.
func TestScopeEndsWithItsTransaction(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	pool := openPool(t, postgres.PoolConfig{URL: db.AppURL, MaxConns: 1})
	const settings = `SELECT current_setting('app.tenant', true), current_user::text, current_setting('lock_timeout'),
		current_setting('statement_timeout')`
	read := func(q interface {
		QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
	},
	) (got [4]string) {
		var tenant *string
		if err := q.QueryRow(t.Context(), settings).Scan(&tenant, &got[1], &got[2], &got[3]); err != nil {
			t.Fatal(err)
		}
		if tenant != nil {
			got[0] = *tenant
		}
		return got
	}

	tenant := uuid.Must(uuid.NewV7())
	tests := []struct {
		scope postgres.Scope
		want  [4]string
	}{
		{postgres.Scope{}, [4]string{"", "connect_app", "2s", "5s"}},
		{postgres.Scope{Tenant: tenant}, [4]string{tenant.String(), "connect_app", "2s", "5s"}},
		{postgres.Scope{Operator: true}, [4]string{"", "connect_operator", "2s", "5s"}},
		{
			postgres.Scope{Tenant: tenant, Operator: true, Lock: 40 * time.Millisecond, Statement: time.Minute},
			[4]string{tenant.String(), "connect_operator", "40ms", "1min"},
		},
	}
	outside := [4]string{"", "connect_app", "0", "0"}
	for _, tc := range tests {
		for _, end := range []error{nil, errFn} {
			err := postgres.InTx(t.Context(), pool, tc.scope, func(tx pgx.Tx) error {
				if got := read(tx); got != tc.want {
					t.Errorf("inside %+v: %v, want %v", tc.scope, got, tc.want)
				}
				return end
			})
			if !errors.Is(err, end) {
				t.Errorf("InTx() = %v", err)
			}
			if got := read(pool); got != outside {
				t.Errorf("after %+v: %v, want %v", tc.scope, got, outside)
			}
		}
	}
	if n := pool.Stat().NewConnsCount(); n != 1 {
		t.Errorf("%d connections were opened, want the same one all along", n)
	}
}

// A pool whose connections are all taken must not make its callers wait for long.
func TestInTxOnABusyPool(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	pool := openPool(t, postgres.PoolConfig{URL: db.AppURL, MaxConns: 1})
	err := postgres.InTx(t.Context(), pool, postgres.Scope{}, func(pgx.Tx) error {
		return postgres.InTx(t.Context(), pool, postgres.Scope{}, func(pgx.Tx) error { return nil })
	})
	if !errors.Is(err, postgres.ErrBusy) || !postgres.IsUnavailable(err) || postgres.CommitUnknown(err) {
		t.Errorf("InTx() = %v, want ErrBusy, which is unavailable", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = postgres.InTx(ctx, pool, postgres.Scope{}, func(pgx.Tx) error { return nil })
	if !errors.Is(err, context.Canceled) || errors.Is(err, postgres.ErrBusy) {
		t.Errorf("InTx() of a caller that left = %v, want its context's error", err)
	}
	idle(t, pool)
}

// A process that is cut off in a transaction must not keep its locks until TCP
// gives up.
func TestScopeEndsIdleTransactions(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	pool := openPool(t, postgres.PoolConfig{URL: db.AppURL, MaxConns: 1})
	const setting = `SELECT setting::int FROM pg_settings WHERE name = 'idle_in_transaction_session_timeout'`
	var inside, outside int
	err := postgres.InTx(t.Context(), pool, postgres.Scope{}, func(tx pgx.Tx) error {
		return tx.QueryRow(t.Context(), setting).Scan(&inside)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := pool.QueryRow(t.Context(), setting).Scan(&outside); err != nil {
		t.Fatal(err)
	}
	if inside <= 0 || inside > 60_000 || outside != 0 {
		t.Errorf("the timeout is %d ms inside and %d ms outside, want up to a minute and none", inside, outside)
	}
}

func TestScopeTimeouts(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	scratch(t, db)
	pool := openPool(t, postgres.PoolConfig{URL: db.AppURL})
	err := postgres.InTx(t.Context(), pool, postgres.Scope{Statement: 30 * time.Millisecond}, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `SELECT pg_sleep(60)`)
		return err
	})
	if postgres.SQLSTATE(err) != "57014" || !postgres.IsUnavailable(err) {
		t.Errorf("a slow statement: %v, IsUnavailable = %t; want 57014 and true", err, postgres.IsUnavailable(err))
	}
	err = postgres.InTx(t.Context(), pool, postgres.Scope{}, func(holder pgx.Tx) error {
		if err := insert(t.Context(), holder, 1); err != nil {
			return err
		}
		return postgres.InTx(t.Context(), pool, postgres.Scope{Lock: 30 * time.Millisecond}, func(tx pgx.Tx) error {
			return insert(t.Context(), tx, 1) // waits for the holder
		})
	})
	if postgres.SQLSTATE(err) != "55P03" || !postgres.IsUnavailable(err) {
		t.Errorf("a lock that is taken: %v, IsUnavailable = %t; want 55P03 and true", err, postgres.IsUnavailable(err))
	}
}

func TestCommitUnknown(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	scratch(t, db)
	exec(t, db, `ALTER TABLE public.scratch ADD CONSTRAINT positive_later CHECK (n IS NOT NULL);
		CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'refused at commit'; END $$;
		CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON public.scratch DEFERRABLE INITIALLY DEFERRED
			FOR EACH ROW WHEN (NEW.n = 99) EXECUTE FUNCTION public.refuse()`)
	pool, wire := cutPool(t, db)
	rows := 0
	for _, after := range []bool{false, true} {
		wire.arm(after)
		err := postgres.InTx(t.Context(), pool, postgres.Scope{}, func(tx pgx.Tx) error {
			return insert(t.Context(), tx, 1)
		})
		wire.disarm()
		if !postgres.CommitUnknown(err) || !postgres.IsUnavailable(err) {
			t.Errorf("COMMIT cut, after = %t: InTx() = %v, CommitUnknown = %t, IsUnavailable = %t; want both",
				after, err, postgres.CommitUnknown(err), postgres.IsUnavailable(err))
		}
		if after {
			rows = 1
		}
		if n := count(t, pool); n != rows {
			t.Errorf("COMMIT cut, after = %t: %d rows, want %d", after, n, rows)
		}
	}

	refused := map[string]error{
		"a deferred constraint": postgres.InTx(t.Context(), pool, postgres.Scope{}, func(tx pgx.Tx) error {
			return insert(t.Context(), tx, 99)
		}),
		"an error that fn swallowed": postgres.InTx(t.Context(), pool, postgres.Scope{}, func(tx pgx.Tx) error {
			_, _ = tx.Exec(t.Context(), `SELECT 1/0`)
			return nil
		}),
		"fn's own error": postgres.InTx(t.Context(), pool, postgres.Scope{}, func(pgx.Tx) error { return errFn }),
	}
	for name, err := range refused {
		if err == nil || postgres.CommitUnknown(err) {
			t.Errorf("%s: InTx() = %v, CommitUnknown = %t; want an error and false", name, err, postgres.CommitUnknown(err))
		}
	}
	if n := count(t, pool); n != rows {
		t.Errorf("%d rows after refused commits, want %d", n, rows)
	}
	idle(t, pool)
}

// A server that ends the connection instead of answering has told nothing.
func TestCommitUnknownWhenTheServerHangsUp(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	pool := openPool(t, postgres.PoolConfig{URL: db.AppURL, MaxConns: 1})
	err := postgres.InTx(t.Context(), pool, postgres.Scope{}, func(pgx.Tx) error {
		exec(t, db, `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
			WHERE datname = current_database() AND usename = 'connect_app'`)
		return nil
	})
	if !postgres.CommitUnknown(err) || !postgres.IsUnavailable(err) {
		t.Errorf("InTx() = %v, CommitUnknown = %t, IsUnavailable = %t; want both",
			err, postgres.CommitUnknown(err), postgres.IsUnavailable(err))
	}
	idle(t, pool)
}

func TestSQLSTATE(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	scratch(t, db)
	pool := openPool(t, postgres.PoolConfig{URL: db.AppURL})
	duplicate := postgres.InTx(t.Context(), pool, postgres.Scope{}, func(tx pgx.Tx) error {
		return errors.Join(insert(t.Context(), tx, 1), insert(t.Context(), tx, 1))
	})
	if !postgres.IsUniqueViolation(duplicate, "scratch_once") || postgres.IsUniqueViolation(duplicate, "other") {
		t.Errorf("IsUniqueViolation(%v) must be true for scratch_once alone", duplicate)
	}
	if postgres.SQLSTATE(duplicate) != "23505" || postgres.IsUnavailable(duplicate) {
		t.Errorf("a duplicate: SQLSTATE = %q, IsUnavailable = %t", postgres.SQLSTATE(duplicate), postgres.IsUnavailable(duplicate))
	}
	for code, want := range map[string]bool{
		"08006": true, "53300": true, "53100": true, "57P01": true, "57P03": true, "55P03": true, "25006": true,
		"23505": false, "40P01": false, "42501": false, "22P02": false,
	} {
		if got := postgres.IsUnavailable(&pgconn.PgError{Code: code}); got != want {
			t.Errorf("IsUnavailable(%s) = %t, want %t", code, got, want)
		}
	}
	for _, err := range []error{nil, errFn, context.Canceled, pgx.ErrNoRows} {
		if postgres.SQLSTATE(err) != "" || postgres.IsUnavailable(err) || postgres.CommitUnknown(err) ||
			postgres.IsUniqueViolation(err, "") {
			t.Errorf("%v is taken for a database error", err)
		}
	}
}

func TestOpenPool(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	pool := openPool(t, postgres.PoolConfig{URL: db.AppURL, Name: "tokens", MaxConns: 3, Connect: time.Second})
	var name string
	if err := pool.QueryRow(t.Context(), `SELECT current_setting('application_name')`).Scan(&name); err != nil {
		t.Fatal(err)
	}
	if name != "tokens" || pool.Config().MaxConns != 3 || pool.Config().ConnConfig.ConnectTimeout != time.Second {
		t.Errorf("application_name = %q, MaxConns = %d", name, pool.Config().MaxConns)
	}
	_, err := postgres.OpenPool(t.Context(), postgres.PoolConfig{URL: "postgres://app:canary-7319@host:notaport/db"})
	if err == nil || strings.Contains(err.Error(), "canary-7319") || strings.Contains(err.Error(), "notaport") {
		t.Errorf("OpenPool() = %v, want an error that does not quote the URL", err)
	}
	// A program may start while the database is away.
	away := openPool(t, postgres.PoolConfig{URL: "postgres://app:canary-7319@127.0.0.1:1/db?sslmode=disable"})
	err = postgres.InTx(t.Context(), away, postgres.Scope{}, func(pgx.Tx) error { return nil })
	if !postgres.IsUnavailable(err) || postgres.CommitUnknown(err) || strings.Contains(err.Error(), "canary-7319") {
		t.Errorf("InTx() = %v; want one that says unavailable, without the password", err)
	}
}
