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
