package prisma

import (
	"context"
	"net/http"
)

// ListDatabaseConnections returns one page of a database's credentials, without their
// connection strings.
//
//	GET /v1/databases/{databaseId}/connections?cursor=&limit=
//	200 {"data": [Connection…], "pagination": {"nextCursor", "hasMore"}}
//
// Errors: *APIError, *FetchError.
//
// Source: Prisma Management API, operation getV1DatabasesByDatabaseIdConnections.
func (c *Client) ListDatabaseConnections(
	ctx context.Context, databaseID string, opts ListOptions,
) (Page[DatabaseConnection], error) {
	return fetchPage[DatabaseConnection](ctx, c, request{
		method: http.MethodGet, path: []string{"v1", "databases", databaseID, "connections"}, query: opts.query(),
	})
}

// CreateDatabaseConnection makes further credentials for a database. The answer holds
// the connection string, which is never shown again. It is sent once: if a *FetchError
// says Sent, the credentials may exist, and name is all there is to find them by.
//
//	POST /v1/databases/{databaseId}/connections {"name"}
//	200 or 201 {"data": CreatedConnection}
//
// Errors: *APIError (404: no such database), *FetchError.
//
// Source: Prisma Management API, operation postV1DatabasesByDatabaseIdConnections,
// which documents 200 where other creates answer 201.
func (c *Client) CreateDatabaseConnection(
	ctx context.Context, databaseID, name string,
) (DatabaseConnection, error) {
	return fetchOne[DatabaseConnection](ctx, c, request{
		method: http.MethodPost,
		path:   []string{"v1", "databases", databaseID, "connections"},
		body: struct {
			Name string `json:"name"`
		}{name},
	})
}

// RotateConnection replaces the secret of credentials. The answer holds the new
// connection string, which is never shown again. Prisma tries to revoke the old one
// and does not promise it.
//
//	POST /v1/connections/{id}/rotate
//	200 {"data": CreatedConnection}
//
// Errors: *APIError (404: no such credentials), *FetchError.
//
// Source: Prisma Management API, operation postV1ConnectionsByIdRotate.
func (c *Client) RotateConnection(ctx context.Context, id string) (DatabaseConnection, error) {
	return fetchOne[DatabaseConnection](ctx, c, request{
		method: http.MethodPost, path: []string{"v1", "connections", id, "rotate"},
	})
}

// DeleteConnection deletes credentials; their connection string stops working.
//
//	DELETE /v1/connections/{id}
//	204
//
// Errors: *APIError (404: there are none, perhaps not any more), *FetchError.
//
// Source: Prisma Management API, operation deleteV1ConnectionsById.
func (c *Client) DeleteConnection(ctx context.Context, id string) error {
	return c.send(ctx, request{method: http.MethodDelete, path: []string{"v1", "connections", id}}, nil)
}
