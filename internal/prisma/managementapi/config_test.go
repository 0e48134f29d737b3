package managementapi_test

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

func TestNew(t *testing.T) {
	t.Parallel()
	if client, err := managementapi.New(managementapi.Config{}); err != nil || client.String() != "client of api.prisma.io" {
		t.Errorf("New() = %v, %v, want a client of production", client, err)
	}
	tests := map[string]managementapi.Config{
		"relative URL":         {BaseURL: "/" + canary},
		"other scheme":         {BaseURL: "ftp://" + canary},
		"no host":              {BaseURL: "https:///" + canary},
		"not a URL":            {BaseURL: "https://" + canary + "\x7f"},
		"password":             {BaseURL: "https://user:" + canary + "@prisma.test"},
		"query":                {BaseURL: "https://prisma.test?" + canary},
		"fragment":             {BaseURL: "https://prisma.test#" + canary},
		"negative timeout":     {Timeout: -1},
		"negative attempts":    {Retry: managementapi.RetrySettings{Attempts: -1}},
		"negative pause":       {Retry: managementapi.RetrySettings{From: -1}},
		"negative bound":       {Retry: managementapi.RetrySettings{To: -1}},
		"negative advice":      {Retry: managementapi.RetrySettings{Advice: -1}},
		"negative budget":      {Retry: managementapi.RetrySettings{Budget: -1}},
		"header value":         {Header: http.Header{"Authorization": {"Bearer " + canary + "\r\nX: y"}}},
		"header name":          {Header: http.Header{"X y": {canary}}},
		"header of line break": {Header: http.Header{"X\n" + canary: {"a"}}},
	}
	for name, cfg := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := managementapi.New(cfg)
			if err == nil {
				t.Fatal("New() takes it")
			}
			silent(t, err)
		})
	}
}

// get makes a call with a configuration and returns the request that arrived.
func get(t *testing.T, change func(cfg *managementapi.Config, api *upstream)) seen {
	t.Helper()
	api := serve(t, answering(http.StatusOK, "application/json", workspace))
	cfg := managementapi.Config{BaseURL: api.URL, Transport: api.Transport}
	change(&cfg, api)
	if _, err := newClient(t, cfg).GetWorkspace(t.Context(), "w/1"); err != nil {
		t.Fatalf("GetWorkspace() = %v", err)
	}
	requests := api.taken()
	if len(requests) != 1 {
		t.Fatalf("%d requests, want 1", len(requests))
	}
	return requests[0]
}

// The base URL may have a path, escaped and with a slash at its end or not.
func TestBaseURL(t *testing.T) {
	t.Parallel()
	for base, want := range map[string]string{
		"": "/v1/workspaces/w%2F1", "/": "/v1/workspaces/w%2F1", "/a/b": "/a/b/v1/workspaces/w%2F1",
		"/a%2Fb/": "/a%2Fb/v1/workspaces/w%2F1", "/é": "/%C3%A9/v1/workspaces/w%2F1",
	} {
		t.Run(base, func(t *testing.T) {
			t.Parallel()
			got := get(t, func(cfg *managementapi.Config, api *upstream) { cfg.BaseURL = api.URL + base })
			if got.RequestURI != want {
				t.Errorf("path = %s, want %s", got.RequestURI, want)
			}
		})
	}
}

// Which Authorization is sent, and which other headers.
func TestHeaders(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		header     http.Header
		token      string
		authorizer managementapi.Authorizer
		want       http.Header
	}{
		"nothing":         {want: http.Header{}},
		"token":           {token: "tok", want: http.Header{"Authorization": {"Bearer tok"}}},
		"authorizer":      {token: "tok", authorizer: &tokens{values: []string{"a"}}, want: http.Header{"Authorization": {"Bearer a"}}},
		"empty bearer":    {authorizer: &tokens{values: []string{""}}, want: http.Header{}},
		"header wins":     {header: http.Header{"Authorization": {"Basic x"}}, token: "tok", authorizer: &tokens{values: []string{"a"}}, want: http.Header{"Authorization": {"Basic x"}}},
		"in any case":     {header: http.Header{"authorization": {"Basic x"}}, token: "tok", want: http.Header{"Authorization": {"Basic x"}}},
		"empty header":    {header: http.Header{"Authorization": {""}}, token: "tok", want: http.Header{"Authorization": {"Bearer tok"}}},
		"further headers": {header: http.Header{"X-A": {"1", "2"}, "User-Agent": {"shop/1"}}, want: http.Header{"X-A": {"1", "2"}, "User-Agent": {"shop/1"}}},
		"the client's own": {
			header: http.Header{
				"Accept": {"text/html"}, "accept-encoding": {"br"}, "Content-Type": {"a/b"}, "idempotency-key": {"1"},
				"Idempotency-Key": {"1"}, "X-Idempotency-Key": {"2"},
			},
			want: http.Header{},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := get(t, func(cfg *managementapi.Config, _ *upstream) {
				cfg.Header, cfg.Token, cfg.Authorizer = tc.header, tc.token, tc.authorizer
			})
			want := http.Header{"Accept": {"application/json"}, "Accept-Encoding": {"gzip"}, "User-Agent": {"Go-http-client/1.1"}}
			maps.Copy(want, tc.want)
			if diff := cmp.Diff(want, got.Header); diff != "" {
				t.Errorf("header (-want +got):\n%s", diff)
			}
		})
	}
}

// Neither the configuration's headers nor the client's change with the other.
func TestHeaderIsCopied(t *testing.T) {
	t.Parallel()
	header := http.Header{"X-A": {"1"}}
	got := get(t, func(cfg *managementapi.Config, _ *upstream) {
		cfg.Header = header
		cfg.Transport = changing{cfg.Transport, header}
	})
	if diff := cmp.Diff([]string{"1", "sent"}, got.Header["X-A"]); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(http.Header{"X-A": {"changed"}}, header); diff != "" {
		t.Errorf("configured header (-want +got):\n%s", diff)
	}
}

// changing is a transport that changes the request's headers and the configuration's.
type changing struct {
	http.RoundTripper
	configured http.Header
}

func (c changing) RoundTrip(r *http.Request) (*http.Response, error) {
	c.configured["X-A"][0] = "changed"
	r.Header.Add("X-A", "sent")
	return c.RoundTripper.RoundTrip(r)
}

// A token that can't be a header's value is refused, unsent and unsaid.
func TestBadToken(t *testing.T) {
	t.Parallel()
	api := serve(t, answering(http.StatusOK, "application/json", workspace))
	for _, token := range []string{canary + "\r\nX: y", canary + "\n", " " + canary, canary + "é", canary + "\x00"} {
		client := api.client(t)
		for name, client := range map[string]*managementapi.Client{
			"token": client.WithToken(token), "authorizer": client.WithAuthorizer(&tokens{values: []string{token}}),
		} {
			_, err := client.GetMe(t.Context())
			if failure := asFetch(t, err); failure.Sent {
				t.Errorf("%s: error = %v, want one that was not sent", name, err)
			}
			silent(t, err)
		}
	}
	if n := len(api.taken()); n != 0 {
		t.Errorf("%d requests, want none", n)
	}
}

// A redirect is an answer of its own: the token goes nowhere else.
func TestRedirect(t *testing.T) {
	t.Parallel()
	elsewhere := serve(t, answering(http.StatusOK, "application/json", workspace))
	for _, status := range []int{301, 302, 303, 307, 308} {
		api := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere.URL, status) })
		for verb, call := range verbs {
			if refusal := asAPI(t, call(t.Context(), api.client(t))); refusal.Status != status {
				t.Errorf("%s: status = %d, want %d", verb, refusal.Status, status)
			}
		}
	}
	if n := len(elsewhere.taken()); n != 0 {
		t.Errorf("%d requests went elsewhere", n)
	}
}

// The derived clients differ in their tokens alone.
func TestDerived(t *testing.T) {
	t.Parallel()
	api := serve(t, answering(http.StatusOK, "application/json", workspace))
	first := newClient(t, managementapi.Config{BaseURL: api.URL, Transport: api.Transport, Token: "a", Header: http.Header{"X-A": {"1"}}})
	authorized := first.WithAuthorizer(&tokens{values: []string{"c"}})
	for _, client := range []*managementapi.Client{first, first.WithToken("b"), authorized, authorized.WithToken("d"), first} {
		if _, err := client.GetWorkspace(t.Context(), "w"); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, request := range api.taken() {
		got = append(got, request.Header.Get("Authorization")+" "+request.Header.Get("X-A"))
	}
	if diff := cmp.Diff([]string{"Bearer a 1", "Bearer b 1", "Bearer c 1", "Bearer d 1", "Bearer a 1"}, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
}

// Cancellation is what the error says, for a call of any kind.
func TestCancelled(t *testing.T) {
	t.Parallel()
	for verb, call := range verbs {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			arrived := make(chan struct{}, 1)
			api := serve(t, func(_ http.ResponseWriter, r *http.Request) {
				arrived <- struct{}{}
				<-r.Context().Done()
			})
			client := newClient(t, managementapi.Config{BaseURL: api.URL, Transport: api.Transport})
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-arrived; cancel() }()
			err := call(ctx, client)
			if failure := asFetch(t, err); !errors.Is(err, context.Canceled) || !failure.Sent || len(api.taken()) != 1 {
				t.Errorf("error = %v after %d requests, want a cancelled one", err, len(api.taken()))
			}
			err = call(ctx, client) // done before it begins
			if failure := asFetch(t, err); !errors.Is(err, context.Canceled) || failure.Sent || len(api.taken()) != 1 {
				t.Errorf("error = %v after %d requests, want one that was not sent", err, len(api.taken()))
			}
		})
	}
}

// The timeout is kept, for a call of any kind.
func TestTimeout(t *testing.T) {
	t.Parallel()
	for verb, call := range verbs {
		t.Run(verb, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client, played := scripted(t, managementapi.RetrySettings{}, reply{takes: time.Hour})
				start := bubbleTime()
				err := call(t.Context(), client)
				if took := time.Since(start); took != 30*time.Second || len(played.times) != 1 {
					t.Errorf("took %v and %d requests, want 30 s and 1", took, len(played.times))
				}
				if failure := asFetch(t, err); !errors.Is(err, context.DeadlineExceeded) || !failure.Sent {
					t.Errorf("error = %v, want a timeout of a request that was sent", err)
				}
			})
		})
	}
}

// A connection that never came about is known not to have sent anything; a transport
// that does not tell may have.
func TestNotSent(t *testing.T) {
	t.Parallel()
	proxied := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: "127.0.0.1:1", User: url.UserPassword("u", canary)})}
	direct := &http.Transport{}
	once := managementapi.RetrySettings{Attempts: 1}
	tests := map[string]struct {
		cfg  managementapi.Config
		is   error
		sent bool
	}{
		"refused":         {managementapi.Config{BaseURL: "http://127.0.0.1:1", Retry: once}, syscall.ECONNREFUSED, false},
		"own transport":   {managementapi.Config{BaseURL: "http://127.0.0.1:1", Retry: once, Transport: direct}, syscall.ECONNREFUSED, false},
		"proxy":           {managementapi.Config{BaseURL: "http://prisma.localhost", Retry: once, Transport: proxied}, syscall.ECONNREFUSED, false},
		"proxy and https": {managementapi.Config{BaseURL: "https://prisma.test", Retry: once, Transport: proxied}, syscall.ECONNREFUSED, false},
		"silent dial":     {managementapi.Config{Retry: once, Transport: &script{replies: []reply{{err: refused}}}}, syscall.ECONNREFUSED, false},
		"silent read":     {managementapi.Config{Retry: once, Transport: &script{replies: []reply{{err: reset}}}}, syscall.ECONNRESET, true},
		"silent":          {managementapi.Config{Retry: once, Transport: &script{replies: []reply{{err: errors.New(canary)}}}}, nil, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := verbs["POST"](t.Context(), newClient(t, tc.cfg))
			if failure := asFetch(t, err); failure.Sent != tc.sent || tc.is != nil && !errors.Is(err, tc.is) {
				t.Errorf("error = %v, sent %t, want %v, sent %t", err, failure.Sent, tc.is, tc.sent)
			}
			silent(t, err)
		})
	}
}

// A proxy gets the request, with the API's host.
func TestProxy(t *testing.T) {
	t.Parallel()
	var host string
	proxy := serve(t, func(w http.ResponseWriter, r *http.Request) {
		host = r.Host
		answering(http.StatusOK, "application/json", workspace)(w, r)
	})
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{Proxy: http.ProxyURL(at)}
	defer transport.CloseIdleConnections()
	// The test's server goes by the path's first segment.
	client := newClient(t, managementapi.Config{BaseURL: "http://prisma.localhost/" + strings.Trim(at.Path, "/"), Transport: transport})
	if _, err := client.GetWorkspace(t.Context(), "w"); err != nil || host != "prisma.localhost" {
		t.Errorf("GetWorkspace() = %v by way of a proxy that saw the host %q, want prisma.localhost", err, host)
	}
}

// What the authorizer says is what the call returns, and it is not asked in vain.
func TestAuthorizer(t *testing.T) {
	t.Parallel()
	none := errors.New("no token")
	api := serve(t, answering(http.StatusUnauthorized, "application/json", `{"error": {"code": "authentication-failed"}}`))
	if _, err := api.client(t).WithAuthorizer(&tokens{err: none}).GetMe(t.Context()); !errors.Is(err, none) || len(api.taken()) != 0 {
		t.Errorf("GetMe() = %v after %d requests, want the authorizer's error after none", err, len(api.taken()))
	}
	_, err := api.client(t).WithAuthorizer(&tokens{values: []string{"a", "b"}}).GetMe(t.Context())
	if refusal := asAPI(t, err); refusal.Status != 401 || refusal.Code != "authentication-failed" || len(api.taken()) != 2 {
		t.Errorf("GetMe() = %v after %d requests, want a 401 after 2", err, len(api.taken()))
	}
	asked := &tokens{values: []string{"a"}}
	client := api.client(t).WithAuthorizer(asked)
	_, err = client.PutAlchemyOutput(t.Context(), "p", "b", "s", "st", managementapi.PutAlchemyOutputParams{AlchemyStateLeaseID: "l"}, []byte("{"))
	if failure := asFetch(t, err); failure.Sent || asked.count() != 0 {
		t.Errorf("PutAlchemyOutput() = %v, asked %d times, want a body that can't be sent, and no question", err, asked.count())
	}
}

// No print of a client shows its token.
func TestClientHidesToken(t *testing.T) {
	t.Parallel()
	client := newClient(t, managementapi.Config{BaseURL: "http://prisma.localhost", Token: canary})
	holder := struct {
		C *managementapi.Client
		c *managementapi.Client
	}{client, client}
	for _, text := range append(prints(client), prints(holder)...) {
		if strings.Contains(text, canary) {
			t.Fatalf("the token is in %s", text)
		}
	}
}
