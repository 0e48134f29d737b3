// Package audittest tells, in tests, whether the audit log of a database says how
// everything in it came to stand as it does.
package audittest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/tenants"
)

// Replay is what the audit logs of all tenants come to.
type Replay struct {
	Rows     int               // read
	Things   int               // whose status was rebuilt
	statuses map[string]string // of each thing, by its kind and id, as the log tells
	done     map[string]bool   // operations that made something
}

// row is a row of the audit log.
type row struct {
	tenant         tenants.TenantID
	sequence       int64
	action, target string
	details        details
}

// details is what a replay reads of them.
type details struct {
	SessionID, ConnectionID, OperationID string
	Reason, Operation, Outcome           string
	Successor                            string
	Paused                               *bool
	Ends                                 time.Time
}

// Database is a connection, a pool or a transaction that sees every row.
type Database interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Check replays the audit logs and compares the status of every tenant, key, connect
// session, connection and operation with what stands in the database. It returns one
// sentence for each difference. Nothing may write meanwhile.
//
// A refresh of unknown outcome is no change of a connection but of its tokens, which the
// refresh ledger tells of: `suspect` counts as active. What time alone does to a key is
// told by its end.
func Check(ctx context.Context, db Database) (*Replay, []string, error) {
	r := &Replay{statuses: map[string]string{}, done: map[string]bool{}}
	if err := r.read(ctx, db); err != nil {
		return nil, nil, err
	}
	r.Things = len(r.statuses)
	wrong, err := r.compare(ctx, db)
	slices.Sort(wrong)
	return r, wrong, err
}

func (r *Replay) read(ctx context.Context, db Database) error {
	rows, err := db.Query(ctx, `SELECT tenant_id, sequence, action, target, details FROM audit_log ORDER BY tenant_id, sequence`)
	if err != nil {
		return err
	}
	var one row
	var raw []byte
	_, err = pgx.ForEachRow(rows, []any{&one.tenant, &one.sequence, &one.action, &one.target, &raw}, func() error {
		one.details = details{}
		if err := json.Unmarshal(raw, &one.details); err != nil {
			return fmt.Errorf("row %d of %s: %w", one.sequence, one.tenant, err)
		}
		r.Rows++
		r.next(one)
		return nil
	})
	return cmp.Or(err, rows.Err())
}

// becomes are the actions that give a connect session or a connection its status.
func becomes() map[string]string {
	return map[string]string{
		"connect_session.create": "created", "connect_session.start": "started", "connect_session.return": "returned",
		"connect_session.complete": "completing", "connect_session.denied": "denied", "connect_session.expired": "expired",
		"connect_session.failed": "failed",
		"connection.connected":   "active", "connection.reconnected": "active", "connection.recovered": "active",
		"connection.confirmed": "active", "connection.needs_reconnect": "needs_reconnect", "connection.disconnected": "disconnected",
	}
}

func (r *Replay) next(one row) {
	d := one.details
	if status, known := becomes()[one.action]; known {
		if d.Reason != "" {
			status += " " + d.Reason
		}
		r.statuses[one.target] = status
		if d.SessionID != "" && d.SessionID != one.target {
			r.statuses[d.SessionID] = "connected"
		}
	}
	switch one.action {
	case "tenant.create":
		r.statuses[one.target] = "active"
	case "tenant.update":
		if d.Paused != nil {
			r.statuses[one.target] = map[bool]string{true: "paused", false: "active"}[*d.Paused]
		}
	case "api_key.create":
		r.statuses[one.target] = "live"
	case "api_key.rotate":
		r.statuses[one.target] = "live until " + d.Ends.Format(time.RFC3339Nano)
		r.statuses[d.Successor] = "live"
	case "api_key.revoke":
		r.statuses[one.target] = "revoked"
	}
	if d.OperationID != "" && d.Outcome == "" && d.Operation == "" { // no row of a call
		r.done[d.OperationID] = true
	}
}

// compare returns how the log differs from what is there.
func (r *Replay) compare(ctx context.Context, db Database) (wrong []string, err error) {
	differ := func(id, is string) {
		if told, known := r.statuses[id]; !known {
			wrong = append(wrong, fmt.Sprintf("%s is %s, and the log knows nothing of it", id, is))
		} else if told != is {
			wrong = append(wrong, fmt.Sprintf("%s is %s, and the log says %s", id, is, told))
		}
		delete(r.statuses, id)
	}
	var tenant tenants.TenantID
	var key tenants.KeyID
	var session tenants.SessionID
	var connection tenants.ConnectionID
	var operation tenants.OperationID
	var status string
	for _, list := range []struct {
		id   any
		name func() string
		sql  string
	}{
		{&tenant, func() string { return tenant.String() }, `SELECT id, status FROM tenants`},
		{&key, func() string { return key.String() }, `
			SELECT id, CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN rotated_at IS NULL THEN 'live' ELSE 'live until ' ||
				to_char(expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS') ||
				rtrim(rtrim(to_char(expires_at AT TIME ZONE 'UTC', '.US'), '0'), '.') || 'Z' END
			FROM api_keys`},
		{&session, func() string { return session.String() }, `SELECT id, concat_ws(' ', status, failure) FROM connect_sessions`},
		{&connection, func() string { return connection.String() }, `
			SELECT id, CASE status WHEN 'suspect' THEN 'active' ELSE concat_ws(' ', status, status_reason) END FROM connections`},
	} {
		if err := each(ctx, db, list.sql, []any{list.id, &status}, func() { differ(list.name(), status) }); err != nil {
			return nil, err
		}
	}
	for id, told := range r.statuses {
		if !anID().MatchString(id) {
			continue // a test wrote it by hand
		}
		wrong = append(wrong, fmt.Sprintf("%s is not there, and the log says %s", id, told))
	}
	err = each(ctx, db, `SELECT id, status FROM operations WHERE status = 'done'`, []any{&operation, &status}, func() {
		if !r.done[operation.String()] {
			wrong = append(wrong, operation.String()+" is done, and the log does not say what it made")
		}
	})
	return wrong, err
}

// anID matches ids as the service makes them.
func anID() *regexp.Regexp { return regexp.MustCompile(`^[a-z]+_[a-z2-7]{26}$`) }

func each(ctx context.Context, db Database, sql string, targets []any, do func()) error {
	rows, err := db.Query(ctx, sql)
	if err != nil {
		return err
	}
	_, err = pgx.ForEachRow(rows, targets, func() error {
		do()
		return nil
	})
	return cmp.Or(err, rows.Err())
}
