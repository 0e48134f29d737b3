package tenants_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
	"github.com/connect-prisma/server/internal/tenants"
)

// forgiving is a connection at the simulator, which takes a used refresh token once
// more for a minute. Its access token has ended.
type forgiving struct {
	*leased

	sim *prismasimtest.Server
}

func openForgiving(t *testing.T) *forgiving {
	t.Helper()
	s := openService(t)
	f := &forgiving{leased: &leased{service: s}, sim: prismasimtest.Start(t)}
	f.sim.Control(t, http.MethodPut, "faults", map[string]string{"leeway": leeway.String()}, nil)
	tenant, err := s.CreateTenant(t.Context(), tenants.System(), tenants.TenantInput{
		Name: "Acme", ReturnURLs: []string{returnURL},
		Client: tenants.OAuthClient{ID: prismasimtest.ClientID, Secret: prismasimtest.ClientSecret},
	})
	ok(t, err)
	granted := f.sim.Connect(t, prismasimtest.WorkspaceA)
	now := s.now(t)
	c, err := s.FinishSession(t.Context(), tenants.System(), s.completing(t, tenant.ID, tenants.NewSession{}),
		prismasimtest.ClientID, prisma.Tokens{
			WorkspaceID: prismasimtest.WorkspaceA, Access: granted.Access, Refresh: granted.Refresh,
			IssuedAt: now, ExpiresAt: now.Add(time.Hour),
		})
	ok(t, err)
	f.owner, f.id = tenant.ID, c.ID
	f.TokenStorage = s.TokensOf(f.owner, f.id)
	f.pass(t, 2*time.Hour)
	return f
}

// pass moves the clocks of the database and of Prisma.
func (f *forgiving) pass(t *testing.T, d time.Duration) {
	t.Helper()
	f.db.Advance(t, d)
	f.sim.Control(t, http.MethodPost, "clock", map[string]string{"advance": d.String()}, nil)
}

// refresh makes a call of a replica that needs a fresh token.
func (f *forgiving) refresh(t *testing.T, r *replica) (prisma.Tokens, error) {
	t.Helper()
	oauth, err := prisma.NewOAuth(prisma.OAuthConfig{AuthURL: f.sim.URL})
	ok(t, err)
	refresher, err := prisma.NewRefresher(prisma.RefresherConfig{Exchanger: oauth, Now: clock})
	ok(t, err)
	t.Cleanup(func() { _ = refresher.Wait(t.Context()) })
	return refresher.AccessToken(t.Context(), r.PrismaConnection(f.owner, f.id))
}

// exchange sends what a claim allows to be sent, and returns the pair that came back.
func (f *forgiving) exchange(t *testing.T, claim prisma.Claim) prisma.Tokens {
	t.Helper()
	status, body := f.sim.Refresh(t, claim.Current.Refresh)
	if status != http.StatusOK {
		t.Fatalf("the exchange answers %d", status)
	}
	pair := next(claim, "")
	tokens := prismasimtest.ReadTokens(t, body)
	pair.Access, pair.Refresh = tokens.Access, tokens.Refresh
	return pair
}

// A replica is killed while its answer is on the way, when Prisma has used the token
// up: the next call through another replica heals the connection at once.
func TestLeewayHealsAKilledOwner(t *testing.T) {
	t.Parallel()
	f := openForgiving(t)
	killed, other := f.replica(t, leeway), f.replica(t, leeway)
	claim := killed.claim(t, f.leased)
	f.exchange(t, claim) // nobody takes the answer
	f.pass(t, 4*time.Second)
	other.beat(t)
	tokens, err := f.refresh(t, other)
	ok(t, err)
	if tokens.Generation != 2 {
		t.Errorf("AccessToken() = %v, want generation 2", tokens)
	}
	f.wantState(t, "healed", state{Status: "active", Generation: 2})

	f.pass(t, 2*time.Hour)
	if _, err := f.refresh(t, other); err != nil {
		t.Errorf("the next refresh: %v", err)
	}
	if saw := f.sim.Ledger(t).Counters; saw.Refreshes != 3 || saw.Revocations != 0 {
		t.Errorf("Prisma saw %+v, want 3 refreshes and no revocation", saw)
	}
}

// A replica is stopped for longer than the leeway, with the answer in its hands:
// nobody presents the token again, and it saves when it comes back.
func TestLeewayLeavesALongPauseAlone(t *testing.T) {
	t.Parallel()
	f := openForgiving(t)
	stopped, other := f.replica(t, leeway), f.replica(t, leeway)
	claim := stopped.claim(t, f.leased)
	answer := f.exchange(t, claim)
	f.pass(t, leeway)
	other.beat(t)
	if claim := other.claim(t, f.leased); claim.Due || !claim.Held {
		t.Errorf("after the leeway: due = %t, held = %t; want it left to its owner", claim.Due, claim.Held)
	}
	ok(t, stopped.storage.Save(t.Context(), claim, answer))
	tokens, err := f.refresh(t, other)
	ok(t, err)
	if tokens.Access != answer.Access {
		t.Error("the pair of the replica that was stopped is not in use")
	}
	f.wantState(t, "saved", state{Status: "active", Generation: 2})
	ledger := f.sim.Ledger(t)
	if saw := ledger.Counters; saw.Refreshes != 1 || saw.Replays != 0 || saw.Revocations != 0 {
		t.Errorf("Prisma saw %+v, want one refresh", saw)
	}
	for _, token := range ledger.RefreshTokens {
		if token.Received > 1 {
			t.Errorf("a refresh token was received %d times", token.Received)
		}
	}
}
