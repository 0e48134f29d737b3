package main_test

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/devpg"
)

// ownPostgres is a server that a test may stop and start while everything else runs.
type ownPostgres struct {
	*devpg.Server

	dir string
}

func startPostgres(t *testing.T) *ownPostgres {
	t.Helper()
	p := &ownPostgres{dir: filepath.Join(dataDir(t), "postgres")}
	p.start(t)
	t.Cleanup(func() { p.stop(t) })
	return p
}

func (p *ownPostgres) start(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), startLimit)
	defer cancel()
	server, err := devpg.Start(ctx, devpg.Config{Dir: p.dir})
	if err != nil {
		t.Fatal(err)
	}
	p.Server = server
}

func (p *ownPostgres) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), stopLimit)
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		t.Errorf("stop Postgres: %v", err)
	}
}

// TestSpoolAfterKill lets the database stop while Prisma makes a pair, and kills the
// replica that then holds it. The pair is stored all the same: by the replica's
// successor, or by a neighbour that shares its spool.
func TestSpoolAfterKill(t *testing.T) {
	t.Parallel()
	database := startPostgres(t)
	d := startDev(t, devOptions{env: []string{"DATABASE_URL=" + database.URL("postgres")}})
	d.control(t, http.MethodPut, "consent", map[string]string{"mode": "approve"}, nil)
	settings := d.settings(t)

	own := filepath.Join(t.TempDir(), "spool")
	c, before := killWithPair(t, d, database, append(settings, "SPOOL_DIR="+own), own)
	database.start(t)
	successor := startServe(t, append(settings, "SPOOL_DIR="+own))
	if left := spooled(t, own); len(left) != 0 {
		t.Errorf("the successor serves, and its spool has %v", left)
	}
	checkStored(t, d, successor.origin, c, before)
	successor.stop(t, syscall.SIGTERM)
	if found, err := os.ReadDir(own); err != nil || len(found) != 0 {
		t.Errorf("after a clean stop the spool has %v, %v", found, err)
	}

	shared := filepath.Join(d.dir, "spool")
	c, before = killWithPair(t, d, database, settings, shared)
	database.start(t)
	eventually(t, "a neighbour stores the pair", func() bool { return len(spooled(t, shared)) == 0 })
	checkStored(t, d, d.PublicURL, c, before)
}

// spooled lists the entries of a spool, and looks for tokens in their bytes.
func spooled(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "*", "*.pair"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range found {
		content, err := os.ReadFile(path)
		if err == nil && (bytes.Contains(content, []byte(`"access`)) || bytes.Contains(content, []byte("eyJ"))) {
			t.Error("a spooled file shows what it keeps")
		}
	}
	return found
}

// killWithPair makes a connection, and a replica with those settings refresh it. The
// database is stopped while the refresh token is with Prisma, and the replica killed
// once the new pair is spooled.
func killWithPair(t *testing.T, d *dev, database *ownPostgres, settings []string, spool string) (connection, ledger) {
	t.Helper()
	r := startServe(t, settings)
	c := d.connect(t, "user-of-"+filepath.Base(filepath.Dir(spool)))
	d.advance(t, pastAccessTokens)
	before := d.ledger(t)
	d.control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "3s"}, nil)
	called := make(chan error, 1)
	go func() { called <- listProjects(t.Context(), r, d.APIKey, c) }()
	eventually(t, "the refresh has reached Prisma", func() bool { return d.ledger(t).received() > before.received() })
	began := time.Now()
	database.stop(t)
	eventually(t, "the pair is spooled", func() bool { return len(spooled(t, spool)) == 1 })
	t.Logf("spooled %s after the database began to stop", time.Since(began).Round(time.Millisecond))
	r.signal(t, syscall.SIGKILL)
	r.wait(t)
	if err := <-called; err == nil {
		t.Error("the call was answered, and its pair is not stored")
	}
	if out := r.stderr.String(); strings.Contains(out, "eyJ") {
		t.Error("the log shows a token")
	}
	d.control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "0s"}, nil)
	return c, before
}

// checkStored checks that the connection lives with the pair of the one exchange.
func checkStored(t *testing.T, d *dev, origin string, c connection, before ledger) {
	t.Helper()
	p := partner{origin: origin, key: d.APIKey}
	var projects []struct{ ID string }
	p.call(t, http.MethodGet, "/v1/connections/"+c.ID+"/projects", nil, &projects)
	var now connection
	p.call(t, http.MethodGet, "/v1/connections/"+c.ID, nil, &now)
	if now.Status != "active" {
		t.Errorf("the connection is %s, want active", now.Status)
	}
	after := d.ledger(t)
	if after.Counters.Refreshes != before.Counters.Refreshes+1 || after.received() != before.received()+1 ||
		after.Counters.Replays != 0 || after.Counters.Revocations != 0 {
		t.Errorf("Prisma saw %+v, before it was %+v; want one refresh more", after.Counters, before.Counters)
	}
}
