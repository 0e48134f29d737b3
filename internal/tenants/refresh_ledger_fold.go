package tenants

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// ledgerFold is what the rows of a chain until sequence came to. The last of them
// stored a pair, so no attempt with the pair after it is in the fold, and the
// fingerprint of that pair's refresh token is all that later rows rest on: the tokens
// before it have outlived their 90 days at Prisma when the default retention is over.
type ledgerFold struct {
	sequence       int64
	head           []byte
	generation     int64
	fingerprint    []byte
	fingerprintKey uint32
	counts         []int64 // in the order of ledgerEntries
	lateRetries    int64
	at             time.Time
	key            uint32
	mac            []byte
}

func (f *ledgerFold) message(c chain) [][]byte {
	b := make([]byte, 0, 192)
	b = append(b, c.tenant.UUID[:]...)
	b = append(b, c.id.UUID[:]...)
	b = appendNumbers(b, f.sequence, f.generation, int64(f.fingerprintKey), f.lateRetries, f.at.UnixMicro(), int64(f.key))
	b = appendNumbers(b, f.counts...)
	return [][]byte{f.head, b, f.fingerprint}
}

// resume makes a replay stand behind the fold.
func (r *replay) resume(f ledgerFold) {
	if err := r.keyset.CheckMAC(f.mac, f.key, ledgerFoldPurpose, f.message(r.chain)...); err != nil {
		r.report(f.sequence, "the fold was altered, or is not of this connection: "+err.Error())
	}
	r.sequence, r.folded, r.head, r.generation = f.sequence, f.sequence, f.head, f.generation
	r.fingerprint, r.key, r.lateRetries = f.fingerprint, f.fingerprintKey, f.lateRetries
	for i, entry := range ledgerEntries() {
		if i < len(f.counts) {
			r.counts[entry] = f.counts[i]
		}
	}
}

// fold is what a replay has come to. The last row must be one that moves.
func (r *replay) fold() ledgerFold {
	f := ledgerFold{
		sequence: r.sequence, head: r.head, generation: r.generation,
		fingerprint: r.fingerprint, fingerprintKey: r.key, lateRetries: r.lateRetries,
	}
	for _, entry := range ledgerEntries() {
		f.counts = append(f.counts, r.counts[entry])
	}
	return f
}

const foldColumns = `sequence, head, generation, fingerprint, fingerprint_key_id, counts, late_retries, at, key_id, mac`

func (f *ledgerFold) targets() []any {
	return []any{
		&f.sequence, &f.head, &f.generation, &f.fingerprint, &f.fingerprintKey, &f.counts, &f.lateRetries, &f.at, &f.key, &f.mac,
	}
}

// FoldLedger folds the rows of the refresh ledger that are older than retention: of
// each chain those until the last pair that was stored before, if a checkpoint covers
// them. It returns how many rows are gone. A chain that does not prove itself is left as
// it is, for VerifyLedger to tell of, and the error counts them.
func (s *Store) FoldLedger(ctx context.Context, retention time.Duration) (int64, error) {
	const batch = 200
	var folded int64
	broken := 0
	var after chain
	for {
		var due []chain
		err := s.inOperator(ctx, func(tx pgx.Tx) error {
			rows, err := tx.Query(ctx, `
				SELECT DISTINCT tenant_id, connection_id FROM refresh_ledger
				WHERE at < app.now() - $1::interval AND entry IN ('stored', 'adopted', 'saved', 'found_saved')
				  AND (tenant_id, connection_id) > ($2::uuid, $3::uuid)
				ORDER BY tenant_id, connection_id LIMIT $4`, retention, after.tenant, after.id, batch)
			if err != nil {
				return fmt.Errorf("find old ledger rows: %w", err)
			}
			due, err = pgx.CollectRows(rows, scanChain)
			return err
		})
		if err != nil {
			return folded, err
		}
		for _, c := range due {
			n, err := s.foldChain(ctx, c, retention)
			folded += n
			if errors.Is(err, errBrokenChain) {
				broken++
			} else if err != nil {
				return folded, err
			}
		}
		if len(due) == 0 && broken > 0 {
			return folded, fmt.Errorf("%w: %d of them were not folded", errBrokenChain, broken)
		}
		if len(due) == 0 {
			return folded, nil
		}
		after = due[len(due)-1]
	}
}

// errBrokenChain tells that a chain does not prove itself.
var errBrokenChain = errors.New("chains of the refresh ledger don't prove themselves")

func scanChain(row pgx.CollectableRow) (chain, error) {
	var c chain
	err := row.Scan(&c.tenant, &c.id)
	return c, err
}

// foldChain folds one chain in one transaction. Two that come at once do it once: the
// fold's row is compared and set.
func (s *Store) foldChain(ctx context.Context, c chain, retention time.Duration) (int64, error) {
	var deleted int64
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		var until int64
		err := tx.QueryRow(ctx, `
			SELECT coalesce(max(l.sequence), 0) FROM refresh_ledger l
			WHERE l.tenant_id = $1 AND l.connection_id = $2 AND l.at < app.now() - $3::interval
			  AND l.entry IN ('stored', 'adopted', 'saved', 'found_saved')
			  AND EXISTS (SELECT FROM ledger_checkpoint_entries e
				WHERE e.tenant_id = $1 AND e.connection_id = $2 AND e.count >= l.sequence)`,
			c.tenant, c.id, retention).Scan(&until)
		if err != nil {
			return fmt.Errorf("find what to fold: %w", err)
		}
		if until == 0 {
			return nil
		}
		before, fold, err := s.replayUntil(ctx, tx, c, until)
		if err != nil || fold.sequence != until {
			return err // somebody else was here in the meantime
		}
		if done, err := s.writeFold(ctx, tx, c, before, fold); err != nil || !done {
			return err
		}
		return tx.QueryRow(ctx, `SELECT app.delete_folded_rows($1, $2)`, c.tenant, c.id).Scan(&deleted)
	})
	return deleted, err
}

// replayUntil proves the chain until that row, and returns what it comes to and the
// sequence of the fold before.
func (s *Store) replayUntil(ctx context.Context, tx pgx.Tx, c chain, until int64) (before int64, fold ledgerFold, err error) {
	broken := false
	r := newReplay(s.keyset, c, func(int64, string) { broken = true })
	var old ledgerFold
	err = tx.QueryRow(ctx, `SELECT `+foldColumns+` FROM refresh_ledger_folds
		WHERE tenant_id = $1 AND connection_id = $2`, c.tenant, c.id).Scan(old.targets()...)
	switch {
	case err == nil:
		r.resume(old)
	case !errors.Is(err, pgx.ErrNoRows):
		return 0, ledgerFold{}, fmt.Errorf("read fold: %w", err)
	}
	rows, err := tx.Query(ctx, `SELECT `+rowColumns+` FROM refresh_ledger
		WHERE tenant_id = $1 AND connection_id = $2 AND sequence <= $3 ORDER BY sequence`, c.tenant, c.id, until)
	if err != nil {
		return 0, ledgerFold{}, fmt.Errorf("read chain: %w", err)
	}
	var row ledgerRow
	_, err = pgx.ForEachRow(rows, row.targets(), func() error {
		r.next(row)
		row = ledgerRow{}
		return nil
	})
	if err = cmp.Or(err, rows.Err()); err != nil {
		return 0, ledgerFold{}, fmt.Errorf("read chain: %w", err)
	}
	if broken {
		return 0, ledgerFold{}, errBrokenChain
	}
	return old.sequence, r.fold(), nil
}

const rowColumns = `sequence, entry, generation, attempt, late_retry, replica, at, fingerprint, key_id, mac, lease_until, head_sealed`

func (r *ledgerRow) targets() []any {
	return []any{
		&r.sequence, &r.entry, &r.generation, &r.attempt, &r.lateRetry, &r.replica, &r.at,
		&r.fingerprint, &r.key, &r.mac, &r.leaseUntil, &r.headSealed,
	}
}

// writeFold signs the fold and puts it in the place of the one before; false means that
// somebody else did.
func (s *Store) writeFold(ctx context.Context, tx pgx.Tx, c chain, before int64, f ledgerFold) (bool, error) {
	if err := tx.QueryRow(ctx, `SELECT app.now()`).Scan(&f.at); err != nil {
		return false, fmt.Errorf("read clock: %w", err)
	}
	f.key = s.keyset.FingerprintKey()
	var err error
	if f.mac, _, err = s.keyset.MAC(ledgerFoldPurpose, f.message(c)...); err != nil {
		return false, err
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO refresh_ledger_folds AS f (tenant_id, connection_id, `+foldColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
		ON CONFLICT (tenant_id, connection_id) DO UPDATE SET sequence = $3, head = $4, generation = $5, fingerprint = $6,
			fingerprint_key_id = $7, counts = $8, late_retries = $9, at = $10, key_id = $11, mac = $12
		WHERE f.sequence = $13`,
		c.tenant, c.id, f.sequence, f.head, f.generation, f.fingerprint, f.fingerprintKey, f.counts, f.lateRetries, f.at,
		f.key, f.mac, before)
	if err != nil {
		return false, fmt.Errorf("write fold: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}
