package main_test

import (
	"context"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// pastAccessTokens is longer than an access token of the simulator lives.
const pastAccessTokens = 61 * time.Minute

// TestTwoReplicas runs two serve on one database, beside dev's own, which only
// helps to connect. First many connections have to be refreshed at once by both,
// then each is told to stop in the middle of a refresh: one while its caller waits,
// the other when its caller has gone.
func TestTwoReplicas(t *testing.T) {
	t.Parallel()
	d := startDev(t, devOptions{})
	d.control(t, http.MethodPut, "consent", map[string]string{"mode": "approve"}, nil)
	settings := d.settings(t)
	replicas := []*replica{startServe(t, settings), startServe(t, settings)}
	refreshOnce(t, d, replicas)
	stopDuringExchange(t, d, replicas[0], true)
	stopDuringExchange(t, d, replicas[1], false)
}

// refreshOnce calls through connections whose access tokens have expired, each from
// both replicas at once, twice. A replica gets fewer calls at a time than it has
// connections to its database: shedding load is not what is looked at here.
func refreshOnce(t *testing.T, d *dev, replicas []*replica) {
	t.Helper()
	const count = 40
	connections := make([]connection, count)
	var group errgroup.Group
	group.SetLimit(8)
	for i := range connections {
		group.Go(func() error {
			connections[i] = d.connect(t, fmt.Sprintf("user-%02d", i))
			return nil
		})
	}
	if err := group.Wait(); err != nil || t.Failed() {
		t.Fatalf("not everybody could connect: %v", err)
	}
	before := d.ledger(t)
	if before.Counters.CodeExchanges != count || before.Counters.Refreshes != 0 {
		t.Fatalf("Prisma saw %+v, want %d code exchanges and no refresh yet", before.Counters, count)
	}
	d.advance(t, pastAccessTokens)

	began := time.Now()
	group = errgroup.Group{}
	group.SetLimit(24)
	for _, c := range connections {
		for _, r := range append(replicas, replicas...) {
			group.Go(func() error { return listProjects(t.Context(), r, d.APIKey, c) })
		}
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d connections refreshed in %s", count, time.Since(began).Round(time.Millisecond))

	after := d.ledger(t)
	if saw := after.Counters; saw.Refreshes != count || saw.Replays != 0 || saw.Revocations != 0 {
		t.Errorf("Prisma saw %+v, want %d refreshes, no replay and no revocation", saw, count)
	}
	used := map[string]int{}
	for _, token := range after.RefreshTokens {
		if token.Received > 1 || token.Received != token.Processed {
			t.Errorf("a refresh token was received %d times and processed %d times", token.Received, token.Processed)
		}
		used[token.Grant] += token.Received
	}
	if len(used) != count {
		t.Errorf("%d grants, want %d", len(used), count)
	}
	for grant, times := range used {
		if times != 1 {
			t.Errorf("grant %s was refreshed %d times, want once", grant, times)
		}
	}
}

// listProjects makes a call that needs the connection's access token. A replica that is
// too busy on a small machine says so with a 503, and is asked again, as a partner would.
func listProjects(ctx context.Context, r *replica, key string, c connection) error {
	var status int
	var body []byte
	for range 5 {
		var err error
		status, body, err = exchangeJSON(ctx, http.MethodGet, r.origin+"/v1/connections/"+c.ID+"/projects", key, nil)
		if err != nil {
			return err
		}
		if status != http.StatusServiceUnavailable {
			break
		}
		<-time.After(time.Second)
	}
	if status != http.StatusOK {
		return fmt.Errorf("projects of a connection: status %d: %s", status, body)
	}
	return nil
}

// stopDuringExchange sends SIGTERM to a replica while Prisma's token endpoint is
// making a pair: a caller that stays gets the answer, and the pair is kept in any
// case.
func stopDuringExchange(t *testing.T, d *dev, r *replica, callerStays bool) {
	t.Helper()
	c := d.connect(t, fmt.Sprintf("in-flight-%t", callerStays))
	d.advance(t, pastAccessTokens)
	before := d.ledger(t)
	d.control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "2s"}, nil)

	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	called := make(chan error, 1)
	go func() { called <- listProjects(ctx, r, d.APIKey, c) }()
	eventually(t, "the refresh has reached Prisma", func() bool { return d.ledger(t).received() > before.received() })
	select {
	case err := <-called:
		t.Fatalf("the call was answered before the pair was made: %v", err)
	default:
	}
	if !callerStays {
		leave()
		if err := <-called; err == nil {
			t.Error("the call was answered before its caller left")
		}
	}
	r.stop(t, syscall.SIGTERM)
	if callerStays {
		if err := <-called; err != nil {
			t.Errorf("the call in flight: %v", err)
		}
	}

	d.control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "0s"}, nil)
	var projects []struct{ ID string }
	d.partner().call(t, http.MethodGet, "/v1/connections/"+c.ID+"/projects", nil, &projects)
	var now connection
	d.partner().call(t, http.MethodGet, "/v1/connections/"+c.ID, nil, &now)
	if now.Status != "active" {
		t.Errorf("the connection is %s, want active", now.Status)
	}
	after := d.ledger(t)
	if after.Counters.Refreshes != before.Counters.Refreshes+1 || after.received() != before.received()+1 ||
		after.Counters.Replays != 0 || after.Counters.Revocations != 0 {
		t.Errorf("Prisma saw %+v, before it was %+v; want one refresh more", after.Counters, before.Counters)
	}
}

// received is how often any refresh token was presented.
func (l ledger) received() (n int) {
	for _, token := range l.RefreshTokens {
		n += token.Received
	}
	return n
}
