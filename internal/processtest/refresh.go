package processtest

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// PastAccessTokens is longer than an access token of the simulator lives.
const PastAccessTokens = 61 * time.Minute

// RefreshOnce calls through connections whose access tokens have expired, each from
// both replicas at once, twice. A replica gets far fewer calls at a time than it has
// connections to its database: shedding load is not what is looked at here.
func RefreshOnce(t *testing.T, d *Dev, replicas []*Replica) {
	t.Helper()
	const count = 40
	connections := make([]Connection, count)
	var group errgroup.Group
	group.SetLimit(8)
	for i := range connections {
		group.Go(func() error {
			connections[i] = d.Connect(t, fmt.Sprintf("user-%02d", i))
			return nil
		})
	}
	if err := group.Wait(); err != nil || t.Failed() {
		t.Fatalf("not everybody could connect: %v", err)
	}
	before := d.Ledger(t)
	if before.Counters.CodeExchanges != count || before.Counters.Refreshes != 0 {
		t.Fatalf("Prisma saw %+v, want %d code exchanges and no refresh yet", before.Counters, count)
	}
	d.Advance(t, PastAccessTokens)

	began := time.Now()
	group = errgroup.Group{}
	group.SetLimit(12)
	for _, c := range connections {
		for _, r := range append(replicas, replicas...) {
			group.Go(func() error { return ListProjects(t.Context(), r, d.APIKey, c) })
		}
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	t.Logf("%d connections refreshed in %s", count, time.Since(began).Round(time.Millisecond))

	after := d.Ledger(t)
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

// ListProjects makes a call that needs the connection's access token.
func ListProjects(ctx context.Context, r *Replica, key string, c Connection) error {
	status, body, err := ExchangeJSON(ctx, http.MethodGet, r.Origin+"/v1/connections/"+c.ID+"/projects", key, nil)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("projects of a connection: status %d: %s", status, body)
	}
	return nil
}

// CheckStored checks that the connection lives with the pair of the one exchange.
func CheckStored(t *testing.T, d *Dev, origin string, c Connection, before Ledger) {
	t.Helper()
	p := Partner{Origin: origin, Key: d.APIKey}
	var projects []struct{ ID string }
	p.Call(t, http.MethodGet, "/v1/connections/"+c.ID+"/projects", nil, &projects)
	var now Connection
	p.Call(t, http.MethodGet, "/v1/connections/"+c.ID, nil, &now)
	if now.Status != "active" {
		t.Errorf("the connection is %s, want active", now.Status)
	}
	after := d.Ledger(t)
	if after.Counters.Refreshes != before.Counters.Refreshes+1 || after.Received() != before.Received()+1 ||
		after.Counters.Replays != 0 || after.Counters.Revocations != 0 {
		t.Errorf("Prisma saw %+v, before it was %+v; want one refresh more", after.Counters, before.Counters)
	}
}
