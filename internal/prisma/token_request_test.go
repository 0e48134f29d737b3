package prisma_test

import (
	"bufio"
	"context"
	"encoding/base64"
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

// jwt returns an unsigned access token with these claims.
func jwt(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + "." + encode([]byte("signature"))
}

// accessToken is one whose claims name wksp_1.
func accessToken() string { return jwt(`{"workspace_id":"wksp_1"}`) }

func goodAnswer() string {
	return fmt.Sprintf(`{"access_token":%q,"refresh_token":"r2","token_type":"Bearer","expires_in":3600}`, accessToken())
}

// rawServer answers every connection with serve on its own goroutine until the test
// ends, and returns its URL.
func rawServer(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn)
			}()
		}
	}()
	return "http://" + listener.Addr().String()
}

// readRequest reads one whole request from a raw connection.
func readRequest(r *bufio.Reader) error {
	req, err := http.ReadRequest(r)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err
}

func TestTokenRequestForm(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		client prisma.OAuthClient
		call   func(context.Context, *prisma.OAuth, prisma.OAuthClient) error
		want   url.Values
	}{
		"refresh, confidential": {
			client: prisma.OAuthClient{ID: "c", Secret: "s&ecret"},
			call: func(ctx context.Context, o *prisma.OAuth, c prisma.OAuthClient) error {
				_, err := o.Refresh(ctx, c, "r+1")
				return err
			},
			want: url.Values{
				"grant_type": {"refresh_token"}, "refresh_token": {"r+1"}, "client_id": {"c"}, "client_secret": {"s&ecret"},
			},
		},
		"code, public": {
			client: prisma.OAuthClient{ID: "c"},
			call: func(ctx context.Context, o *prisma.OAuth, c prisma.OAuthClient) error {
				_, err := o.ExchangeCode(ctx, c, "https://a.example/cb", "code", "verifier")
				return err
			},
			want: url.Values{
				"grant_type": {"authorization_code"}, "code": {"code"}, "redirect_uri": {"https://a.example/cb"},
				"code_verifier": {"verifier"}, "client_id": {"c"},
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got url.Values
			var header http.Header
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_ = r.ParseForm()
				got, header = r.PostForm, r.Header
				if r.Method != http.MethodPost || r.URL.Path != "/token" || r.URL.RawQuery != "" {
					t.Errorf("request = %s %s", r.Method, r.URL)
				}
				_, _ = io.WriteString(w, goodAnswer())
			}))
			defer server.Close()

			if err := tc.call(t.Context(), newOAuth(t, prisma.OAuthConfig{AuthURL: server.URL}), tc.client); err != nil {
				t.Fatalf("token request: %v", err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("form (-want +got):\n%s", diff)
			}
			for _, name := range []string{"Authorization", "Idempotency-Key", "X-Idempotency-Key"} {
				if header.Get(name) != "" {
					t.Errorf("the request has a header %s", name)
				}
			}
		})
	}
}

// tokenAnswer is an answer to a refresh and what must become of it.
type tokenAnswer struct {
	status int // 0: 200
	header http.Header
	body   string
	want   prisma.Grant
	class  prisma.Outcome // 0: success
	code   string
	after  time.Duration
}

// tokenAnswers are the answers that TestTokenAnswers tries.
func tokenAnswers() map[string]tokenAnswer {
	access := accessToken()
	grant := func(refresh string, life time.Duration, rotated bool) prisma.Grant {
		return prisma.Grant{Access: access, Refresh: refresh, WorkspaceID: "wksp_1", ExpiresIn: life, Rotated: rotated}
	}
	half := func(refresh string) prisma.Grant {
		return prisma.Grant{Refresh: refresh, ExpiresIn: time.Hour, Rotated: true}
	}
	open := func(rest string) string { return fmt.Sprintf(`{"access_token":%q%s`, access, rest) }
	ok := func(rest string) string { return open(rest) + "}" }
	return map[string]tokenAnswer{
		"good":                 {body: goodAnswer(), want: grant("r2", time.Hour, true)},
		"unknown fields":       {body: ok(`,"refresh_token":"r2","expires_in":3600,"x":[{}],"ACCESS_TOKEN":1`), want: grant("r2", time.Hour, true)},
		"no refresh token":     {body: ok(`,"expires_in":3600`), want: grant("r1", time.Hour, false)},
		"null refresh token":   {body: ok(`,"refresh_token":null`), want: grant("r1", time.Hour, false)},
		"seconds as text":      {body: ok(`,"refresh_token":"r2","expires_in":"600"`), want: grant("r2", 10*time.Minute, true)},
		"fractional seconds":   {body: ok(`,"refresh_token":"r2","expires_in":600.0`), want: grant("r2", 10*time.Minute, true)},
		"life too short":       {body: ok(`,"refresh_token":"r2","expires_in":-5`), want: grant("r2", time.Minute, true)},
		"life too long":        {body: ok(`,"refresh_token":"r2","expires_in":1e12`), want: grant("r2", 24*time.Hour, true)},
		"life unreadable":      {body: ok(`,"refresh_token":"r2","expires_in":"soon"`), want: grant("r2", time.Hour, true)},
		"scope twice":          {body: ok(`,"refresh_token":"r2","scope":"a","scope":"b"`), want: grant("r2", time.Hour, true)},
		"life twice":           {body: ok(`,"refresh_token":"r2","expires_in":60,"expires_in":120`), want: grant("r2", time.Hour, true)},
		"other not UTF-8":      {body: ok(",\"refresh_token\":\"r2\",\"x\":\"\xff\""), want: grant("r2", time.Hour, true)},
		"odd token type":       {body: ok(`,"refresh_token":"r2","token_type":7`), want: grant("r2", time.Hour, true)},
		"odd scope":            {body: ok(`,"refresh_token":"r2","scope":["x"]`), want: grant("r2", time.Hour, true)},
		"status 201":           {status: 201, body: goodAnswer(), want: grant("r2", time.Hour, true)},
		"opaque access token":  {body: `{"access_token":"opaque","refresh_token":"r2"}`, want: prisma.Grant{Access: "opaque", Refresh: "r2", ExpiresIn: time.Hour, Rotated: true}},
		"empty":                {class: prisma.Unknown},
		"not JSON":             {body: "<html>", class: prisma.Unknown},
		"array":                {body: "[]", class: prisma.Unknown},
		"truncated":            {body: goodAnswer()[:60], class: prisma.Unknown},
		"cut after both":       {body: open(`,"refresh_token":"r2"`), want: grant("r2", time.Hour, true)},
		"cut in the life":      {body: open(`,"refresh_token":"r2","expires_in":60`), want: grant("r2", time.Hour, true)},
		"cut after the life":   {body: open(`,"refresh_token":"r2","expires_in":600,`), want: grant("r2", 10*time.Minute, true)},
		"cut in the access":    {body: `{"token_type":"Bearer","refresh_token":"r2","access_token":"ey`, want: half("r2")},
		"cut in an escape":     {body: `{"refresh_token":"r2","access_token":"a\u00`, want: half("r2")},
		"cut in a key":         {body: `{"refresh_token":"r2","acc`, want: half("r2")},
		"cut in another":       {body: `{"refresh_token":"r2","x":[{"refresh_token":"r3"`, want: half("r2")},
		"cut in the refresh":   {body: open(`,"refresh_token":"r2`), class: prisma.Unknown},
		"cut before it":        {body: open(`,"expires_in":3600,`), class: prisma.Unknown},
		"cut after null":       {body: open(`,"refresh_token":null,`), class: prisma.Unknown},
		"cut, it was nested":   {body: `{"x":{"refresh_token":"r2"},"access_`, class: prisma.Unknown},
		"cut, doubled":         {body: `{"refresh_token":"r2","refresh_token":"r3","acc`, class: prisma.Unknown},
		"cut, the old one":     {body: `{"refresh_token":"r1","access_token":"ey`, class: prisma.Unknown},
		"cut, CR LF in it":     {body: `{"refresh_token":"r\r\n2","access_token":"ey`, class: prisma.Unknown},
		"garbled after it":     {body: `{"refresh_token":"r2" "access_token":"ey`, class: prisma.Unknown},
		"two objects":          {body: goodAnswer() + "{}", class: prisma.Unknown},
		"doubled token":        {body: ok(`,"refresh_token":"r2","refresh_token":"r3"`), class: prisma.Unknown},
		"no access token":      {body: `{"refresh_token":"r2"}`, want: half("r2")},
		"other case":           {body: fmt.Sprintf(`{"Access_Token":%q}`, access), class: prisma.Unknown},
		"access not a string":  {body: `{"access_token":1,"refresh_token":"r2"}`, want: half("r2")},
		"refresh not a string": {body: ok(`,"refresh_token":1`), class: prisma.Unknown},
		"CR LF in access":      {body: `{"access_token":"a\r\nX: y","refresh_token":"r2"}`, want: half("r2")},
		"CR LF in refresh":     {body: ok(`,"refresh_token":"r\r\n2"`), class: prisma.Unknown},
		"access too long":      {body: `{"access_token":"` + strings.Repeat("a", 16<<10+1) + `"}`, class: prisma.Unknown},
		"body too large":       {body: ok(`,"refresh_token":"r2","x":"` + strings.Repeat("a", 64<<10) + `"`), class: prisma.Unknown},
		"refresh not UTF-8":    {body: ok(",\"refresh_token\":\"r2\xff\""), class: prisma.Unknown},
		"error in a 200":       {body: `{"error":"invalid_grant"}`, class: prisma.Unknown},
		"invalid_grant":        {status: 400, body: `{"error":"invalid_grant","error_description":"dead"}`, class: prisma.InvalidGrant, code: "invalid_grant"},
		"invalid_grant as 401": {status: 401, body: `{"error":"invalid_grant"}`, class: prisma.InvalidGrant, code: "invalid_grant"},
		"invalid_grant as 500": {status: 500, body: `{"error":"invalid_grant"}`, class: prisma.Unknown, code: "invalid_grant"},
		"invalid_client":       {status: 401, body: `{"error":"invalid_client"}`, class: prisma.Misconfigured, code: "invalid_client"},
		"invalid_request":      {status: 400, body: `{"error":"invalid_request"}`, class: prisma.Misconfigured, code: "invalid_request"},
		"unauthorized_client":  {status: 400, body: `{"error":"unauthorized_client"}`, class: prisma.Misconfigured, code: "unauthorized_client"},
		"rate limit":           {status: 429, header: http.Header{"Retry-After": {"7"}}, body: "slow down", class: prisma.Misconfigured, after: 7 * time.Second},
		"400 without code":     {status: 400, body: "bad", class: prisma.Unknown},
		"400 odd code":         {status: 400, body: `{"error":"in valid\n"}`, class: prisma.Unknown},
		"403":                  {status: 403, body: `{"error":"access_denied"}`, class: prisma.Unknown, code: "access_denied"},
		"500":                  {status: 500, class: prisma.Unknown},
		"503": {
			status: 503, class: prisma.Unknown, after: time.Hour,
			header: http.Header{"Date": {"Sat, 21 Nov 2026 10:00:00 GMT"}, "Retry-After": {"Sun, 22 Nov 2026 10:00:00 GMT"}},
		},
		"redirect":  {status: 307, header: http.Header{"Location": {"/elsewhere"}}, class: prisma.Unknown},
		"see other": {status: 303, header: http.Header{"Location": {"/elsewhere"}}, class: prisma.Unknown},
	}
}

func TestTokenAnswers(t *testing.T) {
	t.Parallel()

	for name, tc := range tokenAnswers() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				requests.Add(1)
				maps.Copy(w.Header(), tc.header)
				if tc.status != 0 {
					w.WriteHeader(tc.status)
				}
				_, _ = io.WriteString(w, tc.body)
			}))
			defer server.Close()

			got, err := newOAuth(t, prisma.OAuthConfig{AuthURL: server.URL}).
				Refresh(t.Context(), prisma.OAuthClient{ID: "c", Secret: "canary-secret"}, "r1")
			if requests.Load() != 1 {
				t.Errorf("%d requests, want exactly 1", requests.Load())
			}
			if tc.class == 0 {
				if err != nil {
					t.Fatalf("Refresh() error = %v", err)
				}
				if got != tc.want {
					t.Errorf("Refresh() = %+v, want %+v", struct{ A, R, W string }{got.Access, got.Refresh, got.WorkspaceID}, tc.want)
				}
				return
			}
			failure, ok := errors.AsType[*prisma.TokenError](err)
			if !ok {
				t.Fatalf("Refresh() error = %v, want a *TokenError", err)
			}
			if failure.Class != tc.class || failure.Code != tc.code || failure.RetryAfter != tc.after {
				t.Errorf("TokenError = {%s %q %s}, want {%s %q %s}",
					failure.Class, failure.Code, failure.RetryAfter, tc.class, tc.code, tc.after)
			}
			for _, secret := range []string{"canary-secret", accessToken(), "dead", "slow down", "r1"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error's text repeats %q", secret)
				}
			}
		})
	}
}

func TestExchangeCodeNeedsWorkspace(t *testing.T) {
	t.Parallel()

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"access_token":"opaque","refresh_token":"r"}`)
	}))
	defer server.Close()
	_, err := newOAuth(t, prisma.OAuthConfig{AuthURL: server.URL}).
		ExchangeCode(t.Context(), prisma.OAuthClient{ID: "c"}, "https://a.example", "code", "verifier")
	if failure, ok := errors.AsType[*prisma.TokenError](err); !ok || failure.Class != prisma.Unknown {
		t.Errorf("ExchangeCode() error = %v, want a *TokenError of class unknown", err)
	}
}

// TestTokenRequestCutConnections shows how each way of failing on the wire is classed,
// and that none makes the request go out twice.
func TestTokenRequestCutConnections(t *testing.T) {
	t.Parallel()

	answer := goodAnswer()
	tests := map[string]struct {
		serve  func(net.Conn, *bufio.Reader)
		class  prisma.Outcome // 0: success
		answer time.Duration  // how long the client listens; 0: the default
	}{
		"closed at once":       {serve: func(net.Conn, *bufio.Reader) {}, class: prisma.Unknown},
		"closed after reading": {serve: func(_ net.Conn, r *bufio.Reader) { _ = readRequest(r) }, class: prisma.Unknown},
		"reset after reading": {serve: func(c net.Conn, r *bufio.Reader) {
			_ = readRequest(r)
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0)
			}
		}, class: prisma.Unknown},
		"cut in the header": {serve: func(c net.Conn, r *bufio.Reader) {
			_ = readRequest(r)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-")
		}, class: prisma.Unknown},
		"cut in the body": {serve: func(c net.Conn, r *bufio.Reader) {
			_ = readRequest(r)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer[:len(answer)-1])
		}},
		"cut in the token": {serve: func(c net.Conn, r *bufio.Reader) {
			_ = readRequest(r)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer[:60])
		}, class: prisma.Unknown},
		"whole object, then cut": {serve: func(c net.Conn, r *bufio.Reader) {
			_ = readRequest(r)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer)+10, answer)
		}},
		"never answers": {serve: func(_ net.Conn, r *bufio.Reader) {
			_ = readRequest(r)
			_, _ = r.ReadByte() // until the client hangs up
		}, class: prisma.Unknown, answer: 200 * time.Millisecond},
		"answers slowly": {serve: func(c net.Conn, r *bufio.Reader) {
			_ = readRequest(r)
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(answer))
			_, _ = io.WriteString(c, answer[:9])
			_, _ = r.ReadByte()
		}, class: prisma.Unknown, answer: 200 * time.Millisecond},
		"not HTTP": {serve: func(c net.Conn, r *bufio.Reader) {
			_ = readRequest(r)
			_, _ = io.WriteString(c, "SSH-2.0-canary\r\n")
		}, class: prisma.Unknown},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var connections atomic.Int32
			base := rawServer(t, func(c net.Conn) {
				connections.Add(1)
				tc.serve(c, bufio.NewReader(c))
			})
			oauth := newOAuth(t, prisma.OAuthConfig{
				AuthURL: base, Timeouts: prisma.ExchangeTimeouts{Answer: tc.answer},
			})
			_, err := oauth.Refresh(t.Context(), prisma.OAuthClient{ID: "c"}, "r1")
			if tc.class == 0 && err != nil {
				t.Fatalf("Refresh() error = %v", err)
			}
			if tc.class != 0 {
				if failure, ok := errors.AsType[*prisma.TokenError](err); !ok || failure.Class != tc.class {
					t.Errorf("Refresh() error = %v, want class %s", err, tc.class)
				}
				if strings.Contains(err.Error(), "canary") {
					t.Errorf("Refresh() error = %v, which repeats the answer", err)
				}
			}
			if connections.Load() != 1 {
				t.Errorf("%d connections, want exactly 1", connections.Load())
			}
		})
	}
}

func TestTokenRequestNotSent(t *testing.T) {
	t.Parallel()

	closed := rawServer(t, func(net.Conn) {})
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	refused := "http://" + listener.Addr().String()
	_ = listener.Close()
	hanging := rawServer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()

	tests := map[string]struct {
		ctx  context.Context //nolint:containedctx // a table of calls
		base string
	}{
		"nobody listens":         {t.Context(), refused},
		"no TLS there":           {t.Context(), "https" + strings.TrimPrefix(closed, "http")},
		"TLS handshake hangs":    {t.Context(), "https" + strings.TrimPrefix(hanging, "http")},
		"caller gone beforehand": {cancelled, closed},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			oauth := newOAuth(t, prisma.OAuthConfig{
				AuthURL: tc.base, Timeouts: prisma.ExchangeTimeouts{Dial: 200 * time.Millisecond, TLS: 200 * time.Millisecond},
			})
			_, err := oauth.Refresh(tc.ctx, prisma.OAuthClient{ID: "c"}, "r1")
			if failure, ok := errors.AsType[*prisma.TokenError](err); !ok || failure.Class != prisma.NotSent {
				t.Errorf("Refresh() error = %v, want class not_sent", err)
			}
		})
	}
}

func TestTokenRequestOutlivesItsCaller(t *testing.T) {
	t.Parallel()

	ctx, cancel := context.WithCancel(t.Context())
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		cancel() // the caller goes away while the server works
		_, _ = io.WriteString(w, goodAnswer())
	}))
	defer server.Close()
	grant, err := newOAuth(t, prisma.OAuthConfig{AuthURL: server.URL}).Refresh(ctx, prisma.OAuthClient{ID: "c"}, "r1")
	if err != nil || grant.Refresh != "r2" {
		t.Errorf("Refresh() = %v, %v; want the new pair", grant, err)
	}
}

// TestTokenRequestIsNeverResent runs against a server that keeps connections alive and
// drops a reused one after reading a request from it. The control, Go's ordinary
// transport with an idempotency key, sends its second request twice there; so the test
// would notice.
func TestTokenRequestIsNeverResent(t *testing.T) {
	t.Parallel()

	serve := func(received *atomic.Int32) func(net.Conn) {
		return func(c net.Conn) {
			r := bufio.NewReader(c)
			if readRequest(r) != nil {
				return
			}
			received.Add(1)
			answer := goodAnswer()
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: keep-alive\r\n\r\n%s", len(answer), answer)
			if readRequest(r) == nil {
				received.Add(1) // processed, and then the connection drops
			}
		}
	}

	t.Run("token requests", func(t *testing.T) {
		t.Parallel()
		var received atomic.Int32
		oauth := newOAuth(t, prisma.OAuthConfig{AuthURL: rawServer(t, serve(&received))})
		for range 20 {
			if _, err := oauth.Refresh(t.Context(), prisma.OAuthClient{ID: "c"}, "r1"); err != nil {
				t.Fatalf("Refresh() error = %v", err)
			}
		}
		if received.Load() != 20 {
			t.Errorf("20 token requests arrived %d times", received.Load())
		}
	})
	t.Run("control", func(t *testing.T) {
		t.Parallel()
		var received atomic.Int32
		base := rawServer(t, serve(&received))
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		for range 2 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, base, strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Idempotency-Key", "k")
			if resp, err := client.Do(req); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		}
		if received.Load() != 3 {
			t.Errorf("2 ordinary requests arrived %d times, want 3: the trap does not work", received.Load())
		}
	})
}
