package limits_test

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/httpapi/limits"
	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/pgtest/pooltest"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// openStore returns a store on the database behind url, as of one replica.
func openStore(t *testing.T, url string) *tenants.Store {
	t.Helper()
	pool, err := postgres.OpenPool(t.Context(), postgres.PoolConfig{URL: url, MaxConns: 3})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	text, err := sealing.Generate()
	if err != nil {
		t.Fatal(err)
	}
	keyset, err := sealing.Parse(text, "test")
	if err != nil {
		t.Fatal(err)
	}
	store, err := tenants.NewStore(tenants.Config{Pool: pool, Keyset: keyset, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// storeTenant makes a tenant in a store.
func storeTenant(t *testing.T, store *tenants.Store) tenants.Tenant {
	t.Helper()
	tenant, err := store.CreateTenant(t.Context(), tenants.System(), tenants.TenantInput{
		Name: "Acme", Client: tenants.OAuthClient{ID: "client", Secret: "secret"}, ReturnURLs: []string{"https://partner.example/"},
	})
	if err != nil {
		t.Fatal(err)
	}
	return tenant
}

// counted counts the statements of a store.
type counted struct {
	limits.Budgets
	n atomic.Int64
}

func (c *counted) BorrowBudget(ctx context.Context, tenant tenants.TenantID, budget tenants.Budget, rate tenants.Rate, want int) (tenants.Loan, error) {
	c.n.Add(1)
	return c.Budgets.BorrowBudget(ctx, tenant, budget, rate, want)
}

// Four replicas on one database, asked for far more than the rate, serve it together:
// straight, and through a PgBouncer in transaction mode with two connections to the
// server.
func TestFourReplicasOnOneDatabase(t *testing.T) {
	t.Parallel()
	const last = 3 * time.Second
	for name, pooled := range map[string]bool{"straight": false, "through PgBouncer": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.Open(t)
			url := db.AppURL
			if pooled {
				url = pooltest.Start(t, db, 2).AppURL
			}
			first := openStore(t, url)
			tenant, other := storeTenant(t, first), storeTenant(t, first)
			rate := tenant.Limits.Rate(tenants.BudgetRequests)
			var served, refused, others, statements atomic.Int64
			var all sync.WaitGroup
			began := clock()
			for range 4 {
				budgets := &counted{Budgets: openStore(t, url)}
				l := limits.New(limits.Config{Budgets: budgets, Now: clock, Logger: slog.New(slog.DiscardHandler)})
				ticks := time.NewTicker(4 * time.Millisecond) // 1,000 a second together: 20 times the rate
				all.Go(func() {
					defer ticks.Stop()
					for n := 0; clock().Sub(began) < last; n++ {
						<-ticks.C
						s, err := l.Take(t.Context(), tenant.ID, tenants.BudgetRequests, rate)
						if err != nil {
							t.Error(err)
							return
						}
						count(s.OK, &served, &refused)
						if n%50 == 0 { // 20 a second together: less than its rate
							s, err = l.Take(t.Context(), other.ID, tenants.BudgetRequests, rate)
							count(err == nil && s.OK, new(atomic.Int64), &others)
						}
					}
					statements.Add(budgets.n.Load())
				})
			}
			all.Wait()
			took := clock().Sub(began)
			allowed := float64(rate.Burst) + float64(rate.PerSecond)*took.Seconds()
			t.Logf("%d served of %.0f allowed in %s, %d refused, %d statements", served.Load(), allowed,
				took.Round(time.Millisecond), refused.Load(), statements.Load())
			if got := float64(served.Load()); got > allowed+1 || got < 0.9*allowed {
				t.Errorf("%.0f calls were served, want %.0f within a tenth", got, allowed)
			}
			if others.Load() != 0 {
				t.Errorf("%d calls of the other tenant were refused", others.Load())
			}
		})
	}
}

func count(ok bool, yes, no *atomic.Int64) {
	if ok {
		yes.Add(1)
	} else {
		no.Add(1)
	}
}
