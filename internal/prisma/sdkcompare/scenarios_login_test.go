package sdkcompare_test

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// fresh makes an SDK with an empty storage.
func fresh(s *stage) actor { return s.sdk(s.storage(plain, nil)) }

// loginScenarios are about beginning a login.
func loginScenarios() []scenario {
	return []scenario{
		{
			name: "login URL",
			play: func(s *stage) { s.loginURL(fresh(s), fullScope, nil) },
		},
		{
			name: "login URL with further parameters",
			play: func(s *stage) {
				s.loginURL(fresh(s), "workspace:admin", map[string]string{"utm_source": "my app", "utm_medium": "login&more"})
			},
		},
		{
			name: "login URL with a parameter that is OAuth's",
			play: func(s *stage) { s.loginURL(fresh(s), fullScope, map[string]string{"response_type": "token"}) },
		},
		{
			name: "login URL without a scope",
			play: func(s *stage) { s.loginURL(fresh(s), "", nil) },
		},
		{
			name: "login URL of a server that lacks PKCE",
			play: func(s *stage) {
				s.front.between(on("/.well-known/", rewrites(func(metadata map[string]any) {
					metadata["code_challenge_methods_supported"] = []string{"plain"}
				})))
				s.loginURL(fresh(s), fullScope, nil)
			},
		},
		{
			name: "login URLs differ",
			play: func(s *stage) {
				a := fresh(s)
				s.loginURL(a, fullScope, nil)
				s.loginURL(a, fullScope, nil)
			},
		},
		{
			name: "login URL with a context that has ended",
			play: func(s *stage) {
				a := fresh(s)
				ctx, cancel := context.WithCancel(s.t.Context())
				cancel()
				_, failed := a.loginURL(ctx, fullScope, nil)
				s.note("login URL", nil, failed)
			},
		},
	}
}

// callbackScenarios are about callbacks that must not lead to a token request.
func callbackScenarios() []scenario {
	// given makes a scenario of a callback URL.
	given := func(name string, edit func(callback *url.URL, query url.Values)) scenario {
		return scenario{name: name, play: func(s *stage) {
			a := fresh(s)
			begun, callback := s.begin(a, fullScope)
			u, err := url.Parse(callback)
			if err != nil {
				s.t.Fatal(err)
			}
			query := u.Query()
			edit(u, query)
			u.RawQuery = query.Encode()
			s.callback(a, u.String(), begun)
		}}
	}
	// without makes a callback that brings an error instead of a code.
	without := func(code, description string) func(*url.URL, url.Values) {
		return func(_ *url.URL, query url.Values) {
			query.Del("code")
			query.Set("error", code)
			if description != "" {
				query.Set("error_description", description)
			}
		}
	}
	return []scenario{
		{
			name: "callback URL that is none",
			play: func(s *stage) {
				a := fresh(s)
				begun, _ := s.begin(a, fullScope)
				s.callback(a, "http://[::1/callback?code=c&state=s", begun)
			},
		},
		{
			name: "callback after the user said no",
			play: func(s *stage) {
				a := fresh(s)
				s.simulator.Control(s.t, http.MethodPut, "consent", map[string]string{"mode": "deny"}, nil)
				begun, callback := s.begin(a, fullScope)
				s.callback(a, callback, begun)
			},
		},
		given("callback with an error and a description", without("access_denied", "User cancelled")),
		given("callback with an error alone", without("server_error", "")),
		given("callback with an error and a wrong state", func(u *url.URL, query url.Values) {
			without("access_denied", "User cancelled")(u, query)
			query.Set("state", "another")
		}),
		given("callback with an error and a code", func(_ *url.URL, query url.Values) { query.Set("error", "access_denied") }),
		given("callback with an error to deceive terminals", without("access_denied", "\x1b[2Jall\u202e fine\r\n"+strings.Repeat("x", 400))),
		given("callback without a code", func(_ *url.URL, query url.Values) { query.Del("code") }),
		given("callback with a wrong state", func(_ *url.URL, query url.Values) { query.Set("state", "another") }),
		given("callback without a state", func(_ *url.URL, query url.Values) { query.Del("state") }),
		given("callback with two codes", func(_ *url.URL, query url.Values) { query.Add("code", "another") }),
		given("callback of another issuer", func(_ *url.URL, query url.Values) { query.Set("iss", "https://auth.example") }),
		given("callback without an issuer", func(_ *url.URL, query url.Values) { query.Del("iss") }),
		given("callback as a server sees it", func(u *url.URL, _ url.Values) { u.Scheme, u.Host = "", "" }),
		{
			name: "callback without a state when none is expected",
			play: func(s *stage) {
				a := fresh(s)
				begun, callback := s.begin(a, fullScope)
				u, query := *must(s, callback), query(s.t, callback)
				query.Del("state")
				u.RawQuery = query.Encode()
				s.note("callback", nil, a.handleCallback(s.t.Context(), u.String(), begun.Verifier, nil))
			},
		},
		{
			name: "callback without a verifier",
			play: func(s *stage) {
				a := fresh(s)
				begun, callback := s.begin(a, fullScope)
				begun.Verifier = ""
				s.callback(a, callback, begun)
			},
		},
	}
}

func must(s *stage, rawURL string) *url.URL {
	u, err := url.Parse(rawURL)
	if err != nil {
		s.t.Fatal(err)
	}
	return u
}

// exchangeScenarios are about callbacks that lead to a token request, and what follows.
func exchangeScenarios() []scenario {
	return []scenario{
		{
			name: "login, call, logout, call",
			play: func(s *stage) {
				kept := s.storage(plain, nil)
				a := s.sdk(kept)
				begun, callback := s.begin(a, fullScope)
				s.callback(a, callback, begun)
				s.noteStored(kept)
				s.call(a, listWorkspaces())
				s.logout(a)
				s.call(a, listWorkspaces())
			},
		},
		{
			name: "login to the other workspace",
			play: func(s *stage) {
				s.consentFor(prismasimtest.WorkspaceB)
				a := fresh(s)
				begun, callback := s.begin(a, fullScope)
				s.callback(a, callback, begun)
				s.call(a, listWorkspaces())
			},
		},
		{
			name: "login without offline access",
			play: func(s *stage) {
				a := fresh(s)
				begun, callback := s.begin(a, "workspace:admin")
				s.callback(a, callback, begun)
				s.call(a, listWorkspaces())
			},
		},
		{
			name: "login of a confidential client",
			play: func(s *stage) {
				s.log.alias(prismasimtest.ClientSecret, "client-secret")
				a := s.sdk(s.storage(plain, nil), sdkOptions{id: prismasimtest.ClientID, secret: prismasimtest.ClientSecret})
				begun, callback := s.begin(a, fullScope)
				s.callback(a, callback, begun)
			},
		},
		{
			name: "same callback twice",
			play: func(s *stage) {
				a := fresh(s)
				begun, callback := s.begin(a, fullScope)
				s.callback(a, callback, begun)
				s.callback(a, callback, begun)
			},
		},
		{
			name: "code that is too old",
			play: func(s *stage) {
				a := fresh(s)
				begun, callback := s.begin(a, fullScope)
				s.advance(2 * time.Minute)
				s.callback(a, callback, begun)
			},
		},
	}
}

// serverScenarios are logins at a server whose endpoints are elsewhere.
func serverScenarios() []scenario {
	return []scenario{
		{
			name: "login at a server below a path",
			play: func(s *stage) {
				s.front.between(on("/auth/", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					http.StripPrefix("/auth", next).ServeHTTP(w, r)
				}))
				a := s.sdk(s.storage(plain, nil), sdkOptions{authURL: s.front.URL + "/auth"})
				begun := s.loginURL(a, fullScope, nil)
				callback := s.consent(strings.Replace(begun.URL, "/auth/", "/", 1))
				u, query := *must(s, callback), query(s.t, callback)
				query.Del("iss") // the simulator does not know of the path
				u.RawQuery = query.Encode()
				s.callback(a, u.String(), begun)
			},
		},
		{
			name: "login at a server that says where its endpoints are",
			play: func(s *stage) {
				named := on("/.well-known/", rewrites(func(metadata map[string]any) {
					metadata["authorization_endpoint"] = s.front.URL + "/oauth/authorize"
					metadata["token_endpoint"] = s.front.URL + "/oauth/token"
				}))
				s.front.between(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					if strings.HasPrefix(r.URL.Path, "/oauth/") {
						next = http.StripPrefix("/oauth", next)
					}
					named(w, r, next)
				})
				a := fresh(s)
				begun := s.loginURL(a, fullScope, nil)
				s.callback(a, s.consent(strings.Replace(begun.URL, "/oauth/authorize?", "/authorize?", 1)), begun)
			},
		},
	}
}

// exchangeFailureScenarios are callbacks whose token request gives no tokens.
func exchangeFailureScenarios() []scenario {
	// behind makes a scenario of a login whose token request meets a hook.
	behind := func(name string, h func() hook) scenario {
		return scenario{name: name, play: func(s *stage) {
			a := fresh(s)
			begun, callback := s.begin(a, fullScope)
			s.front.between(on("/token", h()))
			s.callback(a, callback, begun)
		}}
	}
	return []scenario{
		behind("login with a token endpoint that is down", always(answers(503, "application/json", `{"error": "temporarily_unavailable"}`))),
		behind("login with a gateway's error page", always(answers(502, "text/html", "<h1>Bad gateway</h1>"))),
		behind("login with a token endpoint that refuses for the moment", always(answers(429, "application/json", `{"error": "slow_down"}`, "Retry-After", "7"))),
		behind("login with a broken connection", always(resets)),
		behind("login with half an answer", always(truncates)),
		behind("login with an access token that names no workspace", always(rewrites(func(tokens map[string]any) { tokens["access_token"] = "opaque" }))),
		behind("login with a redirect", once(answers(307, "text/plain", "", "Location", "/token"))),
		{
			name: "login with nobody there",
			play: func(s *stage) {
				a := fresh(s)
				begun, callback := s.begin(a, fullScope)
				s.front.refuse()
				s.callback(a, callback, begun)
			},
		},
	}
}

// storageScenarios are logins and logouts with a storage that fails.
func storageScenarios() []scenario {
	return []scenario{
		{
			name: "login with a storage that is down",
			play: func(s *stage) {
				a := s.sdk(s.storage(plain, nil, failures{set: 1000}), sdkOptions{giveUp: true})
				begun, callback := s.begin(a, fullScope)
				s.callback(a, callback, begun)
			},
		},
		{
			name: "login with a storage that fails twice",
			play: func(s *stage) {
				a := s.sdk(s.storage(plain, nil, failures{set: 2}))
				begun, callback := s.begin(a, fullScope)
				s.callback(a, callback, begun)
			},
		},
		{
			name: "logout with a storage that fails",
			play: func(s *stage) {
				a := s.sdk(s.storage(plain, s.tokens(fullScope), failures{clear: 1}))
				s.logout(a)
				s.logout(a)
			},
		},
	}
}
