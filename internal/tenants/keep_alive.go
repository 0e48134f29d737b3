package tenants

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// KeepAliveJob looks after the connections that nobody calls.
type KeepAliveJob struct{}

// Kind is the job's name in the queue.
func (KeepAliveJob) Kind() string { return "keep_alive" }

const (
	// keepAliveSpread is how far to both sides connections are spread around the time
	// at which they are kept alive, and keepAliveShare which part of that time at most.
	keepAliveSpread = 5 * 24 * time.Hour
	keepAliveShare  = 12
	// tendBatch bounds one look for connections to tend.
	tendBatch = 100
)

// Tending says what an unused connection needs.
type Tending string

// What it may need.
const (
	// TendRenew: its refresh token grows old. It is exchanged.
	TendRenew Tending = "renew"
	// TendSettle: its access token has ended with its fate open, or with nothing to
	// renew it. Asking for an access token decides.
	TendSettle Tending = "settle"
	// TendConfirm: it holds a pair that was stored late. A look at Prisma decides.
	TendConfirm Tending = "confirm"
)

// Tended is a connection that nobody calls and that needs something.
type Tended struct {
	Tenant     TenantID
	Connection ConnectionID
	Needs      Tending
}

// selectTended finds the unused connections. Tenants take turns. Where in the spread a
// connection lies its id decides, which is random at its end.
const selectTended = `
	SELECT tenant_id, id, needs FROM (
		SELECT tenant_id, id, needs, since, row_number() OVER (PARTITION BY tenant_id ORDER BY since, id) AS turn FROM (
			SELECT tenant_id, id, 'renew' AS needs, access_issued_at AS since FROM connections
			WHERE status = 'active' AND access_issued_at <= app.now() - $1::interval AND refresh_token_sealed IS NOT NULL
			  AND intent_generation IS NULL
			  AND access_issued_at <= app.now() - $1::interval - $2::interval
			      * ((get_byte(uuid_send(id), 14) * 256 + get_byte(uuid_send(id), 15)) / 65536.0)
			  AND (tended_not_before IS NULL OR tended_not_before <= app.now())
			UNION ALL
			SELECT tenant_id, id, CASE WHEN status = 'suspect' AND intent_generation IS NULL THEN 'confirm' ELSE 'settle' END,
			       access_expires_at FROM connections
			WHERE (status = 'suspect' OR status = 'active' AND (refresh_token_sealed IS NULL OR intent_generation IS NOT NULL))
			  AND CASE WHEN status = 'suspect' AND intent_generation IS NULL THEN updated_at <= app.now() - $3::interval
			           ELSE access_expires_at <= app.now() END
			  AND (lease_until IS NULL OR lease_until <= app.now())
			  AND (refresh_not_before IS NULL OR refresh_not_before <= app.now())
			  AND (tended_not_before IS NULL OR tended_not_before <= app.now())
		) AS needy WHERE NOT tenant_id = ANY ($5)
	) AS turns ORDER BY turn, since, id LIMIT $4`

// UnusedConnections returns up to 100 connections of all tenants that nobody calls and
// that need something: those whose tokens were renewed renewAfter ago, give or take 5
// days or a twelfth of it, and those whose fate is open though their access token has
// ended. Those that BeginTending put off are left out, and those of the tenants to skip.
func (s *Store) UnusedConnections(ctx context.Context, renewAfter time.Duration, skip []TenantID) ([]Tended, error) {
	skipped := make([]uuid.UUID, 0, len(skip))
	for _, id := range skip {
		skipped = append(skipped, id.UUID)
	}
	spread := min(keepAliveSpread, renewAfter/keepAliveShare)
	var list []Tended
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, selectTended, renewAfter-spread, 2*spread, s.leaseFor, tendBatch, skipped)
		if err != nil {
			return fmt.Errorf("find unused connections: %w", err)
		}
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Tended, error) {
			var d Tended
			err := row.Scan(&d.Tenant, &d.Connection, &d.Needs)
			return d, err
		})
		return err
	})
	return list, err
}

// BeginTending puts a connection off, for about that long, give or take a quarter, and
// reports whether it was still there to tend: a job that fails with it, however it
// fails, does not come back to it before.
func (s *Store) BeginTending(ctx context.Context, d Tended, putOff time.Duration) (bool, error) {
	begun := false
	err := s.inTenant(ctx, d.Tenant, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE connections SET tended_not_before = app.now() + $3::interval * (0.75 + random() / 2)
			WHERE tenant_id = $1 AND id = $2 AND status IN ('active', 'suspect')
			  AND (tended_not_before IS NULL OR tended_not_before <= app.now())`,
			d.Tenant, d.Connection, putOff)
		if err != nil {
			return fmt.Errorf("begin to tend: %w", err)
		}
		begun = tag.RowsAffected() == 1
		return nil
	})
	return begun, err
}
