// Package prismasimtest starts a Prisma simulator for a test: on a loopback
// port, with a Postgres of the test's own, and with a seed to act on.
package prismasimtest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/prismasim"
)

// What the seed holds: a user with two workspaces, another with one, the
// partner's own workspace with a service token, and three clients.
const (
	ClientID       = "client_partner" // confidential
	ClientSecret   = "partner-secret-0123456789abcdef"
	PublicClientID = "client_public" // any loopback redirect
	OtherClientID  = "client_other"  // confidential, secret: ClientSecret
	RedirectURI    = "http://localhost:8080/oauth/callback"

	UserID            = "user_ada"
	WorkspaceA        = "wksp_ada_one"
	WorkspaceB        = "wksp_ada_two"
	OtherWorkspace    = "wksp_bob"
	PartnerWorkspace  = "wksp_partner"
	ServiceToken      = "service-token-0123456789abcdef"
	OtherServiceToken = "service-token-of-bob-0123456789"
)

// Server is a running simulator.
type Server struct {
	*prismasim.Simulator

	URL         string // the origin, without a trailing slash
	DatabaseURL string // of the Postgres server below it; a role that is no superuser

	listener *httptest.Server
	stop     sync.Once
}

// Seed returns the seed that Start applies.
func Seed() prismasim.Seed {
	return prismasim.Seed{
		Clients: []prismasim.Client{
			{ID: ClientID, Name: "Partner App", Secret: ClientSecret, RedirectURIs: []string{RedirectURI, "https://partner.example/cb?fixed=1"}},
			{ID: OtherClientID, Name: "Other App", Secret: ClientSecret, RedirectURIs: []string{RedirectURI}},
			{ID: PublicClientID, Name: "SDK", Public: true, AnyLoopbackRedirect: true},
		},
		Workspaces: []prismasim.Workspace{
			{ID: WorkspaceA, Name: "Ada's first"},
			{ID: WorkspaceB, Name: "Ada's second"},
			{ID: OtherWorkspace, Name: "Bob's"},
			{ID: PartnerWorkspace, Name: "Partner Inc."},
		},
		Users: []prismasim.User{
			{ID: UserID, Email: "ada@example.com", Name: "Ada", WorkspaceIDs: []string{WorkspaceA, WorkspaceB}},
			{ID: "user_bob", Email: "bob@example.com", WorkspaceIDs: []string{OtherWorkspace}},
		},
		ServiceTokens: []prismasim.ServiceToken{
			{WorkspaceID: PartnerWorkspace, Name: "provisioning", Value: ServiceToken},
			{WorkspaceID: OtherWorkspace, Name: "provisioning", Value: OtherServiceToken},
		},
	}
}

// Start starts a simulator with Seed and stops it when the test ends. options
// may change its configuration; the URL is already in it. Every /v1 answer is
// held against the interface document (see Validated).
func Start(tb testing.TB, options ...func(*prismasim.Config)) *Server {
	tb.Helper()
	listener := httptest.NewUnstartedServer(nil)
	server := &Server{URL: "http://" + listener.Listener.Addr().String()}
	config := prismasim.Config{URL: server.URL, Seed: Seed()}
	for _, option := range options {
		option(&config)
	}
	if config.DatabaseURL == "" {
		config.DatabaseURL = pgtest.OpenEmpty(tb).OwnerURL
	}
	server.DatabaseURL = config.DatabaseURL
	simulator, err := prismasim.New(tb.Context(), config)
	if err != nil {
		tb.Fatalf("start the simulator: %v", err)
	}
	server.Simulator = simulator
	listener.Config.Handler = Validated(tb, simulator)
	listener.Start()
	server.listener = listener
	tb.Cleanup(func() { server.Stop(tb) })
	return server
}

// Stop ends the simulator before its test ends, for tests of a restart. A second
// call does nothing.
func (s *Server) Stop(tb testing.TB) {
	tb.Helper()
	s.stop.Do(func() {
		s.listener.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 30*time.Second)
		defer cancel()
		if err := s.Close(ctx); err != nil {
			tb.Errorf("close the simulator: %v", err)
		}
	})
}

// Do sends a request and returns the status and the body. A body that is not nil
// is sent as JSON; "" sends no Authorization header.
func (s *Server) Do(tb testing.TB, method, path, bearer string, body any) (int, []byte) {
	tb.Helper()
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			tb.Fatalf("encode the body: %v", err)
		}
		reader = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(tb.Context(), method, s.URL+path, reader)
	if err != nil {
		tb.Fatalf("make the request: %v", err)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if bearer != "" {
		request.Header.Set("Authorization", "Bearer "+bearer)
	}
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		tb.Fatalf("read the answer of %s %s: %v", method, path, err)
	}
	return response.StatusCode, text
}

// Control sends a control request, decodes its answer into result unless that is
// nil, and fails the test when it is not 200.
func (s *Server) Control(tb testing.TB, method, path string, body, result any) {
	tb.Helper()
	status, text := s.Do(tb, method, "/_control/"+path, "", body)
	if status != http.StatusOK {
		tb.Fatalf("%s /_control/%s = %d: %s", method, path, status, text)
	}
	if result == nil {
		return
	}
	if err := json.Unmarshal(text, result); err != nil {
		tb.Fatalf("decode the answer of /_control/%s: %v", path, err)
	}
}

// Ledger is GET /_control/ledger.
type Ledger struct {
	Counters struct {
		CodeExchanges, Refreshes, Replays, Revocations, APIRequests int
	} `json:"counters"`
	RefreshTokens []struct {
		ID, Grant                     string
		Received, Processed, Answered int
		State                         string
	} `json:"refreshTokens"`
}

// Ledger reads the ledger.
func (s *Server) Ledger(tb testing.TB) Ledger {
	tb.Helper()
	var ledger Ledger
	s.Control(tb, http.MethodGet, "ledger", nil, &ledger)
	return ledger
}

// Tokens is a success of the token endpoint.
type Tokens struct {
	Access    string `json:"access_token"`  //nolint:tagliatelle // RFC 6749
	Refresh   string `json:"refresh_token"` //nolint:tagliatelle // RFC 6749
	Type      string `json:"token_type"`    //nolint:tagliatelle // RFC 6749
	ExpiresIn int    `json:"expires_in"`    //nolint:tagliatelle // RFC 6749
	Scope     string `json:"scope"`
}

// Connect lets the partner's client through the whole flow for a workspace,
// without a browser and without PKCE, and leaves the consent mode on "approve".
func (s *Server) Connect(tb testing.TB, workspaceID string) Tokens {
	tb.Helper()
	s.Control(tb, http.MethodPut, "consent", map[string]string{"mode": "approve", "workspaceId": workspaceID}, nil)
	query := url.Values{
		"response_type": {"code"}, "client_id": {ClientID}, "redirect_uri": {RedirectURI},
		"scope": {"workspace:admin offline_access"}, "state": {"s"},
	}
	request, err := http.NewRequestWithContext(tb.Context(), http.MethodGet, s.URL+"/authorize?"+query.Encode(), nil)
	if err != nil {
		tb.Fatalf("make the request: %v", err)
	}
	response, err := http.DefaultTransport.RoundTrip(request) // follows no redirect
	if err != nil {
		tb.Fatalf("authorize: %v", err)
	}
	defer response.Body.Close()
	back, err := response.Location()
	if err != nil {
		tb.Fatalf("authorize answered %d without a redirect", response.StatusCode)
	}
	status, text := s.Token(tb, url.Values{
		"grant_type": {"authorization_code"}, "code": {back.Query().Get("code")}, "redirect_uri": {RedirectURI},
		"client_id": {ClientID}, "client_secret": {ClientSecret},
	})
	if status != http.StatusOK {
		tb.Fatalf("token answered %d", status)
	}
	return ReadTokens(tb, text)
}

// Token posts a form to the token endpoint.
func (s *Server) Token(tb testing.TB, form url.Values) (int, []byte) {
	tb.Helper()
	request, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, s.URL+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		tb.Fatalf("make the request: %v", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		tb.Fatalf("POST /token: %v", err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		tb.Fatalf("read the token answer: %v", err)
	}
	return response.StatusCode, text
}

// Refresh presents a refresh token as the partner's client.
func (s *Server) Refresh(tb testing.TB, token string) (int, []byte) {
	tb.Helper()
	return s.Token(tb, url.Values{
		"grant_type": {"refresh_token"}, "refresh_token": {token}, "client_id": {ClientID}, "client_secret": {ClientSecret},
	})
}

// ReadTokens decodes a success of the token endpoint.
func ReadTokens(tb testing.TB, text []byte) Tokens {
	tb.Helper()
	var tokens Tokens
	if err := json.Unmarshal(text, &tokens); err != nil {
		tb.Fatalf("decode the tokens: %v", err)
	}
	return tokens
}
