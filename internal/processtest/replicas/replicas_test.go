package replicas_test

import (
	"context"
	"fmt"
	"net/http"
	"syscall"
	"testing"

	"github.com/connect-prisma/server/internal/processtest"
)

// TestTwoReplicas runs two serve on one database, beside dev's own, which only
// helps to connect. First many connections have to be refreshed at once by both,
// then each is told to stop in the middle of a refresh: one while its caller waits,
// the other when its caller has gone.
func TestTwoReplicas(t *testing.T) {
	t.Parallel()
	d := processtest.StartDev(t, processtest.DevOptions{})
	d.Control(t, http.MethodPut, "consent", map[string]string{"mode": "approve"}, nil)
	settings := d.Settings(t)
	replicas := []*processtest.Replica{processtest.StartServe(t, settings), processtest.StartServe(t, settings)}
	processtest.RefreshOnce(t, d, replicas)
	stopDuringExchange(t, d, replicas[0], true)
	stopDuringExchange(t, d, replicas[1], false)
}

// stopDuringExchange sends SIGTERM to a replica while Prisma's token endpoint is
// making a pair: a caller that stays gets the answer, and the pair is kept in any
// case.
func stopDuringExchange(t *testing.T, d *processtest.Dev, r *processtest.Replica, callerStays bool) {
	t.Helper()
	c := d.Connect(t, fmt.Sprintf("in-flight-%t", callerStays))
	d.Advance(t, processtest.PastAccessTokens)
	before := d.Ledger(t)
	d.Control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "2s"}, nil)

	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	called := make(chan error, 1)
	go func() { called <- processtest.ListProjects(ctx, r, d.APIKey, c) }()
	processtest.Eventually(t, "the refresh has reached Prisma", func() bool { return d.Ledger(t).Received() > before.Received() })
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
	r.Stop(t, syscall.SIGTERM)
	if callerStays {
		if err := <-called; err != nil {
			t.Errorf("the call in flight: %v", err)
		}
	}

	d.Control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "0s"}, nil)
	var projects []struct{ ID string }
	d.Partner().Call(t, http.MethodGet, "/v1/connections/"+c.ID+"/projects", nil, &projects)
	var now processtest.Connection
	d.Partner().Call(t, http.MethodGet, "/v1/connections/"+c.ID, nil, &now)
	if now.Status != "active" {
		t.Errorf("the connection is %s, want active", now.Status)
	}
	after := d.Ledger(t)
	if after.Counters.Refreshes != before.Counters.Refreshes+1 || after.Received() != before.Received()+1 ||
		after.Counters.Replays != 0 || after.Counters.Revocations != 0 {
		t.Errorf("Prisma saw %+v, before it was %+v; want one refresh more", after.Counters, before.Counters)
	}
}
