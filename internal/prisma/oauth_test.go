package prisma_test

import (
	"net/url"
	"testing"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

func newOAuth(t *testing.T, cfg prisma.OAuthConfig) *prisma.OAuth {
	t.Helper()
	oauth, err := prisma.NewOAuth(cfg)
	if err != nil {
		t.Fatalf("NewOAuth() error = %v", err)
	}
	return oauth
}

func TestNewOAuthChecksURL(t *testing.T) {
	t.Parallel()

	for raw, ok := range map[string]bool{
		"https://auth.prisma.io":         true,
		"https://auth.prisma.io/":        true,
		"http://127.0.0.1:8081/issuer":   true,
		"":                               false,
		"auth.prisma.io":                 false,
		"ftp://auth.prisma.io":           false,
		"https://user:pw@auth.prisma.io": false,
		"https://auth.prisma.io?x=1":     false,
		"https://auth.prisma.io#x":       false,
		"https://%zz":                    false,
	} {
		if _, err := prisma.NewOAuth(prisma.OAuthConfig{AuthURL: raw}); (err == nil) != ok {
			t.Errorf("NewOAuth(%q) error = %v, want success: %t", raw, err, ok)
		}
	}
}

func TestAuthorizationURL(t *testing.T) {
	t.Parallel()

	oauth := newOAuth(t, prisma.OAuthConfig{AuthURL: "https://auth.example/base/"})
	// The verifier and challenge of RFC 7636 appendix B.
	got, err := oauth.AuthorizationURL(prisma.AuthorizationRequest{
		ClientID: "client 1", RedirectURI: "https://app.example/cb?a=b", State: "st&ate",
		Verifier: "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
		Params:   url.Values{"utm_source": {"partner"}},
	})
	if err != nil {
		t.Fatalf("AuthorizationURL() error = %v", err)
	}
	const want = "https://auth.example/base/authorize?client_id=client+1" +
		"&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256" +
		"&redirect_uri=https%3A%2F%2Fapp.example%2Fcb%3Fa%3Db&response_type=code" +
		"&scope=workspace%3Aadmin+offline_access&state=st%26ate&utm_source=partner"
	if got != want {
		t.Errorf("AuthorizationURL() =\n%s, want\n%s", got, want)
	}
}

func TestAuthorizationURLRefusesUnsafeRequests(t *testing.T) {
	t.Parallel()

	oauth := newOAuth(t, prisma.OAuthConfig{AuthURL: "https://auth.example"})
	good := prisma.AuthorizationRequest{ClientID: "c", RedirectURI: "https://a.example", State: "s", Verifier: "v"}
	tests := map[string]func(*prisma.AuthorizationRequest){
		"no client":       func(r *prisma.AuthorizationRequest) { r.ClientID = "" },
		"no redirect URI": func(r *prisma.AuthorizationRequest) { r.RedirectURI = "" },
		"no state":        func(r *prisma.AuthorizationRequest) { r.State = "" },
		"no verifier":     func(r *prisma.AuthorizationRequest) { r.Verifier = "" },
		"other state":     func(r *prisma.AuthorizationRequest) { r.Params = url.Values{"state": {"x"}} },
		"plain PKCE":      func(r *prisma.AuthorizationRequest) { r.Params = url.Values{"code_challenge_method": {"plain"}} },
		"request object":  func(r *prisma.AuthorizationRequest) { r.Params = url.Values{"request_uri": {"https://x"}} },
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := good
			damage(&req)
			if _, err := oauth.AuthorizationURL(req); fault.KindOf(err) != fault.InvalidValue {
				t.Errorf("AuthorizationURL() error = %v, want kind %q", err, fault.InvalidValue)
			}
		})
	}
}

func TestNewVerifier(t *testing.T) {
	t.Parallel()

	seen := map[string]bool{}
	for range 100_000 {
		v := prisma.NewVerifier()
		if len(v) != 43 || seen[v] {
			t.Fatalf("verifier %q: %d characters, repeated: %t", v, len(v), seen[v])
		}
		seen[v] = true
	}
}

func TestCheckIssuer(t *testing.T) {
	t.Parallel()

	oauth := newOAuth(t, prisma.OAuthConfig{AuthURL: "https://auth.example"})
	tests := map[string]struct {
		response url.Values
		want     fault.Kind
	}{
		"absent":         {url.Values{"code": {"c"}}, fault.Internal},
		"the issuer":     {url.Values{"iss": {"https://auth.example"}}, fault.Internal},
		"another":        {url.Values{"iss": {"https://evil.example"}}, fault.InvalidRequest},
		"empty":          {url.Values{"iss": {""}}, fault.InvalidRequest},
		"no value":       {url.Values{"iss": nil}, fault.InvalidRequest},
		"doubled":        {url.Values{"iss": {"https://auth.example", "https://auth.example"}}, fault.InvalidRequest},
		"trailing slash": {url.Values{"iss": {"https://auth.example/"}}, fault.InvalidRequest},
		"other case":     {url.Values{"iss": {"https://AUTH.example"}}, fault.InvalidRequest},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := oauth.CheckIssuer(tc.response)
			if got := fault.KindOf(err); got != tc.want || (err == nil) != (tc.want == fault.Internal) {
				t.Errorf("CheckIssuer() = %v, want kind %q", err, tc.want)
			}
		})
	}
}
