package prisma

import (
	"context"
	"net/http"
)

// GetMe returns whom the token stands for.
//
//	GET /v1/me
//	200 {"data": Principal}
//
// Errors: *APIError (401: the token was refused), *FetchError.
//
// Source: Prisma Management API, operation getV1Me.
func (c *Client) GetMe(ctx context.Context) (Principal, error) {
	return fetchOne[Principal](ctx, c, request{method: http.MethodGet, path: []string{"v1", "me"}})
}

// ListPostgresRegions returns the regions for databases, all on one page.
//
//	GET /v1/regions/postgres
//	200 {"data": [PostgresRegion…]}
//
// Errors: *APIError, *FetchError.
//
// Source: Prisma Management API, operation getV1RegionsPostgres.
func (c *Client) ListPostgresRegions(ctx context.Context) ([]Region, error) {
	page, err := fetchPage[Region](ctx, c, request{method: http.MethodGet, path: []string{"v1", "regions", "postgres"}})
	return page.Items, err
}

// ListWorkspaces returns one page of the workspaces that the token can see: one, for
// a token of a grant.
//
//	GET /v1/workspaces?cursor=&limit=
//	200 {"data": [Workspace…], "pagination": {"nextCursor", "hasMore"}}
//
// Errors: *APIError, *FetchError.
//
// Source: Prisma Management API, operation getV1Workspaces.
func (c *Client) ListWorkspaces(ctx context.Context, opts ListOptions) (Page[Workspace], error) {
	return fetchPage[Workspace](ctx, c, request{
		method: http.MethodGet, path: []string{"v1", "workspaces"}, query: opts.query(),
	})
}

// GetWorkspace returns a workspace; id may lack its prefix.
//
//	GET /v1/workspaces/{id}
//	200 {"data": Workspace}
//
// Errors: *APIError (404: there is none that the token can see), *FetchError.
//
// Source: Prisma Management API, operation getV1WorkspacesById.
func (c *Client) GetWorkspace(ctx context.Context, id string) (Workspace, error) {
	return fetchOne[Workspace](ctx, c, request{method: http.MethodGet, path: []string{"v1", "workspaces", id}})
}

// RevokeWorkspaceIntegration removes an OAuth client's access to a workspace, and with
// it every grant of that client there. It is the nearest thing to revoking one grant.
//
//	DELETE /v1/workspaces/{workspaceId}/integrations/{clientId}
//	204
//
// Errors: *APIError (404: the client has no access, perhaps not any more),
// *FetchError.
//
// Source: Prisma Management API, operation
// deleteV1WorkspacesByWorkspaceIdIntegrationsByClientId.
func (c *Client) RevokeWorkspaceIntegration(ctx context.Context, workspaceID, clientID string) error {
	return c.send(ctx, request{
		method: http.MethodDelete, path: []string{"v1", "workspaces", workspaceID, "integrations", clientID},
	}, nil)
}
