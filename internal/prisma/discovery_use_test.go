package prisma_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// TestTokenRequestsFollowDiscovery: the endpoint and the way of authenticating are those
// of the metadata as soon as it is known.
func TestTokenRequestsFollowDiscovery(t *testing.T) {
	t.Parallel()

	const post, basic = "client_secret_post", "client_secret_basic"
	tests := map[string]struct {
		methods any
		secret  string
		basic   bool
	}{
		"both offered":        {[]string{basic, post}, "s&cret:1", false},
		"only the body":       {[]string{post}, "s&cret:1", false},
		"only the header":     {[]string{basic, "private_key_jwt"}, "s&cret:1", true},
		"header, public":      {[]string{basic, "none"}, "", false},
		"only public clients": {[]string{"none"}, "s&cret:1", false},
		"nothing said":        {nil, "s&cret:1", false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			var paths []string
			var form url.Values
			var header http.Header
			const issuer = "http://127.0.0.1:1"
			oauth := newOAuth(t, prisma.OAuthConfig{AuthURL: issuer, DialContext: piped(func(r *http.Request, posted url.Values) string {
				if r.Method == http.MethodGet {
					return response(http.StatusOK, "application/json", metadataOf(issuer, map[string]any{"token_endpoint_auth_methods_supported": tc.methods}))
				}
				mu.Lock()
				defer mu.Unlock()
				paths, form, header = append(paths, r.URL.Path), posted, r.Header
				return response(http.StatusOK, "application/json", goodAnswer())
			})})
			client := prisma.OAuthClient{ID: "cli ent", Secret: tc.secret}
			if _, err := oauth.Refresh(t.Context(), client, "r1"); err != nil {
				t.Fatal(err)
			}
			if _, err := oauth.Discover(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := oauth.Refresh(t.Context(), client, "r1"); err != nil {
				t.Fatal(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if diff := cmp.Diff([]string{"/token", "/oauth/token"}, paths); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
			want := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"r1"}, "client_id": {"cli ent"}, "client_secret": {tc.secret}}
			authorization := ""
			if tc.basic {
				want.Del("client_id")
				authorization = "Basic Y2xpK2VudDpzJTI2Y3JldCUzQTE=" // cli+ent:s%26cret%3A1
			}
			if tc.basic || tc.secret == "" {
				want.Del("client_secret")
			}
			if diff := cmp.Diff(want, form); diff != "" {
				t.Errorf("form (-want +got):\n%s", diff)
			}
			if got := header.Get("Authorization"); got != authorization {
				t.Errorf("Authorization = %q, want %q", got, authorization)
			}
		})
	}
}

// TestIssIsRequiredOncePromised: also for an attempt that began before the promise was
// read.
func TestIssIsRequiredOncePromised(t *testing.T) {
	t.Parallel()

	const issuer = "http://127.0.0.1:1"
	var promised atomic.Bool
	oauth := newOAuth(t, prisma.OAuthConfig{AuthURL: issuer, DialContext: piped(func(*http.Request, url.Values) string {
		return response(http.StatusOK, "application/json",
			metadataOf(issuer, map[string]any{"authorization_response_iss_parameter_supported": promised.Load()}))
	})})
	check := func(when string, absent bool) {
		t.Helper()
		for name, tc := range map[string]struct {
			iss []string
			ok  bool
		}{
			"absent": {nil, absent}, "right": {[]string{issuer}, true}, "wrong": {[]string{"https://evil.example"}, false},
			"empty": {[]string{""}, false}, "doubled": {[]string{issuer, issuer}, false},
		} {
			response := url.Values{"code": {"c"}}
			if tc.iss != nil {
				response["iss"] = tc.iss
			}
			err := oauth.CheckIssuer(response)
			if (err == nil) != tc.ok || err != nil && fault.KindOf(err) != fault.InvalidRequest {
				t.Errorf("%s, iss %s: CheckIssuer() = %v, want success: %t", when, name, err, tc.ok)
			}
		}
	}
	check("before discovery", true)
	for _, promise := range []bool{false, true} {
		promised.Store(promise)
		if _, err := oauth.Discover(t.Context()); err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprintf("promise %t", promise), !promise)
	}
}

// TestDiscoverBesideRequests is for the race detector: metadata changes under requests.
func TestDiscoverBesideRequests(t *testing.T) {
	t.Parallel()

	const issuer = "http://127.0.0.1:1"
	var turn atomic.Int32
	oauth := newOAuth(t, prisma.OAuthConfig{AuthURL: issuer, DialContext: piped(func(r *http.Request, _ url.Values) string {
		if r.Method == http.MethodGet {
			path := fmt.Sprintf("%s/%d", issuer, turn.Add(1)%2)
			return response(http.StatusOK, "application/json",
				metadataOf(issuer, map[string]any{"authorization_endpoint": path + "/authorize", "token_endpoint": path + "/token"}))
		}
		return response(http.StatusOK, "application/json", goodAnswer())
	})})
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 25 {
				if _, err := oauth.Discover(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
		all.Go(func() {
			for range 25 {
				_, err := oauth.Refresh(t.Context(), prisma.OAuthClient{ID: "c"}, "r")
				_, urlErr := oauth.AuthorizationURL(prisma.AuthorizationRequest{ClientID: "c", RedirectURI: "r", State: "s", Verifier: "v"})
				if err := errors.Join(err, urlErr, oauth.CheckIssuer(url.Values{"iss": {issuer}})); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}

// TestNobodyIsSentToARefusedServer: while the only metadata ever read is not acceptable,
// no user is sent there; refreshes go on, and once there was good metadata a bad one
// changes nothing.
func TestNobodyIsSentToARefusedServer(t *testing.T) {
	t.Parallel()

	const issuer = "http://127.0.0.1:1"
	var bad atomic.Bool
	oauth := newOAuth(t, prisma.OAuthConfig{AuthURL: issuer, DialContext: piped(func(r *http.Request, _ url.Values) string {
		switch {
		case r.Method == http.MethodPost:
			return response(http.StatusOK, "application/json", goodAnswer())
		case bad.Load():
			return response(http.StatusOK, "application/json", metadataOf("http://elsewhere", nil))
		}
		return response(http.StatusOK, "application/json", metadataOf(issuer, nil))
	})})
	request := prisma.AuthorizationRequest{ClientID: "c", RedirectURI: "http://127.0.0.1/cb", State: "s", Verifier: prisma.NewVerifier()}
	steps := []struct {
		bad  bool
		kind fault.Kind // of AuthorizationURL's error; "": none
	}{{true, fault.PrismaUnavailable}, {false, ""}, {true, ""}}
	for i, step := range steps {
		bad.Store(step.bad)
		if _, err := oauth.Discover(t.Context()); (err != nil) != step.bad {
			t.Fatalf("step %d: Discover() error = %v", i, err)
		}
		_, err := oauth.AuthorizationURL(request)
		if (err == nil) != (step.kind == "") || err != nil && fault.KindOf(err) != step.kind {
			t.Errorf("step %d: AuthorizationURL() error = %v, want kind %q", i, err, step.kind)
		}
		if _, err := oauth.Refresh(t.Context(), prisma.OAuthClient{ID: "c"}, "r1"); err != nil {
			t.Errorf("step %d: Refresh() error = %v", i, err)
		}
	}
}
