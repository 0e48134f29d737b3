package tenants

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/postgres"
)

// Scope is a right of an API key.
type Scope string

// The scopes.
const (
	ScopeRead        Scope = "read"        // see connections, projects, databases
	ScopeWrite       Scope = "write"       // create, change and delete them
	ScopeConnect     Scope = "connect"     // begin and complete connect sessions
	ScopePassthrough Scope = "passthrough" // call Prisma's API as the user
)

// AllScopes returns every scope.
func AllScopes() []Scope { return []Scope{ScopeRead, ScopeWrite, ScopeConnect, ScopePassthrough} }

// Key is what can be known of an API key after it was shown.
type Key struct {
	ID         KeyID
	Name       string
	Hint       string // the key's first characters
	Scopes     []Scope
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	RevokedAt  time.Time // zero: live
	LastUsedAt time.Time // zero: never; to the minute
	Succeeds   KeyID     // the key that made it by rotation; zero: none
}

// Caller is an authenticated partner backend.
type Caller struct {
	Tenant Tenant
	Key    KeyID
	Scopes []Scope
}

// May reports whether the caller's key has that scope.
func (c Caller) May(scope Scope) bool { return slices.Contains(c.Scopes, scope) }

// CreateKey makes an API key and returns it with the only copy of its secret.
// scopes must not be empty; expires zero means never.
func (s *Store) CreateKey(ctx context.Context, by Actor, tenant TenantID, name string, scopes []Scope, expires time.Time,
) (Key, string, error) {
	if !IsLabel(name, 120) {
		return Key{}, "", fault.New(fault.InvalidValue, "The key's name needs 1 to 120 printable characters.", nil)
	}
	for _, scope := range scopes {
		if !slices.Contains(AllScopes(), scope) {
			return Key{}, "", fault.New(fault.InvalidValue, "The scopes are read, write, connect and passthrough.", nil)
		}
	}
	if len(scopes) == 0 {
		return Key{}, "", fault.New(fault.InvalidValue, "A key needs at least one scope.", nil)
	}
	secret, hash, err := s.newAPIKey()
	if err != nil {
		return Key{}, "", err
	}
	key := Key{ID: KeyID{newID()}, Name: name, Hint: secret[:apiKeyHint], Scopes: scopes, ExpiresAt: expires}
	err = s.inOperator(ctx, func(tx pgx.Tx) error {
		if _, err := tenantRow(ctx, tx, tenant, ""); err != nil {
			return err
		}
		err := tx.QueryRow(ctx, `
			INSERT INTO api_keys (tenant_id, id, name, hint, key_hash, scopes, expires_at, lifetime)
			VALUES ($1, $2, $3, $4, $5, $6, $7::timestamptz, $7::timestamptz - app.now()) RETURNING created_at`,
			tenant, key.ID, name, key.Hint, hash, scopes, nullTime(expires)).Scan(&key.CreatedAt)
		if err != nil {
			return fmt.Errorf("insert key: %w", err)
		}
		return s.record(ctx, tx, tenant, by, change{action: auditKeyCreated, target: key.ID.String(), data: key.details()})
	})
	return key, secret, err
}

const selectKey = `
	SELECT id, name, hint, scopes, created_at, expires_at, revoked_at, last_used_at, succeeds FROM api_keys`

func scanKey(row pgx.CollectableRow) (Key, error) {
	var k Key
	var expires, revoked, used *time.Time
	var succeeds *uuid.UUID
	err := row.Scan(&k.ID, &k.Name, &k.Hint, &k.Scopes, &k.CreatedAt, &expires, &revoked, &used, &succeeds)
	k.ExpiresAt, k.RevokedAt, k.LastUsedAt = timeOr(expires), timeOr(revoked), timeOr(used)
	if succeeds != nil {
		k.Succeeds = KeyID{*succeeds}
	}
	return k, err
}

// Keys lists a tenant's keys, the newest first.
func (s *Store) Keys(ctx context.Context, tenant TenantID) ([]Key, error) {
	var keys []Key
	err := s.read(ctx, tenant, func(rows pgx.Rows) error {
		var err error
		keys, err = pgx.CollectRows(rows, scanKey)
		return err
	}, selectKey+` WHERE tenant_id = $1 ORDER BY id DESC`, tenant)
	return keys, err
}

// Key returns one of a tenant's keys; fault.NotFound when there is none such.
func (s *Store) Key(ctx context.Context, tenant TenantID, id KeyID) (Key, error) {
	var key Key
	err := s.read(ctx, tenant, func(rows pgx.Rows) error {
		var err error
		key, err = pgx.CollectExactlyOneRow(rows, scanKey)
		return err
	}, selectKey+` WHERE tenant_id = $1 AND id = $2`, tenant, id)
	if errors.Is(err, pgx.ErrNoRows) {
		return Key{}, fault.New(fault.NotFound, "There is no such key.", nil)
	}
	return key, err
}

// keyRefused is said of every key that is not good, whatever is wrong with it.
const keyRefused = "The API key is missing or not valid."

// Authenticate returns who presents an API key, as the database said within CacheFor.
// Unknown, revoked, expired and malformed keys, and keys of a paused tenant, give the
// same fault.Unauthorized; a malformed one costs no query.
func (s *Store) Authenticate(ctx context.Context, key string) (Caller, error) {
	if s.callers == nil {
		return s.AuthenticateAnew(ctx, key)
	}
	return s.authenticate(key, func() (presented, error) {
		return s.callers.get(ctx, key, func(ctx context.Context) (presented, error) { return s.readCaller(ctx, key) })
	})
}

// AuthenticateAnew is Authenticate that asks the database now, for calls that began a
// while ago.
func (s *Store) AuthenticateAnew(ctx context.Context, key string) (Caller, error) {
	return s.authenticate(key, func() (presented, error) { return s.readCaller(ctx, key) })
}

func (*Store) authenticate(key string, ask func() (presented, error)) (Caller, error) {
	refused := fault.New(fault.Unauthorized, keyRefused, nil)
	if !IsAPIKey(key) {
		return Caller{}, refused
	}
	p, err := ask()
	if err != nil {
		return Caller{}, err
	}
	if !p.good || p.caller.Tenant.Paused {
		return Caller{}, refused
	}
	return p.caller, nil
}

// unlimited is how long a key holds that has no end.
const unlimited = math.MaxInt64

// readCaller finds a live key with its tenant, in one round trip, and notes its use.
func (s *Store) readCaller(ctx context.Context, key string) (presented, error) {
	hashes, err := s.keyset.Fingerprints(apiKeyPurpose, key)
	if err != nil {
		return presented{}, err
	}
	var p presented
	err = postgres.ReadFound(ctx, s.entryPool, `SELECT tenant_id FROM app.find_api_key($1)`, []any{hashes},
		func(rows pgx.Rows) error {
			var err error
			p, err = pgx.CollectExactlyOneRow(rows, scanPresented)
			return err
		}, `
		SELECT `+tenantColumns+`, k.id, k.scopes, k.expires_at - app.now(),
		       k.last_used_at IS NULL OR k.last_used_at < app.now() - interval '1 minute'
		FROM api_keys k JOIN tenants t ON t.id = k.tenant_id
		WHERE k.tenant_id = app.tenant() AND k.key_hash = ANY ($1)
		  AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > app.now())`, hashes)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return presented{holds: unlimited}, nil
	case err != nil:
		return presented{}, fmt.Errorf("read key: %w", err)
	}
	if p.unnoted && !p.caller.Tenant.Paused {
		_ = s.noteUse(ctx, p.caller, hashes) // a database that takes no writes must not shut readers out
	}
	return p, nil
}

func scanPresented(row pgx.CollectableRow) (presented, error) {
	p := presented{good: true, holds: unlimited}
	var left *time.Duration
	err := row.Scan(append(p.caller.Tenant.columns(), &p.caller.Key, &p.caller.Scopes, &left, &p.unnoted)...)
	if left != nil {
		p.holds = *left
	}
	return p, err
}

// noteUse notes the use of a key, once a minute. SKIP LOCKED: a hundred callers at
// the turn of a minute don't queue for it. By its hashes, for a rotation may have put
// another secret in its place meanwhile, which nobody has used.
func (s *Store) noteUse(ctx context.Context, caller Caller, hashes [][]byte) error {
	err := postgres.InTx(ctx, s.entryPool, postgres.Scope{Tenant: caller.Tenant.ID.UUID}, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE api_keys SET last_used_at = app.now() WHERE tenant_id = $1 AND id IN (
				SELECT id FROM api_keys WHERE tenant_id = $1 AND id = $2 AND key_hash = ANY ($3) FOR UPDATE SKIP LOCKED)`,
			caller.Tenant.ID, caller.Key, hashes)
		return err
	})
	s.fence.notice(err)
	return err
}

func nullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func timeOr(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

func nullID(id uuid.UUID) *uuid.UUID {
	if id == uuid.Nil {
		return nil
	}
	return &id
}
