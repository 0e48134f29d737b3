package postgres_test

import (
	"errors"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/postgres"
)

func TestReadIsOneTransactionOfItsTenant(t *testing.T) {
	t.Parallel()
	pool := pgtest.Open(t).Pool
	ctx := t.Context()
	tenant := uuid.Must(uuid.NewV7())
	one := func(into *string) func(pgx.Rows) error {
		return func(rows pgx.Rows) error {
			var err error
			*into, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
			return err
		}
	}

	var got string
	if err := postgres.Read(ctx, pool, postgres.Scope{Tenant: tenant}, one(&got), `SELECT app.tenant()::text`); err != nil || got != tenant.String() {
		t.Errorf("Read() in the scope of %s saw %q, %v", tenant, got, err)
	}
	err := postgres.ReadFound(ctx, pool, `SELECT $1::uuid`, []any{tenant}, one(&got), `SELECT app.tenant()::text || $1::text`, "!")
	if err != nil || got != tenant.String()+"!" {
		t.Errorf("ReadFound() saw %q, %v", got, err)
	}

	// Nothing of it outlives the query, on whatever connection.
	for range 20 {
		err := postgres.Read(ctx, pool, postgres.Scope{}, one(&got), `SELECT count(*)::text FROM tenants`)
		if postgres.SQLSTATE(err) != "22P02" { // '' is no uuid
			t.Fatalf("a read without a tenant: %q, %v", got, err)
		}
		var setting *string
		if err := pool.QueryRow(ctx, `SELECT NULLIF(current_setting('app.tenant', true), '')`).Scan(&setting); err != nil || setting != nil {
			t.Fatalf("app.tenant outlives its transaction: %v, %v", setting, err)
		}
	}
}

func TestReadFailures(t *testing.T) {
	t.Parallel()
	pool := pgtest.Open(t).Pool
	ctx := t.Context()
	scope := postgres.Scope{Tenant: uuid.Must(uuid.NewV7())}
	errOwn := errors.New("own")
	none := func(rows pgx.Rows) error { return errors.Join(errOwn, rows.Err()) }

	if err := postgres.Read(ctx, pool, scope, none, `SELECT 1`); !errors.Is(err, errOwn) {
		t.Errorf("the collector's error is gone: %v", err)
	}
	if err := postgres.Read(ctx, pool, scope, none, `SELECT 1/0`); postgres.SQLSTATE(err) != "22012" {
		t.Errorf("a failing query: %v", err)
	}
	if err := postgres.Read(ctx, pool, scope, none, `SELECT nonsense`); postgres.SQLSTATE(err) != "42703" {
		t.Errorf("an impossible query: %v", err)
	}
	var n int64
	err := postgres.ReadFound(ctx, pool, `SELECT NULL::uuid WHERE false`, nil, func(rows pgx.Rows) error {
		var err error
		n, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
		return err
	}, `SELECT count(*) FROM tenants`)
	if err != nil || n != 0 {
		t.Errorf("without a tenant %d rows are seen, %v", n, err)
	}
	// The connections are as good as new.
	for range 8 {
		var n int
		if err := pool.QueryRow(ctx, `SELECT 1`).Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
}
