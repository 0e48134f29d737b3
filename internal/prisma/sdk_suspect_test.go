package prisma_test

import (
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
)

// tokenRequests lets the first n token requests with a refresh token be processed and
// answered with a 502, and counts them all. probes are those without a token.
type tokenRequests struct {
	lost, sent, probes atomic.Int32
	failing            atomic.Int32    // as lost, but not processed
	down               atomic.Bool     // nothing is processed, and probes fail too
	arrived            chan<- struct{} // if set, gets a value for each that is sent
}

func (r *tokenRequests) intercept(w *world) {
	w.intercept(func(rw http.ResponseWriter, req *http.Request, next http.Handler) {
		if req.URL.Path != "/token" {
			next.ServeHTTP(rw, req)
			return
		}
		if req.ContentLength == 0 {
			r.probes.Add(1)
		} else {
			r.sent.Add(1)
			if r.arrived != nil {
				r.arrived <- struct{}{}
			}
		}
		switch {
		case r.down.Load():
			rw.WriteHeader(http.StatusServiceUnavailable)
		case req.ContentLength > 0 && r.failing.Add(-1) >= 0:
			rw.WriteHeader(http.StatusServiceUnavailable)
		case req.ContentLength > 0 && r.lost.Add(-1) >= 0:
			next.ServeHTTP(discarded{http.Header{}}, req)
			rw.WriteHeader(http.StatusBadGateway)
		default:
			next.ServeHTTP(rw, req)
		}
	})
}

// discarded takes an answer that nobody gets.
type discarded struct{ header http.Header }

func (d discarded) Header() http.Header         { return d.header }
func (d discarded) Write(p []byte) (int, error) { return len(p), nil }
func (d discarded) WriteHeader(int)             {}

// TestLostAnswerIsNotReplayedEarly: a background refresh whose answer is lost must not be
// sent again while the access token still works, whatever the storage can remember.
func TestLostAnswerIsNotReplayedEarly(t *testing.T) {
	t.Parallel()
	eachStorage(t, func(t *testing.T, w *world, _ prisma.TokenStorage, sdk *prisma.SDK) {
		t.Helper()
		arrived := make(chan struct{}, 100)
		requests := tokenRequests{arrived: arrived}
		requests.lost.Store(1)
		requests.intercept(w)
		w.advance(t, 52*time.Minute)
		for i := range 10 {
			if err := call(t.Context(), sdk); err != nil {
				t.Fatalf("call with an access token that works: %v", err)
			}
			if i == 0 {
				<-arrived
			}
			w.offset.Add(int64(40 * time.Second)) // past every pause
		}
		if err := sdk.Close(t.Context()); err != nil { // nothing is in flight any more
			t.Fatalf("Close() error = %v", err)
		}
		if _, _, replays := w.counts(t); requests.sent.Load() != 1 || replays != 0 {
			t.Errorf("%d token requests, %d replays, want one request", requests.sent.Load(), replays)
		}
	})
}

// TestRefusedSuspectIsRenewed: as soon as the API refuses the access token of a pair of
// unknown fate, waiting makes no sense, although each call meets the pause of the
// background refresh first.
func TestRefusedSuspectIsRenewed(t *testing.T) {
	t.Parallel()
	eachStorage(t, func(t *testing.T, w *world, _ prisma.TokenStorage, sdk *prisma.SDK) {
		t.Helper()
		var requests tokenRequests
		requests.down.Store(true)
		requests.intercept(w)
		w.advance(t, 52*time.Minute)
		for range 3 { // the first starts the refresh that fails, the next find it too early
			if err := call(t.Context(), sdk); err != nil {
				t.Fatalf("call with an access token that works: %v", err)
			}
			w.offset.Add(int64(40 * time.Second))
		}
		requests.down.Store(false)
		w.expire(t)
		err := errors.New("not called yet")
		for tries := 0; err != nil && tries < 3; tries++ { // the pause after the failure may still last
			err = call(t.Context(), sdk)
			w.offset.Add(int64(40 * time.Second))
		}
		if err != nil {
			t.Errorf("call with a refused access token: %v", err)
		}
		if _, _, replays := w.counts(t); replays != 0 {
			t.Errorf("%d replays", replays)
		}
	})
}

// TestOutageDoesNotEndALogin: a token of unknown fate is not spent on an endpoint that is
// down. That is found out without a token.
func TestOutageDoesNotEndALogin(t *testing.T) {
	t.Parallel()
	eachStorage(t, func(t *testing.T, w *world, _ prisma.TokenStorage, sdk *prisma.SDK) {
		t.Helper()
		var requests tokenRequests
		requests.down.Store(true)
		requests.intercept(w)
		w.expire(t)
		for range 30 {
			wantFetchError(t, call(t.Context(), sdk), false)
			w.offset.Add(int64(2 * time.Minute))
		}
		if sent, probes := requests.sent.Load(), requests.probes.Load(); sent != 1 || probes == 0 {
			t.Errorf("the refresh token was sent %d times, want once; %d probes, want some", sent, probes)
		}
		requests.down.Store(false)
		if err := call(t.Context(), sdk); err != nil {
			t.Errorf("call after the outage: %v", err)
		}
		if _, _, replays := w.counts(t); replays != 0 || requests.sent.Load() != 2 {
			t.Errorf("the refresh token was sent %d times with %d replays, want twice and none", requests.sent.Load(), replays)
		}
	})
}

// TestFailuresDoNotEndALogin: an endpoint that fails again and again with the same token
// has not refused it. It is asked at ever longer pauses, until it answers.
func TestFailuresDoNotEndALogin(t *testing.T) {
	t.Parallel()
	eachStorage(t, func(t *testing.T, w *world, _ prisma.TokenStorage, sdk *prisma.SDK) {
		t.Helper()
		var requests tokenRequests
		requests.failing.Store(5) // the probes in between go well
		requests.intercept(w)
		w.advance(t, 61*time.Minute)
		sent := make(map[time.Duration]bool)
		for passed := time.Duration(0); passed < time.Hour; passed += 30 * time.Second {
			before := requests.sent.Load()
			if err := call(t.Context(), sdk); err == nil {
				break
			}
			if requests.sent.Load() > before {
				sent[passed] = true
			}
			w.offset.Add(int64(30 * time.Second))
		}
		// Twice in the first minutes, then with pauses of 1, 2, 4 and 8 min and some more.
		if n := requests.sent.Load(); n != 6 {
			t.Errorf("the refresh token was sent %d times, at %v; want 6 times", n, sent)
		}
		if err := call(t.Context(), sdk); err != nil {
			t.Errorf("call after the failures: %v", err)
		}
		if _, _, replays := w.counts(t); replays != 0 {
			t.Errorf("%d replays", replays)
		}
	})
}

// TestUsedTokenIsAnsweredInTheEnd: a token that was used up is found out by the answer to
// its retry, and then the user has to log in.
func TestUsedTokenIsAnsweredInTheEnd(t *testing.T) {
	t.Parallel()
	eachStorage(t, func(t *testing.T, w *world, _ prisma.TokenStorage, sdk *prisma.SDK) {
		t.Helper()
		var requests tokenRequests
		requests.lost.Store(2)
		requests.intercept(w)
		w.advance(t, 61*time.Minute)
		var refused *prisma.AuthError
		for range 6 {
			if failure, ok := errors.AsType[*prisma.AuthError](call(t.Context(), sdk)); ok && refused == nil {
				refused = failure
			}
			w.offset.Add(int64(2 * time.Minute))
		}
		if got := requests.sent.Load(); got != 3 {
			t.Errorf("the refresh token was sent %d times, want 3 times", got)
		}
		if refused == nil || !refused.RefreshTokenInvalid {
			t.Errorf("error = %v, want an *AuthError that asks for a login", refused)
		}
	})
}

// TestLastMinuteWithoutARefreshToken: what nothing can follow is used to its end.
func TestLastMinuteWithoutARefreshToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sdk := w.sdk(t, w.memory())
	login, callback := w.begin(t, sdk, prisma.LoginOptions{Scope: "workspace:admin"})
	if err := sdk.HandleCallback(t.Context(), callback, login.Verifier, login.State); err != nil {
		t.Fatal(err)
	}
	w.advance(t, time.Hour-30*time.Second)
	if err := call(t.Context(), sdk); err != nil {
		t.Errorf("call 30 s before the end: %v", err)
	}
}

// TestRefusedClientStaysRefused: during the pause after a refusal the error is of the
// same class as at first.
func TestRefusedClientStaysRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := w.memory()
	w.login(t, w.sdk(t, s))
	bad := w.sdk(t, s, func(c *prisma.SDKConfig) { c.ClientSecret = "wrong" })
	w.expire(t)
	for range 3 {
		wantAuthCode(t, call(t.Context(), bad), "invalid_client")
	}
}
