package sdkcompare_test

import (
	"net/http"
	"sync/atomic"
	"time"
)

// refreshScenarios are refreshes that the token endpoint answers.
func refreshScenarios() []scenario {
	return []scenario{
		{
			name: "refresh on 401",
			play: func(s *stage) {
				a := s.loggedIn()
				s.expire()
				s.call(a, listWorkspaces())
				s.call(a, listWorkspaces())
			},
		},
		{
			name: "refresh on the 401 of a creation",
			play: func(s *stage) {
				a := s.loggedIn()
				s.expire()
				s.call(a, createProject("shop"))
			},
		},
		{
			name: "401 with the new token too",
			play: func(s *stage) {
				a := s.loggedIn()
				s.front.between(on("/v1/", answers(401, "application/json",
					`{"error": {"code": "authentication-failed", "message": "No."}}`)))
				s.call(a, listWorkspaces())
			},
		},
		{
			name: "20 calls on a refused token",
			play: func(s *stage) { twenty(s, func() { s.expire() }) },
		},
		{
			name: "20 calls on an expired token",
			play: func(s *stage) { twenty(s, func() { s.advance(2 * time.Hour) }) },
		},
		{
			name: "call shortly before the token expires",
			play: func(s *stage) {
				a := s.loggedIn()
				s.advance(59*time.Minute + 30*time.Second)
				s.call(a, listWorkspaces())
			},
		},
	}
}

// oddRefreshScenarios are refreshes whose answer is not a plain new pair.
func oddRefreshScenarios() []scenario {
	return []scenario{
		{
			name: "refresh that keeps its refresh token",
			play: func(s *stage) {
				a := s.loggedIn()
				s.expire()
				s.front.between(on("/token", rewrites(func(tokens map[string]any) { delete(tokens, "refresh_token") })))
				s.call(a, listWorkspaces())
			},
		},
		{
			name: "refreshed token that names no workspace",
			play: func(s *stage) {
				a := s.loggedIn()
				s.expire()
				s.front.between(on("/token", rewrites(func(tokens map[string]any) { tokens["access_token"] = "opaque" })))
				s.call(a, listWorkspaces())
			},
		},
		{
			name: "no refresh token",
			play: func(s *stage) {
				a := s.sdk(s.storage(plain, s.tokens("workspace:admin")))
				s.expire()
				s.call(a, listWorkspaces())
			},
		},
		{
			name: "refresh token that is refused",
			play: func(s *stage) {
				a := s.loggedIn()
				s.revoke()
				s.call(a, listWorkspaces())
				s.call(a, listWorkspaces())
			},
		},
		{
			name: "client that is refused",
			play: func(s *stage) {
				a := s.sdk(s.storage(plain, s.tokens(fullScope)), sdkOptions{id: "client_unknown"})
				s.expire()
				s.call(a, listWorkspaces())
			},
		},
	}
}

// twenty makes 20 calls at once on a token that stale makes useless.
func twenty(s *stage, stale func()) {
	a := s.loggedIn()
	stale()
	s.front.between(on("/v1/", together(20)))
	var calls []*pending
	for range 20 {
		calls = append(calls, s.startCall(a, listWorkspaces()))
	}
	for _, call := range calls {
		s.wait(call.done, call.step) // before the first is noted
	}
	for _, call := range calls {
		call.end()
	}
}

// refreshFailureScenarios are refreshes without a usable answer. Each is followed by a
// call when the network is whole again, and by one a little later.
func refreshFailureScenarios() []scenario {
	meets := func(name string, h hook) scenario {
		return scenario{name: name, play: func(s *stage) {
			a := s.loggedIn()
			s.expire()
			s.front.between(on("/token", first(1, h)))
			s.call(a, listWorkspaces())
			s.call(a, listWorkspaces())
			s.advance(2 * time.Minute)
			s.call(a, listWorkspaces())
		}}
	}
	lost := func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(discarded{header: http.Header{}}, r)
		resets(w, r, next)
	}
	return []scenario{
		meets("refresh with a token endpoint that is down", answers(503, "application/json", `{"error": "temporarily_unavailable"}`)),
		meets("refresh with a token endpoint that fails after its work", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(discarded{header: http.Header{}}, r)
			answers(500, "application/json", `{"error": "server_error"}`)(w, r, next)
		}),
		meets("refresh with a gateway's error page", answers(502, "text/html", "<h1>Bad gateway</h1>")),
		meets("refresh that is limited", answers(429, "application/json", `{"error": "slow_down"}`)),
		meets("refresh with a broken connection", resets),
		meets("refresh whose answer is lost", lost),
		meets("refresh with half an answer", truncates),
		meets("refresh with a redirect", answers(307, "text/plain", "", "Location", "/token")),
		{
			name: "refresh with a storage that fails once",
			play: func(s *stage) {
				a := s.sdk(s.storage(plain, s.tokens(fullScope), failures{set: 1}))
				s.expire()
				s.call(a, listWorkspaces())
				s.call(a, listWorkspaces())
			},
		},
	}
}

// discarded is an answer that nobody gets.
type discarded struct{ header http.Header }

func (d discarded) Header() http.Header       { return d.header }
func (discarded) Write(b []byte) (int, error) { return len(b), nil }
func (discarded) WriteHeader(int)             {}
func (discarded) Flush()                      {}

// raceScenarios are about what happens while a refresh is on its way.
func raceScenarios() []scenario {
	return []scenario{
		{
			name: "two SDKs on one storage with a lock",
			play: func(s *stage) { race(s, locking) },
		},
		{
			name: "two SDKs on one storage as it comes with each",
			play: func(s *stage) { race(s, best) },
		},
		{
			name: "two SDKs on one storage that locks nothing",
			play: func(s *stage) { race(s, plain) },
		},
		{
			name: "logout during a refresh",
			play: func(s *stage) {
				a := s.loggedIn()
				s.expire()
				arrived, release := make(chan struct{}, 1), make(chan struct{})
				s.front.between(on("/token", held(arrived, release)))
				call := s.startCall(a, listWorkspaces())
				s.wait(arrived, "a refresh")
				s.logout(a)
				close(release)
				call.end()
			},
		},
		{
			name: "login during a refresh that is refused",
			play: func(s *stage) {
				a := s.loggedIn()
				begun, callback := s.begin(a, fullScope)
				s.revoke()
				arrived, release := make(chan struct{}, 2), make(chan struct{})
				s.front.between(on("/token", first(1, held(arrived, release))))
				call := s.startCall(a, listWorkspaces())
				s.wait(arrived, "a refresh")
				s.callback(a, callback, begun)
				close(release)
				call.end()
			},
		},
	}
}

// race lets a second SDK find the tokens of the first refused while that refreshes them.
// The token endpoint's answer to the first waits until the second wants a refresh as
// well, by a request of its own or by waiting; the answer to a second request waits
// until the first SDK's call has ended.
func race(s *stage, kind storageKind) {
	shared := s.storage(kind, s.tokens(fullScope))
	a, b := s.sdk(shared), s.sdk(shared)
	s.expire()
	arrived, release := make(chan struct{}, 2), []chan struct{}{make(chan struct{}), make(chan struct{})}
	s.front.between(on("/token", inTurn(arrived, release)))
	first := s.startCall(a, listWorkspaces())
	s.wait(arrived, "the first refresh")
	second := s.startCall(b, listWorkspaces())
	select {
	case <-arrived:
	case <-shared.contended():
	case <-time.After(20 * time.Second):
		s.t.Error("the second SDK does nothing")
	}
	close(release[0])
	s.wait(first.done, first.step)
	close(release[1])
	s.wait(second.done, second.step)
	first.end()
	second.end()
	s.call(a, listWorkspaces())
}

// inTurn holds each of the first requests until its own channel closes.
func inTurn(arrived chan<- struct{}, release []chan struct{}) hook {
	var seen atomic.Int32
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if turn := int(seen.Add(1)) - 1; turn < len(release) {
			held(arrived, release[turn])(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}
}
