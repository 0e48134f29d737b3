package prisma_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// TestStuckRefreshPausesAndIsLogged: a refresh ahead of need that can't even begin is not
// begun by every call, and somebody hears of it. Who waits for one gets the error, at once
// and each time.
func TestStuckRefreshPausesAndIsLogged(t *testing.T) {
	t.Parallel()
	for name, breakIt := range map[string]func(*storage, *prisma.Connection, *int){
		"the claim fails": func(s *storage, _ *prisma.Connection, tries *int) {
			s.claim = func() error { *tries++; return errStorage }
		},
		"the client can't be had": func(_ *storage, c *prisma.Connection, tries *int) {
			c.Client = func(context.Context) (prisma.OAuthClient, error) { *tries++; return prisma.OAuthClient{}, errStorage }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				var log bytes.Buffer
				s := newStorage(t, pair("r", 52*time.Minute))
				conn, tries := connection("c", s), 0
				breakIt(s, &conn, &tries)
				r := newRefresher(t, newAuthServer(0, "r"), func(c *prisma.RefresherConfig) {
					c.Logger = slog.New(slog.NewTextHandler(&log, nil))
				})
				for range 120 {
					if _, err := r.AccessToken(t.Context(), conn); err != nil {
						t.Fatalf("AccessToken() while the stored one works: %v", err)
					}
					time.Sleep(time.Second)
				}
				synctest.Wait()
				if lines := strings.Count(log.String(), "a refresh could not begin"); tries < 2 || tries > 10 || lines != tries {
					t.Errorf("120 calls in two minutes made %d tries and %d lines in the log", tries, lines)
				}
				time.Sleep(10 * time.Minute)
				before := tries
				for range 3 {
					if _, err := r.AccessToken(t.Context(), conn); !errors.Is(err, errStorage) {
						t.Errorf("AccessToken() after the end: %v", err)
					}
				}
				if tries != before+3 {
					t.Errorf("3 callers who wait made %d tries", tries-before)
				}
			})
		})
	}
}

// TestServedToItsEndWithoutAClient: that nothing can renew a pair says nothing against it.
func TestServedToItsEndWithoutAClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t, pair("r", 58*time.Minute))
		conn := connection("c", s)
		conn.Client = func(context.Context) (prisma.OAuthClient, error) {
			return prisma.OAuthClient{}, fault.New(fault.ReconnectRequired, "The OAuth client was replaced.", nil)
		}
		r := newRefresher(t, newAuthServer(0, "r"))
		for range 11 { // until 10 s before the end
			if _, err := r.AccessToken(t.Context(), conn); err != nil {
				t.Errorf("AccessToken(): %v", err)
			}
			time.Sleep(10 * time.Second)
		}
		time.Sleep(10 * time.Second)
		if _, err := r.AccessToken(t.Context(), conn); fault.KindOf(err) != fault.ReconnectRequired {
			t.Errorf("AccessToken() after the end: %v", err)
		}
	})
}

// TestWaitersAreBounded: a storm on one connection holds no more callers than it may; the
// others are told at once to come back.
func TestWaitersAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t, pair("r", 2*time.Hour))
		server := newAuthServer(time.Second, "r")
		r := newRefresher(t, server, func(c *prisma.RefresherConfig) { c.Settings.Waiters = 10 })
		var callers sync.WaitGroup
		var served, sentAway atomic.Int32
		for range 50 {
			callers.Go(func() {
				began := now()
				switch _, err := r.AccessToken(t.Context(), connection("c", s)); {
				case err == nil:
					served.Add(1)
				case fault.KindOf(err) == fault.RefreshInProgress && now().Equal(began):
					sentAway.Add(1)
				default:
					t.Errorf("AccessToken() after %s: %v", now().Sub(began), err)
				}
			})
		}
		callers.Wait()
		if calls, _, _ := server.counts(); served.Load() != 10 || sentAway.Load() != 40 || calls != 1 {
			t.Errorf("%d served and %d sent away with %d exchanges, want 10, 40 and 1", served.Load(), sentAway.Load(), calls)
		}
	})
}
