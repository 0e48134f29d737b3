package prisma

import (
	"context"
	"net/http"
)

// DatabaseFilter chooses databases.
type DatabaseFilter struct {
	ListOptions

	// ProjectID takes the databases of one project; "" those of all.
	ProjectID string

	// LogicalID takes the databases of that logical id, one in each branch at most.
	LogicalID string
}

// ListDatabases returns one page of the databases that the token can see.
//
//	GET /v1/databases?cursor=&limit=&projectId=&logicalId=
//	200 {"data": [Database…], "pagination": {"nextCursor", "hasMore"}}
//
// Errors: *APIError, *FetchError.
//
// Source: Prisma Management API, operation getV1Databases.
func (c *Client) ListDatabases(ctx context.Context, filter DatabaseFilter) (Page[Database], error) {
	query := filter.query()
	if filter.ProjectID != "" {
		query.Set("projectId", filter.ProjectID)
	}
	if filter.LogicalID != "" {
		query.Set("logicalId", filter.LogicalID)
	}
	return fetchPage[Database](ctx, c, request{
		method: http.MethodGet, path: []string{"v1", "databases"}, query: query,
	})
}

// ListProjectDatabases returns one page of a project's databases.
//
//	GET /v1/projects/{projectId}/databases?cursor=&limit=
//	200 {"data": [Database…], "pagination": {"nextCursor", "hasMore"}}
//
// Errors: *APIError (404: no such project), *FetchError.
//
// Source: Prisma Management API, operation getV1ProjectsByProjectIdDatabases.
func (c *Client) ListProjectDatabases(
	ctx context.Context, projectID string, opts ListOptions,
) (Page[Database], error) {
	return fetchPage[Database](ctx, c, request{
		method: http.MethodGet, path: []string{"v1", "projects", projectID, "databases"}, query: opts.query(),
	})
}

// NewDatabase describes a database to create. Empty fields are left to Prisma.
type NewDatabase struct {
	ProjectID string `json:"projectId"`
	Name      string `json:"name,omitempty"`

	// Region is one of Prisma's, or "inherit" for the project's own.
	Region string `json:"region,omitempty"`

	// IsDefault makes it the project's default database.
	IsDefault bool `json:"isDefault,omitempty"`

	// LogicalID is the caller's own name for the database, unique in its branch. With
	// it a create whose answer was lost can be found again.
	LogicalID string `json:"logicalId,omitempty"`
}

// CreateDatabase creates a database in the project's default branch. The answer holds
// its connection strings, which are never shown again. It is sent once: if a
// *FetchError says Sent, the database may exist (ListDatabases by LogicalID tells).
//
//	POST /v1/databases {"projectId", "name", "region", "isDefault", "logicalId"}
//	201 {"data": CreatedDatabase}
//
// Errors: *APIError (404: no such project; 409: that logical id is taken),
// *FetchError.
//
// Source: Prisma Management API, operation postV1Databases.
func (c *Client) CreateDatabase(ctx context.Context, database NewDatabase) (Database, error) {
	return fetchOne[Database](ctx, c, request{
		method: http.MethodPost, path: []string{"v1", "databases"}, body: database,
	})
}

// GetDatabase returns a database, without connection strings; id may lack its prefix.
//
//	GET /v1/databases/{databaseId}
//	200 {"data": Database}
//
// Errors: *APIError (404: there is none that the token can see), *FetchError.
//
// Source: Prisma Management API, operation getV1DatabasesByDatabaseId.
func (c *Client) GetDatabase(ctx context.Context, id string) (Database, error) {
	return fetchOne[Database](ctx, c, request{method: http.MethodGet, path: []string{"v1", "databases", id}})
}

// DeleteDatabase deletes a database.
//
//	DELETE /v1/databases/{databaseId}
//	204
//
// Errors: *APIError (403: it is its project's default database; 404: there is none,
// perhaps not any more), *FetchError.
//
// Source: Prisma Management API, operation deleteV1DatabasesByDatabaseId.
func (c *Client) DeleteDatabase(ctx context.Context, id string) error {
	return c.send(ctx, request{method: http.MethodDelete, path: []string{"v1", "databases", id}}, nil)
}
