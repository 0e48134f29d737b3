package tenants

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"net/netip"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/postgres"
)

// The audit log is one chain a tenant, as the refresh ledger is one a connection: row n
// carries MAC(key, MAC of the row before, row n), and the tenant's sequence row carries
// the last MAC and its number. Checkpoints note it too.
//
// Rows without a MAC are those of versions before the chain. The next row with one covers
// them: their digest is part of what it authenticates. So the first link of a chain
// stands for all that was there before it, as it was then, and during a rolling upgrade
// what old replicas write is bound in by whatever a new one writes next.

// The purposes of the audit log's MACs.
const (
	auditRowPurpose = "audit row"
	adminRowPurpose = "admin log row"
)

// coverAtOnce is how many rows without a MAC the next row covers by itself. More are
// left to AdoptAudit, so that nobody waits for them.
const coverAtOnce = 1000

const auditAdopted = "audit.adopted"

// auditRow is a row of the audit log as its MAC sees it.
type auditRow struct {
	sequence  int64
	at        time.Time // to the microsecond
	actorType ActorType
	actorID   string
	action    string
	target    string
	requestID string
	ip        *netip.Prefix // nil: unknown
	details   string        // in canonical form; without a MAC: as Postgres writes it
	sealed    bool          // whoever wrote it sealed the end of the chain; not so before version 26 of the schema
	key       *uint32       // nil: no MAC
	mac       []byte
}

// fields is everything in the row but its MAC.
func (r *auditRow) fields() [][]byte {
	ip := ""
	if r.ip != nil {
		ip = r.ip.String()
	}
	return [][]byte{
		appendNumbers(nil, r.sequence, r.at.UnixMicro()), []byte(r.actorType), []byte(r.actorID), []byte(r.action),
		[]byte(r.target), []byte(r.requestID), []byte(ip), []byte(r.details),
	}
}

// message is what a row's MAC authenticates: the tenant, the row before it with a MAC,
// the rows that it covers, and everything in it.
func (r *auditRow) message(tenant TenantID, previous []byte, covered *coverage) [][]byte {
	return withSeal(append([][]byte{tenant.UUID[:], previous, covered.sum()}, r.fields()...), r.sealed)
}

// withSeal adds that whoever wrote a row sealed the end of its chain. Rows of versions
// that did not are proven as they were.
func withSeal(message [][]byte, sealed bool) [][]byte {
	if sealed {
		return append(message, []byte("head sealed"))
	}
	return message
}

const auditColumns = `sequence, at, actor_type, actor_id, action, target, request_id, ip, details::text, head_sealed, key_id, mac`

func (r *auditRow) targets() []any {
	return []any{
		&r.sequence, &r.at, &r.actorType, &r.actorID, &r.action, &r.target, &r.requestID, &r.ip, &r.details, &r.sealed, &r.key, &r.mac,
	}
}

// coverage is the digest of rows without a MAC, in their order.
type coverage struct {
	rows   int64
	digest hash.Hash // nil: none yet
}

func (c *coverage) add(fields [][]byte) {
	if c.digest == nil {
		c.digest = sha256.New()
	}
	c.rows++
	var b []byte
	for _, field := range fields {
		b = append(binary.AppendUvarint(b, uint64(len(field))), field...)
	}
	c.digest.Write(b)
}

// sum is empty for no rows.
func (c *coverage) sum() []byte {
	if c.rows == 0 {
		return nil
	}
	return c.digest.Sum(appendNumbers(nil, c.rows))
}

// read adds a tenant's rows between two numbers, both excluded, page by page.
func (c *coverage) read(ctx context.Context, tx pgx.Tx, tenant TenantID, after, before int64) error {
	const page = 10000
	for before > after+1 {
		rows, err := tx.Query(ctx, `SELECT `+auditColumns+` FROM audit_log
			WHERE tenant_id = $1 AND sequence > $2 AND sequence < $3 ORDER BY sequence LIMIT $4`, tenant, after, before, page)
		if err != nil {
			return fmt.Errorf("read audit rows without a MAC: %w", err)
		}
		var row auditRow
		last := before
		_, err = pgx.ForEachRow(rows, row.targets(), func() error {
			last = row.sequence
			c.add(row.fields())
			row = auditRow{}
			return nil
		})
		if err = cmp.Or(err, rows.Err()); err != nil {
			return fmt.Errorf("read audit rows without a MAC: %w", err)
		}
		after = last
	}
	return nil
}

// errDetails tells that details hold a number that Postgres might write in another way
// than we do.
var errDetails = errors.New("the details of an audit row hold a number that is not whole")

// canonicalDetails brings an object as Postgres or we ourselves write it into one form.
func canonicalDetails(raw string) (string, error) {
	decoder := json.NewDecoder(strings.NewReader(raw))
	decoder.UseNumber()
	var object map[string]any
	if err := decoder.Decode(&object); err != nil {
		return "", fmt.Errorf("decode audit details: %w", err)
	}
	if !whole(object) {
		return "", errDetails
	}
	canonical, err := json.Marshal(object)
	return string(canonical), err
}

func whole(value any) bool {
	switch v := value.(type) {
	case json.Number:
		return !strings.ContainsAny(v.String(), ".eE")
	case map[string]any:
		for _, inner := range v {
			if !whole(inner) {
				return false
			}
		}
	case []any:
		for _, inner := range v {
			if !whole(inner) {
				return false
			}
		}
	}
	return true
}

// auditHead is where a tenant's sequences and its chain end; its row is locked.
type auditHead struct {
	now     time.Time
	events  int64
	audit   int64
	chained int64  // the last row with a MAC; 0: none
	mac     []byte // its MAC
	seal    []byte // of where the chain ends, only read to verify; nil: none
}

// lockAuditHead locks the tenant's sequence row and reads it.
func lockAuditHead(ctx context.Context, tx pgx.Tx, tenant TenantID) (auditHead, error) {
	var h auditHead
	err := tx.QueryRow(ctx, `
		SELECT app.now(), events, audit, audit_chained, audit_head FROM tenant_sequences
		WHERE tenant_id = $1 FOR NO KEY UPDATE`, tenant).Scan(&h.now, &h.events, &h.audit, &h.chained, &h.mac)
	return h, err
}

// sign puts the row behind the head, and moves that. The caller seals it.
func (s *Store) sign(row *auditRow, tenant TenantID, head *auditHead, covered *coverage) error {
	row.sealed = true
	mac, key, err := s.keyset.MAC(auditRowPurpose, row.message(tenant, head.mac, covered)...)
	if err != nil {
		return err
	}
	row.mac, row.key = mac, &key
	head.chained, head.mac = row.sequence, mac
	*covered = coverage{}
	return nil
}

// AdoptAudit covers audit rows without a MAC that nothing has covered yet, of every
// tenant, by a row that says so. It is how the chain of a tenant begins of which
// nothing is written.
func (s *Store) AdoptAudit(ctx context.Context) error {
	var behind []TenantID
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT tenant_id FROM tenant_sequences WHERE audit > audit_chained ORDER BY tenant_id`)
		if err != nil {
			return fmt.Errorf("find audit rows without a MAC: %w", err)
		}
		behind, err = pgx.CollectRows(rows, pgx.RowTo[TenantID])
		return err
	})
	if err != nil {
		return err
	}
	scope := postgres.Scope{Operator: true, Statement: time.Minute}
	for _, tenant := range behind {
		if err := s.inTx(ctx, scope, func(tx pgx.Tx) error { return s.adoptAudit(ctx, tx, tenant) }); err != nil {
			return fmt.Errorf("cover audit rows without a MAC: %w", err)
		}
	}
	return nil
}

// adoptAudit reads what there is before it takes the lock that writers wait for: rows
// do not change.
func (s *Store) adoptAudit(ctx context.Context, tx pgx.Tx, tenant TenantID) error {
	var until, chained int64
	err := tx.QueryRow(ctx, `SELECT audit, audit_chained FROM tenant_sequences WHERE tenant_id = $1`, tenant).Scan(&until, &chained)
	if err != nil {
		return fmt.Errorf("read audit head: %w", err)
	}
	var covered coverage
	if err := covered.read(ctx, tx, tenant, chained, until+1); err != nil {
		return err
	}
	head, err := lockAuditHead(ctx, tx, tenant)
	if err != nil {
		return fmt.Errorf("lock audit head: %w", err)
	}
	if head.chained != chained || head.audit == chained {
		return nil // somebody else was here
	}
	if err := covered.read(ctx, tx, tenant, until, head.audit+1); err != nil {
		return err
	}
	return s.adopt(ctx, tx, tenant, &head, &covered)
}

// adopt covers what is there between the chain's end and the head by a row that says so,
// and how many rows are not there: somebody took them away before anything covered them.
// The chain goes on, and that they are missing stays a finding.
func (s *Store) adopt(ctx context.Context, tx pgx.Tx, tenant TenantID, head *auditHead, covered *coverage) error {
	data := map[string]any{"from": head.chained + 1, "until": head.audit}
	if missing := head.audit - head.chained - covered.rows; missing > 0 {
		data["missing"] = missing
	}
	_, err := s.append(ctx, tx, tenant, System(), head, covered, []change{{action: auditAdopted, target: tenant.String(), data: data}})
	return err
}

// prefixOf is an address as the column has it.
func prefixOf(ip netip.Addr) *netip.Prefix {
	addr := nullAddr(ip)
	if addr == nil {
		return nil
	}
	prefix := netip.PrefixFrom(*addr, addr.BitLen())
	return &prefix
}

// encodeDetails is what a change's rows say, in canonical form.
func encodeDetails(data map[string]any) (string, error) {
	if data == nil {
		return "{}", nil
	}
	var raw bytes.Buffer
	if err := json.NewEncoder(&raw).Encode(data); err != nil {
		return "", err
	}
	return canonicalDetails(raw.String())
}
