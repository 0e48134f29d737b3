package tenants

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/jackc/pgx/v5"
)

// ActorType says what kind of somebody changed something.
type ActorType string

// The actor types.
const (
	ActorAPIKey  ActorType = "api_key" // a partner's backend
	ActorUser    ActorType = "user"    // an end user in a browser
	ActorAdmin   ActorType = "admin"   // a person on the dashboard
	ActorCommand ActorType = "command" // somebody at the server's command line
	ActorSystem  ActorType = "system"  // the service itself
)

// Actor is who asks for a change and from where. Every method that changes
// something takes one and writes it into the audit log.
type Actor struct {
	Type      ActorType
	ID        string     // key id, user id or admin id; "" when there is none
	RequestID string     // ties the row to the log; "" outside a request
	IP        netip.Addr // zero: unknown
}

// System is the service acting by itself.
func System() Actor { return Actor{Type: ActorSystem} }

// Event types, told to the tenant. Their data holds ids and states, no secrets.
const (
	EventSessionDenied      = "connect_session.denied"
	EventSessionExpired     = "connect_session.expired"
	EventSessionFailed      = "connect_session.failed"
	EventConnected          = "connection.connected"
	EventReconnected        = "connection.reconnected"
	EventNeedsReconnect     = "connection.needs_reconnect"
	EventDisconnected       = "connection.disconnected"
	auditConfirmed          = "connection.confirmed"
	auditConnectionUpdated  = "connection.update"
	EventDatabaseCreated    = "database.created"
	EventDatabaseDeleted    = "database.deleted"
	EventProjectCreated     = "project.created"
	EventCredentialsCreated = "credentials.created"
	auditSessionCreated     = "connect_session.create"
	auditSessionStarted     = "connect_session.start"
	auditSessionReturned    = "connect_session.return"
	auditSessionCompleting  = "connect_session.complete"
	auditKeyCreated         = "api_key.create"
	auditKeyRevoked         = "api_key.revoke"
	auditKeyRotated         = "api_key.rotate"
	auditTenantCreated      = "tenant.create"
	auditTenantUpdated      = "tenant.update"
)

// change is one state change: what the tenant's machines are told and what the
// audit log keeps. Either may be left out.
type change struct {
	event   string         // event type; "": none
	action  string         // audit action; "": the event's type
	target  string         // id of what changed
	data    map[string]any // both rows' details: ids and states, no secrets
	noAudit bool           // an event without an audit row
}

// record writes a change's event and audit row, numbered without gaps. The
// tenant's sequence row is locked until the transaction ends, so record comes
// last in it.
func record(ctx context.Context, tx pgx.Tx, tenant TenantID, by Actor, c change) error {
	_, err := recordNumbered(ctx, tx, tenant, by, c)
	return err
}

// recordNumbered is record, and returns the number of the audit row.
func recordNumbered(ctx context.Context, tx pgx.Tx, tenant TenantID, by Actor, c change) (int64, error) {
	events, audits := 0, 1
	if c.event != "" {
		events = 1
	}
	if c.noAudit {
		audits = 0
	}
	if c.action == "" {
		c.action = c.event
	}
	data, err := json.Marshal(c.data)
	if err != nil {
		return 0, fmt.Errorf("encode %s: %w", c.action, err)
	}
	if c.data == nil {
		data = []byte("{}")
	}
	var eventNo, auditNo int64
	err = tx.QueryRow(ctx, `
		UPDATE tenant_sequences SET events = events + $2, audit = audit + $3
		WHERE tenant_id = $1 RETURNING events, audit`, tenant, events, audits).Scan(&eventNo, &auditNo)
	if err != nil {
		return 0, fmt.Errorf("number %s: %w", c.action, err)
	}
	if events == 1 {
		_, err = tx.Exec(ctx, `
			INSERT INTO events (tenant_id, sequence, id, type, data) VALUES ($1, $2, $3, $4, $5)`,
			tenant, eventNo, EventID{newID()}, c.event, data)
		if err != nil {
			return 0, fmt.Errorf("write event %s: %w", c.event, err)
		}
	}
	if audits == 0 {
		return auditNo, nil
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO audit_log (tenant_id, sequence, actor_type, actor_id, action, target, request_id, ip, details)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
		tenant, auditNo, by.Type, by.ID, c.action, c.target, by.RequestID, nullAddr(by.IP), data)
	if err != nil {
		return 0, fmt.Errorf("write audit %s: %w", c.action, err)
	}
	return auditNo, nil
}

func nullAddr(ip netip.Addr) *netip.Addr {
	if !ip.IsValid() {
		return nil
	}
	return &ip
}
