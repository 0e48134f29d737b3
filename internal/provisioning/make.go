package provisioning

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/tenants"
)

// maxPages bounds a walk through a list.
const maxPages = 1000

// makeProject makes a project without a database.
func (r *run) makeProject(ctx context.Context, in NewProject) (Project, tenants.Made, error) {
	project, _, err := pursue(ctx, r, effort[Project]{
		call: tenants.OutgoingCall{Operation: "createProject"},
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
	if landed, ok, err := landedOf[Database](r); ok || err != nil {
		return r.openedLanded(ctx, landed, err)
	}
	made, _, err := pursue(ctx, r, effort[Database]{
		call: tenants.OutgoingCall{Operation: "createProject"},
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
	if landed, ok, err := landedOf[Database](r); ok || err != nil {
		return r.openedLanded(ctx, landed, err)
	}
	made, _, err := pursue(ctx, r, effort[Database]{
		call: tenants.OutgoingCall{Operation: "createDatabase", Target: in.ProjectID},
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

// landedOf returns what an earlier attempt made and a look has found since.
func landedOf[T any](r *run) (thing T, ok bool, err error) {
	if r.op.Landed == nil {
		return thing, false, nil
	}
	if err := json.Unmarshal(r.op.Landed, &thing); err != nil {
		return thing, false, fmt.Errorf("decode what landed of %s: %w", r.op, err)
	}
	return thing, true, nil
}

// openedLanded is opened for a database that a look has found and told of. Its partner may
// have deleted it since: then the answer is the one that was told, and opens nothing.
func (r *run) openedLanded(ctx context.Context, database Database, err error) (Database, tenants.Made, error) {
	if err != nil {
		return Database{}, tenants.Made{}, err
	}
	opened, made, err := r.opened(ctx, database, "", database.IsDefault)
	if gone(err) {
		made = madeDatabase(database, database.IsDefault)
		made.Gone = true
		return database, made, nil
	}
	return opened, made, err
}

// opened is the answer for a database: with the credentials that came with it, or
// with fresh ones if nobody saw those.
func (r *run) opened(ctx context.Context, database Database, region string, newProject bool) (Database, tenants.Made, error) {
	database.Region = cmp.Or(database.Region, region)
	if database.Credentials == nil {
		fresh, err := r.credentials(ctx, database.ID, database.Name)
		if err != nil {
			return Database{}, tenants.Made{}, r.unclear(err)
		}
		database.Credentials = &fresh
	}
	made := madeDatabase(database, newProject)
	made.Secret, made.CredentialsID = database.Credentials.ConnectionString, database.Credentials.ID
	made.Gone = made.Secret == ""
	return database, made, nil
}

// madeDatabase names what came with a database, less its credentials.
func madeDatabase(database Database, newProject bool) tenants.Made {
	return tenants.Made{
		ResourceID: database.ID, ProjectID: database.ProjectID, NewProject: newProject, DatabaseID: database.ID,
	}
}

// makeCredentials makes credentials that a client asked for.
func (r *run) makeCredentials(ctx context.Context, databaseID, name string) (Credentials, tenants.Made, error) {
	credentials, ok, err := landedOf[Credentials](r)
	switch {
	case err != nil:
	case ok:
		switch revealed, failure := r.reveal(ctx, credentials); {
		case failure == nil:
			credentials = revealed
		case !gone(failure): // or deleted since it was told
			err = r.unclear(failure)
		}
	default:
		credentials, err = r.credentials(ctx, databaseID, name)
	}
	if err != nil {
		return Credentials{}, tenants.Made{}, err
	}
	return credentials, madeCredentials(credentials, databaseID), nil
}

func madeCredentials(credentials Credentials, databaseID string) tenants.Made {
	return tenants.Made{
		ResourceID: credentials.ID, Secret: credentials.ConnectionString, Gone: credentials.ConnectionString == "",
		DatabaseID: databasePrefix + bare(databasePrefix, databaseID), CredentialsID: credentials.ID,
	}
}

// credentials makes credentials once. Prisma keeps no marker for them but their name, so
// that bears it behind the name that they are to have. Its error is an *unfinished.
func (r *run) credentials(ctx context.Context, databaseID, name string) (Credentials, error) {
	made, adopted, err := pursue(ctx, r, effort[Credentials]{
		call: tenants.OutgoingCall{Operation: "createDatabaseConnection", Target: databaseID},
		create: func(ctx context.Context, client *prisma.Client) (Credentials, error) {
			created, err := client.CreateDatabaseConnection(ctx, databaseID,
				managementapi.CreateDatabaseConnectionRequest{Name: markedName(name, r.op.ID)})
			return credentialsOf(created), err
		},
		find: func(ctx context.Context) (Credentials, bool, error) {
			found, err := r.markedCredentials(ctx, databaseID)
			if err != nil || len(found) == 0 {
				return Credentials{}, false, err
			}
			first := oldest(found, createdConnection)
			return Credentials{ID: first.ID, Name: shownName(first.Name)}, true, nil
		},
	})
	if err != nil {
		return Credentials{}, err
	}
	if adopted || made.ConnectionString == "" {
		if made, err = r.reveal(ctx, made); err != nil {
			return Credentials{}, r.unclear(err)
		}
	}
	return made, nil
}

// reveal gives credentials, which the operation made without anybody seeing their string, a
// new one, unless somebody else has had one meanwhile: theirs is in use, and a new one would
// end it. Then there is none.
func (r *run) reveal(ctx context.Context, made Credentials) (Credentials, error) {
	taken, err := r.service.store.UsedElsewhere(ctx, r.op, made.ID)
	if err != nil || taken {
		return made, err
	}
	// One that this operation gave out in an earlier attempt may be kept for replays.
	if err := r.service.store.ForgetString(ctx, r.at.tenant, made.ID); err != nil {
		return made, err
	}
	return r.rotate(ctx, made.ID)
}

// rotate replaces the secret of credentials whose string nobody saw, or was to see any
// longer. It may be repeated: only the last string counts.
func (r *run) rotate(ctx context.Context, id string) (rotated Credentials, err error) {
	for _, pause := range r.service.patience {
		if ended := wait(ctx, pause); ended != nil {
			return rotated, cmp.Or(err, ended)
		}
		rotated, err = send(ctx, r, tenants.OutgoingCall{Operation: "rotateConnection", Target: id},
			func(ctx context.Context, client *prisma.Client) (Credentials, error) {
				answer, err := client.RotateConnection(ctx, id)
				return credentialsOf(answer), err
			})
		r.rotated = r.rotated || outcomeOf(err) == unknown
		if err == nil || !mayPass(err) {
			break
		}
	}
	if err == nil && rotated.ConnectionString == "" {
		err = fault.New(fault.PrismaUnavailable, "Prisma gave credentials without a connection string.", nil)
	}
	return rotated, err
}
