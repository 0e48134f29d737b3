package httpapi

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/httpapi/limits"
	"github.com/connect-prisma/server/internal/tenants"
)

// concurrencyAdvice is when a call may be tried again that found its tenant's calls at
// once used up, after it has waited for its turn already.
const concurrencyAdvice = time.Second

// limit holds a call against its tenant's limits: its rates, and how many are under way.
// Every answer from here on says what is left.
func (s *Server) limit(o operation) echo.MiddlewareFunc {
	budgets := budgetsOf(o)
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			tenant := callerOf(c.Request().Context()).Tenant
			if err := s.spend(c, tenant, budgets); err != nil {
				return err
			}
			leave, err := s.enter(c.Request().Context(), tenant, limits.Calls)
			if err != nil {
				return err
			}
			leave = sync.OnceFunc(leave)
			defer leave()
			c.Set(placeOfCall, leave)
			return next(c)
		}
	}
}

// spend takes the call out of the budgets that it counts in.
func (s *Server) spend(c echo.Context, tenant tenants.Tenant, budgets []tenants.Budget) error {
	standings := make([]limits.Standing, 0, len(budgets))
	for _, budget := range budgets {
		standing, err := s.limiter.Take(c.Request().Context(), tenant.ID, budget, tenant.Limits.Rate(budget))
		if err != nil {
			return err
		}
		standings = append(standings, standing)
		policy, limit := limits.Fields(standings)
		c.Response().Header().Set("RateLimit-Policy", policy)
		c.Response().Header().Set("RateLimit", limit)
		if !standing.OK {
			return fault.New(fault.QuotaExceeded, fmt.Sprintf("Your limit of %d %s a second is used up; wait for Retry-After.",
				standing.Rate.PerSecond, budgetName(budget)), nil).WithRetryAfter(standing.Reset)
		}
	}
	return nil
}

// enter waits for the turn of a call or a stream among those of its tenant; leave ends it.
func (s *Server) enter(ctx context.Context, tenant tenants.Tenant, kind limits.Kind) (leave func(), err error) {
	leave, ok, err := s.limiter.Enter(ctx, tenant.ID, kind, tenant.Limits.AtOnce)
	if err != nil {
		return nil, err
	}
	if !ok {
		detail := "%d of your calls may be under way at once; wait for some to end."
		if kind == limits.Streams {
			detail = "%d of your streams may be open at once; close one, or wait for one to end."
		}
		return nil, fault.New(fault.QuotaExceeded, fmt.Sprintf(detail, tenant.Limits.AtOnce), nil).WithRetryAfter(concurrencyAdvice)
	}
	return leave, nil
}

// placeOfCall names, in a call's context, the function that gives its place back.
const placeOfCall = "place of the call"

// becomeStream gives the call's place among the tenant's calls back for one among its
// streams: a stream may be open for an hour, and as many as there are places would shut
// the tenant out of everything else. leave ends it.
func (s *Server) becomeStream(ctx context.Context, c echo.Context, tenant tenants.Tenant) (leave func(), err error) {
	leave, err = s.enter(ctx, tenant, limits.Streams)
	if err != nil {
		return nil, err
	}
	if endCall, ok := c.Get(placeOfCall).(func()); ok {
		endCall()
	}
	return leave, nil
}

// countedApart has the operations that count in a budget of their own besides that of all
// calls. Through the pass-through every POST counts as one that creates: which ones do is
// for Prisma to say. New refuses a name that the contract does not have.
func countedApart() map[string]tenants.Budget {
	return map[string]tenants.Budget{
		"createConnectSession": tenants.BudgetSessions,
		"createProject":        tenants.BudgetCreates,
		"createDatabase":       tenants.BudgetCreates,
		"createCredentials":    tenants.BudgetCreates,
		"passThroughPost":      tenants.BudgetCreates,
	}
}

// budgetsOf are what a call counts in.
func budgetsOf(o operation) []tenants.Budget {
	all := []tenants.Budget{tenants.BudgetRequests}
	if apart, ok := countedApart()[o.id]; ok {
		all = append(all, apart)
	}
	return all
}

func budgetName(b tenants.Budget) string {
	switch b {
	case tenants.BudgetSessions:
		return "connect sessions"
	case tenants.BudgetCreates:
		return "creating calls"
	case tenants.BudgetRequests:
	}
	return "calls"
}

// identifyCaller returns who presents a key, unless it was refused too often, or too many
// others that came from there: then it is not looked up.
func (s *Server) identifyCaller(c echo.Context) (tenants.Caller, error) {
	from, _ := netip.ParseAddr(c.RealIP()) // the zero address is one like any other
	key, err := bearer(c.Request())
	if err != nil && fault.KindOf(err) != fault.Unauthorized {
		return tenants.Caller{}, err
	}
	leave, wait := s.failures.Enter(c.Request().Context(), from, key)
	defer leave()
	if wait > 0 {
		return tenants.Caller{}, fault.New(fault.QuotaExceeded, "Too many keys from your address were refused; wait for Retry-After.", nil).
			WithRetryAfter(wait)
	}
	var caller tenants.Caller
	if err == nil {
		caller, err = s.cfg.Store.Authenticate(c.Request().Context(), key)
	}
	switch {
	case err == nil:
		s.failures.Worked(key)
	case fault.KindOf(err) == fault.Unauthorized:
		s.failures.Failed(from, key)
	}
	return caller, err
}
