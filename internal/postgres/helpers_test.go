package postgres_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/postgres"
)

func openPool(t *testing.T, cfg postgres.PoolConfig) *pgxpool.Pool {
	t.Helper()
	pool, err := postgres.OpenPool(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// exec runs SQL as the superuser of the test's database.
func exec(t *testing.T, db *pgtest.Database, sql string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // clean-ups too
	conn, err := pgx.Connect(ctx, db.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// role makes a role with those attributes for one test, and returns its URL.
func role(t *testing.T, db *pgtest.Database, attributes string) string {
	t.Helper()
	name, password := "connect_role_"+rand.Text(), rand.Text()
	quoted := pgx.Identifier{name}.Sanitize()
	exec(t, db, "CREATE ROLE "+quoted+" LOGIN PASSWORD '"+password+"' "+attributes)
	t.Cleanup(func() { exec(t, db, "DROP ROLE "+quoted) })
	u, err := url.Parse(db.AppURL)
	if err != nil {
		t.Fatal("the test database's URL can't be parsed")
	}
	u.User = url.UserPassword(name, password)
	return u.String()
}

// scratch makes a table that connect_app may write to.
func scratch(t *testing.T, db *pgtest.Database) {
	t.Helper()
	exec(t, db, `CREATE TABLE public.scratch (n int CONSTRAINT scratch_once UNIQUE);
		GRANT SELECT, INSERT ON public.scratch TO connect_app`)
}

func count(t *testing.T, pool *pgxpool.Pool) int {
	t.Helper()
	var n int
	if err := pool.QueryRow(t.Context(), `SELECT count(*)::int FROM public.scratch`).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// cutter cuts connections at their COMMIT while it is armed: before the server
// gets it, or when its answer is on the way.
type cutter struct {
	mu    sync.Mutex
	armed bool
	after bool // the server commits first
}

func (c *cutter) arm(after bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed, c.after = true, after
}

func (c *cutter) disarm() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.armed = false
}

func (c *cutter) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	return &cutConn{Conn: conn, cutter: c}, err
}

type cutConn struct {
	net.Conn

	cutter *cutter
	cut    atomic.Bool
}

func (c *cutConn) Write(b []byte) (int, error) {
	c.cutter.mu.Lock()
	cut, after := c.cutter.armed && bytes.Contains(b, []byte("commit\x00")), c.cutter.after
	c.cutter.mu.Unlock()
	if !cut {
		return c.Conn.Write(b)
	}
	c.cut.Store(true) // first: pgx reads beside a write that takes longer than 15 ms, and would get the answer
	if after {
		if n, err := c.Conn.Write(b); err != nil {
			return n, err
		}
		_, _ = c.Conn.Read(make([]byte, 1)) // an answer: it has committed
	}
	return len(b), c.Close()
}

func (c *cutConn) Read(b []byte) (int, error) {
	if c.cut.Load() {
		return 0, io.EOF
	}
	return c.Conn.Read(b)
}

// cutPool returns a pool whose wire the cutter cuts.
func cutPool(t *testing.T, db *pgtest.Database) (*pgxpool.Pool, *cutter) {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(db.AppURL)
	if err != nil {
		t.Fatal("the test database's URL can't be parsed")
	}
	c := &cutter{}
	cfg.MaxConns = 1
	cfg.ConnConfig.DialFunc = c.dial
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool, c
}
