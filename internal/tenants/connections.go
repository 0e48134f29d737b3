package tenants

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// ConnectionStatus is where a connection stands.
type ConnectionStatus string

// The statuses; the package comment draws their order.
const (
	ConnectionActive         ConnectionStatus = "active"
	ConnectionSuspect        ConnectionStatus = "suspect"
	ConnectionNeedsReconnect ConnectionStatus = "needs_reconnect"
	ConnectionDisconnected   ConnectionStatus = "disconnected"
)

// Why a connection needs a reconnect.
const (
	// ReasonRefused: Prisma refused the refresh token.
	ReasonRefused = "refresh_token_refused"
	// ReasonUnknown: the outcome of a refresh stayed unknown until the refresh token was
	// too old.
	ReasonUnknown = "refresh_outcome_unknown"
	// ReasonNoRefreshToken: the grant came without a refresh token and has ended.
	ReasonNoRefreshToken = "no_refresh_token"
	// ReasonClientReplaced: the tenant has another OAuth client than the one that the
	// grant was given to.
	ReasonClientReplaced = "client_replaced"
)

// Connection is one user's grant on one Prisma workspace.
type Connection struct {
	ID            ConnectionID
	Tenant        TenantID
	UserID        string
	WorkspaceID   string
	WorkspaceName string // "" until it was read from Prisma
	ClientID      string // the OAuth client that the grant was given to
	Status        ConnectionStatus
	Reason        string // why it needs a reconnect; "" otherwise
	StatusSince   time.Time
	AccessUntil   time.Time // when the stored access token ends
	Metadata      map[string]string
	Generation    int64
	CreatedAt     time.Time
	Signs         Signs // what Diagnose goes by
}

const selectConnection = `
	SELECT id, tenant_id, user_id, workspace_id, workspace_name, oauth_client_id, status, coalesce(status_reason, ''),
	       status_since, access_expires_at, metadata, generation, created_at,
	       app.now(), access_issued_at, refresh_token_sealed IS NOT NULL, intent_generation IS NOT NULL,
	       coalesce(lease_until > app.now(), false), ledger_generation > generation,
	       coalesce((SELECT t.oauth_client_id FROM tenants t WHERE t.id = tenant_id), ''),
	       (SELECT t.updated_at FROM tenants t WHERE t.id = tenant_id),
	       CASE WHEN failing_generation = generation THEN failing_since END, refresh_not_before,
	       coalesce(failing_outcome = 'misconfigured', false),
	       CASE WHEN check_generation = generation THEN checked_at END, coalesce(check_finding, 'nothing'),
	       access_token_sealed, refresh_token_sealed
	FROM connections`

func scanConnection(row pgx.CollectableRow) (Connection, error) {
	var c Connection
	var failing, notBefore, checked *time.Time
	err := row.Scan(&c.ID, &c.Tenant, &c.UserID, &c.WorkspaceID, &c.WorkspaceName, &c.ClientID, &c.Status, &c.Reason,
		&c.StatusSince, &c.AccessUntil, &c.Metadata, &c.Generation, &c.CreatedAt,
		&c.Signs.ReadAt, &c.Signs.IssuedAt, &c.Signs.Renewable, &c.Signs.Exchange, &c.Signs.Leased, &c.Signs.SetBack, &c.Signs.Client,
		&c.Signs.TenantChangedAt, &failing, &notBefore, &c.Signs.Misconfigured, &checked, &c.Signs.Finding,
		&c.Signs.Sealed[0], &c.Signs.Sealed[1])
	c.Signs.FailingSince, c.Signs.NotBefore, c.Signs.CheckedAt = orZero(failing), orZero(notBefore), orZero(checked)
	return c, err
}

// connectionRow reads a connection that is not disconnected.
func connectionRow(ctx context.Context, tx pgx.Tx, tenant TenantID, id ConnectionID, lock string) (Connection, error) {
	rows, err := tx.Query(ctx, selectLiveConnection+lock, tenant, id)
	if err != nil {
		return Connection{}, fmt.Errorf("read connection: %w", err)
	}
	return oneConnection(rows)
}

const selectLiveConnection = selectConnection + ` WHERE tenant_id = $1 AND id = $2 AND status <> 'disconnected' `

func oneConnection(rows pgx.Rows) (Connection, error) {
	c, err := pgx.CollectExactlyOneRow(rows, scanConnection)
	if errors.Is(err, pgx.ErrNoRows) {
		return Connection{}, errNoConnection()
	}
	return c, err
}

func errNoConnection() error {
	return fault.New(fault.NotFound, "There is no such connection.", nil)
}

// Connection returns one connection; fault.NotFound when it is absent, another
// tenant's or disconnected.
func (s *Store) Connection(ctx context.Context, tenant TenantID, id ConnectionID) (Connection, error) {
	var c Connection
	err := s.read(ctx, tenant, func(rows pgx.Rows) error {
		var err error
		c, err = oneConnection(rows)
		return err
	}, selectLiveConnection, tenant, id)
	return c, err
}

// ConnectionFilter narrows a list; zero values don't.
type ConnectionFilter struct {
	UserID      string
	WorkspaceID string
	Status      ConnectionStatus // "": all but disconnected
	After       ConnectionID     // the last one of the page before
	Limit       int              // 1 to 100
}

// where returns f's conditions.
func (f ConnectionFilter) where(tenant TenantID) conditions {
	c := conditions{"tenant_id = $1 AND id > $2", []any{tenant, f.After}}
	c.narrow(f.UserID != "", "user_id = ?", f.UserID)
	c.narrow(f.WorkspaceID != "", "workspace_id = ?", f.WorkspaceID)
	c.narrow(f.Status != "", "status = ?", f.Status)
	if f.Status != ConnectionDisconnected {
		c.sql += " AND status <> 'disconnected'" // as the index of users has it, word for word
	}
	return c
}

// Connections lists a tenant's connections, the oldest first, and whether there
// are more behind the limit.
func (s *Store) Connections(ctx context.Context, tenant TenantID, f ConnectionFilter) ([]Connection, bool, error) {
	var list []Connection
	where := f.where(tenant)
	err := s.read(ctx, tenant, func(rows pgx.Rows) error {
		var err error
		list, err = pgx.CollectRows(rows, scanConnection)
		return err
	}, selectConnection+` WHERE `+where.sql+` ORDER BY id LIMIT `+strconv.Itoa(f.Limit+1), where.args...)
	if len(list) > f.Limit {
		return list[:f.Limit], true, err
	}
	return list, false, err
}

// TenantConnections lists the connections of every tenant for the dashboard, the
// newest first, up to limit; tenant may be zero for all.
func (s *Store) TenantConnections(ctx context.Context, tenant TenantID, limit int) ([]Connection, error) {
	var list []Connection
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, selectConnection+`
			WHERE $1::uuid IS NULL OR tenant_id = $1 ORDER BY created_at DESC, id DESC LIMIT $2`,
			nullID(tenant.UUID), limit)
		if err != nil {
			return fmt.Errorf("list connections: %w", err)
		}
		list, err = pgx.CollectRows(rows, scanConnection)
		return err
	})
	return list, err
}

// CountConnections counts each tenant's connections by status.
func (s *Store) CountConnections(ctx context.Context) (map[TenantID]map[ConnectionStatus]int, error) {
	counts := make(map[TenantID]map[ConnectionStatus]int)
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT tenant_id, status, count(*) FROM connections GROUP BY tenant_id, status`)
		if err != nil {
			return fmt.Errorf("count connections: %w", err)
		}
		var tenant TenantID
		var status ConnectionStatus
		var n int
		_, err = pgx.ForEachRow(rows, []any{&tenant, &status, &n}, func() error {
			if counts[tenant] == nil {
				counts[tenant] = make(map[ConnectionStatus]int)
			}
			counts[tenant][status] = n
			return nil
		})
		return errors.Join(err, rows.Err())
	})
	return counts, err
}

// findTarget returns the connection that a grant belongs to: the pinned one, or
// the user's own one on that workspace.
func findTarget(ctx context.Context, tx pgx.Tx, x Session, workspace string) (Connection, bool, error) {
	if x.ConnectionID.UUID != uuid.Nil {
		c, err := connectionRow(ctx, tx, x.Tenant, x.ConnectionID, "FOR UPDATE")
		return c, err == nil, err
	}
	rows, err := tx.Query(ctx, selectConnection+`
		WHERE tenant_id = $1 AND user_id = $2 AND workspace_id = $3 AND status <> 'disconnected' FOR UPDATE`,
		x.Tenant, x.UserID, workspace)
	if err != nil {
		return Connection{}, false, fmt.Errorf("find connection: %w", err)
	}
	c, err := pgx.CollectExactlyOneRow(rows, scanConnection)
	if errors.Is(err, pgx.ErrNoRows) {
		return Connection{}, false, nil
	}
	return c, err == nil, err
}

// storeGrant writes the pair under the next generation, which fences off any
// refresh of the old pair that is still running, and connects the session.
func (s *Store) storeGrant(ctx context.Context, tx pgx.Tx, by Actor, x Session, target Connection, exists bool,
	clientID string, grant prisma.Tokens,
) (Connection, error) {
	event := EventReconnected
	if !exists {
		event = EventConnected
		target = Connection{ID: ConnectionID{newID()}, Tenant: x.Tenant}
	}
	generation := target.Generation + 1
	access, refresh, err := s.sealPair(x.Tenant, target.ID, generation, grant)
	if err != nil {
		return Connection{}, err
	}
	if exists {
		if err := s.catchUpBefore(ctx, tx, chain{x.Tenant, target.ID}); err != nil {
			return Connection{}, err
		}
		_, err = tx.Exec(ctx, `
			UPDATE connections SET generation = $3, access_token_sealed = $4, refresh_token_sealed = $5,
				access_issued_at = $6, access_expires_at = $7, oauth_client_id = $8,
				status = 'active', status_reason = NULL,
				status_since = CASE WHEN status = 'active' THEN status_since ELSE app.now() END,
				lease_id = NULL, lease_until = NULL, intent_generation = NULL, intent_at = NULL,
				late_retries = 0, late_retries_of = NULL, late_retry_generation = NULL, refresh_not_before = NULL,
				updated_at = app.now()
			WHERE tenant_id = $1 AND id = $2`,
			x.Tenant, target.ID, generation, access, refresh, grant.IssuedAt, grant.ExpiresAt, clientID)
	} else {
		_, err = tx.Exec(ctx, `
			INSERT INTO connections (tenant_id, id, user_id, workspace_id, oauth_client_id, status, generation,
				access_token_sealed, refresh_token_sealed, access_issued_at, access_expires_at)
			VALUES ($1, $2, $3, $4, $5, 'active', $6, $7, $8, $9, $10)`,
			x.Tenant, target.ID, x.UserID, grant.WorkspaceID, clientID, generation,
			access, refresh, grant.IssuedAt, grant.ExpiresAt)
	}
	if err != nil {
		return Connection{}, fmt.Errorf("store grant: %w", err)
	}
	if err := lookAgain(ctx, tx, x.Tenant, target.ID); err != nil {
		return Connection{}, err
	}
	if err := s.storeInLedger(ctx, tx, chain{x.Tenant, target.ID}, generation, grant.Refresh); err != nil {
		return Connection{}, err
	}
	_, err = tx.Exec(ctx, `
		UPDATE connect_sessions SET status = 'connected', result_connection_id = $3, finished_at = app.now()
		WHERE tenant_id = $1 AND id = $2`, x.Tenant, x.ID, target.ID)
	if err != nil {
		return Connection{}, fmt.Errorf("connect session: %w", err)
	}
	connection, err := connectionRow(ctx, tx, x.Tenant, target.ID, "")
	if err != nil {
		return Connection{}, err
	}
	if connection.WorkspaceName == "" {
		if err := s.enqueue(ctx, tx, NameWorkspaceJob{Tenant: x.Tenant, Connection: target.ID}, nameWorkspaceAfter); err != nil {
			return Connection{}, err
		}
	}
	return connection, s.record(ctx, tx, x.Tenant, by, change{event: event, target: target.ID.String(), data: map[string]any{
		"connectionId": target.ID.String(), "userId": x.UserID, "workspaceId": grant.WorkspaceID,
		"sessionId": x.ID.String(), "generation": generation,
	}})
}

// Disconnect forgets a connection's tokens; fault.NotFound as Connection. An
// exchange that is still running finds its pair fenced off and drops it.
func (s *Store) Disconnect(ctx context.Context, by Actor, tenant TenantID, id ConnectionID) (Connection, error) {
	var c Connection
	err := s.inTenant(ctx, tenant, func(tx pgx.Tx) error {
		var err error
		if c, err = connectionRow(ctx, tx, tenant, id, "FOR UPDATE"); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE connections SET status = 'disconnected', status_reason = NULL, status_since = app.now(),
				access_token_sealed = NULL, refresh_token_sealed = NULL, lease_id = NULL, lease_until = NULL,
				intent_generation = NULL, intent_at = NULL, updated_at = app.now()
			WHERE tenant_id = $1 AND id = $2`, tenant, id)
		if err != nil {
			return fmt.Errorf("disconnect: %w", err)
		}
		c.Status = ConnectionDisconnected
		return s.record(ctx, tx, tenant, by, change{event: EventDisconnected, target: id.String(), data: map[string]any{
			"connectionId": id.String(), "userId": c.UserID, "workspaceId": c.WorkspaceID,
		}})
	})
	return c, err
}

// GrantIsShared reports whether another live connection, of whatever tenant,
// holds a grant of the same client on the same workspace: removing the
// integration at Prisma would end that one too.
func (s *Store) GrantIsShared(ctx context.Context, c Connection) (bool, error) {
	var shared bool
	err := s.inTenant(ctx, c.Tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT app.grant_is_shared($1, $2, $3)`, c.ClientID, c.WorkspaceID, c.ID).Scan(&shared)
	})
	return shared, err
}
