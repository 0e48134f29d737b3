package tenants_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// tokenEndpoint is a strict authorization server: each refresh token works once, and
// one that comes twice ends them all.
type tokenEndpoint struct {
	*httptest.Server

	latency time.Duration

	mu      sync.Mutex
	live    string
	used    map[string]bool
	refuse  bool // every token is dead
	asked   int
	replays int
}

func startTokenEndpoint(t *testing.T, live string) *tokenEndpoint {
	t.Helper()
	e := &tokenEndpoint{live: live, used: map[string]bool{}, latency: 100 * time.Millisecond}
	e.Server = httptest.NewServer(e)
	t.Cleanup(e.Close)
	return e
}

func (e *tokenEndpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	presented := r.FormValue("refresh_token")
	if presented == "" { // it only asks whether anybody is there
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = w.Write([]byte(`{"error": "invalid_request"}`))
		return
	}
	e.mu.Lock()
	e.asked++
	if e.used[presented] {
		e.replays++
		e.refuse = true
	}
	good := presented == e.live && !e.refuse && r.FormValue("client_id") == clientID
	e.used[presented] = true
	if good {
		e.live = "refresh-of-exchange-" + strconv.Itoa(e.asked)
	}
	answer := map[string]string{
		"access_token": "access-of-exchange-" + strconv.Itoa(e.asked), "refresh_token": e.live, "token_type": "Bearer",
	}
	e.mu.Unlock()
	<-time.After(e.latency) // how long Prisma takes, so that callers come meanwhile
	w.Header().Set("Content-Type", "application/json")
	if !good {
		w.WriteHeader(http.StatusBadRequest)
		answer = map[string]string{"error": "invalid_grant"}
	}
	body, err := json.Marshal(answer)
	if err == nil {
		_, _ = w.Write(body)
	}
}

func (e *tokenEndpoint) counts() (asked, replays int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.asked, e.replays
}

func newRefresher(t *testing.T, e *tokenEndpoint) *prisma.Refresher {
	t.Helper()
	oauth, err := prisma.NewOAuth(prisma.OAuthConfig{AuthURL: e.URL})
	ok(t, err)
	refresher, err := prisma.NewRefresher(prisma.RefresherConfig{Exchanger: oauth, Now: clock})
	ok(t, err)
	t.Cleanup(func() { _ = refresher.Wait(t.Context()) })
	return refresher
}

// Four replicas with fifty callers each on one connection whose access token has
// expired: one exchange, and everybody gets its token.
func TestRefreshStorm(t *testing.T) {
	t.Parallel()
	const replicas, callers = 4, 50
	l := openLeased(t)
	e := startTokenEndpoint(t, "refresh-1")
	l.db.Advance(t, 2*time.Hour)
	var all sync.WaitGroup
	for range replicas {
		store := l.store(t, tenants.Config{
			Pool: openPool(t, l.db.AppURL, 4, nil), TokenPool: openPool(t, l.db.AppURL, 1, nil),
		})
		refresher, connection := newRefresher(t, e), store.PrismaConnection(l.owner, l.id)
		for range callers {
			all.Go(func() {
				tokens, err := refresher.AccessToken(t.Context(), connection)
				if err != nil || tokens.Access != "access-of-exchange-1" || tokens.Generation != 2 {
					t.Errorf("AccessToken() = %v, %v", tokens, err)
				}
			})
		}
	}
	all.Wait()
	if asked, replays := e.counts(); asked != 1 || replays != 0 {
		t.Errorf("%d exchanges, %d replays; want 1 and 0", asked, replays)
	}
	l.wantState(t, "after the storm", state{Status: "active", Generation: 2})
	if got := l.stored(t).Refresh; got != "refresh-of-exchange-1" {
		t.Error("the stored refresh token is not the live one")
	}
}

// A process died between its claim and its save. Whether it had sent the refresh
// token is unknown: it is presented once more, when there is nothing left to lose.
func TestRefreshAfterACrash(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		sent bool // before the crash
		want string
		kind fault.Kind
	}{
		"before it was sent": {false, "active", fault.Internal},
		"after it was sent":  {true, "needs_reconnect", fault.ReconnectRequired},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			e := startTokenEndpoint(t, "refresh-1")
			crashed := l.store(t, tenants.Config{Pool: l.db.Pool, LeaseFor: 20 * time.Second}).TokensOf(l.owner, l.id)
			claim, err := crashed.Claim(t.Context(), l.stored(t))
			ok(t, err)
			if !claim.Due {
				t.Fatal("the claim is not due")
			}
			if tc.sent {
				e.used["refresh-1"] = true
			}
			connection := l.PrismaConnection(l.owner, l.id)
			get := func() (prisma.Tokens, error) {
				return newRefresher(t, e).AccessToken(t.Context(), connection) // of a process of its own
			}

			l.db.Advance(t, 55*time.Minute)
			tokens, err := get() // past 85 % of its life: refreshed in the background, were it not suspect
			ok(t, err)
			if tokens.Access != "access-1" {
				t.Errorf("AccessToken() = %v, want the one that still works", tokens)
			}
			l.wantStatusSoon(t, "suspect")
			if asked, _ := e.counts(); asked != 0 {
				t.Errorf("the refresh token was presented again while the access token works")
			}

			l.db.Advance(t, 5*time.Minute)
			tokens, err = get()
			wantKind(t, "AccessToken() after the access token's end", err, tc.kind)
			if err == nil && tokens.Access != "access-of-exchange-1" {
				t.Errorf("AccessToken() = %v", tokens)
			}
			if got := l.state(t).Status; got != tc.want {
				t.Errorf("status = %s, want %s", got, tc.want)
			}
			_, err = get()
			wantKind(t, "AccessToken() once more", err, tc.kind)
			if asked, _ := e.counts(); asked != 1 {
				t.Errorf("the refresh token was presented %d times, want once", asked)
			}
			reconnects := map[bool]int{true: 1}[tc.sent]
			if n := l.reconnects(t); n != [2]int{reconnects, reconnects} {
				t.Errorf("events and audit rows = %v, want %d each", n, reconnects)
			}
		})
	}
}

// wantStatusSoon waits for what a refresh in the background writes.
func (l *leased) wantStatusSoon(t *testing.T, want string) {
	t.Helper()
	for range 1000 { // each look is a query, so this is some seconds
		if l.state(t).Status == want {
			return
		}
	}
	t.Errorf("status = %s, want %s", l.state(t).Status, want)
}

// The commit of a fresh pair is lost on the way, again and again: it is saved all
// the same, once.
func TestRefreshOverACutWire(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	e := startTokenEndpoint(t, "refresh-1")
	l.db.Advance(t, 2*time.Hour)
	wire := &cutter{}
	store := l.store(t, tenants.Config{Pool: l.db.Pool, TokenPool: openPool(t, l.db.AppURL, 1, wire)})
	wire.arm(1, false, true) // the first is lost, the second committed without an answer, the third lost
	wire.atMost(3)
	tokens, err := newRefresher(t, e).AccessToken(t.Context(), store.PrismaConnection(l.owner, l.id))
	ok(t, err)
	if tokens.Access != "access-of-exchange-1" {
		t.Errorf("AccessToken() = %v", tokens)
	}
	if asked, _ := e.counts(); asked != 1 {
		t.Errorf("%d exchanges, want 1", asked)
	}
	if cuts := wire.disarm(); cuts != 3 {
		t.Errorf("the wire was cut %d times, want 3", cuts)
	}
	l.wantState(t, "saved", state{Status: "active", Generation: 2})
}

// A tenant whose OAuth client was replaced has grants of the old one: those refresh
// tokens are never presented in the new one's name.
func TestRefreshWithAnotherClient(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	e := startTokenEndpoint(t, "refresh-1")
	_, err := l.UpdateTenant(t.Context(), tenants.System(), l.owner, tenants.TenantChange{Client: &tenants.OAuthClient{ID: "new"}})
	ok(t, err)
	l.db.Advance(t, 2*time.Hour)
	_, err = newRefresher(t, e).AccessToken(t.Context(), l.PrismaConnection(l.owner, l.id))
	wantKind(t, "AccessToken()", err, fault.ReconnectRequired)
	if asked, _ := e.counts(); asked != 0 {
		t.Errorf("%d exchanges, want 0", asked)
	}
}

// A process whose clock is wrong, or jumps from one call to the next, refreshes when the
// database says so: not earlier, not later and not twice, and hands out nothing that has
// ended. Within a call it measures by a clock that does not jump, as Go's monotonic one.
func TestRefreshByTheDatabasesClock(t *testing.T) {
	t.Parallel()
	const far = 10 * time.Minute
	for name, offset := range map[string]func(call int64) time.Duration{
		"fast":       func(int64) time.Duration { return far },
		"slow":       func(int64) time.Duration { return -far },
		"jumps":      func(call int64) time.Duration { return time.Duration(call%3-1) * far },
		"runs ahead": func(call int64) time.Duration { return time.Duration(call) * far },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			e := startTokenEndpoint(t, "refresh-1")
			e.latency = time.Millisecond
			oauth, err := prisma.NewOAuth(prisma.OAuthConfig{AuthURL: e.URL})
			ok(t, err)
			var calls atomic.Int64
			refresher, err := prisma.NewRefresher(prisma.RefresherConfig{
				Exchanger: oauth, Now: func() time.Time { return clock().Add(offset(calls.Load())) },
			})
			ok(t, err)
			t.Cleanup(func() { _ = refresher.Wait(t.Context()) })
			connection := l.PrismaConnection(l.owner, l.id)
			ask := func(when string, exchanges int) {
				t.Helper()
				for range 20 {
					calls.Add(1)
					tokens, err := refresher.AccessToken(t.Context(), connection)
					ok(t, err)
					if now := one[time.Time](t, l.service, `SELECT app.wall_clock()`); !tokens.ExpiresAt.After(now) {
						t.Fatalf("%s: it hands out a token that ended at %s, now is %s", when, tokens.ExpiresAt, now)
					}
				}
				if asked, replays := e.counts(); asked != exchanges || replays != 0 {
					t.Errorf("%s: %d token requests and %d replays, want %d and none", when, asked, replays, exchanges)
				}
			}
			ask("fresh", 0)
			l.db.Advance(t, 30*time.Minute)
			ask("halfway", 0)
			l.db.Advance(t, 31*time.Minute)
			ask("after its end", 1)
			l.db.Advance(t, 61*time.Minute)
			ask("after the next one's", 2)
		})
	}
}
