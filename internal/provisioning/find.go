package provisioning

import (
	"context"
	"errors"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// findProject looks the operation's project up. The marker is compared here too:
// a server that ignores the filter answers with every project.
func (r *run) findProject(ctx context.Context) (Project, bool, error) {
	marker := r.op.ID.String()
	found, err := walk(ctx, r,
		func(ctx context.Context, client *prisma.Client, cursor string) (managementapi.Page[managementapi.Project], error) {
			return client.ListProjects(ctx, managementapi.ListProjectsParams{Cursor: cursor, Limit: maxLimit, LogicalID: marker})
		},
		func(p managementapi.Project) bool { return managementapi.Value(p.LogicalID) == marker })
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
	found, err := walk(ctx, r,
		func(ctx context.Context, client *prisma.Client, cursor string) (managementapi.Page[managementapi.Database], error) {
			return client.ListProjectDatabases(ctx, project.ID, managementapi.ListProjectDatabasesParams{Cursor: cursor, Limit: maxLimit})
		},
		func(d managementapi.Database) bool { return d.IsDefault })
	if err != nil || len(found) == 0 {
		return Database{}, false, err
	}
	database := databaseOf(oldest(found, createdDatabase))
	database.ProjectID = project.ID
	return database, true, nil
}

// findDatabase looks the operation's database up in its project.
func (r *run) findDatabase(ctx context.Context, projectID string) (Database, bool, error) {
	marker := r.op.ID.String()
	found, err := walk(ctx, r,
		func(ctx context.Context, client *prisma.Client, cursor string) (managementapi.Page[managementapi.Database], error) {
			return client.ListDatabases(ctx, managementapi.ListDatabasesParams{
				Cursor: cursor, Limit: maxLimit, ProjectID: projectID, LogicalID: marker,
			})
		},
		func(d managementapi.Database) bool { return managementapi.Value(d.LogicalID) == marker })
	if err != nil || len(found) == 0 {
		return Database{}, false, err
	}
	return databaseOf(oldest(found, createdDatabase)), true, nil
}

// findCredentials looks up a database's credentials of that name.
func (r *run) findCredentials(ctx context.Context, databaseID, name string) ([]managementapi.Connection, error) {
	return walk(ctx, r,
		func(ctx context.Context, client *prisma.Client, cursor string) (managementapi.Page[managementapi.Connection], error) {
			return client.ListDatabaseConnections(ctx, databaseID, managementapi.ListDatabaseConnectionsParams{
				Cursor: cursor, Limit: maxLimit,
			})
		},
		func(c managementapi.Connection) bool { return c.Name == name })
}

// errEndless tells that a list did not come to an end.
var errEndless = errors.New("a list of Prisma's has too many pages")

// walk goes through all pages of a list and keeps what fits. Each page is a call of its
// own, so that a token which ends half way does not start the walk anew.
func walk[T any](ctx context.Context, r *run,
	list func(ctx context.Context, client *prisma.Client, cursor string) (managementapi.Page[T], error),
	fits func(T) bool,
) ([]T, error) {
	var found []T
	cursor := ""
	for range maxPages {
		page, err := call(ctx, r.service, r.at, func(ctx context.Context, client *prisma.Client) (managementapi.Page[T], error) {
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
