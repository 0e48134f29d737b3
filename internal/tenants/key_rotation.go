package tenants

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
)

// KeyOverlap is how long a rotated key usually goes on beside its successor: a day for
// everything that holds it to get the new one. MaxKeyOverlap is the most.
const (
	KeyOverlap    = 24 * time.Hour
	MaxKeyOverlap = 7 * 24 * time.Hour
)

// NewRotation says how a key is rotated.
type NewRotation struct {
	Overlap time.Duration // how long the old key goes on; 0 ends it at once
	Name    string        // of the successor; "": the old key's
}

// Rotation is what RotateKey made.
type Rotation struct {
	Key     Key       // the successor
	Secret  string    // its only copy
	OldEnds time.Time // when the key that made it ends
}

// keyInChain is a live key with what rotation asks of it.
type keyInChain struct {
	name     string
	scopes   []Scope
	succeeds *uuid.UUID
}

// RotateKey has a live key make its successor, of the same scopes and lifetime, and lets
// the key itself go on for the overlap, if it does not end before. A refused value is a
// fault.InvalidValue.
//
// Of a chain two keys at most are live, so a key whose predecessor is live, or whose
// successor has been used, gets a fault.Conflict. A successor that was never used is
// replaced instead, for the answer with it may have been lost: its secret is void from
// then on, and the end of the old key is not put off. A key that has ended
// meanwhile is a fault.Unauthorized.
func (s *Store) RotateKey(ctx context.Context, by Actor, tenant TenantID, id KeyID, in NewRotation) (Rotation, error) {
	if in.Name != "" && !IsLabel(in.Name, 120) {
		return Rotation{}, fault.New(fault.InvalidValue, "The key's name can't be used.", nil).
			WithField("/name", "Use 1 to 120 printable characters.")
	}
	if in.Overlap < 0 || in.Overlap > MaxKeyOverlap {
		return Rotation{}, fault.New(fault.InvalidValue, "The old key can't go on for that long.", nil).
			WithField("/expiresInSeconds", fmt.Sprintf("Use 0 to %d seconds.", int(MaxKeyOverlap.Seconds())))
	}
	secret, hash, err := s.newAPIKey()
	if err != nil {
		return Rotation{}, err
	}
	made := Rotation{Secret: secret}
	made.Key.Hint = made.Secret[:apiKeyHint]
	defer s.forgetCallers(tenant)
	err = s.inOperator(ctx, func(tx pgx.Tx) error {
		old, err := keyToRotate(ctx, tx, tenant, id)
		if err != nil {
			return err
		}
		made.Key.Name, made.Key.Scopes, made.Key.Succeeds = cmp.Or(in.Name, old.name), old.scopes, id
		if err := refusePredecessor(ctx, tx, tenant, old); err != nil {
			return err
		}
		lifetime, err := endKey(ctx, tx, tenant, id, in.Overlap, &made)
		if err != nil {
			return err
		}
		if err := putSuccessor(ctx, tx, tenant, &made, hash, lifetime); err != nil {
			return err
		}
		data := made.Key.details() // of the successor; the key itself ends
		data["successor"], data["ends"] = made.Key.ID.String(), made.OldEnds.UTC()
		return s.record(ctx, tx, tenant, by, change{action: auditKeyRotated, target: id.String(), data: data})
	})
	if err != nil {
		return Rotation{}, err
	}
	return made, nil
}

// keyToRotate locks a live key.
func keyToRotate(ctx context.Context, tx pgx.Tx, tenant TenantID, id KeyID) (keyInChain, error) {
	var k keyInChain
	err := tx.QueryRow(ctx, `
		SELECT name, scopes, succeeds FROM api_keys
		WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > app.now())
		FOR UPDATE`, tenant, id).Scan(&k.name, &k.scopes, &k.succeeds)
	if errors.Is(err, pgx.ErrNoRows) {
		return k, fault.New(fault.Unauthorized, keyRefused, nil)
	}
	if err != nil {
		return k, fmt.Errorf("read key: %w", err)
	}
	return k, nil
}

// refusePredecessor refuses the third key of a chain while two are live.
func refusePredecessor(ctx context.Context, tx pgx.Tx, tenant TenantID, k keyInChain) error {
	if k.succeeds == nil {
		return nil
	}
	var left time.Duration
	err := tx.QueryRow(ctx, `
		SELECT expires_at - app.now() FROM api_keys
		WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL AND expires_at > app.now()`,
		tenant, k.succeeds).Scan(&left)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the key before: %w", err)
	}
	return fault.New(fault.Conflict,
		"The key that this one replaced is still live, and of a rotation two keys may be. Wait until it ends, or have it revoked.", nil).
		WithRetryAfter(left)
}

// endKey sets the end of a key that gets a successor, and returns how long that lives;
// nil: for ever.
func endKey(ctx context.Context, tx pgx.Tx, tenant TenantID, id KeyID, overlap time.Duration, made *Rotation,
) (*time.Duration, error) {
	var lifetime *time.Duration
	// Keys of earlier versions have no lifetime; the end that they were made with tells it.
	err := tx.QueryRow(ctx, `
		UPDATE api_keys SET
			lifetime = CASE WHEN rotated_at IS NULL THEN coalesce(lifetime, expires_at - created_at) ELSE lifetime END,
			rotated_at = coalesce(rotated_at, app.now()),
			expires_at = least(expires_at, app.now() + $3::interval)
		WHERE tenant_id = $1 AND id = $2 RETURNING lifetime, expires_at`,
		tenant, id, overlap).Scan(&lifetime, &made.OldEnds)
	if err != nil {
		return nil, fmt.Errorf("end key: %w", err)
	}
	return lifetime, nil
}

// putSuccessor stores the new key: in the row of one that was never used, if the key
// has made one before.
func putSuccessor(ctx context.Context, tx pgx.Tx, tenant TenantID, made *Rotation, hash []byte, lifetime *time.Duration) error {
	var used, expires *time.Time
	err := tx.QueryRow(ctx, `
		SELECT id, last_used_at FROM api_keys WHERE tenant_id = $1 AND succeeds = $2 AND revoked_at IS NULL FOR UPDATE`,
		tenant, made.Key.Succeeds).Scan(&made.Key.ID, &used)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		made.Key.ID = KeyID{newID()}
		err = tx.QueryRow(ctx, `
			INSERT INTO api_keys (tenant_id, id, name, hint, key_hash, scopes, succeeds, lifetime, expires_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8::interval, app.now() + $8::interval) RETURNING created_at, expires_at`,
			tenant, made.Key.ID, made.Key.Name, made.Key.Hint, hash, made.Key.Scopes, made.Key.Succeeds, lifetime).
			Scan(&made.Key.CreatedAt, &expires)
	case err == nil && used != nil:
		return fault.New(fault.Conflict, "This key has a successor already, which has been used: go on with that one.", nil)
	case err == nil:
		err = tx.QueryRow(ctx, `
			UPDATE api_keys SET name = $5, hint = $3, key_hash = $4, expires_at = app.now() + lifetime, created_at = app.now()
			WHERE tenant_id = $1 AND id = $2 RETURNING created_at, expires_at`,
			tenant, made.Key.ID, made.Key.Hint, hash, made.Key.Name).
			Scan(&made.Key.CreatedAt, &expires)
	}
	if err != nil {
		return fmt.Errorf("store successor: %w", err)
	}
	made.Key.ExpiresAt = timeOr(expires)
	return nil
}
