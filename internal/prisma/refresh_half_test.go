package prisma_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// halfAnswers is a server whose first answers break off after their refresh tokens.
func halfAnswers(first int) *authServer {
	server := newAuthServer(0, "r")
	server.half = func(n int) bool { return n <= first }
	return server
}

// An answer breaks off after its refresh token: that is stored, and brings the access
// token that the callers, here and elsewhere, wait for.
func TestHalfAnAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := halfAnswers(1)
		server.latency = 200 * time.Millisecond
		s := newStorage(t, pair("r", 2*time.Hour))
		here, elsewhere := newRefresher(t, server), newRefresher(t, server)
		var all sync.WaitGroup
		for _, r := range []*prisma.Refresher{here, elsewhere, here, elsewhere} {
			all.Go(func() {
				got, err := r.AccessToken(t.Context(), connection("c", s))
				if err != nil || got.Access != "access-r.2" || got.Generation != 3 {
					t.Errorf("AccessToken() = %q of generation %d, %v; want that of the second answer", got.Access, got.Generation, err)
				}
			})
		}
		all.Wait()
		if calls, replays, peak := server.counts(); calls != 2 || replays != 0 || peak != 1 {
			t.Errorf("%d exchanges, %d replays, %d at once; want 2, 0 and 1", calls, replays, peak)
		}
	})
}

// While the access token has life left it is served on, also when the endpoint goes away
// after half an answer.
func TestHalfAnAnswerAheadOfNeed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := halfAnswers(1)
		server.answer = func(n int) (prisma.Grant, error) {
			if n == 2 {
				return prisma.Grant{}, &prisma.TokenError{Class: prisma.NotSent}
			}
			return prisma.Grant{}, nil
		}
		s := newStorage(t, pair("r", 55*time.Minute))
		r := newRefresher(t, server)
		for range 3 {
			got, err := r.AccessToken(t.Context(), connection("c", s))
			if err != nil || got.Access != "access-r" {
				t.Errorf("AccessToken() = %q, %v; want the one that still works", got.Access, err)
			}
			synctest.Wait()
		}
		if stored, err := s.Tokens(t.Context()); err != nil || stored.Refresh != "r.1" || stored.Access != "access-r" {
			t.Errorf("stored = %v, %v; want the new refresh token with the old access token", stored, err)
		}
		time.Sleep(time.Minute)
		if _, err := r.AccessToken(t.Context(), connection("c", s)); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if got, err := r.AccessToken(t.Context(), connection("c", s)); err != nil || got.Access != "access-r.1.3" && got.Access != "access-r.3" {
			t.Errorf("AccessToken() = %q, %v; want the third answer's", got.Access, err)
		}
	})
}

// The API refuses the access token, and the answer breaks off: what was refused is not
// served again.
func TestHalfAnAnswerAfterARefusal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := halfAnswers(1)
		s := newStorage(t, pair("r", 10*time.Minute))
		refused, err := s.Tokens(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got, err := newRefresher(t, server).AfterRefusal(t.Context(), connection("c", s), refused)
		if err != nil || got.Access != "access-r.2" {
			t.Errorf("AfterRefusal() = %q, %v; want that of the second answer", got.Access, err)
		}
	})
}

// Of a server whose answers all break off each refresh token is stored, a caller is not
// kept for ever, and nobody gets an access token that has ended.
func TestNothingButHalfAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := halfAnswers(1000)
		s := newStorage(t, pair("r", 2*time.Hour))
		r := newRefresher(t, server)
		for want := 2; want <= 6; want += 2 {
			_, err := r.AccessToken(t.Context(), connection("c", s))
			if kind := fault.KindOf(err); kind != fault.PrismaUnavailable {
				t.Errorf("AccessToken() error = %v, want kind %s", err, fault.PrismaUnavailable)
			}
			if calls, replays, _ := server.counts(); calls != want || replays != 0 {
				t.Errorf("%d exchanges, %d replays; want %d and 0", calls, replays, want)
			}
			time.Sleep(time.Minute)
		}
		server.half = nil
		if got, err := r.AccessToken(t.Context(), connection("c", s)); err != nil || got.Access != "access-r.7" {
			t.Errorf("AccessToken() = %q, %v; want the first whole answer's", got.Access, err)
		}
	})
}
