package jobs

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/riverqueue/river"

	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/tenants"
)

// landingsTimeout bounds a run: after an outage of Prisma's there may be much to look
// for. What is left is the next run's.
const landingsTimeout = 10 * time.Minute

// Landings looks for what operations made without anybody knowing;
// *provisioning.Service implements it.
type Landings interface {
	LookForLandings(ctx context.Context) (provisioning.Landings, error)
}

// landings runs a look as a job.
type landings struct {
	river.WorkerDefaults[tenants.LandingsJob]

	looks Landings
	log   *slog.Logger
}

// Timeout implements river.Worker.
func (*landings) Timeout(*river.Job[tenants.LandingsJob]) time.Duration { return landingsTimeout }

// Work implements river.Worker. Being stopped in the middle is no failure: each
// operation is on its own, and the next run is near.
func (w *landings) Work(ctx context.Context, _ *river.Job[tenants.LandingsJob]) error {
	result, err := w.looks.LookForLandings(ctx)
	if result != (provisioning.Landings{}) {
		w.log.InfoContext(ctx, "looked for late landings", slog.Int("looked", result.Looked),
			slog.Int("adopted", result.Adopted), slog.Int("removed", result.Removed),
			slog.Int("deleted", result.Deleted), slog.Int("failed", result.Failed))
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}
