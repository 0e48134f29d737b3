package tenants

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
)

// RevokeKey ends a key at once, and returns what rotation made out of it and is still
// live, the oldest first. Those go on: if the key leaked, whoever found it may hold
// them, and RevokeKeyAndSuccessors ends them too.
//
// fault.NotFound when the tenant has no such key. Revoking twice is no error.
func (s *Store) RevokeKey(ctx context.Context, by Actor, tenant TenantID, id KeyID) (live []Key, err error) {
	err = s.inOperator(ctx, func(tx pgx.Tx) error {
		if err := endKeyNow(ctx, tx, tenant, id); err != nil {
			return err
		}
		if live, err = liveSuccessors(ctx, tx, tenant, id); err != nil {
			return err
		}
		return s.record(ctx, tx, tenant, by, change{action: auditKeyRevoked, target: id.String()})
	})
	return live, err
}

// RevokeKeyAndSuccessors ends a key and all that rotation made out of it, in one
// transaction with an audit row for each, and returns the successors that it ended, the
// oldest first. A rotation at the same moment does not get away: either its successor is
// found, or it finds its key revoked.
//
// fault.NotFound when the tenant has no such key. Revoking twice is no error.
func (s *Store) RevokeKeyAndSuccessors(ctx context.Context, by Actor, tenant TenantID, id KeyID) (ended []Key, err error) {
	err = s.inOperator(ctx, func(tx pgx.Tx) error {
		ended = nil
		if err := endKeyNow(ctx, tx, tenant, id); err != nil {
			return err
		}
		changes := []change{{action: auditKeyRevoked, target: id.String()}}
		// A rotation locks its key until it commits, and ending the key waits for that. Only
		// a later statement sees the successor, so this looks again until there is none.
		for {
			live, err := liveSuccessors(ctx, tx, tenant, id)
			if err != nil {
				return err
			}
			if len(live) == 0 {
				break
			}
			for _, key := range live {
				if err := endKeyNow(ctx, tx, tenant, key.ID); err != nil {
					return err
				}
				changes = append(changes, change{
					action: auditKeyRevoked, target: key.ID.String(), data: map[string]any{"successorOf": id.String()},
				})
			}
			ended = append(ended, live...)
		}
		_, err := s.recordAll(ctx, tx, tenant, by, changes) // last: rotations lock keys before they write down, too
		return err
	})
	return ended, err
}

// endKeyNow ends a key, if it has not been revoked before.
func endKeyNow(ctx context.Context, tx pgx.Tx, tenant TenantID, id KeyID) error {
	tag, err := tx.Exec(ctx, `
		UPDATE api_keys SET revoked_at = coalesce(revoked_at, app.now()) WHERE tenant_id = $1 AND id = $2`, tenant, id)
	if err != nil {
		return fmt.Errorf("revoke key: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return fault.New(fault.NotFound, "There is no such key.", nil)
	}
	return nil
}

// liveSuccessors returns the live keys among a key's successors and theirs, the oldest
// first. It looks past those that have ended: what they had made goes on.
func liveSuccessors(ctx context.Context, tx pgx.Tx, tenant TenantID, id KeyID) ([]Key, error) {
	rows, err := tx.Query(ctx, `
		WITH RECURSIVE chain (id) AS (
			SELECT $2::uuid
			UNION
			SELECT k.id FROM api_keys k JOIN chain ON k.succeeds = chain.id WHERE k.tenant_id = $1)`+selectKey+`
		WHERE tenant_id = $1 AND id IN (SELECT id FROM chain) AND id <> $2
		  AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > app.now())
		ORDER BY id`, tenant, id)
	if err != nil {
		return nil, fmt.Errorf("read successors: %w", err)
	}
	keys, err := pgx.CollectRows(rows, scanKey)
	if err != nil {
		return nil, fmt.Errorf("read successors: %w", err)
	}
	return keys, nil
}
