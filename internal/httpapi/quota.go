package httpapi

import (
	"fmt"
	"net/netip"
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
			leave, err := s.enter(c, tenant)
			if err != nil {
				return err
			}
			defer leave()
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

// enter waits for the call's turn among those of its tenant; leave ends it.
func (s *Server) enter(c echo.Context, tenant tenants.Tenant) (leave func(), err error) {
	leave, ok, err := s.limiter.Enter(c.Request().Context(), tenant.ID, tenant.Limits.AtOnce)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fault.New(fault.QuotaExceeded, fmt.Sprintf("%d of your calls may be under way at once; wait for some to end.",
			tenant.Limits.AtOnce), nil).WithRetryAfter(concurrencyAdvice)
	}
	return leave, nil
}

// budgetsOf are what a call counts in. Through the pass-through every POST counts as one
// that creates: which ones do is for Prisma to say.
func budgetsOf(o operation) []tenants.Budget {
	all := []tenants.Budget{tenants.BudgetRequests}
	switch o.id {
	case "createConnectSession":
		return append(all, tenants.BudgetSessions)
	case "createProject", "createDatabase", "createCredentials", "passThroughPost":
		return append(all, tenants.BudgetCreates)
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

// identifyCaller returns who presents a key, unless too many that came from there, or
// began like it, were refused: then it is not looked up.
func (s *Server) identifyCaller(c echo.Context) (tenants.Caller, error) {
	from, _ := netip.ParseAddr(c.RealIP()) // the zero address is one like any other
	key, err := bearer(c.Request())
	if err != nil && fault.KindOf(err) != fault.Unauthorized {
		return tenants.Caller{}, err
	}
	if wait := s.failures.Wait(from, key); wait > 0 {
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
