package provisioning

import (
	"cmp"
	"context"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/tenants"
)

// clockSkew is how far Prisma's clock may be behind the database's.
const clockSkew = 5 * time.Second

// maxPages bounds a walk through a list.
const maxPages = 1000

// makeProject makes a project without a database.
func (r *run) makeProject(ctx context.Context, in NewProject) (Project, tenants.Made, error) {
	project, _, err := pursue(ctx, r, effort[Project]{
		create: func(ctx context.Context, client *prisma.Client) (Project, error) {
			created, err := client.CreateProject(ctx, managementapi.CreateProjectRequest{
				Name: &in.Name, Region: new(managementapi.RegionID(in.Region)), LogicalID: new(r.op.ID.String()),
				CreateDatabase: new(false),
			})
			if err != nil {
				return Project{}, err
			}
			return createdProjectOf(created), nil
		},
		find: r.findProject,
	})
	if err != nil {
		return Project{}, tenants.Made{}, err
	}
	project.Region = cmp.Or(project.Region, in.Region)
	return project, tenants.Made{ResourceID: project.ID, ProjectID: project.ID}, nil
}

// makeProjectWithDatabase makes a project and its default database in one call.
func (r *run) makeProjectWithDatabase(ctx context.Context, in NewDatabase) (Database, tenants.Made, error) {
	made, _, err := pursue(ctx, r, effort[Database]{
		create: func(ctx context.Context, client *prisma.Client) (Database, error) {
			created, err := client.CreateProject(ctx, managementapi.CreateProjectRequest{
				Name: &in.Name, Region: new(managementapi.RegionID(in.Region)), LogicalID: new(r.op.ID.String()),
				CreateDatabase: new(true),
			})
			if err != nil {
				return Database{}, err
			}
			return firstDatabaseOf(created), nil
		},
		find: r.findFirstDatabase,
	})
	if err == nil && made.ID == "" {
		// The answer held the project alone; its database may come a little later.
		var found bool
		made, found, err = search(ctx, r.service.patience, r.findFirstDatabase)
		if err != nil || !found {
			err = r.unclear(err)
		}
	}
	if err != nil {
		return Database{}, tenants.Made{}, err
	}
	return r.opened(ctx, made, in.Region, true)
}

// makeDatabase makes a database in a project.
func (r *run) makeDatabase(ctx context.Context, in NewDatabase) (Database, tenants.Made, error) {
	made, _, err := pursue(ctx, r, effort[Database]{
		create: func(ctx context.Context, client *prisma.Client) (Database, error) {
			created, err := client.CreateDatabase(ctx, managementapi.CreateDatabaseRequest{
				ProjectID: in.ProjectID, Name: &in.Name, LogicalID: new(r.op.ID.String()),
				Region: new(managementapi.RegionIDOrInherit(in.Region)),
			})
			if err != nil {
				return Database{}, err
			}
			return createdDatabaseOf(created), nil
		},
		find: func(ctx context.Context) (Database, bool, error) { return r.findDatabase(ctx, in.ProjectID) },
	})
	if err != nil {
		return Database{}, tenants.Made{}, err
	}
	region := in.Region
	if region == inherit {
		region = ""
	}
	return r.opened(ctx, made, region, false)
}

// opened is the answer for a database: with the credentials that came with it, or
// with fresh ones if nobody saw those.
func (r *run) opened(ctx context.Context, database Database, region string, newProject bool) (Database, tenants.Made, error) {
	database.Region = cmp.Or(database.Region, region)
	if database.Credentials == nil {
		// Named after the operation, so that a later attempt finds these too.
		fresh, err := r.credentials(ctx, database.ID, r.op.ID.String(), r.oneOf)
		if err != nil {
			return Database{}, tenants.Made{}, r.unclear(err)
		}
		database.Credentials = &fresh
	}
	return database, tenants.Made{
		ResourceID: database.ID, Secret: database.Credentials.ConnectionString, ProjectID: database.ProjectID,
		NewProject: newProject, DatabaseID: database.ID, CredentialsID: database.Credentials.ID,
	}, nil
}

// makeCredentials makes credentials of the client's own name.
func (r *run) makeCredentials(ctx context.Context, databaseID, name string) (Credentials, tenants.Made, error) {
	credentials, err := r.credentials(ctx, databaseID, name, r.notMadeByOthers)
	if err != nil {
		return Credentials{}, tenants.Made{}, err
	}
	return credentials, tenants.Made{
		ResourceID: credentials.ID, Secret: credentials.ConnectionString,
		DatabaseID: databasePrefix + bare(databasePrefix, databaseID), CredentialsID: credentials.ID,
	}, nil
}

// credentials makes credentials once. Of those that bear the name already, choose
// tells which one an earlier attempt of this operation made. Its error is an
// *unfinished.
func (r *run) credentials(ctx context.Context, databaseID, name string,
	choose func(ctx context.Context, candidates []managementapi.Connection) (managementapi.Connection, bool, error),
) (Credentials, error) {
	made, adopted, err := pursue(ctx, r, effort[Credentials]{
		create: func(ctx context.Context, client *prisma.Client) (Credentials, error) {
			created, err := client.CreateDatabaseConnection(ctx, databaseID, managementapi.CreateDatabaseConnectionRequest{Name: name})
			return credentialsOf(created), err
		},
		find: func(ctx context.Context) (Credentials, bool, error) {
			candidates, err := r.findCredentials(ctx, databaseID, name)
			if err != nil || len(candidates) == 0 {
				return Credentials{}, false, err
			}
			chosen, ok, err := choose(ctx, candidates)
			return Credentials{ID: chosen.ID, Name: chosen.Name}, ok, err
		},
	})
	if err != nil {
		return Credentials{}, err
	}
	if adopted || made.ConnectionString == "" {
		if made, err = r.rotate(ctx, made.ID); err != nil {
			return Credentials{}, r.unclear(err)
		}
	}
	return made, nil
}

// rotate replaces the secret of credentials whose string nobody saw. It may be
// repeated: only the last string counts.
func (r *run) rotate(ctx context.Context, id string) (rotated Credentials, err error) {
	for _, pause := range r.service.patience {
		if ended := wait(ctx, pause); ended != nil {
			return rotated, cmp.Or(err, ended)
		}
		rotated, err = send(ctx, r, func(ctx context.Context, client *prisma.Client) (Credentials, error) {
			answer, err := client.RotateConnection(ctx, id)
			return credentialsOf(answer), err
		})
		if err == nil || !mayPass(err) {
			break
		}
	}
	if err == nil && rotated.ConnectionString == "" {
		err = fault.New(fault.PrismaUnavailable, "Prisma gave credentials without a connection string.", nil)
	}
	return rotated, err
}

// oneOf chooses among credentials that are named after the operation: all its own.
func (r *run) oneOf(_ context.Context, candidates []managementapi.Connection) (managementapi.Connection, bool, error) {
	return oldest(candidates, createdConnection), true, nil
}

// notMadeByOthers chooses among credentials of the client's own name, which others may
// bear too. Taking the wrong ones would lock their users out, so in doubt it takes
// none.
func (r *run) notMadeByOthers(ctx context.Context, candidates []managementapi.Connection) (managementapi.Connection, bool, error) {
	var ids []string
	byID := make(map[string]managementapi.Connection, len(candidates))
	for _, candidate := range candidates {
		if candidate.CreatedAt.Before(r.op.BeganAt.Add(-clockSkew)) {
			continue
		}
		ids = append(ids, candidate.ID)
		byID[candidate.ID] = candidate
	}
	if len(ids) == 0 {
		return managementapi.Connection{}, false, nil
	}
	free, err := r.service.store.NotMadeByOthers(ctx, r.op, ids)
	if err != nil || len(free) != 1 {
		return managementapi.Connection{}, false, err
	}
	return byID[free[0]], true, nil
}
