package tenants

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// The log of what belongs to no tenant is one chain more, of the rows that have a
// number in it. Versions before the chain write rows without one, and wait for nobody
// while they do. So a row covers those that are a minute older than it, which is longer
// than such a write takes, and that no row before it has covered.

// coveredAfter is how old rows without a MAC are when the next row covers them.
const coveredAfter = time.Minute

// adminRow is a row of the log of the admins as its MAC sees it.
type adminRow struct {
	id        int64  // means something in rows without a MAC only
	chained   *int64 // its place in the chain; nil: no MAC
	at        time.Time
	admin     *uuid.UUID
	actorType string
	action    string
	target    string
	requestID string
	ip        *netip.Prefix
	details   string // in canonical form; without a MAC: as Postgres writes it
	sealed    bool   // as in auditRow
	key       *uint32
	mac       []byte
}

const adminColumns = `id, chained, at, admin_id, coalesce(actor_type, ''), action, target, request_id, ip, details::text, head_sealed, key_id, mac`

func (r *adminRow) targets() []any {
	return []any{
		&r.id, &r.chained, &r.at, &r.admin, &r.actorType, &r.action, &r.target, &r.requestID, &r.ip, &r.details, &r.sealed,
		&r.key, &r.mac,
	}
}

func (r *adminRow) fields() [][]byte {
	place, admin, ip := r.id, []byte(nil), ""
	if r.chained != nil {
		place = *r.chained
	}
	if r.admin != nil {
		admin = r.admin[:]
	}
	if r.ip != nil {
		ip = r.ip.String()
	}
	return [][]byte{
		appendNumbers(nil, place, r.at.UnixMicro()), admin, []byte(r.actorType), []byte(r.action), []byte(r.target),
		[]byte(r.requestID), []byte(ip), []byte(r.details),
	}
}

func (r *adminRow) message(previous []byte, covered *coverage) [][]byte {
	return withSeal(append([][]byte{previous, covered.sum()}, r.fields()...), r.sealed)
}

// covers returns until when rows without a MAC are covered by a row of that time.
func covers(before, at time.Time) time.Time {
	if until := at.Add(-coveredAfter); until.After(before) {
		return until
	}
	return before
}

// adminChange is what the log of the admins keeps of a change.
type adminChange struct {
	action  string
	admin   *AdminID       // whom it is about; nil: nobody who is known
	target  string         // what else it is about
	details map[string]any // no secrets
}

// logAdmin writes a row of the log of the admins. Its head is locked until the
// transaction ends, so logAdmin comes last in it.
func (s *Store) logAdmin(ctx context.Context, tx pgx.Tx, by Actor, c adminChange) error {
	row := adminRow{
		actorType: string(by.Type), action: c.action, target: c.target, requestID: by.RequestID, ip: prefixOf(by.IP), sealed: true,
	}
	if c.admin != nil {
		row.admin = &c.admin.UUID
	}
	details := maps.Clone(c.details)
	if by.ID != "" { // who did it, where admin may be whom it is about
		if details == nil {
			details = map[string]any{}
		}
		details["by"] = by.ID
	}
	var err error
	if row.details, err = encodeDetails(details); err != nil {
		return fmt.Errorf("encode %s: %w", c.action, err)
	}
	var count int64
	var head []byte
	var before time.Time
	err = tx.QueryRow(ctx, `
		SELECT app.now(), chained, head, covered FROM admin_log_head FOR NO KEY UPDATE`).Scan(&row.at, &count, &head, &before)
	if err != nil {
		return fmt.Errorf("lock the head of the admin log: %w", err)
	}
	count++
	row.chained = &count
	until := covers(before, row.at)
	covered, err := coverAdminRows(ctx, tx, before, until)
	if err != nil {
		return err
	}
	mac, key, err := s.keyset.MAC(adminRowPurpose, row.message(head, &covered)...)
	if err != nil {
		return err
	}
	seal, err := s.sealEnd(adminHeadPurpose, adminSealMessage(count, mac, until))
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		WITH head AS (UPDATE admin_log_head SET chained = $8, head = $10, covered = $11, seal = $13)
		INSERT INTO admin_log (at, admin_id, actor_type, action, target, request_id, ip, chained, key_id, mac, details, head_sealed)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $12::text::jsonb, true)`,
		row.at, row.admin, row.actorType, row.action, row.target, row.requestID, nullAddr(by.IP), count, int64(key), mac, until,
		row.details, seal)
	if err != nil {
		return fmt.Errorf("write admin log: %w", err)
	}
	return nil
}

// coverAdminRows reads the rows without a MAC of that time.
func coverAdminRows(ctx context.Context, tx pgx.Tx, after, until time.Time) (coverage, error) {
	var covered coverage
	rows, err := tx.Query(ctx, `SELECT `+adminColumns+` FROM admin_log
		WHERE chained IS NULL AND at > $1 AND at <= $2 ORDER BY at, id`, after, until)
	if err != nil {
		return covered, fmt.Errorf("read admin log: %w", err)
	}
	var row adminRow
	_, err = pgx.ForEachRow(rows, row.targets(), func() error {
		covered.add(row.fields())
		row = adminRow{}
		return nil
	})
	if err = cmp.Or(err, rows.Err()); err != nil {
		return covered, fmt.Errorf("read admin log: %w", err)
	}
	return covered, nil
}
