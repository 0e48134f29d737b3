package sdkcompare_test

import "context"

// cancelScenarios are about contexts that end, AbortSignals there.
func cancelScenarios() []scenario {
	return []scenario{
		{
			name: "call with a context that has ended",
			play: func(s *stage) {
				a := s.loggedIn()
				ctx, cancel := context.WithCancel(s.t.Context())
				cancel()
				value, failed := a.call(ctx, createProject("shop"))
				s.note("create project", value, failed)
			},
		},
		{
			name: "callback with a context that has ended",
			play: func(s *stage) {
				a := fresh(s)
				begun, callback := s.begin(a, fullScope)
				ctx, cancel := context.WithCancel(s.t.Context())
				cancel()
				s.note("callback", nil, a.handleCallback(ctx, callback, begun.Verifier, &begun.State))
			},
		},
		{
			name: "logout with a context that has ended",
			play: func(s *stage) {
				a := s.loggedIn()
				ctx, cancel := context.WithCancel(s.t.Context())
				cancel()
				s.note("logout", nil, a.logout(ctx))
			},
		},
		{
			name: "call whose context ends before the answer",
			play: func(s *stage) {
				a := s.loggedIn()
				arrived := make(chan struct{})
				s.front.between(on("/v1/", abandoned(arrived)))
				call := s.startCall(a, listWorkspaces())
				s.wait(arrived, call.step)
				call.cancel()
				call.end()
			},
		},
		{
			name: "call whose context ends during a refresh",
			play: func(s *stage) {
				a := s.loggedIn()
				s.expire()
				arrived, release := make(chan struct{}, 1), make(chan struct{})
				s.front.between(on("/token", held(arrived, release)))
				call := s.startCall(a, listWorkspaces())
				s.wait(arrived, "a refresh")
				call.cancel()
				s.log.note("returned at once: %t", s.side.quick(s, call))
				close(release)
				call.end()
			},
		},
		{
			name: "callback whose context ends before the answer",
			play: func(s *stage) {
				a := fresh(s)
				begun, callback := s.begin(a, fullScope)
				arrived, release := make(chan struct{}, 1), make(chan struct{})
				s.front.between(on("/token", held(arrived, release)))
				login := s.start("callback", func(ctx context.Context) (any, *failure) {
					return nil, a.handleCallback(ctx, callback, begun.Verifier, &begun.State)
				})
				s.wait(arrived, "a code exchange")
				login.cancel()
				s.log.note("returned at once: %t", s.side.quick(s, login))
				close(release)
				login.end()
			},
		},
	}
}
