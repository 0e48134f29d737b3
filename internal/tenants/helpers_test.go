package tenants_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

const (
	returnURL   = "https://partner.example/callback"
	redirectURI = "https://connect.example/oauth/callback"
	clientID    = "client-of-the-tenant"
)

// service is a store as connect_app on a database of its own.
type service struct {
	*tenants.Store

	db     *pgtest.Database
	keyset *sealing.Keyset
	text   string        // of keyset
	admin  *pgxpool.Pool // a superuser: row-level security does not hold it
}

func openService(t *testing.T) *service {
	t.Helper()
	text, err := sealing.Generate()
	ok(t, err)
	text, err = sealing.AddKeys(text) // as in the middle of a rotation
	ok(t, err)
	s := &service{db: pgtest.Open(t), text: text}
	s.keyset, err = sealing.Parse(text, "test")
	ok(t, err)
	s.admin = openPool(t, s.db.AdminURL, 2, nil)
	s.Store = s.store(t, tenants.Config{Pool: s.db.Pool})
	return s
}

// store returns another store on the same database, as of another replica.
func (s *service) store(t *testing.T, cfg tenants.Config) *tenants.Store {
	t.Helper()
	cfg.Keyset = s.keyset
	store, err := tenants.NewStore(cfg)
	ok(t, err)
	return store
}

func openPool(t *testing.T, url string, conns int32, wire *cutter) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal("the test database's URL can't be parsed")
	}
	cfg.MaxConns = conns
	if wire != nil {
		cfg.ConnConfig.DialFunc = wire.dial
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	ok(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// clock is what tests inject as this process's own.
func clock() time.Time {
	return time.Now() //nolint:forbidigo // this is the injected clock
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantKind fails the test unless the error is of that kind; fault.Internal also
// stands for no error.
func wantKind(t *testing.T, what string, err error, want fault.Kind) {
	t.Helper()
	if got := fault.KindOf(err); got != want || err == nil != (want == fault.Internal) {
		t.Errorf("%s: error = %v, want kind %q", what, err, want)
	}
}

// sql runs one statement past row-level security.
func (s *service) sql(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := s.admin.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// one returns the one value of a query past row-level security.
func one[T any](t *testing.T, s *service, sql string, args ...any) T {
	t.Helper()
	var got T
	if err := s.admin.QueryRow(t.Context(), sql, args...).Scan(&got); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return got
}

// list returns the first column of a query past row-level security.
func list[T any](t *testing.T, s *service, sql string, args ...any) []T {
	t.Helper()
	rows, err := s.admin.Query(t.Context(), sql, args...)
	ok(t, err)
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	ok(t, err)
	return values
}

// events lists the types of a tenant's events in their order.
func (s *service) events(t *testing.T, tenant tenants.TenantID) []string {
	t.Helper()
	return list[string](t, s, `SELECT type FROM events WHERE tenant_id = $1 ORDER BY sequence`, tenant)
}

func (s *service) now(t *testing.T) time.Time {
	t.Helper()
	return one[time.Time](t, s, `SELECT app.now()`)
}

func (s *service) tenant(t *testing.T, name string) tenants.Tenant {
	t.Helper()
	tenant, err := s.CreateTenant(t.Context(), tenants.System(), tenants.TenantInput{
		Name: name, Client: tenants.OAuthClient{ID: clientID, Secret: "client-secret-" + name},
		ServiceToken: "service-token-" + name, ReturnURLs: []string{returnURL},
	})
	ok(t, err)
	return tenant
}

// pair is a token pair of an hour, issued now, with that name in both tokens.
func (s *service) pair(t *testing.T, name, workspace string) prisma.Tokens {
	t.Helper()
	now := s.now(t)
	return prisma.Tokens{
		WorkspaceID: workspace, Access: "access-" + name, Refresh: "refresh-" + name,
		IssuedAt: now, ExpiresAt: now.Add(time.Hour),
	}
}

// created, started, returned and completing bring a session of "user" to that
// status; returned also returns the completion code.
func (s *service) created(t *testing.T, tenant tenants.TenantID, in tenants.NewSession) tenants.Session {
	t.Helper()
	if in.UserID == "" {
		in.UserID = "user"
	}
	in.ReturnURL = returnURL
	x, _, err := s.CreateSession(t.Context(), tenants.System(), tenant, in)
	ok(t, err)
	return x
}

func (s *service) started(t *testing.T, tenant tenants.TenantID, in tenants.NewSession) tenants.Session {
	t.Helper()
	x := s.created(t, tenant, in)
	ok(t, s.StartSession(t.Context(), tenants.System(), x, tenants.Start{State: "state", Browser: "browser", ClientID: clientID, RedirectURI: redirectURI}))
	return x
}

func (s *service) returned(t *testing.T, tenant tenants.TenantID, in tenants.NewSession) (tenants.Session, string) {
	t.Helper()
	x := s.started(t, tenant, in)
	code, err := s.ReturnSession(t.Context(), tenants.System(), x, tenants.Return{
		State: "state", Code: "code-" + x.ID.String(), Verifier: "verifier-" + x.ID.String(),
	})
	ok(t, err)
	return x, code
}

func (s *service) completing(t *testing.T, tenant tenants.TenantID, in tenants.NewSession) tenants.Session {
	t.Helper()
	x, code := s.returned(t, tenant, in)
	claim, err := s.ClaimCompletion(t.Context(), tenants.System(), tenant, x.ID, code, x.UserID)
	ok(t, err)
	return claim.Session
}

// connect makes a connection of user through a whole session.
func (s *service) connect(t *testing.T, tenant tenants.TenantID, user string, pair prisma.Tokens) tenants.Connection {
	t.Helper()
	x := s.completing(t, tenant, tenants.NewSession{UserID: user})
	c, err := s.FinishSession(t.Context(), tenants.System(), x, clientID, pair)
	ok(t, err)
	return c
}

// rows is all that is stored of a tenant, also by what follows its saves.
func (s *service) rows(t *testing.T, tenant tenants.TenantID) []string {
	t.Helper()
	ok(t, s.Wait(t.Context()))
	var rows []string
	for _, table := range list[string](t, s, `SELECT a.attrelid::regclass::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
		WHERE a.attname = 'tenant_id' AND c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace ORDER BY 1`) {
		rows = append(rows, list[string](t, s, `SELECT '`+table+` ' || t::text FROM `+table+` t WHERE tenant_id = $1 ORDER BY 1`, tenant)...)
	}
	return append(rows, list[string](t, s, `SELECT 'tenants ' || t::text FROM tenants t WHERE id = $1`, tenant)...)
}

// unchanged fails the test if the tenant's rows are not those of before.
func (s *service) unchanged(t *testing.T, what string, tenant tenants.TenantID, before []string) {
	t.Helper()
	if diff := cmp.Diff(before, s.rows(t, tenant)); diff != "" {
		t.Errorf("%s changed the tenant's rows (-before +after):\n%s", what, diff)
	}
}

// unhex is the bytes of a bytea as Postgres prints it.
func unhex(text string) string {
	raw, _ := hex.DecodeString(strings.TrimPrefix(text, `\x`))
	return string(raw)
}

// waiting returns once n backends of the database wait for a lock.
func (s *service) waiting(t *testing.T, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		var got int
		err := s.admin.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&got)
		if err != nil {
			t.Fatalf("waiting for %d backends at a lock: %v", n, err)
		}
		if got >= n {
			return
		}
	}
}

// cutter cuts connections at every nth COMMIT while it is armed: before the
// server gets it, or when its answer is on the way.
type cutter struct {
	mu      sync.Mutex
	every   int // 0: not armed
	commits int
	after   bool // the server commits first
	flip    bool // after changes with each cut
	cuts    int
	limit   int // of cuts; 0: none
}

func (c *cutter) arm(every int, after, flip bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.every, c.commits, c.after, c.flip = every, 0, after, flip
}

func (c *cutter) atMost(cuts int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = cuts
}

func (c *cutter) disarm() (cuts int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.every = 0
	return c.cuts
}

// now reports whether this COMMIT is to be cut, and when.
func (c *cutter) now() (cut, after bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.commits++
	if c.every == 0 || c.commits%c.every != 0 || c.limit > 0 && c.cuts >= c.limit {
		return false, false
	}
	c.cuts++
	after = c.after
	if c.flip {
		c.after = !c.after
	}
	return true, after
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
	if !bytes.Contains(b, []byte("commit\x00")) {
		return c.Conn.Write(b)
	}
	cut, after := c.cutter.now()
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
