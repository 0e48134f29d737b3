package tenants

import (
	"context"
	"encoding/binary"
	"net/netip"
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
	Limit  int // 1 to 100
}

// AuditEntries lists a tenant's audit log, the oldest first, and whether there are more
// behind the limit. A row is in it as soon as its transaction is committed, and none with
// a lower number comes after it.
func (s *Store) AuditEntries(ctx context.Context, tenant TenantID, f AuditFilter) ([]AuditEntry, bool, error) {
	var list []AuditEntry
	err := s.read(ctx, tenant, func(rows pgx.Rows) error {
		var err error
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (AuditEntry, error) {
			var e AuditEntry
			err := row.Scan(&e.Sequence, &e.At, &e.ActorType, &e.ActorID, &e.Action, &e.Target, &e.RequestID, &e.IP, &e.Details)
			return e, err
		})
		return err
	}, `
		SELECT sequence, at, actor_type, actor_id, action, target, request_id, ip, details FROM audit_log
		WHERE tenant_id = $1 AND sequence > $2 AND ($3 = '' OR action = $3) AND ($4 = '' OR target = $4)
		ORDER BY sequence LIMIT $5`, tenant, f.After, f.Action, f.Target, f.Limit+1)
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
