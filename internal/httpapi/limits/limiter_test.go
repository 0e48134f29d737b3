package limits_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/httpapi/limits"
	"github.com/connect-prisma/server/internal/tenants"
)

// Whatever the number of replicas and however a load is spread over them, they serve
// together what one bucket would: to the rate, within a tenth, and never more.
func TestReplicasHoldOneRate(t *testing.T) {
	t.Parallel()
	const last = 30 * time.Second
	for _, replicas := range []int{1, 2, 4, 16} {
		for _, offered := range []float64{10, 25, 49, 60, 100, 1000} {
			for _, even := range []bool{true, false} {
				t.Run(fmt.Sprintf("%d replicas, %v a second, even %t", replicas, offered, even), func(t *testing.T) {
					t.Parallel()
					synctest.Test(t, func(t *testing.T) {
						b, c := &bucket{replicas: replicas, takes: time.Millisecond}, &calls{}
						tenant := newTenant()
						began := clock()
						var all sync.WaitGroup
						for i := range replicas {
							share := offered / float64(replicas)
							if !even { // each gets half of what is left
								share = offered / math.Pow(2, float64(min(i+1, replicas-1)))
							}
							all.Go(func() { load(t, newLimiter(b), tenant, share, last, c) })
						}
						all.Wait()
						judge(t, c, b, offered, clock().Sub(began), replicas)
						time.Sleep(b.takes) // the last loan
					})
				})
			}
		}
	}
}

func judge(t *testing.T, c *calls, b *bucket, offered float64, last time.Duration, replicas int) {
	t.Helper()
	most := int(float64(usual().PerSecond)*last.Seconds()) + usual().Burst
	if c.served > most {
		t.Errorf("%d calls were served, and the bucket gave %d", c.served, most)
	}
	want := min(offered*last.Seconds(), float64(most))
	if float64(c.served) < 0.9*want-float64(replicas) {
		t.Errorf("%d calls were served of %.0f that the rate allows", c.served, want)
	}
	if offered < float64(usual().PerSecond) && c.refused > 0 {
		t.Errorf("%d calls below the rate were refused", c.refused)
	}
	// A statement a second and replica at most while the rate holds, ten while it is
	// exceeded.
	perSecond := float64(b.statements()) / last.Seconds() / float64(replicas)
	if limit := map[bool]float64{true: 2, false: 11}[offered < float64(usual().PerSecond)]; perSecond > limit {
		t.Errorf("%.1f statements a second and replica, want %v at most", perSecond, limit)
	}
}

// TestStatementsPerCall counts what a warm call costs in the steady state.
func TestStatementsPerCall(t *testing.T) {
	t.Parallel()
	for _, replicas := range []int{1, 2, 4} {
		synctest.Test(t, func(t *testing.T) {
			b, warm, c := &bucket{replicas: replicas}, &calls{}, &calls{}
			tenant := newTenant()
			limiters := make([]*limits.Limiter, replicas)
			for i := range limiters {
				limiters[i] = newLimiter(b)
			}
			each := func(last time.Duration, c *calls) {
				var all sync.WaitGroup
				for _, l := range limiters {
					all.Go(func() { load(t, l, tenant, 45/float64(replicas), last, c) })
				}
				all.Wait()
			}
			each(5*time.Second, warm)
			before := b.statements()
			each(30*time.Second, c)
			statements := b.statements() - before
			t.Logf("%d replicas: %d statements for %d calls, %.3f each", replicas, statements, c.served, float64(statements)/float64(c.served))
			if c.refused > 0 || float64(statements) > 0.1*float64(c.served) {
				t.Errorf("%d statements for %d calls, %d refused; want 0.1 a call at most", statements, c.served, c.refused)
			}
		})
	}
}

// In the steady state nobody waits for a loan: the next slice is there before it is needed.
func TestNobodyWaitsForALoan(t *testing.T) {
	t.Parallel()
	for _, perSecond := range []float64{10, 45} {
		synctest.Test(t, func(t *testing.T) {
			b, tenant := &bucket{takes: 20 * time.Millisecond}, newTenant()
			l := newLimiter(b)
			load(t, l, tenant, perSecond, 3*time.Second, &calls{})
			began, c := clock(), &calls{}
			load(t, l, tenant, perSecond, 10*time.Second, c)
			if took := clock().Sub(began); took > 10*time.Second || c.refused != 0 {
				t.Errorf("at %v a second: %d refused, and waited %s for loans", perSecond, c.refused, took-10*time.Second)
			}
			time.Sleep(b.takes) // the last loan
		})
	}
}

// A tenant that moves from one replica to another finds its whole rate there.
func TestIdleBudgetIsNotLost(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, tenant := &bucket{replicas: 2}, newTenant()
		first, second := newLimiter(b), newLimiter(b)
		load(t, first, tenant, 1000, 5*time.Second, &calls{}) // the bucket is empty
		c := &calls{}
		load(t, second, tenant, 1000, 2*time.Second, c)
		if c.served < 90 {
			t.Errorf("%d calls were served in 2 s by the other replica, want 90 at least", c.served)
		}
		load(t, second, tenant, 10, 10*time.Second, &calls{})
		again := &calls{}
		load(t, first, tenant, 1000, time.Second, again)
		if again.served < 130 || again.served > 150 {
			t.Errorf("%d calls were served after a pause, want the burst and a second's worth", again.served)
		}
	})
}

// The demand that a slice is as large as counts of a second, so nothing of a slice
// outlives it.
func TestSlicesLapse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, tenant, c := &bucket{}, newTenant(), &calls{}
		l := newLimiter(b)
		load(t, l, tenant, 40, 3*time.Second, c)
		before := b.statements()
		time.Sleep(2100 * time.Millisecond)
		load(t, l, tenant, 1, time.Second, c)
		if got := b.statements() - before; got != 1 || c.refused != 0 {
			t.Errorf("a call after a pause cost %d statements, %d were refused; want one and none", got, c.refused)
		}
	})
}

// While no budget can be had, what is at hand is served, then a tenth of the rate, and
// nobody waits. Nothing is open without bound.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, tenant := &bucket{}, newTenant()
		l := newLimiter(b)
		load(t, l, tenant, 40, 3*time.Second, &calls{})
		b.set(true)
		before := b.statements()
		away := &calls{}
		load(t, l, tenant, 1000, 20*time.Second, away)
		// At hand a slice and a fourth at most, a second's worth of the spare bucket, and 5 a second.
		if away.served < 100 || away.served > 50+5+100 {
			t.Errorf("%d of %d calls were served in 20 s, want a tenth of the rate", away.served, away.served+away.refused)
		}
		if got := b.statements() - before; got > 21 {
			t.Errorf("%d statements were tried in 20 s, want one a second", got)
		}
		b.set(false)
		load(t, l, tenant, 1000, 2*time.Second, &calls{})
		back := &calls{}
		load(t, l, tenant, 1000, 4*time.Second, back)
		if back.served < 180 || back.served > 220 {
			t.Errorf("%d calls were served in 4 s after the database came back, want the rate", back.served)
		}
	})
}

// However many replicas can get no budget, they serve no more than the rate together.
func TestDatabaseAwayFromManyReplicas(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const replicas = 25
		served := 0
		for rank := range replicas {
			b, tenant := &bucket{replicas: replicas, rank: rank}, newTenant()
			l := newLimiter(b)
			load(t, l, tenant, 10, time.Second, &calls{})
			b.set(true)
			load(t, l, tenant, 100, 3*time.Second, &calls{}) // what is at hand
			away := &calls{}
			load(t, l, tenant, 100, 10*time.Second, away)
			served += away.served
		}
		if served < 450 || served > 550 {
			t.Errorf("%d replicas served %d calls in 10 s, want 50 a second", replicas, served)
		}
	})
}

// A database that hangs costs the first callers a second, and the others nothing.
func TestDatabaseHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, tenant := &bucket{takes: time.Hour}, newTenant()
		l := newLimiter(b)
		for i, want := range []time.Duration{time.Second, 0, 0} {
			began := clock()
			s, err := l.Take(t.Context(), tenant, tenants.BudgetRequests, usual())
			if took := clock().Sub(began); err != nil || !s.OK || took != want {
				t.Errorf("call %d: %+v, %v after %s; want it served after %s", i, s, err, took, want)
			}
		}
		time.Sleep(2 * time.Second) // the last borrowing ends
	})
}

// A caller that leaves ends its own wait alone.
func TestCallerLeaves(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b, tenant := &bucket{takes: 500 * time.Millisecond}, newTenant()
		l := newLimiter(b)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		stays := make(chan limits.Standing, 1)
		go func() {
			time.Sleep(50 * time.Millisecond)
			s, _ := l.Take(t.Context(), tenant, tenants.BudgetRequests, usual())
			stays <- s
		}()
		if _, err := l.Take(ctx, tenant, tenants.BudgetRequests, usual()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error = %v, want the caller's own", err)
		}
		if s := <-stays; !s.OK {
			t.Errorf("the other caller: %+v, want it served", s)
		}
	})
}

// What an answer advises holds: a call after it is served, if nobody else came.
func TestAdvice(t *testing.T) {
	t.Parallel()
	for _, rate := range []tenants.Rate{usual(), {PerSecond: 2, Burst: 4}, {PerSecond: 1, Burst: 1}, {PerSecond: 1000, Burst: 1000}} {
		synctest.Test(t, func(t *testing.T) {
			l, tenant := newLimiter(&bucket{}), newTenant()
			take := func() limits.Standing {
				s, err := l.Take(t.Context(), tenant, tenants.BudgetCreates, rate)
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			first := take()
			if first.Remaining != rate.Burst-1 {
				t.Errorf("%+v: %d remain after the first call", rate, first.Remaining)
			}
			served, before := 1, first
			for s := take(); s.OK; s = take() {
				if s.Remaining != before.Remaining-1 {
					t.Errorf("%+v: %d remain, and %d did before", rate, s.Remaining, before.Remaining)
				}
				served, before = served+1, s
			}
			if served != rate.Burst || before.Remaining != 0 {
				t.Errorf("%+v: %d calls at once were served, %d remain", rate, served, before.Remaining)
			}
			refused := take()
			time.Sleep(refused.Reset)
			if s := take(); !s.OK {
				t.Errorf("%+v: refused %s after an answer that advised %s", rate, refused.Reset, refused.Reset)
			}
		})
	}
}

// Tenants have nothing to do with each other, and those who stay away are forgotten.
func TestTenantsApart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		noisy, quiet := newTenant(), newTenant()
		l, loud, calm := newLimiter(perTenant{noisy: {}, quiet: {}}), &calls{}, &calls{}
		var all sync.WaitGroup
		all.Go(func() { load(t, l, noisy, 1000, 10*time.Second, loud) })
		all.Go(func() { load(t, l, quiet, 40, 10*time.Second, calm) })
		all.Wait()
		if calm.refused != 0 || loud.served > 600 || loud.refused < 9000 {
			t.Errorf("%d of the quiet tenant's calls were refused, %d of the noisy one's served", calm.refused, loud.served)
		}
	})
}

// perTenant has a bucket for each tenant, which is what the store does.
type perTenant map[tenants.TenantID]*bucket

func (p perTenant) BorrowBudget(ctx context.Context, tenant tenants.TenantID, budget tenants.Budget, rate tenants.Rate, want int) (tenants.Loan, error) {
	return p[tenant].BorrowBudget(ctx, tenant, budget, rate, want)
}

func TestFields(t *testing.T) {
	t.Parallel()
	policy, limit := limits.Fields([]limits.Standing{
		{Budget: tenants.BudgetRequests, Rate: usual(), OK: true, Remaining: 41, Reset: 1180 * time.Millisecond},
		{Budget: tenants.BudgetCreates, Rate: tenants.Rate{PerSecond: 3, Burst: 4}, Reset: 10 * time.Millisecond},
	})
	if want := `"requests";q=100;w=2, "creates";q=4;w=2`; policy != want {
		t.Errorf("RateLimit-Policy is %s, want %s", policy, want)
	}
	if want := `"requests";r=41;t=2, "creates";r=0;t=1`; limit != want {
		t.Errorf("RateLimit is %s, want %s", limit, want)
	}
}
