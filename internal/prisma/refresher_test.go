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

func TestAccessTokenByAge(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		age   time.Duration
		want  string        // access token handed out
		took  time.Duration // what the caller waited
		calls int           // exchanges in the end
	}{
		"young":               {0, "access-r", 0, 0},
		"before 75 %":         {44 * time.Minute, "access-r", 0, 0},
		"after 85 %":          {52 * time.Minute, "access-r", 0, 1},
		"just over a minute":  {58*time.Minute + 59*time.Second, "access-r", 0, 1},
		"a minute to go":      {59 * time.Minute, "access-r.1", time.Second, 1},
		"expired":             {2 * time.Hour, "access-r.1", time.Second, 1},
		"from a clock behind": {-time.Hour, "access-r", 0, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := newAuthServer(time.Second, "r")
				r := newRefresher(t, server)
				start := now()
				got, err := r.AccessToken(t.Context(), connection("c", newStorage(t, pair("r", tc.age))))
				if err != nil || got.Access != tc.want {
					t.Errorf("AccessToken() = %q, %v; want %q", got.Access, err, tc.want)
				}
				if took := time.Since(start); took != tc.took {
					t.Errorf("AccessToken() took %s, want %s", took, tc.took)
				}
				time.Sleep(2 * time.Second)
				if calls, _, _ := server.counts(); calls != tc.calls {
					t.Errorf("%d exchanges, want %d", calls, tc.calls)
				}
			})
		})
	}
}

// TestShortLivedTokensAreServed: a life of a minute, the shortest believed, must not
// mean one exchange for every call.
func TestShortLivedTokensAreServed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(0)
		server.answer = func(n int) (prisma.Grant, error) {
			return prisma.Grant{Access: fmt.Sprint("a", n), Refresh: fmt.Sprint("r", n), ExpiresIn: time.Minute, Rotated: true}, nil
		}
		r := newRefresher(t, server)
		conn := connection("c", newStorage(t, pair("r", 2*time.Hour)))
		for range 40 {
			if _, err := r.AccessToken(t.Context(), conn); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if calls, _, _ := server.counts(); calls != 1 {
			t.Errorf("%d exchanges in 40 s, want 1", calls)
		}
		time.Sleep(15 * time.Second) // 5 s left, less than a tenth
		if got, err := r.AccessToken(t.Context(), conn); err != nil || got.Access != "a2" {
			t.Errorf("AccessToken() = %q, %v; want a2", got.Access, err)
		}
	})
}

// TestBackgroundRefreshIsSpread finds, for many connections, the age at which a read
// starts a refresh, and checks that these lie between 75 and 85 % and not together.
func TestBackgroundRefreshIsSpread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const connections = 500
		first, last := 0, 0 // connections already due at 77 % and at 83 %
		for i := range connections {
			for age, count := range map[time.Duration]*int{
				44 * time.Minute: nil, 46*time.Minute + 12*time.Second: &first, 49*time.Minute + 48*time.Second: &last,
				52 * time.Minute: nil,
			} {
				server := newAuthServer(0, "r")
				r := newRefresher(t, server)
				if _, err := r.AccessToken(t.Context(), connection(fmt.Sprintf("cnx_%d", i), newStorage(t, pair("r", age)))); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				calls, _, _ := server.counts()
				if age == 44*time.Minute && calls != 0 || age == 52*time.Minute && calls != 1 {
					t.Fatalf("connection %d aged %s: %d exchanges", i, age, calls)
				}
				if count != nil {
					*count += calls
				}
			}
		}
		if first < 60 || first > 140 || last < 360 || last > 440 {
			t.Errorf("%d of %d due at 77 %%, %d at 83 %%; want about 100 and 400", first, connections, last)
		}
	})
}

func TestManyCallersShareOneExchange(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(200*time.Millisecond, "r")
		r := newRefresher(t, server)
		conn := connection("c", newStorage(t, pair("r", 2*time.Hour)))
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if got, err := r.AccessToken(t.Context(), conn); err != nil || got.Access != "access-r.1" {
					t.Errorf("AccessToken() = %q, %v", got.Access, err)
				}
			})
		}
		wg.Wait()
		if calls, replays, _ := server.counts(); calls != 1 || replays != 0 {
			t.Errorf("%d exchanges with %d replays, want 1 and 0", calls, replays)
		}
	})
}

func TestExchangeOutlivesItsCallers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(3*time.Second, "r")
		r := newRefresher(t, server)
		s := newStorage(t, pair("r", 2*time.Hour))
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := r.AccessToken(ctx, connection("c", s)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("AccessToken() error = %v, want the caller's deadline", err)
		}
		time.Sleep(5 * time.Second)
		if got, err := s.Tokens(t.Context()); err != nil || got.Refresh != "r.1" || got.Generation != 2 {
			t.Errorf("stored = %v %q, %v; want the new pair, generation 2", got, got.Refresh, err)
		}
	})
}

func TestCallersStopWaitingBeforeTheExchangeDoes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRefresher(t, newAuthServer(40*time.Second, "r"))
		conn := connection("c", newStorage(t, pair("r", 2*time.Hour)))
		start := now()
		_, err := r.AccessToken(t.Context(), conn)
		failure, ok := errors.AsType[*fault.Error](err)
		if !ok || failure.Kind != fault.RefreshInProgress || failure.RetryAfter <= 0 || time.Since(start) != 15*time.Second {
			t.Errorf("after %s AccessToken() error = %v, want %q after 15s", time.Since(start), err, fault.RefreshInProgress)
		}
		time.Sleep(30 * time.Second)
		if got, err := r.AccessToken(t.Context(), conn); err != nil || got.Access != "access-r.1" {
			t.Errorf("AccessToken() later = %q, %v; want the new pair", got.Access, err)
		}
	})
}

func TestExchangeOutcomes(t *testing.T) {
	t.Parallel()

	fail := func(class prisma.Outcome, after time.Duration) func(int) (prisma.Grant, error) {
		return func(int) (prisma.Grant, error) {
			return prisma.Grant{}, &prisma.TokenError{Class: class, RetryAfter: after}
		}
	}
	tests := map[string]struct {
		answer  func(int) (prisma.Grant, error)
		kind    fault.Kind
		after   time.Duration // least Retry-After
		outcome prisma.Outcome
		stored  fault.Kind // of reading the tokens afterwards
		dying   bool       // whether 30 s of life are served in spite of the failure
	}{
		"not sent":      {fail(prisma.NotSent, 0), fault.PrismaUnavailable, time.Second, prisma.NotSent, "", true},
		"misconfigured": {fail(prisma.Misconfigured, 9*time.Second), fault.PrismaUnavailable, 9 * time.Second, prisma.Misconfigured, "", true},
		"unknown":       {fail(prisma.Unknown, 0), fault.PrismaUnavailable, time.Second, prisma.Unknown, "", true},
		"any error": {
			func(int) (prisma.Grant, error) { return prisma.Grant{}, errors.New("odd") },
			fault.PrismaUnavailable, time.Second, prisma.Unknown, "", true,
		},
		"invalid grant": {fail(prisma.InvalidGrant, 0), fault.ReconnectRequired, 0, prisma.InvalidGrant, fault.ReconnectRequired, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := newAuthServer(time.Second, "r")
				server.answer = tc.answer
				r := newRefresher(t, server)
				s := newStorage(t, pair("r", 2*time.Hour))
				_, err := r.AccessToken(t.Context(), connection("c", s))
				failure, ok := errors.AsType[*fault.Error](err)
				if !ok || failure.Kind != tc.kind || failure.RetryAfter < tc.after {
					t.Errorf("AccessToken() error = %v, want kind %q and Retry-After of %s", err, tc.kind, tc.after)
				}
				if len(s.settled) != 1 || s.settled[0] != tc.outcome {
					t.Errorf("settled = %v, want [%s]", s.settled, tc.outcome)
				}
				if _, err := s.Tokens(t.Context()); fault.KindOf(err) != tc.stored {
					t.Errorf("Tokens() error = %v, want kind %q", err, tc.stored)
				}
				// At once again: the connection is left alone.
				_, _ = r.AccessToken(t.Context(), connection("c", s))
				if calls, _, _ := server.counts(); calls != 1 {
					t.Errorf("%d exchanges, want 1", calls)
				}

				got, err := r.AccessToken(t.Context(), connection("d", newStorage(t, pair("q", time.Hour-30*time.Second))))
				if (err == nil && got.Access == "access-q") != tc.dying {
					t.Errorf("with 30 s of life AccessToken() = %q, %v; want it served: %t", got.Access, err, tc.dying)
				}
			})
		})
	}
}

// TestUnknownOutcomeIsNotReplayedEarly: after an unknown outcome the same refresh token
// stays where it is until the access token is about to end.
func TestUnknownOutcomeIsNotReplayedEarly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(0, "r")
		server.answer = func(n int) (prisma.Grant, error) {
			if n == 1 {
				return prisma.Grant{}, &prisma.TokenError{Class: prisma.Unknown, Status: 502}
			}
			return prisma.Grant{}, nil
		}
		r := newRefresher(t, server)
		conn := connection("c", newStorage(t, pair("r", 53*time.Minute))) // 7 minutes left
		for minute := range 5 {
			if got, err := r.AccessToken(t.Context(), conn); err != nil || got.Access != "access-r" {
				t.Errorf("minute %d: AccessToken() = %q, %v", minute, got.Access, err)
			}
			time.Sleep(time.Minute)
		}
		if calls, _, _ := server.counts(); calls != 1 {
			t.Fatalf("%d exchanges before the end, want 1", calls)
		}
		time.Sleep(90 * time.Second) // 30 seconds left
		if got, err := r.AccessToken(t.Context(), conn); err != nil || got.Access != "access-r.2" {
			t.Errorf("near the end AccessToken() = %q, %v; want the new pair", got.Access, err)
		}
	})
}

func TestInvalidGrantOfALateExchangeIsBenign(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t, pair("r", 2*time.Hour))
		server := newAuthServer(0, "r")
		server.answer = func(int) (prisma.Grant, error) {
			if err := s.SetTokens(context.WithoutCancel(t.Context()), pair("new", 0)); err != nil { // the user reconnects meanwhile
				return prisma.Grant{}, err
			}
			return prisma.Grant{}, &prisma.TokenError{Class: prisma.InvalidGrant}
		}
		got, err := newRefresher(t, server).AccessToken(t.Context(), connection("c", s))
		if err != nil || got.Access != "access-new" {
			t.Errorf("AccessToken() = %q, %v; want the pair of the reconnect", got.Access, err)
		}
	})
}

func TestAnswerWithoutRefreshTokenKeepsTheOld(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t, pair("r", 2*time.Hour))
		server := newAuthServer(0)
		server.answer = func(int) (prisma.Grant, error) {
			return prisma.Grant{Access: "a2", ExpiresIn: time.Hour, WorkspaceID: "wksp_other"}, nil
		}
		got, err := newRefresher(t, server).AccessToken(t.Context(), connection("c", s))
		if err != nil || got.Access != "a2" || got.Refresh != "r" || got.WorkspaceID != "wksp_1" || got.Generation != 2 {
			t.Errorf("AccessToken() = %v (%q, %q), %v", got, got.Access, got.Refresh, err)
		}
	})
}

func TestAccessTokenWithoutTokens(t *testing.T) {
	t.Parallel()

	r := newRefresher(t, newAuthServer(0))
	empty := connection("c", prisma.NewMemoryStorage(now, 0))
	if _, err := r.AccessToken(t.Context(), empty); fault.KindOf(err) != fault.NotFound {
		t.Errorf("AccessToken() error = %v, want kind %q", err, fault.NotFound)
	}
	tokens := pair("", 2*time.Hour)
	if _, err := r.AccessToken(t.Context(), connection("d", newStorage(t, tokens))); fault.KindOf(err) != fault.ReconnectRequired {
		t.Errorf("AccessToken() without refresh token: error = %v, want kind %q", err, fault.ReconnectRequired)
	}
}

func TestAfterRefusal(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		age     time.Duration
		refused string // refresh token of the refused pair; "": the stored one
		want    string
		kind    fault.Kind
		calls   int
	}{
		"old pair":            {age: 2 * time.Minute, want: "access-r.1", calls: 1},
		"a minute old":        {age: time.Minute, want: "access-r.1", calls: 1},
		"young pair":          {age: 59 * time.Second, kind: fault.PrismaRefused},
		"replaced meanwhile":  {age: time.Second, refused: "old", want: "access-r"},
		"replaced, expired":   {age: 2 * time.Hour, refused: "old", want: "access-r.1", calls: 1},
		"only just refreshed": {age: 0, kind: fault.PrismaRefused},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := newAuthServer(time.Millisecond, "r")
				s := newStorage(t, pair("r", tc.age))
				refused, err := s.Tokens(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				if tc.refused != "" {
					refused = pair(tc.refused, time.Hour)
				}
				got, err := newRefresher(t, server).AfterRefusal(t.Context(), connection("c", s), refused)
				if got.Access != tc.want || fault.KindOf(err) != tc.kind || (err == nil) != (tc.want != "") {
					t.Errorf("AfterRefusal() = %q, %v; want %q, kind %q", got.Access, err, tc.want, tc.kind)
				}
				if calls, _, _ := server.counts(); calls != tc.calls {
					t.Errorf("%d exchanges, want %d", calls, tc.calls)
				}
			})
		})
	}
}

// TestRefusedTokenOfUnknownOutcomeIsExchangedAgain: once the API refuses the access
// token, waiting for its end protects nothing.
func TestRefusedTokenOfUnknownOutcomeIsExchangedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(0, "r")
		server.answer = func(n int) (prisma.Grant, error) {
			if n == 1 {
				return prisma.Grant{}, &prisma.TokenError{Class: prisma.Unknown}
			}
			return prisma.Grant{}, nil
		}
		r := newRefresher(t, server)
		conn := connection("c", newStorage(t, pair("r", 53*time.Minute)))
		tokens, err := r.AccessToken(t.Context(), conn) // its refresh in the background fails
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		got, err := r.AfterRefusal(t.Context(), conn, tokens)
		if err != nil || got.Access != "access-r.2" {
			t.Errorf("AfterRefusal() = %q, %v; want the new pair", got.Access, err)
		}
	})
}

func TestRefresherTakesTheExchangersTimeouts(t *testing.T) {
	t.Parallel()

	oauth := newOAuth(t, prisma.OAuthConfig{
		AuthURL: "https://auth.example", Timeouts: prisma.ExchangeTimeouts{Answer: 2 * time.Minute},
	})
	if _, err := prisma.NewRefresher(prisma.RefresherConfig{Exchanger: oauth, Now: now}); err == nil {
		t.Error("NewRefresher() accepts an exchanger that outlasts the lease")
	}
}
