package processtest

import (
	"context"
	"net/url"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/devpg"
)

// LimitedServer starts a Postgres server for one dev alone, which sets the
// passwords of its roles there, and returns a URL of a role that may create
// databases and roles but is no superuser.
func LimitedServer(tb testing.TB) string {
	tb.Helper()
	server, err := devpg.Start(tb.Context(), devpg.Config{Dir: filepath.Join(DataDir(tb), "postgres"), Ephemeral: true})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Stop(context.WithoutCancel(tb.Context())); err != nil {
			tb.Errorf("stop Postgres: %v", err)
		}
	})
	conn, err := pgx.Connect(tb.Context(), server.URL("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(tb.Context())
	const password = "only-on-this-loopback"
	if _, err := conn.Exec(tb.Context(), "CREATE ROLE developer LOGIN CREATEDB CREATEROLE PASSWORD '"+password+"'"); err != nil {
		tb.Fatal(err)
	}
	u, err := url.Parse(server.URL("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	u.User = url.UserPassword("developer", password)
	return u.String()
}

// Postgres is a server that a test may stop and start while everything else runs.
type Postgres struct {
	*devpg.Server

	dir string
}

// StartPostgres starts a server of the test's own, which ends with the test.
func StartPostgres(t *testing.T) *Postgres {
	t.Helper()
	p := &Postgres{dir: filepath.Join(DataDir(t), "postgres")}
	p.Start(t)
	t.Cleanup(func() { p.Stop(t) })
	return p
}

// Start starts it, at first or after Stop, with the same data at the same address.
func (p *Postgres) Start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), StartLimit)
	defer cancel()
	server, err := devpg.Start(ctx, devpg.Config{Dir: p.dir})
	if err != nil {
		t.Fatal(err)
	}
	p.Server = server
}

// Stop ends it as a shutdown does: every session breaks off.
func (p *Postgres) Stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), StopLimit)
	defer cancel()
	if err := p.Server.Stop(ctx); err != nil {
		t.Errorf("stop Postgres: %v", err)
	}
}
