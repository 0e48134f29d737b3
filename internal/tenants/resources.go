package tenants

import (
	"cmp"
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

	// Operation is the one that had made twice what is deleted; zero: none.
	Operation OperationID
}

// target is the id of what changed.
func (c ResourceChange) target() string { return cmp.Or(c.CredentialsID, c.DatabaseID, c.ProjectID) }

// ProjectUpdated tells that a project has another name.
func (s *Store) ProjectUpdated(ctx context.Context, by Actor, c ResourceChange) error {
	return s.resourceChanged(ctx, by, c, change{event: EventProjectUpdated, target: c.ProjectID})
}

// DatabaseUpdated tells that a database has another name.
func (s *Store) DatabaseUpdated(ctx context.Context, by Actor, c ResourceChange) error {
	return s.resourceChanged(ctx, by, c, change{event: EventDatabaseUpdated, target: c.DatabaseID})
}

// tellGone tells that something was deleted, and forgets its connection strings that were
// kept for replays. What went with a project gets events of its own.
func (s *Store) tellGone(ctx context.Context, tx pgx.Tx, by Actor, c ResourceChange) error {
	var changes []change
	switch {
	case c.CredentialsID != "":
		changes = []change{{event: EventCredentialsDeleted, target: c.CredentialsID}}
	case c.DatabaseID != "":
		changes = []change{{event: EventDatabaseDeleted, target: c.DatabaseID}}
	default:
		for _, id := range c.DatabaseIDs {
			changes = append(changes, change{event: EventDatabaseDeleted, target: id, data: map[string]any{"databaseId": id}})
		}
		changes = append(changes, change{event: EventProjectDeleted, target: c.ProjectID})
	}
	for _, told := range changes {
		column := map[string]string{
			EventCredentialsDeleted: "credentials_id", EventDatabaseDeleted: "database_id", EventProjectDeleted: "project_id",
		}[told.event]
		if err := eraseSecretsOf(ctx, tx, c.Tenant, OperationID{}, column, told.target); err != nil {
			return err
		}
	}
	return s.tell(ctx, tx, by, c, changes...)
}

// resourceChanged writes a change's event and audit row.
func (s *Store) resourceChanged(ctx context.Context, by Actor, c ResourceChange, told change) error {
	return s.inTenant(ctx, c.Tenant, func(tx pgx.Tx) error { return s.tell(ctx, tx, by, c, told) })
}

// tell writes the events and audit rows of changes to c, each with all that c names.
func (s *Store) tell(ctx context.Context, tx pgx.Tx, by Actor, c ResourceChange, changes ...change) error {
	data, err := provisioningData(ctx, tx, c.Tenant, c.Connection)
	if err != nil {
		return err
	}
	for name, id := range map[string]string{
		"projectId": c.ProjectID, "databaseId": c.DatabaseID, "credentialsId": c.CredentialsID,
	} {
		if id != "" {
			data[name] = id
		}
	}
	if c.Operation != (OperationID{}) {
		data["operationId"] = c.Operation.String()
	}
	for _, told := range changes {
		told.data = merged(data, told.data)
		if err := s.record(ctx, tx, c.Tenant, by, told); err != nil {
			return err
		}
	}
	return nil
}

// merged returns both maps' entries; those of more win.
func merged(base, more map[string]any) map[string]any {
	all := maps.Clone(base)
	maps.Copy(all, more)
	return all
}
