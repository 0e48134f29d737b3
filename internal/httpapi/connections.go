package httpapi

import (
	"cmp"
	"context"
	"net/url"

	"github.com/connect-prisma/server/internal/httpapi/contract"
	"github.com/connect-prisma/server/internal/oauthflow"
	"github.com/connect-prisma/server/internal/tenants"
)

func (h handlers) connection(c tenants.Connection) contract.Connection {
	d := h.cfg.Flow.Diagnose(c)
	shown := contract.Connection{
		ID: c.ID.String(), UserID: c.UserID, Workspace: contract.Workspace{ID: c.WorkspaceID, Name: c.WorkspaceName},
		Status: contract.ConnectionStatus(c.Status),
		Diagnosis: contract.Diagnosis{
			Code: string(d.Code), Message: d.Message, Action: contract.DiagnosisAction(d.Action), Since: d.Since.UTC(),
		},
		AccessUntil: c.UsableUntil().UTC(), Metadata: c.Metadata, CreatedAt: c.CreatedAt.UTC(),
	}
	if shown.Metadata == nil {
		shown.Metadata = map[string]string{}
	}
	return shown
}

// ListConnections serves GET /v1/connections?userId=&workspaceId=&status=&cursor=&limit=.
func (h handlers) ListConnections(ctx context.Context, r contract.ListConnectionsRequestObject,
) (contract.ListConnectionsResponseObject, error) {
	filter := tenants.ConnectionFilter{
		UserID: deref(r.Params.UserID), WorkspaceID: deref(r.Params.WorkspaceID),
		Status: tenants.ConnectionStatus(deref(r.Params.Status)), Limit: limitOf(r.Params.Limit),
	}
	// A cursor holds for the list with these filters alone.
	list := url.Values{"u": {filter.UserID}, "w": {filter.WorkspaceID}, "s": {string(filter.Status)}}.Encode()
	var err error
	if filter.After, err = h.cfg.Store.ParseCursor(tenantOf(ctx), list, deref(r.Params.Cursor)); err != nil {
		return nil, err
	}
	found, more, err := h.cfg.Store.Connections(ctx, tenantOf(ctx), filter)
	if err != nil {
		return nil, err
	}
	next := ""
	if more {
		if next, err = h.cfg.Store.Cursor(tenantOf(ctx), list, found[len(found)-1].ID); err != nil {
			return nil, err
		}
	}
	return contract.ListConnections200JSONResponse{Data: each(found, h.connection), Pagination: newPagination(next)}, nil
}

// limitOf is the size of a page.
func limitOf(asked *int) int { return cmp.Or(deref(asked), maxLimit) }

// GetConnection serves GET /v1/connections/{connectionId}.
func (h handlers) GetConnection(ctx context.Context, r contract.GetConnectionRequestObject,
) (contract.GetConnectionResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	connection, err := h.cfg.Store.Connection(ctx, tenantOf(ctx), id)
	if err != nil {
		return nil, err
	}
	return contract.GetConnection200JSONResponse{Data: h.connection(connection)}, nil
}

// UpdateConnection serves PATCH /v1/connections/{connectionId}.
func (h handlers) UpdateConnection(ctx context.Context, r contract.UpdateConnectionRequestObject,
) (contract.UpdateConnectionResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	connection, err := h.cfg.Store.ChangeMetadata(ctx, actorOf(ctx), tenantOf(ctx), id, r.Body.Metadata)
	if err != nil {
		return nil, err
	}
	return contract.UpdateConnection200JSONResponse{Data: h.connection(connection)}, nil
}

// CheckConnection serves POST /v1/connections/{connectionId}/check.
func (h handlers) CheckConnection(ctx context.Context, r contract.CheckConnectionRequestObject,
) (contract.CheckConnectionResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	connection, err := h.cfg.Flow.Check(ctx, actorOf(ctx), tenantOf(ctx), id)
	if err != nil {
		return nil, err
	}
	return contract.CheckConnection200JSONResponse{Data: h.connection(connection)}, nil
}

// DeleteConnection serves DELETE /v1/connections/{connectionId}?revoke=.
func (h handlers) DeleteConnection(ctx context.Context, r contract.DeleteConnectionRequestObject,
) (contract.DeleteConnectionResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	integration, err := h.cfg.Flow.Disconnect(ctx, actorOf(ctx), tenantOf(ctx), id, deref(r.Params.Revoke))
	if err != nil {
		return nil, err
	}
	return contract.DeleteConnection200JSONResponse{Data: contract.Disconnection{
		ID: id.String(), Status: contract.ConnectionStatusDisconnected,
		IntegrationRemoved: integration == oauthflow.IntegrationRemoved,
		Integration:        contract.DisconnectionIntegration(integration), Message: integrationMessage(integration),
	}}, nil
}

func integrationMessage(i oauthflow.Integration) string {
	switch i {
	case oauthflow.IntegrationRemoved:
		return "The tokens are forgotten and the integration is removed from the workspace at Prisma."
	case oauthflow.IntegrationShared:
		return "The tokens are forgotten. The integration stays at Prisma, because another live connection rests on it."
	case oauthflow.IntegrationUnreachable:
		return "The tokens are forgotten. Our access had ended already, so only the user can remove the integration in Prisma's console."
	case oauthflow.IntegrationKept:
	}
	return "The tokens are forgotten. The integration stays at Prisma until the user, or a call with revoke=true, removes it."
}
