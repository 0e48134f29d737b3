package tenants

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
)

// Limits are what a tenant may use, all replicas together.
type Limits struct {
	Requests int // API calls a second; default 50
	Burst    int // API calls at once after a pause, at least Requests; default twice Requests
	Sessions int // connect sessions made a second; default 10, twice as many after a pause
	Creates  int // projects, databases and credentials made a second; default 2, twice as many after a pause
	AtOnce   int // API calls under way at the same time; default 20
}

// LimitsChange changes some of a tenant's limits: nil leaves one as it is, 0 makes it
// the default again.
type LimitsChange struct {
	Requests, Burst, Sessions, Creates, AtOnce *int
}

// maxLimit is where a limit ends to be one. A burst may be twice that.
const maxLimit = 1_000_000

// Unbound returns limits that nothing reaches, for installations with one tenant and
// for development.
func Unbound() Limits {
	return Limits{Requests: maxLimit, Burst: 2 * maxLimit, Sessions: maxLimit, Creates: maxLimit, AtOnce: maxLimit}
}

func (l Limits) change() LimitsChange {
	return LimitsChange{&l.Requests, &l.Burst, &l.Sessions, &l.Creates, &l.AtOnce}
}

// Budget names one of a tenant's rates.
type Budget string

// The budgets.
const (
	BudgetRequests Budget = "requests" // every API call
	BudgetSessions Budget = "sessions" // connect sessions, beside
	BudgetCreates  Budget = "creates"  // projects, databases and credentials, beside
)

// Rate is a token bucket: it fills with PerSecond tokens and holds Burst.
type Rate struct {
	PerSecond, Burst int
}

// Rate returns the rate of a budget.
func (l Limits) Rate(b Budget) Rate {
	switch b {
	case BudgetSessions:
		return Rate{l.Sessions, 2 * l.Sessions}
	case BudgetCreates:
		return Rate{l.Creates, 2 * l.Creates}
	case BudgetRequests:
	}
	return Rate{l.Requests, l.Burst}
}

// limitColumns are the limits of tenants t, with the defaults.
const limitColumns = `
		coalesce(t.requests_per_second, 50), coalesce(t.requests_burst, 2 * coalesce(t.requests_per_second, 50)),
		coalesce(t.sessions_per_second, 10), coalesce(t.creates_per_second, 2), coalesce(t.calls_at_once, 20)`

// changeLimits writes a tenant's limits and returns what holds then. A refused value
// is a fault.InvalidValue that names its field.
func changeLimits(ctx context.Context, tx pgx.Tx, id TenantID, c LimitsChange) (Limits, error) {
	if err := c.check(); err != nil {
		return Limits{}, err
	}
	var l Limits
	err := tx.QueryRow(ctx, `
		UPDATE tenants t SET
			requests_per_second = CASE WHEN $2::int IS NULL THEN t.requests_per_second ELSE NULLIF($2, 0) END,
			requests_burst      = CASE WHEN $3::int IS NULL THEN t.requests_burst      ELSE NULLIF($3, 0) END,
			sessions_per_second = CASE WHEN $4::int IS NULL THEN t.sessions_per_second ELSE NULLIF($4, 0) END,
			creates_per_second  = CASE WHEN $5::int IS NULL THEN t.creates_per_second  ELSE NULLIF($5, 0) END,
			calls_at_once       = CASE WHEN $6::int IS NULL THEN t.calls_at_once       ELSE NULLIF($6, 0) END
		WHERE t.id = $1 RETURNING `+limitColumns,
		id, c.Requests, c.Burst, c.Sessions, c.Creates, c.AtOnce).
		Scan(&l.Requests, &l.Burst, &l.Sessions, &l.Creates, &l.AtOnce)
	if err != nil {
		return Limits{}, fmt.Errorf("write limits: %w", err)
	}
	if l.Burst < l.Requests {
		return Limits{}, fault.New(fault.InvalidValue, "The tenant has values that can't be used.", nil).
			WithField("/burst", "Use at least the requests a second: a smaller one would be the limit itself.")
	}
	return l, nil
}

func (c LimitsChange) check() error {
	bad := fault.New(fault.InvalidValue, "The tenant has values that can't be used.", nil)
	for _, one := range []struct {
		pointer string
		value   *int
		most    int
	}{
		{"/requestsPerSecond", c.Requests, maxLimit},
		{"/burst", c.Burst, 2 * maxLimit},
		{"/sessionsPerSecond", c.Sessions, maxLimit},
		{"/createsPerSecond", c.Creates, maxLimit},
		{"/callsAtOnce", c.AtOnce, maxLimit},
	} {
		if one.value != nil && (*one.value < 0 || *one.value > one.most) {
			bad = bad.WithField(one.pointer, fmt.Sprintf("Use 1 to %d, or 0 for the default.", one.most))
		}
	}
	if len(bad.Fields) > 0 {
		return bad
	}
	return nil
}
