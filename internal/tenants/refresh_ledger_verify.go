package tenants

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/postgres"
)

// LedgerCheck says what VerifyLedger looks at. The zero value is everything.
type LedgerCheck struct {
	Tenant     TenantID     // zero: all
	Connection ConnectionID // zero: all

	// WitnessNumber and WitnessHead are of a checkpoint that was noted outside of the
	// database, as the log does; 0: none. Nothing else can tell that the newest
	// checkpoints were cut off together with what they covered.
	WitnessNumber int64
	WitnessHead   []byte
}

// LedgerFinding is one thing that is not as it must be. It holds no token and no
// fingerprint.
type LedgerFinding struct {
	Tenant     TenantID     // zero with a checkpoint
	Connection ConnectionID // zero with a checkpoint
	Checkpoint int64        // 0: it is about a connection
	Sequence   int64        // row of the chain; 0: about the chain as a whole
	Log        string       // AuditLog or AdminLog; "": it is about the refresh ledger or a checkpoint
	What       string       // in plain words

	// Acknowledged, unless nil, is who knows of it.
	Acknowledged *Acknowledgement
}

// The logs that a finding can be about.
const (
	AuditLog = "audit" // a tenant's
	AdminLog = "admin" // of what belongs to no tenant
)

// AuditSummary counts what was verified of the audit log and the log of the admins.
type AuditSummary struct {
	Chains    int64
	Rows      int64
	Covered   int64 // rows without a MAC of their own that a later row covers
	Uncovered int64 // rows without a MAC that nothing covers yet
	Unsealed  int64 // chains whose last row a version wrote that seals no end
}

// LedgerSummary counts what was verified.
type LedgerSummary struct {
	Connections int64
	Rows        int64
	Folds       int64
	Attempts    int64 // also those in folds
	LateRetries int64 // of the attempts
	Open        int64 // attempts whose outcome was never written: processes that died
	Pending     int64 // pairs that were saved, and whose row is yet to be written
	Adopted     int64 // chains that began after their connection
	Checkpoints int64
	Findings    int64  // that nobody acknowledged
	LastNumber  int64  // of the newest checkpoint; 0: there is none
	LastHead    []byte // its head
	CheckedAt   time.Time
	WholeLedger bool // no filter was set, so checkpoints were compared whole
	Audit       AuditSummary

	Acknowledged int64 // findings that people know of
}

// VerifyLedger proves the refresh ledger, as it stands in one snapshot: that every chain
// is whole and its own connection's, agrees with the connection's row and with every
// checkpoint, and that no refresh token was presented twice, but for the one late retry
// of a suspect connection; and the audit log, unless check names a connection: that
// every tenant's is whole, its own and as the checkpoints saw it. What doesn't fit goes to report, one call each. It reads
// chains one by one; its memory does not grow with their number.
func (s *Store) VerifyLedger(ctx context.Context, check LedgerCheck, report func(LedgerFinding)) (LedgerSummary, error) {
	v := &verifier{store: s, check: check, report: report}
	v.summary.WholeLedger = check.Tenant.UUID == uuid.Nil && check.Connection.UUID == uuid.Nil
	scope := postgres.Scope{Operator: true, Statement: time.Hour}
	err := postgres.InTx(ctx, s.pool, scope, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY`); err != nil {
			return fmt.Errorf("take a snapshot: %w", err)
		}
		if err := tx.QueryRow(ctx, `SELECT app.now()`).Scan(&v.summary.CheckedAt); err != nil {
			return fmt.Errorf("read clock: %w", err)
		}
		if err := v.readAcknowledged(ctx, tx); err != nil {
			return err
		}
		if err := v.checkpoints(ctx, tx); err != nil {
			return err
		}
		if err := v.chains(ctx, tx); err != nil {
			return err
		}
		if err := v.shared(ctx, tx); err != nil {
			return err
		}
		return v.audit(ctx, tx)
	})
	return v.summary, err
}

// verifier is one run of VerifyLedger.
type verifier struct {
	store   *Store
	check   LedgerCheck
	report  func(LedgerFinding)
	summary LedgerSummary

	acknowledged map[string]Acknowledgement // by the findings' ids
}

// chainPage is how many connections are looked at together.
const chainPage = 500

// chains goes through the connections, page by page.
func (v *verifier) chains(ctx context.Context, tx pgx.Tx) error {
	page := &chainsPage{verifier: v}
	for {
		rows, err := tx.Query(ctx, `
			SELECT tenant_id, id, generation, ledger_count, ledger_head, ledger_generation, ledger_seal FROM connections
			WHERE (tenant_id, id) > ($1::uuid, $2::uuid)
			  AND ($3::uuid IS NULL OR tenant_id = $3) AND ($4::uuid IS NULL OR id = $4)
			ORDER BY tenant_id, id LIMIT $5`,
			page.last.tenant, page.last.id, nullID(v.check.Tenant.UUID), nullID(v.check.Connection.UUID), chainPage)
		if err != nil {
			return fmt.Errorf("list chains: %w", err)
		}
		heads, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (ledgerHead, error) {
			var h ledgerHead
			err := row.Scan(&h.tenant, &h.id, &h.stored, &h.count, &h.mac, &h.generation, &h.seal)
			return h, err
		})
		if err != nil {
			return fmt.Errorf("list chains: %w", err)
		}
		if err := page.run(ctx, tx, heads); err != nil {
			return err
		}
		if len(heads) < chainPage {
			return nil
		}
	}
}

// chainsPage is some neighbouring connections and what is known of their chains.
type chainsPage struct {
	*verifier

	last    chain // of the page before
	heads   map[chain]ledgerHead
	folds   map[chain]ledgerFold
	entries map[chain][]checkpointEntry
	current *replay
	done    map[chain]bool
}

// run verifies a page: those connections, and whatever rows lie between them.
func (p *chainsPage) run(ctx context.Context, tx pgx.Tx, heads []ledgerHead) error {
	p.heads, p.done, p.current = make(map[chain]ledgerHead, len(heads)), make(map[chain]bool, len(heads)), nil
	for _, h := range heads {
		p.heads[h.chain] = h
	}
	from, until := p.last, chain{TenantID{uuid.Max}, ConnectionID{uuid.Max}}
	if len(heads) == chainPage {
		until = heads[len(heads)-1].chain
		p.last = until
	}
	where := `WHERE (tenant_id, connection_id) > ($1::uuid, $2::uuid) AND (tenant_id, connection_id) <= ($3::uuid, $4::uuid)
		AND ($5::uuid IS NULL OR tenant_id = $5) AND ($6::uuid IS NULL OR connection_id = $6) `
	args := []any{from.tenant, from.id, until.tenant, until.id, nullID(p.check.Tenant.UUID), nullID(p.check.Connection.UUID)}
	if err := p.readFolds(ctx, tx, where, args); err != nil {
		return err
	}
	if err := p.readEntries(ctx, tx, where, args); err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `SELECT tenant_id, connection_id, `+rowColumns+` FROM refresh_ledger `+where+
		`ORDER BY tenant_id, connection_id, sequence`, args...)
	if err != nil {
		return fmt.Errorf("read chains: %w", err)
	}
	var c chain
	var row ledgerRow
	_, err = pgx.ForEachRow(rows, append([]any{&c.tenant, &c.id}, row.targets()...), func() error {
		p.row(c, row)
		row = ledgerRow{}
		return nil
	})
	if err = cmp.Or(err, rows.Err()); err != nil {
		return fmt.Errorf("read chains: %w", err)
	}
	p.finish()
	for _, h := range heads { // those without a row
		if !p.done[h.chain] {
			p.start(h.chain)
			p.finish()
		}
	}
	return nil
}

func (p *chainsPage) readFolds(ctx context.Context, tx pgx.Tx, where string, args []any) error {
	rows, err := tx.Query(ctx, `SELECT tenant_id, connection_id, `+foldColumns+` FROM refresh_ledger_folds `+where, args...)
	if err != nil {
		return fmt.Errorf("read folds: %w", err)
	}
	p.folds = map[chain]ledgerFold{}
	var c chain
	var f ledgerFold
	_, err = pgx.ForEachRow(rows, append([]any{&c.tenant, &c.id}, f.targets()...), func() error {
		p.folds[c] = f
		f = ledgerFold{}
		return nil
	})
	if err = cmp.Or(err, rows.Err()); err != nil {
		return fmt.Errorf("read folds: %w", err)
	}
	return nil
}

func (p *chainsPage) readEntries(ctx context.Context, tx pgx.Tx, where string, args []any) error {
	rows, err := tx.Query(ctx, `SELECT tenant_id, connection_id, count, head FROM ledger_checkpoint_entries `+where+
		`AND connection_id <> $7 ORDER BY tenant_id, connection_id, count`, append(slices.Clip(args), uuid.Nil)...)
	if err != nil {
		return fmt.Errorf("read checkpoint entries: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanCheckpointEntry)
	if err != nil {
		return fmt.Errorf("read checkpoint entries: %w", err)
	}
	p.entries = map[chain][]checkpointEntry{}
	for _, e := range list {
		if _, known := p.heads[e.chain]; !known {
			p.find(LedgerFinding{Tenant: e.tenant, Connection: e.id, What: "a checkpoint knows the connection, which is gone"})
		}
		p.entries[e.chain] = append(p.entries[e.chain], e)
	}
	return nil
}

// row takes the next row of the page.
func (p *chainsPage) row(c chain, row ledgerRow) {
	p.summary.Rows++
	if p.current == nil || p.current.chain != c {
		p.finish()
		p.start(c)
	}
	p.current.next(row)
	p.compareEntries(row.sequence, row.mac)
}

// compareEntries compares the checkpoint entries at that place of the chain.
func (p *chainsPage) compareEntries(sequence int64, head []byte) {
	c := p.current.chain
	list := p.entries[c]
	for len(list) > 0 && list[0].count <= sequence {
		inFold := list[0].count < p.current.folded
		if !inFold && (list[0].count != sequence || !bytes.Equal(list[0].head, head)) {
			p.current.report(list[0].count, "the row is not the one that a checkpoint saw")
		}
		list = list[1:]
	}
	p.entries[c] = list
}

func (p *chainsPage) start(c chain) {
	p.current = newReplay(p.store.keyset, c, func(sequence int64, what string) {
		p.find(LedgerFinding{Tenant: c.tenant, Connection: c.id, Sequence: sequence, What: what})
	})
	p.done[c] = true
	if fold, folded := p.folds[c]; folded {
		p.summary.Folds++
		p.current.resume(fold)
		p.compareEntries(fold.sequence, fold.head)
	}
}

// finish compares the end of the current chain with the connection's row and with the
// checkpoints.
func (p *chainsPage) finish() {
	r := p.current
	if r == nil {
		return
	}
	p.current = nil
	p.summary.Connections++
	p.summary.Attempts += r.counts[entryBegun]
	p.summary.LateRetries += r.lateRetries
	p.summary.Open += r.openAttempts()
	p.summary.Adopted += min(r.counts[entryAdopted], 1)
	if left := p.entries[r.chain]; len(left) > 0 {
		r.report(left[len(left)-1].count, "a checkpoint saw the chain until here, and it ends before")
	}
	head, known := p.heads[r.chain]
	switch {
	case !known:
		r.report(0, "the chain's connection does not exist")
		return
	case r.sequence == 0 && head.count == 0:
		r.report(0, "the connection has no ledger")
		return
	case head.count != r.sequence:
		r.report(0, fmt.Sprintf("the connection's row counts %d rows, and the chain ends at %d", head.count, r.sequence))
	case !bytes.Equal(head.mac, r.head):
		r.report(0, "the connection's row has another head than the chain")
	}
	end := sealedEnd{row: "the connection's row", purpose: ledgerHeadPurpose, message: head.sealMessage(), seal: head.seal}
	if wrong := end.check(p.store.keyset, r.sealed); wrong != "" {
		r.report(0, wrong)
	}
	switch {
	case r.lost:
	case head.generation != r.generation:
		r.report(0, fmt.Sprintf("the connection's row says that the chain accounts for generation %d, and it does for %d",
			head.generation, r.generation))
	case head.stored == r.generation+1 && r.pending():
		p.summary.Pending++
	case head.stored != r.generation:
		r.report(0, fmt.Sprintf("generation %d is stored, and the chain accounts for %d", head.stored, r.generation))
	}
}

// checkpoints verifies the chain of checkpoints and, in a run over everything, that each
// has the entries that it was signed with.
func (v *verifier) checkpoints(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `SELECT `+checkpointColumns+` FROM ledger_checkpoints ORDER BY sequence`)
	if err != nil {
		return fmt.Errorf("read checkpoints: %w", err)
	}
	var p checkpoint
	var head []byte
	last, needed := int64(0), int64(1)
	witnessed := v.check.WitnessNumber == 0
	_, err = pgx.ForEachRow(rows, p.targets(), func() error {
		switch {
		case p.number != last+1:
			v.find(LedgerFinding{Checkpoint: last + 1, What: fmt.Sprintf("the checkpoints until %d are missing", p.number-1)})
		default:
			if err := v.store.keyset.CheckMAC(p.mac, p.key, ledgerCheckpointPurpose, p.message(head)...); err != nil {
				v.find(LedgerFinding{Checkpoint: p.number, What: "the checkpoint was altered: " + err.Error()})
			}
		}
		if p.number == v.check.WitnessNumber {
			if witnessed = true; !bytes.Equal(p.mac, v.check.WitnessHead) {
				v.find(LedgerFinding{Checkpoint: p.number, What: "the checkpoint is not the one that was witnessed"})
			}
		}
		v.summary.Checkpoints++
		last, head, needed = p.number, p.mac, p.entriesFrom
		p = checkpoint{}
		return nil
	})
	if err = cmp.Or(err, rows.Err()); err != nil {
		return fmt.Errorf("read checkpoints: %w", err)
	}
	if !witnessed {
		v.find(LedgerFinding{Checkpoint: v.check.WitnessNumber, What: "the checkpoint was witnessed, and is gone"})
	}
	v.summary.LastNumber, v.summary.LastHead = last, head
	if !v.summary.WholeLedger {
		return nil
	}
	return v.digests(ctx, tx, needed)
}

// digests compares the entries of the checkpoints from needed on with their digests.
func (v *verifier) digests(ctx context.Context, tx pgx.Tx, needed int64) error {
	rows, err := tx.Query(ctx, `
		SELECT coalesce(p.sequence, e.checkpoint), p.digest, p.entries,
		       e.tenant_id, e.connection_id, e.count, e.head
		FROM (SELECT sequence, digest, entries FROM ledger_checkpoints WHERE sequence >= $1) p
		FULL JOIN (SELECT tenant_id, connection_id, checkpoint, count, head FROM ledger_checkpoint_entries WHERE checkpoint >= $1) e
			ON e.checkpoint = p.sequence
		ORDER BY 1, e.tenant_id, e.connection_id`, needed)
	if err != nil {
		return fmt.Errorf("read checkpoint entries: %w", err)
	}
	var number, current int64
	var digest, signed []byte
	var entries, signedEntries *int
	var tenant, connection *uuid.UUID
	var count *int64
	var head []byte
	var sum hash.Hash
	seen := 0
	finish := func() {
		if current != 0 && (signedEntries == nil || *signedEntries != seen || !bytes.Equal(sum.Sum(nil), signed)) {
			v.find(LedgerFinding{Checkpoint: current, What: "its entries are not those that were signed"})
		}
	}
	_, err = pgx.ForEachRow(rows, []any{&number, &digest, &entries, &tenant, &connection, &count, &head}, func() error {
		if number != current {
			finish()
			current, signed, signedEntries, sum, seen = number, digest, entries, sha256.New(), 0
		}
		if tenant != nil && connection != nil && count != nil {
			seen++
			e := checkpointEntry{chain: chain{TenantID{*tenant}, ConnectionID{*connection}}, count: *count, head: head}
			sum.Write(e.encode())
		}
		return nil
	})
	if err = cmp.Or(err, rows.Err()); err != nil {
		return fmt.Errorf("read checkpoint entries: %w", err)
	}
	finish()
	return nil
}

// shared finds refresh tokens that were presented for two connections.
func (v *verifier) shared(ctx context.Context, tx pgx.Tx) error {
	if !v.summary.WholeLedger {
		return nil
	}
	rows, err := tx.Query(ctx, `
		SELECT (array_agg(tenant_id))[1], (array_agg(connection_id))[1], (array_agg(sequence))[1], count(*) FROM (
			SELECT DISTINCT ON (key_id, fingerprint, tenant_id, connection_id) key_id, fingerprint, tenant_id, connection_id, sequence
			FROM refresh_ledger WHERE entry = 'begun' AND fingerprint IS NOT NULL
			ORDER BY key_id, fingerprint, tenant_id, connection_id, sequence) presented
		GROUP BY key_id, fingerprint HAVING count(*) > 1`)
	if err != nil {
		return fmt.Errorf("look for shared tokens: %w", err)
	}
	var f LedgerFinding
	var connections int64
	_, err = pgx.ForEachRow(rows, []any{&f.Tenant, &f.Connection, &f.Sequence, &connections}, func() error {
		f.What = fmt.Sprintf("the same refresh token was presented for %d connections", connections)
		v.find(f)
		return nil
	})
	if err = cmp.Or(err, rows.Err()); err != nil {
		return fmt.Errorf("look for shared tokens: %w", err)
	}
	return nil
}
