package connect

import (
	"context"
	"net/http"
	"time"
)

// Project holds databases.
type Project struct {
	ID        string    `json:"id"` // proj_…
	Name      string    `json:"name"`
	Region    string    `json:"region"`
	CreatedAt time.Time `json:"createdAt"`
}

// Database is a Prisma Postgres database.
type Database struct {
	ID        string    `json:"id"` // db_…
	Name      string    `json:"name"`
	Region    string    `json:"region"`
	Status    string    `json:"status"`
	ProjectID string    `json:"projectId"`
	IsDefault bool      `json:"isDefault"` // it goes only with its project
	CreatedAt time.Time `json:"createdAt"`
	// Credentials are set in the answer that creates the database, and never again.
	Credentials *Credentials `json:"credentials"`
}

// Credentials open a database.
type Credentials struct {
	ID               string `json:"id"` // con_…
	Name             string `json:"name"`
	ConnectionString string `json:"connectionString"` // a secret, told once
}

// Region is where a database can live.
type Region struct {
	ID   string `json:"id"` // eu-central-1, …
	Name string `json:"name"`
}

// NewDatabase asks for a database in a project of its own.
type NewDatabase struct {
	Name   string `json:"name"`
	Region string `json:"region"`
}

// Projects lists the projects of a connection's workspace.
//
//	GET /v1/connections/{id}/projects
func (c *Client) Projects(ctx context.Context, connectionID string) ([]Project, error) {
	return all[Project](ctx, c, call{
		method: http.MethodGet, path: []string{"connections", connectionID, "projects"},
	})
}

// Databases lists the databases of a connection's workspace, without credentials.
//
//	GET /v1/connections/{id}/databases
func (c *Client) Databases(ctx context.Context, connectionID string) ([]Database, error) {
	return all[Database](ctx, c, call{
		method: http.MethodGet, path: []string{"connections", connectionID, "databases"},
	})
}

// CreateDatabase makes a project and its database, and returns the credentials,
// which no later call shows again. idempotencyKey names this one wish: sending it
// again, after a lost answer or a double click, never makes a second database.
//
//	POST /v1/connections/{id}/databases
//	201 {"data": Database}
//
// Problems: InvalidValue; ReconnectRequired; QuotaExceeded; OperationInProgress,
// the same wish is being fulfilled: send it again after RetryAfter.
func (c *Client) CreateDatabase(ctx context.Context, connectionID, idempotencyKey string, in NewDatabase) (Database, error) {
	return one[Database](ctx, c, call{
		method: http.MethodPost, path: []string{"connections", connectionID, "databases"},
		body: in, idempotencyKey: idempotencyKey,
	})
}

// DeleteDatabase deletes a database and everything in it.
//
//	DELETE /v1/connections/{id}/databases/{databaseId}
//
// Problems: DefaultDatabase, it is its project's default and goes only with it.
func (c *Client) DeleteDatabase(ctx context.Context, connectionID, databaseID string) error {
	return c.do(ctx, call{
		method: http.MethodDelete, path: []string{"connections", connectionID, "databases", databaseID},
	}, nil)
}

// CreateCredentials makes a further connection string for a database, for a user
// who lost the first.
//
//	POST /v1/connections/{id}/databases/{databaseId}/credentials
//	201 {"data": Credentials}
func (c *Client) CreateCredentials(ctx context.Context, connectionID, databaseID, idempotencyKey, name string,
) (Credentials, error) {
	return one[Credentials](ctx, c, call{
		method: http.MethodPost,
		path:   []string{"connections", connectionID, "databases", databaseID, "credentials"},
		body: struct {
			Name string `json:"name"`
		}{name},
		idempotencyKey: idempotencyKey,
	})
}

// Regions lists where databases can live.
//
//	GET /v1/regions
func (c *Client) Regions(ctx context.Context) ([]Region, error) {
	return all[Region](ctx, c, call{method: http.MethodGet, path: []string{"regions"}})
}
