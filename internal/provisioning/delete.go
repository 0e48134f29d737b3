package provisioning

import (
	"cmp"
	"context"
	"net/http"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// DeleteProject deletes a project with everything in it; each of its databases gets an
// event of its own.
//
// Errors: those of GetProject; fault.Conflict when Prisma refuses to delete it. After
// fault.PrismaUnavailable the project may be gone; the call may be repeated.
func (s *Service) DeleteProject(ctx context.Context, by tenants.Actor, tenant tenants.TenantID,
	connection tenants.ConnectionID, id string,
) error {
	project, err := s.GetProject(ctx, tenant, connection, id)
	if err != nil {
		return err
	}
	at := scope{tenant, connection}
	databases, err := databasesIn(ctx, s, at, project.ID)
	if err != nil {
		return err
	}
	told := tenants.ResourceChange{Tenant: tenant, Connection: connection, ProjectID: project.ID}
	for _, database := range databases {
		told.DatabaseIDs = append(told.DatabaseIDs, database.ID)
	}
	err = s.remove(ctx, by, at, tenants.OutgoingCall{Operation: "deleteProject", Target: project.ID},
		func(ctx context.Context, client *prisma.Client) error { return client.DeleteProject(ctx, project.ID) },
		func(ctx context.Context) error { return s.store.ProjectDeleted(ctx, by, told) })
	if statusOf(err) == http.StatusBadRequest {
		return fault.New(fault.Conflict, "Prisma does not delete this project as it is now.", err)
	}
	return err
}

// DeleteDatabase deletes a database that is not its project's default.
//
// Errors: fault.DefaultDatabase, with the project's id as the extra member
// "projectId", for one that is; those of GetDatabase. After fault.PrismaUnavailable
// the database may be gone; the call may be repeated.
func (s *Service) DeleteDatabase(ctx context.Context, by tenants.Actor, tenant tenants.TenantID,
	connection tenants.ConnectionID, id string,
) error {
	database, err := s.GetDatabase(ctx, tenant, connection, id)
	if err != nil {
		return err
	}
	if database.IsDefault {
		return fault.New(fault.DefaultDatabase,
			"This is its project's default database, which can only be deleted with the project.", nil).
			WithExtra("projectId", database.ProjectID)
	}
	return s.remove(ctx, by, scope{tenant, connection}, tenants.OutgoingCall{Operation: "deleteDatabase", Target: database.ID},
		func(ctx context.Context, client *prisma.Client) error { return client.DeleteDatabase(ctx, database.ID) },
		func(ctx context.Context) error {
			return s.store.DatabaseDeleted(ctx, by, tenants.ResourceChange{
				Tenant: tenant, Connection: connection, ProjectID: database.ProjectID, DatabaseID: database.ID,
			})
		})
}

// DeleteCredentials deletes credentials of that database: what uses their connection
// string is locked out.
//
// Errors: as GetDatabase; fault.NotFound also when the database has no such
// credentials. After fault.PrismaUnavailable they may be gone; the call may be repeated.
func (s *Service) DeleteCredentials(ctx context.Context, by tenants.Actor, tenant tenants.TenantID,
	connection tenants.ConnectionID, databaseID, id string,
) error {
	if err := checkCredentials(databaseID, id); err != nil {
		return err
	}
	at := scope{tenant, connection}
	credentials, err := s.getCredentials(ctx, at, databaseID, id)
	if err != nil {
		return err
	}
	return s.remove(ctx, by, at, tenants.OutgoingCall{Operation: "deleteConnection", Target: credentials.ID},
		func(ctx context.Context, client *prisma.Client) error {
			return client.DeleteConnection(ctx, credentials.ID)
		},
		func(ctx context.Context) error {
			return s.store.CredentialsDeleted(ctx, by, tenants.ResourceChange{
				Tenant: tenant, Connection: connection,
				DatabaseID: databasePrefix + bare(databasePrefix, databaseID), CredentialsID: credentials.ID,
			})
		})
}

func checkCredentials(databaseID, id string) error {
	if err := checkID(databasePrefix, databaseID); err != nil {
		return err
	}
	return checkPlainID(id)
}

// remove deletes something and tells of it. From here on the client's patience does not
// matter: what is deleted must be told.
func (s *Service) remove(ctx context.Context, by tenants.Actor, at scope, what tenants.OutgoingCall,
	del func(ctx context.Context, client *prisma.Client) error, tell func(ctx context.Context) error,
) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.deadline)
	defer cancel()
	if err := s.deleteSurely(ctx, by, at, what, del); err != nil {
		return err
	}
	return s.save(ctx, tell)
}

// deleteSurely repeats a deletion whose outcome is unknown: that it is gone is
// then what was wanted.
func (s *Service) deleteSurely(ctx context.Context, by tenants.Actor, at scope, what tenants.OutgoingCall,
	del func(ctx context.Context, client *prisma.Client) error,
) error {
	var before error
	for _, pause := range s.patience {
		if ended := wait(ctx, pause); ended != nil {
			return cmp.Or(before, ended)
		}
		_, err := changing(ctx, s, by, at, what, func(ctx context.Context, client *prisma.Client) (struct{}, error) {
			return struct{}{}, del(ctx, client)
		})
		if before != nil && gone(err) {
			return nil
		}
		if outcomeOf(err) != unknown {
			return err
		}
		before = err
	}
	return before
}
