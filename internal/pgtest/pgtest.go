package pgtest

import (
	"context"
	"crypto/rand"
	"errors"
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

	mu    sync.Mutex
	clock *pgx.Conn // that of Advance; nil: not connected yet
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
	// Some tests move the clock hundreds of times, and a server's process each time
	// costs more than the statement.
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.clock == nil || d.clock.IsClosed() {
		conn, err := pgx.Connect(tb.Context(), d.AdminURL)
		if err != nil {
			tb.Fatalf("pgtest: connect to move the clock: %v", err)
		}
		tb.Cleanup(func() { // a subtest's too: its database may stay longer
			d.mu.Lock()
			defer d.mu.Unlock()
			_ = conn.Close(context.WithoutCancel(tb.Context()))
		})
		d.clock = conn
	}
	tag, err := d.clock.Exec(tb.Context(), `UPDATE app.deployment SET clock_offset = clock_offset + $1::interval`, by)
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

// exec runs one statement as the superuser. Its connections are kept for the next one:
// each is a process of the server. They are no pool, whose goroutines would look like a
// leak to tests that hunt for some.
func (c *cluster) exec(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	conn, err := c.take(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		return errors.Join(fmt.Errorf("execute: %w", err), conn.Close(context.WithoutCancel(ctx)))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, conn)
	return nil
}

// take returns an idle connection, or a new one.
func (c *cluster) take(ctx context.Context) (*pgx.Conn, error) {
	c.mu.Lock()
	if last := len(c.idle) - 1; last >= 0 {
		defer c.mu.Unlock()
		conn := c.idle[last]
		c.idle = c.idle[:last]
		return conn, nil
	}
	c.mu.Unlock()
	return pgx.Connect(ctx, c.url(nil, "")) //nolint:wrapcheck // exec says what it was for
}
