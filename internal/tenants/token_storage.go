package tenants

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/sealing"
)

// TokenStorage keeps the token pair of one connection in Postgres. It implements
// prisma.TokenStorage, prisma.CompareAndClear and prisma.RefreshLease.
type TokenStorage struct {
	store  *Store
	tenant TenantID
	id     ConnectionID
}

var (
	_ prisma.TokenStorage    = (*TokenStorage)(nil)
	_ prisma.CompareAndClear = (*TokenStorage)(nil)
	_ prisma.RefreshLease    = (*TokenStorage)(nil)
)

// TokensOf returns the storage that is bound to one connection of one tenant.
func (s *Store) TokensOf(tenant TenantID, id ConnectionID) *TokenStorage {
	return &TokenStorage{store: s, tenant: tenant, id: id}
}

// PrismaConnection is a connection as package prisma refreshes it.
func (s *Store) PrismaConnection(tenant TenantID, id ConnectionID) prisma.Connection {
	storage := s.TokensOf(tenant, id)
	return prisma.Connection{
		Key: id.String(), Share: tenant.String(), Storage: storage, Client: storage.client, AdoptSecret: storage.adoptSecret,
	}
}

func (t *TokenStorage) adoptSecret(ctx context.Context, client prisma.OAuthClient) error {
	_, err := t.store.AdoptClientSecret(ctx, System(), t.tenant, OAuthClient(client))
	return err
}

// client returns the OAuth client that the connection's grant was given to. If
// the tenant has another one by now, the refresh token must not be presented at
// all: from another client it would look stolen. The access token serves to its
// end; then the user has to connect again.
func (t *TokenStorage) client(ctx context.Context) (prisma.OAuthClient, error) {
	client, err := t.store.OAuthClientOf(ctx, t.tenant)
	if err != nil {
		return prisma.OAuthClient{}, err
	}
	replaced := false
	err = t.store.inTenant(ctx, t.tenant, func(tx pgx.Tx) error {
		connection, err := connectionRow(ctx, tx, t.tenant, t.id, "FOR UPDATE")
		if err != nil || connection.ClientID == client.ID {
			return err
		}
		replaced = true
		var over bool
		if err := tx.QueryRow(ctx, `SELECT $1 <= app.wall_clock()`, connection.AccessUntil).Scan(&over); err != nil || !over {
			return err
		}
		return t.needReconnect(ctx, tx, connection.Generation, ReasonClientReplaced)
	})
	if err == nil && replaced {
		err = fault.New(fault.ReconnectRequired, "The OAuth client was replaced since; the user has to connect again.", nil)
	}
	return prisma.OAuthClient(client), err
}

// tokenRow is what the refresh rules look at.
type tokenRow struct {
	status           ConnectionStatus
	tokens           prisma.Tokens
	leaseUntil       *time.Time
	intentGeneration *int64
	intentAt         *time.Time
	leaseOwner       *uuid.UUID
	lateRetries      int    // since the outcome for late_retries_of's token became unknown
	lateRetriesOf    *int64 // generation
	lateRetry        *int64 // generation; written by the version before late_retries
	notBefore        *time.Time
	nameDue          bool       // it was imported, and nobody has asked for its workspace's name
	ledger           ledgerHead // with a lock only
}

// read loads the pair. With a lock the clock is read again once it was granted,
// since waiting for it takes time. Absent and disconnected are fault.NotFound.
func (t *TokenStorage) read(ctx context.Context, tx pgx.Tx, lock string) (tokenRow, error) {
	rows, err := tx.Query(ctx, selectTokens+lock, t.tenant, t.id)
	if err != nil {
		return tokenRow{}, fmt.Errorf("read tokens: %w", err)
	}
	row, err := t.collect(rows)
	if err == nil && lock != "" {
		row.ledger, err = t.chain().readLedgerHead(ctx, tx)
		row.tokens.ReadAt = row.ledger.now
	}
	return row, err
}

//nolint:gosec // G101: columns, no credentials
const selectTokens = `
	SELECT status, workspace_id, generation, access_token_sealed, refresh_token_sealed, access_issued_at,
	       access_expires_at, lease_until, intent_generation, intent_at, lease_owner, late_retries, late_retries_of,
	       late_retry_generation, refresh_not_before, name_due, app.wall_clock()
	FROM connections WHERE tenant_id = $1 AND id = $2 AND status <> 'disconnected' `

// collect reads the one row of selectTokens and opens the seals.
func (t *TokenStorage) collect(rows pgx.Rows) (tokenRow, error) {
	var access, refresh []byte
	row, err := pgx.CollectExactlyOneRow(rows, func(r pgx.CollectableRow) (tokenRow, error) {
		var row tokenRow
		err := r.Scan(&row.status, &row.tokens.WorkspaceID, &row.tokens.Generation, &access, &refresh, &row.tokens.IssuedAt,
			&row.tokens.ExpiresAt, &row.leaseUntil, &row.intentGeneration, &row.intentAt, &row.leaseOwner, &row.lateRetries, &row.lateRetriesOf,
			&row.lateRetry, &row.notBefore, &row.nameDue, &row.tokens.ReadAt)
		return row, err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return tokenRow{}, errNoConnection()
	}
	if err != nil {
		return tokenRow{}, fmt.Errorf("read tokens: %w", err)
	}
	if row.tokens.Access, err = t.open("access_token", row.tokens.Generation, access); err != nil {
		return tokenRow{}, errUnreadable(err)
	}
	if row.tokens.Refresh, err = t.open("refresh_token", row.tokens.Generation, refresh); err != nil {
		return tokenRow{}, errUnreadable(err)
	}
	return row, nil
}

// unreadablePause is when a caller of a connection whose tokens can't be opened may come
// back: somebody has to act first.
const unreadablePause = time.Minute

// errUnreadable says that a pair can't be opened, so that nothing is sent. It is Diagnosis'
// to say what helps.
func errUnreadable(cause error) error {
	return fault.New(fault.PrismaUnavailable,
		"The connection's stored tokens can't be opened with this service's keys. The service's operator has to look at that.", cause).
		WithRetryAfter(unreadablePause)
}

func (row tokenRow) alive() error {
	if row.status == ConnectionNeedsReconnect {
		return fault.New(fault.ReconnectRequired, "The user has to connect again.", nil)
	}
	return nil
}

// Tokens implements prisma.TokenStorage.
func (t *TokenStorage) Tokens(ctx context.Context) (prisma.Tokens, error) {
	var row tokenRow
	err := t.store.read(ctx, t.tenant, func(rows pgx.Rows) error {
		var err error
		row, err = t.collect(rows)
		return err
	}, selectTokens, t.tenant, t.id)
	if err != nil {
		return prisma.Tokens{}, err
	}
	if err := row.alive(); err != nil {
		return row.tokens, err
	}
	if row.nameDue {
		t.nameLater(ctx)
	}
	return row.tokens, nil
}

// SetTokens implements prisma.TokenStorage: it replaces the pair whatever is
// stored, under the next generation. The connection must exist.
func (t *TokenStorage) SetTokens(ctx context.Context, tokens prisma.Tokens) error {
	return t.store.inTenant(ctx, t.tenant, func(tx pgx.Tx) error {
		c, err := connectionRow(ctx, tx, t.tenant, t.id, "FOR UPDATE")
		if err != nil {
			return err
		}
		access, refresh, err := t.store.sealPair(t.tenant, t.id, c.Generation+1, tokens)
		if err != nil {
			return err
		}
		if err := t.store.catchUpBefore(ctx, tx, t.chain()); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE connections SET generation = $3, access_token_sealed = $4, refresh_token_sealed = $5,
				access_issued_at = $6, access_expires_at = $7, status = 'active', status_reason = NULL,
				status_since = CASE WHEN status = 'active' THEN status_since ELSE app.now() END,
				lease_id = NULL, lease_until = NULL, intent_generation = NULL, intent_at = NULL,
				late_retries = 0, late_retries_of = NULL, late_retry_generation = NULL, refresh_not_before = NULL,
				updated_at = app.now()
			WHERE tenant_id = $1 AND id = $2`,
			t.tenant, t.id, c.Generation+1, access, refresh, tokens.IssuedAt, tokens.ExpiresAt)
		if err != nil {
			return fmt.Errorf("set tokens: %w", err)
		}
		err = t.store.storeInLedger(ctx, tx, t.chain(), c.Generation+1, tokens.Refresh)
		if err != nil || c.Status != ConnectionNeedsReconnect {
			return err
		}
		return t.store.record(ctx, tx, t.tenant, System(), change{event: EventReconnected, target: t.id.String(), data: map[string]any{
			"connectionId": t.id.String(), "userId": c.UserID, "workspaceId": c.WorkspaceID, "generation": c.Generation + 1,
		}})
	})
}

// ClearTokens implements prisma.TokenStorage: it disconnects.
func (t *TokenStorage) ClearTokens(ctx context.Context) error {
	_, err := t.store.Disconnect(ctx, System(), t.tenant, t.id)
	if fault.KindOf(err) == fault.NotFound {
		return nil
	}
	return err
}

// ClearTokensIfCurrent implements prisma.CompareAndClear: the connection needs a
// reconnect, if the pair is still the stored one.
func (t *TokenStorage) ClearTokensIfCurrent(ctx context.Context, tokens prisma.Tokens) error {
	return t.store.inTenant(ctx, t.tenant, func(tx pgx.Tx) error {
		return t.needReconnect(ctx, tx, tokens.Generation, ReasonRefused)
	})
}

// needReconnect marks the connection, once, if its generation has not moved.
func (t *TokenStorage) needReconnect(ctx context.Context, tx pgx.Tx, generation int64, reason string) error {
	var userID, workspaceID string
	err := tx.QueryRow(ctx, `
		UPDATE connections SET status = 'needs_reconnect', status_reason = $4, status_since = app.now(),
			refresh_token_sealed = NULL, lease_id = NULL, lease_until = NULL, intent_generation = NULL,
			intent_at = NULL, updated_at = app.now()
		WHERE tenant_id = $1 AND id = $2 AND generation = $3 AND status IN ('active', 'suspect')
		RETURNING user_id, workspace_id`, t.tenant, t.id, generation, reason).Scan(&userID, &workspaceID)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil // somebody connected again, disconnected, or said so already
	}
	if err != nil {
		return fmt.Errorf("mark for reconnect: %w", err)
	}
	return t.store.record(ctx, tx, t.tenant, System(), change{event: EventNeedsReconnect, target: t.id.String(), data: map[string]any{
		"connectionId": t.id.String(), "userId": userID, "workspaceId": workspaceID, "reason": reason,
	}})
}

func (t *TokenStorage) open(column string, generation int64, sealed []byte) (string, error) {
	if sealed == nil {
		return "", nil
	}
	plain, err := t.store.keyset.Open(sealed, tokenPlace(t.tenant, t.id, column, generation))
	return string(plain), err
}

// sealPair seals a pair for its row and generation; a missing refresh token
// stays missing.
func (s *Store) sealPair(tenant TenantID, id ConnectionID, generation int64, tokens prisma.Tokens,
) (access, refresh []byte, err error) {
	access, err = s.keyset.Seal([]byte(tokens.Access), tokenPlace(tenant, id, "access_token", generation))
	if err != nil || tokens.Refresh == "" {
		return access, nil, err
	}
	refresh, err = s.keyset.Seal([]byte(tokens.Refresh), tokenPlace(tenant, id, "refresh_token", generation))
	return access, refresh, err
}

func tokenPlace(tenant TenantID, id ConnectionID, column string, generation int64) sealing.Place {
	return sealing.Place{
		Table: "connections", Column: column, Tenant: tenant.String(), ID: id.String(), Generation: generation,
	}
}
