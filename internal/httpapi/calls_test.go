package httpapi_test

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/oauthflow"
	"github.com/connect-prisma/server/internal/tenants"
)

// call reads a connection's projects, which takes a live access token.
func call(t *testing.T, w *apitest.World, id string) apitest.Answer {
	t.Helper()
	return w.Call(t, w.Tenant.Key, http.MethodGet, "/v1/connections/"+id+"/projects", nil)
}

// callers makes n calls at once and counts the statuses.
func callers(t *testing.T, w *apitest.World, id string, n int) map[int]int {
	t.Helper()
	var mu sync.Mutex
	statuses := map[int]int{}
	apitest.AtOnce(n, func(int) {
		answer := call(t, w, id)
		mu.Lock()
		defer mu.Unlock()
		statuses[answer.Status]++
	})
	return statuses
}

func TestAnExpiredTokenIsRefreshedOnce(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	if answer := call(t, w, connection.ID); answer.Status != http.StatusOK || w.Sim.Ledger(t).Counters.Refreshes != 0 {
		t.Errorf("a fresh token: %d, %d refreshes", answer.Status, w.Sim.Ledger(t).Counters.Refreshes)
	}
	w.Advance(t, 61*time.Minute)
	if answer := call(t, w, connection.ID); answer.Status != http.StatusOK || w.Sim.Ledger(t).Counters.Refreshes != 1 {
		t.Errorf("an expired token: %d, %d refreshes", answer.Status, w.Sim.Ledger(t).Counters.Refreshes)
	}
	w.Advance(t, 61*time.Minute)
	w.Faults(t, map[string]any{"tokenLatency": "200ms"})
	const many = 200
	statuses := callers(t, w, connection.ID, many)
	ledger := w.Sim.Ledger(t).Counters
	t.Logf("%d callers on an expired token: %v, %d refresh, %d replays", many, statuses, ledger.Refreshes-1, ledger.Replays)
	if statuses[http.StatusOK] != many || ledger.Refreshes != 2 || ledger.Replays != 0 {
		t.Errorf("statuses %v, %d refreshes", statuses, ledger.Refreshes-1)
	}
	if got := w.GetConnection(t, w.Tenant, connection.ID); got.Status != "active" || got.Diagnosis.Code != "healthy" || !got.AccessUntil.After(w.Now()) {
		t.Errorf("the connection is %+v", got)
	}
}

func TestARefusedTokenIsRefreshedOnceIfItIsOld(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	w.Expect(http.StatusBadGateway)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	expire := func() { w.Sim.Control(t, http.MethodPost, "expire-access-tokens", nil, nil) }

	expire()
	for range 3 {
		apitest.WantProblem(t, call(t, w, connection.ID), http.StatusBadGateway, "prisma-refused")
	}
	if n := w.Sim.Ledger(t).Counters.Refreshes; n != 0 {
		t.Errorf("%d refreshes of a token that is younger than a minute", n)
	}
	w.Advance(t, 61*time.Second)
	requests := w.Sim.Ledger(t).Counters.APIRequests
	answer := call(t, w, connection.ID)
	ledger := w.Sim.Ledger(t).Counters
	if answer.Status != http.StatusOK || ledger.Refreshes != 1 || ledger.APIRequests-requests != 2 {
		t.Errorf("a refused token: %d, %d refreshes, %d API requests; want 200, 1, 2", answer.Status, ledger.Refreshes, ledger.APIRequests-requests)
	}
	w.Advance(t, 61*time.Second)
	expire()
	const many = 100
	statuses := callers(t, w, connection.ID, many)
	ledger = w.Sim.Ledger(t).Counters
	t.Logf("%d callers on a refused token: %v, %d refresh, %d replays", many, statuses, ledger.Refreshes-1, ledger.Replays)
	if statuses[http.StatusOK] != many || ledger.Refreshes != 2 || ledger.Replays != 0 {
		t.Errorf("statuses %v, %d refreshes", statuses, ledger.Refreshes-1)
	}
	// Refused again at once: not more than one forced refresh a minute.
	expire()
	apitest.WantProblem(t, call(t, w, connection.ID), http.StatusBadGateway, "prisma-refused")
	if n := w.Sim.Ledger(t).Counters.Refreshes; n != 2 {
		t.Errorf("%d refreshes", n)
	}
}

func TestARevokedGrantNeedsAReconnectAndSaysSoOnce(t *testing.T) {
	t.Parallel()
	for name, by := range map[string]time.Duration{"expired": 61 * time.Minute, "refused": 2 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := apitest.New(t)
			connection := w.Connect(t, w.Tenant, "ada", workspaceA)
			revokeGrants(t, w)
			w.Advance(t, by)
			const many = 50
			statuses := callers(t, w, connection.ID, many)
			apitest.WantProblem(t, call(t, w, connection.ID), http.StatusConflict, "reconnect-required")
			ledger := w.Sim.Ledger(t).Counters
			t.Logf("%d callers on a revoked grant: %v, %d refresh", many, statuses, ledger.Refreshes)
			if statuses[http.StatusConflict] != many || ledger.Refreshes != 1 {
				t.Errorf("statuses %v, %d refreshes", statuses, ledger.Refreshes)
			}
			want := []string{"connection.connected", "connection.needs_reconnect"}
			if diff := cmp.Diff(want, w.Events(t, w.Tenant)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
			got := w.GetConnection(t, w.Tenant, connection.ID)
			if got.Status != "needs_reconnect" || got.Diagnosis.Action != "reconnect" || got.Diagnosis.Code == "" || got.Diagnosis.Message == "" {
				t.Errorf("the connection is %+v, %+v", got, got.Diagnosis)
			}
			again := w.ConnectWith(t, w.Tenant, "ada", workspaceA, map[string]any{"connectionId": connection.ID})
			if again.ID != connection.ID || again.Status != "active" || again.Diagnosis.Code != "healthy" || call(t, w, connection.ID).Status != http.StatusOK {
				t.Errorf("after the reconnect: %+v", again)
			}
		})
	}
}

func revokeGrants(t *testing.T, w *apitest.World) {
	t.Helper()
	var grants struct{ Grants []struct{ ID, State string } }
	w.Sim.Control(t, http.MethodGet, "grants", nil, &grants)
	for _, grant := range grants.Grants {
		w.Sim.Control(t, http.MethodPost, "revoke", map[string]string{"grant": grant.ID}, nil)
	}
}

func TestAFailingTokenEndpointBlamesNobody(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	w.Expect(http.StatusServiceUnavailable)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	w.Advance(t, 61*time.Minute)
	w.Faults(t, map[string]any{"tokenFailBefore": 1})
	const many = 50
	statuses := callers(t, w, connection.ID, many)
	answer := call(t, w, connection.ID)
	apitest.WantProblem(t, answer, http.StatusServiceUnavailable, "prisma-unavailable")
	if answer.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	t.Logf("%d callers, the token endpoint answers 503: %v", many, statuses)
	if statuses[http.StatusServiceUnavailable] != many {
		t.Errorf("statuses %v", statuses)
	}
	if got := w.GetConnection(t, w.Tenant, connection.ID); got.Status == "needs_reconnect" {
		t.Errorf("the connection is %s", got.Status)
	}
}

func TestDisconnect(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := w.Connect(t, w.Tenant, "ada", workspaceA)
	path := "/v1/connections/" + connection.ID
	for _, bad := range []string{"?revoke=yes", "?revoke=", "?revoke=TRUE", "?revoke=true&revoke=true"} {
		apitest.WantProblem(t, w.Call(t, w.Tenant.Key, http.MethodDelete, path+bad, nil), http.StatusBadRequest, "invalid-request")
	}
	apitest.WantProblem(t, w.Call(t, w.Tenant.Key, http.MethodDelete, path, "{}"), http.StatusBadRequest, "invalid-request")

	answers := make([]apitest.Answer, 10)
	apitest.AtOnce(len(answers), func(i int) { answers[i] = w.Call(t, w.Tenant.Key, http.MethodDelete, path, nil) })
	done := slices.DeleteFunc(answers, func(a apitest.Answer) bool { return a.Status == http.StatusNotFound })
	if len(done) != 1 || ended(t, done[0]) != "kept" {
		t.Fatalf("%d of 10 disconnected", len(done))
	}
	for _, r := range apiRoutes(t, w) {
		if filled, _ := r.fill(map[string]string{"connectionId": connection.ID, "databaseId": "db_x"}); slices.Contains([]string{path, path + "/projects", path + "/databases", path + "/databases/db_x"}, filled) {
			apitest.WantProblem(t, w.Call(t, w.Tenant.Key, r.method, filled, r.body()), http.StatusNotFound, "not-found")
		}
	}
	if n := apitest.Query[int](t, w, `SELECT count(*)::int FROM connections WHERE access_token_sealed IS NOT NULL OR refresh_token_sealed IS NOT NULL`); n != 0 {
		t.Errorf("%d connections still have tokens", n)
	}
	if diff := cmp.Diff([]string{"connection.connected", "connection.disconnected"}, w.Events(t, w.Tenant)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	again := w.Connect(t, w.Tenant, "ada", workspaceA)
	if again.ID == connection.ID {
		t.Error("a disconnected connection came back to life")
	}
}

// ended reads what became of the integration.
func ended(t *testing.T, answer apitest.Answer) string {
	t.Helper()
	body := apitest.Data[struct {
		Status, Integration, Message string
		IntegrationRemoved           bool
	}](t, answer)
	if body.Status != "disconnected" || body.Message == "" || body.IntegrationRemoved != (body.Integration == "removed") {
		t.Errorf("disconnecting answered %+v", body)
	}
	return body.Integration
}

// joined is the store of somebody who is about to remove an integration when another
// connects with it.
type joined struct {
	oauthflow.Store

	by func()
}

func (j *joined) BeginCall(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, call tenants.OutgoingCall) (tenants.AuditedCall, error) {
	if j.by != nil {
		j.by()
	}
	return j.Store.BeginCall(ctx, by, tenant, call)
}

// An integration that another begins to use while it is about to be removed stays.
func TestDisconnectBesideAnotherWhoConnects(t *testing.T) {
	t.Parallel()
	store := &joined{}
	w := apitest.New(t, apitest.WithFlow(func(cfg *oauthflow.Config) {
		store.Store = cfg.Store
		cfg.Store = store
	}))
	other := w.NewTenant(t, "Same client", nil)
	ada := w.Connect(t, w.Tenant, "ada", workspaceA)
	var bob apitest.Connection
	store.by = func() {
		store.by = nil
		bob = w.Connect(t, other, "bob", workspaceA)
	}
	answer := w.Call(t, w.Tenant.Key, http.MethodDelete, "/v1/connections/"+ada.ID+"?revoke=true", nil)
	if got := ended(t, answer); got != "shared" {
		t.Errorf("the integration is %s, want shared", got)
	}
	if answer := w.Call(t, other.Key, http.MethodGet, "/v1/connections/"+bob.ID+"/projects", nil); answer.Status != http.StatusOK {
		t.Errorf("the other's connection: %d", answer.Status)
	}
}

func TestDisconnectWithRevoke(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	w.Expect(http.StatusServiceUnavailable)
	live := func() (n int) {
		var grants struct{ Grants []struct{ State string } }
		w.Sim.Control(t, http.MethodGet, "grants", nil, &grants)
		for _, grant := range grants.Grants {
			if grant.State == "live" {
				n++
			}
		}
		return n
	}
	end := func(tenant apitest.Tenant, id string) apitest.Answer {
		return w.Call(t, tenant.Key, http.MethodDelete, "/v1/connections/"+id+"?revoke=true", nil)
	}
	other := w.NewTenant(t, "Same client", nil)
	ada, bob := w.Connect(t, w.Tenant, "ada", workspaceA), w.Connect(t, other, "bob", workspaceA)
	elsewhere := w.Connect(t, w.Tenant, "ada", workspaceB)

	w.Faults(t, map[string]any{"apiFailBefore": 1})
	apitest.WantProblem(t, end(w.Tenant, elsewhere.ID), http.StatusServiceUnavailable, "prisma-unavailable")
	w.Faults(t, map[string]any{"apiFailBefore": 0})
	if got := w.GetConnection(t, w.Tenant, elsewhere.ID).Status; got != "active" || live() != 3 {
		t.Errorf("a revocation that failed left the connection %s", got)
	}
	if got := ended(t, end(w.Tenant, ada.ID)); got != "shared" || live() != 3 {
		t.Errorf("with another tenant's connection on it: %s, %d grants live", got, live())
	}
	if got := ended(t, end(other, bob.ID)); got != "removed" || live() != 1 {
		t.Errorf("the last one: %s, %d grants live", got, live())
	}
	if answer := call(t, w, elsewhere.ID); answer.Status != http.StatusOK {
		t.Errorf("the connection to another workspace: %d", answer.Status)
	}
	revokeGrants(t, w)
	w.Advance(t, 61*time.Minute)
	call(t, w, elsewhere.ID)
	if got := ended(t, end(w.Tenant, elsewhere.ID)); got != "unreachable" {
		t.Errorf("a dead one: %s", got)
	}
	// Each call that was made is in the audit log with its outcome, and the shared one was not.
	if got := apitest.Query[string](t, w, `
		SELECT string_agg(coalesce(details->>'outcome' || coalesce(details->>'status', ''), 'begun'), ' ' ORDER BY tenant_id, sequence)
		FROM audit_log WHERE action LIKE 'prisma_call.%'`); got != "begun unknown503 begun not_sent begun done" {
		t.Errorf("the audit log says of the calls: %s", got)
	}
	t.Logf("integrations: kept on failure, shared, removed, unreachable; %d replays", w.Sim.Ledger(t).Counters.Replays)
}
