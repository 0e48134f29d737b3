package sdkcompare_test

import (
	"context"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// operation is one call of the Management API, for either SDK. The published one is
// given what its documentation shows: the path with its parameters, and a body.
type operation struct {
	name         string
	method, path string
	params       map[string]string
	body         map[string]any
	ours         func(ctx context.Context, client *prisma.Client) (any, error)
}

func listWorkspaces() operation {
	return operation{
		name: "list workspaces", method: "GET", path: "/v1/workspaces",
		ours: func(ctx context.Context, client *prisma.Client) (any, error) {
			return list(client.ListWorkspaces(ctx, managementapi.ListWorkspacesParams{}))
		},
	}
}

func getProject(id string) operation {
	return operation{
		name: "get project", method: "GET", path: "/v1/projects/{id}", params: map[string]string{"id": id},
		ours: func(ctx context.Context, client *prisma.Client) (any, error) { return data(client.GetProject(ctx, id)) },
	}
}

func createProject(name string) operation {
	return operation{
		name: "create project", method: "POST", path: "/v1/projects", body: map[string]any{"name": name, "createDatabase": false},
		ours: func(ctx context.Context, client *prisma.Client) (any, error) {
			return data(client.CreateProject(ctx, managementapi.CreateProjectRequest{Name: new(name), CreateDatabase: new(false)}))
		},
	}
}

// createProjectIn is createProject as the published documentation still shows it: by a
// path that the interface no longer lists.
func createProjectIn(workspace, name string) operation {
	return operation{
		name: "create project in a workspace", method: "POST", path: "/v1/workspaces/{workspaceId}/projects",
		params: map[string]string{"workspaceId": workspace}, body: map[string]any{"name": name, "createDatabase": false},
		ours: func(ctx context.Context, client *prisma.Client) (any, error) {
			return data(client.CreateProject(ctx, managementapi.CreateProjectRequest{
				Name: new(name), CreateDatabase: new(false), WorkspaceID: new(workspace),
			}))
		},
	}
}

func createDatabase(projectID, name string, isDefault bool) operation {
	return operation{
		name: "create database", method: "POST", path: "/v1/projects/{projectId}/databases",
		params: map[string]string{"projectId": projectID},
		body:   map[string]any{"name": name, "region": "us-east-1", "isDefault": isDefault},
		ours: func(ctx context.Context, client *prisma.Client) (any, error) {
			return data(client.CreateProjectDatabase(ctx, projectID, managementapi.CreateProjectDatabaseRequest{
				Name: new(name), Region: new(managementapi.RegionIDOrInherit("us-east-1")), IsDefault: new(isDefault),
			}))
		},
	}
}

func deleteDatabase(id string) operation {
	return operation{
		name: "delete database", method: "DELETE", path: "/v1/databases/{databaseId}", params: map[string]string{"databaseId": id},
		ours: func(ctx context.Context, client *prisma.Client) (any, error) {
			return nil, client.DeleteDatabase(ctx, id)
		},
	}
}

// idOf is the id of what a call has made.
func idOf(s *stage, value any) string {
	s.t.Helper()
	var made struct {
		Data struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	decode(s, value, &made)
	return made.Data.ID
}
