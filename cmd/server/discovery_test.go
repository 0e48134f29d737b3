package main_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/connect-prisma/server/internal/processtest"
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
	in := processtest.NewInstallation(t)
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
			code, stdout, stderr := processtest.Run(t, processtest.Launch{Args: []string{"serve"}, Env: in.With(map[string]string{"PRISMA_AUTH_URL": auth.URL})})
			processtest.CheckRefusal(t, code, stderr, append(tc.words, "PRISMA_AUTH_URL")...)
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
	in, auth := processtest.NewInstallation(t), newAuthServer(t)
	in.Values["PRISMA_AUTH_URL"] = auth.URL
	r := processtest.StartServeAt(t, in.With(nil), in.Public)
	tenant := in.Command(t, "secret\n", "tenant", "create", "--name", "Acme", "--client-id", "acme", "--client-secret-stdin",
		"--return-url", "https://acme.example/callback")
	p := processtest.Partner{Origin: r.Origin, Key: in.Command(t, "", "key", "create", tenant, "--name", "backend")}

	processtest.AwaitRecord(t, r, "WARN", "metadata not read")
	early := processtest.StartTraveller(t, p, "https://acme.example/callback")
	if early.At.Path != "/authorize" {
		t.Errorf("before: the consent page is at %s", early.At.Path)
	}
	auth.changes.Store(&map[string]any{})
	processtest.AwaitRecord(t, r, "INFO", "metadata read")
	late := processtest.StartTraveller(t, p, "https://acme.example/callback")
	if late.At.Path != "/found/authorize" || late.At.Query().Get("code_challenge_method") != "S256" {
		t.Errorf("after: the consent page is at %s", late.At.Path)
	}
	for _, who := range []processtest.Traveller{early, late} {
		processtest.CheckIss(t, who, in.Values["PUBLIC_URL"], auth.URL)
	}
	if auth.foreign.Load() != 0 {
		t.Errorf("%d token requests, want none before a completion", auth.foreign.Load())
	}
	r.Stop(t, syscall.SIGTERM)
	if n := strings.Count(r.Stderr.String(), "metadata not read"); n != 1 {
		t.Errorf("%d warnings about one outage, want 1", n)
	}
}
