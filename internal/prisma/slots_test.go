package prisma_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// crowd asks for tokens of connections of several shares.
type crowd struct {
	*testing.T

	server *troubled
	r      *prisma.Refresher
	all    sync.WaitGroup
}

func newCrowd(t *testing.T, places int) *crowd {
	t.Helper()
	c := &crowd{T: t, server: &troubled{latency: time.Second}}
	c.r = newRefresher(t, c.server, func(cfg *prisma.RefresherConfig) {
		cfg.Settings.Exchanges = places
		cfg.Settings.CallerWait = 10 * time.Minute
	})
	return c
}

// ask wants the token of one connection, whose name begins with its share.
func (c *crowd) ask(name string, age time.Duration) {
	c.Helper()
	conn := connection(name, newStorage(c.T, pair(name, age)))
	conn.Share, _, _ = strings.Cut(name, "-")
	c.all.Go(func() {
		if _, err := c.r.AccessToken(c.Context(), conn); err != nil {
			c.Errorf("AccessToken() of %s: error = %v", name, err)
		}
	})
	synctest.Wait()
}

// order is the connections in the order of their exchanges.
func (c *crowd) order() []string {
	c.all.Wait()
	time.Sleep(time.Minute) // those that nobody waits for
	var names []string
	for _, one := range c.server.order() {
		names = append(names, strings.TrimPrefix(one, "client "))
	}
	return names
}

func TestOneShareMayUseAllPlaces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 8)
		for i := range 20 {
			c.ask(fmt.Sprintf("a-%d", i), 2*time.Hour)
		}
		if got := c.r.State(); got.Exchanges != 8 || got.Places != 8 || got.Waiting != 12 {
			t.Errorf("State() = %+v, want 8 of 8 and 12 waiting", got)
		}
		c.order()
		if c.server.peak != 8 {
			t.Errorf("%d at once, want 8", c.server.peak)
		}
		if got := c.r.State(); got.Exchanges != 0 || got.Waiting != 0 {
			t.Errorf("State() = %+v, want nothing left", got)
		}
	})
}

func TestNextPlaceIsAnothersShare(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 2)
		for i := range 10 {
			c.ask(fmt.Sprintf("a-%d", i), 2*time.Hour)
		}
		c.ask("b-0", 2*time.Hour)
		c.ask("c-0", 2*time.Hour)
		c.ask("b-1", 2*time.Hour)
		got := c.order()
		first := slices.Sorted(slices.Values(got[:4])) // two begin at a time
		if want := []string{"a-0", "a-1", "b-0", "c-0"}; !slices.Equal(first, want) {
			t.Errorf("order = %v, want it to begin with %v", got, want)
		}
		if at := slices.Index(got, "b-1"); at > 5 {
			t.Errorf("order = %v, want b-1 in its turn", got)
		}
		if at := slices.Index(got, "a-2"); at > 5 {
			t.Errorf("order = %v, want a-2 in its turn", got)
		}
	})
}

// TestRefreshesAheadOfNeedWait: those that callers wait for go first, and one that a
// caller begins to wait for moves up.
func TestRefreshesAheadOfNeedWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1)
		c.ask("a-busy", 2*time.Hour)
		var moved *storage
		for i := range 5 {
			name := fmt.Sprintf("a-ahead%d", i)
			s := newStorage(t, pair(name, 52*time.Minute))
			if i == 4 {
				moved = s
			}
			conn := connection(name, s)
			conn.Share = "a"
			if _, err := c.r.AccessToken(t.Context(), conn); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
		c.ask("a-needed", 2*time.Hour)
		c.all.Go(func() { // the API refused its token, so now somebody waits for it
			conn := connection("a-ahead4", moved)
			conn.Share = "a"
			stored, err := moved.Tokens(t.Context())
			if err != nil {
				t.Error(err)
			}
			if _, err := c.r.AfterRefusal(t.Context(), conn, stored); err != nil {
				t.Errorf("AfterRefusal() error = %v", err)
			}
		})
		synctest.Wait()
		want := []string{"a-busy", "a-needed", "a-ahead4", "a-ahead0", "a-ahead1", "a-ahead2", "a-ahead3"}
		if got := c.order(); !slices.Equal(got, want) {
			t.Errorf("order = %v, want %v", got, want)
		}
	})
}

// TestDrainEndsTheWaitForAPlace: who waits is told at once, and no exchange begins.
func TestDrainEndsTheWaitForAPlace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		c := newCrowd(t, 1)
		c.server.latency = 30 * time.Second
		c.r = newRefresher(t, c.server, func(cfg *prisma.RefresherConfig) {
			cfg.Settings.Exchanges = 1
			cfg.Settings.CallerWait = 10 * time.Minute
			cfg.Settings.BreakerSlow = time.Minute
		})
		c.ask("a-0", 2*time.Hour)
		var waiting sync.WaitGroup
		for i := range 3 {
			conn := connection(fmt.Sprint("b-", i), newStorage(t, pair(fmt.Sprint("b-", i), 2*time.Hour)))
			waiting.Go(func() {
				if _, err := c.r.AccessToken(t.Context(), conn); fault.KindOf(err) != fault.RefreshInProgress {
					t.Errorf("AccessToken() error = %v, want kind %q", err, fault.RefreshInProgress)
				}
			})
		}
		synctest.Wait()
		begun := now()
		c.all.Go(func() {
			if err := c.r.Wait(t.Context()); err != nil {
				t.Errorf("Wait() error = %v", err)
			}
		})
		waiting.Wait()
		if took := now().Sub(begun); took != 0 {
			t.Errorf("they waited %s", took)
		}
		if got := c.order(); len(got) != 1 {
			t.Errorf("exchanges = %v, want the one in flight", got)
		}
	})
}
