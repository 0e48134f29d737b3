package prisma_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// troubled is a token endpoint that can be switched to any behaviour; each connection's
// refresh token is its key.
type troubled struct {
	mu      sync.Mutex
	latency time.Duration
	err     error
	arrived []string
	running int
	peak    int
}

func (s *troubled) set(latency time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latency, s.err = latency, err
}

func (s *troubled) Refresh(_ context.Context, client prisma.OAuthClient, token string) (prisma.Grant, error) {
	s.mu.Lock()
	s.arrived = append(s.arrived, client.ID+" "+token)
	s.running++
	s.peak = max(s.peak, s.running)
	latency, err := s.latency, s.err
	s.mu.Unlock()
	time.Sleep(latency)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running--
	if err != nil {
		return prisma.Grant{}, err
	}
	return prisma.Grant{Access: "new-" + token, Refresh: token + "'", ExpiresIn: time.Hour, Rotated: true}, nil
}

// order returns what arrived, without the clients.
func (s *troubled) order() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.arrived...)
}

func unknown() error { return &prisma.TokenError{Class: prisma.Unknown, Status: 502} }

// bench is a refresher over a troubled endpoint.
type troubledBench struct {
	*testing.T

	server *troubled
	r      *prisma.Refresher
	n      int
}

func newTroubledBench(t *testing.T) *troubledBench {
	t.Helper()
	b := &troubledBench{T: t, server: &troubled{}}
	b.r = newRefresher(t, b.server)
	return b
}

// conn is a new connection whose pair was issued age ago.
func (b *troubledBench) conn(age time.Duration) prisma.Connection {
	b.Helper()
	b.n++
	name := fmt.Sprintf("c%d", b.n)
	return connection(name, newStorage(b.T, pair(name, age)))
}

// expired asks for the token of a new connection that has expired.
func (b *troubledBench) expired() error {
	b.Helper()
	_, err := b.r.AccessToken(b.Context(), b.conn(2*time.Hour))
	return err
}

// open lets the breaker open.
func (b *troubledBench) open() {
	b.Helper()
	b.server.set(0, unknown())
	for range 3 {
		if err := b.expired(); fault.KindOf(err) != fault.PrismaUnavailable {
			b.Fatalf("AccessToken() error = %v", err)
		}
	}
	b.wantState(prisma.BreakerOpen)
}

func (b *troubledBench) wantState(want prisma.BreakerState) {
	b.Helper()
	if got := b.r.State(); got.Breaker != want {
		b.Errorf("breaker is %s since %s, want %s", got.Breaker, got.Since, want)
	}
}

func (b *troubledBench) wantExchanges(want int) {
	b.Helper()
	synctest.Wait()
	if got := len(b.server.order()); got != want {
		b.Errorf("%d exchanges, want %d", got, want)
	}
}

func TestBreakerOpensAndNothingIsClaimed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newTroubledBench(t)
		b.wantState(prisma.BreakerClosed)
		b.open()
		s := newStorage(t, pair("r", 2*time.Hour))
		s.beforeClaim = func() { t.Error("a claim while the breaker is open") }
		_, err := b.r.AccessToken(t.Context(), connection("r", s))
		failure, ok := errors.AsType[*fault.Error](err)
		if !ok || failure.Kind != fault.PrismaUnavailable || failure.RetryAfter < time.Second || failure.RetryAfter > 7*time.Second {
			t.Errorf("AccessToken() error = %v, want %q with a Retry-After", err, fault.PrismaUnavailable)
		}
		for age, want := range map[time.Duration]string{52 * time.Minute: "due", 59*time.Minute + 50*time.Second: "ending"} {
			s := newStorage(t, pair(want, age))
			s.beforeClaim = func() { t.Error("a claim while the breaker is open") }
			if got, err := b.r.AccessToken(t.Context(), connection(want, s)); err != nil || got.Access != "access-"+want {
				t.Errorf("%s: AccessToken() = %q, %v; want the stored one", want, got.Access, err)
			}
		}
		b.wantExchanges(3)
	})
}

// TestBreakerProbesOnce: of many that ask when the pause is over one is let through.
func TestBreakerProbesOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newTroubledBench(t)
		b.open()
		b.server.set(time.Second, nil)
		time.Sleep(7 * time.Second)
		b.wantState(prisma.BreakerHalfOpen)
		var wg sync.WaitGroup
		var mu sync.Mutex
		served := 0
		for range 8 {
			conn := b.conn(2 * time.Hour)
			wg.Go(func() {
				_, err := b.r.AccessToken(t.Context(), conn)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					served++
				} else if fault.KindOf(err) != fault.PrismaUnavailable {
					t.Errorf("AccessToken() error = %v", err)
				}
			})
		}
		wg.Wait()
		if served != 1 {
			t.Errorf("%d served, want the probe alone", served)
		}
		b.wantExchanges(4)
		b.wantState(prisma.BreakerClosed)
		if err := b.expired(); err != nil {
			t.Errorf("AccessToken() afterwards: %v", err)
		}
	})
}

// TestBreakerCountsSlowAnswers: they are stored, and open the breaker before they come.
func TestBreakerCountsSlowAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newTroubledBench(t)
		b.server.set(10*time.Second, nil)
		var wg sync.WaitGroup
		for range 3 {
			conn := b.conn(2 * time.Hour)
			wg.Go(func() {
				if got, err := b.r.AccessToken(t.Context(), conn); err != nil || got.Access[:4] != "new-" {
					t.Errorf("AccessToken() = %q, %v; want the slow answer", got.Access, err)
				}
			})
		}
		time.Sleep(4 * time.Second)
		b.wantState(prisma.BreakerClosed)
		time.Sleep(1500 * time.Millisecond)
		b.wantState(prisma.BreakerOpen)
		wg.Wait()
		b.wantState(prisma.BreakerHalfOpen) // an answer after all: the probe may go at once
		b.server.set(0, nil)
		if err := b.expired(); err != nil {
			t.Errorf("AccessToken() error = %v", err)
		}
		b.wantState(prisma.BreakerClosed)
	})
}

// TestBreakerWithADeadEndpoint: ten minutes cost few tokens, and the breaker closes by
// itself soon after.
func TestBreakerWithADeadEndpoint(t *testing.T) {
	t.Parallel()
	for name, hang := range map[string]time.Duration{"fails": 0, "hangs": time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newTroubledBench(t)
				b.server.set(hang, unknown())
				var wg sync.WaitGroup
				ask := func() {
					conn := b.conn(2 * time.Hour)
					wg.Go(func() { _, _ = b.r.AccessToken(t.Context(), conn) })
				}
				for range 600 {
					ask()
					time.Sleep(time.Second)
				}
				if sent := len(b.server.order()); sent > 40 {
					t.Errorf("%d tokens sent to a dead endpoint in ten minutes", sent)
				}
				b.server.set(0, nil)
				healed := now()
				for b.r.State().Breaker != prisma.BreakerClosed {
					if now().Sub(healed) > time.Minute {
						t.Fatal("still not closed after a minute")
					}
					ask()
					time.Sleep(time.Second)
				}
				wg.Wait()
				if err := b.r.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestBreakerKeepsTheProbeForCallers: a refresh ahead of need does not put its token at
// risk when somebody else's connection is down anyway.
func TestBreakerKeepsTheProbeForCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newTroubledBench(t)
		b.open()
		b.server.set(0, nil)
		time.Sleep(7 * time.Second)
		due := b.conn(52 * time.Minute)
		if _, err := b.r.AccessToken(t.Context(), due); err != nil {
			t.Error(err)
		}
		b.wantExchanges(3)
		if err := b.expired(); err != nil {
			t.Errorf("AccessToken() error = %v", err)
		}
		b.wantState(prisma.BreakerClosed)

		b.open()
		b.server.set(0, nil)
		sent := len(b.server.order())
		time.Sleep(12 * time.Second) // nobody came
		if _, err := b.r.AccessToken(t.Context(), due); err != nil {
			t.Error(err)
		}
		b.wantExchanges(sent + 1)
		b.wantState(prisma.BreakerClosed)
	})
}

// TestAnswersKeepTheBreakerClosed: refusals are answers.
func TestAnswersKeepTheBreakerClosed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newTroubledBench(t)
		b.server.set(0, &prisma.TokenError{Class: prisma.InvalidGrant, Status: 400})
		for range 5 {
			_ = b.expired()
		}
		b.wantState(prisma.BreakerClosed)
		for range 4 { // failures, but never three in a row
			b.server.set(0, unknown())
			_ = b.expired()
			_ = b.expired()
			b.server.set(0, nil)
			_ = b.expired()
		}
		b.wantState(prisma.BreakerClosed)
		b.wantExchanges(17)
	})
}

// TestRefusedClientIsPausedAlone: what concerns one OAuth client is no other's affair.
func TestRefusedClientIsPausedAlone(t *testing.T) {
	t.Parallel()
	for _, status := range []int{401, 429} {
		t.Run(fmt.Sprintf("status %d", status), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				b := newTroubledBench(t)
				ask := func(client string) error {
					conn := b.conn(2 * time.Hour)
					conn.Client = func(context.Context) (prisma.OAuthClient, error) { return prisma.OAuthClient{ID: client}, nil }
					_, err := b.r.AccessToken(t.Context(), conn)
					return err
				}
				b.server.set(0, &prisma.TokenError{Class: prisma.Misconfigured, Status: status, RetryAfter: 40 * time.Second})
				_ = ask("a")
				if err := ask("a"); fault.KindOf(err) != fault.PrismaUnavailable {
					t.Errorf("AccessToken() of the same client: error = %v", err)
				}
				b.wantExchanges(1)
				b.wantState(prisma.BreakerClosed)
				b.server.set(0, nil)
				if err := ask("b"); err != nil {
					t.Errorf("AccessToken() of another client: error = %v", err)
				}
				b.server.set(0, &prisma.TokenError{Class: prisma.Misconfigured, Status: status, RetryAfter: 40 * time.Second})
				_ = ask("c")
				b.server.set(0, nil)
				if err := ask("d"); (err != nil) != (status == 429) {
					t.Errorf("after a second client AccessToken() error = %v", err)
				}
				time.Sleep(51 * time.Second)
				for _, client := range []string{"a", "c", "d"} {
					if err := ask(client); err != nil {
						t.Errorf("AccessToken() of %s afterwards: error = %v", client, err)
					}
				}
			})
		})
	}
}
