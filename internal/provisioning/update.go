package provisioning

import (
	"context"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/tenants"
)

// UpdateProject gives a project another name. Repeating it is harmless, so it needs no
// operation.
//
// Errors: fault.InvalidValue, the name is refused; those of GetProject. After
// fault.PrismaUnavailable the project may have its new name.
func (s *Service) UpdateProject(ctx context.Context, by tenants.Actor, tenant tenants.TenantID,
	connection tenants.ConnectionID, id, name string,
) (Project, error) {
	if err := checkRename(projectPrefix, id, name); err != nil {
		return Project{}, err
	}
	updated, err := rename(ctx, s, by, scope{tenant, connection}, tenants.OutgoingCall{Operation: "updateProject", Target: id},
		func(ctx context.Context, client *prisma.Client) (managementapi.Project, error) {
			return client.UpdateProject(ctx, id, managementapi.UpdateProjectRequest{Name: &name})
		},
		func(ctx context.Context, p managementapi.Project) error {
			return s.store.ProjectUpdated(ctx, by, tenants.ResourceChange{Tenant: tenant, Connection: connection, ProjectID: p.ID})
		})
	if err != nil {
		return Project{}, err
	}
	return projectOf(updated), nil
}

// UpdateDatabase gives a database another name. Errors: as UpdateProject.
func (s *Service) UpdateDatabase(ctx context.Context, by tenants.Actor, tenant tenants.TenantID,
	connection tenants.ConnectionID, id, name string,
) (Database, error) {
	if err := checkRename(databasePrefix, id, name); err != nil {
		return Database{}, err
	}
	updated, err := rename(ctx, s, by, scope{tenant, connection}, tenants.OutgoingCall{Operation: "updateDatabase", Target: id},
		func(ctx context.Context, client *prisma.Client) (managementapi.Database, error) {
			return client.UpdateDatabase(ctx, id, managementapi.UpdateDatabaseRequest{Name: &name})
		},
		func(ctx context.Context, d managementapi.Database) error {
			return s.store.DatabaseUpdated(ctx, by, tenants.ResourceChange{
				Tenant: tenant, Connection: connection, ProjectID: d.Project.ID, DatabaseID: d.ID,
			})
		})
	if err != nil {
		return Database{}, err
	}
	return databaseOf(updated), nil
}

func checkRename(prefix, id, name string) error {
	bad := newRefusal()
	checkName(bad, name)
	if err := refusal(bad); err != nil {
		return err
	}
	return checkID(prefix, id)
}

// rename changes a name and tells of it. From the moment at which it is sent on, the
// client's patience does not matter.
func rename[T any](ctx context.Context, s *Service, by tenants.Actor, at scope, what tenants.OutgoingCall,
	change func(ctx context.Context, client *prisma.Client) (T, error), tell func(ctx context.Context, changed T) error,
) (T, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.deadline)
	defer cancel()
	what.Uses = []string{what.Target}
	changed, err := changing(ctx, s, by, at, what, change)
	switch {
	case err == nil:
		err = s.save(ctx, func(ctx context.Context) error { return tell(ctx, changed) })
	case outcomeOf(err) == unknown:
		err = fault.New(fault.PrismaUnavailable,
			"Prisma gave no clear answer, so the name may or may not have changed. Repeat the request.", err).
			WithRetryAfter(retryUnknown)
	}
	if err != nil {
		var none T
		return none, err
	}
	return changed, nil
}
