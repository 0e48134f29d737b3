package tenants

import (
	"context"
	"encoding/binary"
	"net/netip"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// AuditEntry is a row of a tenant's audit log.
type AuditEntry struct {
	Sequence  int64
	At        time.Time
	ActorType ActorType
	ActorID   string
	Action    string
	Target    string
	RequestID string
	IP        *netip.Addr // nil: unknown
	Details   map[string]any
}

// AuditFilter narrows a list; zero values don't.
type AuditFilter struct {
	After  int64 // only rows with a higher number
	Action string
	Target string
	Actor  string    // its id
	From   time.Time // of this time or later
	To     time.Time // before this time
	Limit  int       // 1 to 100
}

// periodSlack is more than the times of the log can be out of the order of its numbers:
// a row's time is that of the beginning of its transaction.
const periodSlack = 24 * time.Hour

// where returns f's conditions. A period also bounds the numbers, because the planner may
// walk along these, and would then pass all that lies outside.
func (f AuditFilter) where(tenant TenantID) conditions {
	c := conditions{"tenant_id = $1 AND sequence > $2", []any{tenant, f.After}}
	c.narrow(f.Action != "", "action = ?", f.Action)
	c.narrow(f.Target != "", "target = ?", f.Target)
	c.narrow(f.Actor != "", "actor_id = ? AND actor_type <> 'command'", f.Actor)
	c.narrow(!f.From.IsZero(), "at >= ?", f.From)
	c.narrow(!f.To.IsZero(), "at < ?", f.To)
	c.narrow(!f.From.IsZero(), `sequence > coalesce((
		SELECT sequence FROM audit_log WHERE tenant_id = $1 AND at < ? ORDER BY at DESC LIMIT 1), 0)`, f.From.Add(-periodSlack))
	c.narrow(!f.To.IsZero(), `sequence < coalesce((
		SELECT sequence FROM audit_log WHERE tenant_id = $1 AND at > ? ORDER BY at LIMIT 1), 9223372036854775807)`, f.To.Add(periodSlack))
	return c
}

// AuditEntries lists a tenant's audit log, the oldest first, and whether there are more
// behind the limit. It is for the tenant: the names of operators are not in it. A row is in it as soon as its transaction is committed, and none with
// a lower number comes after it.
func (s *Store) AuditEntries(ctx context.Context, tenant TenantID, f AuditFilter) ([]AuditEntry, bool, error) {
	var list []AuditEntry
	where := f.where(tenant)
	err := s.read(ctx, tenant, func(rows pgx.Rows) error {
		var err error
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (AuditEntry, error) {
			var e AuditEntry
			err := row.Scan(&e.Sequence, &e.At, &e.ActorType, &e.ActorID, &e.Action, &e.Target, &e.RequestID, &e.IP, &e.Details)
			return e, err
		})
		return err
	}, `
		SELECT sequence, at, actor_type, CASE actor_type WHEN 'command' THEN '' ELSE actor_id END, action, target, request_id, ip, details FROM audit_log
		WHERE `+where.sql+` ORDER BY sequence LIMIT `+strconv.Itoa(f.Limit+1), where.args...)
	if len(list) > f.Limit {
		return list[:f.Limit], true, err
	}
	return list, false, err
}

// AuditCursor is Cursor for the audit log.
func (s *Store) AuditCursor(tenant TenantID, list string, last int64) (string, error) {
	var place uuid.UUID
	binary.BigEndian.PutUint64(place[8:], uint64(last)) //nolint:gosec // a counter, never negative
	return s.Cursor(tenant, "audit\n"+list, ConnectionID{place})
}

// ParseAuditCursor is ParseCursor for the audit log; 0 is the first page.
func (s *Store) ParseAuditCursor(tenant TenantID, list, cursor string) (int64, error) {
	place, err := s.ParseCursor(tenant, "audit\n"+list, cursor)
	return int64(binary.BigEndian.Uint64(place.UUID[8:])), err //nolint:gosec // as AuditCursor wrote it
}
