package provisioning

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// markedProjects lists the projects that bear the operation's marker. It is compared
// here too: a server that ignores the filter answers with every project.
func (r *run) markedProjects(ctx context.Context) ([]managementapi.Project, error) {
	marker := r.op.ID.String()
	return walk(ctx, r.service, r.at,
		func(ctx context.Context, client *prisma.Client, cursor string) (managementapi.Page[managementapi.Project], error) {
			return client.ListProjects(ctx, managementapi.ListProjectsParams{Cursor: cursor, Limit: maxLimit, LogicalID: marker})
		},
		func(p managementapi.Project) bool { return managementapi.Value(p.LogicalID) == marker })
}

// findProject looks the operation's project up.
func (r *run) findProject(ctx context.Context) (Project, bool, error) {
	found, err := r.markedProjects(ctx)
	if err != nil || len(found) == 0 {
		return Project{}, false, err
	}
	return projectOf(oldest(found, createdProject)), true, nil
}

// findFirstDatabase looks up the default database of the operation's project.
func (r *run) findFirstDatabase(ctx context.Context) (Database, bool, error) {
	project, ok, err := r.findProject(ctx)
	if err != nil || !ok {
		return Database{}, false, err
	}
	return firstDatabaseIn(ctx, r.service, r.at, project.ID)
}

// firstDatabaseIn looks up a project's default database.
func firstDatabaseIn(ctx context.Context, s *Service, at scope, projectID string) (Database, bool, error) {
	all, err := databasesIn(ctx, s, at, projectID)
	if err != nil {
		return Database{}, false, err
	}
	found := slices.DeleteFunc(all, func(d managementapi.Database) bool { return !d.IsDefault })
	if len(found) == 0 {
		return Database{}, false, nil
	}
	database := databaseOf(oldest(found, createdDatabase))
	database.ProjectID = projectID
	return database, true, nil
}

// databasesIn lists the databases of a project.
func databasesIn(ctx context.Context, s *Service, at scope, projectID string) ([]managementapi.Database, error) {
	return walk(ctx, s, at,
		func(ctx context.Context, client *prisma.Client, cursor string) (managementapi.Page[managementapi.Database], error) {
			return client.ListProjectDatabases(ctx, projectID, managementapi.ListProjectDatabasesParams{Cursor: cursor, Limit: maxLimit})
		},
		func(managementapi.Database) bool { return true })
}

// markedDatabases lists the databases of a project that bear the operation's marker.
func (r *run) markedDatabases(ctx context.Context, projectID string) ([]managementapi.Database, error) {
	marker := r.op.ID.String()
	return walk(ctx, r.service, r.at,
		func(ctx context.Context, client *prisma.Client, cursor string) (managementapi.Page[managementapi.Database], error) {
			return client.ListDatabases(ctx, managementapi.ListDatabasesParams{
				Cursor: cursor, Limit: maxLimit, ProjectID: projectID, LogicalID: marker,
			})
		},
		func(d managementapi.Database) bool { return managementapi.Value(d.LogicalID) == marker })
}

// findDatabase looks the operation's database up in its project.
func (r *run) findDatabase(ctx context.Context, projectID string) (Database, bool, error) {
	found, err := r.markedDatabases(ctx, projectID)
	if err != nil || len(found) == 0 {
		return Database{}, false, err
	}
	return databaseOf(oldest(found, createdDatabase)), true, nil
}

// markedCredentials lists the credentials of a database that bear the operation's marker.
func (r *run) markedCredentials(ctx context.Context, databaseID string) ([]managementapi.Connection, error) {
	return credentialsIn(ctx, r.service, r.at, databaseID,
		func(c managementapi.Connection) bool { return bearsMarker(c.Name, r.op.ID) })
}

// credentialsIn lists the credentials of a database that fit.
func credentialsIn(ctx context.Context, s *Service, at scope, databaseID string, fits func(managementapi.Connection) bool,
) ([]managementapi.Connection, error) {
	return walk(ctx, s, at,
		func(ctx context.Context, client *prisma.Client, cursor string) (managementapi.Page[managementapi.Connection], error) {
			return client.ListDatabaseConnections(ctx, databaseID, managementapi.ListDatabaseConnectionsParams{
				Cursor: cursor, Limit: maxLimit,
			})
		}, fits)
}

// errEndless tells that a list did not come to an end.
var errEndless = errors.New("a list of Prisma's has too many pages")

// walk goes through all pages of a list and keeps what fits. Each page is a call of its
// own, so that a token which ends half way does not start the walk anew.
func walk[T any](ctx context.Context, s *Service, at scope,
	list func(ctx context.Context, client *prisma.Client, cursor string) (managementapi.Page[T], error),
	fits func(T) bool,
) ([]T, error) {
	var found []T
	cursor := ""
	for range maxPages {
		page, err := call(ctx, s, at, func(ctx context.Context, client *prisma.Client) (managementapi.Page[T], error) {
			return list(ctx, client, cursor)
		})
		if err != nil {
			return nil, err
		}
		for _, item := range page.Items {
			if fits(item) {
				found = append(found, item)
			}
		}
		if page.NextCursor == "" {
			return found, nil
		}
		cursor = page.NextCursor
	}
	return nil, errEndless
}

func createdProject(p managementapi.Project) time.Time       { return p.CreatedAt }
func createdDatabase(d managementapi.Database) time.Time     { return d.CreatedAt }
func createdConnection(c managementapi.Connection) time.Time { return c.CreatedAt }

// oldest returns the first that was made: a server that does not keep markers
// unique may hold several, and everybody must choose the same.
func oldest[T any](items []T, created func(T) time.Time) T {
	first := items[0]
	for _, item := range items[1:] {
		if created(item).Before(created(first)) {
			first = item
		}
	}
	return first
}
