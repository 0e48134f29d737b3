package prisma_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

func TestLogout(t *testing.T) {
	t.Parallel()

	eachStorage(t, func(t *testing.T, w *world, s prisma.TokenStorage, sdk *prisma.SDK) {
		t.Helper()
		for range 2 {
			if err := sdk.Logout(t.Context()); err != nil {
				t.Errorf("Logout() error = %v", err)
			}
		}
		if got, err := s.Tokens(t.Context()); err == nil {
			t.Errorf("stored = %v, want nothing", got)
		}
		wantAuthError(t, call(t.Context(), sdk), notLoggedIn, false)
		w.login(t, sdk)
		if err := call(t.Context(), sdk); err != nil {
			t.Errorf("call after another login: %v", err)
		}
	})
}

func TestLogoutDuringRefresh(t *testing.T) {
	t.Parallel()

	eachStorage(t, func(t *testing.T, w *world, s prisma.TokenStorage, sdk *prisma.SDK) {
		t.Helper()
		w.expire(t)
		arrived, release := w.hold(t)
		done := make(chan error, 1)
		go func() { done <- call(t.Context(), sdk) }()
		<-arrived
		if err := sdk.Logout(t.Context()); err != nil {
			t.Errorf("Logout() error = %v", err)
		}
		release()
		wantAuthError(t, <-done, notLoggedIn, false)
		if got, err := s.Tokens(t.Context()); err == nil {
			t.Errorf("stored = %v, want nothing: the refresh undid the logout", got)
		}
	})
}

// TestLogoutWaitsForASave: a plain storage can't compare and write in one step, so a
// logout must not come between.
func TestLogoutWaitsForASave(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	s := newUserStorage()
	sdk := w.sdk(t, s)
	w.login(t, sdk)
	w.expire(t)
	saving, release := make(chan struct{}), make(chan struct{})
	s.set = func(int) error { close(saving); <-release; return nil }
	called, loggedOut := make(chan error, 1), make(chan error, 1)
	go func() { called <- call(t.Context(), sdk) }()
	<-saving
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if err := sdk.Logout(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Logout() error = %v, want it to wait until %v", err, context.DeadlineExceeded)
	}
	go func() { loggedOut <- sdk.Logout(t.Context()) }()
	close(release)
	if err := <-loggedOut; err != nil {
		t.Errorf("Logout() error = %v", err)
	}
	if err := <-called; err != nil { // either way: the logout may have come before the repetition
		wantAuthError(t, err, notLoggedIn, false)
	}
	if got, err := s.Tokens(t.Context()); err == nil {
		t.Errorf("stored = %v, want nothing", got)
	}
}

// TestLoginOvertaken: a login whose exchange is slow is not stored over what has
// happened since.
func TestLoginOvertaken(t *testing.T) {
	t.Parallel()

	for name, overtake := range map[string]struct {
		do     func(*testing.T, *world, *prisma.SDK)
		stored string
	}{
		"by a logout": {do: func(t *testing.T, _ *world, sdk *prisma.SDK) {
			t.Helper()
			if err := sdk.Logout(t.Context()); err != nil {
				t.Errorf("Logout() error = %v", err)
			}
		}},
		"by a later login": {stored: prismasimtest.WorkspaceB, do: func(t *testing.T, w *world, sdk *prisma.SDK) {
			t.Helper()
			w.Control(t, http.MethodPut, "consent", map[string]string{"mode": "approve", "workspaceId": prismasimtest.WorkspaceB}, nil)
			w.login(t, sdk)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for kind, storage := range storages() {
				t.Run(kind, func(t *testing.T) {
					t.Parallel()
					w := newWorld(t)
					s := storage(w)
					sdk := w.sdk(t, s)
					login, callback := w.begin(t, sdk, prisma.LoginOptions{})
					arrived, release := w.hold(t)
					done := make(chan error, 1)
					go func() { done <- sdk.HandleCallback(t.Context(), callback, login.Verifier, login.State) }()
					<-arrived
					overtake.do(t, w, sdk)
					release()
					wantAuthError(t, <-done, "Another login or a logout has taken the place of this one.", false)
					if got, err := s.Tokens(t.Context()); got.WorkspaceID != overtake.stored {
						t.Errorf("stored = %v, %v, want workspace %q", got, err, overtake.stored)
					}
				})
			}
		})
	}
}

// TestLogoutDuringDiscovery: a login counts from its first moment, not from its token
// request, before which the metadata may have to be read.
func TestLogoutDuringDiscovery(t *testing.T) {
	t.Parallel()

	for kind, storage := range storages() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := storage(w)
			login, callback := w.begin(t, w.sdk(t, s), prisma.LoginOptions{})
			arrived, release := w.holdPath(t, "/.well-known/oauth-authorization-server")
			sdk := w.sdk(t, s) // another process, say: it knows no metadata yet
			done := make(chan error, 1)
			go func() { done <- sdk.HandleCallback(t.Context(), callback, login.Verifier, login.State) }()
			<-arrived
			if err := sdk.Logout(t.Context()); err != nil {
				t.Errorf("Logout() error = %v", err)
			}
			release()
			wantAuthError(t, <-done, "Another login or a logout has taken the place of this one.", false)
			if got, err := s.Tokens(t.Context()); err == nil {
				t.Errorf("stored after the logout: %v", got)
			}
		})
	}
}

func TestCanceledBefore(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	s := w.memory()
	sdk := w.sdk(t, s)
	login, callback := w.begin(t, sdk, prisma.LoginOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := sdk.LoginURL(ctx, prisma.LoginOptions{})
	for name, err := range map[string]error{
		"LoginURL":       err,
		"HandleCallback": sdk.HandleCallback(ctx, callback, login.Verifier, login.State),
		"Logout":         sdk.Logout(ctx),
		"call":           call(ctx, w.sdk(t, newUserStorage())),
	} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error = %v, want %v", name, err, context.Canceled)
		}
	}
	if n := w.tokenRequests.Load(); n != 0 {
		t.Errorf("%d token requests, want none", n)
	}
}

// TestCanceledDuringLogin: the caller is free at once, and the grant is not lost.
func TestCanceledDuringLogin(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	s := w.memory()
	sdk := w.sdk(t, s)
	login, callback := w.begin(t, sdk, prisma.LoginOptions{})
	arrived, release := w.hold(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- sdk.HandleCallback(ctx, callback, login.Verifier, login.State) }()
	<-arrived
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("HandleCallback() error = %v, want %v", err, context.Canceled)
	}
	release()
	if err := sdk.Close(t.Context()); err != nil {
		t.Errorf("Close() error = %v", err)
	}
	if got, err := s.Tokens(t.Context()); err != nil || got.Refresh == "" {
		t.Errorf("stored = %v, %v, want the login's tokens", got, err)
	}
}

func TestCanceledDuringCall(t *testing.T) {
	t.Parallel()

	for name, path := range map[string]string{"at the API": "/v1/me", "at the token endpoint": "/token"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			eachStorage(t, func(t *testing.T, w *world, s prisma.TokenStorage, sdk *prisma.SDK) {
				t.Helper()
				w.expire(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				left := make(chan struct{})
				w.intercept(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
					if r.URL.Path == path && ctx.Err() == nil {
						cancel()
						<-left
					}
					next.ServeHTTP(rw, r)
				})
				err := call(ctx, sdk)
				close(left)
				if !errors.Is(err, context.Canceled) {
					t.Errorf("call error = %v, want %v", err, context.Canceled)
				}
				if err := call(t.Context(), sdk); err != nil {
					t.Errorf("next call: %v", err)
				}
				if _, refreshes, replays := w.counts(t); refreshes != 1 || replays != 0 {
					t.Errorf("%d refreshes and %d replays, want 1 and 0", refreshes, replays)
				}
				if _, err := s.Tokens(t.Context()); err != nil {
					t.Errorf("Tokens() error = %v", err)
				}
			})
		})
	}
}

// TestLoginStoredAtLast: the tokens of a login are the only copy, so storing them is
// tried again, and the code is not.
func TestLoginStoredAtLast(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	s := newUserStorage()
	s.set = func(n int) error {
		switch n {
		case 1:
			return errStorage
		case 2:
			panic("a storage that panics") // with whatever it had in hand
		}
		return nil
	}
	sdk := w.sdk(t, s, func(c *prisma.SDKConfig) { c.Refresh.SaveRetryFrom = time.Millisecond })
	w.login(t, sdk)
	if got, err := s.Tokens(t.Context()); err != nil || got.WorkspaceID != prismasimtest.WorkspaceA {
		t.Errorf("stored = %v, %v, want the login's tokens", got, err)
	}
	if n := w.tokenRequests.Load(); n != 1 {
		t.Errorf("%d token requests, want 1", n)
	}
}

func TestLoginNeverStored(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		giveUp func(*testing.T, *world, *prisma.SDK)
	}{
		"for too long": {func(t *testing.T, w *world, _ *prisma.SDK) { t.Helper(); w.advance(t, 2*time.Minute) }},
		"and closed": {func(t *testing.T, _ *world, sdk *prisma.SDK) {
			t.Helper()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := sdk.Close(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Close() error = %v, want %v", err, context.Canceled)
			}
		}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := newUserStorage()
			tried := make(chan struct{}, 10_000)
			s.set = func(int) error { tried <- struct{}{}; return errStorage }
			sdk := w.sdk(t, s, func(c *prisma.SDKConfig) {
				c.Refresh.SaveRetryFrom, c.Refresh.SaveRetryTo = time.Millisecond, time.Millisecond
			})
			login, callback := w.begin(t, sdk, prisma.LoginOptions{})
			done := make(chan error, 1)
			go func() { done <- sdk.HandleCallback(t.Context(), callback, login.Verifier, login.State) }()
			<-tried
			<-tried
			tc.giveUp(t, w, sdk)
			if err := <-done; !errors.Is(err, errStorage) {
				t.Errorf("HandleCallback() error = %v, want the storage's", err)
			}
			if n := w.tokenRequests.Load(); n != 1 {
				t.Errorf("%d token requests, want 1", n)
			}
		})
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()

	eachStorage(t, func(t *testing.T, w *world, _ prisma.TokenStorage, sdk *prisma.SDK) {
		t.Helper()
		login, callback := w.begin(t, sdk, prisma.LoginOptions{})
		if err := sdk.Close(t.Context()); err != nil {
			t.Fatalf("Close() error = %v", err)
		}
		if err := call(t.Context(), sdk); err != nil {
			t.Errorf("call with a live token after Close: %v", err)
		}
		if err := sdk.HandleCallback(t.Context(), callback, login.Verifier, login.State); err == nil {
			t.Error("HandleCallback() works after Close")
		}
		w.expire(t)
		wantFetchError(t, call(t.Context(), sdk), false)
		if n := w.tokenRequests.Load(); n != 1 {
			t.Errorf("%d token requests, want 1", n)
		}
	})
}

// TestSDKShowsNoSecret prints everything that a program might print.
func TestSDKShowsNoSecret(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	s := w.memory()
	var logged bytes.Buffer
	cfg := prisma.SDKConfig{
		ClientID: prismasimtest.ClientID, ClientSecret: prismasimtest.ClientSecret, RedirectURI: prismasimtest.RedirectURI,
		TokenStorage: s, APIBaseURL: w.front, AuthBaseURL: w.front, Now: w.now,
		Logger: slog.New(slog.NewJSONHandler(&logged, nil)),
	}
	sdk, err := prisma.NewSDK(cfg)
	if err != nil {
		t.Fatalf("NewSDK() error = %v", err)
	}
	login, callback := w.begin(t, sdk, prisma.LoginOptions{})
	code := strings.TrimPrefix(callback, prismasimtest.RedirectURI)
	w.faults(t, map[string]any{"tokenFailAfter": 1})
	failed := sdk.HandleCallback(t.Context(), callback, login.Verifier, login.State)
	refused := sdk.HandleCallback(t.Context(), callback, login.Verifier, "x")
	w.faults(t, map[string]any{"tokenFailAfter": 0})
	w.login(t, sdk)
	tokens, err := s.Tokens(t.Context())
	if err != nil {
		t.Fatalf("Tokens() error = %v", err)
	}
	w.expire(t)
	w.faults(t, map[string]any{"tokenDropAfter": 1})
	cut := call(t.Context(), sdk)

	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	for _, v := range []any{cfg, &cfg, sdk, login, &login, failed, refused, cut, sdk.Client()} {
		fmt.Fprintf(&out, "%v %+v %#v %s\n", v, v, v, v)
		log.InfoContext(t.Context(), "seen", slog.Any("value", v))
	}
	if err := sdk.Close(t.Context()); err != nil {
		t.Errorf("Close() error = %v", err)
	}
	out.Write(logged.Bytes())
	for name, secret := range map[string]string{
		"client secret": prismasimtest.ClientSecret, "state": login.State, "verifier": login.Verifier,
		"code": code, "access token": tokens.Access, "refresh token": tokens.Refresh,
	} {
		if secret == "" || strings.Contains(out.String(), secret) {
			t.Errorf("the %s is shown, or the test knows none", name)
		}
	}
	if logged.Len() == 0 {
		t.Error("nothing was logged")
	}
}

func TestNewSDKRefuses(t *testing.T) {
	t.Parallel()

	for name, spoil := range map[string]func(*prisma.SDKConfig){
		"no client":                   func(c *prisma.SDKConfig) { c.ClientID = "" },
		"no storage":                  func(c *prisma.SDKConfig) { c.TokenStorage = nil },
		"no redirect URI":             func(c *prisma.SDKConfig) { c.RedirectURI = "" },
		"relative redirect URI":       func(c *prisma.SDKConfig) { c.RedirectURI = "/cb" },
		"fragment":                    func(c *prisma.SDKConfig) { c.RedirectURI += "#x" },
		"auth server no URL":          func(c *prisma.SDKConfig) { c.AuthBaseURL = "auth.prisma.io" },
		"API no URL":                  func(c *prisma.SDKConfig) { c.APIBaseURL = "ftp://api.prisma.io" },
		"fixed authorization":         func(c *prisma.SDKConfig) { c.Header = http.Header{"Authorization": {"Bearer x"}} },
		"authorization in lower case": func(c *prisma.SDKConfig) { c.Header = http.Header{"authorization": {"Bearer x"}} },
		"auth server by plain http":   func(c *prisma.SDKConfig) { c.AuthBaseURL = "http://auth.example.com" },
		"API by plain http":           func(c *prisma.SDKConfig) { c.APIBaseURL = "http://api.example.com" },
		"refresh without limits":      func(c *prisma.SDKConfig) { c.Refresh.Lease = time.Second },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := prisma.SDKConfig{ClientID: "c", RedirectURI: "http://localhost/cb", TokenStorage: prisma.NewMemoryStorage(now, 0)}
			if _, err := prisma.NewSDK(cfg); err != nil {
				t.Fatalf("NewSDK() error = %v before it is spoilt", err)
			}
			spoil(&cfg)
			if _, err := prisma.NewSDK(cfg); err == nil {
				t.Error("NewSDK() accepts it")
			}
		})
	}
}

// TestSDKHeader: own headers go with every API call and with no token request.
func TestSDKHeader(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	sdk := w.sdk(t, w.memory(), func(c *prisma.SDKConfig) {
		c.Header, c.Retry = http.Header{"X-Custom": {"value"}}, managementapi.RetrySettings{Attempts: 1}
	})
	seen := make(chan string, 10)
	w.intercept(func(rw http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.Method == http.MethodPost || r.URL.Path == "/v1/me" {
			seen <- r.URL.Path + " " + r.Header.Get("X-Custom")
		}
		next.ServeHTTP(rw, r)
	})
	w.login(t, sdk)
	if err := call(t.Context(), sdk); err != nil {
		t.Errorf("call error = %v", err)
	}
	if first, second := <-seen, <-seen; first != "/token " || second != "/v1/me value" {
		t.Errorf("requests %q, %q", first, second)
	}
}
