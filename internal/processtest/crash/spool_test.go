package crash_test

import (
	"bytes"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/processtest"
)

// TestSpoolAfterKill lets the database stop while Prisma makes a pair, and kills the
// replica that then holds it. The pair is stored all the same: by the replica's
// successor, or by a neighbour that shares its spool.
func TestSpoolAfterKill(t *testing.T) {
	t.Parallel()
	database := processtest.StartPostgres(t)
	d := processtest.StartDev(t, processtest.DevOptions{Env: []string{"DATABASE_URL=" + database.URL("postgres")}})
	d.Control(t, http.MethodPut, "consent", map[string]string{"mode": "approve"}, nil)
	settings := d.Settings(t)

	own := filepath.Join(t.TempDir(), "spool")
	c, before := killWithPair(t, d, database, append(settings, "SPOOL_DIR="+own), own)
	database.Start(t)
	successor := processtest.StartServe(t, append(settings, "SPOOL_DIR="+own))
	if left := spooled(t, own); len(left) != 0 {
		t.Errorf("the successor serves, and its spool has %v", left)
	}
	processtest.CheckStored(t, d, successor.Origin, c, before)
	successor.Stop(t, syscall.SIGTERM)
	found, err := os.ReadDir(own)
	for _, one := range found {
		if !strings.HasPrefix(one.Name(), "fence-") {
			t.Errorf("after a clean stop the spool has %s", one.Name())
		}
	}
	if err != nil || len(found) == 0 {
		t.Errorf("after a clean stop the spool has %v, %v; want the fence's mark", found, err)
	}

	shared := filepath.Join(d.Dir, "spool")
	c, before = killWithPair(t, d, database, settings, shared)
	database.Start(t)
	processtest.Eventually(t, "a neighbour stores the pair", func() bool { return len(spooled(t, shared)) == 0 })
	processtest.CheckStored(t, d, d.PublicURL, c, before)
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
func killWithPair(t *testing.T, d *processtest.Dev, database *processtest.Postgres, settings []string, spool string) (processtest.Connection, processtest.Ledger) {
	t.Helper()
	r := processtest.StartServe(t, settings)
	c := d.Connect(t, "user-of-"+filepath.Base(filepath.Dir(spool)))
	d.Advance(t, processtest.PastAccessTokens)
	before := d.Ledger(t)
	d.Control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "3s"}, nil)
	called := make(chan error, 1)
	go func() { called <- processtest.ListProjects(t.Context(), r, d.APIKey, c) }()
	processtest.Eventually(t, "the refresh has reached Prisma", func() bool { return d.Ledger(t).Received() > before.Received() })
	began := time.Now()
	database.Stop(t)
	processtest.Eventually(t, "the pair is spooled", func() bool { return len(spooled(t, spool)) == 1 })
	t.Logf("spooled %s after the database began to stop", time.Since(began).Round(time.Millisecond))
	r.Signal(t, syscall.SIGKILL)
	r.Wait(t)
	if err := <-called; err == nil {
		t.Error("the call was answered, and its pair is not stored")
	}
	if out := r.Stderr.String(); strings.Contains(out, "eyJ") {
		t.Error("the log shows a token")
	}
	d.Control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "0s"}, nil)
	return c, before
}
