package tenants

import (
	"context"
	"maps"

	"github.com/jackc/pgx/v5"
)

// ResourceChange is a change to something in a connection's workspace that is not an
// operation. Ids are Prisma's; those that do not apply are "".
type ResourceChange struct {
	Tenant     TenantID
	Connection ConnectionID

	ProjectID     string
	DatabaseID    string
	CredentialsID string

	// DatabaseIDs are the databases that went with a project.
	DatabaseIDs []string
}

// ProjectUpdated tells that a project has another name.
func (s *Store) ProjectUpdated(ctx context.Context, by Actor, c ResourceChange) error {
	return s.resourceChanged(ctx, by, c, nil, change{event: EventProjectUpdated, target: c.ProjectID})
}

// ProjectDeleted tells that a project was deleted and its databases with it, one event
// each, and forgets their connection strings that were kept for replays.
func (s *Store) ProjectDeleted(ctx context.Context, by Actor, c ResourceChange) error {
	erase := func(ctx context.Context, tx pgx.Tx) error {
		for _, id := range c.DatabaseIDs {
			if err := eraseSecretsOf(ctx, tx, c.Tenant, OperationID{}, "database_id", id); err != nil {
				return err
			}
		}
		return eraseSecretsOf(ctx, tx, c.Tenant, OperationID{}, "project_id", c.ProjectID)
	}
	changes := make([]change, 0, len(c.DatabaseIDs)+1)
	for _, id := range c.DatabaseIDs {
		changes = append(changes, change{event: EventDatabaseDeleted, target: id, data: map[string]any{"databaseId": id}})
	}
	return s.resourceChanged(ctx, by, c, erase, append(changes, change{event: EventProjectDeleted, target: c.ProjectID})...)
}

// DatabaseUpdated tells that a database has another name.
func (s *Store) DatabaseUpdated(ctx context.Context, by Actor, c ResourceChange) error {
	return s.resourceChanged(ctx, by, c, nil, change{event: EventDatabaseUpdated, target: c.DatabaseID})
}

// DatabaseDeleted tells that a database was deleted, and forgets its connection strings
// that were kept for replays.
func (s *Store) DatabaseDeleted(ctx context.Context, by Actor, c ResourceChange) error {
	erase := func(ctx context.Context, tx pgx.Tx) error {
		return eraseSecretsOf(ctx, tx, c.Tenant, OperationID{}, "database_id", c.DatabaseID)
	}
	return s.resourceChanged(ctx, by, c, erase, change{event: EventDatabaseDeleted, target: c.DatabaseID})
}

// CredentialsDeleted tells that credentials were deleted, and forgets their connection
// string.
func (s *Store) CredentialsDeleted(ctx context.Context, by Actor, c ResourceChange) error {
	erase := func(ctx context.Context, tx pgx.Tx) error {
		return eraseSecretsOf(ctx, tx, c.Tenant, OperationID{}, "credentials_id", c.CredentialsID)
	}
	return s.resourceChanged(ctx, by, c, erase, change{event: EventCredentialsDeleted, target: c.CredentialsID})
}

// resourceChanged writes events and audit rows in one transaction, after what else the
// change needs.
func (s *Store) resourceChanged(ctx context.Context, by Actor, c ResourceChange,
	first func(ctx context.Context, tx pgx.Tx) error, changes ...change,
) error {
	return s.inTenant(ctx, c.Tenant, func(tx pgx.Tx) error {
		data, err := provisioningData(ctx, tx, c.Tenant, c.Connection)
		if err != nil {
			return err
		}
		if first != nil {
			if err := first(ctx, tx); err != nil {
				return err
			}
		}
		for name, id := range map[string]string{
			"projectId": c.ProjectID, "databaseId": c.DatabaseID, "credentialsId": c.CredentialsID,
		} {
			if id != "" {
				data[name] = id
			}
		}
		for _, told := range changes {
			told.data = merged(data, told.data)
			if err := s.record(ctx, tx, c.Tenant, by, told); err != nil {
				return err
			}
		}
		return nil
	})
}

// merged returns both maps' entries; those of more win.
func merged(base, more map[string]any) map[string]any {
	all := maps.Clone(base)
	maps.Copy(all, more)
	return all
}
