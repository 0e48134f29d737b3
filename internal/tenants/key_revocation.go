package tenants

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
)

// RevokeKey ends a key at once, and returns what rotation made out of it and is still
// live, the oldest first. Those go on: if the key leaked, whoever found it may hold
// them, and RevokeKeyAndSuccessors ends them too.
//
// fault.NotFound when the tenant has no such key. Revoking twice is no error.
func (s *Store) RevokeKey(ctx context.Context, by Actor, tenant TenantID, id KeyID) (live []Key, err error) {
	defer s.forgetCallers(tenant)
	err = s.inOperator(ctx, func(tx pgx.Tx) error {
		if err := endKeyNow(ctx, tx, tenant, id); err != nil {
			return err
		}
		if live, err = successors(ctx, tx, tenant, id, isLive); err != nil {
			return err
		}
		return s.record(ctx, tx, tenant, by, change{action: auditKeyRevoked, target: id.String()})
	})
	return live, err
}

// RevokeKeyAndSuccessors ends a key and all that rotation made out of it, in one
// transaction with an audit row for each, and returns the successors that were live, the
// oldest first. A rotation at the same moment does not get away: either its successor is
// found, or it finds its key revoked.
//
// fault.NotFound when the tenant has no such key. Revoking twice is no error.
func (s *Store) RevokeKeyAndSuccessors(ctx context.Context, by Actor, tenant TenantID, id KeyID) (ended []Key, err error) {
	defer s.forgetCallers(tenant)
	err = s.inOperator(ctx, func(tx pgx.Tx) error {
		ended = nil
		if err := endKeyNow(ctx, tx, tenant, id); err != nil {
			return err
		}
		changes := []change{{action: auditKeyRevoked, target: id.String()}}
		// A rotation locks its key until it commits, and ending the key waits for that. Only
		// a later statement sees the successor, so this looks again until there is none. Keys
		// whose time is over are ended too: a rotation that began before may be at work on one.
		for {
			found, err := successors(ctx, tx, tenant, id, `revoked_at IS NULL`)
			if err != nil {
				return err
			}
			if len(found) == 0 {
				break
			}
			live, err := successors(ctx, tx, tenant, id, isLive)
			if err != nil {
				return err
			}
			for _, key := range found {
				if slices.ContainsFunc(live, func(k Key) bool { return k.ID == key.ID }) {
					ended = append(ended, key)
				}
				if err := endKeyNow(ctx, tx, tenant, key.ID); err != nil {
					return err
				}
				changes = append(changes, change{
					action: auditKeyRevoked, target: key.ID.String(), data: map[string]any{"successorOf": id.String()},
				})
			}
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

// isLive is the condition of a key that lets its holder in.
const isLive = `revoked_at IS NULL AND (expires_at IS NULL OR expires_at > app.now())`

// successors returns those of a key's successors and theirs that meet a condition, the
// oldest first. It looks past the others: what they had made goes on.
func successors(ctx context.Context, tx pgx.Tx, tenant TenantID, id KeyID, condition string) ([]Key, error) {
	rows, err := tx.Query(ctx, `
		WITH RECURSIVE chain (id) AS (
			SELECT $2::uuid
			UNION
			SELECT k.id FROM api_keys k JOIN chain ON k.succeeds = chain.id WHERE k.tenant_id = $1)`+selectKey+`
		WHERE tenant_id = $1 AND id IN (SELECT id FROM chain) AND id <> $2 AND `+condition+`
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
