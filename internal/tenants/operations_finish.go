package tenants

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
)

// Made is what an operation made: its ids, and the answer for its client.
type Made struct {
	ResourceID string          // Prisma's id of what the operation is about
	Answer     json.RawMessage // a JSON object without secrets, below 20 KB
	Secret     string          // the connection string; "": none

	ProjectID     string // the project made or used; "" with credentials
	NewProject    bool   // a database operation made the project too
	DatabaseID    string // "" for a project alone
	CredentialsID string // "" for a project alone
}

// FinishOperation stores what an operation made, with its events and audit rows,
// and returns it as BeginOperation does from then on. It may be repeated after an
// error.
//
// An operation that is done already, by this or another holder, keeps its first
// answer, which is returned. fault.OperationInProgress: somebody else has taken
// it up and is not done yet.
func (s *Store) FinishOperation(ctx context.Context, by Actor, op Operation, made Made) (Operation, error) {
	var sealed []byte
	if made.Secret != "" {
		var err error
		if sealed, err = s.keyset.Seal([]byte(made.Secret), operationPlace(op)); err != nil {
			return Operation{}, err
		}
	}
	var done Operation
	err := s.inTenant(ctx, op.Tenant, func(tx pgx.Tx) error {
		row, err := operationByID(ctx, tx, op)
		if err != nil {
			return err
		}
		if row.status == OperationDone {
			done, err = s.answerOf(ctx, tx, row)
			return err
		}
		if row.status != OperationRunning || row.Attempt != op.Attempt {
			return errInProgress()
		}
		_, err = tx.Exec(ctx, `
			UPDATE operations SET status = 'done', finished_at = app.now(), resource_id = $3, answer = $4,
				database_id = NULLIF($7, ''),
				-- Without a key nobody can ask for the answer again.
				secret_sealed = CASE WHEN idempotency_key IS NOT NULL THEN $5::bytea END,
				secret_until = CASE WHEN idempotency_key IS NOT NULL AND $5::bytea IS NOT NULL THEN app.now() + $6::interval END
			WHERE tenant_id = $1 AND id = $2`,
			op.Tenant, op.ID, made.ResourceID, made.Answer, sealed, SecretReplay, made.DatabaseID)
		if err != nil {
			return fmt.Errorf("finish operation: %w", err)
		}
		done = op
		done.Done, done.Answer, done.Secret = true, made.Answer, made.Secret
		return s.recordMade(ctx, tx, by, op, made)
	})
	return done, err
}

func operationByID(ctx context.Context, tx pgx.Tx, op Operation) (operationRow, error) {
	rows, err := tx.Query(ctx, selectOperation+` WHERE tenant_id = $1 AND id = $2 FOR UPDATE`, op.Tenant, op.ID, KeyLife)
	if err != nil {
		return operationRow{}, fmt.Errorf("read operation: %w", err)
	}
	row, err := pgx.CollectExactlyOneRow(rows, scanOperation)
	if errors.Is(err, pgx.ErrNoRows) {
		return operationRow{}, fault.New(fault.NotFound, "There is no such operation.", err)
	}
	return row, err
}

// recordMade tells of everything that an operation made.
func (s *Store) recordMade(ctx context.Context, tx pgx.Tx, by Actor, op Operation, made Made) error {
	data, err := provisioningData(ctx, tx, op.Tenant, op.Connection)
	if err != nil {
		return err
	}
	data["operationId"] = op.ID.String()
	for name, id := range map[string]string{"projectId": made.ProjectID, "databaseId": made.DatabaseID} {
		if id != "" {
			data[name] = id
		}
	}
	if op.Kind == OperationCreateProject || made.NewProject {
		err := s.record(ctx, tx, op.Tenant, by, change{event: EventProjectCreated, target: made.ProjectID, data: data})
		if err != nil || op.Kind == OperationCreateProject {
			return err
		}
	}
	if made.CredentialsID != "" {
		data["credentialsId"] = made.CredentialsID
	}
	event := EventDatabaseCreated
	if op.Kind == OperationCreateCredentials {
		event = EventCredentialsCreated
	}
	return s.record(ctx, tx, op.Tenant, by, change{event: event, target: made.ResourceID, data: data})
}

// provisioningData is what every event about something in a workspace says. The
// connection may have been disconnected meanwhile: what was made stays made.
func provisioningData(ctx context.Context, tx pgx.Tx, tenant TenantID, id ConnectionID) (map[string]any, error) {
	var userID, workspaceID string
	err := tx.QueryRow(ctx, `SELECT user_id, workspace_id FROM connections WHERE tenant_id = $1 AND id = $2`, tenant, id).
		Scan(&userID, &workspaceID)
	if err != nil {
		return nil, fmt.Errorf("read connection: %w", err)
	}
	return map[string]any{"connectionId": id.String(), "userId": userID, "workspaceId": workspaceID}, nil
}

// DatabaseDeleted notes that a database of a connection's workspace was deleted,
// and forgets its connection strings that were kept for replays.
func (s *Store) DatabaseDeleted(ctx context.Context, by Actor, tenant TenantID, id ConnectionID, databaseID, projectID string,
) error {
	return s.inTenant(ctx, tenant, func(tx pgx.Tx) error {
		data, err := provisioningData(ctx, tx, tenant, id)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `
			UPDATE operations SET secret_sealed = NULL
			WHERE tenant_id = $1 AND database_id = $2 AND secret_sealed IS NOT NULL`, tenant, databaseID)
		if err != nil {
			return fmt.Errorf("erase secrets: %w", err)
		}
		data["databaseId"], data["projectId"] = databaseID, projectID
		return s.record(ctx, tx, tenant, by, change{event: EventDatabaseDeleted, target: databaseID, data: data})
	})
}

// EraseSecrets erases the connection strings that are kept for replays and whose
// time is over, of every tenant. It returns how many; 0 means that nothing is left.
func (s *Store) EraseSecrets(ctx context.Context) (int, error) {
	var erased int64
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			UPDATE operations SET secret_sealed = NULL WHERE (tenant_id, id) IN (
				SELECT tenant_id, id FROM operations
				WHERE secret_sealed IS NOT NULL AND secret_until <= app.now()
				ORDER BY secret_until LIMIT $1 FOR UPDATE SKIP LOCKED)`, sweepBatch)
		erased = tag.RowsAffected()
		return err
	})
	return int(erased), err
}

// NotMadeByOthers returns those of the ids that no other operation of the tenant made,
// in their order, and so may be what op made in an attempt whose answer was lost.
// While the same request runs in another operation too, or ended there unknown,
// none is: it could be that one's.
func (s *Store) NotMadeByOthers(ctx context.Context, op Operation, ids []string) ([]string, error) {
	var free []string
	err := s.inTenant(ctx, op.Tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT candidate FROM unnest($3::text[]) WITH ORDINALITY AS c (candidate, place)
			WHERE NOT EXISTS (SELECT FROM operations o WHERE o.tenant_id = $1 AND o.resource_id = candidate)
			  AND NOT EXISTS (
				SELECT FROM operations me JOIN operations twin
				    ON twin.tenant_id = me.tenant_id AND twin.kind = me.kind AND twin.request_hash = me.request_hash
				WHERE me.tenant_id = $1 AND me.id = $2 AND twin.id <> me.id AND twin.status IN ('running', 'unknown'))
			ORDER BY place`, op.Tenant, op.ID, ids)
		if err != nil {
			return fmt.Errorf("look for resources that nobody made: %w", err)
		}
		free, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return free, err
}
