package tenants

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/postgres"
)

// LedgerCheckpoint is one signed checkpoint of the refresh ledger and the audit log: how
// far every chain was that had grown since the one before. Head is chained to that one's, so whoever
// keeps Number and Head somewhere else can tell later whether any of it was cut off.
type LedgerCheckpoint struct {
	Number  int64
	Entries int    // chains in it
	Head    []byte // its MAC, 32 bytes; not secret
}

// CheckpointLedgerJob writes checkpoints of the refresh ledger.
type CheckpointLedgerJob struct{}

// Kind is the job's name in the queue.
func (CheckpointLedgerJob) Kind() string { return "checkpoint_ledger" }

// FoldLedgerJob folds the old rows of the refresh ledger.
type FoldLedgerJob struct{}

// Kind is the job's name in the queue.
func (FoldLedgerJob) Kind() string { return "fold_ledger" }

// checkpoint is a row of ledger_checkpoints.
type checkpoint struct {
	number      int64
	at          time.Time
	upto        time.Time // every row until then is in this one or an older one
	entriesFrom int64     // the oldest checkpoint whose entries are still needed
	entries     int
	digest      []byte
	key         uint32
	mac         []byte
}

const checkpointColumns = `sequence, at, upto, entries_from, entries, digest, key_id, mac`

func (p *checkpoint) targets() []any {
	return []any{&p.number, &p.at, &p.upto, &p.entriesFrom, &p.entries, &p.digest, &p.key, &p.mac}
}

func (p *checkpoint) message(previous []byte) [][]byte {
	b := appendNumbers(nil, p.number, p.at.UnixMicro(), p.upto.UnixMicro(), p.entriesFrom, int64(p.entries), int64(p.key))
	return [][]byte{previous, b, p.digest}
}

// checkpointEntry says how far one chain was. A tenant's audit log is the chain of the
// connection of zeros, and what belongs to no tenant that of the tenant of zeros.
type checkpointEntry struct {
	chain

	count int64
	head  []byte
}

func (e checkpointEntry) encode() []byte {
	b := make([]byte, 0, 80)
	b = append(b, e.tenant.UUID[:]...)
	b = append(b, e.id.UUID[:]...)
	b = appendNumbers(b, e.count)
	return append(b, e.head...) // always 32 bytes: nothing to tell apart
}

func scanCheckpointEntry(row pgx.CollectableRow) (checkpointEntry, error) {
	var e checkpointEntry
	err := row.Scan(&e.tenant, &e.id, &e.count, &e.head)
	return e, err
}

const (
	// checkpointBatch bounds the chains of one checkpoint, and with it a transaction.
	checkpointBatch = 5000
	// checkpointOverlap is how much older than the last checkpoint rows are looked at
	// again: a row bears the time before its commit, and clocks are set. After one that was
	// set back the last checkpoint lies ahead, and its distance is looked at once more.
	checkpointOverlap = 30 * time.Minute
	// carryAtOnce bounds the old checkpoints whose entries one checkpoint takes over.
	carryAtOnce = 8
)

// CheckpointLedger first writes the ends of attempts that a crash has left out, and
// covers audit rows of versions before the chain; then checkpoints until every chain
// that grew is in one. Entries older than retention are
// carried over into new checkpoints and deleted.
//
// It locks nothing that a token save waits for. Of two that run at once one ends early,
// without an error.
func (s *Store) CheckpointLedger(ctx context.Context, retention time.Duration) ([]LedgerCheckpoint, error) {
	if err := s.sweepLedger(ctx); err != nil {
		return nil, err
	}
	if err := s.AdoptAudit(ctx); err != nil {
		return nil, err
	}
	var made []LedgerCheckpoint
	for {
		var p checkpoint
		err := s.inOperator(ctx, func(tx pgx.Tx) error {
			var err error
			p, err = s.writeCheckpoint(ctx, tx, retention)
			return err
		})
		if postgres.IsUniqueViolation(err, "ledger_checkpoints_pkey") {
			return made, nil // another replica is at it
		}
		if err != nil || p.entries == 0 {
			return made, err
		}
		made = append(made, LedgerCheckpoint{Number: p.number, Entries: p.entries, Head: p.mac})
		if p.entries < checkpointBatch {
			return made, nil
		}
	}
}

// writeCheckpoint writes the next checkpoint; one without entries is not written.
func (s *Store) writeCheckpoint(ctx context.Context, tx pgx.Tx, retention time.Duration) (checkpoint, error) {
	last, err := lastCheckpoint(ctx, tx)
	if err != nil {
		return checkpoint{}, err
	}
	p := checkpoint{number: last.number + 1, entriesFrom: max(last.entriesFrom, 1), key: s.keyset.FingerprintKey()}
	if err := tx.QueryRow(ctx, `SELECT app.now()`).Scan(&p.at); err != nil {
		return checkpoint{}, fmt.Errorf("read clock: %w", err)
	}
	if p.entriesFrom, err = entriesNeeded(ctx, tx, p, retention); err != nil {
		return checkpoint{}, err
	}
	list, err := entriesDue(ctx, tx, last, p.entriesFrom)
	if err != nil || len(list) == 0 {
		return checkpoint{}, err
	}
	if p.entries, p.upto = len(list), p.at; p.entries == checkpointBatch {
		// There may be more, from before and from entries that are to be carried over.
		p.upto, p.entriesFrom = last.upto, max(last.entriesFrom, 1)
	}
	digest := sha256.New()
	for _, e := range list {
		digest.Write(e.encode())
	}
	p.digest = digest.Sum(nil)
	if p.mac, _, err = s.keyset.MAC(ledgerCheckpointPurpose, p.message(last.mac)...); err != nil {
		return checkpoint{}, err
	}
	_, err = tx.Exec(ctx, `INSERT INTO ledger_checkpoints (`+checkpointColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
		p.number, p.at, p.upto, p.entriesFrom, p.entries, p.digest, p.key, p.mac)
	if err != nil {
		return checkpoint{}, fmt.Errorf("write checkpoint: %w", err)
	}
	if err := writeEntries(ctx, tx, p.number, list); err != nil {
		return checkpoint{}, err
	}
	if _, err = tx.Exec(ctx, `SELECT app.prune_checkpoint_entries()`); err != nil {
		return checkpoint{}, fmt.Errorf("prune checkpoint entries: %w", err)
	}
	return p, nil
}

func writeEntries(ctx context.Context, tx pgx.Tx, number int64, list []checkpointEntry) error {
	tenants, ids := make([]uuid.UUID, len(list)), make([]uuid.UUID, len(list))
	counts, heads := make([]int64, len(list)), make([][]byte, len(list))
	for i, e := range list {
		tenants[i], ids[i], counts[i], heads[i] = e.tenant.UUID, e.id.UUID, e.count, e.head
	}
	_, err := tx.Exec(ctx, `
		INSERT INTO ledger_checkpoint_entries (tenant_id, connection_id, checkpoint, count, head)
		SELECT tenant_id, connection_id, $1, count, head
		FROM unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::bytea[]) AS e (tenant_id, connection_id, count, head)`,
		number, tenants, ids, counts, heads)
	if err != nil {
		return fmt.Errorf("write checkpoint entries: %w", err)
	}
	return nil
}

// lastCheckpoint returns the newest one, zero when there is none.
func lastCheckpoint(ctx context.Context, tx pgx.Tx) (checkpoint, error) {
	var last checkpoint
	err := tx.QueryRow(ctx, `SELECT `+checkpointColumns+` FROM ledger_checkpoints ORDER BY sequence DESC LIMIT 1`).
		Scan(last.targets()...)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return checkpoint{}, fmt.Errorf("read last checkpoint: %w", err)
	}
	return last, nil
}

// entriesNeeded returns the oldest checkpoint whose entries are to stay: some of the
// oldest are let go of once they are older than retention.
func entriesNeeded(ctx context.Context, tx pgx.Tx, p checkpoint, retention time.Duration) (int64, error) {
	from := p.entriesFrom
	err := tx.QueryRow(ctx, `
		SELECT coalesce(max(sequence) + 1, $1) FROM (
			SELECT sequence FROM ledger_checkpoints WHERE sequence >= $1 AND at < $2::timestamptz - $3::interval
			ORDER BY sequence LIMIT $4) old`, from, p.at, retention, carryAtOnce).Scan(&from)
	if err != nil {
		return 0, fmt.Errorf("find old checkpoints: %w", err)
	}
	return from, nil
}

// entriesDue lists the chains that grew since the last checkpoint, those of the audit
// log that no checkpoint has seen so far grown, and those whose only
// entry is in a checkpoint before from, in the order of the digest.
func entriesDue(ctx context.Context, tx pgx.Tx, last checkpoint, from int64) ([]checkpointEntry, error) {
	rows, err := tx.Query(ctx, `
		SELECT tenant_id, connection_id, max(count), (array_agg(head ORDER BY count DESC))[1] FROM (
			(SELECT DISTINCT ON (l.tenant_id, l.connection_id) l.tenant_id, l.connection_id, l.sequence AS count, l.mac AS head
			FROM refresh_ledger l
			WHERE l.at > least($1::timestamptz, app.now() - ($1::timestamptz - app.now())) - $2::interval
			  AND NOT EXISTS (SELECT FROM ledger_checkpoint_entries e WHERE e.tenant_id = l.tenant_id
				AND e.connection_id = l.connection_id AND e.count >= l.sequence)
			ORDER BY l.tenant_id, l.connection_id, l.sequence DESC)
			UNION ALL
			(SELECT DISTINCT ON (o.tenant_id, o.connection_id) o.tenant_id, o.connection_id, o.count, o.head
			FROM ledger_checkpoint_entries o
			WHERE o.checkpoint < $3 AND NOT EXISTS (SELECT FROM ledger_checkpoint_entries e
				WHERE e.tenant_id = o.tenant_id AND e.connection_id = o.connection_id AND e.checkpoint >= $3)
			ORDER BY o.tenant_id, o.connection_id, o.count DESC)
			UNION ALL
			(SELECT h.tenant_id, $5::uuid, h.chained, h.head FROM (
				SELECT tenant_id, audit_chained AS chained, audit_head AS head FROM tenant_sequences
				UNION ALL SELECT $5::uuid, chained, head FROM admin_log_head) h
			WHERE h.chained > 0 AND NOT EXISTS (SELECT FROM ledger_checkpoint_entries e WHERE e.tenant_id = h.tenant_id
				AND e.connection_id = $5::uuid AND e.count >= h.chained))
		) due
		GROUP BY tenant_id, connection_id ORDER BY tenant_id, connection_id LIMIT $4`,
		last.upto, checkpointOverlap, from, checkpointBatch, uuid.Nil)
	if err != nil {
		return nil, fmt.Errorf("find what a checkpoint holds: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanCheckpointEntry)
	if err != nil {
		return nil, fmt.Errorf("find what a checkpoint holds: %w", err)
	}
	return list, nil
}

// sweepLedger writes the found_saved of pairs whose saved was lost: a crash between the
// two, or a write behind the save that failed. It looks at what began since the last
// checkpoint, less its overlap; the rest is found by the connection's next claim. A
// connection that was refused meanwhile has none, so it is found by when it was saved,
// however long its process stood still.
func (s *Store) sweepLedger(ctx context.Context) error {
	const batch = 500
	var after chain
	for {
		var behind []chain
		err := s.inOperator(ctx, func(tx pgx.Tx) error {
			last, err := lastCheckpoint(ctx, tx)
			if err != nil {
				return err
			}
			// One whose save was a moment ago is being written just now.
			rows, err := tx.Query(ctx, `
				WITH since AS (SELECT least($1::timestamptz, app.now() - ($1::timestamptz - app.now())) - $2::interval AS at)
				SELECT tenant_id, id FROM (
					SELECT c.tenant_id, c.id FROM refresh_ledger b
					JOIN connections c ON c.tenant_id = b.tenant_id AND c.id = b.connection_id AND c.generation > c.ledger_generation
					WHERE b.entry = 'begun' AND b.at > (SELECT at FROM since) AND b.at < app.now() - interval '1 minute'
					UNION
					SELECT tenant_id, id FROM connections
					WHERE status = 'needs_reconnect' AND generation > ledger_generation
					  AND updated_at > (SELECT at FROM since) AND updated_at < app.now() - interval '1 minute'
				) AS behind WHERE (tenant_id, id) > ($3::uuid, $4::uuid)
				ORDER BY tenant_id, id LIMIT $5`, last.upto, checkpointOverlap, after.tenant, after.id, batch)
			if err != nil {
				return fmt.Errorf("find lost ledger entries: %w", err)
			}
			behind, err = pgx.CollectRows(rows, scanChain)
			return err
		})
		if err != nil || len(behind) == 0 {
			return err
		}
		for _, c := range behind {
			err := s.inTenant(ctx, c.tenant, func(tx pgx.Tx) error {
				head, err := c.lockLedgerHead(ctx, tx)
				if err != nil {
					return err
				}
				return s.catchUp(ctx, tx, &head)
			})
			if err != nil {
				return fmt.Errorf("rebuild ledger entry: %w", err)
			}
		}
		after = behind[len(behind)-1]
	}
}
