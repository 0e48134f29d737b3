package tenants

import (
	"cmp"
	"context"
	"fmt"

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

// kind is of what changed, as stored.
func (c ResourceChange) kind() string {
	switch {
	case c.CredentialsID != "":
		return "credentials"
	case c.DatabaseID != "":
		return "database"
	}
	return "project"
}

// tellGone tells that something was deleted, less what was told before, and forgets its
// connection strings that were kept for replays. What went with a project gets events of
// its own. False: all of it was told before.
func (s *Store) tellGone(ctx context.Context, tx pgx.Tx, by Actor, c ResourceChange) (bool, error) {
	var news []ResourceChange
	for _, part := range c.parts() {
		if err := eraseSecretsOf(ctx, tx, c.Tenant, OperationID{}, part.kind()+"_id", part.target()); err != nil {
			return false, err
		}
		first, err := firstToTell(ctx, tx, part)
		if err != nil {
			return false, err
		}
		if first {
			news = append(news, part)
		}
	}
	// Only now, since telling locks the end of the audit log, which nobody may hold who waits
	// for another that tells.
	for _, part := range news {
		event := map[string]string{
			"credentials": EventCredentialsDeleted, "database": EventDatabaseDeleted, "project": EventProjectDeleted,
		}[part.kind()]
		if err := s.tell(ctx, tx, by, part, change{event: event, target: part.target()}); err != nil {
			return false, err
		}
	}
	return len(news) > 0, nil
}

// parts are what went, each by itself, the project last.
func (c ResourceChange) parts() []ResourceChange {
	var parts []ResourceChange
	if c.kind() == "project" {
		for _, id := range c.DatabaseIDs {
			part := c
			part.DatabaseID = id
			parts = append(parts, part)
		}
	}
	return append(parts, c)
}

// firstToTell notes that something is told to be gone, and reports whether it is for the
// first time. Whoever tells of the same at the same time waits for this transaction.
func firstToTell(ctx context.Context, tx pgx.Tx, gone ResourceChange) (bool, error) {
	tag, err := tx.Exec(ctx, `
		INSERT INTO told_deletions (tenant_id, kind, resource_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING`,
		gone.Tenant, gone.kind(), PlainID(gone.target()))
	if err != nil {
		return false, fmt.Errorf("note what is told: %w", err)
	}
	return tag.RowsAffected() > 0, nil
}

// resourceChanged writes a change's event and audit row.
func (s *Store) resourceChanged(ctx context.Context, by Actor, c ResourceChange, told change) error {
	return s.inTenant(ctx, c.Tenant, func(tx pgx.Tx) error { return s.tell(ctx, tx, by, c, told) })
}

// tell writes a change's event and audit row, with all that c names.
func (s *Store) tell(ctx context.Context, tx pgx.Tx, by Actor, c ResourceChange, told change) error {
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
	told.data = data
	return s.record(ctx, tx, c.Tenant, by, told)
}
