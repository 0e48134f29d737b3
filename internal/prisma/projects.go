package prisma

import (
	"context"
	"net/http"
)

// ProjectFilter chooses projects.
type ProjectFilter struct {
	ListOptions

	// LogicalID finds the one project of that logical id; "" takes all.
	LogicalID string
}

// ListProjects returns one page of the projects that the token can see.
//
//	GET /v1/projects?cursor=&limit=&logicalId=
//	200 {"data": [Project…], "pagination": {"nextCursor", "hasMore"}}
//
// Errors: *APIError (401: the token was refused; 429 and 5xx: a later try may work),
// *FetchError. ListProjects does not retry, and no other method does.
//
// Source: Prisma Management API, operation getV1Projects.
func (c *Client) ListProjects(ctx context.Context, filter ProjectFilter) (Page[Project], error) {
	query := filter.query()
	if filter.LogicalID != "" {
		query.Set("logicalId", filter.LogicalID)
	}
	return fetchPage[Project](ctx, c, request{
		method: http.MethodGet, path: []string{"v1", "projects"}, query: query,
	})
}

// GetProject returns a project; id may lack its prefix.
//
//	GET /v1/projects/{id}
//	200 {"data": Project}
//
// Errors: *APIError (404: there is none that the token can see), *FetchError.
//
// Source: Prisma Management API, operation getV1ProjectsById.
func (c *Client) GetProject(ctx context.Context, id string) (Project, error) {
	return fetchOne[Project](ctx, c, request{method: http.MethodGet, path: []string{"v1", "projects", id}})
}

// NewProject describes a project to create. Empty fields are left to Prisma.
type NewProject struct {
	Name   string `json:"name,omitempty"`
	Region string `json:"region,omitempty"`

	// CreateDatabase makes a first, default database too. It is always sent.
	CreateDatabase bool `json:"createDatabase"`

	// LogicalID is the caller's own name for the project, unique in the workspace.
	// With it a create whose answer was lost can be found again.
	LogicalID string `json:"logicalId,omitempty"`
}

// CreateProject creates a project. It is sent once: if a *FetchError says Sent, the
// project may exist (ListProjects by LogicalID tells).
//
//	POST /v1/projects {"name", "region", "createDatabase", "logicalId"}
//	201 {"data": CreatedProject}
//
// Errors: *APIError (409: a project with that logical id exists), *FetchError.
//
// Source: Prisma Management API, operation postV1Projects.
func (c *Client) CreateProject(ctx context.Context, project NewProject) (CreatedProject, error) {
	return fetchOne[CreatedProject](ctx, c, request{
		method: http.MethodPost, path: []string{"v1", "projects"}, body: project,
	})
}

// DeleteProject deletes a project with its databases.
//
//	DELETE /v1/projects/{id}
//	204
//
// Errors: *APIError (404: there is none, perhaps not any more), *FetchError.
//
// Source: Prisma Management API, operation deleteV1ProjectsById.
func (c *Client) DeleteProject(ctx context.Context, id string) error {
	return c.send(ctx, request{method: http.MethodDelete, path: []string{"v1", "projects", id}}, nil)
}
