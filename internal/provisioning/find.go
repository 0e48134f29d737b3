package provisioning

import (
	"context"
	"errors"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
)

// findProject looks the operation's project up. The marker is compared here too:
// a server that ignores the filter answers with every project.
func (r *run) findProject(ctx context.Context) (prisma.Project, bool, error) {
	marker := r.op.ID.String()
	found, err := walk(ctx, r,
		func(ctx context.Context, client *prisma.Client, page prisma.ListOptions) (prisma.Page[prisma.Project], error) {
			return client.ListProjects(ctx, prisma.ProjectFilter{ListOptions: page, LogicalID: marker})
		},
		func(p prisma.Project) bool { return p.LogicalID == marker })
	if err != nil || len(found) == 0 {
		return prisma.Project{}, false, err
	}
	return oldest(found, createdProject), true, nil
}

// findFirstDatabase looks up the default database of the operation's project.
func (r *run) findFirstDatabase(ctx context.Context) (prisma.Database, bool, error) {
	project, ok, err := r.findProject(ctx)
	if err != nil || !ok {
		return prisma.Database{}, false, err
	}
	found, err := walk(ctx, r,
		func(ctx context.Context, client *prisma.Client, page prisma.ListOptions) (prisma.Page[prisma.Database], error) {
			return client.ListProjectDatabases(ctx, project.ID, page)
		},
		func(d prisma.Database) bool { return d.IsDefault })
	if err != nil || len(found) == 0 {
		return prisma.Database{}, false, err
	}
	database := oldest(found, createdDatabase)
	database.Project = prisma.Ref{ID: project.ID, Name: project.Name}
	return database, true, nil
}

// findDatabase looks the operation's database up in its project.
func (r *run) findDatabase(ctx context.Context, projectID string) (prisma.Database, bool, error) {
	marker := r.op.ID.String()
	found, err := walk(ctx, r,
		func(ctx context.Context, client *prisma.Client, page prisma.ListOptions) (prisma.Page[prisma.Database], error) {
			return client.ListDatabases(ctx, prisma.DatabaseFilter{ListOptions: page, ProjectID: projectID, LogicalID: marker})
		},
		func(d prisma.Database) bool { return d.LogicalID == marker })
	if err != nil || len(found) == 0 {
		return prisma.Database{}, false, err
	}
	return oldest(found, createdDatabase), true, nil
}

// findCredentials looks up a database's credentials of that name.
func (r *run) findCredentials(ctx context.Context, databaseID, name string) ([]prisma.DatabaseConnection, error) {
	return walk(ctx, r,
		func(ctx context.Context, client *prisma.Client, page prisma.ListOptions) (prisma.Page[prisma.DatabaseConnection], error) {
			return client.ListDatabaseConnections(ctx, databaseID, page)
		},
		func(c prisma.DatabaseConnection) bool { return c.Name == name })
}

// errEndless tells that a list did not come to an end.
var errEndless = errors.New("a list of Prisma's has too many pages")

// walk goes through all pages of a list and keeps what fits.
func walk[T any](ctx context.Context, r *run,
	list func(ctx context.Context, client *prisma.Client, page prisma.ListOptions) (prisma.Page[T], error),
	fits func(T) bool,
) ([]T, error) {
	var found []T
	options := prisma.ListOptions{Limit: maxLimit}
	for range maxPages {
		page, err := call(ctx, r.service, r.at, func(ctx context.Context, client *prisma.Client) (prisma.Page[T], error) {
			return list(ctx, client, options)
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
		options.Cursor = page.NextCursor
	}
	return nil, errEndless
}

func createdProject(p prisma.Project) time.Time               { return p.CreatedAt }
func createdDatabase(d prisma.Database) time.Time             { return d.CreatedAt }
func createdConnection(c prisma.DatabaseConnection) time.Time { return c.CreatedAt }

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
