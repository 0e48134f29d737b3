package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/tenants"
)

// withStore runs fn with the store that the environment's settings lead to, for
// the commands of operators. It needs DATABASE_URL, ENVIRONMENT and TOKEN_KEYSET.
func withStore(ctx context.Context, c *console, fn func(store *tenants.Store) error) error {
	cfg, err := loadSettings(c.getenv)
	if err != nil {
		return err
	}
	if err := cfg.require("DATABASE_URL", "ENVIRONMENT", "TOKEN_KEYSET"); err != nil {
		return err
	}
	pool, err := postgres.OpenPool(ctx, postgres.PoolConfig{URL: cfg.DatabaseURL, Name: "connect-prisma command", MaxConns: 2})
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer pool.Close()
	if err := checkDatabase(ctx, pool, cfg.Environment); err != nil {
		return err
	}
	store, err := newStore(cfg, pool)
	if err != nil {
		return err
	}
	return fn(store)
}

func newStore(cfg settings, pool *pgxpool.Pool) (*tenants.Store, error) {
	keyset, err := cfg.keyset()
	if err != nil {
		return nil, err
	}
	return tenants.NewStore(tenants.Config{Pool: pool, Keyset: keyset, SharedClient: cfg.sharedClient()})
}

// operator is whoever sits at the command line.
func operator() tenants.Actor { return tenants.Actor{Type: tenants.ActorCommand} }
