package prisma_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/prisma"
)

// httpsIssuer is the issuer that tests reach over TLS. httptest's certificate is valid
// for its name.
const httpsIssuer = "https://example.com"

// metadataOf returns a good document of an issuer, with some members changed; nil takes
// one away.
func metadataOf(issuer string, changes map[string]any) string {
	doc := map[string]any{
		"issuer": issuer, "authorization_endpoint": issuer + "/oauth/authorize", "token_endpoint": issuer + "/oauth/token",
		"response_types_supported":                       []string{"code"},
		"grant_types_supported":                          []string{"authorization_code", "refresh_token"},
		"token_endpoint_auth_methods_supported":          []string{"client_secret_basic", "client_secret_post", "none"},
		"code_challenge_methods_supported":               []string{"plain", "S256"},
		"authorization_response_iss_parameter_supported": true,
		"jwks_uri": "https://elsewhere.example/keys", // not used, so nobody's concern
	}
	maps.Copy(doc, changes)
	maps.DeleteFunc(doc, func(_ string, v any) bool { return v == nil })
	text, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// served answers every request with JSON.
func served(body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		_, _ = io.WriteString(w, body)
	})
}

// behindTLS returns an OAuth whose connections all end at handler, over TLS.
func behindTLS(t *testing.T, issuer string, handler http.Handler) *prisma.OAuth {
	t.Helper()
	server := httptest.NewTLSServer(handler)
	t.Cleanup(server.Close)
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	return newOAuth(t, prisma.OAuthConfig{
		AuthURL: issuer, TLS: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
		},
	})
}

// piped opens connections to a server in memory, which reads one request from each and
// writes what answer returns: a whole response, status line and all.
func piped(answer func(r *http.Request, form url.Values) string) func(context.Context, string, string) (net.Conn, error) {
	return func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		go func() {
			defer far.Close()
			r, err := http.ReadRequest(bufio.NewReader(far))
			if err != nil {
				return
			}
			if r.ParseForm() == nil {
				_, _ = io.WriteString(far, answer(r, r.PostForm))
			}
		}()
		return near, nil
	}
}

// response is an HTTP response with that status and body.
func response(status int, contentType, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d X\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		status, contentType, len(body), body)
}

func TestDiscover(t *testing.T) {
	t.Parallel()

	var asked atomic.Pointer[http.Request]
	oauth := behindTLS(t, httpsIssuer, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r)
		served(metadataOf(httpsIssuer, map[string]any{
			"authorization_endpoint": httpsIssuer + "/oauth/authorize?tenant=a%26b&state=theirs",
		})).ServeHTTP(w, r)
	}))
	conventional, known := oauth.Metadata()
	if known || conventional.AuthorizationEndpoint != httpsIssuer+"/authorize" || conventional.TokenEndpoint != httpsIssuer+"/token" {
		t.Errorf("before: Metadata() = %+v, %t", conventional, known)
	}
	want := prisma.Metadata{
		Issuer: httpsIssuer, AuthorizationEndpoint: httpsIssuer + "/oauth/authorize?tenant=a%26b&state=theirs",
		TokenEndpoint: httpsIssuer + "/oauth/token", IssInResponse: true,
	}
	got, err := oauth.Discover(t.Context())
	if err != nil {
		t.Fatalf("Discover() error = %v", err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Discover() (-want +got):\n%s", diff)
	}
	if now, known := oauth.Metadata(); !known || now != want {
		t.Errorf("after: Metadata() = %+v, %t", now, known)
	}
	r := asked.Load()
	if r.Method != http.MethodGet || r.URL.RequestURI() != "/.well-known/oauth-authorization-server" ||
		r.Header.Get("Accept") != "application/json" || r.Header.Get("Authorization") != "" {
		t.Errorf("the request was %s %s", r.Method, r.URL)
	}

	// The endpoint's own query stays, but for what is ours to say.
	raw, err := oauth.AuthorizationURL(prisma.AuthorizationRequest{ClientID: "c", RedirectURI: "https://a.example", State: "ours", Verifier: "v"})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if query := u.Query(); u.Path != "/oauth/authorize" || query.Get("tenant") != "a&b" || len(query["state"]) != 1 || query.Get("state") != "ours" {
		t.Errorf("AuthorizationURL() = %s", raw)
	}
}

// TestDiscoverAsksWhereTheIssuerSays puts the well-known path before the issuer's own.
func TestDiscoverAsksWhereTheIssuerSays(t *testing.T) {
	t.Parallel()

	for issuer, path := range map[string]string{
		httpsIssuer:                                 "/.well-known/oauth-authorization-server",
		httpsIssuer + "/":                           "/.well-known/oauth-authorization-server",
		httpsIssuer + "/tenant":                     "/.well-known/oauth-authorization-server/tenant",
		httpsIssuer + "/tenant/":                    "/.well-known/oauth-authorization-server/tenant",
		httpsIssuer + "/a%2Fb/c":                    "/.well-known/oauth-authorization-server/a%2Fb/c",
		httpsIssuer + ":443":                        "/.well-known/oauth-authorization-server",
		strings.ToUpper("https") + "://example.com": "/.well-known/oauth-authorization-server",
	} {
		t.Run(issuer, func(t *testing.T) {
			t.Parallel()
			var asked atomic.Value
			oauth := behindTLS(t, issuer, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Store(r.URL.EscapedPath())
				base := strings.TrimSuffix(issuer, "/")
				served(metadataOf(issuer, map[string]any{
					"authorization_endpoint": base + "/authorize", "token_endpoint": base + "/token",
				})).ServeHTTP(w, r)
			}))
			if _, err := oauth.Discover(t.Context()); err != nil {
				t.Errorf("Discover() error = %v", err)
			}
			if asked.Load() != path {
				t.Errorf("asked %v, want %s", asked.Load(), path)
			}
			if err := oauth.CheckIssuer(url.Values{"iss": {issuer}}); err != nil {
				t.Errorf("CheckIssuer() of the issuer itself = %v", err)
			}
		})
	}
}

// badMetadata are documents that must not be used, each for one reason.
func badMetadata() map[string]string {
	with := func(name string, value any) string { return metadataOf(httpsIssuer, map[string]any{name: value}) }
	good := metadataOf(httpsIssuer, nil)
	bad := map[string]string{
		"empty": "", "not JSON": "marker", "array": "[]", "null": "null", "truncated": good[:len(good)-1], "two objects": good + good,
		"not UTF-8":        strings.Replace(good, "plain", "pl\xffin", 1),
		"too large":        with("x", strings.Repeat("a", 64<<10)),
		"too much padding": good + strings.Repeat(" ", 64<<10),
		"nested endlessly": `{"x":` + strings.Repeat("[", 30_000) + strings.Repeat("]", 30_000) + "}",
		"doubled issuer":   strings.Replace(good, `{`, `{"issuer":"`+httpsIssuer+`",`, 1),
		"doubled endpoint": strings.Replace(good, `{`, `{"token_endpoint":"https://evil.example/marker",`, 1),
		"doubled, escaped": strings.Replace(good, `{`, `{"token\u005fendpoint":"https://evil.example/marker",`, 1),

		"no issuer": with("issuer", nil), "issuer null": strings.Replace(good, `"issuer":"`+httpsIssuer+`"`, `"issuer":null`, 1),
		"issuer a number": with("issuer", 1), "other issuer": with("issuer", "https://marker.example"),
		"issuer with a slash": with("issuer", httpsIssuer+"/"), "issuer in capitals": with("issuer", "https://EXAMPLE.com"),
		"issuer with the port": with("issuer", httpsIssuer+":443"), "issuer by http": with("issuer", "http://example.com"),
		"issuer with a prefix of ours": with("issuer", httpsIssuer+".evil.example"),

		"no PKCE": with("code_challenge_methods_supported", nil), "PKCE null": strings.Replace(good, `["plain","S256"]`, `null`, 1),
		"PKCE empty": with("code_challenge_methods_supported", []string{}), "plain only": with("code_challenge_methods_supported", []string{"plain"}),
		"s256 in small": with("code_challenge_methods_supported", []string{"s256"}), "PKCE as text": with("code_challenge_methods_supported", "S256"),
		"PKCE not of strings": with("code_challenge_methods_supported", []any{"S256", 1}),

		"no response types":    with("response_types_supported", nil),
		"no code":              with("response_types_supported", []string{"token", "code token"}),
		"no code grant":        with("grant_types_supported", []string{"refresh_token", "implicit"}),
		"no refresh":           with("grant_types_supported", []string{"authorization_code"}),
		"grant types empty":    with("grant_types_supported", []string{}),
		"only keys as secrets": with("token_endpoint_auth_methods_supported", []string{"private_key_jwt", "tls_client_auth"}),
		"auth methods as text": with("token_endpoint_auth_methods_supported", "none"),
		"iss as text":          with("authorization_response_iss_parameter_supported", "true"),
		"iss as a number":      with("authorization_response_iss_parameter_supported", 1),
	}
	for _, member := range []string{"authorization_endpoint", "token_endpoint"} {
		for name, value := range map[string]any{
			"missing": nil, "empty": "", "a number": 7, "a list": []string{httpsIssuer + "/token"}, "relative": "/token",
			"without scheme": "//example.com/token", "by http": "http://example.com/token", "other host": "https://marker.example/token",
			"below the host": "https://auth.example.com/token", "above the host": "https://com/token", "other port": httpsIssuer + ":8443/token",
			"credentials": "https://marker@example.com/token", "empty credentials": "https://@example.com/token",
			"look-alike credentials": "https://example.com@marker.example/token", "backslash": `https://example.com\@marker.example/token`,
			"fragment": httpsIssuer + "/token#marker", "empty fragment": httpsIssuer + "/token#", "trailing dot": "https://example.com./token",
			"space": httpsIssuer + "/to ken", "line break": httpsIssuer + "/token\r\nX-Marker: 1", "not ASCII": httpsIssuer + "/tökén",
			"script": "javascript:alert(1)", "opaque": "https:example.com/token", "bad escape": httpsIssuer + "/%zz", "bad query": httpsIssuer + "/token?a=%zz",
			"too long": httpsIssuer + "/" + strings.Repeat("t", 2048), "websocket": "wss://example.com/token",
		} {
			bad[member+" "+name] = with(member, value)
		}
	}
	return bad
}

// TestDiscoverRefuses shows that a bad document is never taken over, first or later,
// and that nothing of it gets into the error.
func TestDiscoverRefuses(t *testing.T) {
	t.Parallel()

	for name, body := range badMetadata() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var current atomic.Value
			current.Store(body)
			oauth := behindTLS(t, httpsIssuer, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				text, _ := current.Load().(string)
				served(text).ServeHTTP(w, r)
			}))
			before, _ := oauth.Metadata()
			refuse := func() {
				t.Helper()
				_, err := oauth.Discover(t.Context())
				if _, ok := errors.AsType[*prisma.MetadataError](err); !ok {
					t.Fatalf("Discover() error = %v, want a *MetadataError", err)
				}
				for _, word := range []string{"marker", "Marker", "evil", "example"} {
					if strings.Contains(err.Error(), word) {
						t.Errorf("the error repeats the document: %v", err)
					}
				}
				if strings.ContainsAny(err.Error(), "\r\n") {
					t.Errorf("the error has more than one line: %q", err)
				}
			}
			refuse()
			if now, known := oauth.Metadata(); known || now != before {
				t.Errorf("the first document is in use: %+v", now)
			}
			current.Store(metadataOf(httpsIssuer, nil))
			good, err := oauth.Discover(t.Context())
			if err != nil {
				t.Fatalf("Discover() of a good document: %v", err)
			}
			current.Store(body)
			refuse()
			if now, known := oauth.Metadata(); !known || now != good {
				t.Errorf("the last good metadata did not stay: %+v", now)
			}
		})
	}
	t.Logf("%d bad documents", len(badMetadata()))
}

// TestDiscoverAccepts are documents that look odd and are right.
func TestDiscoverAccepts(t *testing.T) {
	t.Parallel()

	for name, changes := range map[string]map[string]any{
		"no grant types":        {"grant_types_supported": nil},
		"no auth methods":       {"token_endpoint_auth_methods_supported": nil},
		"header only":           {"token_endpoint_auth_methods_supported": []string{"client_secret_basic"}},
		"public clients only":   {"token_endpoint_auth_methods_supported": []string{"none"}},
		"iss not mentioned":     {"authorization_response_iss_parameter_supported": nil},
		"iss denied":            {"authorization_response_iss_parameter_supported": false},
		"port of the scheme":    {"token_endpoint": "https://example.com:443/token"},
		"host in capitals":      {"token_endpoint": "https://EXAMPLE.com/token"},
		"more response types":   {"response_types_supported": []string{"token", "code"}},
		"endpoint at the root":  {"authorization_endpoint": httpsIssuer},
		"members of the future": {"x": map[string]any{"deep": []any{1, nil}}, "y": nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := behindTLS(t, httpsIssuer, served(metadataOf(httpsIssuer, changes))).Discover(t.Context()); err != nil {
				t.Errorf("Discover() error = %v", err)
			}
		})
	}
}

// TestPlainHTTP: tokens go by plain http on loopback, and elsewhere only when the
// configuration says so.
func TestPlainHTTP(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		issuer string
		plain  bool
		want   bool
	}{
		"loopback address":    {"http://127.0.0.1:8081", false, true},
		"another of these":    {"http://127.8.9.10:8081", false, true},
		"loopback of IPv6":    {"http://[::1]:8081", false, true},
		"localhost":           {"http://localhost:8081", false, true},
		"below localhost":     {"http://simulator.localhost:8081", false, true},
		"a name":              {"http://simulator:8081", false, false},
		"a name, allowed":     {"http://simulator:8081", true, true},
		"looks like loopback": {"http://127.0.0.1.example.com", false, false},
		"looks local":         {"http://localhost.example.com", false, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			oauth, err := prisma.NewOAuth(prisma.OAuthConfig{
				AuthURL: tc.issuer, PlainHTTP: tc.plain,
				DialContext: piped(func(*http.Request, url.Values) string {
					return response(http.StatusOK, "application/json", metadataOf(tc.issuer, nil))
				}),
			})
			if (err == nil) != tc.want {
				t.Fatalf("NewOAuth() error = %v, want success: %t", err, tc.want)
			}
			if !tc.want {
				return
			}
			if _, err := oauth.Discover(t.Context()); err != nil {
				t.Errorf("Discover() error = %v", err)
			}
		})
	}
}

// TestDiscoverCannotFetch: answers that say nothing about the server.
func TestDiscoverCannotFetch(t *testing.T) {
	t.Parallel()

	good := metadataOf("http://127.0.0.1:1", nil)
	tests := map[string]string{
		"404": response(http.StatusNotFound, "application/json", good), "500": response(500, "application/json", good),
		"503": response(503, "application/json", good), "204": "HTTP/1.1 204 No Content\r\n\r\n", "206": response(206, "application/json", good),
		"401": response(401, "application/json", good), "429": response(429, "application/json", good),
		"302":            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/marker\r\nContent-Length: 0\r\n\r\n",
		"a page":         response(http.StatusOK, "text/html", "<h1>marker</h1>"),
		"no type":        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
		"odd type":       response(http.StatusOK, "application/json;;=marker", good),
		"compressed":     "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: 6\r\n\r\nmarker",
		"cut":            strings.TrimSuffix(response(http.StatusOK, "application/json", good), "}"),
		"not HTTP":       "SSH-2.0-marker\r\n",
		"endless header": "HTTP/1.1 200 OK\r\nX-Marker: " + strings.Repeat("m", 128<<10),
		"nothing":        "",
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			oauth := newOAuth(t, prisma.OAuthConfig{AuthURL: "http://127.0.0.1:1", DialContext: piped(func(*http.Request, url.Values) string {
				requests.Add(1)
				return answer
			})})
			_, err := oauth.Discover(t.Context())
			if _, ok := errors.AsType[*prisma.DiscoveryError](err); !ok {
				t.Fatalf("Discover() error = %v, want a *DiscoveryError", err)
			}
			if strings.Contains(strings.ToLower(err.Error()), "marker") || strings.Contains(err.Error(), "\n") {
				t.Errorf("the error repeats the answer: %v", err)
			}
			if _, known := oauth.Metadata(); known || requests.Load() != 1 {
				t.Errorf("%d requests, want 1 and nothing known", requests.Load())
			}
		})
	}
}

func TestDiscoverGivesUpInTime(t *testing.T) {
	t.Parallel()

	silent := func(t *testing.T, timeout time.Duration) *prisma.OAuth {
		t.Helper()
		hold := make(chan struct{})
		t.Cleanup(func() { close(hold) })
		return newOAuth(t, prisma.OAuthConfig{
			AuthURL: "http://127.0.0.1:1", Timeouts: prisma.ExchangeTimeouts{Discovery: timeout},
			DialContext: piped(func(*http.Request, url.Values) string { <-hold; return "" }),
		})
	}
	t.Run("by itself", func(t *testing.T) {
		t.Parallel()
		_, err := silent(t, 50*time.Millisecond).Discover(t.Context())
		if _, ok := errors.AsType[*prisma.DiscoveryError](err); !ok || !strings.Contains(err.Error(), "in time") {
			t.Errorf("Discover() error = %v", err)
		}
	})
	t.Run("with its caller", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := silent(t, time.Minute).Discover(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Discover() error = %v, want context.Canceled", err)
		}
	})
	t.Run("nobody there", func(t *testing.T) {
		t.Parallel()
		refused := &net.OpError{Op: "dial", Err: errors.New("connection refused")}
		oauth := newOAuth(t, prisma.OAuthConfig{
			AuthURL: "http://127.0.0.1:1", DialContext: func(context.Context, string, string) (net.Conn, error) { return nil, refused },
		})
		if _, err := oauth.Discover(t.Context()); !errors.Is(err, refused) {
			t.Errorf("Discover() error = %v, want the network's", err)
		}
	})
}
