package tenants

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"time"

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
	EventRecovered          = "connection.recovered" // given up, and its answer came after all
	EventDisconnected       = "connection.disconnected"
	auditConfirmed          = "connection.confirmed"
	auditConnectionUpdated  = "connection.update"
	EventDatabaseCreated    = "database.created"
	EventDatabaseDeleted    = "database.deleted"
	EventDatabaseUpdated    = "database.updated"
	EventDatabaseRestored   = "database.restored"
	EventProjectCreated     = "project.created"
	EventProjectUpdated     = "project.updated"
	EventProjectDeleted     = "project.deleted"
	EventCredentialsCreated = "credentials.created"
	EventCredentialsRotated = "credentials.rotated"
	EventCredentialsDeleted = "credentials.deleted"
	auditSessionCreated     = "connect_session.create"
	auditSessionStarted     = "connect_session.start"
	auditSessionReturned    = "connect_session.return"
	auditSessionCompleting  = "connect_session.complete"
	auditKeyCreated         = "api_key.create"
	auditKeyRevoked         = "api_key.revoke"
	auditKeyRotated         = "api_key.rotate"
	auditTenantCreated      = "tenant.create"
	auditTenantUpdated      = "tenant.update"
	auditClientAdopted      = "tenant.adopt_secret"
)

// change is one state change: what the tenant's machines are told and what the
// audit log keeps. The event may be left out.
type change struct {
	event  string         // event type; "": none
	action string         // audit action; "": the event's type
	target string         // id of what changed
	data   map[string]any // both rows' details: ids and states, no secrets
}

// name is the change's action in the audit log.
func (c change) name() string { return cmp.Or(c.action, c.event) }

// record writes a change's event and audit row, numbered without gaps. The
// tenant's sequence row is locked until the transaction ends, so record comes
// last in it.
func (s *Store) record(ctx context.Context, tx pgx.Tx, tenant TenantID, by Actor, c change) error {
	_, err := s.recordAll(ctx, tx, tenant, by, []change{c})
	return err
}

// recordAll is record for changes that happen together. It returns the number of the
// last audit row.
func (s *Store) recordAll(ctx context.Context, tx pgx.Tx, tenant TenantID, by Actor, changes []change) (int64, error) {
	head, err := lockAuditHead(ctx, tx, tenant)
	if err != nil {
		return 0, fmt.Errorf("number %s: %w", changes[0].name(), err)
	}
	covered := &coverage{}
	switch behind := head.audit - head.chained; {
	case behind > coverAtOnce:
		covered = nil
	case behind > 0:
		if err := covered.read(ctx, tx, tenant, head.chained, head.audit+1); err != nil {
			return 0, err
		}
		if covered.rows < behind { // said by a row of its own, and signing goes on
			if err := s.adopt(ctx, tx, tenant, &head, covered); err != nil {
				return 0, err
			}
		}
	}
	return s.append(ctx, tx, tenant, by, &head, covered, changes)
}

// append writes the rows of changes behind the head, in one round trip. covered are the
// rows without a MAC that are there between the chain's end and the head. nil: they are
// many. Then the new rows have no MAC either, and AdoptAudit covers them all.
func (s *Store) append(ctx context.Context, tx pgx.Tx, tenant TenantID, by Actor, head *auditHead, covered *coverage,
	changes []change,
) (int64, error) {
	var events eventRows
	var audits auditRows
	for _, c := range changes {
		details, err := encodeDetails(c.data)
		if err != nil {
			return 0, fmt.Errorf("encode %s: %w", c.name(), err)
		}
		if c.event != "" {
			head.events++
			events.add(head.events, c.event, details)
		}
		head.audit++
		row := auditRow{
			sequence: head.audit, at: head.now.Truncate(time.Microsecond), actorType: by.Type, actorID: by.ID, action: c.name(),
			target: c.target, requestID: by.RequestID, ip: prefixOf(by.IP), details: details,
		}
		if covered != nil {
			if err := s.sign(&row, tenant, head, covered); err != nil {
				return 0, err
			}
		}
		audits.add(row)
	}
	var seal []byte // nil: the end stays where it is, and its seal as well
	if covered != nil {
		var err error
		if seal, err = s.sealEnd(auditHeadPurpose, head.sealMessage(tenant)); err != nil {
			return 0, err
		}
	}
	var batch pgx.Batch
	batch.Queue(`
		UPDATE tenant_sequences SET events = $2, audit = $3, audit_chained = $4, audit_head = $5, audit_seal = coalesce($6, audit_seal)
		WHERE tenant_id = $1`, tenant, head.events, head.audit, head.chained, head.mac, seal)
	events.queue(&batch, tenant, head.now)
	audits.queue(&batch, tenant, by, head.now)
	if err := tx.SendBatch(ctx, &batch).Close(); err != nil {
		return 0, fmt.Errorf("write down %s: %w", changes[0].name(), err)
	}
	return head.audit, nil
}

// eventRows are events to be written together.
type eventRows struct {
	numbers []int64
	ids     []string
	types   []string
	data    []string
}

func (r *eventRows) add(number int64, event, data string) {
	r.numbers, r.ids = append(r.numbers, number), append(r.ids, newID().String())
	r.types, r.data = append(r.types, event), append(r.data, data)
}

func (r *eventRows) queue(batch *pgx.Batch, tenant TenantID, at time.Time) {
	if len(r.numbers) == 0 {
		return
	}
	batch.Queue(`
		INSERT INTO events (tenant_id, sequence, id, type, data, created_at)
		SELECT $1, sequence, id::uuid, type, data::jsonb, $6::timestamptz
		FROM unnest($2::bigint[], $3::text[], $4::text[], $5::text[]) AS e (sequence, id, type, data)`,
		tenant, r.numbers, r.ids, r.types, r.data, at)
}

// auditRows are rows of one actor to be written together.
type auditRows struct {
	numbers []int64
	actions []string
	targets []string
	details []string
	sealed  []bool
	keys    []*int64
	macs    [][]byte
}

func (r *auditRows) add(row auditRow) {
	r.numbers, r.actions = append(r.numbers, row.sequence), append(r.actions, row.action)
	r.targets, r.details = append(r.targets, row.target), append(r.details, row.details)
	r.sealed = append(r.sealed, row.sealed)
	var key *int64
	if row.key != nil {
		key = new(int64(*row.key))
	}
	r.keys, r.macs = append(r.keys, key), append(r.macs, row.mac)
}

func (r *auditRows) queue(batch *pgx.Batch, tenant TenantID, by Actor, at time.Time) {
	batch.Queue(`
		INSERT INTO audit_log (tenant_id, at, actor_type, actor_id, request_id, ip, sequence, action, target, details, head_sealed, key_id, mac)
		SELECT $1, $2, $3, $4, $5, $6, sequence, action, target, details::jsonb, head_sealed, key_id, mac
		FROM unnest($7::bigint[], $8::text[], $9::text[], $10::text[], $11::boolean[], $12::bigint[], $13::bytea[])
			AS a (sequence, action, target, details, head_sealed, key_id, mac)`,
		tenant, at, by.Type, by.ID, by.RequestID, nullAddr(by.IP), r.numbers, r.actions, r.targets, r.details, r.sealed, r.keys, r.macs)
}

// nullAddr is an address as the database has it, nil for none. An IPv4 address is one,
// however it was written.
func nullAddr(ip netip.Addr) *netip.Addr {
	if !ip.IsValid() {
		return nil
	}
	ip = ip.Unmap().WithZone("")
	return &ip
}
