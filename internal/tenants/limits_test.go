package tenants_test

import (
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

func TestLimits(t *testing.T) {
	t.Parallel()
	s := openService(t)
	ctx, by := t.Context(), tenants.System()
	id := s.tenant(t, "Acme").ID
	set := func(c tenants.LimitsChange) (tenants.Limits, error) {
		got, err := s.UpdateTenant(ctx, by, id, tenants.TenantChange{Limits: c})
		return got.Limits, err
	}
	n := func(n int) *int { return &n }
	want := tenants.Limits{Requests: 50, Burst: 100, Sessions: 10, Creates: 2, AtOnce: 20}
	for _, step := range []struct {
		change tenants.LimitsChange
		want   tenants.Limits
	}{
		{tenants.LimitsChange{}, want},
		{tenants.LimitsChange{Requests: n(200)}, tenants.Limits{Requests: 200, Burst: 400, Sessions: 10, Creates: 2, AtOnce: 20}},
		{tenants.LimitsChange{Burst: n(250), Creates: n(5)}, tenants.Limits{Requests: 200, Burst: 250, Sessions: 10, Creates: 5, AtOnce: 20}},
		{tenants.LimitsChange{Sessions: n(1), AtOnce: n(1)}, tenants.Limits{Requests: 200, Burst: 250, Sessions: 1, Creates: 5, AtOnce: 1}},
		{tenants.LimitsChange{n(0), n(0), n(0), n(0), n(0)}, want},
	} {
		got, err := set(step.change)
		ok(t, err)
		if got != step.want {
			t.Errorf("%+v: limits %+v, want %+v", step.change, got, step.want)
		}
		read, err := s.Tenant(ctx, id)
		ok(t, err)
		if read.Limits != step.want {
			t.Errorf("stored limits %+v, want %+v", read.Limits, step.want)
		}
	}
	for name, change := range map[string]tenants.LimitsChange{
		"a negative rate":         {Requests: n(-1)},
		"a rate beyond all":       {Requests: n(1_000_001)},
		"a burst below the rate":  {Requests: n(100), Burst: n(99)},
		"a burst below the usual": {Burst: n(49)},
		"negative sessions":       {Sessions: n(-1)},
		"too many creates":        {Creates: n(1 << 30)},
		"negative calls":          {AtOnce: n(-5)},
	} {
		_, err := set(change)
		wantKind(t, name, err, fault.InvalidValue)
	}
	if read, err := s.Tenant(ctx, id); err != nil || read.Limits != want {
		t.Errorf("refused changes left %+v, %v", read.Limits, err)
	}
	unbound, err := s.CreateTenant(ctx, by, tenants.TenantInput{
		Name: "Bolt", Client: tenants.OAuthClient{ID: clientID}, Limits: tenants.Unbound(),
	})
	ok(t, err)
	if unbound.Limits != tenants.Unbound() {
		t.Errorf("a tenant made with limits has %+v", unbound.Limits)
	}
	// Who authenticates brings them.
	_, secret := s.key(t, unbound.ID, time.Time{})
	if caller, err := s.Authenticate(ctx, secret); err != nil || caller.Tenant.Limits != tenants.Unbound() {
		t.Errorf("the caller's limits are %+v, %v", caller.Tenant.Limits, err)
	}
}

// A bucket starts full, fills by the database's clock up to its burst, and is never
// lent twice.
func TestBorrowBudget(t *testing.T) {
	t.Parallel()
	s := openService(t)
	id := s.tenant(t, "Acme").ID
	rate := tenants.Rate{PerSecond: 10, Burst: 20}
	borrow := func(budget tenants.Budget, want int) tenants.Loan {
		t.Helper()
		loan, err := s.BorrowBudget(t.Context(), id, budget, rate, want)
		ok(t, err)
		return loan
	}
	began := s.now(t)
	// filled is what has flown into the buckets meanwhile, at the most.
	filled := func() float64 { return 10*s.now(t).Sub(began).Seconds() + 0.001 }
	if loan := borrow(tenants.BudgetRequests, 15); loan.Granted != 15 || loan.Left != 5 || loan.Replicas != 0 {
		t.Errorf("of a new bucket: %+v", loan)
	}
	if loan := borrow(tenants.BudgetRequests, 15); loan.Granted < 5 || float64(loan.Granted)+loan.Left > 5+filled() {
		t.Errorf("of what was left: %+v", loan)
	}
	if loan := borrow(tenants.BudgetCreates, 100); loan.Granted != 20 || loan.Left != 0 {
		t.Errorf("more than a new bucket has: %+v", loan)
	}
	borrow(tenants.BudgetRequests, 20) // what there is
	s.db.Advance(t, time.Second)
	began = began.Add(time.Second)
	if loan := borrow(tenants.BudgetRequests, 0); loan.Granted != 0 || loan.Left < 10 || loan.Left > 10+filled() {
		t.Errorf("after a second: %+v", loan)
	}
	s.db.Advance(t, time.Hour)
	if loan := borrow(tenants.BudgetRequests, 1000); loan.Granted != 20 {
		t.Errorf("after an hour: %+v", loan)
	}
	s.db.Advance(t, -2*time.Hour) // a clock that is set back fills nothing, and empties nothing
	if loan := borrow(tenants.BudgetRequests, 1000); loan.Granted != 0 {
		t.Errorf("with the clock set back: %+v", loan)
	}
	s.db.Advance(t, time.Second) // and goes on from there
	if loan := borrow(tenants.BudgetRequests, 1000); loan.Granted < 10 || loan.Granted > 13 {
		t.Errorf("a second after the clock was set back: %+v", loan)
	}
	ok(t, s.Beat(t.Context()))
	if loan := borrow(tenants.BudgetRequests, 1); loan.Replicas != 1 {
		t.Errorf("one replica beats: %+v", loan)
	}
	// Each has a rank of its own among them.
	ranks := map[int]bool{}
	replicas := []*tenants.Store{s.Store, s.store(t, tenants.Config{Pool: s.db.Pool}), s.store(t, tenants.Config{Pool: s.db.Pool})}
	for _, one := range replicas {
		ok(t, one.Beat(t.Context()))
	}
	for _, one := range replicas {
		loan, err := one.BorrowBudget(t.Context(), id, tenants.BudgetRequests, rate, 1)
		ok(t, err)
		if ranks[loan.Rank] || loan.Rank < 0 || loan.Rank >= 3 || loan.Replicas != 3 {
			t.Errorf("a replica with a rank of its own: %+v", loan)
		}
		ranks[loan.Rank] = true
	}
	// Another tenant's scope has no way to it.
	if _, err := s.BorrowBudget(t.Context(), tenants.TenantID{}, tenants.BudgetRequests, rate, 1); err == nil {
		t.Error("nobody has a budget")
	}
}

// Borrowers at the same moment share what there is.
func TestBorrowBudgetAtOnce(t *testing.T) {
	t.Parallel()
	s := openService(t)
	id := s.tenant(t, "Acme").ID
	var all sync.WaitGroup
	var mu sync.Mutex
	sum := 0
	began := s.now(t)
	for range 8 {
		all.Go(func() {
			for range 25 {
				loan, err := s.BorrowBudget(t.Context(), id, tenants.BudgetRequests, tenants.Rate{PerSecond: 1, Burst: 100}, 3)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				sum += loan.Granted
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if most := 100 + int(s.now(t).Sub(began).Seconds()) + 1; sum < 100 || sum > most {
		t.Errorf("%d tokens were lent, want 100 to %d", sum, most)
	}
}
