package tenants

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// AppendUnsealed adds an attempt that was not sent to a connection's chain, as the version
// before the seals does.
func (s *Store) AppendUnsealed(ctx context.Context, tenant TenantID, id ConnectionID) error {
	return s.inOperator(ctx, func(tx pgx.Tx) error {
		head, err := chain{tenant, id}.lockLedgerHead(ctx, tx)
		if err != nil {
			return err
		}
		begun := head.count + 1
		for _, row := range []ledgerRow{{entry: entryBegun}, {entry: entryNotSent, attempt: begun}} {
			row.sequence, row.generation, row.key = head.count+1, head.stored, s.keyset.FingerprintKey()
			row.at = head.now.Truncate(time.Microsecond)
			if row.mac, _, err = s.keyset.MAC(ledgerRowPurpose, row.message(head.chain, head.mac)...); err != nil {
				return err
			}
			head.count, head.mac = row.sequence, row.mac
			_, err := tx.Exec(ctx, `
				WITH entry AS (
					INSERT INTO refresh_ledger (tenant_id, connection_id, sequence, entry, generation, attempt, late_retry,
						replica, at, key_id, mac)
					VALUES ($1, $2, $3, $4, $5, $6, false, $7, $8, $9, $10))
				UPDATE connections SET ledger_count = $3, ledger_head = $10 WHERE tenant_id = $1 AND id = $2`,
				tenant, id, row.sequence, row.entry, row.generation, row.attempt, row.replica, row.at, int64(row.key), row.mac)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// RecordUnsealed adds a row to a tenant's audit log and one to the admin log, as the version
// before the seals does.
func (s *Store) RecordUnsealed(ctx context.Context, tenant TenantID) error {
	return s.inOperator(ctx, func(tx pgx.Tx) error {
		head, err := lockAuditHead(ctx, tx, tenant)
		if err != nil {
			return err
		}
		row := auditRow{
			sequence: head.audit + 1, at: head.now.Truncate(time.Microsecond), actorType: ActorSystem, action: "tenant.update", details: "{}",
		}
		mac, key, err := s.keyset.MAC(auditRowPurpose, row.message(tenant, head.mac, &coverage{})...)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			WITH entry AS (
				INSERT INTO audit_log (tenant_id, at, actor_type, sequence, action, target, key_id, mac)
				VALUES ($1, $2, $3, $4, $5, '', $6, $7))
			UPDATE tenant_sequences SET audit = $4, audit_chained = $4, audit_head = $7 WHERE tenant_id = $1`,
			tenant, row.at, row.actorType, row.sequence, row.action, int64(key), mac)
		if err != nil {
			return err
		}
		return s.logAdminUnsealed(ctx, tx)
	})
}

func (s *Store) logAdminUnsealed(ctx context.Context, tx pgx.Tx) error {
	row := adminRow{actorType: "system", action: "fence.accept", details: "{}", chained: new(int64)}
	var head []byte
	var before time.Time
	err := tx.QueryRow(ctx, `SELECT app.now(), chained + 1, head, covered FROM admin_log_head`).Scan(&row.at, row.chained, &head, &before)
	if err != nil {
		return err
	}
	until := covers(before, row.at)
	covered, err := coverAdminRows(ctx, tx, before, until)
	if err != nil {
		return err
	}
	mac, key, err := s.keyset.MAC(adminRowPurpose, row.message(head, &covered)...)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		WITH head AS (UPDATE admin_log_head SET chained = $4, head = $6, covered = $7)
		INSERT INTO admin_log (at, actor_type, action, chained, key_id, mac) VALUES ($1, $2, $3, $4, $5, $6)`,
		row.at, row.actorType, row.action, *row.chained, int64(key), mac, until)
	return err
}

// ForgetCallers does what a heard change of the tenant does.
func (s *Store) ForgetCallers(tenant TenantID) { s.forgetCallers(tenant) }

// RememberedKeys bounds what a Store remembers of keys.
const RememberedKeys = rememberedKeys

// Remembered counts it.
func (s *Store) Remembered() int {
	s.callers.keys.CleanUp()
	return s.callers.keys.EstimatedSize()
}

// Present asks the cache for a key, past the database.
func (s *Store) Present(ctx context.Context, key string, ask func(ctx context.Context) error) error {
	_, err := s.callers.get(ctx, key, func(ctx context.Context) (presented, error) {
		return presented{holds: unlimited}, ask(ctx)
	})
	return err
}
