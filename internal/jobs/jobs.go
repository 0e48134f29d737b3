// Package jobs works what must happen later or again: River takes the jobs that
// changes have stored, in their own transactions, and those that recur.
//
// A job may run twice, so each of them looks first whether there is anything left
// to do.
package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/connect-prisma/server/internal/tenants"
	"github.com/connect-prisma/server/migrations"
)

// Store is what the jobs sweep; *tenants.Store implements it.
type Store interface {
	SweepSessions(ctx context.Context) (int, error)
	EraseSecrets(ctx context.Context) (int, error)
	CheckpointLedger(ctx context.Context, retention time.Duration) ([]tenants.LedgerCheckpoint, error)
	FoldLedger(ctx context.Context, retention time.Duration) (int64, error)
}

// Workspaces reads workspace names; *oauthflow.Flow implements it.
type Workspaces interface {
	NameWorkspace(ctx context.Context, tenant tenants.TenantID, id tenants.ConnectionID) error
}

// Config is what the jobs rest on.
type Config struct {
	Pool       *pgxpool.Pool
	Store      Store
	Workspaces Workspaces
	Logger     *slog.Logger

	// KeepAlive looks after the connections that nobody calls. Default: nobody does.
	KeepAlive *KeepAlive

	// Landings looks for what operations made without anybody knowing. Default: nobody
	// does.
	Landings Landings
	// LandingsEvery is how often it looks which operations are due. Default 30 s.
	LandingsEvery time.Duration

	// PollOnly works without LISTEN, as behind a pooler in transaction mode.
	PollOnly bool
	// SweepEvery is how often overdue sessions are looked for; secrets to erase are
	// looked for a quarter as often. Default 15 s.
	SweepEvery time.Duration
	// CheckpointEvery is how often the refresh ledger is checkpointed; its old rows are
	// folded a sixth as often. Default 10 min.
	CheckpointEvery time.Duration
	// LedgerRetention is how old a row of the refresh ledger gets before it is folded.
	// Default 90 days, the life of a refresh token.
	LedgerRetention time.Duration
}

// Runner works the jobs of one replica.
type Runner struct {
	client *river.Client[pgx.Tx]
}

// New returns a Runner that is not started.
func New(cfg Config) (*Runner, error) {
	if cfg.SweepEvery == 0 {
		cfg.SweepEvery = 15 * time.Second
	}
	cfg.CheckpointEvery = cmp.Or(cfg.CheckpointEvery, 10*time.Minute)
	cfg.LedgerRetention = cmp.Or(cfg.LedgerRetention, 90*24*time.Hour)
	workers := river.NewWorkers()
	if err := river.AddWorkerSafely(workers, &sweepSessions{store: cfg.Store}); err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	if err := river.AddWorkerSafely(workers, &eraseSecrets{store: cfg.Store}); err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	if err := river.AddWorkerSafely(workers, &nameWorkspace{workspaces: cfg.Workspaces}); err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	if err := addLedgerWorkers(workers, cfg); err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	periodic := []*river.PeriodicJob{
		every(cfg.SweepEvery, tenants.SweepSessionsJob{}),
		every(4*cfg.SweepEvery, tenants.EraseSecretsJob{}),
		every(cfg.CheckpointEvery, tenants.CheckpointLedgerJob{}),
		every(6*cfg.CheckpointEvery, tenants.FoldLedgerJob{}),
	}
	if cfg.KeepAlive != nil {
		if err := river.AddWorkerSafely(workers, &keepAlive{KeepAlive: cfg.KeepAlive}); err != nil {
			return nil, fmt.Errorf("jobs: %w", err)
		}
		periodic = append(periodic, every(cfg.KeepAlive.cfg.Every, tenants.KeepAliveJob{}))
	}
	if cfg.Landings != nil {
		if err := river.AddWorkerSafely(workers, &landings{looks: cfg.Landings, log: cfg.Logger}); err != nil {
			return nil, fmt.Errorf("jobs: %w", err)
		}
		periodic = append(periodic, every(cmp.Or(cfg.LandingsEvery, 30*time.Second), tenants.LandingsJob{}))
	}
	client, err := river.NewClient(riverpgxv5.New(cfg.Pool), &river.Config{
		Schema:        migrations.RiverSchema,
		Logger:        slog.New(quiet{cfg.Logger.Handler()}).With(slog.String("component", "jobs")),
		Queues:        map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: 10}, tenants.LandingsQueue: {MaxWorkers: 2}},
		Workers:       workers,
		PollOnly:      cfg.PollOnly,
		FetchCooldown: 10 * time.Millisecond, // commit to run in about 30 ms
		JobTimeout:    time.Minute,
		ErrorHandler:  &failures{log: cfg.Logger},
		// River would reindex its tables each night, which only their owner may.
		ReindexerIndexNames: []string{},
		PeriodicJobs:        periodic,
	})
	if err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	return &Runner{client: client}, nil
}

// quiet drops what River tells of its daily business; its warnings stay.
type quiet struct{ slog.Handler }

// Enabled implements slog.Handler.
func (q quiet) Enabled(ctx context.Context, level slog.Level) bool {
	return level >= slog.LevelWarn && q.Handler.Enabled(ctx, level)
}

// WithAttrs implements slog.Handler.
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup implements slog.Handler.
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }

// every is a job that recurs. One that failed is not tried again: the next is near.
func every(interval time.Duration, args river.JobArgs) *river.PeriodicJob {
	return river.NewPeriodicJob(river.PeriodicInterval(interval), func() (river.JobArgs, *river.InsertOpts) {
		return args, &river.InsertOpts{MaxAttempts: 1}
	}, &river.PeriodicJobOpts{RunOnStart: true})
}

// Start begins to work jobs. ctx is for the start alone: Stop ends the work.
func (r *Runner) Start(ctx context.Context) error {
	if err := r.client.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("start jobs: %w", err)
	}
	return nil
}

// Stop takes no new jobs and waits for the running ones; when ctx ends first it
// cancels them, and River runs them again elsewhere.
func (r *Runner) Stop(ctx context.Context) error {
	err := r.client.Stop(ctx)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		hard, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		err = r.client.StopAndCancel(hard)
	}
	if err != nil {
		return fmt.Errorf("stop jobs: %w", err)
	}
	return nil
}
