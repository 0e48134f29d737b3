package tenants

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// CheckEvery is the least time between two looks at a connection at Prisma.
const CheckEvery = 10 * time.Second

// Finding is what a look at a connection at Prisma came to.
type Finding string

// The findings; their texts are those of the column.
const (
	FindingNothing     Finding = "nothing"     // the row itself says what there is to say
	FindingWorks       Finding = "works"       // Prisma took the access token
	FindingRefused     Finding = "refused"     // it did not
	FindingUnreachable Finding = "unreachable" // its API gave no usable answer
	FindingNotRenewed  Finding = "not_renewed" // the access token had ended and could not be renewed
)

// BeginCheck returns a connection and whether it is the caller's to look at it at
// Prisma: not within CheckEvery of another look, and not if it needs a reconnect, which
// a look could not change. fault.NotFound: as Connection.
func (s *Store) BeginCheck(ctx context.Context, tenant TenantID, id ConnectionID) (Connection, bool, error) {
	var c Connection
	begun := false
	err := s.inTenant(ctx, tenant, func(tx pgx.Tx) error {
		var err error
		if c, err = connectionRow(ctx, tx, tenant, id, ""); err != nil || c.Status == ConnectionNeedsReconnect {
			return err
		}
		tag, err := tx.Exec(ctx, `
			UPDATE connections SET check_begun_at = app.now()
			WHERE tenant_id = $1 AND id = $2 AND status IN ('active', 'suspect')
			  AND (check_begun_at IS NULL OR check_begun_at <= app.now() - $3::interval)`, tenant, id, CheckEvery)
		if err != nil {
			return fmt.Errorf("begin check: %w", err)
		}
		begun = tag.RowsAffected() == 1
		return nil
	})
	return c, begun, err
}

// EndCheck notes what a look found at the connection that BeginCheck returned, and
// returns the connection as it is now.
//
// If Prisma took its access token, a suspect connection whose fate was open for no
// other reason is active again, and the audit log says who found out: it holds a pair
// that was stored late, when somebody else might have sent its predecessor once more,
// which would have ended it. That is certain only when no such request can be under
// way any more.
func (s *Store) EndCheck(ctx context.Context, by Actor, checked Connection, found Finding) (Connection, error) {
	var c Connection
	err := s.inTenant(ctx, checked.Tenant, func(tx pgx.Tx) error {
		confirmed := false
		if found == FindingWorks {
			tag, err := tx.Exec(ctx, `
				UPDATE connections SET status = 'active', status_since = app.now(), updated_at = app.now()
				WHERE tenant_id = $1 AND id = $2 AND generation = $3 AND status = 'suspect'
				  AND intent_generation IS NULL AND updated_at <= app.now() - $4::interval`,
				checked.Tenant, checked.ID, checked.Generation, s.leaseFor)
			if err != nil {
				return fmt.Errorf("confirm connection: %w", err)
			}
			confirmed = tag.RowsAffected() == 1
		}
		_, err := tx.Exec(ctx, `
			UPDATE connections SET checked_at = app.now(), check_generation = generation, check_finding = $3
			WHERE tenant_id = $1 AND id = $2 AND status <> 'disconnected'`, checked.Tenant, checked.ID, found)
		if err != nil {
			return fmt.Errorf("end check: %w", err)
		}
		if c, err = connectionRow(ctx, tx, checked.Tenant, checked.ID, ""); err != nil || !confirmed {
			return err
		}
		return s.record(ctx, tx, checked.Tenant, by, change{action: auditConfirmed, target: checked.ID.String(), data: map[string]any{
			"connectionId": checked.ID.String(), "generation": checked.Generation,
		}})
	})
	return c, err
}
