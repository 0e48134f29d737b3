package crash_test

import (
	"context"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/processtest"
)

// pastLeases is longer than a lease of these tests lasts.
const pastLeases = 10 * time.Minute

// killing is a world with a connection whose access token has ended, and what Prisma saw
// before anybody asked for the next one.
type killing struct {
	*processtest.World

	c      processtest.Connection
	before processtest.Ledger
}

func newKilling(t *testing.T, behind *gate) (k *killing, victim *processtest.Replica) {
	t.Helper()
	origin := ""
	if behind != nil {
		origin = behind.url
	}
	k = &killing{World: processtest.NewWorldBehind(t, origin, func(in *processtest.Installation) {
		in.Values["REFRESH_HOLD"], in.Values["REFRESH_DIAL"], in.Values["REFRESH_LEASE"] = "100ms", "60s", "300s"
	})}
	if behind != nil {
		behind.open(t, k.SimulatorURL)
	}
	victim = processtest.StartServeAt(t, k.Installation.With(nil), k.Installation.Public)
	k.c = k.Connect(t, "ada")
	k.Advance(t, processtest.PastAccessTokens)
	k.before = k.Ledger(t)
	return k, victim
}

// call makes a call that needs a new access token, of which nobody hears the end.
func (k *killing) call(t *testing.T, r *processtest.Replica) (ended <-chan error) {
	t.Helper()
	called := make(chan error, 1)
	go func() { called <- processtest.ListProjects(t.Context(), r, k.APIKey, k.c) }()
	return called
}

// unanswered waits for the call, whose replica is dead.
func unanswered(t *testing.T, ended <-chan error) {
	t.Helper()
	if err := <-ended; err == nil {
		t.Error("the call was answered")
	}
}

func kill(t *testing.T, r *processtest.Replica) {
	t.Helper()
	r.Signal(t, syscall.SIGKILL)
	r.Wait(t)
}

// status is the connection's, as a replica tells it.
func (k *killing) status(t *testing.T, r *processtest.Replica) string {
	t.Helper()
	var now processtest.Connection
	processtest.Partner{Origin: r.Origin, Key: k.APIKey}.Call(t, http.MethodGet, "/v1/connections/"+k.c.ID, nil, &now)
	return now.Status
}

// lockRow holds the connection's row until the returned function is called.
func (k *killing) lockRow(t *testing.T) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), k.Installation.DB.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	if _, err := conn.Exec(t.Context(), `BEGIN; SELECT FROM connections FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if _, err := conn.Exec(t.Context(), `COMMIT`); err != nil {
			t.Error(err)
		}
	}
}

const (
	openIntents = `SELECT count(*) FROM connections WHERE intent_generation IS NOT NULL`
	lockWaits   = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
)

// TestKilledBeforeTheClaim: nothing was begun, so the next replica begins at once.
func TestKilledBeforeTheClaim(t *testing.T) {
	t.Parallel()
	k, victim := newKilling(t, nil)
	release := k.lockRow(t)
	called := k.call(t, victim)
	processtest.Eventually(t, "the claim waits for the row", func() bool { return k.Count(t, lockWaits) > 0 })
	kill(t, victim)
	release()
	unanswered(t, called)
	if n := k.Count(t, openIntents); n != 0 {
		t.Fatalf("%d intents are open", n)
	}
	successor := processtest.StartServe(t, k.Installation.With(nil))
	processtest.CheckStored(t, k.Dev, successor.Origin, k.c, k.before)
	k.Installation.Command(t, "", "ledger", "verify") // fails with a finding
}

// TestKilledBeforeTheRequest: the claim is in the database, and the token never left. The
// next replica can't know that, waits for the lease to end, and loses nothing.
func TestKilledBeforeTheRequest(t *testing.T) {
	t.Parallel()
	gate := newGate(t)
	k, victim := newKilling(t, gate)
	gate.close(t)
	called := k.call(t, victim)
	processtest.Eventually(t, "the claim is in the database", func() bool { return k.Count(t, openIntents) == 1 })
	kill(t, victim)
	unanswered(t, called)
	gate.open(t, k.SimulatorURL)
	if saw := k.Ledger(t); saw.Received() != k.before.Received() {
		t.Fatal("the token reached Prisma: the test shows nothing")
	}
	successor := processtest.StartServe(t, k.Installation.With(nil))
	k.Advance(t, pastLeases)
	processtest.Eventually(t, "the connection is renewed", func() bool {
		return processtest.ListProjects(t.Context(), successor, k.APIKey, k.c) == nil
	})
	processtest.CheckStored(t, k.Dev, successor.Origin, k.c, k.before)
	k.Installation.Command(t, "", "ledger", "verify")
}

// TestKilledBeforeTheSave: the answer is there, the database too, and the process dies
// before the pair is stored. That is lost, as an answer on its way is: it is said once, as
// what it is, and the user comes back under the same id.
func TestKilledBeforeTheSave(t *testing.T) {
	t.Parallel()
	k, victim := newKilling(t, nil)
	k.Control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "3s"}, nil)
	called := k.call(t, victim)
	processtest.Eventually(t, "the refresh has reached Prisma", func() bool { return k.Ledger(t).Received() > k.before.Received() })
	release := k.lockRow(t)
	processtest.Eventually(t, "the save waits for the row", func() bool { return k.Count(t, lockWaits) > 0 })
	kill(t, victim)
	release()
	unanswered(t, called)
	k.Control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": "0s"}, nil)

	successor := processtest.StartServe(t, k.Installation.With(nil))
	k.Advance(t, pastLeases)
	var codes []int
	processtest.Eventually(t, "the loss is said", func() bool {
		status, _ := processtest.SendJSON(t, http.MethodGet, successor.Origin+"/v1/connections/"+k.c.ID+"/projects", k.APIKey, nil)
		codes = append(codes, status)
		return status == http.StatusConflict
	})
	for _, code := range codes {
		if code == http.StatusInternalServerError {
			t.Errorf("calls were answered %v", codes)
		}
	}
	if got := k.status(t, successor); got != "needs_reconnect" {
		t.Errorf("the connection is %s, want needs_reconnect", got)
	}
	for what, sql := range map[string]string{
		"events":     `SELECT count(*) FROM events WHERE type = 'connection.needs_reconnect'`,
		"audit rows": `SELECT count(*) FROM audit_log WHERE action = 'connection.needs_reconnect'`,
	} {
		if n := k.Count(t, sql); n != 1 {
			t.Errorf("%d %s, want 1", n, what)
		}
	}
	if saw := k.Ledger(t); saw.Received() != k.before.Received()+2 {
		t.Errorf("the token was presented %d times, want twice: once more, late", saw.Received()-k.before.Received())
	}
	k.Installation.Command(t, "", "ledger", "verify")
}
