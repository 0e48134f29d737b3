package oauthflow

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// Integration says what became of the integration at Prisma.
type Integration string

// What can become of it.
const (
	// IntegrationKept: nobody asked to remove it. The user still sees it in Prisma's
	// console.
	IntegrationKept Integration = "kept"
	// IntegrationRemoved: the client has no access to the workspace any more.
	IntegrationRemoved Integration = "removed"
	// IntegrationShared: another live connection rests on it, so it was left alone.
	IntegrationShared Integration = "shared"
	// IntegrationUnreachable: our access is gone, so only the user can remove it.
	IntegrationUnreachable Integration = "unreachable"
)

// Disconnect forgets a connection's tokens. With revoke it first removes the
// client's integration from the workspace at Prisma, which ends every grant of
// that client there, and so only if no other live connection shares them.
//
// When Prisma can't be reached nothing is changed, and the error says so;
// fault.NotFound when there is no such connection.
func (f *Flow) Disconnect(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, id tenants.ConnectionID,
	revoke bool,
) (Integration, error) {
	integration := IntegrationKept
	if revoke {
		connection, err := f.cfg.Store.Connection(ctx, tenant, id)
		if err != nil {
			return "", err
		}
		if integration, err = f.revoke(ctx, by, connection); err != nil {
			return "", err
		}
	}
	_, err := f.cfg.Store.Disconnect(ctx, by, tenant, id)
	return integration, err
}

// errShared ends a revocation that would end another connection too.
var errShared = errors.New("another connection shares the integration by now")

// revokeOperation names the call in the audit log.
const revokeOperation = "DELETE /v1/workspaces/{workspaceId}/integrations/{clientId}"

func (f *Flow) revoke(ctx context.Context, by tenants.Actor, c tenants.Connection) (Integration, error) {
	shared, err := f.cfg.Store.GrantIsShared(ctx, c)
	if err != nil {
		return "", err
	}
	if shared {
		return IntegrationShared, nil
	}
	call, err := f.cfg.Store.BeginCall(ctx, by, c.Tenant, tenants.OutgoingCall{
		Connection: c.ID, Operation: revokeOperation, Target: c.WorkspaceID,
	})
	if err != nil {
		return "", err
	}
	err = f.cfg.Caller.Call(ctx, f.cfg.Store.PrismaConnection(c.Tenant, c.ID), func(ctx context.Context, client *prisma.Client) error {
		// Somebody may have connected since: the token may have taken a while.
		if shared, err := f.cfg.Store.GrantIsShared(ctx, c); err != nil || shared {
			return cmp.Or(err, errShared)
		}
		return client.RevokeWorkspaceIntegration(ctx, c.WorkspaceID, c.ClientID)
	})
	if ended := f.cfg.Store.EndCall(ctx, by, call, tenants.ResultOf(err)); ended != nil {
		f.cfg.Logger.ErrorContext(ctx, "the end of a call to Prisma is not in the audit log", slog.Any("error", ended))
	}
	if errors.Is(err, errShared) {
		return IntegrationShared, nil
	}
	if api, ok := errors.AsType[*prisma.APIError](err); ok && api.Status == http.StatusNotFound {
		return IntegrationRemoved, nil // gone already
	}
	if kind := fault.KindOf(err); kind == fault.ReconnectRequired || kind == fault.PrismaRefused {
		return IntegrationUnreachable, nil
	}
	if err != nil {
		return "", err
	}
	return IntegrationRemoved, nil
}
