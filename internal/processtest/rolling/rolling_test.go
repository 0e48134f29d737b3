package rolling_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/processtest"
)

const (
	// While replicas are replaced a request comes every loadEvery, unless atOnce are under
	// way: the load is one that every machine can carry, so whatever fails has no excuse.
	loadEvery = 40 * time.Millisecond
	atOnce    = 6
	// rollingConnections are refreshed during each roll, all of them.
	rollingConnections = 20
	// probeEvery is how often the balancer asks a replica whether it is ready. The
	// replicas' DRAIN_DELAY is several times that.
	probeEvery = 50 * time.Millisecond
)

// TestRolling replaces the replicas of a service one by one while it is used and every
// access token has expired. Nobody may notice.
//
//nolint:paralleltest // two of them at once would measure how busy the machine is
func TestRolling(t *testing.T) { roll(t, "", "", "") }

// TestRollingMixedVersions is TestRolling from the previous version to this one, back to the
// previous one and to this one again, both replicas each time. Building that version takes
// the repository's history: a clone without it fails the test, as nothing else would tell
// that it proves nothing there.
//
//nolint:paralleltest // as TestRolling
func TestRollingMixedVersions(t *testing.T) {
	previous := previousVersion(t)
	roll(t, previous, "", "", previous, previous, "", "")
}

// roll starts two replicas of the previous version, brings the schema to this one, and
// replaces a replica by each of the programs. Without a previous version, "", it begins
// with this one.
func roll(t *testing.T, previous string, programs ...string) {
	t.Helper()
	w := processtest.NewWorld(t, func(in *processtest.Installation) {
		in.Values["DRAIN_DELAY"] = "500ms"
		if previous != "" {
			in.Program, in.DB = previous, pgtest.OpenEmpty(t)
			in.Values["DATABASE_URL"], in.Values["MIGRATE_DATABASE_URL"] = in.DB.AppURL, in.DB.OwnerURL
			in.Command(t, "", "migrate")
		}
	})
	first := processtest.StartVersion(t, previous, w.Installation.With(nil), w.Installation.Public)
	connections := w.Connected(t, "rolling", rollingConnections)
	w.Control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "300ms"}, nil)

	b := newBalancer(t, w.APIKey, connections)
	b.add(first)
	b.add(processtest.StartVersion(t, previous, w.Installation.With(nil), "127.0.0.1:0"))
	finish := b.load(t)
	w.Installation.Program = ""
	if previous != "" {
		w.Installation.Command(t, "", "migrate") // below the replicas of the previous version
		w.Unlimit(t)
	}
	for _, program := range programs {
		b.roll(t, w, program)
	}
	finish()

	t.Logf("%d requests, %d of them asked again for a refused connection, mixed versions: %t", b.sent.Load(), b.again.Load(), previous != "")
	for _, failure := range b.failures {
		t.Error(failure)
	}
	checkRolled(t, w, b, len(programs))
	if previous == "" {
		w.Installation.Command(t, "", "ledger", "verify") // fails with a finding
		return
	}
	// The previous version refreshes and writes no ledger, which has to be noticed. What
	// this version has presented, it has presented once.
	_, stdout, stderr := processtest.Run(t, processtest.Launch{Args: []string{"ledger", "verify"}, Env: w.Installation.With(nil)})
	for line := range strings.Lines(stdout) {
		if strings.HasPrefix(line, "cnx_") && !strings.Contains(line, "the ledger was not told") &&
			!strings.Contains(line, "is stored, and the chain accounts for") {
			t.Errorf("ledger verify finds more than what was not written: %s", line)
		}
	}
	if !strings.Contains(stdout, fmt.Sprintf("%d connections, ", len(connections))) {
		t.Errorf("ledger verify has not seen every connection:\n%s%s", stdout, stderr)
	}
}

// checkRolled checks that no connection was lost and no refresh token used twice.
func checkRolled(t *testing.T, w *processtest.World, b *balancer, rolls int) {
	t.Helper()
	for _, c := range b.connections {
		var now processtest.Connection
		processtest.Partner{Origin: b.pick().Origin, Key: w.APIKey}.Call(t, http.MethodGet, "/v1/connections/"+c.ID, nil, &now)
		if now.Status != "active" {
			t.Errorf("a connection is %s, want active", now.Status)
		}
	}
	saw := w.Ledger(t)
	if c := saw.Counters; c.Replays != 0 || c.Revocations != 0 || c.Refreshes != rolls*len(b.connections) {
		t.Errorf("Prisma saw %+v, want %d refreshes, no replay and no revocation", c, rolls*len(b.connections))
	}
	for _, token := range saw.RefreshTokens {
		if token.Received > 1 || token.Received != token.Processed {
			t.Errorf("a refresh token was received %d times and processed %d times", token.Received, token.Processed)
		}
	}
}

// balancer sends requests to replicas that are ready, in turns, as a proxy before
// them does. It repeats only one that reached nobody: on a busy machine a look at
// readiness may come later than DRAIN_DELAY, and no proxy gives up at a refused
// connection. Every other answer than 2xx is a failure.
type balancer struct {
	key         string
	connections []processtest.Connection
	client      *http.Client
	sent        atomic.Int64
	again       atomic.Int64 // requests repeated, because nobody took the connection
	// gate is held for reading by a request under way, and for writing when there must
	// be none: the clocks do not jump in the middle of an exchange.
	gate sync.RWMutex

	mu       sync.Mutex
	replicas []*processtest.Replica // the oldest first
	ready    map[*processtest.Replica]bool
	turn     int
	failures []string
}

func newBalancer(t *testing.T, key string, connections []processtest.Connection) *balancer {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &balancer{
		key: key, connections: connections, ready: map[*processtest.Replica]bool{},
		client: &http.Client{Timeout: processtest.CallLimit, Transport: transport},
	}
}

func (b *balancer) add(r *processtest.Replica) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.replicas = append(b.replicas, r)
	b.ready[r] = true
}

// pick returns the replica whose turn it is.
func (b *balancer) pick() *processtest.Replica {
	b.mu.Lock()
	defer b.mu.Unlock()
	for range b.replicas {
		b.turn++
		if r := b.replicas[b.turn%len(b.replicas)]; b.ready[r] {
			return r
		}
	}
	return b.replicas[0]
}

// probe asks each replica whether it is ready.
func (b *balancer) probe(ctx context.Context) {
	b.mu.Lock()
	all := slices.Clone(b.replicas)
	b.mu.Unlock()
	for _, r := range all {
		status, err := b.do(ctx, http.MethodGet, r.Origin+"/readyz", "")
		b.mu.Lock()
		b.ready[r] = err == nil && status == http.StatusOK
		b.mu.Unlock()
	}
}

// load sends requests at a steady pace until the returned function is called, which
// waits for the answers.
func (b *balancer) load(t *testing.T) (finish func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	every := func(pace time.Duration, fn func(n int)) {
		running.Go(func() {
			ticker := time.NewTicker(pace)
			defer ticker.Stop()
			for n := 0; ; n++ {
				select {
				case <-ctx.Done():
					return
				case <-ticker.C:
					fn(n)
				}
			}
		})
	}
	every(probeEvery, func(int) { b.probe(t.Context()) })
	due := make(chan int)
	every(loadEvery, func(n int) {
		select {
		case due <- n:
		case <-ctx.Done():
		}
	})
	for range atOnce {
		running.Go(func() {
			for {
				select {
				case n := <-due:
					b.request(context.WithoutCancel(ctx), n)
				case <-ctx.Done():
					return
				}
			}
		})
	}
	return func() {
		stop()
		running.Wait()
	}
}

// request is the n-th of the load: mostly calls that need a connection's access token.
func (b *balancer) request(ctx context.Context, n int) {
	b.gate.RLock()
	defer b.gate.RUnlock()
	c := b.connections[n%len(b.connections)]
	method, path, body := http.MethodGet, "/v1/connections/"+c.ID+"/projects", ""
	switch n / len(b.connections) % 4 {
	case 1:
		path = "/v1/connections/" + c.ID
	case 3:
		method, path, body = http.MethodPost, "/v1/connect-sessions", `{"userId": "passer-by", "returnUrl": "`+processtest.Acme+`/callback"}`
	}
	status, err := b.do(ctx, method, b.pick().Origin+path, body)
	for range 5 {
		refused, ok := errors.AsType[*net.OpError](err)
		if !ok || refused.Op != "dial" {
			break
		}
		b.again.Add(1)
		status, err = b.do(ctx, method, b.pick().Origin+path, body)
	}
	b.sent.Add(1)
	if err == nil && status/100 == 2 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures = append(b.failures, fmt.Sprintf("%s %s: status %d, %v", method, path, status, err))
}

func (b *balancer) do(ctx context.Context, method, target, body string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader([]byte(body)))
	if err != nil {
		return 0, err
	}
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set("Authorization", "Bearer "+b.key)
	response, err := b.client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// roll lets every access token expire and, as soon as Prisma has been asked for the
// first new ones, replaces the oldest replica. It returns when that has ended and all
// tokens are renewed.
func (b *balancer) roll(t *testing.T, w *processtest.World, program string) {
	t.Helper()
	b.gate.Lock()
	before := w.Ledger(t)
	w.Advance(t, processtest.PastAccessTokens)
	b.gate.Unlock()
	processtest.Eventually(t, "a refresh is under way", func() bool { return w.Ledger(t).Received() > before.Received() })

	old := b.replicas[0] // only this goroutine changes the list
	old.Signal(t, syscall.SIGTERM)
	b.add(processtest.StartVersion(t, program, w.Installation.With(nil), "127.0.0.1:0"))
	if code := old.Wait(t); code != 0 {
		t.Errorf("a replica ended with the exit status %d\n%s", code, old.Stderr.Tail())
	}
	b.mu.Lock()
	b.replicas = b.replicas[1:]
	b.mu.Unlock()
	want := before.Counters.Refreshes + len(b.connections)
	processtest.Eventually(t, "every connection is refreshed", func() bool { return w.Ledger(t).Counters.Refreshes >= want })
}
