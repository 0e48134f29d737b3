package httpapi_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/prisma"
)

// outage is one way in which the token endpoint may be of no use.
type outage struct {
	begin func(t *testing.T, w *apitest.World) (end func())
	lasts time.Duration // of an access token's life
	says  string        // a diagnosis that some connection has meanwhile
}

func outages() map[string]outage {
	return map[string]outage{
		"it can't be reached": {func(t *testing.T, w *apitest.World) func() {
			t.Helper()
			w.TokensAway(true)
			return func() { w.TokensAway(false) }
		}, 2 * time.Hour, "renewal-failing"},
		"it hangs": {func(t *testing.T, w *apitest.World) func() {
			t.Helper()
			return w.HangTokens()
		}, 2 * time.Hour, "renewal-unconfirmed"},
		// What it answered 503 may have been processed. It is sent once more when the
		// access token is about to end, so until then the outage should be over.
		"it answers 503": {func(t *testing.T, w *apitest.World) func() {
			t.Helper()
			w.Faults(t, map[string]any{"tokenFailBefore": 1})
			return func() { w.Faults(t, map[string]any{"tokenFailBefore": 0}) }
		}, 58 * time.Minute, "renewal-unconfirmed"},
	}
}

// While the token endpoint is away, hangs, fails, or is left alone for that, every
// access token serves to its last safe second, every connection says how long, nobody
// is told to reconnect, and afterwards all of them are whole.
func TestAnOutageOfTheTokenEndpoint(t *testing.T) {
	t.Parallel()
	for name, o := range outages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := apitest.New(t, apitest.WithRefresh(prisma.RefreshSettings{
				CallerWait: 300 * time.Millisecond, BreakerSlow: 100 * time.Millisecond,
			}))
			w.Expect(http.StatusServiceUnavailable)
			const users = 6
			ids := make([]string, users)
			for i := range ids {
				ids[i] = w.Connect(t, w.Tenant, fmt.Sprint("user", i), workspaceA).ID
			}
			end := o.begin(t, w)
			defer end()
			codes := serveThrough(t, w, ids, o.lasts, end)
			if codes[o.says] == 0 || codes["healthy"] == 0 {
				t.Errorf("the connections said %v, none %s", codes, o.says)
			}
			if o.lasts > time.Hour {
				wantAway(t, w, ids)
				end()
			}
			heal(t, w, ids)
			ledger := w.Sim.Ledger(t).Counters
			t.Logf("diagnoses while it lasted: %v; %d refreshes of %d connections", codes, ledger.Refreshes, users)
			if ledger.Replays != 0 || ledger.Refreshes < users {
				t.Errorf("%d refreshes, %d replays", ledger.Refreshes, ledger.Replays)
			}
			for _, event := range w.Events(t, w.Tenant) {
				if event != "connection.connected" {
					t.Errorf("the partner was told %s", event)
				}
			}
		})
	}
}

// serveThrough calls every connection at moments of its access token's whole life, and
// counts the diagnoses while the outage lasts. Afterwards the tokens have ended.
func serveThrough(t *testing.T, w *apitest.World, ids []string, lasts time.Duration, end func()) map[string]int {
	t.Helper()
	codes := map[string]int{}
	at := time.Duration(0)
	left := false // whether the endpoint was left alone
	for _, next := range []time.Duration{
		20 * time.Minute, 46 * time.Minute, 49 * time.Minute, 52 * time.Minute, 55 * time.Minute, 58 * time.Minute,
		59*time.Minute + 10*time.Second, 59*time.Minute + 40*time.Second,
	} {
		w.Advance(t, next-at)
		at = next
		if next >= lasts {
			end()
		}
		for _, id := range ids {
			if answer := call(t, w, id); answer.Status != http.StatusOK {
				t.Errorf("at %s: %d", next, answer.Status)
			}
			got := w.GetConnection(t, w.Tenant, id)
			if got.Status == "needs_reconnect" || !got.AccessUntil.After(w.Now()) {
				t.Errorf("at %s the connection is %s, access until %s", next, got.Status, got.AccessUntil)
			}
			if next < lasts {
				codes[got.Diagnosis.Code]++
				left = left || w.Refresher.State().Breaker != prisma.BreakerClosed
			}
		}
	}
	if !left {
		t.Error("the endpoint was never left alone")
	}
	w.Advance(t, 2*time.Minute)
	return codes
}

// wantAway looks at connections whose access has ended while the endpoint is away.
func wantAway(t *testing.T, w *apitest.World, ids []string) {
	t.Helper()
	for _, id := range ids {
		answer := call(t, w, id)
		if answer.Status != http.StatusServiceUnavailable || answer.Header.Get("Retry-After") == "" {
			t.Errorf("after the access token's end: %d", answer.Status)
		}
		got := w.GetConnection(t, w.Tenant, id)
		if got.AccessUntil.After(w.Now()) || got.Diagnosis.Action != "wait" {
			t.Errorf("after the access token's end: access until %s, %+v", got.AccessUntil, got.Diagnosis)
		}
	}
}

// heal lets time pass and calls until every connection works again.
func heal(t *testing.T, w *apitest.World, ids []string) {
	t.Helper()
	for range 20 {
		w.Advance(t, time.Minute)
		broken := 0
		for _, id := range ids {
			if call(t, w, id).Status != http.StatusOK {
				broken++
			}
		}
		if broken == 0 {
			break
		}
	}
	for _, id := range ids {
		wantDiagnosis(t, "after the outage", w.Check(t, w.Tenant, id), "healthy", "none")
	}
}
