package tenants

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/migrations"
)

// Config is what a Store rests on.
type Config struct {
	// Pool serves everything but token saves.
	Pool *pgxpool.Pool

	// TokenPool is a small pool kept for saving token pairs, so that a rush of
	// other work never stands between a fresh refresh token and its row. Default:
	// Pool.
	TokenPool *pgxpool.Pool

	// EntryPool is for what every call needs before anything else: whose key it is, and a
	// slice of its budget. Slow queries of others must not keep those from anybody. Default:
	// Pool.
	EntryPool *pgxpool.Pool

	// BeatPool is for this process's beats, one connection at a time: a beat that hangs
	// must not take the place of a save. Default: Pool.
	BeatPool *pgxpool.Pool

	// Keyset seals and fingerprints. Required.
	Keyset *sealing.Keyset

	// SharedClient is the OAuth client of tenants that were made without one of
	// their own; nil when the installation has none.
	SharedClient *OAuthClient

	// Replica tells this process from the others in the refresh ledger. Default: a
	// random id.
	Replica uuid.UUID

	// Environment is what this process was started for. A database that was made for
	// another one gets no token request. Default: not compared.
	Environment string

	// Hold is how long a refresh token whose fate is unknown waits, after this process
	// was started, after it found the database away, and after the database was
	// started, for whoever has its successor to save that first; and how long a
	// failover is watched before token requests go on. Default 0: no time at all.
	Hold time.Duration

	// Leeway is how long the authorization server surely takes a used refresh token
	// once more. With it the open intent of a replica that stopped beating is
	// presented again at once. Default 0: it takes none.
	Leeway time.Duration

	// Now is this process's clock, whose values must be monotonic. Required with Hold.
	Now func() time.Time

	// Logger gets one record each time that token requests are stopped or go on, or that
	// changes are not heard of or are again. Default: none.
	Logger *slog.Logger

	// FenceDir is a directory on which processes keep what the database has acknowledged,
	// for those after them: the spool's. Empty: nowhere, and a disk of the database that is
	// put back while no process runs is not noticed.
	FenceDir string

	// LeaseFor is how long a refresh lease lasts by the database's clock; it must
	// exceed connecting, answering, saving and a stall together. Default 180 s.
	LeaseFor time.Duration

	// CacheFor is how long at most what the database said of a presented key is used
	// without asking again: within that time a key that was revoked elsewhere ends here,
	// and at once where FollowChanges hears of it. It needs Now. Default 0: not at all.
	CacheFor time.Duration

	// Late are the pauses between two late retries of a refresh token of unknown fate.
	// Defaults 1 min and 1 h.
	Late prisma.LatePauses
}

// Store keeps everything in Postgres. It is safe for concurrent use.
type Store struct {
	pool       *pgxpool.Pool
	conns      int64            // that pool has at most
	shares     *postgres.Shares // of pool
	entryPool  *pgxpool.Pool
	tokenPool  *pgxpool.Pool
	beatPool   *pgxpool.Pool
	keyset     *sealing.Keyset
	shared     sharedClient
	leaseFor   time.Duration
	latePauses prisma.LatePauses
	replica    uuid.UUID
	leeway     time.Duration
	fence      *fence
	callers    *callerCache // nil: none are remembered
	log        *slog.Logger
	marks      *fenceMarks           // nil: none are kept
	jobs       *river.Client[pgx.Tx] // only inserts

	behindSaves afterwards
}

// NewStore returns a Store over those pools.
func NewStore(cfg Config) (*Store, error) {
	s := &Store{
		pool: cfg.Pool, conns: int64(cfg.Pool.Config().MaxConns), shares: postgres.NewShares(), entryPool: cfg.EntryPool, tokenPool: cfg.TokenPool, beatPool: cfg.BeatPool, keyset: cfg.Keyset,
		shared: sharedClient{client: cfg.SharedClient}, leaseFor: cfg.LeaseFor, replica: cfg.Replica, leeway: cfg.Leeway,
		latePauses: cfg.Late.WithDefaults(),
	}
	if s.replica == uuid.Nil {
		s.replica = uuid.New()
	}
	var err error
	if s.fence, err = newFence(cfg); err != nil {
		return nil, err
	}
	s.log = s.fence.log
	if cfg.CacheFor > 0 {
		if s.callers, err = newCallerCache(cfg.CacheFor, cfg.Now); err != nil {
			return nil, err
		}
	}
	if cfg.FenceDir != "" {
		if s.marks, err = openFenceMarks(cfg.FenceDir, s.replica, s.fence.log); err != nil {
			return nil, err
		}
	}
	s.jobs, err = river.NewClient(riverpgxv5.New(cfg.Pool), &river.Config{
		Schema: migrations.RiverSchema, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, fmt.Errorf("job queue: %w", err)
	}
	if s.entryPool == nil {
		s.entryPool = s.pool
	}
	if s.tokenPool == nil {
		s.tokenPool = s.pool
	}
	if s.beatPool == nil {
		s.beatPool = s.pool
	}
	if s.leaseFor == 0 {
		s.leaseFor = 180 * time.Second
	}
	return s, nil
}

// inTx runs fn in a transaction on the pool that serves everything but token saves,
// and notices when the database is away.
func (s *Store) inTx(ctx context.Context, scope postgres.Scope, fn func(tx pgx.Tx) error) error {
	leave, err := s.enter(ctx, scope)
	if err != nil {
		return err
	}
	defer leave()
	err = postgres.InTx(ctx, s.pool, scope, fn)
	s.fence.notice(err)
	return err
}

// enter waits until a tenant has less than its half of the pool. What acts for nobody or for
// all tenants waits for the pool alone.
func (s *Store) enter(ctx context.Context, scope postgres.Scope) (leave func(), err error) {
	if scope.Tenant == uuid.Nil {
		return func() {}, nil
	}
	return s.shares.Enter(ctx, scope.Tenant, max(s.conns/2, 1)) //nolint:wrapcheck // as of a pool without a free connection
}

// inTenant runs fn in a transaction that sees that tenant's rows only.
func (s *Store) inTenant(ctx context.Context, tenant TenantID, fn func(tx pgx.Tx) error) error {
	return s.inTx(ctx, postgres.Scope{Tenant: tenant.UUID}, fn)
}

// inOperator runs fn in a transaction that sees every tenant's rows.
func (s *Store) inOperator(ctx context.Context, fn func(tx pgx.Tx) error) error {
	return s.inTx(ctx, postgres.Scope{Operator: true}, fn)
}

// read runs one query of that tenant in one round trip.
func (s *Store) read(ctx context.Context, tenant TenantID, collect func(rows pgx.Rows) error, sql string, args ...any) error {
	scope := postgres.Scope{Tenant: tenant.UUID}
	leave, err := s.enter(ctx, scope)
	if err != nil {
		return err
	}
	defer leave()
	err = postgres.Read(ctx, s.pool, scope, collect, sql, args...)
	s.fence.notice(err)
	return err
}

// readFound is read for a tenant that find finds; see postgres.ReadFound. Anybody may have
// something to look for, so all together have a fourth of the pool.
func (s *Store) readFound(ctx context.Context, find string, findArgs []any, collect func(rows pgx.Rows) error, sql string, args ...any) error {
	leave, err := s.shares.Enter(ctx, uuid.Nil, max(s.conns/4, 1))
	if err != nil {
		return err
	}
	defer leave()
	err = postgres.ReadFound(ctx, s.pool, find, findArgs, collect, sql, args...)
	s.fence.notice(err)
	return err
}

// inNobody runs fn in a transaction that sees no tenant's rows: only the
// look-ups that find one work there.
func (s *Store) inNobody(ctx context.Context, fn func(tx pgx.Tx) error) error {
	return s.inTx(ctx, postgres.Scope{Tenant: uuid.Nil}, fn)
}
