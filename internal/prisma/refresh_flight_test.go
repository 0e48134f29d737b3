package prisma_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

func TestSaveIsRepeatedUntilItSucceeds(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		save func(n int, save func() error) error
		took time.Duration
	}{
		"fails nine times": {func(n int, save func() error) error {
			if n < 10 {
				return errStorage
			}
			return save()
		}, 50*time.Millisecond + 100*time.Millisecond + 200*time.Millisecond + 400*time.Millisecond +
			800*time.Millisecond + 1600*time.Millisecond + 3*2*time.Second},
		"commit unknown": {func(n int, save func() error) error {
			if err := save(); err != nil || n > 1 {
				return err
			}
			return errStorage // stored, but nobody was told
		}, 50 * time.Millisecond},
		"panics": {func(n int, save func() error) error {
			if n == 1 {
				panic("canary")
			}
			return save()
		}, 50 * time.Millisecond},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := newAuthServer(0, "r")
				s := newStorage(t, pair("r", 2*time.Hour))
				s.save = tc.save
				start := now()
				got, err := newRefresher(t, server).AccessToken(t.Context(), connection("c", s))
				if err != nil || got.Access != "access-r.1" || time.Since(start) != tc.took {
					t.Errorf("after %s AccessToken() = %q, %v; want the new pair after %s", time.Since(start), got.Access, err, tc.took)
				}
				stored, err := s.Tokens(t.Context())
				if err != nil || !stored.SamePair(got) || stored.Refresh != got.Refresh {
					t.Errorf("stored = %v, %v; want what was handed out", stored, err)
				}
				if calls, _, _ := server.counts(); calls != 1 {
					t.Errorf("%d exchanges, want 1", calls)
				}
			})
		})
	}
}

func TestSaveGivesWayToAReconnect(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t, pair("r", 2*time.Hour))
		s.save = func(n int, save func() error) error {
			if n == 1 {
				if err := s.SetTokens(context.WithoutCancel(t.Context()), pair("new", 0)); err != nil {
					return err
				}
			}
			return save()
		}
		got, err := newRefresher(t, newAuthServer(0, "r")).AccessToken(t.Context(), connection("c", s))
		if err != nil || got.Access != "access-new" || s.saves != 1 {
			t.Errorf("AccessToken() = %q, %v after %d saves; want the pair of the reconnect after 1", got.Access, err, s.saves)
		}
	})
}

func TestNoIntentNoExchange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(0, "r")
		s := newStorage(t, pair("r", 2*time.Hour))
		s.claim = func() error { return errStorage }
		r := newRefresher(t, server)
		if _, err := r.AccessToken(t.Context(), connection("c", s)); !errors.Is(err, errStorage) {
			t.Errorf("AccessToken() error = %v, want the storage's", err)
		}
		s.claim = nil
		conn := connection("c", s)
		conn.Client = func(context.Context) (prisma.OAuthClient, error) { return prisma.OAuthClient{}, errStorage }
		if _, err := r.AccessToken(t.Context(), conn); !errors.Is(err, errStorage) {
			t.Errorf("AccessToken() without client: error = %v, want the client's", err)
		}
		if calls, _, _ := server.counts(); calls != 0 {
			t.Errorf("%d exchanges, want 0", calls)
		}
		if got, err := r.AccessToken(t.Context(), connection("c", s)); err != nil || got.Access != "access-r.1" {
			t.Errorf("AccessToken() afterwards = %q, %v; want the new pair", got.Access, err)
		}
	})
}

// TestPairReplacedBeforeTheClaim: what the claim finds is used, not what the caller
// had read before.
func TestPairReplacedBeforeTheClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(0, "r")
		s := newStorage(t, pair("r", 2*time.Hour))
		s.beforeClaim = func() { _ = s.SetTokens(context.Background(), pair("new", 0)) }
		got, err := newRefresher(t, server).AccessToken(t.Context(), connection("c", s))
		if calls, _, _ := server.counts(); err != nil || got.Access != "access-new" || calls != 0 {
			t.Errorf("AccessToken() = %q, %v after %d exchanges; want the newer pair after none", got.Access, err, calls)
		}
	})
}

// TestSuspectConnectionIsLeftAlone: reads of a connection whose refresh token must not
// be sent yet do not each take a row lock to learn that.
func TestSuspectConnectionIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t, pair("r", 53*time.Minute))
		claim := s.taken(t)
		if err := s.Settle(t.Context(), claim, prisma.Unknown); err != nil {
			t.Fatal(err)
		}
		claims := 0
		s.beforeClaim = func() { claims++ }
		r := newRefresher(t, newAuthServer(0, "r"))
		for range 100 { // ten seconds
			if _, err := r.AccessToken(t.Context(), connection("c", s)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if claims < 2 || claims > 3 {
			t.Errorf("%d claims in 10 s, want one every 5 s", claims)
		}
	})
}

func TestSendGuard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(0, "r")
		s := newStorage(t, pair("r", 2*time.Hour))
		s.beforeClaim = func() { time.Sleep(5*time.Second + time.Millisecond) } // the process stands still
		r := newRefresher(t, server)
		if _, err := r.AccessToken(t.Context(), connection("c", s)); fault.KindOf(err) != fault.RefreshInProgress {
			t.Errorf("AccessToken() error = %v, want kind %q", err, fault.RefreshInProgress)
		}
		if calls, _, _ := server.counts(); calls != 0 || len(s.settled) != 1 || s.settled[0] != prisma.NotSent {
			t.Errorf("%d exchanges, settled %v; want none and [not_sent]", calls, s.settled)
		}
		s.beforeClaim = nil
		if got, err := r.AccessToken(t.Context(), connection("c", s)); err != nil || got.Access != "access-r.1" {
			t.Errorf("AccessToken() afterwards = %q, %v; want the new pair", got.Access, err)
		}
	})
}

func TestAtMostEightExchangesInFlight(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var tokens []string
		for i := range 40 {
			tokens = append(tokens, fmt.Sprintf("r%d", i))
		}
		server := newAuthServer(time.Second, tokens...)
		r := newRefresher(t, server)
		var wg sync.WaitGroup
		for _, token := range tokens {
			conn := connection(token, newStorage(t, pair(token, 2*time.Hour)))
			wg.Go(func() {
				if _, err := r.AccessToken(t.Context(), conn); err != nil {
					t.Errorf("AccessToken() error = %v", err)
				}
			})
		}
		wg.Wait()
		if calls, _, peak := server.counts(); calls != 40 || peak != 8 {
			t.Errorf("%d exchanges, %d at once; want 40 and 8", calls, peak)
		}
	})
}

func TestProcessesShareOneExchange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(700*time.Millisecond, "r")
		conn := connection("c", newStorage(t, pair("r", 2*time.Hour)))
		start := now()
		var wg sync.WaitGroup
		for range 4 {
			r := newRefresher(t, server)
			for range 50 {
				wg.Go(func() {
					if got, err := r.AccessToken(t.Context(), conn); err != nil || got.Access != "access-r.1" {
						t.Errorf("AccessToken() = %q, %v", got.Access, err)
					}
				})
			}
		}
		wg.Wait()
		if calls, replays, _ := server.counts(); calls != 1 || replays != 0 {
			t.Errorf("%d exchanges with %d replays, want 1 and 0", calls, replays)
		}
		if took := time.Since(start); took > 1300*time.Millisecond {
			t.Errorf("the last caller waited %s", took)
		}
	})
}

func TestLeaseOfACrashedProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(0, "r")
		s := newStorage(t, pair("r", 2*time.Hour))
		stored, err := s.Tokens(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if claim, err := s.Claim(t.Context(), stored); err != nil || !claim.Due { // and then its holder dies
			t.Fatalf("Claim() = %v, %v", claim.Due, err)
		}
		r := newRefresher(t, server)
		start := now()
		_, err = r.AccessToken(t.Context(), connection("c", s))
		if took := time.Since(start); fault.KindOf(err) != fault.RefreshInProgress || took < 14*time.Second || took > 16*time.Second {
			t.Errorf("after %s AccessToken() error = %v, want kind %q after 15s", took, err, fault.RefreshInProgress)
		}
		time.Sleep(3 * time.Minute)
		if got, err := r.AccessToken(t.Context(), connection("c", s)); err != nil || got.Access != "access-r.1" {
			t.Errorf("AccessToken() after the lease = %q, %v; want the new pair", got.Access, err)
		}
	})
}

// TestReturnedLeaseIsTakenOver: a process that polls notices that the holder gave its
// lease back without a new pair.
func TestReturnedLeaseIsTakenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t, pair("r", 2*time.Hour))
		claim := s.taken(t)
		time.AfterFunc(time.Second, func() { _ = s.Settle(context.Background(), claim, prisma.NotSent) })
		start := now()
		got, err := newRefresher(t, newAuthServer(0, "r")).AccessToken(t.Context(), connection("c", s))
		if err != nil || got.Access != "access-r.1" || time.Since(start) > 4*time.Second {
			t.Errorf("after %s AccessToken() = %q, %v; want the new pair", time.Since(start), got.Access, err)
		}
	})
}

func TestBackoffGrowsAndEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(0, "r")
		server.answer = func(n int) (prisma.Grant, error) {
			if n < 9 {
				return prisma.Grant{}, &prisma.TokenError{Class: prisma.NotSent}
			}
			return prisma.Grant{}, nil
		}
		r := newRefresher(t, server, func(c *prisma.RefresherConfig) { c.Settings.BreakerAfter = 100 })
		conn := connection("c", newStorage(t, pair("r", 2*time.Hour)))
		for n := range 8 {
			_, err := r.AccessToken(t.Context(), conn)
			failure, ok := errors.AsType[*fault.Error](err)
			least := min(time.Second<<n, 30*time.Second)
			if !ok || failure.RetryAfter < least || failure.RetryAfter > least*5/4 {
				t.Fatalf("failure %d: %v, want Retry-After from %s to %s", n+1, err, least, least*5/4)
			}
			if calls, _, _ := server.counts(); calls != n+1 {
				t.Fatalf("%d exchanges, want %d", calls, n+1)
			}
			time.Sleep(failure.RetryAfter)
		}
		if got, err := r.AccessToken(t.Context(), conn); err != nil || got.Access != "access-r.9" {
			t.Errorf("AccessToken() = %q, %v; want the new pair", got.Access, err)
		}
	})
}

func TestPanicInAnExchangeIsContained(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		server := newAuthServer(0, "r")
		server.answer = func(int) (prisma.Grant, error) { panic("canary") }
		r := newRefresher(t, server, func(c *prisma.RefresherConfig) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		if _, err := r.AccessToken(t.Context(), connection("c", newStorage(t, pair("r", 2*time.Hour)))); err == nil {
			t.Error("AccessToken() error = nil")
		}
		if !strings.Contains(log.String(), "panic") || strings.Contains(log.String(), "canary") {
			t.Errorf("log = %s, want the panic without its value", log.String())
		}
		server.answer = nil
		if _, err := r.AccessToken(t.Context(), connection("d", newStorage(t, pair("r", 2*time.Hour)))); err != nil {
			t.Errorf("AccessToken() of another connection: error = %v", err)
		}
		if err := r.Wait(t.Context()); err != nil {
			t.Errorf("Wait() error = %v", err)
		}
	})
}

func TestWaitDrains(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(10*time.Second, "r", "q")
		r := newRefresher(t, server)
		s := newStorage(t, pair("r", 2*time.Hour))
		s.save = func(n int, save func() error) error {
			if n < 5 {
				return errStorage
			}
			return save()
		}
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = r.AccessToken(t.Context(), connection("c", s)) })
		synctest.Wait()
		start := now()
		wg.Go(func() {
			if err := r.Wait(t.Context()); err != nil {
				t.Errorf("Wait() error = %v", err)
			}
			if took := time.Since(start); took != 10*time.Second+750*time.Millisecond {
				t.Errorf("Wait() took %s, want the exchange and its save", took)
			}
		})
		synctest.Wait()
		if _, err := r.AccessToken(t.Context(), connection("d", newStorage(t, pair("q", 2*time.Hour)))); fault.KindOf(err) != fault.RefreshInProgress {
			t.Errorf("AccessToken() while draining: error = %v, want kind %q", err, fault.RefreshInProgress)
		}
		if got, err := r.AccessToken(t.Context(), connection("e", newStorage(t, pair("x", 0)))); err != nil || got.Access != "access-x" {
			t.Errorf("AccessToken() of a valid pair while draining = %q, %v", got.Access, err)
		}
		wg.Wait()
		if got, err := s.Tokens(t.Context()); err != nil || got.Refresh != "r.1" {
			t.Errorf("stored = %q, %v; want the new pair", got.Refresh, err)
		}
		if calls, _, _ := server.counts(); calls != 1 {
			t.Errorf("%d exchanges, want 1", calls)
		}
		if err := r.Wait(t.Context()); err != nil {
			t.Errorf("Wait() again: error = %v", err)
		}
	})
}

func TestWaitGivesUpWithItsContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRefresher(t, newAuthServer(0, "r"))
		s := newStorage(t, pair("r", 2*time.Hour))
		s.save = func(int, func() error) error { return errStorage }
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = r.AccessToken(t.Context(), connection("c", s)) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.Wait(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "1 token exchange") {
			t.Errorf("Wait() error = %v, want one exchange that did not end", err)
		}
		wg.Wait() // and the flight ends too
	})
}

func TestPlainStorage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(100*time.Millisecond, "r", "q")
		inner := newStorage(t, pair("r", 2*time.Hour))
		conn := connection("c", plain{inner.MemoryStorage})
		r := newRefresher(t, server)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if got, err := r.AccessToken(t.Context(), conn); err != nil || got.Access != "access-r.1" {
					t.Errorf("AccessToken() = %q, %v", got.Access, err)
				}
			})
		}
		wg.Wait()
		if calls, _, _ := server.counts(); calls != 1 {
			t.Errorf("%d exchanges, want 1", calls)
		}

		// The user logs out while an exchange runs: its pair is not stored.
		time.Sleep(2 * time.Hour)
		time.AfterFunc(50*time.Millisecond, func() { _ = inner.ClearTokens(context.Background()) })
		if _, err := r.AccessToken(t.Context(), conn); fault.KindOf(err) != fault.NotFound {
			t.Errorf("AccessToken() after a logout: error = %v, want kind %q", err, fault.NotFound)
		}

		// The user reconnects while an exchange runs: the reconnect stays.
		if err := inner.SetTokens(t.Context(), pair("q", 2*time.Hour)); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(50*time.Millisecond, func() { _ = inner.SetTokens(context.Background(), pair("new", 0)) })
		if got, err := r.AccessToken(t.Context(), conn); err != nil || got.Access != "access-new" {
			t.Errorf("AccessToken() after a reconnect = %q, %v; want the reconnect's", got.Access, err)
		}

		// A dead refresh token clears the pair.
		if err := inner.SetTokens(t.Context(), pair("dead", 2*time.Hour)); err != nil {
			t.Fatal(err)
		}
		if _, err := r.AccessToken(t.Context(), conn); fault.KindOf(err) != fault.ReconnectRequired {
			t.Errorf("AccessToken() error = %v, want kind %q", err, fault.ReconnectRequired)
		}
		if _, err := inner.Tokens(t.Context()); fault.KindOf(err) != fault.NotFound {
			t.Errorf("Tokens() error = %v, want kind %q", err, fault.NotFound)
		}
	})
}
