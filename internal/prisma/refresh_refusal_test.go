package prisma_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// undated is a storage that does not say when a pair was issued.
type undated struct{ *prisma.MemoryStorage }

func (s undated) Tokens(ctx context.Context) (prisma.Tokens, error) {
	tokens, err := s.MemoryStorage.Tokens(ctx)
	tokens.IssuedAt = time.Time{}
	return tokens, err
}

// TestRefusalsNeverLoop: an API that refuses every access token costs one refresh token
// a minute, however many calls it refuses and whatever comes of the refreshes.
func TestRefusalsNeverLoop(t *testing.T) {
	t.Parallel()

	fail := func(class prisma.Outcome) func(int) (prisma.Grant, error) {
		return func(int) (prisma.Grant, error) { return prisma.Grant{}, &prisma.TokenError{Class: class} }
	}
	tests := map[string]struct {
		answer func(int) (prisma.Grant, error)
		wrap   func(*storage) prisma.TokenStorage
		most   int // exchanges in ten minutes
	}{
		"refreshes succeed":          {nil, nil, 10},
		"a storage without dates":    {nil, func(s *storage) prisma.TokenStorage { return undated{s.MemoryStorage} }, 10},
		"refreshes are not sent":     {fail(prisma.NotSent), nil, 10},
		"our client is refused":      {fail(prisma.Misconfigured), nil, 10},
		"nobody knows what happened": {fail(prisma.Unknown), nil, 2},
		"the grant is dead":          {fail(prisma.InvalidGrant), nil, 1},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := newAuthServer(time.Millisecond, "r")
				server.answer = tc.answer
				r := newRefresher(t, server)
				s := newStorage(t, pair("r", 2*time.Minute))
				conn := connection("c", s)
				if tc.wrap != nil {
					conn.Storage = tc.wrap(s)
				}
				for range 600 { // ten minutes
					if tokens, err := r.AccessToken(t.Context(), conn); err == nil {
						_, _ = r.AfterRefusal(t.Context(), conn, tokens)
					}
					time.Sleep(time.Second)
				}
				if calls, _, _ := server.counts(); calls < 1 || calls > tc.most {
					t.Errorf("%d exchanges, want 1 to %d", calls, tc.most)
				}
			})
		})
	}
}

// TestRefusalsOnSeveralReplicas: what one replica refreshed no other refreshes again.
func TestRefusalsOnSeveralReplicas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(time.Millisecond, "r")
		conn := connection("c", newStorage(t, pair("r", 2*time.Minute)))
		replicas := []*prisma.Refresher{newRefresher(t, server), newRefresher(t, server), newRefresher(t, server)}
		for range 300 { // five minutes
			for _, r := range replicas {
				tokens, err := r.AccessToken(t.Context(), conn)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := r.AfterRefusal(t.Context(), conn, tokens); err != nil && fault.KindOf(err) != fault.PrismaRefused {
					t.Fatalf("AfterRefusal() error = %v", err)
				}
			}
			time.Sleep(time.Second)
		}
		if calls, replays, _ := server.counts(); calls > 5 || replays != 0 {
			t.Errorf("%d exchanges with %d replays in five minutes, want 5 and none", calls, replays)
		}
	})
}
