package replicas_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/processtest"
)

// asked is what a caller's requests came to.
type asked struct{ served, refused atomic.Int64 }

// ask sends a request and counts it; a 429 must say when to come back.
func (a *asked) ask(ctx context.Context, tb testing.TB, client *http.Client, origin, key string) {
	tb.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, origin+"/v1/tenant", http.NoBody)
	if err != nil {
		tb.Error(err)
		return
	}
	r.Header.Set("Authorization", "Bearer "+key)
	answer, err := client.Do(r)
	if err != nil {
		tb.Error(err)
		return
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	switch answer.StatusCode {
	case http.StatusOK:
		a.served.Add(1)
	case http.StatusTooManyRequests:
		a.refused.Add(1)
		if n, err := strconv.Atoi(answer.Header.Get("Retry-After")); err != nil || n < 1 {
			tb.Errorf("Retry-After is %q", answer.Header.Get("Retry-After"))
		}
	default:
		tb.Errorf("status %d", answer.StatusCode)
	}
	if !strings.HasPrefix(answer.Header.Get("RateLimit"), `"requests";r=`) {
		tb.Errorf("RateLimit is %q", answer.Header.Get("RateLimit"))
	}
}

// TestLimitsHoldOverReplicas: two servers asked for 20 times a tenant's rate serve the
// rate together, within a tenth, and another tenant notices nothing of it.
func TestLimitsHoldOverReplicas(t *testing.T) {
	t.Parallel()
	const rate, burst, last = 10, 20, 5 * time.Second
	w := processtest.NewWorld(t, func(*processtest.Installation) {})
	env := w.Installation.With(nil)
	replicas := []*processtest.Replica{processtest.StartServeAt(t, env, w.Installation.Public), processtest.StartServe(t, env)}
	noisy := w.Installation.Command(t, "secret\n", "tenant", "create", "--name", "Noisy", "--client-id", "noisy", "--client-secret-stdin",
		"--requests-per-second", strconv.Itoa(rate))
	noisyKey, quietKey := w.Installation.Command(t, "", "key", "create", noisy), w.NewTenant(t, "Quiet")
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 32}}
	t.Cleanup(client.CloseIdleConnections)

	var loud, calm asked
	var all sync.WaitGroup
	began := time.Now()
	for i := range 2 * len(replicas) {
		ticks := time.NewTicker(20 * time.Millisecond) // 200 a second together
		all.Go(func() {
			defer ticks.Stop()
			for n := 0; time.Since(began) < last; n++ {
				<-ticks.C
				loud.ask(t.Context(), t, client, replicas[i%len(replicas)].Origin, noisyKey)
				if n%20 == 0 {
					calm.ask(t.Context(), t, client, replicas[i%len(replicas)].Origin, quietKey)
				}
			}
		})
	}
	all.Wait()
	took := time.Since(began)
	allowed := burst + rate*took.Seconds()
	t.Logf("%d served of %.0f allowed in %s, %d refused; the other tenant: %d served, %d refused",
		loud.served.Load(), allowed, took.Round(time.Millisecond), loud.refused.Load(), calm.served.Load(), calm.refused.Load())
	if got := float64(loud.served.Load()); got > allowed+1 || got < 0.9*allowed-1 {
		t.Errorf("%.0f calls were served, want %.0f within a tenth", got, allowed)
	}
	if calm.refused.Load() != 0 || calm.served.Load() == 0 {
		t.Errorf("of the other tenant's calls %d were refused, %d served", calm.refused.Load(), calm.served.Load())
	}
	// What lets calls in has connections of its own, that slow queries don't take.
	db, err := pgx.Connect(t.Context(), w.Installation.DB.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	var entries int
	if err := db.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
		AND application_name = 'connect-prisma entry' AND query LIKE '%rate_budgets%'`).Scan(&entries); err != nil {
		t.Fatal(err)
	}
	if entries == 0 || entries > 2*len(replicas) {
		t.Errorf("%d connections borrowed budgets, want 1 or 2 of each replica", entries)
	}
}

// TestRevokedKeysEndOnEveryReplica: each replica remembers for seconds whose key it is, and
// still a rotation and a revocation, which is made by another process, hold on all of them.
func TestRevokedKeysEndOnEveryReplica(t *testing.T) {
	t.Parallel()
	w := processtest.NewWorld(t, func(*processtest.Installation) {})
	env := w.Installation.With(nil)
	replicas := []*processtest.Replica{processtest.StartServeAt(t, env, w.Installation.Public), processtest.StartServe(t, env)}
	tenant := w.Installation.Command(t, "secret\n", "tenant", "create", "--name", "Bolt", "--client-id", "bolt", "--client-secret-stdin")
	letIn := func(key string) {
		t.Helper()
		for _, r := range replicas {
			if status, _ := processtest.SendJSON(t, http.MethodGet, r.Origin+"/v1/tenant", key, nil); status != http.StatusOK {
				t.Errorf("a live key answers %d", status)
			}
		}
	}
	first := w.Installation.Command(t, "", "key", "create", tenant, "--name", "first")
	letIn(first)
	code, body := processtest.SendJSON(t, http.MethodPost, replicas[0].Origin+"/v1/keys/rotate", first, map[string]int{"expiresInSeconds": 0})
	var rotated struct{ Data struct{ ID, Key string } }
	if err := json.Unmarshal(body, &rotated); err != nil || code != http.StatusCreated {
		t.Fatalf("rotate answered %d, %v", code, err)
	}
	processtest.KeyEnds(t, replicas[:1], first, 0) // made the rotation
	processtest.KeyEnds(t, replicas, first, promised)
	letIn(rotated.Data.Key)
	w.Installation.Command(t, "", "key", "revoke", tenant, rotated.Data.ID)
	processtest.KeyEnds(t, replicas, rotated.Data.Key, promised)
}

// promised is within what time a revocation holds everywhere.
const promised = 5 * time.Second
