package tenants

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/prisma"
)

// The refresh ledger keeps one chain of rows a connection: every pair that was
// stored, every attempt to exchange its refresh token, and how that ended. Row n
// carries MAC(key, MAC of row n-1, row n), and the connection's row carries the last
// MAC and the number of rows. The key is not in the database, so whoever can write
// there can destroy the evidence, and not alter it unseen.
//
//	stored ──▶ begun ──▶ saved ──▶ begun ──▶ …      each saved counts the generation up
//	             │ └───▶ not_sent, misconfigured    the token is as good as before
//	             ├─────▶ invalid_grant              it is dead
//	             └─────▶ unknown, or nothing at all late retries may follow
//
// A begun is written in the claim's own transaction: without it there is no exchange.
// A saved follows the save in a transaction of its own, so that a token save waits for
// nothing; if it is lost, the row's generation tells, and the next claim or a sweep
// writes found_saved.

// ledgerEntry says what a row of the ledger is about.
type ledgerEntry string

// The entries. Their order is part of the format: folds count them in it.
const (
	entryStored        ledgerEntry = "stored"        // a new grant, or a pair that was set
	entryAdopted       ledgerEntry = "adopted"       // a pair was found that the ledger had not seen coming
	entryBegun         ledgerEntry = "begun"         // a refresh token is about to be presented
	entrySaved         ledgerEntry = "saved"         // answered, and the new pair is stored
	entryFoundSaved    ledgerEntry = "found_saved"   // as saved, seen by its traces alone
	entryNotSent       ledgerEntry = "not_sent"      // nothing left this process
	entryMisconfigured ledgerEntry = "misconfigured" // refused for our client's sake; nothing was spent
	entryInvalidGrant  ledgerEntry = "invalid_grant" // refused: the token is dead
	entryUnknown       ledgerEntry = "unknown"       // nobody knows whether it was spent
	entrySuperseded    ledgerEntry = "superseded"    // answered, and dropped: the connection had moved on
)

// ledgerEntries lists the entries in their order.
func ledgerEntries() []ledgerEntry {
	return []ledgerEntry{
		entryStored, entryAdopted, entryBegun, entrySaved, entryFoundSaved,
		entryNotSent, entryMisconfigured, entryInvalidGrant, entryUnknown, entrySuperseded,
	}
}

// moves reports whether the entry says that another pair is stored.
func (e ledgerEntry) moves() bool {
	return e == entryStored || e == entryAdopted || e == entrySaved || e == entryFoundSaved
}

// ends reports whether the entry ends an attempt.
func (e ledgerEntry) ends() bool { return e != entryStored && e != entryAdopted && e != entryBegun }

// unspent reports whether the entry proves that the token is as good as before.
func (e ledgerEntry) unspent() bool { return e == entryNotSent || e == entryMisconfigured }

// The purposes keep the ledger's MACs and fingerprints apart from each other and from
// all else that the keyset authenticates.
const (
	ledgerRowPurpose        = "refresh ledger row"
	ledgerFoldPurpose       = "refresh ledger fold"
	ledgerCheckpointPurpose = "refresh ledger checkpoint"
	refreshTokenPurpose     = "refresh token"
)

// ledgerRow is one row of a connection's chain.
type ledgerRow struct {
	sequence    int64
	entry       ledgerEntry
	generation  int64 // of the pair that it is about; a saved's is the new one
	attempt     int64 // the sequence of the begun that it ends; 0: none
	lateRetry   bool
	leaseUntil  *time.Time // of a begun: until when nobody may present the token again; nil: not said
	headSealed  bool       // whoever wrote it sealed the end of the chain; not so before version 17 of the schema
	replica     uuid.UUID
	at          time.Time // by the database's clock, to the microsecond
	fingerprint []byte    // of the pair's refresh token; nil: none, or not known
	key         uint32    // of fingerprint and mac
	mac         []byte
}

// chain names the connection that a chain belongs to.
type chain struct {
	tenant TenantID
	id     ConnectionID
}

// message is what a row's MAC authenticates, besides the environment: the row before
// it, the connection that it belongs to, and everything in it.
func (r *ledgerRow) message(c chain, previous []byte) [][]byte {
	b := make([]byte, 0, 96)
	b = append(b, c.tenant.UUID[:]...)
	b = append(b, c.id.UUID[:]...)
	b = appendNumbers(b, r.sequence, r.generation, r.attempt, int64(r.key), r.at.UnixMicro())
	if r.lateRetry {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = append(b, r.replica[:]...)
	parts := [][]byte{previous, b, []byte(r.entry), r.fingerprint}
	if r.leaseUntil != nil { // rows of earlier versions have none, and are proven as they were
		parts = append(parts, appendNumbers(nil, r.leaseUntil.UnixMicro()))
	}
	if r.headSealed { // nor do those say this
		parts = append(parts, []byte("head sealed"))
	}
	return parts
}

func appendNumbers(b []byte, numbers ...int64) []byte {
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint64(b, uint64(n)) //nolint:gosec // its bits are what counts
	}
	return b
}

// ledgerHead is where a connection's chain ends, read under the lock on its row.
type ledgerHead struct {
	chain

	now        time.Time // the database's clock, since the lock was granted
	stored     int64     // the generation of the pair in the row
	count      int64
	mac        []byte // nil: the chain is empty
	generation int64  // the generation that the chain accounts for
	refresh    []byte // the stored refresh token, sealed; nil: none
	seal       []byte // of where the chain ends, only read to verify; nil: none
}

const selectLedgerHead = `
	SELECT app.wall_clock(), generation, ledger_count, ledger_head, ledger_generation, refresh_token_sealed
	FROM connections WHERE tenant_id = $1 AND id = $2`

// readLedgerHead reads the head of a chain whose row this transaction has locked: a
// statement of its own, since the lock may have been waited for.
func (c chain) readLedgerHead(ctx context.Context, tx pgx.Tx) (ledgerHead, error) {
	head := ledgerHead{chain: c}
	err := tx.QueryRow(ctx, selectLedgerHead, c.tenant, c.id).Scan(
		&head.now, &head.stored, &head.count, &head.mac, &head.generation, &head.refresh)
	if errors.Is(err, pgx.ErrNoRows) {
		return ledgerHead{}, errNoConnection()
	}
	if err != nil {
		return ledgerHead{}, fmt.Errorf("read ledger head: %w", err)
	}
	return head, nil
}

// lockLedgerHead locks the connection's row and reads the head.
func (c chain) lockLedgerHead(ctx context.Context, tx pgx.Tx) (ledgerHead, error) {
	_, err := tx.Exec(ctx, `SELECT FROM connections WHERE tenant_id = $1 AND id = $2 FOR UPDATE`, c.tenant, c.id)
	if err != nil {
		return ledgerHead{}, fmt.Errorf("lock ledger head: %w", err)
	}
	return c.readLedgerHead(ctx, tx)
}

// appendRow writes a row and moves the head, in one round trip.
const appendRow = `
	WITH entry AS (
		INSERT INTO refresh_ledger (tenant_id, connection_id, sequence, entry, generation, attempt, late_retry,
			replica, at, fingerprint, key_id, mac, lease_until, head_sealed)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $14, true))
	UPDATE connections SET ledger_count = $3, ledger_head = $12, ledger_generation = $13, ledger_seal = $15
	WHERE tenant_id = $1 AND id = $2`

// chainRow signs the next row of the chain, moves head behind it, and returns the
// arguments of appendRow.
func (s *Store) chainRow(head *ledgerHead, row ledgerRow, refresh string) ([]any, error) {
	row, err := s.signLedgerRow(head, row, refresh)
	if err != nil {
		return nil, err
	}
	return []any{
		head.tenant, head.id, row.sequence, row.entry, row.generation, row.attempt, row.lateRetry,
		row.replica, row.at, row.fingerprint, int64(row.key), row.mac, head.generation, row.leaseUntil, head.seal,
	}, nil
}

// signLedgerRow is the next row of the chain, signed, and moves head behind it.
func (s *Store) signLedgerRow(head *ledgerHead, row ledgerRow, refresh string) (ledgerRow, error) {
	row.sequence, row.replica, row.key, row.headSealed = head.count+1, s.replica, s.keyset.FingerprintKey(), true
	if row.at.IsZero() {
		row.at = head.now
	}
	row.at = row.at.Truncate(time.Microsecond)
	var err error
	if refresh != "" {
		if row.fingerprint, err = s.keyset.Fingerprint(refreshTokenPurpose, refresh); err != nil {
			return row, err
		}
	}
	if row.mac, _, err = s.keyset.MAC(ledgerRowPurpose, row.message(head.chain, head.mac)...); err != nil {
		return row, err
	}
	head.count, head.mac = row.sequence, row.mac
	if row.entry.moves() {
		head.generation = row.generation
	}
	if head.seal, err = s.sealEnd(ledgerHeadPurpose, head.sealMessage()); err != nil {
		return row, err
	}
	return row, nil
}

// appendLedger writes the next row of the chain; the connection's row is locked.
func (s *Store) appendLedger(ctx context.Context, tx pgx.Tx, head *ledgerHead, row ledgerRow, refresh string) error {
	args, err := s.chainRow(head, row, refresh)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, appendRow, args...); err != nil {
		return fmt.Errorf("write ledger entry %s: %w", row.entry, err)
	}
	return nil
}

// errSpentInLedger stops an exchange whose token, by the ledger, is not the newest:
// the connection's row was set back, and to present its token would be a replay.
var errSpentInLedger = errors.New("the refresh ledger knows a newer pair than the connection's row holds")

// catchUp brings the chain to the pair that is stored, in case a saved was lost on
// its way: the save itself is one statement and waits for no ledger. What the save would
// have told is told.
func (s *Store) catchUp(ctx context.Context, tx pgx.Tx, head *ledgerHead) error {
	if head.stored <= head.generation {
		return nil
	}
	var refresh string
	if head.refresh != nil {
		plain, err := s.keyset.Open(head.refresh, tokenPlace(head.tenant, head.id, "refresh_token", head.stored))
		if err != nil {
			return err
		}
		refresh = string(plain)
	}
	attempt := int64(0)
	if head.stored == head.generation+1 {
		var err error
		if attempt, err = head.openAttempt(ctx, tx, entryFoundSaved, head.generation, nil); err != nil {
			return err
		}
	}
	row := ledgerRow{entry: entryAdopted, generation: head.stored}
	if attempt != 0 {
		row.entry, row.attempt = entryFoundSaved, attempt
	}
	if err := s.appendLedger(ctx, tx, head, row, refresh); err != nil {
		return err
	}
	return s.tellRecovered(ctx, tx, head.chain, head.stored)
}

// openAttempt returns the sequence of the last attempt with a generation that the entry
// could end, 0 when there is none: one without an end, or with an unknown one if this
// is not. Unless begun is nil, it is the one that began then. It reads the chain from its
// end, to where that generation was stored.
func (h *ledgerHead) openAttempt(ctx context.Context, tx pgx.Tx, entry ledgerEntry, generation int64, begun *time.Time,
) (int64, error) {
	const page = 32
	ended := make(map[int64]bool)
	for before := h.count + 1; before > 1; before -= page {
		rows, err := tx.Query(ctx, `
			SELECT sequence, entry, generation, attempt, at FROM refresh_ledger
			WHERE tenant_id = $1 AND connection_id = $2 AND sequence < $3 AND sequence >= $3 - $4::bigint
			ORDER BY sequence DESC`, h.tenant, h.id, before, page)
		if err != nil {
			return 0, fmt.Errorf("find open attempt: %w", err)
		}
		tail, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (ledgerRow, error) {
			var row ledgerRow
			err := r.Scan(&row.sequence, &row.entry, &row.generation, &row.attempt, &row.at)
			return row, err
		})
		if err != nil {
			return 0, fmt.Errorf("find open attempt: %w", err)
		}
		for _, row := range tail {
			switch {
			case row.entry.moves() && row.generation <= generation:
				return 0, nil
			case row.entry != entryBegun:
				ended[row.attempt] = ended[row.attempt] || row.entry != entryUnknown || entry == entryUnknown
			case row.generation == generation && !ended[row.sequence] && (begun == nil || row.at.Equal(*begun)):
				return row.sequence, nil
			}
		}
		if len(tail) < page {
			return 0, nil // the rows before are folded
		}
	}
	return 0, nil
}

// outcomeEntry is how an attempt with that outcome ends.
func outcomeEntry(outcome prisma.Outcome) ledgerEntry {
	switch outcome {
	case prisma.InvalidGrant:
		return entryInvalidGrant
	case prisma.NotSent:
		return entryNotSent
	case prisma.Misconfigured:
		return entryMisconfigured
	case prisma.Unknown:
	}
	return entryUnknown
}

// sameKeyDiffers reports whether two fingerprints are of two tokens: only those under
// one key can be compared.
func sameKeyDiffers(a []byte, aKey uint32, b []byte, bKey uint32) bool {
	return aKey == bKey && a != nil && b != nil && !bytes.Equal(a, b)
}
