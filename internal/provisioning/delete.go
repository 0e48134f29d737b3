package provisioning

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// DeleteProject deletes a project with everything in it; each of its databases gets an
// event of its own.
//
// Errors: those of GetProject, but none when it is gone because of a call whose answer
// got lost; fault.Conflict when Prisma refuses to delete it. After
// fault.PrismaUnavailable the project may be gone; the call may be repeated.
func (s *Service) DeleteProject(ctx context.Context, by tenants.Actor, tenant tenants.TenantID,
	connection tenants.ConnectionID, id string,
) error {
	change := tenants.ResourceChange{Tenant: tenant, Connection: connection, ProjectID: id}
	project, err := s.GetProject(ctx, tenant, connection, id)
	if err != nil {
		return s.goneBefore(ctx, by, change, err)
	}
	change.ProjectID = project.ID
	databases, err := databasesIn(ctx, s, scope{tenant, connection}, project.ID)
	if err != nil {
		return s.goneBefore(ctx, by, change, err)
	}
	for _, database := range databases {
		change.DatabaseIDs = append(change.DatabaseIDs, database.ID)
	}
	err = s.remove(ctx, by, projectRemoval(change))
	if statusOf(err) == http.StatusBadRequest {
		return fault.New(fault.Conflict, "Prisma does not delete this project as it is now.", err)
	}
	return err
}

// DeleteDatabase deletes a database that is not its project's default.
//
// Errors: fault.DefaultDatabase, with the project's id as the extra member
// "projectId", for one that is; those of GetDatabase, but none when it is gone because
// of a call whose answer got lost. After fault.PrismaUnavailable the database may be
// gone; the call may be repeated.
func (s *Service) DeleteDatabase(ctx context.Context, by tenants.Actor, tenant tenants.TenantID,
	connection tenants.ConnectionID, id string,
) error {
	change := tenants.ResourceChange{Tenant: tenant, Connection: connection, DatabaseID: id}
	database, err := s.GetDatabase(ctx, tenant, connection, id)
	if err != nil {
		return s.goneBefore(ctx, by, change, err)
	}
	if database.IsDefault {
		return fault.New(fault.DefaultDatabase,
			"This is its project's default database, which can only be deleted with the project.", nil).
			WithExtra("projectId", database.ProjectID)
	}
	change.ProjectID, change.DatabaseID = database.ProjectID, database.ID
	return s.remove(ctx, by, databaseRemoval(change))
}

// DeleteCredentials deletes credentials of that database: what uses their connection
// string is locked out.
//
// Errors: as DeleteDatabase; fault.NotFound also when the database has no such
// credentials. After fault.PrismaUnavailable they may be gone; the call may be repeated.
func (s *Service) DeleteCredentials(ctx context.Context, by tenants.Actor, tenant tenants.TenantID,
	connection tenants.ConnectionID, databaseID, id string,
) error {
	if err := checkCredentials(databaseID, id); err != nil {
		return err
	}
	change := tenants.ResourceChange{
		Tenant: tenant, Connection: connection,
		DatabaseID: databasePrefix + bare(databasePrefix, databaseID), CredentialsID: id,
	}
	credentials, err := s.getCredentials(ctx, scope{tenant, connection}, databaseID, id)
	if err != nil {
		return s.goneBefore(ctx, by, change, err)
	}
	change.CredentialsID = credentials.ID
	return s.remove(ctx, by, credentialsRemoval(change))
}

func checkCredentials(databaseID, id string) error {
	if err := checkID(databasePrefix, databaseID); err != nil {
		return err
	}
	return checkPlainID(id)
}

// removal is the deletion of one thing: how it is done, how to look whether it is, and
// what it is that goes.
type removal struct {
	tenants.ResourceChange

	operation string // at Prisma
	target    string
	remove    func(ctx context.Context, client *prisma.Client, id string) error
	get       func(ctx context.Context, client *prisma.Client, id string) error
}

func projectRemoval(change tenants.ResourceChange) removal {
	return removal{
		ResourceChange: change, operation: "deleteProject", target: change.ProjectID,
		remove: func(ctx context.Context, client *prisma.Client, id string) error {
			return client.DeleteProject(ctx, id)
		},
		get: func(ctx context.Context, client *prisma.Client, id string) error {
			_, err := client.GetProject(ctx, id)
			return err
		},
	}
}

func databaseRemoval(change tenants.ResourceChange) removal {
	return removal{
		ResourceChange: change, operation: "deleteDatabase", target: change.DatabaseID,
		remove: func(ctx context.Context, client *prisma.Client, id string) error {
			return client.DeleteDatabase(ctx, id)
		},
		get: func(ctx context.Context, client *prisma.Client, id string) error {
			_, err := client.GetDatabase(ctx, id)
			return err
		},
	}
}

func credentialsRemoval(change tenants.ResourceChange) removal {
	return removal{
		ResourceChange: change, operation: "deleteConnection", target: change.CredentialsID,
		remove: func(ctx context.Context, client *prisma.Client, id string) error {
			return client.DeleteConnection(ctx, id)
		},
		get: func(ctx context.Context, client *prisma.Client, id string) error {
			_, err := client.GetConnection(ctx, id)
			return err
		},
	}
}

// removalOf is the removal that was begun.
func removalOf(d tenants.Deletion) removal {
	switch {
	case d.CredentialsID != "":
		return credentialsRemoval(d.ResourceChange)
	case d.DatabaseID != "":
		return databaseRemoval(d.ResourceChange)
	}
	return projectRemoval(d.ResourceChange)
}

func (r removal) at() scope { return scope{r.Tenant, r.Connection} }

// remove deletes something and tells of it. From here on the client's patience does not
// matter: what is deleted must be told. What there will be to tell is stored before
// anything is sent, so that the next call or a look can do it if this process dies.
func (s *Service) remove(ctx context.Context, by tenants.Actor, r removal) error {
	ctx = context.WithoutCancel(ctx)
	begun, err := s.store.BeginDeletion(ctx, r.ResourceChange)
	if err != nil {
		return err
	}
	doubtful, err := s.deleteSurely(ctx, by, r)
	switch {
	case err == nil:
		_, err = s.tellGone(ctx, by, r.ResourceChange)
	case gone(err):
		s.cancel(ctx, begun) // it went before, and may have been told
		return s.goneBefore(ctx, by, r.ResourceChange, err)
	case !doubtful:
		s.cancel(ctx, begun)
	}
	return err
}

// cancel forgets a deletion that was not done. If that fails, looks find the thing there
// for a day, and forget it then.
func (s *Service) cancel(ctx context.Context, begun tenants.Deletion) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if err := s.store.CancelDeletion(ctx, begun); err != nil {
		s.logger.WarnContext(ctx, "a deletion that was not done is still noted", slog.String("error", err.Error()))
	}
}

func (s *Service) tellGone(ctx context.Context, by tenants.Actor, gone tenants.ResourceChange) (told bool, err error) {
	err = s.save(context.WithoutCancel(ctx), func(ctx context.Context) (err error) {
		told, err = s.store.FinishDeletion(ctx, by, gone)
		return err
	})
	return told, err
}

// goneBefore is the answer to a deletion of something that Prisma does not have: none of
// an error if it went by a call of ours that nobody told of yet. An error about something
// else is returned as it is.
func (s *Service) goneBefore(ctx context.Context, by tenants.Actor, what tenants.ResourceChange, cause error) error {
	if !gone(cause) {
		return cause
	}
	told, err := s.tellGone(ctx, by, what)
	if err != nil || told {
		return err
	}
	return cause
}

// deleteSurely repeats a deletion whose outcome is unknown: that it is gone is then what
// was wanted. With an error it reports whether the thing may be gone, or go, all the same.
func (s *Service) deleteSurely(ctx context.Context, by tenants.Actor, r removal) (doubtful bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.deadline)
	defer cancel()
	what := tenants.OutgoingCall{Operation: r.operation, Target: r.target}
	if r.Operation != (tenants.OperationID{}) {
		what.OperationID = r.Operation.String()
	}
	var before error
	for _, pause := range s.patience {
		if ended := wait(ctx, pause); ended != nil {
			return before != nil, cmp.Or(before, ended)
		}
		_, err := changing(ctx, s, by, r.at(), what, func(ctx context.Context, client *prisma.Client) (struct{}, error) {
			return struct{}{}, r.remove(ctx, client, r.target)
		})
		if before != nil && gone(err) {
			return false, nil
		}
		if outcomeOf(err) != unknown {
			return before != nil, err
		}
		before = err
	}
	return true, before
}
