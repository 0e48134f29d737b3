package provisioning

import (
	"context"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/tenants"
)

// ListProjects returns one page of the projects of a connection's workspace.
//
// Errors: fault.NotFound, no such connection of this tenant; fault.ReconnectRequired;
// fault.InvalidRequest, an unusable page; those of prisma.Caller.
func (s *Service) ListProjects(ctx context.Context, tenant tenants.TenantID, connection tenants.ConnectionID, page Page,
) (List[Project], error) {
	page, err := page.checked()
	if err != nil {
		return List[Project]{}, err
	}
	found, err := call(ctx, s, scope{tenant, connection},
		func(ctx context.Context, client *prisma.Client) (managementapi.Page[managementapi.Project], error) {
			return client.ListProjects(ctx, managementapi.ListProjectsParams{Cursor: page.Cursor, Limit: page.Limit})
		})
	if err != nil {
		return List[Project]{}, err
	}
	return listOf(found, projectOf), nil
}

// GetProject returns one project. Errors: as ListProjects; fault.NotFound also when
// there is no such project.
func (s *Service) GetProject(ctx context.Context, tenant tenants.TenantID, connection tenants.ConnectionID, id string,
) (Project, error) {
	if err := checkID(projectPrefix, id); err != nil {
		return Project{}, err
	}
	found, err := call(ctx, s, scope{tenant, connection},
		func(ctx context.Context, client *prisma.Client) (managementapi.Project, error) {
			return client.GetProject(ctx, id)
		})
	if err != nil {
		return Project{}, err
	}
	return projectOf(found), nil
}

// ListDatabases returns one page of the databases of a connection's workspace, or
// of one of its projects. Errors are those of ListProjects; fault.InvalidRequest
// also when projectID can't be a project's id. projectID may be "".
func (s *Service) ListDatabases(ctx context.Context, tenant tenants.TenantID, connection tenants.ConnectionID,
	projectID string, page Page,
) (List[Database], error) {
	page, err := page.checked()
	if err != nil {
		return List[Database]{}, err
	}
	if projectID != "" && !isID(projectPrefix, projectID) {
		return List[Database]{}, fault.New(fault.InvalidRequest, "The filter can't be read.", nil).
			WithField("projectId", "Use the id of a project.")
	}
	found, err := call(ctx, s, scope{tenant, connection},
		func(ctx context.Context, client *prisma.Client) (managementapi.Page[managementapi.Database], error) {
			return client.ListDatabases(ctx, managementapi.ListDatabasesParams{
				Cursor: page.Cursor, Limit: page.Limit, ProjectID: projectID,
			})
		})
	if err != nil {
		return List[Database]{}, err
	}
	return listOf(found, databaseOf), nil
}

// GetDatabase returns one database, without credentials. Errors: as ListProjects;
// fault.NotFound also when there is no such database.
func (s *Service) GetDatabase(ctx context.Context, tenant tenants.TenantID, connection tenants.ConnectionID, id string,
) (Database, error) {
	if err := checkID(databasePrefix, id); err != nil {
		return Database{}, err
	}
	found, err := call(ctx, s, scope{tenant, connection},
		func(ctx context.Context, client *prisma.Client) (managementapi.Database, error) {
			return client.GetDatabase(ctx, id)
		})
	if err != nil {
		return Database{}, err
	}
	return databaseOf(found), nil
}

// ListCredentials returns one page of a database's credentials, without connection
// strings. Errors: as GetDatabase; fault.InvalidRequest, an unusable page.
func (s *Service) ListCredentials(ctx context.Context, tenant tenants.TenantID, connection tenants.ConnectionID,
	databaseID string, page Page,
) (List[Credentials], error) {
	page, err := page.checked()
	if err != nil {
		return List[Credentials]{}, err
	}
	if err := checkID(databasePrefix, databaseID); err != nil {
		return List[Credentials]{}, err
	}
	found, err := call(ctx, s, scope{tenant, connection},
		func(ctx context.Context, client *prisma.Client) (managementapi.Page[managementapi.Connection], error) {
			return client.ListDatabaseConnections(ctx, databaseID, managementapi.ListDatabaseConnectionsParams{
				Cursor: page.Cursor, Limit: page.Limit,
			})
		})
	if err != nil {
		return List[Credentials]{}, err
	}
	return listOf(found, listedCredentialsOf), nil
}

// getCredentials returns credentials of that database. Those of another one are as
// unknown as those that do not exist.
func (s *Service) getCredentials(ctx context.Context, at scope, databaseID, id string) (Credentials, error) {
	found, err := call(ctx, s, at, func(ctx context.Context, client *prisma.Client) (managementapi.Connection, error) {
		return client.GetConnection(ctx, id)
	})
	if err != nil {
		return Credentials{}, err
	}
	if bare(databasePrefix, found.Database.ID) != bare(databasePrefix, databaseID) {
		return Credentials{}, errNoSuchResource()
	}
	return listedCredentialsOf(found), nil
}
