package prisma_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

func TestLatePauses(t *testing.T) {
	t.Parallel()
	var pauses prisma.LatePauses
	want := time.Minute
	for n := 1; n < 40; n++ {
		for _, key := range []string{"a", "b", "c"} {
			if got := pauses.After(key, n); got < want || got > want+want/4 {
				t.Errorf("After(%s, %d) = %s, want %s and up to a quarter more", key, n, got, want)
			}
		}
		want = min(2*want, time.Hour)
	}
	if pauses.After("a", 1) == pauses.After("b", 1) {
		t.Error("two connections come back at the same time")
	}
}

// probing is an endpoint that is asked how it is: its answer is what probe returns.
type probing struct {
	*authServer

	probe func() error
}

func (p probing) Probe(context.Context) error { return p.probe() }

// TestProbeComesBeforeTheClaim: while the endpoint is asked how it is nothing is claimed,
// so that a process that dies meanwhile leaves nothing behind.
func TestProbeComesBeforeTheClaim(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t, pair("r", 2*time.Hour))
		stored, err := s.Tokens(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		first, err := s.Claim(t.Context(), stored)
		if err != nil || !first.Due {
			t.Fatalf("Claim() due = %t, %v", first.Due, err)
		}
		settle(prisma.Unknown)(t, s.MemoryStorage, first)
		s.settled = nil
		down := errors.New("no answer")
		probes := 0
		server := newAuthServer(0, "r")
		r := newRefresher(t, probing{server, func() error {
			probes++
			stored.LateToo = true
			claim, err := s.MemoryStorage.Claim(t.Context(), stored)
			if err != nil || !claim.Due { // as another process might meanwhile
				t.Errorf("while the endpoint is asked: due %t, held %t, %v", claim.Due, claim.Held, err)
			}
			settle(prisma.NotSent)(t, s.MemoryStorage, claim)
			return down
		}})
		_, err = r.AccessToken(t.Context(), connection("c", s))
		if kind := fault.KindOf(err); kind != fault.PrismaUnavailable || probes != 1 {
			t.Errorf("AccessToken() = %v after %d probes", err, probes)
		}
		if calls, _, _ := server.counts(); calls != 0 || len(s.settled) != 0 {
			t.Errorf("%d exchanges, settled as %v; want nothing", calls, s.settled)
		}
		down = nil
		time.Sleep(time.Minute)
		if _, err := r.AccessToken(t.Context(), connection("c", s)); err != nil {
			t.Errorf("AccessToken() once the endpoint answers: %v", err)
		}
	})
}

// TestUnsentIsSaidUntilTheLeaseEnds: that a token was not sent is said for as long as the
// storage does not take it, or the token would be suspected; and not for ever.
func TestUnsentIsSaidUntilTheLeaseEnds(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		outcome prisma.Outcome
		away    time.Duration
		suspect bool
		drained bool
	}{
		"not sent, a minute":      {outcome: prisma.NotSent, away: time.Minute},
		"misconfigured, a minute": {outcome: prisma.Misconfigured, away: time.Minute},
		"not sent, ten minutes":   {outcome: prisma.NotSent, away: 10 * time.Minute, suspect: true},
		"not sent, and the end":   {outcome: prisma.NotSent, away: time.Minute, drained: true, suspect: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newStorage(t, pair("r", 2*time.Hour))
				back := now().Add(tc.away)
				s.settle = func() error {
					if now().Before(back) {
						return errStorage
					}
					return nil
				}
				server := newAuthServer(0, "r")
				server.answer = func(int) (prisma.Grant, error) { return prisma.Grant{}, &prisma.TokenError{Class: tc.outcome} }
				r := newRefresher(t, server)
				_, err := r.AccessToken(t.Context(), connection("c", s))
				if fault.KindOf(err) != fault.RefreshInProgress {
					t.Errorf("AccessToken() = %v", err)
				}
				if tc.drained {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					defer cancel()
					if err := r.Wait(ctx); err == nil {
						t.Error("Wait() = nil, and the end is not stored")
					}
				}
				time.Sleep(15 * time.Minute)
				stored, err := s.Tokens(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				claim, err := s.MemoryStorage.Claim(t.Context(), stored)
				if err != nil || claim.Late != tc.suspect {
					t.Errorf("the next claim is late: %t, %v; want %t", claim.Late, err, tc.suspect)
				}
			})
		})
	}
}

// TestAClaimThatMayBeStoredIsGivenBack: the storage does not know whether the intent is
// durable. Nothing is sent, and nothing is suspected.
func TestAClaimThatMayBeStoredIsGivenBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t, pair("r", 2*time.Hour))
		lost := 1
		s.claimed = func() error {
			if lost--; lost >= 0 {
				return errStorage
			}
			return nil
		}
		server := newAuthServer(0, "r")
		r := newRefresher(t, server)
		if _, err := r.AccessToken(t.Context(), connection("c", s)); !errors.Is(err, errStorage) {
			t.Errorf("AccessToken() = %v", err)
		}
		if calls, _, _ := server.counts(); calls != 0 {
			t.Errorf("%d exchanges without a durable intent", calls)
		}
		if _, err := r.AccessToken(t.Context(), connection("c", s)); err != nil {
			t.Errorf("AccessToken() again = %v", err)
		}
	})
}

// TestProbe: whatever the endpoint says, it is there; unless it is what stands in for one
// that is not.
func TestProbe(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		status int
		body   string
		well   bool
	}{
		"OAuth's refusal": {http.StatusBadRequest, `{"error":"invalid_request"}`, true},
		"another refusal": {http.StatusUnprocessableEntity, `{"message":"no"}`, true},
		"a page":          {http.StatusNotFound, "<html>", true},
		"unsupported":     {http.StatusUnsupportedMediaType, "", true},
		"too many":        {http.StatusTooManyRequests, `{"error":"slow_down"}`, false},
		"out of order":    {http.StatusServiceUnavailable, `{"error":"temporarily_unavailable"}`, false},
		"a bad gateway":   {http.StatusBadGateway, "<html>", false},
		"nobody listens":  {0, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if body, _ := io.ReadAll(r.Body); len(body) != 0 || r.Header.Get("Authorization") != "" {
					t.Errorf("the probe has something in it: %q", body)
				}
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			}))
			if tc.status == 0 {
				server.Close()
			}
			defer server.Close()
			err := newOAuth(t, prisma.OAuthConfig{AuthURL: server.URL}).Probe(t.Context())
			if (err == nil) != tc.well {
				t.Errorf("Probe() = %v", err)
			}
			if failure, ok := errors.AsType[*prisma.TokenError](err); err != nil && (!ok || failure.Class != prisma.NotSent) {
				t.Errorf("Probe() = %v, want a *TokenError of class not_sent", err)
			}
		})
	}
}

// TestProbeThatNeverGoesWell: what an endpoint makes of an empty request does not keep a
// connection from its late retry for ever.
func TestProbeThatNeverGoesWell(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t, pair("r", 61*time.Minute))
		first := s.taken(t)
		settle(prisma.Unknown)(t, s.MemoryStorage, first)
		server := newAuthServer(0, "r")
		r := newRefresher(t, probing{server, func() error { return errStorage }})
		began := now()
		for err := errStorage; err != nil && now().Sub(began) < 3*time.Hour; {
			_, err = r.AccessToken(t.Context(), connection("c", s))
			time.Sleep(time.Minute)
		}
		if took := now().Sub(began); took < time.Hour || took > 70*time.Minute {
			t.Errorf("the late retry came after %s, want soon after an hour", took)
		}
	})
}
