package tenants

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Deletion is the intent to delete something at Prisma, with what is to be told when it
// is gone.
type Deletion struct {
	ResourceChange

	// Age is how long ago it began.
	Age time.Duration

	id uuid.UUID
}

// BeginDeletion stores that something is about to be deleted: what c names last of
// project, database and credentials. It is committed when BeginDeletion returns; on an
// error the deletion must not be sent. FinishDeletion and CancelDeletion end it; until
// then DeletionsInDoubt returns it again and again. fault.NotFound: there is no such
// connection.
func (s *Store) BeginDeletion(ctx context.Context, c ResourceChange) (Deletion, error) {
	d := Deletion{ResourceChange: c, id: newID()}
	var operation *uuid.UUID
	if c.Operation != (OperationID{}) {
		operation = &c.Operation.UUID
	}
	err := s.inTenant(ctx, c.Tenant, func(tx pgx.Tx) error {
		if _, err := provisioningData(ctx, tx, c.Tenant, c.Connection); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, `
			INSERT INTO deletions (tenant_id, id, connection_id, resource_id, project_id, database_id, credentials_id,
				database_ids, operation_id, look_at)
			VALUES ($1, $2, $3, $4, NULLIF($5, ''), NULLIF($6, ''), NULLIF($7, ''), coalesce($8, '{}'::text[]), $9, app.now() + $10::interval)`,
			c.Tenant, d.id, c.Connection, PlainID(c.target()), c.ProjectID, c.DatabaseID, c.CredentialsID, c.DatabaseIDs, operation, sweepFirst)
		if err != nil {
			return fmt.Errorf("begin deletion: %w", err)
		}
		return nil
	})
	return d, err
}

// CancelDeletion forgets a deletion that was not done.
func (s *Store) CancelDeletion(ctx context.Context, d Deletion) error {
	return s.inTenant(ctx, d.Tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM deletions WHERE tenant_id = $1 AND id = $2`, d.Tenant, d.id); err != nil {
			return fmt.Errorf("cancel deletion: %w", err)
		}
		return nil
	})
}

// FinishDeletion tells that what gone names last is gone, if somebody began to delete it
// through that connection: by events, one for each database that went with a project. It
// erases the connection strings of it that were kept for replays. Of several deletions of
// one thing, and of several calls, one tells; false: there is nothing to tell.
func (s *Store) FinishDeletion(ctx context.Context, by Actor, gone ResourceChange) (told bool, err error) {
	err = s.inTenant(ctx, gone.Tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			DELETE FROM deletions WHERE tenant_id = $1 AND connection_id = $2 AND resource_id = $3 AND `+deletionKind+` = $4
			RETURNING `+deletionColumns, gone.Tenant, gone.Connection, PlainID(gone.target()), gone.kind())
		if err != nil {
			return fmt.Errorf("finish deletion: %w", err)
		}
		begun, err := pgx.CollectRows(rows, scanDeletion)
		if err != nil {
			return fmt.Errorf("finish deletion: %w", err)
		}
		if told = len(begun) > 0; !told {
			return nil
		}
		told, err = s.tellGone(ctx, tx, by, merge(begun))
		return err
	})
	return told && err == nil, err
}

// merge is what several deletions of one thing know of it together.
func merge(begun []Deletion) ResourceChange {
	all := begun[0].ResourceChange
	for _, other := range begun[1:] {
		all.ProjectID = cmp.Or(all.ProjectID, other.ProjectID)
		all.DatabaseID = cmp.Or(all.DatabaseID, other.DatabaseID)
		all.DatabaseIDs = append(all.DatabaseIDs, other.DatabaseIDs...)
	}
	slices.Sort(all.DatabaseIDs)
	all.DatabaseIDs = slices.Compact(all.DatabaseIDs)
	return all
}

// ForgetDeletions forgets what was told so long ago that no other deletion of it is open
// any more, of every tenant. It returns how many; 0 means that nothing is left.
func (s *Store) ForgetDeletions(ctx context.Context) (int, error) {
	var forgotten int64
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			DELETE FROM told_deletions WHERE (tenant_id, kind, resource_id) IN (
				SELECT tenant_id, kind, resource_id FROM told_deletions WHERE told_at <= app.now() - $1::interval
				ORDER BY told_at LIMIT $2 FOR UPDATE SKIP LOCKED)`, toldKept, sweepBatch)
		forgotten = tag.RowsAffected()
		return err
	})
	return int(forgotten), err
}

// DeletionsInDoubt returns up to 100 deletions of all tenants of which it is time to look
// whether the thing is gone, and puts the next look off: to half a minute at first, to
// ten minutes later.
func (s *Store) DeletionsInDoubt(ctx context.Context) ([]Deletion, error) {
	var list []Deletion
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			UPDATE deletions SET look_at = app.now() + least($2::interval, greatest($3::interval, app.now() - begun_at))
			WHERE (tenant_id, id) IN (
				SELECT tenant_id, id FROM deletions WHERE look_at <= app.now() ORDER BY look_at LIMIT $1 FOR UPDATE SKIP LOCKED)
			RETURNING `+deletionColumns, sweepBatch, sweepEvery, sweepFirst)
		if err != nil {
			return fmt.Errorf("find deletions in doubt: %w", err)
		}
		list, err = pgx.CollectRows(rows, scanDeletion)
		return err
	})
	return list, err
}

// toldKept is how long it is known what was told to be gone. No deletion is open as long as
// that: who looks whether it is done gives up after KeyLife.
const toldKept = KeyLife + SweepFor

// deletionKind is ResourceChange.kind in SQL.
const deletionKind = `CASE WHEN credentials_id IS NOT NULL THEN 'credentials' WHEN database_id IS NOT NULL THEN 'database' ELSE 'project' END`

const deletionColumns = `tenant_id, id, connection_id, coalesce(project_id, ''), coalesce(database_id, ''),
	coalesce(credentials_id, ''), database_ids, operation_id, app.now() - begun_at`

func scanDeletion(row pgx.CollectableRow) (Deletion, error) {
	var d Deletion
	var operation *uuid.UUID
	err := row.Scan(&d.Tenant, &d.id, &d.Connection, &d.ProjectID, &d.DatabaseID, &d.CredentialsID, &d.DatabaseIDs, &operation, &d.Age)
	if operation != nil {
		d.Operation = OperationID{*operation}
	}
	return d, err
}
