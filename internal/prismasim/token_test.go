package prismasim_test

import (
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"net/url"
	"sync"
	"testing"

	"github.com/golang-jwt/jwt/v5"

	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// newCode gets a code for the request, approved for WorkspaceA.
func newCode(t *testing.T, sim *prismasimtest.Server, request url.Values) string {
	t.Helper()
	fields := maps.Clone(request)
	fields.Set("decision", "approve")
	fields.Set("workspace", prismasimtest.WorkspaceA)
	response := send(t, http.MethodPost, sim.URL+"/authorize", fields.Encode(), form())
	back, err := response.Location()
	if err != nil {
		t.Fatalf("authorize answered %d", response.StatusCode)
	}
	return back.Query().Get("code")
}

// exchange is the right token request for a code, with changes.
func exchange(code string, changes map[string]string) url.Values {
	fields := url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {prismasimtest.RedirectURI},
		"client_id": {prismasimtest.ClientID}, "client_secret": {prismasimtest.ClientSecret}, "code_verifier": {verifier},
	}
	for name, value := range changes {
		if value == "" {
			fields.Del(name)
			continue
		}
		fields.Set(name, value)
	}
	return fields
}

func TestCodeExchange(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	noPKCE := map[string]string{"code_challenge": "", "code_challenge_method": ""}
	public := map[string]string{"client_id": prismasimtest.PublicClientID}
	tests := map[string]struct {
		request map[string]string
		changes map[string]string
		status  int
		fault   string
	}{
		"right":                       {status: http.StatusOK},
		"no PKCE at all":              {request: noPKCE, changes: map[string]string{"code_verifier": ""}, status: http.StatusOK},
		"public":                      {request: public, changes: with(public, "client_secret", ""), status: http.StatusOK},
		"PKCE begun, not completed":   {changes: map[string]string{"code_verifier": ""}, status: http.StatusBadRequest, fault: "invalid_grant"},
		"PKCE not begun, completed":   {request: noPKCE, status: http.StatusBadRequest, fault: "invalid_grant"},
		"wrong verifier":              {changes: map[string]string{"code_verifier": verifier[1:] + "A"}, status: http.StatusBadRequest, fault: "invalid_grant"},
		"malformed verifier":          {changes: map[string]string{"code_verifier": "short"}, status: http.StatusBadRequest, fault: "invalid_grant"},
		"other redirect URI":          {changes: map[string]string{"redirect_uri": "http://localhost:9999/oauth/callback"}, status: http.StatusBadRequest, fault: "invalid_grant"},
		"no redirect URI":             {changes: map[string]string{"redirect_uri": ""}, status: http.StatusBadRequest, fault: "invalid_grant"},
		"other client":                {changes: map[string]string{"client_id": prismasimtest.OtherClientID}, status: http.StatusBadRequest, fault: "invalid_grant"},
		"unknown code":                {changes: map[string]string{"code": "nothing"}, status: http.StatusBadRequest, fault: "invalid_grant"},
		"no code":                     {changes: map[string]string{"code": ""}, status: http.StatusBadRequest, fault: "invalid_grant"},
		"unknown grant type":          {changes: map[string]string{"grant_type": "password"}, status: http.StatusBadRequest, fault: "unsupported_grant_type"},
		"no grant type":               {changes: map[string]string{"grant_type": ""}, status: http.StatusBadRequest, fault: "unsupported_grant_type"},
		"wrong secret":                {changes: map[string]string{"client_secret": "wrong"}, status: http.StatusUnauthorized, fault: "invalid_client"},
		"confidential without secret": {changes: map[string]string{"client_secret": ""}, status: http.StatusUnauthorized, fault: "invalid_client"},
		"public with a secret":        {request: public, changes: public, status: http.StatusUnauthorized, fault: "invalid_client"},
		"unknown client":              {changes: map[string]string{"client_id": "nobody"}, status: http.StatusUnauthorized, fault: "invalid_client"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code := newCode(t, sim, authorization(tc.request))
			status, body := sim.Token(t, exchange(code, tc.changes))
			if status != tc.status {
				t.Fatalf("status = %d, want %d", status, tc.status)
			}
			if tc.fault != "" {
				if got := text(t, body, "error"); got != tc.fault || text(t, body, "error_description") == "" {
					t.Errorf("error = %s, want %s", got, tc.fault)
				}
				return
			}
			tokens := prismasimtest.ReadTokens(t, body)
			if tokens.Type != "Bearer" || tokens.ExpiresIn != 3600 || tokens.Refresh == "" || tokens.Scope != "workspace:admin offline_access" {
				t.Errorf("answer: type %q, expires_in %d, scope %q", tokens.Type, tokens.ExpiresIn, tokens.Scope)
			}
		})
	}
}

func TestTokenRequestForm(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	basic := func(id, secret string) string {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(id)+":"+url.QueryEscape(secret)))
	}
	bare := map[string]string{"client_id": "", "client_secret": ""}
	tests := map[string]struct {
		body   func(code string) string
		header http.Header
		status int
	}{
		"basic": {
			body:   func(code string) string { return exchange(code, bare).Encode() },
			header: http.Header{"Authorization": {basic(prismasimtest.ClientID, prismasimtest.ClientSecret)}}, status: http.StatusOK,
		},
		"basic, wrong secret": {
			body:   func(code string) string { return exchange(code, bare).Encode() },
			header: http.Header{"Authorization": {basic(prismasimtest.ClientID, "wrong")}}, status: http.StatusUnauthorized,
		},
		"basic and post": {
			body:   func(code string) string { return exchange(code, nil).Encode() },
			header: http.Header{"Authorization": {basic(prismasimtest.ClientID, prismasimtest.ClientSecret)}}, status: http.StatusBadRequest,
		},
		"bearer": {
			body:   func(code string) string { return exchange(code, nil).Encode() },
			header: http.Header{"Authorization": {"Bearer x"}}, status: http.StatusUnauthorized,
		},
		"repeated parameter": {
			body:   func(code string) string { return exchange(code, nil).Encode() + "&code=2" },
			status: http.StatusBadRequest,
		},
		"JSON": {
			body:   func(code string) string { return `{"code":"` + code + `"}` },
			header: http.Header{"Content-Type": {"application/json"}}, status: http.StatusBadRequest,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			header := form()
			maps.Copy(header, tc.header)
			response := send(t, http.MethodPost, sim.URL+"/token", tc.body(newCode(t, sim, authorization(nil))), header)
			if response.StatusCode != tc.status {
				t.Errorf("status = %d, want %d", response.StatusCode, tc.status)
			}
			if response.Header.Get("Cache-Control") != "no-store" {
				t.Error("the answer may be cached")
			}
			if tc.status == http.StatusUnauthorized && response.Header.Get("WWW-Authenticate") == "" {
				t.Error("no WWW-Authenticate")
			}
		})
	}
	if response := send(t, http.MethodGet, sim.URL+"/token", "", nil); response.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("GET /token = %d", response.StatusCode)
	}
}

func TestCodeWorksOnceAndASecondUseRevokes(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	code := newCode(t, sim, authorization(nil))
	_, body := sim.Token(t, exchange(code, nil))
	tokens := prismasimtest.ReadTokens(t, body)
	api(t, sim, http.MethodGet, "/v1/me", tokens.Access, nil, http.StatusOK)

	if status, body := sim.Token(t, exchange(code, nil)); status != http.StatusBadRequest || text(t, body, "error") != "invalid_grant" {
		t.Errorf("second use = %d", status)
	}
	api(t, sim, http.MethodGet, "/v1/me", tokens.Access, nil, http.StatusUnauthorized)
	if status, _ := sim.Refresh(t, tokens.Refresh); status != http.StatusBadRequest {
		t.Errorf("refresh after a replayed code = %d", status)
	}
	ledger := sim.Ledger(t)
	if c := ledger.Counters; c.CodeExchanges != 2 || c.Replays != 1 || c.Revocations != 1 {
		t.Errorf("counters = %+v", c)
	}
}

func TestCodePresentedInParallelGivesNothingThatLives(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	code := newCode(t, sim, authorization(nil))
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() { sim.Token(t, exchange(code, nil)) })
	}
	group.Wait()
	var grants struct{ Grants []struct{ State string } }
	sim.Control(t, http.MethodGet, "grants", nil, &grants)
	for _, g := range grants.Grants {
		if g.State != "revoked" {
			t.Error("a grant of a replayed code is live")
		}
	}
}

func TestCodeExpires(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	for advance, want := range map[string]int{"60s": http.StatusOK, "62s": http.StatusBadRequest} {
		code := newCode(t, sim, authorization(nil))
		sim.Control(t, http.MethodPost, "clock", map[string]string{"advance": advance}, nil)
		// The clock goes on by itself: what is at its limit counts for the wide side.
		if advance == "60s" {
			sim.Control(t, http.MethodPut, "faults", map[string]string{"codeLifetime": "61s"}, nil)
		}
		if status, _ := sim.Token(t, exchange(code, nil)); status != want {
			t.Errorf("after %s = %d, want %d", advance, status, want)
		}
	}
}

func TestAccessTokenIsASignedJWT(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	tokens := sim.Connect(t, prismasimtest.WorkspaceB)
	keys := api(t, sim, http.MethodGet, "/.well-known/jwks.json", "", nil, http.StatusOK)
	number := func(path string) *big.Int {
		raw, err := base64.RawURLEncoding.DecodeString(text(t, keys, path))
		if err != nil {
			t.Fatal(err)
		}
		return new(big.Int).SetBytes(raw)
	}
	key := &rsa.PublicKey{N: number("keys.0.n"), E: int(number("keys.0.e").Int64())}
	parsed, err := jwt.Parse(tokens.Access, func(*jwt.Token) (any, error) { return key, nil },
		jwt.WithValidMethods([]string{"RS256"}), jwt.WithIssuer(sim.URL), jwt.WithAudience(sim.URL), jwt.WithExpirationRequired())
	if err != nil {
		t.Fatal(err)
	}
	claims, ok := parsed.Claims.(jwt.MapClaims)
	if !ok {
		t.Fatal("no claims")
	}
	want := map[string]string{
		"workspace_id": prismasimtest.WorkspaceB, "sub": prismasimtest.UserID,
		"client_id": prismasimtest.ClientID, "scope": "workspace:admin offline_access",
	}
	for name, value := range want {
		if claims[name] != value {
			t.Errorf("%s = %v, want %s", name, claims[name], value)
		}
	}
	if claims["jti"] == "" || fmt.Sprint(claims["exp"].(float64)-claims["iat"].(float64)) != "3600" {
		t.Errorf("jti %v, iat %v, exp %v", claims["jti"], claims["iat"], claims["exp"])
	}
	if parsed.Header["kid"] != text(t, keys, "keys.0.kid") {
		t.Error("kid differs from the key set's")
	}
}

func TestWithoutOfflineAccessThereIsNoRefreshToken(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	code := newCode(t, sim, authorization(map[string]string{"scope": "workspace:admin"}))
	_, body := sim.Token(t, exchange(code, nil))
	if tokens := prismasimtest.ReadTokens(t, body); tokens.Refresh != "" || tokens.Scope != "workspace:admin" {
		t.Errorf("scope %q, refresh token given: %v", tokens.Scope, tokens.Refresh != "")
	}
}
