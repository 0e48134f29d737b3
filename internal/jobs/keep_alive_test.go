package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/jobs"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
	"github.com/connect-prisma/server/internal/tenants"
)

const day = 24 * time.Hour

// run makes one run of the job over a whole service.
func run(t *testing.T, w *apitest.World) jobs.KeepAliveResult {
	t.Helper()
	result, err := jobs.NewKeepAlive(jobs.KeepAliveConfig{Store: w.Store, Renewer: w.Refresher, Checker: w.Flow}).Run(t.Context())
	ok(t, err)
	return result
}

func wantRun(t *testing.T, what string, got, want jobs.KeepAliveResult) {
	t.Helper()
	if got != want {
		t.Errorf("%s: the run came to %+v, want %+v", what, got, want)
	}
}

func connectionID(t *testing.T, id string) tenants.ConnectionID {
	t.Helper()
	parsed, err := tenants.ParseConnectionID(id)
	ok(t, err)
	return parsed
}

func calls(t *testing.T, w *apitest.World, tenant apitest.Tenant, id string) int {
	t.Helper()
	return w.Call(t, tenant.Key, http.MethodGet, "/v1/connections/"+id+"/projects", nil).Status
}

// Two hundred days in steps of one: what nobody uses stays alive at about one exchange
// in sixty days, and what is used every day is never touched.
func TestIdleConnectionsStayAliveFor200Days(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	second := w.NewTenant(t, "Second", nil)
	idle := map[string]apitest.Tenant{}
	for i := range 8 {
		tenant := []apitest.Tenant{w.Tenant, second}[i%2]
		idle[w.Connect(t, tenant, fmt.Sprint("idle", i), prismasimtest.WorkspaceA).ID] = tenant
	}
	daily := w.Connect(t, w.Tenant, "daily", prismasimtest.WorkspaceA).ID
	var renewed int
	first := map[int]int{} // how many were renewed for the first time by the day
	for n := range 200 {
		w.Advance(t, day)
		if status := calls(t, w, w.Tenant, daily); status != http.StatusOK {
			t.Fatalf("day %d: the daily call got %d", n+1, status)
		}
		result := run(t, w)
		renewed += result.Renewed
		if result.Settled+result.Failed != 0 {
			t.Fatalf("day %d: the run came to %+v", n+1, result)
		}
		if renewed <= len(idle) && result.Renewed > 0 {
			first[n+1] = result.Renewed
			if n+1 < 55 || n+1 > 66 {
				t.Errorf("%d connections were renewed on day %d", result.Renewed, n+1)
			}
		}
	}
	for id, tenant := range idle {
		generation := apitest.Query[int](t, w, `SELECT generation::int FROM connections WHERE id = $1`, connectionID(t, id))
		if generation-1 != 3 {
			t.Errorf("an idle connection had %d exchanges in 200 days, want 3", generation-1)
		}
		if status := calls(t, w, tenant, id); status != http.StatusOK {
			t.Errorf("after 200 days a call of an idle connection got %d", status)
		}
	}
	if apitest.Query[bool](t, w, `SELECT tended_not_before IS NOT NULL FROM connections WHERE id = $1`, connectionID(t, daily)) {
		t.Error("the job touched the connection that is used daily")
	}
	ledger := w.Sim.Ledger(t)
	for _, token := range ledger.RefreshTokens {
		if token.State == "expired" {
			t.Errorf("a refresh token expired, received %d times", token.Received)
		}
	}
	if ledger.Counters.Replays != 0 || len(first) < 2 {
		t.Errorf("%d replays; first renewals by day: %v", ledger.Counters.Replays, first)
	}
	t.Logf("8 idle connections, 200 days: %d exchanges; first renewals by day: %v", renewed, first)
}

// What fails is left alone for hours, and the rest of its tenant for this run.
func TestKeepAliveDoesNotHammer(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	good := tenants.OAuthClient{ID: prismasimtest.OtherClientID, Secret: prismasimtest.ClientSecret}
	second := w.NewTenant(t, "Second", func(in *tenants.TenantInput) { in.Client = good })
	for i := range 5 {
		w.Connect(t, w.Tenant, fmt.Sprint("user", i), prismasimtest.WorkspaceA)
	}
	w.Connect(t, second, "user", prismasimtest.WorkspaceA)
	w.Advance(t, 70*day)
	bad := tenants.OAuthClient{ID: good.ID, Secret: "not-the-secret-0123456789"}
	w.Secret("client secret", bad.Secret)
	setClient := func(client tenants.OAuthClient) {
		_, err := w.Store.UpdateTenant(t.Context(), tenants.System(), second.ID, tenants.TenantChange{Client: &client})
		ok(t, err)
	}
	setClient(bad) // of the second tenant alone, whose connection lies among the others

	wantRun(t, "the first run", run(t, w), jobs.KeepAliveResult{Renewed: 5, Failed: 1})
	wantRun(t, "the next one", run(t, w), jobs.KeepAliveResult{})
	list := apitest.Data[[]apitest.Connection](t, w.Call(t, second.Key, http.MethodGet, "/v1/connections", nil))
	if d := list[0].Diagnosis; d.Code != "client-refused" || d.Action != "operator" {
		t.Errorf("the connection of the refused client says %+v", d)
	}
	w.Advance(t, 4*time.Hour)
	wantRun(t, "hours later", run(t, w), jobs.KeepAliveResult{})
	list = apitest.Data[[]apitest.Connection](t, w.Call(t, second.Key, http.MethodGet, "/v1/connections", nil))
	if d := list[0].Diagnosis; d.Code != "healthy" { // hours after the only try
		t.Errorf("the connection of the refused client says %+v", d)
	}
	setClient(good)
	w.Advance(t, 4*time.Hour)
	wantRun(t, "when it is mended", run(t, w), jobs.KeepAliveResult{Renewed: 1})

	w.Advance(t, 70*day)
	w.TokensAway(true)
	if got := run(t, w); got.Renewed != 0 || got.Failed == 0 || got.Failed > 4 {
		t.Errorf("with the endpoint away the run came to %+v", got)
	}
	if w.Refresher.State().Breaker == prisma.BreakerClosed {
		t.Fatal("the endpoint is not left alone")
	}
	wantRun(t, "while the endpoint is left alone", run(t, w), jobs.KeepAliveResult{})
	w.TokensAway(false)
	w.Advance(t, 2*day)
	for range 3 { // the breaker lets the first through when somebody needs it
		for _, c := range apitest.Data[[]apitest.Connection](t, w.Call(t, w.Tenant.Key, http.MethodGet, "/v1/connections", nil))[:1] {
			calls(t, w, w.Tenant, c.ID)
		}
		run(t, w)
	}
	if n := apitest.Query[int](t, w, `SELECT count(*)::int FROM connections
		WHERE status = 'active' AND access_issued_at > app.now() - interval '1 hour'`); n != 6 {
		t.Errorf("%d of 6 connections are renewed after the outage", n)
	}
}

// A connection whose fate is open is settled once its access token has ended, and not
// before: then a second presentation could do harm.
func TestUnusedSuspectsAreSettledLate(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		fault string
		want  string
	}{
		"it was processed": {"tokenDropAfter", "needs_reconnect"},
		"it was not":       {"tokenFailBefore", "active"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := apitest.New(t)
			c := w.Connect(t, w.Tenant, "user", prismasimtest.WorkspaceA)
			w.Advance(t, 55*time.Minute)
			w.Faults(t, map[string]any{tc.fault: 1})
			calls(t, w, w.Tenant, c.ID) // refreshes behind the caller's back
			for w.GetConnection(t, w.Tenant, c.ID).Status == "active" {
				continue
			}
			w.Faults(t, map[string]any{tc.fault: 0})
			asked := w.Sim.Ledger(t).Counters
			wantRun(t, "while the access token works", run(t, w), jobs.KeepAliveResult{})
			if got := w.Sim.Ledger(t).Counters; got != asked {
				t.Errorf("the refresh token was presented early: %+v", got)
			}
			w.Advance(t, 6*time.Minute)
			wantRun(t, "after its end", run(t, w), jobs.KeepAliveResult{Settled: 1})
			if got := w.GetConnection(t, w.Tenant, c.ID); got.Status != tc.want {
				t.Errorf("the connection is %s, want %s", got.Status, tc.want)
			}
			wantRun(t, "once more", run(t, w), jobs.KeepAliveResult{})
		})
	}
}

// A token whose late retries stay without an answer is tried again when its pause is over,
// though nobody calls.
func TestUnusedSuspectsAreTriedAgain(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	c := w.Connect(t, w.Tenant, "user", prismasimtest.WorkspaceA)
	storage := w.Store.TokensOf(w.Tenant.ID, connectionID(t, c.ID))
	for n := range 4 {
		w.Advance(t, time.Hour)
		tokens, err := storage.Tokens(t.Context())
		ok(t, err)
		tokens.LateToo = true
		claim, err := storage.Claim(t.Context(), tokens)
		if ok(t, err); !claim.Due || claim.Late != (n > 0) {
			t.Fatalf("claim %d: due %t, late %t", n, claim.Due, claim.Late)
		}
		ok(t, storage.Settle(t.Context(), claim, prisma.Unknown))
	}
	w.Expect(http.StatusServiceUnavailable)
	wantRun(t, "during the pause", run(t, w), jobs.KeepAliveResult{})
	got := w.GetConnection(t, w.Tenant, c.ID)
	if d := got.Diagnosis; got.Status != "suspect" || d.Code != "renewal-unconfirmed" || !strings.Contains(d.Message, "The next time is at ") {
		t.Errorf("the connection is %s: %+v", got.Status, d)
	}
	if answer := w.Call(t, w.Tenant.Key, http.MethodGet, "/v1/connections/"+c.ID+"/projects", nil); answer.Status != http.StatusServiceUnavailable ||
		answer.Header.Get("Retry-After") < "200" || len(answer.Header.Get("Retry-After")) != 3 {
		t.Errorf("a call meanwhile got %d, Retry-After %q", answer.Status, answer.Header.Get("Retry-After"))
	}
	w.Advance(t, 5*time.Minute)
	wantRun(t, "after it", run(t, w), jobs.KeepAliveResult{Settled: 1})
	if got := w.GetConnection(t, w.Tenant, c.ID); got.Status != "active" || got.Diagnosis.Code != "healthy" {
		t.Errorf("the connection is %s: %+v", got.Status, got.Diagnosis)
	}
}

// Where nobody calls, the job itself finds out that the endpoint is well again.
func TestKeepAliveClosesTheBreaker(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	for i := range 4 {
		w.Connect(t, w.Tenant, fmt.Sprint("user", i), prismasimtest.WorkspaceA)
	}
	w.Advance(t, 70*day)
	w.Faults(t, map[string]any{"tokenFailBefore": 1})
	run(t, w)
	if state := w.Refresher.State(); state.Breaker == prisma.BreakerClosed {
		t.Fatalf("three failures left the breaker %v", state.Breaker)
	}
	w.Faults(t, map[string]any{"tokenFailBefore": 0})
	w.Advance(t, day)
	run(t, w)
	if state := w.Refresher.State(); state.Breaker != prisma.BreakerClosed {
		t.Errorf("the breaker is %v", state.Breaker)
	}
}

// A process died with its exchange, or the grant has nothing to renew it, and nobody
// calls: the connection must not look healthy for ever.
func TestUnusedConnectionsDoNotDieSilently(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	crashed := w.Connect(t, w.Tenant, "crashed", prismasimtest.WorkspaceA)
	bare := w.Connect(t, w.Tenant, "bare", prismasimtest.WorkspaceA)
	storage := w.Store.TokensOf(w.Tenant.ID, connectionID(t, crashed.ID))
	tokens, err := storage.Tokens(t.Context())
	ok(t, err)
	claim, err := storage.Claim(t.Context(), tokens)
	if ok(t, err); !claim.Due {
		t.Fatal("the claim is not due")
	}
	withoutRefresh := w.Store.TokensOf(w.Tenant.ID, connectionID(t, bare.ID))
	tokens, err = withoutRefresh.Tokens(t.Context())
	ok(t, err)
	tokens.Refresh = ""
	ok(t, withoutRefresh.SetTokens(t.Context(), tokens))

	w.Advance(t, 10*time.Minute)
	for id, want := range map[string]string{crashed.ID: "renewal-unconfirmed", bare.ID: "no-refresh-token"} {
		if got := w.GetConnection(t, w.Tenant, id); got.Status != "active" || got.Diagnosis.Code != want {
			t.Errorf("the connection is %s, %+v; want active, %s", got.Status, got.Diagnosis, want)
		}
	}
	wantRun(t, "early", run(t, w), jobs.KeepAliveResult{})
	w.Advance(t, time.Hour)
	wantRun(t, "at the end", run(t, w), jobs.KeepAliveResult{Settled: 2})
	for id, want := range map[string]string{crashed.ID: "active", bare.ID: "needs_reconnect"} {
		if got := w.GetConnection(t, w.Tenant, id); got.Status != want {
			t.Errorf("the connection is %s, want %s", got.Status, want)
		}
	}
}

// A pair that was stored after its intent had been taken over is confirmed by a look
// at Prisma, once nobody can present its predecessor any more.
func TestALateSaveIsConfirmed(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	c := w.Connect(t, w.Tenant, "user", prismasimtest.WorkspaceA)
	storage := w.Store.TokensOf(w.Tenant.ID, connectionID(t, c.ID))
	tokens, err := storage.Tokens(t.Context())
	ok(t, err)
	stalled, err := storage.Claim(t.Context(), tokens)
	ok(t, err)
	w.Advance(t, time.Hour)
	tokens.LateToo = true
	takenOver, err := storage.Claim(t.Context(), tokens)
	if ok(t, err); !stalled.Due || !takenOver.Due {
		t.Fatalf("claims due: %t, %t", stalled.Due, takenOver.Due)
	}
	_, text := w.Sim.Refresh(t, stalled.Current.Refresh)
	fresh := prismasimtest.ReadTokens(t, text)
	w.Secret("access token", fresh.Access)
	w.Secret("refresh token", fresh.Refresh)
	now := w.Now()
	ok(t, storage.Save(t.Context(), stalled, prisma.Tokens{
		WorkspaceID: c.Workspace.ID, Access: fresh.Access, Refresh: fresh.Refresh, IssuedAt: now, ExpiresAt: now.Add(time.Hour),
	}))
	wantRun(t, "while the other may have sent it", run(t, w), jobs.KeepAliveResult{})
	if got := w.GetConnection(t, w.Tenant, c.ID); got.Status != "suspect" || got.Diagnosis.Code != "renewal-unconfirmed" {
		t.Errorf("the connection is %s, %+v", got.Status, got.Diagnosis)
	}
	w.Advance(t, 4*time.Minute)
	wantRun(t, "when it can't have", run(t, w), jobs.KeepAliveResult{Settled: 1})
	if got := w.GetConnection(t, w.Tenant, c.ID); got.Status != "active" || got.Diagnosis.Code != "healthy" {
		t.Errorf("the connection is %s, %+v", got.Status, got.Diagnosis)
	}
	if n := apitest.Query[int](t, w, `SELECT count(*)::int FROM audit_log WHERE action = 'connection.confirmed' AND actor_type = 'system'`); n != 1 {
		t.Errorf("%d audit rows say so", n)
	}
}

// fakeUnused is a store with some connections to tend, for the job alone.
type fakeUnused struct {
	*tenants.Store

	looked chan struct{}
}

func (f fakeUnused) UnusedConnections(context.Context, time.Duration, []tenants.TenantID) ([]tenants.Tended, error) {
	select {
	case f.looked <- struct{}{}:
	default:
	}
	return nil, errors.New("the database is away")
}

func TestKeepAliveRecurs(t *testing.T) {
	t.Parallel()
	s := openService(t)
	fake := fakeUnused{looked: make(chan struct{}, 10)}
	ok(t, s.runner(t, jobs.Config{
		KeepAlive: jobs.NewKeepAlive(jobs.KeepAliveConfig{Store: fake, Every: 100 * time.Millisecond}),
	}).Start(t.Context()))
	for range 3 { // a run that fails is followed by the next
		receive(t, "a run", fake.looked)
	}
}

// A process that ends puts nothing off that it can't renew any more: the next one finds
// every connection as it was.
func TestKeepAliveLeavesWhatADrainCannotDo(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	for i := range 4 {
		w.Connect(t, w.Tenant, fmt.Sprint("idle", i), prismasimtest.WorkspaceA)
	}
	w.Advance(t, 70*day)
	ok(t, w.Refresher.Wait(t.Context()))
	wantRun(t, "while the process ends", run(t, w), jobs.KeepAliveResult{})
	left, err := w.Store.UnusedConnections(t.Context(), 60*day, nil)
	if ok(t, err); len(left) != 4 {
		t.Errorf("%d of 4 connections are still to be tended", len(left))
	}
}
