package tenants

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/prisma"
)

// importRows are connections with the first rows of their ledgers, column by column.
type importRows struct {
	tenants, ids      []string
	users, workspaces []string
	clients           []string
	access, refresh   [][]byte
	issued, expires   []time.Time

	replica      uuid.UUID
	at           time.Time
	key          uint32
	fingerprints [][]byte
	macs         [][]byte
	seals        [][]byte // of where the ledgers end
}

// add seals a line's pair as that of a new connection, and signs its ledger's first row.
func (r *importRows) add(s *Store, now time.Time, id ConnectionID, client string, l *ImportLine) error {
	issued, expires := l.times(now)
	access, refresh, err := s.sealPair(l.Tenant, id, 1, prisma.Tokens{Access: l.Access, Refresh: l.Refresh})
	if err != nil {
		return err
	}
	head := ledgerHead{chain: chain{tenant: l.Tenant, id: id}, now: now}
	row, err := s.signLedgerRow(&head, ledgerRow{entry: entryStored, generation: 1}, l.Refresh)
	if err != nil {
		return err
	}
	r.tenants, r.ids = append(r.tenants, l.Tenant.UUID.String()), append(r.ids, id.UUID.String())
	r.users, r.workspaces = append(r.users, l.UserID), append(r.workspaces, l.WorkspaceID)
	r.clients = append(r.clients, client)
	r.access, r.refresh = append(r.access, access), append(r.refresh, refresh)
	r.issued, r.expires = append(r.issued, issued), append(r.expires, expires)
	r.replica, r.at, r.key = row.replica, row.at, row.key
	r.fingerprints, r.macs = append(r.fingerprints, row.fingerprint), append(r.macs, row.mac)
	r.seals = append(r.seals, head.seal)
	return nil
}

// times says when the pair was issued and when its access token ends, as far as can be
// known. One of unknown end has ended: it is renewed when it is first needed.
func (l ImportLine) times(now time.Time) (issued, expires time.Time) {
	issued, expires = l.IssuedAt, l.ExpiresAt
	if expires.After(now.Add(importedLife)) {
		expires = now.Add(importedLife)
	}
	switch {
	case expires.IsZero() && issued.IsZero():
		return now.Add(-pairAge), now
	case expires.IsZero():
		expires = now
	case issued.IsZero():
		issued = expires.Add(-time.Hour)
	}
	if issued.After(now) {
		issued = now
	}
	if issued.After(expires) {
		issued = expires
	}
	return issued, expires
}

// insert writes the connections and their ledgers, in one round trip.
func (r *importRows) insert(ctx context.Context, tx pgx.Tx) error {
	var batch pgx.Batch
	batch.Queue(`
		INSERT INTO connections (tenant_id, id, user_id, workspace_id, oauth_client_id, status, generation,
			access_token_sealed, refresh_token_sealed, access_issued_at, access_expires_at,
			ledger_count, ledger_head, ledger_generation, ledger_seal, name_due)
		SELECT tenant_id::uuid, id::uuid, user_id, workspace_id, client, 'active', 1, access, refresh, issued, expires, 1, mac, 1, seal, true
		FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[],
			$8::timestamptz[], $9::timestamptz[], $10::bytea[], $11::bytea[])
			AS l (tenant_id, id, user_id, workspace_id, client, access, refresh, issued, expires, mac, seal)`,
		r.tenants, r.ids, r.users, r.workspaces, r.clients, r.access, r.refresh, r.issued, r.expires, r.macs, r.seals)
	batch.Queue(`
		INSERT INTO refresh_ledger (tenant_id, connection_id, sequence, entry, generation, attempt, late_retry,
			replica, at, fingerprint, key_id, mac, head_sealed)
		SELECT tenant_id::uuid, id::uuid, 1, 'stored', 1, 0, false, $3, $4, fingerprint, $5, mac, true
		FROM unnest($1::text[], $2::text[], $6::bytea[], $7::bytea[]) AS l (tenant_id, id, fingerprint, mac)`,
		r.tenants, r.ids, r.replica, r.at, int64(r.key), r.fingerprints, r.macs)
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return fmt.Errorf("store imported connections: %w", err)
	}
	return nil
}
