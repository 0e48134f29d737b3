package tenants

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/prisma"
)

// chain names the storage's own chain.
func (t *TokenStorage) chain() chain { return chain{tenant: t.tenant, id: t.id} }

// beginInLedger queues the begun of a claim behind its intent, and writes first what
// the chain lacks. What it returns stops the claim, so that nothing is exchanged
// without a row that says so.
func (t *TokenStorage) beginInLedger(ctx context.Context, tx pgx.Tx, head ledgerHead, claim prisma.Claim, batch *pgx.Batch,
) error {
	if err := t.store.catchUp(ctx, tx, &head); err != nil {
		return err
	}
	if head.generation > claim.Current.Generation {
		return errSpentInLedger
	}
	var leaseUntil *time.Time
	if t.store.leeway == 0 {
		until := claim.Taken.Add(t.store.leaseFor)
		leaseUntil = &until
	}
	args, err := t.store.chainRow(&head, ledgerRow{
		leaseUntil: leaseUntil,
		entry:      entryBegun, generation: claim.Current.Generation, lateRetry: claim.Late, at: claim.Taken,
	}, claim.Current.Refresh)
	if err != nil {
		return err
	}
	batch.Queue(appendRow, args...)
	return nil
}

// endInLedger writes how a claim's attempt ended, in the transaction that settles it.
// An attempt that has its end already, as when a settlement is repeated, gets no
// second one.
func (t *TokenStorage) endInLedger(ctx context.Context, tx pgx.Tx, claim prisma.Claim, entry ledgerEntry) error {
	head, err := t.chain().lockLedgerHead(ctx, tx)
	if fault.KindOf(err) == fault.NotFound {
		return nil // nothing is settled there either
	}
	if err != nil {
		return err
	}
	attempt, err := head.openAttempt(ctx, tx, entry, claim.Current.Generation, &claim.Taken)
	if err != nil || attempt == 0 {
		return err
	}
	return t.store.appendLedger(ctx, tx, &head, ledgerRow{
		entry: entry, generation: claim.Current.Generation, attempt: attempt,
	}, "")
}

// savedInLedger writes that a claim's pair is stored, unless the chain knows it by now.
func (t *TokenStorage) savedInLedger(ctx context.Context, tx pgx.Tx, claim prisma.Claim, refresh string) error {
	head, err := t.chain().lockLedgerHead(ctx, tx)
	if err != nil {
		return err
	}
	if head.generation != claim.Current.Generation {
		return nil
	}
	attempt, err := head.openAttempt(ctx, tx, entrySaved, claim.Current.Generation, &claim.Taken)
	if err != nil || attempt == 0 {
		return err
	}
	return t.store.appendLedger(ctx, tx, &head, ledgerRow{
		entry: entrySaved, generation: claim.Current.Generation + 1, attempt: attempt,
	}, refresh)
}

// ledgerWrites bounds what waits to be written behind saves. Beyond it the sweep
// finds what is missing.
const ledgerWrites = 4

// afterwards are the writes that follow a save: nobody waits for them but the end of
// the process.
type afterwards struct {
	mu      sync.Mutex
	running int
	idle    chan struct{} // closed when running is back to 0; nil while nobody waits
}

func (a *afterwards) begin() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running >= ledgerWrites {
		return false
	}
	a.running++
	return true
}

func (a *afterwards) end() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running--; a.running == 0 && a.idle != nil {
		close(a.idle)
		a.idle = nil
	}
}

// Wait returns when nothing is being written any more behind token saves that have
// been answered, or with ctx's error. What it gives up is rebuilt by a later claim or
// sweep.
func (s *Store) Wait(ctx context.Context) error {
	a := &s.behindSaves
	a.mu.Lock()
	if a.running == 0 {
		a.mu.Unlock()
		return nil
	}
	if a.idle == nil {
		a.idle = make(chan struct{})
	}
	idle := a.idle
	a.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the refresh ledger: %w", ctx.Err())
	}
}

// noteSave writes the end of a claim's attempt after its save, without making anybody
// wait: cause is what the save returned. An error leaves it to the next claim or the
// sweep, which find what happened in the connection's row.
func (t *TokenStorage) noteSave(ctx context.Context, claim prisma.Claim, refresh string, recovered bool, cause error) {
	superseded := errors.Is(cause, prisma.ErrSuperseded)
	if cause != nil && !superseded || !t.store.behindSaves.begin() {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	go func() {
		defer t.store.behindSaves.end()
		defer cancel()
		_ = postgres.InTx(ctx, t.store.pool, t.claimScope(), func(tx pgx.Tx) error { // the sweep repeats it
			if superseded {
				return t.endInLedger(ctx, tx, claim, entrySuperseded)
			}
			if err := t.savedInLedger(ctx, tx, claim, refresh); err != nil || !recovered {
				return err
			}
			return t.store.tellRecovered(ctx, tx, t.chain(), claim.Current.Generation+1)
		})
	}()
}

// tellRecovered tells that a connection lives which was given up, unless it was told: it
// looks at what was told last. The save that brought it back waits for nothing, and may
// have been all that its process did.
func (s *Store) tellRecovered(ctx context.Context, tx pgx.Tx, c chain, generation int64) error {
	var untold bool
	err := tx.QueryRow(ctx, `
		SELECT status IN ('active', 'suspect') AND coalesce((
			SELECT a.action = $4 FROM audit_log a
			WHERE a.tenant_id = $1 AND a.target = $3 AND a.action IN ($4, $5, $6, $7, $8) ORDER BY a.sequence DESC LIMIT 1), false)
		FROM connections WHERE tenant_id = $1 AND id = $2`, c.tenant, c.id, c.id.String(),
		EventNeedsReconnect, EventRecovered, EventConnected, EventReconnected, auditConfirmed).Scan(&untold)
	if err != nil {
		return fmt.Errorf("look whether a recovery was told: %w", err)
	}
	if !untold {
		return nil
	}
	return s.record(ctx, tx, c.tenant, System(), change{event: EventRecovered, target: c.id.String(), data: map[string]any{
		"connectionId": c.id.String(), "generation": generation,
	}})
}

// storeInLedger writes that a new grant or an imported pair was stored under a
// generation. It comes after catchUpBefore and in the same transaction.
func (s *Store) storeInLedger(ctx context.Context, tx pgx.Tx, c chain, generation int64, refresh string) error {
	head, err := c.readLedgerHead(ctx, tx)
	if err != nil {
		return err
	}
	return s.appendLedger(ctx, tx, &head, ledgerRow{entry: entryStored, generation: generation}, refresh)
}

// catchUpBefore brings the chain to the pair that is stored, before another replaces
// it. The connection's row is locked.
func (s *Store) catchUpBefore(ctx context.Context, tx pgx.Tx, c chain) error {
	head, err := c.readLedgerHead(ctx, tx)
	if err != nil {
		return err
	}
	return s.catchUp(ctx, tx, &head)
}
