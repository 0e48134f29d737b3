package prisma_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

const (
	notLoggedIn = "No tokens stored. Please log in first."
	loginDied   = "Prisma no longer accepts the refresh token. Please log in again."
)

// eachStorage runs a test with every kind of storage, a user logged in.
func eachStorage(t *testing.T, test func(t *testing.T, w *world, s prisma.TokenStorage, sdk *prisma.SDK)) {
	t.Helper()
	for name, storage := range storages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := storage(w)
			sdk := w.sdk(t, s, func(c *prisma.SDKConfig) {
				c.Refresh.BackoffFrom, c.Refresh.BackoffTo = time.Minute, time.Minute // passed by the clock
			})
			w.login(t, sdk)
			test(t, w, s, sdk)
		})
	}
}

func TestCallWithoutLogin(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	for name, storage := range storages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantAuthError(t, call(t.Context(), w.sdk(t, storage(w))), notLoggedIn, false)
		})
	}
	t.Cleanup(func() {
		if n := w.tokenRequests.Load(); n != 0 {
			t.Errorf("%d token requests, want none", n)
		}
	})
}

// TestConcurrentCallsShareOneRefresh: 20 calls on a token that has expired, as the SDK
// can tell by the clock or only by the API's answer.
func TestConcurrentCallsShareOneRefresh(t *testing.T) {
	t.Parallel()

	for name, expire := range map[string]func(*testing.T, *world){
		"refused by the API": func(t *testing.T, w *world) { t.Helper(); w.expire(t) },
		"by the clock":       func(t *testing.T, w *world) { t.Helper(); w.advance(t, 2*time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachStorage(t, func(t *testing.T, w *world, s prisma.TokenStorage, sdk *prisma.SDK) {
				t.Helper()
				before, err := s.Tokens(t.Context())
				if err != nil {
					t.Fatalf("Tokens() error = %v", err)
				}
				expire(t, w)
				w.faults(t, map[string]any{"tokenLatency": "100ms"})
				var wg sync.WaitGroup
				for range 20 {
					wg.Go(func() {
						if err := call(t.Context(), sdk); err != nil {
							t.Errorf("call error = %v", err)
						}
					})
				}
				wg.Wait()
				if _, refreshes, replays := w.counts(t); refreshes != 1 || replays != 0 {
					t.Errorf("%d refreshes and %d replays, want 1 and 0", refreshes, replays)
				}
				after, err := s.Tokens(t.Context())
				if err != nil || after.Access == before.Access || after.Refresh == before.Refresh || after.WorkspaceID != before.WorkspaceID {
					t.Errorf("stored = %v, %v, want a new pair of the same workspace", after, err)
				}
			})
		})
	}
}

// TestRefreshedBeforeExpiry: no call ever meets a 401 because time has passed.
func TestRefreshedBeforeExpiry(t *testing.T) {
	t.Parallel()

	eachStorage(t, func(t *testing.T, w *world, _ prisma.TokenStorage, sdk *prisma.SDK) {
		t.Helper()
		refused := make(chan struct{}, 100)
		w.intercept(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(&statusWatch{ResponseWriter: rw, on: http.StatusUnauthorized, seen: refused}, r)
		})
		for range 6 {
			w.advance(t, 59*time.Minute+30*time.Second) // within the margin, not expired
			if err := call(t.Context(), sdk); err != nil {
				t.Errorf("call error = %v", err)
			}
		}
		if len(refused) != 0 {
			t.Errorf("%d answers of 401, want none", len(refused))
		}
		if _, refreshes, _ := w.counts(t); refreshes != 6 {
			t.Errorf("%d refreshes, want 6", refreshes)
		}
	})
}

// statusWatch signals a status.
type statusWatch struct {
	http.ResponseWriter

	on   int
	seen chan<- struct{}
}

// Unwrap lets http.ResponseController reach the connection.
func (s *statusWatch) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func (s *statusWatch) WriteHeader(status int) {
	if status == s.on {
		s.seen <- struct{}{}
	}
	s.ResponseWriter.WriteHeader(status)
}

func TestCallAfterInvalidGrant(t *testing.T) {
	t.Parallel()

	eachStorage(t, func(t *testing.T, w *world, s prisma.TokenStorage, sdk *prisma.SDK) {
		t.Helper()
		w.Control(t, http.MethodPost, "revoke", map[string]string{"grant": w.Ledger(t).RefreshTokens[0].Grant}, nil)
		err := call(t.Context(), sdk)
		wantAuthError(t, err, loginDied, true)
		wantAuthCode(t, err, "invalid_grant")
		if got, err := s.Tokens(t.Context()); err == nil {
			t.Errorf("stored = %v, want nothing", got)
		}
		again, ok := errors.AsType[*prisma.AuthError](call(t.Context(), sdk))
		if !ok || w.tokenRequests.Load() != 2 {
			t.Errorf("next call: %v after %d token requests, want an *AuthError after 2", again, w.tokenRequests.Load())
		}
		w.login(t, sdk)
		if err := call(t.Context(), sdk); err != nil {
			t.Errorf("call after another login: %v", err)
		}
	})
}

// TestInvalidGrantKeepsANewerPair: the refresh token that is refused is no longer the
// stored one, because somebody has logged in meanwhile.
func TestInvalidGrantKeepsANewerPair(t *testing.T) {
	t.Parallel()

	eachStorage(t, func(t *testing.T, w *world, s prisma.TokenStorage, sdk *prisma.SDK) {
		t.Helper()
		w.Control(t, http.MethodPost, "revoke", map[string]string{"grant": w.Ledger(t).RefreshTokens[0].Grant}, nil)
		arrived, release := w.hold(t)
		done := make(chan error, 1)
		go func() { done <- call(t.Context(), sdk) }()
		<-arrived
		w.login(t, sdk)
		release()
		if err := <-done; err != nil {
			t.Errorf("call error = %v, want the newer pair used", err)
		}
		if _, err := s.Tokens(t.Context()); err != nil {
			t.Errorf("Tokens() error = %v, want the newer pair kept", err)
		}
	})
}

func TestRefreshFails(t *testing.T) {
	t.Parallel()

	for name, tc := range map[string]struct {
		faults map[string]any
		heals  bool // the token was not used up
	}{
		"refused unprocessed": {faults: map[string]any{"tokenFailBefore": 1}, heals: true},
		"failed processed":    {faults: map[string]any{"tokenFailAfter": 1}},
		"cut":                 {faults: map[string]any{"tokenDropAfter": 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachStorage(t, func(t *testing.T, w *world, s prisma.TokenStorage, sdk *prisma.SDK) {
				t.Helper()
				before, err := s.Tokens(t.Context())
				if err != nil {
					t.Fatalf("Tokens() error = %v", err)
				}
				w.expire(t)
				w.faults(t, tc.faults)
				for i := range 3 { // the pause after the first keeps the others away
					err := call(t.Context(), sdk)
					wantFetchError(t, err, false)
					if failure, ok := errors.AsType[*prisma.FetchError](err); ok && i > 0 && failure.RetryAfter <= 0 {
						t.Errorf("error = %v, want it to say when to come back", failure)
					}
					if strings.Contains(err.Error(), string(fault.PrismaUnavailable)) {
						t.Errorf("error = %v, want no word of the service's own", err)
					}
				}
				if _, refreshes, _ := w.counts(t); refreshes != 1 {
					t.Errorf("%d refreshes, want 1", refreshes)
				}
				if after, err := s.Tokens(t.Context()); err != nil || !after.SamePair(before) {
					t.Errorf("stored = %v, %v, want the same as before", after, err)
				}
				w.faults(t, map[string]any{"tokenFailBefore": 0, "tokenFailAfter": 0, "tokenDropAfter": 0})
				w.advance(t, 2*time.Minute)
				err = call(t.Context(), sdk)
				if tc.heals && err != nil {
					t.Errorf("call error = %v, want it healed", err)
				}
				if !tc.heals {
					wantAuthError(t, err, loginDied, true)
				}
			})
		})
	}
}

func TestRefreshWithWrongSecret(t *testing.T) {
	t.Parallel()

	eachStorage(t, func(t *testing.T, w *world, s prisma.TokenStorage, _ *prisma.SDK) {
		t.Helper()
		sdk := w.sdk(t, s, func(c *prisma.SDKConfig) { c.ClientSecret = "wrong" })
		w.expire(t)
		wantAuthError(t, call(t.Context(), sdk),
			"invalid_client: Prisma refused the token request. Check the client ID, the client secret and the redirect URI.", false)
		if _, err := s.Tokens(t.Context()); err != nil {
			t.Errorf("Tokens() error = %v, want the tokens kept", err)
		}
	})
}

// nobody is an address where nothing listens.
func nobody(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	return server.URL
}

func TestNetworkDown(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	s := w.memory()
	w.login(t, w.sdk(t, s))
	away := nobody(t)
	t.Run("of the API", func(t *testing.T) {
		t.Parallel()
		sdk := w.sdk(t, s, func(c *prisma.SDKConfig) { c.APIBaseURL, c.Retry = away, managementapi.RetrySettings{Attempts: 1} })
		err := call(t.Context(), sdk)
		wantFetchError(t, err, false)
		if _, ok := errors.AsType[*net.OpError](err); !ok {
			t.Errorf("error = %v, want the network's in it", err)
		}
	})
	t.Run("of the token endpoint", func(t *testing.T) {
		t.Parallel()
		own := prisma.NewMemoryStorage(now, 0)
		stale := pair("r", 2*time.Hour)
		if err := own.SetTokens(t.Context(), stale); err != nil {
			t.Fatalf("SetTokens() error = %v", err)
		}
		sdk := w.sdk(t, own, func(c *prisma.SDKConfig) { c.AuthBaseURL = away })
		err := call(t.Context(), sdk)
		wantFetchError(t, err, false)
		failure, ok := errors.AsType[*prisma.TokenError](err)
		if _, network := errors.AsType[*net.OpError](err); !ok || !network || failure.Class != prisma.NotSent {
			t.Errorf("error = %v, want the network's in a *TokenError", err)
		}
		if _, err := own.Tokens(t.Context()); err != nil {
			t.Errorf("Tokens() error = %v, want the tokens kept", err)
		}
		err = sdk.HandleCallback(t.Context(), "/cb?code=c&state=s", "v", "s")
		wantFetchError(t, err, false)
	})
}

// TestRefusedTwice: the second 401 is the API's answer, and there is no third try.
func TestRefusedTwice(t *testing.T) {
	t.Parallel()

	eachStorage(t, func(t *testing.T, w *world, _ prisma.TokenStorage, sdk *prisma.SDK) {
		t.Helper()
		var mu sync.Mutex
		calls := 0
		w.intercept(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
			if r.URL.Path == "/v1/me" {
				mu.Lock()
				calls++
				mu.Unlock()
				r.Header.Set("Authorization", "Bearer x")
			}
			next.ServeHTTP(rw, r)
		})
		answer, ok := errors.AsType[*prisma.APIError](call(t.Context(), sdk))
		if !ok || answer.Status != http.StatusUnauthorized {
			t.Errorf("call error = %v, want an *APIError of status 401", answer)
		}
		if _, refreshes, _ := w.counts(t); refreshes != 1 || calls != 2 {
			t.Errorf("%d refreshes and %d calls, want 1 and 2", refreshes, calls)
		}
	})
}

// TestRefusedWithoutABetterToken: the token endpoint gives the same pair again.
func TestRefusedWithoutABetterToken(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	s := newUserStorage()
	sdk := w.sdk(t, s)
	w.login(t, sdk)
	stored, err := s.Tokens(t.Context())
	if err != nil {
		t.Fatalf("Tokens() error = %v", err)
	}
	w.expire(t)
	w.intercept(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path != "/token" {
			next.ServeHTTP(rw, r)
			return
		}
		_, _ = fmt.Fprintf(rw, `{"access_token":%q,"refresh_token":%q}`, stored.Access, stored.Refresh)
	})
	err = call(t.Context(), sdk)
	if answer, ok := errors.AsType[*prisma.APIError](err); !ok || answer.Status != http.StatusUnauthorized {
		t.Errorf("call error = %v, want the *APIError of status 401", err)
	}
	if n := w.tokenRequests.Load(); n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}
}

func TestOtherAnswersAreNotRepeated(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	sdk := w.sdk(t, w.memory())
	w.login(t, sdk)
	_, err := sdk.Client().GetProject(t.Context(), "proj_none")
	if answer, ok := errors.AsType[*prisma.APIError](err); !ok || answer.Status != http.StatusNotFound {
		t.Errorf("error = %v, want an *APIError of status 404", err)
	}
	if _, refreshes, _ := w.counts(t); refreshes != 0 {
		t.Errorf("%d refreshes, want none", refreshes)
	}
}

func TestStorageErrorsPassThrough(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	sdk := w.sdk(t, brokenStorage{})
	for name, err := range map[string]error{"a call": call(t.Context(), sdk), "a logout": sdk.Logout(t.Context())} {
		if !errors.Is(err, errStorage) {
			t.Errorf("%s: error = %v, want the storage's", name, err)
		}
		if _, auth := errors.AsType[*prisma.AuthError](err); auth {
			t.Errorf("%s: an *AuthError, but nothing is known about the login", name)
		}
	}
}

// brokenStorage is a storage that is down.
type brokenStorage struct{}

func (brokenStorage) Tokens(context.Context) (prisma.Tokens, error) {
	return prisma.Tokens{}, errStorage
}
func (brokenStorage) SetTokens(context.Context, prisma.Tokens) error { return errStorage }
func (brokenStorage) ClearTokens(context.Context) error              { return errStorage }

// TestTokensOfUnknownAge: tokens as another SDK has stored them, without any time.
func TestTokensOfUnknownAge(t *testing.T) {
	t.Parallel()

	eachStorage(t, func(t *testing.T, w *world, s prisma.TokenStorage, sdk *prisma.SDK) {
		t.Helper()
		granted := w.Connect(t, prismasimtest.WorkspaceB)
		bare := prisma.Tokens{WorkspaceID: prismasimtest.WorkspaceB, Access: granted.Access, Refresh: granted.Refresh}
		if err := s.SetTokens(t.Context(), bare); err != nil {
			t.Fatalf("SetTokens() error = %v", err)
		}
		for range 2 {
			if err := call(t.Context(), sdk); err != nil {
				t.Errorf("call error = %v", err)
			}
			w.expire(t)
		}
		if err := call(t.Context(), sdk); err != nil {
			t.Errorf("call error = %v", err)
		}
		if _, refreshes, _ := w.counts(t); refreshes != 2 {
			t.Errorf("%d refreshes, want 2", refreshes)
		}
	})
}
