package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strconv"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/tenants"
)

// withStore runs fn with the store that the environment's settings lead to, for
// the commands of operators, and sets c.by. It needs DATABASE_URL, ENVIRONMENT and TOKEN_KEYSET.
func withStore(ctx context.Context, c *console, fn func(store *tenants.Store) error) error {
	cfg, err := loadSettings(c.getenv)
	if err != nil {
		return err
	}
	if err := cfg.require("DATABASE_URL", "ENVIRONMENT", "TOKEN_KEYSET"); err != nil {
		return err
	}
	if c.by, err = operator(cfg.Operator, c.getenv); err != nil {
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

// operator is whoever sits at the command line: by the name that they gave, that they had
// before sudo, or that the system has. It tells people apart who mean no harm: who holds
// the database and the keyset can give any.
func operator(given string, getenv func(string) string) (tenants.Actor, error) {
	name := cmp.Or(given, getenv("SUDO_USER"))
	if name == "" {
		name = "uid " + strconv.Itoa(os.Getuid()) // in an image without a list of users
		if account, err := user.Current(); err == nil {
			name = account.Username
		}
	}
	if !tenants.IsLabel(name, 255) {
		return tenants.Actor{}, errors.New("OPERATOR needs 1 to 255 printable characters")
	}
	return tenants.Actor{Type: tenants.ActorCommand, ID: name}, nil
}
