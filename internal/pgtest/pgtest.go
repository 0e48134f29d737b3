package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// maxConns bounds the pool of one test, so that many tests at once stay below
	// the server's max_connections.
	maxConns = 6

	// setupTimeout bounds all that happens once in a test process: starting a
	// server, perhaps pulling its image, and migrating the template.
	setupTimeout = 5 * time.Minute

	// opTimeout bounds making or dropping one database.
	opTimeout = time.Minute
)

// shared is the server and template that all tests of this process use.
var shared = sync.OnceValues(func() (*cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), setupTimeout)
	defer cancel()
	server, err := StartServer(ctx)
	if err != nil {
		return nil, err
	}
	return newCluster(ctx, server.URL())
})

// Database is one test's own database. Its URLs hold passwords.
type Database struct {
	// AdminURL connects as a superuser of the server, for tests that create roles
	// or databases.
	AdminURL string

	// OwnerURL connects as connect_owner, which may log in and create databases and
	// roles but is no superuser: it runs the migrations and owns the schema.
	OwnerURL string

	// AppURL connects as connect_app: what the service runs as, and every test.
	AppURL string

	// Pool is connected as connect_app, at most 6 connections at a time. It is
	// closed when the test ends. Nil after OpenEmpty.
	Pool *pgxpool.Pool
}

// Open returns a migrated database that is dropped when the test ends. The first
// call in a process takes up to a few seconds, the later ones tens of milliseconds.
// Anything that goes wrong fails the test.
func Open(tb testing.TB) *Database {
	tb.Helper()
	c := get(tb)
	db := c.create(tb, "TEMPLATE "+pgx.Identifier{c.template}.Sanitize()+c.strategy)

	cfg, err := pgxpool.ParseConfig(db.AppURL)
	if err != nil {
		tb.Fatal("pgtest: the URL of the test database can't be parsed")
	}
	cfg.MaxConns = maxConns
	pool, err := pgxpool.NewWithConfig(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("pgtest: open pool: %v", err)
	}
	tb.Cleanup(pool.Close)
	db.Pool = pool
	return db
}

// OpenEmpty returns an empty database that belongs to connect_owner, for tests of
// the migrations themselves. It is dropped when the test ends, and its Pool is nil.
// The roles exist already, since they belong to the whole server.
func OpenEmpty(tb testing.TB) *Database {
	tb.Helper()
	return get(tb).create(tb, "TEMPLATE template0")
}

// Advance moves app.now() of this database forward, or back when by is negative.
func (d *Database) Advance(tb testing.TB, by time.Duration) {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), d.AdminURL)
	if err != nil {
		tb.Fatalf("pgtest: connect to move the clock: %v", err)
	}
	defer conn.Close(tb.Context())
	tag, err := conn.Exec(tb.Context(), `UPDATE app.deployment SET clock_offset = clock_offset + $1::interval`, by)
	if err != nil {
		tb.Fatalf("pgtest: move the clock: %v", err)
	}
	if tag.RowsAffected() != 1 {
		tb.Fatalf("pgtest: move the clock: app.deployment has %d rows, want 1", tag.RowsAffected())
	}
}

// TempDir is testing's TempDir in memory, where there is room: for tests that run a
// server of their own, which is a thousand files.
func TempDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp(fastDir(), "connect-prisma-test-") //nolint:usetesting // its own is on a disk
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Errorf("pgtest: remove a directory of the test: %v", err)
		}
	})
	return dir
}

func get(tb testing.TB) *cluster {
	tb.Helper()
	c, err := shared()
	if err != nil {
		tb.Fatalf("pgtest: %v", err)
	}
	return c
}

// create makes a database for a test, and drops it when the test ends.
func (c *cluster) create(tb testing.TB, from string) *Database {
	tb.Helper()
	// The time in the name tells a later sweep how old a leftover is.
	name := testPrefix + strconv.FormatInt(time.Now().Unix(), 36) + "_" + strings.ToLower(rand.Text()[:10])
	quoted := pgx.Identifier{name}.Sanitize()
	if err := c.exec(tb.Context(), "CREATE DATABASE "+quoted+" OWNER "+ownerRole+" "+from); err != nil {
		tb.Fatalf("pgtest: create database: %v", err)
	}
	tb.Cleanup(func() {
		// The test's own context is done by now.
		if err := c.exec(context.WithoutCancel(tb.Context()), "DROP DATABASE IF EXISTS "+quoted+" WITH (FORCE)"); err != nil {
			tb.Errorf("pgtest: drop database: %v", err)
		}
	})
	return &Database{
		AdminURL: c.url(nil, name),
		OwnerURL: c.url(c.user(ownerRole), name),
		AppURL:   c.url(c.user(appRole), name),
	}
}

// exec runs one statement as the superuser on a connection of its own: a pool kept
// for the process would look like a leak to tests that hunt for goroutines.
func (c *cluster) exec(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.url(nil, ""))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("execute: %w", err)
	}
	return nil
}
