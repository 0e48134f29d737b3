package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/connect-prisma/server/migrations"
)

// migrateCommand brings the database to this version's schema.
type migrateCommand struct{}

// Run implements the command.
func (*migrateCommand) Run(ctx context.Context, c *console) error {
	cfg, err := loadSettings(c.getenv)
	if err != nil {
		return err
	}
	if err := cfg.require("MIGRATE_DATABASE_URL", "ENVIRONMENT"); err != nil {
		return err
	}
	err = migrations.Up(ctx, cfg.MigrateDatabaseURL, migrations.Options{
		Environment: cfg.Environment,
		OnBusy: func(tries int) {
			_, _ = fmt.Fprintf(c.stderr, "A transaction keeps a lock that the migration needs; asked %d times so far.\n", tries)
		},
	})
	if errors.Is(err, migrations.ErrPooled) {
		return errors.New("MIGRATE_DATABASE_URL, or what stands in for it, leads through a pooler; migrations need a way to Postgres itself")
	}
	if err != nil {
		return err
	}
	version, err := migrations.Target()
	if err != nil {
		return err
	}
	c.printf("The database is at schema version %d.\n", version)
	return nil
}
