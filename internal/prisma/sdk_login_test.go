package prisma_test

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

func TestLogin(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	s := w.memory()
	sdk := w.sdk(t, s)
	login, callback := w.begin(t, sdk, prisma.LoginOptions{Params: url.Values{"utm_source": {"my-app"}}})

	page, err := url.Parse(login.URL)
	if err != nil {
		t.Fatalf("login URL %q: %v", login.URL, err)
	}
	want := url.Values{
		"response_type": {"code"}, "client_id": {prismasimtest.ClientID}, "redirect_uri": {prismasimtest.RedirectURI},
		"scope": {"workspace:admin offline_access"}, "state": {login.State},
		"code_challenge": {prisma.Challenge(login.Verifier)}, "code_challenge_method": {"S256"}, "utm_source": {"my-app"},
	}
	if diff := cmp.Diff(want, page.Query()); diff != "" {
		t.Errorf("parameters of the login URL (-want +got):\n%s", diff)
	}
	if got := page.Scheme + "://" + page.Host + page.Path; got != w.front+"/authorize" {
		t.Errorf("login page = %s", got)
	}
	if !regexp.MustCompile(`^[\w-]{22}$`).MatchString(login.State) || !regexp.MustCompile(`^[\w-]{43}$`).MatchString(login.Verifier) {
		t.Errorf("state of %d and verifier of %d characters, want 22 and 43 of base64url", len(login.State), len(login.Verifier))
	}

	before := w.now()
	if err := sdk.HandleCallback(t.Context(), callback, login.Verifier, login.State); err != nil {
		t.Fatalf("HandleCallback() error = %v", err)
	}
	got, err := s.Tokens(t.Context())
	if err != nil || got.WorkspaceID != prismasimtest.WorkspaceA || got.Access == "" || got.Refresh == "" {
		t.Errorf("stored = %v, %v, want a pair of %s", got, err, prismasimtest.WorkspaceA)
	}
	if got.IssuedAt.Before(before) || got.ExpiresAt.Sub(got.IssuedAt) != time.Hour {
		t.Errorf("stored from %s to %s, want an hour from the request on", got.IssuedAt, got.ExpiresAt)
	}
	if err := call(t.Context(), sdk); err != nil {
		t.Errorf("call error = %v", err)
	}
	if codes, refreshes, _ := w.counts(t); codes != 1 || refreshes != 0 {
		t.Errorf("%d code exchanges and %d refreshes, want 1 and 0", codes, refreshes)
	}

	// A code is spent: presenting the same callback again brings nothing.
	err = sdk.HandleCallback(t.Context(), callback, login.Verifier, login.State)
	wantAuthError(t, err, "invalid_grant: Prisma did not accept the authorization code. Please log in again.", false)
	wantAuthCode(t, err, "invalid_grant")
}

func TestLoginsDiffer(t *testing.T) {
	t.Parallel()

	sdk, err := prisma.NewSDK(prisma.SDKConfig{
		ClientID: "c", RedirectURI: "http://localhost/cb", TokenStorage: prisma.NewMemoryStorage(now, 0), DisableDiscovery: true,
	})
	if err != nil {
		t.Fatalf("NewSDK() error = %v", err)
	}
	seen := map[string]bool{}
	for range 1000 {
		login, err := sdk.LoginURL(t.Context(), prisma.LoginOptions{Scope: "workspace:admin"})
		if err != nil || seen[login.State] || seen[login.Verifier] {
			t.Fatalf("LoginURL() error = %v, repeated %t", err, seen[login.State])
		}
		seen[login.State], seen[login.Verifier] = true, true
		if !strings.HasPrefix(login.URL, "https://auth.prisma.io/authorize?") || !strings.Contains(login.URL, "scope=workspace%3Aadmin&") {
			t.Fatalf("login URL = %s", login.URL)
		}
	}
	if _, err := sdk.LoginURL(t.Context(), prisma.LoginOptions{Params: url.Values{"redirect_uri": {"https://evil.example"}}}); err == nil {
		t.Error("LoginURL() accepts a parameter that replaces the redirect URI")
	}
}

func TestPublicClientLogsIn(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	s := newUserStorage()
	sdk := w.sdk(t, s, func(c *prisma.SDKConfig) {
		c.ClientID, c.ClientSecret, c.RedirectURI = prismasimtest.PublicClientID, "", "http://127.0.0.1:49152/cb"
	})
	w.login(t, sdk)
	w.expire(t)
	if err := call(t.Context(), sdk); err != nil {
		t.Errorf("call error = %v", err)
	}
}

// TestCallbackRefused: the order is part of the contract, so each case breaks everything
// that is looked at later, too.
func TestCallbackRefused(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	s := w.memory()
	sdk := w.sdk(t, s)
	login, good := w.begin(t, sdk, prisma.LoginOptions{})
	const (
		badURL   = "Invalid callback URL."
		badCode  = "No authorization code in the callback URL."
		badState = "Invalid state parameter: this callback belongs to no login that was begun here."
		badIss   = "The callback does not come from Prisma's authorization server."
	)
	set := func(pairs ...string) string {
		return edit(t, good, func(q url.Values) {
			for i := 0; i < len(pairs); i += 2 {
				q.Set(pairs[i], pairs[i+1])
			}
		})
	}
	drop := func(names ...string) string {
		return edit(t, good, func(q url.Values) {
			for _, name := range names {
				q.Del(name)
			}
		})
	}
	double := func(name string) string {
		return edit(t, good, func(q url.Values) { q[name] = []string{q.Get(name), "x"} })
	}
	long := strings.Repeat("é", 1000)

	tests := map[string]struct {
		callback, state, verifier string
		want, code                string
	}{
		"not a URL":                  {callback: "not a url", want: badURL},
		"nothing":                    {want: badURL},
		"unparseable":                {callback: "http://[::1/cb?error=a", want: badURL},
		"bad escape":                 {callback: "http://localhost/cb?error=%zz", want: badURL},
		"too long":                   {callback: "http://localhost/cb?error=a&x=" + strings.Repeat("x", 20_000), want: badURL},
		"two codes":                  {callback: double("code"), want: badURL},
		"two states":                 {callback: double("state"), want: badURL},
		"two errors":                 {callback: double("error"), want: badURL},
		"two issuers":                {callback: double("iss"), state: login.State, verifier: "v", want: badURL},
		"denied":                     {callback: "http://localhost/cb?error=access_denied&error_description=User+cancelled", want: "access_denied: User cancelled", code: "access_denied"},
		"error alone":                {callback: "/cb?error=server_error", want: "server_error", code: "server_error"},
		"error and code":             {callback: set("error", "access_denied"), state: login.State, verifier: login.Verifier, want: "access_denied", code: "access_denied"},
		"error made of anything":     {callback: "/cb?error=%1b[31m<b>%00&error_description=a%0d%0ab%E2%80%AE%FFc", want: "[31m<b>: a bc"},
		"long error":                 {callback: "/cb?error=" + long + "&error_description=" + long, want: long[:128] + "…: " + long[:600] + "…"},
		"no code":                    {callback: drop("code", "state"), want: badCode},
		"empty error, no code":       {callback: "/cb?error=", want: badCode},
		"no state":                   {callback: drop("state"), state: login.State, want: badState},
		"no state, none expected":    {callback: drop("state"), want: badState},
		"empty state, none expected": {callback: set("state", ""), want: badState},
		"state, none expected":       {callback: good, want: badState},
		"another state":              {callback: set("state", "x"), state: login.State, want: badState},
		"state and more":             {callback: set("state", login.State+"x"), state: login.State, want: badState},
		"no verifier":                {callback: drop("iss"), state: login.State, want: "The verifier of this login is missing. Please log in again."},
		"no issuer":                  {callback: drop("iss"), state: login.State, verifier: login.Verifier, want: badIss},
		"empty issuer":               {callback: set("iss", ""), state: login.State, verifier: login.Verifier, want: badIss},
		"another issuer":             {callback: set("iss", "https://evil.example"), state: login.State, verifier: login.Verifier, want: badIss},
	}
	t.Cleanup(func() {
		if n := w.tokenRequests.Load(); n != 0 {
			t.Errorf("%d token requests, want none", n)
		}
	})
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := sdk.HandleCallback(t.Context(), tc.callback, tc.verifier, tc.state)
			wantAuthError(t, err, tc.want, false)
			wantAuthCode(t, err, tc.code)
		})
	}
}

// TestCallbackAsAServerSeesIt: path and query are enough, and a proxy may have changed
// the rest.
func TestCallbackAsAServerSeesIt(t *testing.T) {
	t.Parallel()

	w := newWorld(t)
	for name, rewrite := range map[string]func(*url.URL){
		"path and query": func(u *url.URL) { u.Scheme, u.Host = "", "" },
		"behind a proxy": func(u *url.URL) { u.Scheme, u.Host, u.Path = "http", "10.0.0.7:8080", "/inner/cb" },
		"own scheme":     func(u *url.URL) { u.Scheme, u.Host = "vscode", "publisher.extension" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sdk := w.sdk(t, w.memory())
			login, callback := w.begin(t, sdk, prisma.LoginOptions{})
			u, err := url.Parse(callback)
			if err != nil {
				t.Fatalf("callback: %v", err)
			}
			rewrite(u)
			if err := sdk.HandleCallback(t.Context(), u.String(), login.Verifier, login.State); err != nil {
				t.Errorf("HandleCallback() error = %v", err)
			}
		})
	}
}

func TestLoginWithoutOfflineAccess(t *testing.T) {
	t.Parallel()

	for name, storage := range storages() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := storage(w)
			sdk := w.sdk(t, s)
			login, callback := w.begin(t, sdk, prisma.LoginOptions{Scope: "workspace:admin"})
			if err := sdk.HandleCallback(t.Context(), callback, login.Verifier, login.State); err != nil {
				t.Fatalf("HandleCallback() error = %v", err)
			}
			if got, err := s.Tokens(t.Context()); err != nil || got.Refresh != "" || got.WorkspaceID != prismasimtest.WorkspaceA {
				t.Errorf("stored = %v, %v, want no refresh token", got, err)
			}
			if err := call(t.Context(), sdk); err != nil {
				t.Errorf("call error = %v", err)
			}
			w.expire(t)
			wantAuthError(t, call(t.Context(), sdk), "No refresh token available. Please log in again.", false)
			if _, err := s.Tokens(t.Context()); err != nil {
				t.Errorf("Tokens() error = %v, want the tokens kept", err)
			}
			w.advance(t, 2*time.Hour)
			wantAuthError(t, call(t.Context(), sdk), "No refresh token available. Please log in again.", false)
			if _, refreshes, _ := w.counts(t); refreshes != 0 {
				t.Errorf("%d refreshes, want none", refreshes)
			}
		})
	}
}

func TestLoginFails(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		faults map[string]any
		change func(*prisma.SDKConfig)
		fetch  bool
		want   string
	}{
		"refused unprocessed": {faults: map[string]any{"tokenFailBefore": 1}, fetch: true},
		"failed processed":    {faults: map[string]any{"tokenFailAfter": 1}, fetch: true},
		"cut":                 {faults: map[string]any{"tokenDropAfter": 1}, fetch: true},
		"wrong secret": {
			change: func(c *prisma.SDKConfig) { c.ClientSecret = "wrong" },
			want:   "invalid_client: Prisma refused the token request. Check the client ID, the client secret and the redirect URI.",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := w.memory()
			change := tc.change
			if change == nil {
				change = func(*prisma.SDKConfig) {}
			}
			sdk := w.sdk(t, s, change)
			login, callback := w.begin(t, sdk, prisma.LoginOptions{})
			w.faults(t, tc.faults)
			err := sdk.HandleCallback(t.Context(), callback, login.Verifier, login.State)
			if tc.fetch {
				wantFetchError(t, err, true)
			} else {
				wantAuthError(t, err, tc.want, false)
			}
			if failure, ok := errors.AsType[*prisma.TokenError](err); !ok {
				t.Errorf("error = %v, want the *TokenError in it", failure)
			}
			if _, err := s.Tokens(t.Context()); err == nil {
				t.Error("tokens are stored")
			}
			if codes, _, _ := w.counts(t); codes != 1 {
				t.Errorf("%d code exchanges, want 1", codes)
			}
		})
	}
}

// TestLoginWithGarbledAnswer: an answer that can't be used is a *FetchError.
func TestLoginWithGarbledAnswer(t *testing.T) {
	t.Parallel()

	for name, body := range map[string]string{
		"HTML":         "<html>",
		"no token":     `{"token_type":"bearer"}`,
		"no workspace": `{"access_token":"` + jwt(`{"sub":"x"}`) + `","refresh_token":"r"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			sdk := w.sdk(t, w.memory())
			login, callback := w.begin(t, sdk, prisma.LoginOptions{})
			w.intercept(func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) {
				_, _ = rw.Write([]byte(body))
			})
			wantFetchError(t, sdk.HandleCallback(t.Context(), callback, login.Verifier, login.State), true)
		})
	}
}
