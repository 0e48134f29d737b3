package main

import (
	"context"

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
	if err := migrations.Up(ctx, cfg.MigrateDatabaseURL, migrations.Options{Environment: cfg.Environment}); err != nil {
		return err
	}
	version, err := migrations.Target()
	if err != nil {
		return err
	}
	c.printf("The database is at schema version %d.\n", version)
	return nil
}
