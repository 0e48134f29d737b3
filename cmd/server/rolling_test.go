package main_test

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
)

const (
	// rolls is how often a replica is replaced, loadEvery the pace of requests
	// meanwhile.
	rolls     = 4
	loadEvery = 40 * time.Millisecond
	// rollingConnections are refreshed during each roll, all of them.
	rollingConnections = 20
	// probeEvery is how often the balancer asks a replica whether it is ready. The
	// replicas' DRAIN_DELAY is several times that.
	probeEvery = 50 * time.Millisecond
)

// TestRolling replaces the replicas of a service one by one while it is used and every
// access token has expired. Nobody may notice. That the previous version and this one
// get on is only looked at where there is a history to build the previous one from.
func TestRolling(t *testing.T) {
	t.Parallel()
	// One after the other: two of them at once would measure how busy the machine is.
	roll(t, "")
	if previous := previousVersion(t); previous != "" {
		roll(t, previous)
	}
}

// roll goes from the previous version to this one, the schema first, and once back and
// forth again. Without a previous version it stays with this one.
func roll(t *testing.T, previous string) {
	t.Helper()
	w := newWorld(t, func(in *installation) {
		in.values["DRAIN_DELAY"] = "500ms"
		if previous != "" {
			in.program, in.db = previous, pgtest.OpenEmpty(t)
			in.values["DATABASE_URL"], in.values["MIGRATE_DATABASE_URL"] = in.db.AppURL, in.db.OwnerURL
			in.command(t, "", "migrate")
		}
	})
	first := startVersion(t, previous, w.in.with(nil), w.in.public)
	connections := w.connected(t, "rolling", rollingConnections)
	w.control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "300ms"}, nil)

	b := newBalancer(t, w.APIKey, connections)
	b.add(first)
	b.add(startVersion(t, previous, w.in.with(nil), "127.0.0.1:0"))
	finish := b.load(t)
	w.in.program = ""
	if previous != "" {
		w.in.command(t, "", "migrate") // below the replicas of the previous version
	}
	for _, program := range [rolls]string{"", "", previous, ""} {
		b.roll(t, w, program)
	}
	finish()

	t.Logf("%d requests, %d of them asked again for a 503, mixed versions: %t", b.sent.Load(), b.busy.Load(), previous != "")
	for _, failure := range b.failures {
		t.Error(failure)
	}
	checkRolled(t, w, b, connections)
	if previous == "" {
		w.in.command(t, "", "ledger", "verify") // fails with a finding
		return
	}
	// The previous version refreshes and writes no ledger, which has to be noticed. What
	// this version has presented, it has presented once.
	_, stdout, stderr := run(t, launch{args: []string{"ledger", "verify"}, env: w.in.with(nil)})
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
func checkRolled(t *testing.T, w *world, b *balancer, connections []connection) {
	t.Helper()
	for _, c := range connections {
		var now connection
		partner{origin: b.pick().origin, key: w.APIKey}.call(t, http.MethodGet, "/v1/connections/"+c.ID, nil, &now)
		if now.Status != "active" {
			t.Errorf("a connection is %s, want active", now.Status)
		}
	}
	saw := w.ledger(t)
	if c := saw.Counters; c.Replays != 0 || c.Revocations != 0 || c.Refreshes != rolls*len(connections) {
		t.Errorf("Prisma saw %+v, want %d refreshes, no replay and no revocation", c, rolls*len(connections))
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
// connection. A 503 is asked again too, as partners are told to: two cores that run the
// whole suite are at times too busy to give a request a database connection in 2 s.
type balancer struct {
	key         string
	connections []connection
	client      *http.Client
	sent        atomic.Int64
	busy        atomic.Int64 // answers 503, asked again
	// gate is held for reading by a request under way, and for writing when there must
	// be none: the clocks do not jump in the middle of an exchange.
	gate sync.RWMutex

	mu       sync.Mutex
	replicas []*replica // the oldest first
	ready    map[*replica]bool
	turn     int
	failures []string
}

func newBalancer(t *testing.T, key string, connections []connection) *balancer {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &balancer{
		key: key, connections: connections, ready: map[*replica]bool{},
		client: &http.Client{Timeout: callLimit, Transport: transport},
	}
}

func (b *balancer) add(r *replica) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.replicas = append(b.replicas, r)
	b.ready[r] = true
}

// pick returns the replica whose turn it is.
func (b *balancer) pick() *replica {
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
		status, err := b.do(ctx, http.MethodGet, r.origin+"/readyz", "")
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
	every(loadEvery, func(n int) { running.Go(func() { b.request(t.Context(), n) }) })
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
		method, path, body = http.MethodPost, "/v1/connect-sessions", `{"userId": "passer-by", "returnUrl": "`+acme+`/callback"}`
	}
	status, err := b.do(ctx, method, b.pick().origin+path, body)
	for range 5 {
		refused, ok := errors.AsType[*net.OpError](err)
		switch {
		case ok && refused.Op == "dial":
		case err == nil && status == http.StatusServiceUnavailable:
			b.busy.Add(1)
			<-time.After(time.Second)
		default:
			ok = false
		}
		if !ok && status != http.StatusServiceUnavailable {
			break
		}
		status, err = b.do(ctx, method, b.pick().origin+path, body)
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
func (b *balancer) roll(t *testing.T, w *world, program string) {
	t.Helper()
	b.gate.Lock()
	before := w.ledger(t)
	w.advance(t, pastAccessTokens)
	b.gate.Unlock()
	eventually(t, "a refresh is under way", func() bool { return w.ledger(t).received() > before.received() })

	old := b.replicas[0] // only this goroutine changes the list
	old.signal(t, syscall.SIGTERM)
	b.add(startVersion(t, program, w.in.with(nil), "127.0.0.1:0"))
	if code := old.wait(t); code != 0 {
		t.Errorf("a replica ended with the exit status %d\n%s", code, old.stderr.tail())
	}
	b.mu.Lock()
	b.replicas = b.replicas[1:]
	b.mu.Unlock()
	want := before.Counters.Refreshes + len(b.connections)
	eventually(t, "every connection is refreshed", func() bool { return w.ledger(t).Counters.Refreshes >= want })
}
