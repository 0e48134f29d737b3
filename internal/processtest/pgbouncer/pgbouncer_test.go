package pgbouncer_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/pgtest/pooltest"
	"github.com/connect-prisma/server/internal/processtest"
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
			w := processtest.NewWorld(t, func(in *processtest.Installation) {
				pooler = pooltest.Start(t, in.DB, serverConnections)
				in.Values["DATABASE_URL"] = pooler.AppURL
				if direct {
					in.Values["DATABASE_DIRECT_URL"] = in.DB.AppURL
				}
			})
			env := w.Installation.With(nil)
			replicas := []*processtest.Replica{processtest.StartServeAt(t, env, w.Installation.Public), processtest.StartServe(t, env)}
			processtest.RefreshOnce(t, w.Dev, replicas)
			jobsRun(t, w, replicas, direct)
			keysEnd(t, w, replicas)
			c := w.Connected(t, "owner", 1)[0]
			made := w.Partner().CreateDatabase(t, c, "orders")
			if found := processtest.Tables(t, made.Credentials.ConnectionString); len(found) != 0 {
				t.Errorf("the new database has the tables %v, want none", found)
			}
			if direct {
				saveWithoutPooler(t, w, pooler, replicas[1])
			} else {
				tenantsApart(t, w, replicas)
			}
			for _, r := range replicas {
				r.Stop(t, syscall.SIGTERM)
			}
			w.Installation.Command(t, "", "ledger", "verify") // fails with a finding
		})
	}
}

// keysEnd checks that a key which every replica knows ends in time, whether they are told
// of it or not.
func keysEnd(t *testing.T, w *processtest.World, replicas []*processtest.Replica) {
	t.Helper()
	tenant := w.Installation.Command(t, "secret\n", "tenant", "create", "--name", "Bolt", "--client-id", "bolt", "--client-secret-stdin")
	key := w.Installation.Command(t, "", "key", "create", tenant)
	for _, r := range replicas {
		if status, _ := processtest.SendJSON(t, http.MethodGet, r.Origin+"/v1/tenant", key, nil); status != http.StatusOK {
			t.Errorf("a live key answers %d", status)
		}
	}
	w.Installation.Command(t, "", "tenant", "set", tenant, "--pause")
	processtest.KeyEnds(t, replicas, key, 5*time.Second)
}

// jobsRun checks that jobs work, those that recur and those that a change has stored,
// and that a replica knows whether it can be told of them.
func jobsRun(t *testing.T, w *processtest.World, replicas []*processtest.Replica, told bool) {
	t.Helper()
	due := w.Count(t, `WITH due AS (UPDATE river.river_job SET state = 'available', scheduled_at = now()
		WHERE kind = 'name_workspace' AND state = 'scheduled' RETURNING 1) SELECT count(*) FROM due`)
	if due == 0 {
		t.Error("the connections have stored no job")
	}
	processtest.Eventually(t, "jobs run", func() bool {
		return w.Count(t, `SELECT count(*) FROM river.river_job WHERE kind = 'name_workspace' AND state = 'completed'`) == due &&
			w.Count(t, `SELECT count(*) FROM river.river_job WHERE kind = 'sweep_sessions' AND state = 'completed'`) > 0
	})
	if failed := w.Count(t, `SELECT count(*) FROM river.river_job WHERE errors IS NOT NULL`); failed != 0 {
		t.Errorf("%d jobs have failed", failed)
	}
	for _, r := range replicas {
		if polls := strings.Contains(r.Stderr.String(), "jobs poll"); polls == told {
			t.Errorf("a replica says that its jobs poll: %t, want %t", polls, !told)
		}
	}
}

// tenantsApart lets two tenants ask what they have, in turns and at once, over more
// client connections than the pooler has to the server.
func tenantsApart(t *testing.T, w *processtest.World, replicas []*processtest.Replica) {
	t.Helper()
	const askers, times = 16, 125
	other := w.As(w.NewTenant(t, "Other"))
	other.Connected(t, "other", 3)
	owns := map[string]map[string]bool{}
	for _, key := range []string{w.APIKey, other.APIKey} {
		owns[key] = map[string]bool{}
		all, err := theirs(t.Context(), processtest.PlainClient(), w.PublicURL, key)
		if err != nil || len(all) == 0 {
			t.Fatalf("a tenant has %d connections, %v", len(all), err)
		}
		for _, c := range all {
			owns[key][c.ID] = true
		}
	}
	transport := &http.Transport{MaxIdleConnsPerHost: askers}
	t.Cleanup(transport.CloseIdleConnections)
	client := &http.Client{Timeout: processtest.CallLimit, Transport: transport}
	var asked, foreign atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for i := range askers {
		all.Go(func() {
			for j := range times {
				key := []string{w.APIKey, other.APIKey}[(i+j)%2]
				found, err := theirs(t.Context(), client, replicas[i%len(replicas)].Origin, key)
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
func saveWithoutPooler(t *testing.T, w *processtest.World, pooler *pooltest.PgBouncer, r *processtest.Replica) {
	t.Helper()
	c := w.Connected(t, "in-flight", 1)[0]
	w.Advance(t, processtest.PastAccessTokens)
	before := w.Ledger(t)
	w.Control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "2s"}, nil)
	called := make(chan error, 1)
	go func() { called <- processtest.ListProjects(t.Context(), r, w.APIKey, c) }()
	processtest.Eventually(t, "the refresh has reached Prisma", func() bool { return w.Ledger(t).Received() > before.Received() })
	pooler.Stop(t)
	processtest.AwaitRecord(t, r, "ERROR", "can't be stored yet")
	pooler.Start(t)
	processtest.AwaitRecord(t, r, "WARN", "stored at last")
	if err := <-called; err != nil {
		t.Errorf("the call that waited for the pair: %v", err)
	}
	w.Control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "0s"}, nil)
	processtest.CheckStored(t, w.Dev, r.Origin, c, before)
}

// TestMigrateThroughPgBouncer: the lock of a migration needs a session of its own.
func TestMigrateThroughPgBouncer(t *testing.T) {
	t.Parallel()
	in := processtest.NewInstallation(t)
	pooler := pooltest.Start(t, in.DB, 1)
	code, _, stderr := processtest.Run(t, processtest.Launch{Args: []string{"migrate"}, Env: in.With(map[string]string{"MIGRATE_DATABASE_URL": pooler.OwnerURL})})
	processtest.CheckRefusal(t, code, stderr, "MIGRATE_DATABASE_URL", "pooler")
}

// theirs lists the connections that a key sees, over a client that keeps its
// connections.
func theirs(ctx context.Context, client *http.Client, origin, key string) ([]processtest.Connection, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, origin+"/v1/connections", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+key)
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("connections: status %d", response.StatusCode)
	}
	var found struct{ Data []processtest.Connection }
	if err := json.NewDecoder(response.Body).Decode(&found); err != nil {
		return nil, err
	}
	return found.Data, nil
}
