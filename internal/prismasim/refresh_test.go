package prismasim_test

import (
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// advance moves the simulator's clock.
func advance(t *testing.T, sim *prismasimtest.Server, by string) {
	t.Helper()
	sim.Control(t, http.MethodPost, "clock", map[string]string{"advance": by}, nil)
}

func TestRefreshRotates(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	first := sim.Connect(t, prismasimtest.WorkspaceA)
	status, body := sim.Refresh(t, first.Refresh)
	if status != http.StatusOK {
		t.Fatalf("refresh = %d", status)
	}
	second := prismasimtest.ReadTokens(t, body)
	if second.Refresh == first.Refresh || second.Access == first.Access {
		t.Error("a token was given twice")
	}
	for _, token := range []string{first.Access, second.Access} { // a refresh does not end the access token before
		api(t, sim, http.MethodGet, "/v1/me", token, nil, http.StatusOK)
	}
	ledger := sim.Ledger(t)
	if len(ledger.RefreshTokens) != 2 {
		t.Fatalf("%d refresh tokens", len(ledger.RefreshTokens))
	}
	used, live := ledger.RefreshTokens[0], ledger.RefreshTokens[1]
	if used.State != "used" || used.Received != 1 || used.Processed != 1 || used.Answered != 1 || used.Grant != live.Grant {
		t.Errorf("used token: %+v", used)
	}
	if live.State != "live" || live.Received != 0 {
		t.Errorf("live token: %+v", live)
	}
}

func TestReplayRevokesTheFamily(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	first, other := sim.Connect(t, prismasimtest.WorkspaceA), sim.Connect(t, prismasimtest.WorkspaceA)
	_, body := sim.Refresh(t, first.Refresh)
	second := prismasimtest.ReadTokens(t, body)

	status, body := sim.Refresh(t, first.Refresh)
	if status != http.StatusBadRequest || text(t, body, "error") != "invalid_grant" {
		t.Fatalf("replay = %d", status)
	}
	if status, _ := sim.Refresh(t, second.Refresh); status != http.StatusBadRequest {
		t.Errorf("the successor still works: %d", status)
	}
	api(t, sim, http.MethodGet, "/v1/me", second.Access, nil, http.StatusUnauthorized)
	api(t, sim, http.MethodGet, "/v1/me", other.Access, nil, http.StatusOK) // another grant of the same pair lives
	ledger := sim.Ledger(t)
	if c := ledger.Counters; c.Refreshes != 3 || c.Replays != 1 || c.Revocations != 1 {
		t.Errorf("counters = %+v", c)
	}
	states := map[string]int{}
	for _, row := range ledger.RefreshTokens {
		states[row.State]++
	}
	if states["used"] != 1 || states["revoked"] != 1 || states["live"] != 1 {
		t.Errorf("states = %v", states)
	}
}

func TestParallelRefreshesOfOneTokenHaveOneWinner(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	tokens := sim.Connect(t, prismasimtest.WorkspaceA)
	var won atomic.Int32
	var group sync.WaitGroup
	for range 10 {
		group.Go(func() {
			if status, _ := sim.Refresh(t, tokens.Refresh); status == http.StatusOK {
				won.Add(1)
			}
		})
	}
	group.Wait()
	if won.Load() != 1 {
		t.Errorf("%d refreshes succeeded", won.Load())
	}
	if c := sim.Ledger(t).Counters; c.Replays != 9 || c.Revocations != 1 {
		t.Errorf("counters = %+v", c)
	}
}

func TestLeewayGivesAnotherPairAndNeverRevokes(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	sim.Control(t, http.MethodPut, "faults", map[string]string{"leeway": "1m"}, nil)
	first := sim.Connect(t, prismasimtest.WorkspaceA)
	_, body := sim.Refresh(t, first.Refresh)
	second := prismasimtest.ReadTokens(t, body)
	status, body := sim.Refresh(t, first.Refresh)
	if status != http.StatusOK {
		t.Fatalf("reuse within the leeway = %d", status)
	}
	third := prismasimtest.ReadTokens(t, body)

	advance(t, sim, "2m")
	if status, _ := sim.Refresh(t, first.Refresh); status != http.StatusBadRequest {
		t.Errorf("reuse after the leeway = %d", status)
	}
	for _, token := range []string{second.Refresh, third.Refresh} {
		if status, _ := sim.Refresh(t, token); status != http.StatusOK {
			t.Errorf("a successor = %d", status)
		}
	}
	if c := sim.Ledger(t).Counters; c.Revocations != 0 || c.Replays != 2 {
		t.Errorf("counters = %+v", c)
	}
}

func TestTokensAge(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	tokens := sim.Connect(t, prismasimtest.WorkspaceA)
	advance(t, sim, "59m")
	api(t, sim, http.MethodGet, "/v1/me", tokens.Access, nil, http.StatusOK)
	advance(t, sim, "1m")
	api(t, sim, http.MethodGet, "/v1/me", tokens.Access, nil, http.StatusUnauthorized)
	advance(t, sim, "2134h") // 89 days less an hour
	status, body := sim.Refresh(t, tokens.Refresh)
	if status != http.StatusOK {
		t.Fatalf("refresh after 89 days = %d", status)
	}
	tokens = prismasimtest.ReadTokens(t, body)
	advance(t, sim, "2160h")
	if status, body := sim.Refresh(t, tokens.Refresh); status != http.StatusBadRequest || text(t, body, "error") != "invalid_grant" {
		t.Errorf("refresh after 90 days = %d", status)
	}
	states := sim.Ledger(t).RefreshTokens
	if states[1].State != "expired" || states[1].Processed != 0 {
		t.Errorf("old token: %+v", states[1])
	}
}

func TestRefreshIsBoundToItsClientAndScope(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	tokens := sim.Connect(t, prismasimtest.WorkspaceA)
	fields := url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {tokens.Refresh},
		"client_id": {prismasimtest.OtherClientID}, "client_secret": {prismasimtest.ClientSecret},
	}
	if status, body := sim.Token(t, fields); status != http.StatusBadRequest || text(t, body, "error") != "invalid_grant" {
		t.Errorf("another client's refresh = %d", status)
	}
	fields.Set("client_id", prismasimtest.ClientID)
	fields.Set("scope", "workspace:admin everything")
	if status, body := sim.Token(t, fields); status != http.StatusBadRequest || text(t, body, "error") != "invalid_scope" {
		t.Errorf("a wider scope = %d", status)
	}
	fields.Set("scope", "workspace:admin")
	status, body := sim.Token(t, fields) // the refusals before have not spent it
	if status != http.StatusOK || text(t, body, "scope") != "workspace:admin" {
		t.Errorf("a narrower scope = %d", status)
	}
	fields.Set("refresh_token", "unknown")
	if status, _ := sim.Token(t, fields); status != http.StatusBadRequest {
		t.Errorf("an unknown token = %d", status)
	}
}

func TestExpireAndRevokeByControl(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	a, b := sim.Connect(t, prismasimtest.WorkspaceA), sim.Connect(t, prismasimtest.WorkspaceB)
	var grants struct {
		Grants []struct{ ID, WorkspaceID string }
	}
	sim.Control(t, http.MethodGet, "grants", nil, &grants)
	grantOf := func(workspace string) string {
		for _, g := range grants.Grants {
			if g.WorkspaceID == workspace {
				return g.ID
			}
		}
		t.Fatal("no grant")
		return ""
	}
	sim.Control(t, http.MethodPost, "expire-access-tokens", map[string]string{"grant": grantOf(prismasimtest.WorkspaceA)}, nil)
	api(t, sim, http.MethodGet, "/v1/me", a.Access, nil, http.StatusUnauthorized)
	api(t, sim, http.MethodGet, "/v1/me", b.Access, nil, http.StatusOK)
	if status, _ := sim.Refresh(t, a.Refresh); status != http.StatusOK {
		t.Error("expiring the access token killed the refresh token")
	}
	sim.Control(t, http.MethodPost, "expire-access-tokens", nil, nil)
	api(t, sim, http.MethodGet, "/v1/me", b.Access, nil, http.StatusUnauthorized)

	sim.Control(t, http.MethodPost, "revoke", map[string]string{"grant": grantOf(prismasimtest.WorkspaceB)}, nil)
	if status, body := sim.Refresh(t, b.Refresh); status != http.StatusBadRequest || text(t, body, "error") != "invalid_grant" {
		t.Error("a revoked grant still refreshes")
	}
	if c := sim.Ledger(t).Counters; c.Revocations != 1 || c.Replays != 0 {
		t.Errorf("counters = %+v", c)
	}
}
