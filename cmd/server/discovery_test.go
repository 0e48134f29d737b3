package main_test

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// authServer is an authorization server that answers nothing but the question for its
// metadata.
type authServer struct {
	*httptest.Server

	changes  atomic.Pointer[map[string]any] // of a good document; nil: 503 and none
	foreign  atomic.Int32                   // requests for anything else
	metadata atomic.Int32                   // requests for the metadata
}

func newAuthServer(tb testing.TB) *authServer {
	tb.Helper()
	a := &authServer{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/.well-known/oauth-authorization-server" {
			a.foreign.Add(1)
			http.NotFound(w, r)
			return
		}
		a.metadata.Add(1)
		changes := a.changes.Load()
		if changes == nil {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		doc := map[string]any{
			"issuer": a.URL, "authorization_endpoint": a.URL + "/found/authorize", "token_endpoint": a.URL + "/found/token",
			"response_types_supported": []string{"code"}, "code_challenge_methods_supported": []string{"S256"},
			"authorization_response_iss_parameter_supported": true,
		}
		maps.Copy(doc, *changes)
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(doc); err != nil {
			tb.Errorf("write the metadata: %v", err)
		}
	}))
	tb.Cleanup(a.Close)
	return a
}

// TestServeRefusesAnAuthorizationServer: what says that it can't keep a code safe, is
// another server, or leads to one, stops the start before anything is served.
func TestServeRefusesAnAuthorizationServer(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	tests := map[string]struct {
		changes map[string]any
		words   []string
	}{
		"no PKCE":                {map[string]any{"code_challenge_methods_supported": nil}, []string{"S256"}},
		"plain PKCE":             {map[string]any{"code_challenge_methods_supported": []string{"plain"}}, []string{"S256"}},
		"another issuer":         {map[string]any{"issuer": "https://marker.example"}, []string{"issuer"}},
		"foreign token endpoint": {map[string]any{"token_endpoint": "https://marker.example/token"}, []string{"token_endpoint", "origin"}},
		"foreign consent page":   {map[string]any{"authorization_endpoint": "http://127.0.0.1:1/marker"}, []string{"authorization_endpoint", "origin"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			auth := newAuthServer(t)
			auth.changes.Store(&tc.changes)
			code, stdout, stderr := run(t, launch{args: []string{"serve"}, env: in.with(map[string]string{"PRISMA_AUTH_URL": auth.URL})})
			checkRefusal(t, code, stderr, append(tc.words, "PRISMA_AUTH_URL")...)
			if strings.Contains(stdout+stderr, "marker") {
				t.Errorf("the refusal repeats the document:\n%s", stderr)
			}
			if auth.metadata.Load() != 1 || auth.foreign.Load() != 0 {
				t.Errorf("%d requests for the metadata and %d others, want 1 and 0", auth.metadata.Load(), auth.foreign.Load())
			}
		})
	}
}

// TestServeFindsTheMetadataLater starts while the authorization server is down, and
// takes over what it says as soon as it is back, also for a user who is under way.
func TestServeFindsTheMetadataLater(t *testing.T) {
	t.Parallel()
	in, auth := newInstallation(t), newAuthServer(t)
	in.values["PRISMA_AUTH_URL"] = auth.URL
	r := startServeAt(t, in.with(nil), in.public)
	tenant := in.command(t, "secret\n", "tenant", "create", "--name", "Acme", "--client-id", "acme", "--client-secret-stdin",
		"--return-url", "https://acme.example/callback")
	p := partner{origin: r.origin, key: in.command(t, "", "key", "create", tenant, "--name", "backend")}

	awaitRecord(t, r, "WARN", "metadata not read")
	early := startTraveller(t, p, "https://acme.example/callback")
	if early.at.Path != "/authorize" {
		t.Errorf("before: the consent page is at %s", early.at.Path)
	}
	auth.changes.Store(&map[string]any{})
	awaitRecord(t, r, "INFO", "metadata read")
	late := startTraveller(t, p, "https://acme.example/callback")
	if late.at.Path != "/found/authorize" || late.at.Query().Get("code_challenge_method") != "S256" {
		t.Errorf("after: the consent page is at %s", late.at.Path)
	}
	for _, who := range []traveller{early, late} {
		checkIss(t, who, in.values["PUBLIC_URL"], auth.URL)
	}
	if auth.foreign.Load() != 0 {
		t.Errorf("%d token requests, want none before a completion", auth.foreign.Load())
	}
	r.stop(t, syscall.SIGTERM)
	if n := strings.Count(r.stderr.String(), "metadata not read"); n != 1 {
		t.Errorf("%d warnings about one outage, want 1", n)
	}
}

// traveller is somebody who stands before the consent page.
type traveller struct {
	browser *cookieBrowser
	at      *url.URL
}

func startTraveller(tb testing.TB, p partner, returnURL string) traveller {
	tb.Helper()
	session := p.beginSession(tb, "ada", returnURL)
	who := traveller{browser: newCookieBrowser()}
	who.browser.get(tb, session.URL)
	who.at = who.browser.send(tb, http.MethodPost, session.URL, url.Values{}).next(tb)
	return who
}

// checkIss comes back with a code: without iss, which leads nowhere and spends nothing,
// and with it.
func checkIss(tb testing.TB, who traveller, publicURL, issuer string) {
	tb.Helper()
	query := url.Values{"code": {"a-code-of-the-test"}, "state": {who.at.Query().Get("state")}}
	if got := who.browser.get(tb, publicURL+"/oauth/callback?"+query.Encode()); got.status != http.StatusBadRequest {
		tb.Errorf("began at %s, came back without iss: status %d, want 400", who.at.Path, got.status)
	}
	query.Set("iss", issuer)
	if got := who.browser.get(tb, publicURL+"/oauth/callback?"+query.Encode()); got.status != http.StatusSeeOther {
		tb.Errorf("began at %s, came back with iss: status %d, want 303", who.at.Path, got.status)
	}
}

// awaitRecord waits for a log record of that level whose message has those words.
func awaitRecord(tb testing.TB, r *replica, level, words string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), callLimit)
	defer cancel()
	_, err := r.stderr.await(ctx, func(line string) bool {
		var record struct{ Level, Msg string }
		return json.Unmarshal([]byte(line), &record) == nil && record.Level == level && strings.Contains(record.Msg, words)
	})
	if err != nil {
		tb.Fatalf("no record %s %q: %v\n%s", level, words, err, r.stderr.tail())
	}
}
