package httpapi_test

import (
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// wantDiagnosis fails the test unless the connection says that of itself.
func wantDiagnosis(t *testing.T, what string, c apitest.Connection, code, action string) {
	t.Helper()
	if d := c.Diagnosis; d.Code != code || d.Action != action || d.Message == "" || d.Since.IsZero() {
		t.Errorf("%s: the diagnosis is %+v, want %s, %s", what, d, code, action)
	}
}

func apiRequests(t *testing.T, w *apitest.World) int {
	t.Helper()
	return w.Sim.Ledger(t).Counters.APIRequests
}

func TestACheckAsksPrismaOnce(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	path := "/v1/connections/" + connection.ID + "/check"
	apitest.WantProblem(t, w.Call(t, w.Tenant.Key, http.MethodPost, path, "{}"), http.StatusBadRequest, "invalid-request")
	apitest.WantProblem(t, w.Call(t, w.Tenant.Key, http.MethodPost, path+"?force=true", nil), http.StatusBadRequest, "invalid-request")

	audit := func() int { return apitest.Query[int](t, w, `SELECT count(*)::int FROM audit_log`) }
	rows, requests := audit(), apiRequests(t, w)
	const many = 20
	began := w.Now()
	var healthy atomic.Int32
	apitest.AtOnce(many, func(int) {
		if got := w.Check(t, w.Tenant, connection.ID); got.Diagnosis.Code == "healthy" && got.Status == "active" {
			healthy.Add(1)
		}
	})
	slow := w.Now().Sub(began) >= tenants.CheckEvery // then some came late enough for another
	if n := apiRequests(t, w) - requests; n != 1 && !slow || healthy.Load() != many {
		t.Errorf("%d checks at once: %d requests to Prisma, %d healthy; want 1 and all", many, n, healthy.Load())
	}
	// The time of the test passes as well: whether it was too much of it is asked afterwards.
	checked := apitest.Query[time.Time](t, w, `SELECT checked_at FROM connections`)
	made := apiRequests(t, w) - requests
	w.Advance(t, tenants.CheckEvery-3*time.Second)
	w.Check(t, w.Tenant, connection.ID)
	done := apiRequests(t, w) - requests
	within := apitest.Query[bool](t, w, `SELECT app.now() < $1::timestamptz + $2::interval`, checked, tenants.CheckEvery)
	if within && done != made {
		t.Errorf("%d requests within 10 s", done-made)
	}
	before := apiRequests(t, w)
	w.Advance(t, tenants.CheckEvery+time.Second)
	w.Check(t, w.Tenant, connection.ID)
	if n := apiRequests(t, w) - before; n != 1 {
		t.Errorf("%d requests after 10 s, want another", n)
	}
	if n := audit() - rows; n != 0 {
		t.Errorf("checks that changed nothing wrote %d audit rows", n)
	}

	// Past its end the access token is renewed, as for any call.
	w.Advance(t, 2*time.Hour)
	got := w.Check(t, w.Tenant, connection.ID)
	wantDiagnosis(t, "after two hours", got, "healthy", "none")
	if n := w.Sim.Ledger(t).Counters.Refreshes; n != 1 || !got.AccessUntil.After(w.Now()) {
		t.Errorf("%d refreshes, access until %s", n, got.AccessUntil)
	}
	w.Call(t, w.Tenant.Key, http.MethodDelete, "/v1/connections/"+connection.ID, nil)
	apitest.WantProblem(t, w.Call(t, w.Tenant.Key, http.MethodPost, path, nil), http.StatusNotFound, "not-found")
}

func TestACheckSaysWhatIsWrongAtPrisma(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	for _, fault := range []string{"apiFailBefore", "api429"} {
		w.Faults(t, map[string]any{fault: 1})
		got := w.Check(t, w.Tenant, connection.ID)
		wantDiagnosis(t, fault, got, "prisma-unreachable", "wait")
		w.Faults(t, map[string]any{fault: 0})
		wantDiagnosis(t, fault+", read", w.GetConnection(t, w.Tenant, connection.ID), "prisma-unreachable", "wait")
		wantDiagnosis(t, fault+", checked again at once", w.Check(t, w.Tenant, connection.ID), "prisma-unreachable", "wait")
		w.Advance(t, tenants.CheckEvery+time.Second)
		wantDiagnosis(t, fault+" is over", w.Check(t, w.Tenant, connection.ID), "healthy", "none")
		w.Advance(t, tenants.CheckEvery+time.Second)
	}
	w.Faults(t, map[string]any{"apiFailBefore": 1})
	w.Check(t, w.Tenant, connection.ID)
	w.Advance(t, 5*time.Minute)
	wantDiagnosis(t, "five minutes later", w.GetConnection(t, w.Tenant, connection.ID), "healthy", "none")
	w.Faults(t, map[string]any{"apiFailBefore": 0})

	// The grant is revoked. A young token may not be refreshed; an old one is, once.
	again := w.ConnectWith(t, w.Tenant, "ada", workspaceA, map[string]any{"connectionId": connection.ID})
	revokeGrants(t, w)
	wantDiagnosis(t, "a young token is refused", w.Check(t, w.Tenant, again.ID), "access-refused", "wait")
	w.Advance(t, 61*time.Second)
	got := w.Check(t, w.Tenant, again.ID)
	wantDiagnosis(t, "an old one", got, "refresh-token-refused", "reconnect")
	if got.Status != "needs_reconnect" || got.AccessUntil.After(w.Now()) {
		t.Errorf("the connection is %s, access until %s", got.Status, got.AccessUntil)
	}
	requests := apiRequests(t, w)
	w.Advance(t, time.Minute)
	wantDiagnosis(t, "once more", w.Check(t, w.Tenant, again.ID), "refresh-token-refused", "reconnect")
	if n := apiRequests(t, w) - requests; n != 0 || w.Sim.Ledger(t).Counters.Refreshes != 1 {
		t.Errorf("a broken connection was shown to Prisma %d times, %d refreshes", n, w.Sim.Ledger(t).Counters.Refreshes)
	}
	if list := apitest.Data[[]apitest.Connection](t, w.Call(t, w.Tenant.Key, http.MethodGet, "/v1/connections", nil)); list[0].Diagnosis != got.Diagnosis {
		t.Errorf("the list says %+v, the check %+v", list[0].Diagnosis, got.Diagnosis)
	}
}

// Whoever finds out, and however many: one event and one audit row. Afterwards the
// reconnect brings the same id back.
func TestCheckAndRefreshAtOnce(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	for round := range 3 {
		revokeGrants(t, w)
		w.Advance(t, 61*time.Minute)
		apitest.AtOnce(20, func(i int) {
			if i%2 == 0 {
				w.Check(t, w.Tenant, connection.ID)
			} else {
				call(t, w, connection.ID)
			}
		})
		wantDiagnosis(t, "afterwards", w.GetConnection(t, w.Tenant, connection.ID), "refresh-token-refused", "reconnect")
		told := func(column, table string) int {
			return apitest.Query[int](t, w, `SELECT count(*)::int FROM `+table+` WHERE `+column+` = 'connection.needs_reconnect'`)
		}
		if events, rows := told("type", "events"), told("action", "audit_log"); events != round+1 || rows != round+1 {
			t.Errorf("round %d: %d events, %d audit rows", round+1, events, rows)
		}
		again := w.ConnectWith(t, w.Tenant, "ada", workspaceA, map[string]any{"connectionId": connection.ID})
		if again.ID != connection.ID {
			t.Errorf("the reconnect made %s of %s", again.ID, connection.ID)
		}
		wantDiagnosis(t, "reconnected", again, "healthy", "none")
	}
	if n := w.Sim.Ledger(t).Counters.Replays; n != 0 {
		t.Errorf("%d replays", n)
	}
}

// A refresh that is under way when the user connects again, and ends after that,
// changes nothing about the new grant, whatever its answer.
func TestReconnectWhileARefreshIsInFlight(t *testing.T) {
	t.Parallel()
	for name, revoked := range map[string]bool{"it is refused": true, "it succeeds": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := apitest.New(t, apitest.WithRefresh(prisma.RefreshSettings{CallerWait: 100 * time.Millisecond}))
			w.Expect(http.StatusServiceUnavailable)
			connection := w.Connect(t, w.Tenant, "ada", workspaceA)
			w.Advance(t, 2*time.Hour)
			if revoked {
				revokeGrants(t, w)
			}
			w.Faults(t, map[string]any{"tokenLatency": "2s"})
			apitest.WantProblem(t, call(t, w, connection.ID), http.StatusServiceUnavailable, "refresh-in-progress")
			for received := 0; received == 0; { // until Prisma has the request
				for _, token := range w.Sim.Ledger(t).RefreshTokens {
					received += token.Received
				}
			}
			w.Faults(t, map[string]any{"tokenLatency": "0s"})
			again := w.ConnectWith(t, w.Tenant, "ada", workspaceA, map[string]any{"connectionId": connection.ID})
			if again.ID != connection.ID || w.Refresher.State().Exchanges != 1 {
				t.Fatalf("connected %s of %s with %d exchanges in flight", again.ID, connection.ID, w.Refresher.State().Exchanges)
			}
			if err := w.Refresher.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			got := w.GetConnection(t, w.Tenant, connection.ID)
			wantDiagnosis(t, "when both are over", got, "healthy", "none")
			if diff := cmp.Diff([]string{"connection.connected", "connection.reconnected"}, w.Events(t, w.Tenant)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			if answer := call(t, w, connection.ID); answer.Status != http.StatusOK || w.Sim.Ledger(t).Counters.Replays != 0 {
				t.Errorf("a call with the new grant: %d, %d replays", answer.Status, w.Sim.Ledger(t).Counters.Replays)
			}
		})
	}
}
