package oauthflow

import (
	"context"
	"errors"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/tenants"
)

// noteTimeout bounds the note of what a check found, which is made also for a caller
// that has gone.
const noteTimeout = 5 * time.Second

// Diagnose says how a connection is and who must act, as far as this process knows.
func (f *Flow) Diagnose(c tenants.Connection) tenants.Diagnosis {
	var down time.Time
	if f.cfg.Refresher != nil {
		if state := f.cfg.Refresher.State(); state.Breaker != prisma.BreakerClosed {
			down = state.Since
		}
	}
	return f.cfg.Store.Diagnose(c, down)
}

// Check looks at a connection at Prisma with its access token, renewing that as any
// call does, and returns the connection with what came of it. Within 10 s of another
// look, and when it needs a reconnect, it returns what is stored. That a connection
// does not work is no error.
//
// Errors: fault.NotFound, no such connection of this tenant; those of the database.
func (f *Flow) Check(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, id tenants.ConnectionID,
) (tenants.Connection, error) {
	c, begun, err := f.cfg.Store.BeginCheck(ctx, tenant, id)
	if err != nil || !begun {
		return c, err
	}
	err = f.cfg.Caller.Call(ctx, f.cfg.Store.PrismaConnection(tenant, id), func(ctx context.Context, client *prisma.Client) error {
		_, err := client.GetMe(ctx)
		return err
	})
	if ctx.Err() != nil {
		return c, err // what the caller's end cut off was no look
	}
	found, err := findingOf(err)
	if err != nil {
		return c, err
	}
	noting, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteTimeout)
	defer cancel()
	return f.cfg.Store.EndCheck(noting, by, c, found)
}

// findingOf tells what a look that ended with err found; an error that says nothing of
// the connection comes back.
func findingOf(err error) (tenants.Finding, error) {
	if err == nil {
		return tenants.FindingWorks, nil
	}
	kind := fault.KindOf(err)
	if kind == fault.PrismaRefused {
		return tenants.FindingRefused, nil
	}
	_, answered := errors.AsType[*prisma.APIError](err)
	if _, cut := errors.AsType[*managementapi.FetchError](err); cut || answered {
		return tenants.FindingUnreachable, nil
	}
	switch kind { //nolint:exhaustive // the others are not about the connection
	case fault.ReconnectRequired:
		return tenants.FindingNothing, nil // the row says why
	case fault.PrismaUnavailable, fault.RefreshInProgress:
		return tenants.FindingNotRenewed, nil
	}
	return "", err
}
