package jobs

import (
	"context"
	"log/slog"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"github.com/connect-prisma/server/internal/tenants"
)

// sweepSessions ends overdue connect sessions, batch by batch.
type sweepSessions struct {
	river.WorkerDefaults[tenants.SweepSessionsJob]

	store Store
}

// Work implements river.Worker.
func (w *sweepSessions) Work(ctx context.Context, _ *river.Job[tenants.SweepSessionsJob]) error {
	return untilNothingLeft(ctx, w.store.SweepSessions)
}

// eraseSecrets erases connection strings, batch by batch.
type eraseSecrets struct {
	river.WorkerDefaults[tenants.EraseSecretsJob]

	store Store
}

// Work implements river.Worker.
func (w *eraseSecrets) Work(ctx context.Context, _ *river.Job[tenants.EraseSecretsJob]) error {
	return untilNothingLeft(ctx, w.store.EraseSecrets)
}

func untilNothingLeft(ctx context.Context, batch func(context.Context) (int, error)) error {
	for {
		n, err := batch(ctx)
		if err != nil || n == 0 {
			return err
		}
	}
}

// nameWorkspace reads the name of a connection's workspace.
type nameWorkspace struct {
	river.WorkerDefaults[tenants.NameWorkspaceJob]

	workspaces Workspaces
}

// Work implements river.Worker.
func (w *nameWorkspace) Work(ctx context.Context, job *river.Job[tenants.NameWorkspaceJob]) error {
	return w.workspaces.NameWorkspace(ctx, job.Args.Tenant, job.Args.Connection)
}

// failures logs what went wrong in a job, without its arguments.
type failures struct{ log *slog.Logger }

// HandleError implements river.ErrorHandler.
func (f *failures) HandleError(ctx context.Context, job *rivertype.JobRow, err error) *river.ErrorHandlerResult {
	f.log.WarnContext(ctx, "job failed", slog.String("kind", job.Kind), slog.Int("attempt", job.Attempt),
		slog.Int("max_attempts", job.MaxAttempts), slog.String("error", err.Error()))
	return nil
}

// HandlePanic implements river.ErrorHandler.
func (f *failures) HandlePanic(ctx context.Context, job *rivertype.JobRow, _ any, trace string) *river.ErrorHandlerResult {
	f.log.ErrorContext(ctx, "job panicked", slog.String("kind", job.Kind), slog.String("trace", trace))
	return nil
}
