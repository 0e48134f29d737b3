// Package migrations holds the schema and brings a database up to it.
//
// Rules: a migration runs against a database that the previous version still
// serves, so it adds before it removes, and columns are named, never *.
//
// Nobody waits for it longer than Options.LockTimeout. Therefore a table that is
// there already is changed without reading it under a lock: constraints are added NOT
// VALID and validated by a statement of their own, which locks nobody out, and indexes
// are built CONCURRENTLY. Files with such steps are marked NO TRANSACTION; each
// statement then is a transaction and can be run again, for a run may be killed, or
// refused a lock, between any two. Other files are one transaction, but for River's own
// migrations, which need one each.
package migrations

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"github.com/connect-prisma/server/internal/postgres"
)

// FS holds the SQL migrations.
//
//go:embed *.sql
var FS embed.FS

// RiverSchema is the Postgres schema in which River keeps its jobs.
const RiverSchema = "river"

// riverVersion numbers the migration that is written in Go.
const riverVersion = 5

// riverTarget pins River's own schema version: a newer library brings a new
// migration of ours, never a silent change of an old one.
const riverTarget = 8

// environmentName is the check of app.deployment.
const environmentName = `^[a-z0-9-]{1,40}$`

// Options say what a database is for.
type Options struct {
	// Environment names the deployment that the database belongs to, such as
	// "production": lower-case letters, digits and hyphens, at most 40. It is
	// written once; another name for the same database is an error.
	// "development" and "test" may move their clock.
	Environment string

	// LockTimeout is how long a statement waits for a lock. Whatever needs the table
	// meanwhile waits behind it, so this is how long a migration can hold up the
	// service. What is refused is tried again, for five minutes. Default 1 s.
	LockTimeout time.Duration

	// OnBusy, if set, is told that a lock was refused, and how often so far.
	OnBusy func(tries int)
}

// ErrOtherEnvironment tells that the database was migrated for another
// environment than the one asked for.
var ErrOtherEnvironment = errors.New("the database belongs to another environment")

// ErrPooled tells that the way to the database leads through a pooler, where the
// session lock of a migration would be somebody else's with the next statement.
var ErrPooled = errors.New("migrate: the database URL leads through a pooler; take one that leads to Postgres itself")

// Up brings the database at ownerURL to the newest schema. The role in the URL
// becomes the owner of everything and needs CREATEROLE the first time. Starters
// that come at the same time wait for each other under a session lock, so a URL
// that leads through a pooler is refused with ErrPooled, before anything happens.
//
// The service may run meanwhile. A lock that some transaction does not give up in five
// minutes is an ErrBusy; another run goes on where this one ended.
func Up(ctx context.Context, ownerURL string, opts Options) error {
	if !regexp.MustCompile(environmentName).MatchString(opts.Environment) {
		return errors.New("migrate: the environment's name needs 1 to 40 lower-case letters, digits and hyphens")
	}
	if _, err := pgxpool.ParseConfig(ownerURL); err != nil {
		return errors.New("migrate: the database URL can't be parsed") // pgx's text may quote it
	}
	// Before anything is changed: the URL may lead to somebody else's database.
	if err := compareEnvironment(ctx, ownerURL, opts.Environment); err != nil {
		return err
	}
	err := patiently(ctx, opts, func() error {
		return with(ctx, ownerURL, FS, opts, func(p *goose.Provider) error {
			_, err := p.Up(ctx)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return claimEnvironment(ctx, ownerURL, opts.Environment)
}

// with calls do with a goose provider of the files, on connections to ownerURL that end
// with it.
func with(ctx context.Context, ownerURL string, files fs.FS, opts Options, do func(*goose.Provider) error) error {
	provider, done, err := open(ctx, ownerURL, files, opts)
	if err != nil {
		return err
	}
	defer done()
	return do(provider)
}

// open returns a goose provider over a database/sql handle on ownerURL, and the
// function that closes both.
func open(ctx context.Context, ownerURL string, files fs.FS, opts Options) (*goose.Provider, func(), error) {
	cfg, err := pgxpool.ParseConfig(ownerURL)
	if err != nil {
		return nil, nil, errors.New("the database URL can't be parsed") // pgx's text may quote it
	}
	cfg.MaxConns = 4
	// The role's own settings are made for short queries, if there are any.
	timeout := cmp.Or(opts.LockTimeout, defaultLockTimeout)
	cfg.ConnConfig.RuntimeParams["lock_timeout"] = strconv.FormatInt(timeout.Milliseconds(), 10)
	cfg.ConnConfig.RuntimeParams["statement_timeout"] = "0"
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("open pool: %w", err)
	}
	db := stdlib.OpenDBFromPool(pool)
	done := func() {
		_ = db.Close() // it only wraps the pool
		pool.Close()
	}
	// Asked for each second, for five minutes: goose's own pace lets a replica that
	// starts beside another wait five seconds.
	session, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		done()
		return nil, nil, err
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithSessionLocker(locker{session}),
		goose.WithDisableGlobalRegistry(true),
		goose.WithGoMigrations(goose.NewGoMigration(riverVersion,
			&goose.GoFunc{RunDB: func(ctx context.Context, db *sql.DB) error { return riverUp(ctx, pool, db) }}, nil)))
	if err != nil {
		done()
		return nil, nil, err
	}
	return provider, done, nil
}

// riverUp makes River's schema. Each of River's migrations runs in a
// transaction of its own, and all of it can be run again after a failure half
// way.
func riverUp(ctx context.Context, pool *pgxpool.Pool, db *sql.DB) error {
	if _, err := db.ExecContext(ctx, `CREATE SCHEMA IF NOT EXISTS `+RiverSchema); err != nil {
		return fmt.Errorf("create schema for jobs: %w", err)
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Schema: RiverSchema})
	if err != nil {
		return fmt.Errorf("prepare job migrations: %w", err)
	}
	opts := &rivermigrate.MigrateOpts{TargetVersion: riverTarget}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, opts); err != nil {
		return fmt.Errorf("migrate jobs: %w", err)
	}
	_, err = db.ExecContext(ctx, `
		GRANT USAGE ON SCHEMA river TO connect_app, connect_operator;
		GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA river TO connect_app, connect_operator;
		GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA river TO connect_app, connect_operator`)
	if err != nil {
		return fmt.Errorf("grant jobs: %w", err)
	}
	return nil
}

// compareEnvironment looks at a database that may be new.
func compareEnvironment(ctx context.Context, ownerURL, environment string) error {
	conn, err := pgx.Connect(ctx, ownerURL)
	if err != nil {
		return fmt.Errorf("migrate: connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if pooled, err := postgres.Pooled(ctx, conn); err != nil {
		return fmt.Errorf("migrate: %w", err)
	} else if pooled {
		return ErrPooled
	}
	var known bool
	if err := conn.QueryRow(ctx, `SELECT to_regclass('app.deployment') IS NOT NULL`).Scan(&known); err != nil {
		return fmt.Errorf("migrate: look for the environment: %w", err)
	}
	if !known {
		return nil
	}
	stored, err := Environment(ctx, conn)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && stored == environment {
		return nil
	}
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return fmt.Errorf("%w: it is %q", ErrOtherEnvironment, stored)
}

// claimEnvironment writes the environment's name into a new database and
// compares it in an old one.
func claimEnvironment(ctx context.Context, ownerURL, environment string) error {
	conn, err := pgx.Connect(ctx, ownerURL)
	if err != nil {
		return fmt.Errorf("migrate: connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, `INSERT INTO app.deployment (environment) VALUES ($1) ON CONFLICT (one) DO NOTHING`, environment)
	if err != nil {
		return fmt.Errorf("migrate: name the environment: %w", err)
	}
	// A statement of its own: the one above may have waited for a row that its
	// snapshot does not show.
	stored, err := Environment(ctx, conn)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if stored != environment {
		return fmt.Errorf("%w: it is %q", ErrOtherEnvironment, stored)
	}
	return nil
}

// Target is the schema version that this program needs.
func Target() (int64, error) {
	names, err := fs.Glob(FS, "*.sql")
	if err != nil || len(names) == 0 {
		return 0, fmt.Errorf("list migrations: %w", err)
	}
	version, err := goose.NumericComponent(names[len(names)-1])
	if err != nil {
		return 0, fmt.Errorf("read migration number: %w", err)
	}
	return max(version, riverVersion), nil
}

// ErrOutdated tells that the database's schema is older than the program.
var ErrOutdated = errors.New("the database schema is older than this program")

// Querier is the one method of a pool or connection that Check needs.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Check returns ErrOutdated when the database lacks a migration of this
// program. A newer database is fine: migrations keep the previous version
// running.
func Check(ctx context.Context, db Querier) error {
	target, err := Target()
	if err != nil {
		return err
	}
	var version int64
	err = db.QueryRow(ctx, `SELECT app.schema_version()`).Scan(&version)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok &&
		(pgErr.Code == "42883" || pgErr.Code == "3F000" || pgErr.Code == "42501") { // no such function or schema
		return ErrOutdated
	}
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if version < target {
		return ErrOutdated
	}
	return nil
}

// Environment returns the name that the database was migrated for.
func Environment(ctx context.Context, db Querier) (string, error) {
	var name string
	if err := db.QueryRow(ctx, `SELECT environment FROM app.deployment`).Scan(&name); err != nil {
		return "", fmt.Errorf("read environment: %w", err)
	}
	return name, nil
}

// Fingerprint changes with any change of a migration: tests name their template
// databases by it. 16 hexadecimal digits.
func Fingerprint() string {
	hash := sha256.New()
	fmt.Fprintf(hash, "river %d %d\n", riverVersion, riverTarget)
	_ = fs.WalkDir(FS, ".", func(path string, entry fs.DirEntry, err error) error { // an embedded tree has no read errors
		if err != nil || entry.IsDir() {
			return err
		}
		body, err := FS.ReadFile(path)
		fmt.Fprintf(hash, "%s %d\n%s", path, len(body), body)
		return err
	})
	return hex.EncodeToString(hash.Sum(nil))[:16]
}
