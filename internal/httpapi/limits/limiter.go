package limits

import (
	"context"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/connect-prisma/server/internal/tenants"
)

const (
	// sliceLife is how long a borrowed slice is good: twice the time that it is for, so
	// that calls which come unevenly still spend it.
	sliceLife = 2 * time.Second
	// lowShare: when a fourth of a slice is left, the next one is borrowed.
	lowShare = 4
	// pause is how long nothing is borrowed after a bucket had less than was wanted.
	pause = 100 * time.Millisecond
	// borrowWithin bounds the wait for a loan.
	borrowWithin = time.Second
	// awayPause is how long nothing is borrowed after the database did not answer.
	awayPause = time.Second
	// awayShare of the rate is what a replica serves at most while the database is away; all
	// together serve no more than the rate.
	awayShare = 0.1
	// forgetAfter is when an account that nobody uses goes.
	forgetAfter = time.Minute
)

// Budgets lends slices of rates; *tenants.Store implements it.
type Budgets interface {
	BorrowBudget(ctx context.Context, tenant tenants.TenantID, budget tenants.Budget, rate tenants.Rate, want int) (tenants.Loan, error)
}

// Config is what a Limiter rests on.
type Config struct {
	Budgets Budgets
	Now     func() time.Time // monotonic
	Logger  *slog.Logger
}

// Limiter holds the tenants of one replica to their limits. It is safe for concurrent
// use.
type Limiter struct {
	cfg   Config
	fleet atomic.Pointer[fleet] // as the last loan told

	mu       sync.Mutex
	accounts map[accountKey]*account
	gates    map[gateKey]*gate
	sweepAt  int // the number of accounts that makes the idle ones go
}

// fleet is how many replicas there are, and which of them this one is, from 0.
type fleet struct{ replicas, rank int }

type accountKey struct {
	tenant tenants.TenantID
	budget tenants.Budget
}

// New returns a Limiter that has borrowed nothing yet.
func New(cfg Config) *Limiter {
	l := &Limiter{
		cfg: cfg, sweepAt: 1024,
		accounts: make(map[accountKey]*account), gates: make(map[gateKey]*gate),
	}
	l.fleet.Store(&fleet{replicas: 1})
	return l
}

// Standing is where a tenant stands with a budget after a call.
type Standing struct {
	Budget    tenants.Budget
	Rate      tenants.Rate
	OK        bool          // the call may go on
	Remaining int           // calls that may follow at once, as far as this replica knows
	Reset     time.Duration // until the bucket is full again; when refused, until a call may be tried again
}

// Take spends one token of a tenant's budget. The only error is that of ctx.
func (l *Limiter) Take(ctx context.Context, tenant tenants.TenantID, budget tenants.Budget, rate tenants.Rate) (Standing, error) {
	a := l.account(accountKey{tenant, budget})
	a.mu.Lock()
	defer a.mu.Unlock()
	a.demand.add(l.cfg.Now())
	for {
		now := l.cfg.Now()
		if a.spend(now) {
			if a.low() && !now.Before(a.askAt) && a.flight == nil {
				l.fly(ctx, a, accountKey{tenant, budget}, rate, now)
			}
			return a.standing(budget, rate, now, true), nil
		}
		if now.Before(a.askAt) && !a.away {
			return a.standing(budget, rate, now, false), nil
		}
		if !now.Before(a.askAt) && a.flight == nil {
			l.fly(ctx, a, accountKey{tenant, budget}, rate, now)
		}
		if a.away { // nobody waits for a database that is not there
			share := min(awayShare, 1/float64(l.fleet.Load().replicas))
			return a.standing(budget, rate, now, a.spare.spend(now, share*float64(rate.PerSecond))), nil
		}
		flight := a.flight
		a.mu.Unlock()
		select {
		case <-flight:
			a.mu.Lock()
		case <-ctx.Done():
			a.mu.Lock()
			return Standing{}, ctx.Err()
		}
	}
}

// fly begins to borrow the next slice. It is for all callers, so the first one's leaving
// does not end it.
func (l *Limiter) fly(ctx context.Context, a *account, key accountKey, rate tenants.Rate, now time.Time) {
	a.flight = make(chan struct{})
	go l.borrow(context.WithoutCancel(ctx), a, key, rate, a.want(now, rate))
}

// borrow gets the next slice and ends the flight.
func (l *Limiter) borrow(ctx context.Context, a *account, key accountKey, rate tenants.Rate, want int) {
	within, cancel := context.WithTimeout(ctx, borrowWithin)
	defer cancel()
	loan, err := l.cfg.Budgets.BorrowBudget(within, key.tenant, key.budget, rate, want)
	if err == nil {
		l.fleet.Store(&fleet{replicas: max(1, loan.Replicas), rank: loan.Rank})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil && !a.away {
		l.cfg.Logger.WarnContext(ctx, "no budget to be had; a tenth of the rate is served",
			slog.String("tenant", key.tenant.String()), slog.String("budget", string(key.budget)), slog.String("error", err.Error()))
	}
	a.settle(l.cfg.Now(), loan, want, err)
	close(a.flight)
	a.flight = nil
}

// account returns a tenant's account of a budget, and forgets idle ones now and then.
func (l *Limiter) account(key accountKey) *account {
	l.mu.Lock()
	defer l.mu.Unlock()
	a, ok := l.accounts[key]
	if ok {
		return a
	}
	if len(l.accounts) >= l.sweepAt {
		l.sweep()
		l.sweepAt = max(1024, 2*len(l.accounts))
	}
	a = &account{}
	l.accounts[key] = a
	return a
}

func (l *Limiter) sweep() {
	now := l.cfg.Now()
	for key, a := range l.accounts {
		if a.idle(now) {
			delete(l.accounts, key)
		}
	}
	for key, g := range l.gates {
		if g.idle() {
			delete(l.gates, key)
		}
	}
}

// account is what this replica has of one bucket.
type account struct {
	mu     sync.Mutex
	held   int           // tokens at hand
	lent   int           // how many the last loan was of
	until  time.Time     // when they lapse
	askAt  time.Time     // nothing is borrowed before
	flight chan struct{} // closed when the borrowing under way has ended; nil: none is
	demand demand
	away   bool // the last borrowing failed
	spare  spare

	left   float64   // in the bucket, as it was told
	leftAt time.Time // when that was
}

// spend takes a token at hand.
func (a *account) spend(now time.Time) bool {
	if a.heldAt(now) == 0 {
		return false
	}
	a.held--
	return true
}

// low tells that the slice is nearly spent: the next one is borrowed while calls go on,
// so that none of them waits for it.
func (a *account) low() bool { return a.held > 0 && a.held <= a.lent/lowShare }

// want is the size of the next slice: what comes within a second, if the next one is as
// the last one was, and at most what the rate gives meanwhile.
func (a *account) want(now time.Time, rate tenants.Rate) int {
	return min(max(1, int(math.Ceil(a.demand.perSecond(now)))), rate.PerSecond)
}

// heldAt are the tokens at hand that have not lapsed.
func (a *account) heldAt(now time.Time) int {
	if !now.Before(a.until) {
		return 0
	}
	return a.held
}

// settle notes what a borrowing came to.
func (a *account) settle(now time.Time, loan tenants.Loan, want int, err error) {
	if a.away = err != nil; a.away {
		a.askAt = now.Add(awayPause)
		return
	}
	a.held, a.lent = a.heldAt(now)+loan.Granted, loan.Granted
	a.until = now.Add(sliceLife)
	a.left, a.leftAt = loan.Left, now
	if loan.Granted < want {
		a.askAt = now.Add(pause) // the bucket is empty: let it fill for everybody
	}
}

func (a *account) idle(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.flight == nil && now.Sub(a.demand.since) > forgetAfter
}

func (a *account) standing(budget tenants.Budget, rate tenants.Rate, now time.Time, ok bool) Standing {
	perSecond, burst := float64(rate.PerSecond), float64(rate.Burst)
	s := Standing{Budget: budget, Rate: rate, OK: ok}
	if !ok {
		s.Reset = max(a.askAt.Sub(now), seconds(1/perSecond))
		return s
	}
	have := float64(a.held)
	if !a.away {
		have += a.left + perSecond*now.Sub(a.leftAt).Seconds()
	}
	have = min(have, burst-1) // the token that was just spent is missing
	s.Remaining, s.Reset = int(have), seconds((burst-have)/perSecond)
	return s
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// demand counts the calls of the last second, those that were refused too.
type demand struct {
	since           time.Time // when the current second began
	current, before float64
}

func (d *demand) add(now time.Time) {
	d.roll(now)
	d.current++
}

func (d *demand) roll(now time.Time) {
	switch passed := now.Sub(d.since); {
	case passed >= 2*time.Second:
		d.since, d.before, d.current = now, 0, 0
	case passed >= time.Second:
		d.since, d.before, d.current = d.since.Add(time.Second), d.current, 0
	}
}

// perSecond is how many calls came within the second that ends now.
func (d *demand) perSecond(now time.Time) float64 {
	d.roll(now)
	return d.current + d.before*(1-now.Sub(d.since).Seconds())
}

// spare is what a replica serves by itself while no budget can be had: a bucket of its
// share of the rate, which holds a second's worth, one call at least.
type spare struct {
	tokens float64
	at     time.Time
}

func (s *spare) spend(now time.Time, perSecond float64) bool {
	most := max(1, perSecond)
	if s.at.IsZero() {
		s.tokens = most
	} else {
		s.tokens = min(most, s.tokens+perSecond*now.Sub(s.at).Seconds())
	}
	s.at = now
	if s.tokens < 1 {
		return false
	}
	s.tokens--
	return true
}
