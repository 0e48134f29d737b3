package main_test

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/pgtest/pooltest"
)

// serverConnections are what all replicas of these tests share behind the pooler.
const serverConnections = 4

// TestThroughPgBouncer runs everything through a PgBouncer in transaction mode, which
// no setting speaks of: commands, two replicas, the flow, refreshes, jobs.
func TestThroughPgBouncer(t *testing.T) {
	t.Parallel()
	for name, direct := range map[string]bool{"alone": false, "with DATABASE_DIRECT_URL": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var pooler *pooltest.PgBouncer
			w := newWorld(t, func(in *installation) {
				pooler = pooltest.Start(t, in.db, serverConnections)
				in.values["DATABASE_URL"] = pooler.AppURL
				if direct {
					in.values["DATABASE_DIRECT_URL"] = in.db.AppURL
				}
			})
			env := w.in.with(nil)
			replicas := []*replica{startServeAt(t, env, w.in.public), startServe(t, env)}
			refreshOnce(t, w.dev, replicas)
			jobsRun(t, w, replicas, direct)
			c := w.connected(t, "owner", 1)[0]
			made := w.partner().createDatabase(t, c, "orders")
			if found := tables(t, made.Credentials.ConnectionString); len(found) != 0 {
				t.Errorf("the new database has the tables %v, want none", found)
			}
			if direct {
				saveWithoutPooler(t, w, pooler, replicas[1])
			} else {
				tenantsApart(t, w, replicas)
			}
			for _, r := range replicas {
				r.stop(t, syscall.SIGTERM)
			}
			w.in.command(t, "", "ledger", "verify") // fails with a finding
		})
	}
}

// jobsRun checks that jobs work, those that recur and those that a change has stored,
// and that a replica knows whether it can be told of them.
func jobsRun(t *testing.T, w *world, replicas []*replica, told bool) {
	t.Helper()
	due := w.count(t, `WITH due AS (UPDATE river.river_job SET state = 'available', scheduled_at = now()
		WHERE kind = 'name_workspace' AND state = 'scheduled' RETURNING 1) SELECT count(*) FROM due`)
	if due == 0 {
		t.Error("the connections have stored no job")
	}
	eventually(t, "jobs run", func() bool {
		return w.count(t, `SELECT count(*) FROM river.river_job WHERE kind = 'name_workspace' AND state = 'completed'`) == due &&
			w.count(t, `SELECT count(*) FROM river.river_job WHERE kind = 'sweep_sessions' AND state = 'completed'`) > 0
	})
	if failed := w.count(t, `SELECT count(*) FROM river.river_job WHERE errors IS NOT NULL`); failed != 0 {
		t.Errorf("%d jobs have failed", failed)
	}
	for _, r := range replicas {
		if polls := strings.Contains(r.stderr.String(), "jobs poll for work"); polls == told {
			t.Errorf("a replica says that its jobs poll: %t, want %t", polls, !told)
		}
	}
}

// tenantsApart lets two tenants ask what they have, in turns and at once, over more
// client connections than the pooler has to the server.
func tenantsApart(t *testing.T, w *world, replicas []*replica) {
	t.Helper()
	const askers, times = 16, 125
	other := w.as(w.newTenant(t, "Other"))
	other.connected(t, "other", 3)
	owns := map[string]map[string]bool{}
	for _, key := range []string{w.APIKey, other.APIKey} {
		owns[key] = map[string]bool{}
		all, err := theirs(t.Context(), plain(), w.PublicURL, key)
		if err != nil || len(all) == 0 {
			t.Fatalf("a tenant has %d connections, %v", len(all), err)
		}
		for _, c := range all {
			owns[key][c.ID] = true
		}
	}
	transport := &http.Transport{MaxIdleConnsPerHost: askers}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Timeout: callLimit, Transport: transport}
	var asked, foreign atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for i := range askers {
		all.Go(func() {
			for j := range times {
				key := []string{w.APIKey, other.APIKey}[(i+j)%2]
				found, err := theirs(t.Context(), client, replicas[i%len(replicas)].origin, key)
				if err != nil {
					t.Error(err)
					return
				}
				asked.Add(1)
				if len(found) != len(owns[key]) {
					t.Errorf("a tenant sees %d connections, and has %d", len(found), len(owns[key]))
				}
				for _, c := range found {
					if !owns[key][c.ID] {
						foreign.Add(1)
					}
				}
			}
		})
	}
	all.Wait()
	t.Logf("%d requests of two tenants in %s", asked.Load(), time.Since(began).Round(time.Millisecond))
	if foreign.Load() != 0 || asked.Load() != askers*times {
		t.Errorf("%d answers of %d show a connection of the other tenant, want 0 of %d", foreign.Load(), asked.Load(), askers*times)
	}
}

// saveWithoutPooler stops the pooler while Prisma makes a pair, and starts it again
// when the replica has failed to store it.
func saveWithoutPooler(t *testing.T, w *world, pooler *pooltest.PgBouncer, r *replica) {
	t.Helper()
	c := w.connected(t, "in-flight", 1)[0]
	w.advance(t, pastAccessTokens)
	before := w.ledger(t)
	w.control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "2s"}, nil)
	called := make(chan error, 1)
	go func() { called <- listProjects(t.Context(), r, w.APIKey, c) }()
	eventually(t, "the refresh has reached Prisma", func() bool { return w.ledger(t).received() > before.received() })
	pooler.Stop(t)
	awaitRecord(t, r, "ERROR", "can't be stored yet")
	pooler.Start(t)
	awaitRecord(t, r, "WARN", "stored at last")
	if err := <-called; err != nil {
		t.Errorf("the call that waited for the pair: %v", err)
	}
	w.control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "0s"}, nil)
	checkStored(t, w.dev, r.origin, c, before)
}

// TestMigrateThroughPgBouncer: the lock of a migration needs a session of its own.
func TestMigrateThroughPgBouncer(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	pooler := pooltest.Start(t, in.db, 1)
	code, _, stderr := run(t, launch{args: []string{"migrate"}, env: in.with(map[string]string{"MIGRATE_DATABASE_URL": pooler.OwnerURL})})
	checkRefusal(t, code, stderr, "MIGRATE_DATABASE_URL", "pooler")
}
