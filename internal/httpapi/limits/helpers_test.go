package limits_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/connect-prisma/server/internal/httpapi/limits"
	"github.com/connect-prisma/server/internal/tenants"
)

// clock is what tests inject; within synctest it stands still while anybody works.
func clock() time.Time {
	return time.Now() //nolint:forbidigo // this is the injected clock
}

// bucket is one shared bucket, as the store keeps it.
type bucket struct {
	mu       sync.Mutex
	tokens   float64
	at       time.Time
	loans    int // statements
	replicas int
	rank     int
	away     bool
	takes    time.Duration // how long a statement takes
}

func (b *bucket) BorrowBudget(ctx context.Context, _ tenants.TenantID, _ tenants.Budget, rate tenants.Rate, want int) (tenants.Loan, error) {
	if b.takes > 0 {
		select {
		case <-ctx.Done():
			return tenants.Loan{}, ctx.Err()
		case <-time.After(b.takes):
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.loans++
	if b.away {
		return tenants.Loan{}, errors.New("the database is away")
	}
	now := clock()
	if b.at.IsZero() {
		b.tokens = float64(rate.Burst)
	} else {
		b.tokens = min(float64(rate.Burst), b.tokens+float64(rate.PerSecond)*now.Sub(b.at).Seconds())
	}
	b.at = now
	granted := min(float64(want), math.Floor(b.tokens))
	b.tokens -= granted
	return tenants.Loan{Granted: int(granted), Left: b.tokens, Replicas: b.replicas, Rank: b.rank}, nil
}

func (b *bucket) set(away bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.away = away
}

func (b *bucket) statements() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.loans
}

func newLimiter(b limits.Budgets) *limits.Limiter {
	return limits.New(limits.Config{Budgets: b, Now: clock, Logger: slog.New(slog.DiscardHandler)})
}

func newTenant() tenants.TenantID { return tenants.TenantID{UUID: uuid.New()} }

// usual are the rates of a tenant nobody set.
func usual() tenants.Rate { return tenants.Rate{PerSecond: 50, Burst: 100} }

// calls is what a load came to.
type calls struct {
	mu              sync.Mutex
	served, refused int
	last            limits.Standing
}

func (c *calls) note(s limits.Standing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = s
	if s.OK {
		c.served++
	} else {
		c.refused++
	}
}

// load sends so many calls a second, evenly spaced, to one replica, and counts them in c.
func load(t *testing.T, l *limits.Limiter, tenant tenants.TenantID, perSecond float64, last time.Duration, c *calls) {
	t.Helper()
	gap := time.Duration(float64(time.Second) / perSecond)
	for range int(last / gap) {
		time.Sleep(gap) // synctest's clock
		s, err := l.Take(t.Context(), tenant, tenants.BudgetRequests, usual())
		if err != nil {
			t.Error(err)
			return
		}
		c.note(s)
	}
}
