package limits_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/httpapi/limits"
	"github.com/connect-prisma/server/internal/tenants"
)

// enter goes in and fails the test if it can't.
func enter(t *testing.T, l *limits.Limiter, tenant tenants.TenantID, atOnce int) (leave func()) {
	t.Helper()
	leave, ok, err := l.Enter(t.Context(), tenant, limits.Calls, atOnce)
	if err != nil || !ok {
		t.Fatalf("Enter() = %t, %v; want in", ok, err)
	}
	return leave
}

// A tenant whose calls all hang has so many and no more; others don't notice.
func TestCallsAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l, stuck, other := newLimiter(&bucket{}), newTenant(), newTenant()
		leaves := make([]func(), 20)
		for i := range leaves {
			leaves[i] = enter(t, l, stuck, 20)
		}
		began := clock()
		if _, ok, err := l.Enter(t.Context(), stuck, limits.Calls, 20); ok || err != nil || clock().Sub(began) != time.Second {
			t.Errorf("one more: %t, %v after %s; want it refused after a second", ok, err, clock().Sub(began))
		}
		began = clock()
		enter(t, l, other, 20)()
		if clock() != began {
			t.Error("another tenant's call waited")
		}
		// Those who wait come in one by one, in their order.
		var came []int
		var mu sync.Mutex
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() {
				leave := enter(t, l, stuck, 20)
				mu.Lock()
				defer mu.Unlock()
				came = append(came, i)
				leave()
			})
			synctest.Wait()
		}
		leaves[0]()
		all.Wait()
		if len(came) != 3 || came[0] != 0 || came[1] != 1 || came[2] != 2 {
			t.Errorf("they came in the order %v", came)
		}
		// As many may wait as are in; the next is refused at once.
		leaves[0] = enter(t, l, stuck, 20)
		for range 20 {
			all.Go(func() { _, _, _ = l.Enter(t.Context(), stuck, limits.Calls, 20) })
		}
		synctest.Wait()
		began = clock()
		if _, ok, _ := l.Enter(t.Context(), stuck, limits.Calls, 20); ok || clock() != began {
			t.Error("a call behind 20 that wait was not refused at once")
		}
		all.Wait()
		for _, leave := range leaves {
			leave()
		}
		// A caller that leaves takes no place with it.
		gone, cancel := context.WithCancel(t.Context())
		in := enter(t, l, stuck, 1)
		time.AfterFunc(100*time.Millisecond, cancel)
		if _, ok, err := l.Enter(gone, stuck, limits.Calls, 1); ok || !errors.Is(err, context.Canceled) {
			t.Errorf("a caller that left: %t, %v", ok, err)
		}
		in()
		enter(t, l, stuck, 1)()
	})
}

// The replicas share the limit by their number and rank, which loans tell: together they
// let in what it says, unless there are too many of them.
func TestCallsAtOnceOverReplicas(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ atOnce, replicas, want int }{
		{20, 1, 20},
		{20, 2, 20},
		{20, 3, 20},
		{20, 6, 20},
		{20, 8, 20},
		{20, 9, 20},
		{20, 10, 20},
		{5, 2, 5},
		{20, 15, 30},
		{5, 4, 8},
		{1, 3, 3}, // each replica lets two in, if so many may be
	} {
		synctest.Test(t, func(t *testing.T) {
			in := 0
			for rank := range tc.replicas {
				l, tenant := newLimiter(&bucket{replicas: tc.replicas, rank: rank}), newTenant()
				if _, err := l.Take(t.Context(), tenant, tenants.BudgetRequests, usual()); err != nil {
					t.Fatal(err)
				}
				one := 0
				for ok := true; ok; {
					if _, ok, _ = l.Enter(t.Context(), tenant, limits.Calls, tc.atOnce); ok {
						one++
					}
				}
				if most := max(2, tc.atOnce/tc.replicas+1); one > most {
					t.Errorf("one of %d replicas lets %d in", tc.replicas, one)
				}
				in += one
			}
			if in != tc.want {
				t.Errorf("%d replicas let %d in of %d, want %d", tc.replicas, in, tc.atOnce, tc.want)
			}
		})
	}
}

// However calls come, leave and give up: never more are inside than may be, and in the
// end nobody is.
func TestGateUnderLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const atOnce = 5
		l, tenant := newLimiter(&bucket{}), newTenant()
		var inside, served atomic.Int64
		var full atomic.Bool
		var all sync.WaitGroup
		for range 400 {
			all.Go(func() {
				time.Sleep(rand.N(5 * time.Second))
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(1500*time.Millisecond))
				defer cancel()
				leave, ok, _ := l.Enter(ctx, tenant, limits.Calls, atOnce)
				if !ok {
					return
				}
				now := inside.Add(1)
				if now > atOnce {
					t.Errorf("%d are inside at once, want %d at most", now, atOnce)
				}
				full.Store(full.Load() || now == atOnce)
				time.Sleep(rand.N(100 * time.Millisecond))
				inside.Add(-1)
				served.Add(1)
				leave()
			})
		}
		all.Wait()
		if !full.Load() || served.Load() < 100 {
			t.Errorf("full: %t, %d served; want it full, and most served", full.Load(), served.Load())
		}
		for range atOnce {
			enter(t, l, tenant, atOnce)
		}
	})
}

// Who stays away is forgotten: memory follows those who are there.
func TestIdleTenantsAreForgotten(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(&bucket{})
		stays := newTenant()
		in := enter(t, l, stays, 1)
		for range 20 {
			for range 1000 {
				tenant := newTenant()
				if _, err := l.Take(t.Context(), tenant, tenants.BudgetRequests, usual()); err != nil {
					t.Fatal(err)
				}
				enter(t, l, tenant, 1)()
			}
			time.Sleep(2 * time.Minute)
		}
		accounts, gates := l.Accounts()
		if accounts > 4096 || gates > 4096 {
			t.Errorf("%d accounts and %d gates are kept of 20000 tenants that came and went", accounts, gates)
		}
		if _, ok, _ := l.Enter(t.Context(), stays, limits.Calls, 1); ok {
			t.Error("the gate of a call under way was forgotten")
		}
		in()
	})
}
