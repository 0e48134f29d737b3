package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Read runs one query of a tenant in one round trip: settings and query are a
// batch, which Postgres runs as one transaction that ends with it. collect reads
// the rows; its error is returned unchanged.
//
// It is for reads. What changes something, or looks twice, takes InTx.
func Read(ctx context.Context, pool *pgxpool.Pool, scope Scope, collect func(rows pgx.Rows) error, sql string, args ...any) error {
	return batch(ctx, pool, scope, collect, func(b *pgx.Batch) {
		b.Queue(`SELECT set_config('app.tenant', $1, true), set_config('statement_timeout', $2, true)`,
			tenantSetting(scope), statementSetting(scope))
		b.Queue(sql, args...)
	})
}

// ReadFound is Read for a tenant that has yet to be found: find is a query of at
// most one row with the tenant's id, such as one of the SECURITY DEFINER look-ups,
// and sql runs in the scope of that tenant. If there is none, it runs in the scope
// of a tenant that doesn't exist and sees nothing.
func ReadFound(ctx context.Context, pool *pgxpool.Pool, find string, findArgs []any,
	collect func(rows pgx.Rows) error, sql string, args ...any,
) error {
	return batch(ctx, pool, Scope{}, collect, func(b *pgx.Batch) {
		b.Queue(`SELECT set_config('app.tenant', coalesce((`+find+`), '`+uuid.Nil.String()+`')::text, true),
			set_config('statement_timeout', '`+statementSetting(Scope{})+`', true)`, findArgs...)
		b.Queue(sql, args...)
	})
}

func batch(ctx context.Context, pool *pgxpool.Pool, scope Scope, collect func(rows pgx.Rows) error, fill func(*pgx.Batch)) error {
	conn, err := acquire(ctx, pool)
	if err != nil {
		return err
	}
	defer conn.Release()
	// The server's own limit ends the statement; this one is for a server that is
	// gone without a word.
	within, cancel := context.WithTimeout(ctx, scope.statement()+beginWithin)
	defer cancel()
	var b pgx.Batch
	fill(&b)
	results := conn.SendBatch(within, &b)
	if _, err := results.Exec(); err != nil {
		return errors.Join(fmt.Errorf("begin: %w", silent(within, ctx, err)), results.Close())
	}
	rows, err := results.Query()
	if err != nil {
		return errors.Join(fmt.Errorf("query: %w", silent(within, ctx, err)), results.Close())
	}
	err = collect(rows)
	rows.Close()
	if err != nil {
		_ = results.Close() // says the same again, if anything
		return silent(within, ctx, err)
	}
	if err := errors.Join(rows.Err(), results.Close()); err != nil {
		return fmt.Errorf("query: %w", silent(within, ctx, err))
	}
	return nil
}

// tenantSetting is the scope's app.tenant; "" makes every policy fail.
func tenantSetting(scope Scope) string {
	if scope.Tenant == uuid.Nil {
		return ""
	}
	return scope.Tenant.String()
}

func statementSetting(scope Scope) string {
	return strconv.FormatInt(scope.statement().Milliseconds(), 10)
}

func (s Scope) statement() time.Duration {
	if s.Statement == 0 {
		return 5 * time.Second
	}
	return s.Statement
}
