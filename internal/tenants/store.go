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

	// Keyset seals and fingerprints. Required.
	Keyset *sealing.Keyset

	// SharedClient is the OAuth client of tenants that were made without one of
	// their own; nil when the installation has none.
	SharedClient *OAuthClient

	// LeaseFor is how long a refresh lease lasts by the database's clock; it must
	// exceed connecting, answering, saving and a stall together. Default 180 s.
	LeaseFor time.Duration
}

// Store keeps everything in Postgres. It is safe for concurrent use.
type Store struct {
	pool      *pgxpool.Pool
	tokenPool *pgxpool.Pool
	keyset    *sealing.Keyset
	shared    *OAuthClient
	leaseFor  time.Duration
	jobs      *river.Client[pgx.Tx] // only inserts
}

// NewStore returns a Store over those pools.
func NewStore(cfg Config) (*Store, error) {
	s := &Store{
		pool: cfg.Pool, tokenPool: cfg.TokenPool, keyset: cfg.Keyset,
		shared: cfg.SharedClient, leaseFor: cfg.LeaseFor,
	}
	var err error
	s.jobs, err = river.NewClient(riverpgxv5.New(cfg.Pool), &river.Config{
		Schema: migrations.RiverSchema, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, fmt.Errorf("job queue: %w", err)
	}
	if s.tokenPool == nil {
		s.tokenPool = s.pool
	}
	if s.leaseFor == 0 {
		s.leaseFor = 180 * time.Second
	}
	return s, nil
}

// inTenant runs fn in a transaction that sees that tenant's rows only.
func (s *Store) inTenant(ctx context.Context, tenant TenantID, fn func(tx pgx.Tx) error) error {
	return postgres.InTx(ctx, s.pool, postgres.Scope{Tenant: tenant.UUID}, fn)
}

// inOperator runs fn in a transaction that sees every tenant's rows.
func (s *Store) inOperator(ctx context.Context, fn func(tx pgx.Tx) error) error {
	return postgres.InTx(ctx, s.pool, postgres.Scope{Operator: true}, fn)
}

// read runs one query of that tenant in one round trip.
func (s *Store) read(ctx context.Context, tenant TenantID, collect func(rows pgx.Rows) error, sql string, args ...any) error {
	return postgres.Read(ctx, s.pool, postgres.Scope{Tenant: tenant.UUID}, collect, sql, args...)
}

// inNobody runs fn in a transaction that sees no tenant's rows: only the
// look-ups that find one work there.
func (s *Store) inNobody(ctx context.Context, fn func(tx pgx.Tx) error) error {
	return postgres.InTx(ctx, s.pool, postgres.Scope{Tenant: uuid.Nil}, fn)
}
