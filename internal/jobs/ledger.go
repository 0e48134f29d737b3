package jobs

import (
	"context"
	"encoding/hex"
	"errors"
	"log/slog"
	"time"

	"github.com/riverqueue/river"

	"github.com/connect-prisma/server/internal/tenants"
)

// ledgerJobTimeout bounds a run over the refresh ledger: after an outage there may be
// much to do at once. What is left is the next run's.
const ledgerJobTimeout = 10 * time.Minute

func addLedgerWorkers(workers *river.Workers, cfg Config) error {
	return errors.Join(
		river.AddWorkerSafely(workers, &checkpointLedger{store: cfg.Store, log: cfg.Logger, retention: cfg.LedgerRetention}),
		river.AddWorkerSafely(workers, &foldLedger{store: cfg.Store, retention: cfg.LedgerRetention}))
}

// checkpointLedger signs how far the chains of the refresh ledger and the audit log are.
type checkpointLedger struct {
	river.WorkerDefaults[tenants.CheckpointLedgerJob]

	store     Store
	log       *slog.Logger
	retention time.Duration
}

// Timeout implements river.Worker.
func (*checkpointLedger) Timeout(*river.Job[tenants.CheckpointLedgerJob]) time.Duration {
	return ledgerJobTimeout
}

// Work implements river.Worker. It logs each checkpoint's head: in the log, out of reach
// for whoever can write to the database alone, it is the witness that no newer one was
// cut off.
func (w *checkpointLedger) Work(ctx context.Context, _ *river.Job[tenants.CheckpointLedgerJob]) error {
	made, err := w.store.CheckpointLedger(ctx, w.retention)
	for _, checkpoint := range made {
		w.log.InfoContext(ctx, "ledger checkpoint", slog.Int64("number", checkpoint.Number),
			slog.Int("chains", checkpoint.Entries), slog.String("head", hex.EncodeToString(checkpoint.Head)))
	}
	return err
}

// foldLedger replaces old rows of the refresh ledger by what they came to.
type foldLedger struct {
	river.WorkerDefaults[tenants.FoldLedgerJob]

	store     Store
	retention time.Duration
}

// Timeout implements river.Worker.
func (*foldLedger) Timeout(*river.Job[tenants.FoldLedgerJob]) time.Duration { return ledgerJobTimeout }

// Work implements river.Worker.
func (w *foldLedger) Work(ctx context.Context, _ *river.Job[tenants.FoldLedgerJob]) error {
	_, err := w.store.FoldLedger(ctx, w.retention)
	return err
}
