package provisioning

import (
	"context"

	"github.com/connect-prisma/server/internal/tenants"
)

// CreateProject makes an empty project: Prisma shows the connection string of a
// first database once, and here nobody would see it.
//
// Errors: fault.InvalidValue names the fields that are refused, before anything is
// sent; fault.NotFound and fault.ReconnectRequired, about the connection;
// fault.IdempotencyConflict and fault.OperationInProgress, about the key; those of
// prisma.FaultOf. After fault.PrismaUnavailable the project may have been made: the
// same request with the same key finds out, and makes it if it was not.
func (s *Service) CreateProject(ctx context.Context, by tenants.Actor, tenant tenants.TenantID,
	connection tenants.ConnectionID, in NewProject,
) (Created[Project], error) {
	bad := newRefusal()
	checkName(bad, in.Name)
	if err := s.checkRegion(ctx, tenant, bad, in.Region); err != nil {
		return Created[Project]{}, err
	}
	return create(ctx, s, by, creation[Project]{
		bad: bad, at: scope{tenant, connection}, kind: tenants.OperationCreateProject, key: in.IdempotencyKey,
		asked: []string{in.Name, in.Region}, request: request{Name: in.Name, Region: in.Region},
		make: func(ctx context.Context, r *run) (Project, tenants.Made, error) {
			return r.makeProject(ctx, in)
		},
		replay: func(*Project, string) {},
	})
}

// CreateDatabase makes a database, in a project of its own unless one is named,
// with credentials to open it. Errors: as CreateProject; fault.NotFound also when
// there is no such project.
func (s *Service) CreateDatabase(ctx context.Context, by tenants.Actor, tenant tenants.TenantID,
	connection tenants.ConnectionID, in NewDatabase,
) (Created[Database], error) {
	bad := newRefusal()
	checkName(bad, in.Name)
	if in.ProjectID != "" && !isID(projectPrefix, in.ProjectID) {
		bad = bad.WithField("/projectId", "Use the id of a project.")
	}
	if in.ProjectID != "" && in.Region == "" {
		in.Region = inherit
	} else if err := s.checkRegion(ctx, tenant, bad, in.Region); err != nil {
		return Created[Database]{}, err
	}
	return create(ctx, s, by, creation[Database]{
		bad: bad, at: scope{tenant, connection}, kind: tenants.OperationCreateDatabase, key: in.IdempotencyKey,
		asked:   []string{in.Name, in.Region, bare(projectPrefix, in.ProjectID)},
		request: request{Name: in.Name, Region: in.Region, ProjectID: in.ProjectID},
		make: func(ctx context.Context, r *run) (Database, tenants.Made, error) {
			if in.ProjectID == "" {
				return r.makeProjectWithDatabase(ctx, in)
			}
			return r.makeDatabase(ctx, in)
		},
		replay: func(d *Database, secret string) {
			if secret == "" {
				d.Credentials = nil
			} else if d.Credentials != nil {
				d.Credentials.ConnectionString = secret
			}
		},
	})
}

// CreateCredentials makes further credentials for a database. Errors: as
// CreateProject; fault.NotFound also when there is no such database.
func (s *Service) CreateCredentials(ctx context.Context, by tenants.Actor, tenant tenants.TenantID,
	connection tenants.ConnectionID, databaseID string, in NewCredentials,
) (Created[Credentials], error) {
	bad := newRefusal()
	checkName(bad, in.Name)
	if err := refusal(bad); err != nil {
		return Created[Credentials]{}, err
	}
	if err := checkID(databasePrefix, databaseID); err != nil {
		return Created[Credentials]{}, err
	}
	return create(ctx, s, by, creation[Credentials]{
		at: scope{tenant, connection}, kind: tenants.OperationCreateCredentials, key: in.IdempotencyKey,
		asked:   []string{in.Name, bare(databasePrefix, databaseID)},
		request: request{Name: in.Name, DatabaseID: databaseID},
		make: func(ctx context.Context, r *run) (Credentials, tenants.Made, error) {
			return r.makeCredentials(ctx, databaseID, in.Name)
		},
		replay: func(c *Credentials, secret string) { c.ConnectionString = secret },
	})
}
