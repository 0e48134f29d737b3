package prisma_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// secretServer is an authServer that takes some client secrets alone.
type secretServer struct {
	*authServer

	takes []string

	mu        sync.Mutex
	presented []string // secrets
}

func (s *secretServer) Refresh(ctx context.Context, client prisma.OAuthClient, token string) (prisma.Grant, error) {
	s.mu.Lock()
	s.presented = append(s.presented, client.Secret)
	takes := s.takes
	s.mu.Unlock()
	if client.NextSecret != "" || !slices.Contains(takes, client.Secret) {
		return prisma.Grant{}, &prisma.TokenError{Class: prisma.Misconfigured, Code: "invalid_client", Status: 401}
	}
	return s.authServer.Refresh(ctx, client, token)
}

// TestRefreshWhileTheSecretIsReplaced: a refresh token is sent a second time only if the
// server has refused the client's secret and there is another one; never after anything
// that leaves open whether it was used.
func TestRefreshWhileTheSecretIsReplaced(t *testing.T) {
	t.Parallel()
	rotating := prisma.OAuthClient{ID: "client", Secret: "old", NextSecret: "new"}
	fails := func(e prisma.TokenError) func(int) (prisma.Grant, error) {
		return func(int) (prisma.Grant, error) { return prisma.Grant{}, &e }
	}
	tests := map[string]struct {
		takes     []string
		client    prisma.OAuthClient
		then      prisma.OAuthClient // what is stored after the first look; zero: the same
		answer    func(int) (prisma.Grant, error)
		adopt     error
		presented []string
		kind      fault.Kind // of the error; Internal: none
		adopted   string
		settled   []prisma.Outcome
	}{
		"before the change at Prisma": {takes: []string{"old"}, client: rotating, presented: []string{"old"}},
		"while it takes both":         {takes: []string{"old", "new"}, client: rotating, presented: []string{"old"}},
		"after it": {
			takes: []string{"new"}, client: rotating, presented: []string{"old", "new"}, adopted: "new",
			settled: []prisma.Outcome{prisma.Misconfigured},
		},
		"after it, and the note fails": {
			takes: []string{"new"}, client: rotating, adopt: errStorage, presented: []string{"old", "new"}, adopted: "new",
			settled: []prisma.Outcome{prisma.Misconfigured},
		},
		"another replica noted it meanwhile": {
			takes: []string{"new"}, client: rotating, then: prisma.OAuthClient{ID: "client", Secret: "new"},
			presented: []string{"old", "new"}, settled: []prisma.Outcome{prisma.Misconfigured},
		},
		"the operator stored it meanwhile": {
			takes: []string{"new"}, client: prisma.OAuthClient{ID: "client", Secret: "old"}, then: rotating,
			presented: []string{"old", "new"}, adopted: "new", settled: []prisma.Outcome{prisma.Misconfigured},
		},
		"the operator set another client meanwhile": {
			takes: []string{"new"}, client: rotating, then: prisma.OAuthClient{ID: "another", Secret: "new"},
			presented: []string{"old"}, kind: fault.PrismaUnavailable, settled: []prisma.Outcome{prisma.Misconfigured},
		},
		"both are refused": {
			client: rotating, presented: []string{"old", "new"}, kind: fault.PrismaUnavailable,
			settled: []prisma.Outcome{prisma.Misconfigured, prisma.Misconfigured},
		},
		"there is no next one": {
			client: prisma.OAuthClient{ID: "client", Secret: "old"}, presented: []string{"old"}, kind: fault.PrismaUnavailable,
			settled: []prisma.Outcome{prisma.Misconfigured},
		},
		"the next one is the same": {
			client: prisma.OAuthClient{ID: "client", Secret: "old", NextSecret: "old"}, presented: []string{"old"},
			kind: fault.PrismaUnavailable, settled: []prisma.Outcome{prisma.Misconfigured},
		},
		"a public client": {
			client: prisma.OAuthClient{ID: "client", NextSecret: "new"}, presented: []string{""}, kind: fault.PrismaUnavailable,
			settled: []prisma.Outcome{prisma.Misconfigured},
		},
		"an answer of 500": {
			takes: []string{"old", "new"}, client: rotating, answer: fails(prisma.TokenError{Class: prisma.Unknown, Status: 500}),
			presented: []string{"old"}, kind: fault.PrismaUnavailable, settled: []prisma.Outcome{prisma.Unknown},
		},
		"an answer of 500 that says invalid_client": {
			takes: []string{"old", "new"}, client: rotating,
			answer:    fails(prisma.TokenError{Class: prisma.Unknown, Status: 500, Code: "invalid_client"}),
			presented: []string{"old"}, kind: fault.PrismaUnavailable, settled: []prisma.Outcome{prisma.Unknown},
		},
		"an answer of 401 that breaks off": {
			takes: []string{"old", "new"}, client: rotating, answer: fails(prisma.TokenError{Class: prisma.Unknown, Status: 401}),
			presented: []string{"old"}, kind: fault.PrismaUnavailable, settled: []prisma.Outcome{prisma.Unknown},
		},
		"too many requests": {
			takes: []string{"old", "new"}, client: rotating, answer: fails(prisma.TokenError{Class: prisma.Misconfigured, Status: 429}),
			presented: []string{"old"}, kind: fault.PrismaUnavailable, settled: []prisma.Outcome{prisma.Misconfigured},
		},
		"a request that is refused": {
			takes: []string{"old", "new"}, client: rotating,
			answer:    fails(prisma.TokenError{Class: prisma.Misconfigured, Status: 400, Code: "invalid_request"}),
			presented: []string{"old"}, kind: fault.PrismaUnavailable, settled: []prisma.Outcome{prisma.Misconfigured},
		},
		"a dead token": {
			takes: []string{"old", "new"}, client: rotating,
			answer:    fails(prisma.TokenError{Class: prisma.InvalidGrant, Status: 400, Code: "invalid_grant"}),
			presented: []string{"old"}, kind: fault.ReconnectRequired, settled: []prisma.Outcome{prisma.InvalidGrant},
		},
	}
	for name, tc := range tests {
		for _, simple := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", a plain storage"}[simple], func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					server := &secretServer{authServer: newAuthServer(time.Millisecond, "r"), takes: tc.takes}
					server.answer = tc.answer
					s := newStorage(t, pair("r", 2*time.Hour))
					conn := connection("c", s)
					if simple {
						conn.Storage = plain{s.MemoryStorage}
					}
					looks, adopted := 0, ""
					conn.Client = func(context.Context) (prisma.OAuthClient, error) {
						if looks++; looks > 1 && tc.then.ID != "" {
							return tc.then, nil
						}
						return tc.client, nil
					}
					conn.AdoptSecret = func(_ context.Context, client prisma.OAuthClient) error {
						adopted = client.Secret
						return tc.adopt
					}
					began := now()
					tokens, err := newRefresher(t, server).AccessToken(t.Context(), conn)
					if kind := fault.KindOf(err); kind != tc.kind || err != nil == (tc.kind == fault.Internal) {
						t.Errorf("AccessToken() error = %v, want kind %q", err, tc.kind)
					}
					if err == nil && tokens.Access == "access-r" {
						t.Error("AccessToken() returned the old pair")
					}
					if took := now().Sub(began); took > 100*time.Millisecond {
						t.Errorf("it took %s: the repetition was held back", took)
					}
					if diff := cmp.Diff(tc.presented, server.presented); diff != "" {
						t.Errorf("secrets presented (-want +got):\n%s", diff)
					}
					if adopted != tc.adopted {
						t.Errorf("adopted %q, want %q", adopted, tc.adopted)
					}
					if diff := cmp.Diff(tc.settled, s.settled); !simple && diff != "" {
						t.Errorf("settled (-want +got):\n%s", diff)
					}
					if _, replays, _ := server.counts(); replays != 0 {
						t.Errorf("%d replays", replays)
					}
				})
			})
		}
	}
}

// TestRefusalOfBothSecretsIsLeftAlone: once a client is known to be refused it is left alone
// as ever, and nothing but the first try of each pause costs two requests.
func TestRefusalOfBothSecretsIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := &secretServer{authServer: newAuthServer(time.Millisecond, "r")}
		conn := connection("c", newStorage(t, pair("r", 2*time.Hour)))
		conn.Client = func(context.Context) (prisma.OAuthClient, error) {
			return prisma.OAuthClient{ID: "client", Secret: "old", NextSecret: "wrong"}, nil
		}
		r := newRefresher(t, server)
		for range 600 {
			_, _ = r.AccessToken(t.Context(), conn)
			time.Sleep(100 * time.Millisecond)
		}
		if n := len(server.presented); n < 4 || n > 20 || n%2 != 0 {
			t.Errorf("%d requests in a minute, want pairs at growing pauses", n)
		}
	})
}
