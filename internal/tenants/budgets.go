package tenants

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/postgres"
)

// budgetStatement is short: callers wait for the answer.
const budgetStatement = time.Second

// Loan is a slice of a tenant's budget.
type Loan struct {
	Granted  int     // tokens that are the borrower's now; fewer than wanted when the bucket is empty
	Left     float64 // what the bucket holds after it
	Replicas int     // those that beat, 0 when none does
	Rank     int     // of this one among them, from 0
}

// BorrowBudget takes up to want tokens out of a tenant's bucket, which fills at that
// rate by the database's clock; a bucket that nobody used yet is full. It is one
// statement in one round trip. A loan whose answer is lost is lost with it: never is
// a token lent twice.
func (s *Store) BorrowBudget(ctx context.Context, tenant TenantID, budget Budget, rate Rate, want int) (Loan, error) {
	var loan Loan
	collect := func(rows pgx.Rows) error {
		var err error
		loan, err = pgx.CollectExactlyOneRow(rows, func(row pgx.CollectableRow) (Loan, error) {
			var l Loan
			err := row.Scan(&l.Granted, &l.Left, &l.Replicas, &l.Rank)
			return l, err
		})
		return err
	}
	// The clock is read in a sub-select of its own, once: time that passes while the row
	// is locked by another replica is lent by whoever comes next. Whoever waited for that
	// lock may have read it before the other did. A row from further ahead is of a clock that
	// was set back since: the bucket fills from here on, or nobody got anything until then.
	err := postgres.Read(ctx, s.entryPool, postgres.Scope{Tenant: tenant.UUID, Statement: budgetStatement}, collect, `
		INSERT INTO rate_budgets AS b (tenant_id, budget, tokens, lent, at)
		VALUES ($1, $2, $4::int - least($5::int, $4), least($5, $4), app.wall_clock())
		ON CONFLICT (tenant_id, budget) DO UPDATE SET (tokens, lent, at) = (
			SELECT f.tokens - least($5, floor(f.tokens)), least($5, floor(f.tokens)), f.at
			FROM (
				SELECT c.at, least($4::float8, b.tokens + $3::int * greatest(extract(epoch FROM c.at - b.at)::float8, 0)) AS tokens
				FROM (
					SELECT CASE WHEN b.at > w.now + interval '2 seconds' THEN w.now ELSE greatest(b.at, w.now) END AS at
					FROM (SELECT app.wall_clock() AS now) AS w) AS c) AS f)
		RETURNING b.lent, b.tokens, (
			SELECT count(*) FROM app.replicas r WHERE r.beat_at + $6::int * r.beat_every >= app.wall_clock()), (
			SELECT count(*) FROM app.replicas r WHERE r.beat_at + $6::int * r.beat_every >= app.wall_clock() AND r.id < $7)`,
		tenant, budget, rate.PerSecond, rate.Burst, want, missedBeats, s.replica)
	s.fence.notice(err)
	if err != nil {
		return Loan{}, fmt.Errorf("borrow budget: %w", err)
	}
	return loan, nil
}
