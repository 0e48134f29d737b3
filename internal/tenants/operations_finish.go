package tenants

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
)

// Made is what an operation made or changed: its ids, and the answer for its client.
type Made struct {
	ResourceID string          // Prisma's id of what the operation is about
	Answer     json.RawMessage // a JSON object without secrets, below 20 KB
	Secret     string          // the connection string; "": none
	Gone       bool            // there was one, and it is somebody else's by now, or nobody's

	ProjectID     string // the project made or used; "" with credentials
	NewProject    bool   // a database operation made the project too
	DatabaseID    string // "" for a project alone
	CredentialsID string // "" for a project alone, and while nobody was given any

	// MayLand: another request of the operation may yet make the same again.
	MayLand bool
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
			// One that was found without its client has no secret, and made's is not kept.
			done.SecretExpired = done.SecretExpired || made.Secret != "" && done.Secret == ""
			if !row.Keyed && row.Attempt == op.Attempt && row.resource == made.ResourceID {
				// It is this very end, stored while its answer was lost, and nobody else can ask.
				done.Secret, done.SecretExpired = made.Secret, false
			}
			return err
		}
		if row.status != OperationRunning || row.Attempt != op.Attempt {
			return errInProgress()
		}
		if err := finishRow(ctx, tx, op, made, sealed); err != nil {
			return err
		}
		if op.Kind == OperationRotateCredentials {
			if err := eraseSecretsOf(ctx, tx, op.Tenant, op.ID, "credentials_id", made.CredentialsID); err != nil {
				return err
			}
		}
		done = op
		done.Done, done.Answer, done.Secret, done.SecretExpired = true, made.Answer, made.Secret, made.Gone
		return s.recordMade(ctx, tx, by, op, made)
	})
	return done, err
}

func finishRow(ctx context.Context, tx pgx.Tx, op Operation, made Made, sealed []byte) error {
	_, err := tx.Exec(ctx, `
		UPDATE operations SET status = 'done', finished_at = app.now(), resource_id = $3, answer = $4,
			project_id = NULLIF($7, ''), database_id = NULLIF($8, ''), credentials_id = NULLIF($9, ''),
			-- Without a key nobody can ask for the answer again.
			secret_sealed = CASE WHEN idempotency_key IS NOT NULL THEN $5::bytea END,
			secret_until = CASE WHEN $13::boolean THEN app.now()
				WHEN idempotency_key IS NOT NULL AND $5::bytea IS NOT NULL THEN app.now() + $6::interval END,
			sweep_at = CASE WHEN $10::boolean THEN app.now() + $11::interval END,
			sweep_until = CASE WHEN $10::boolean THEN app.now() + $12::interval END
		WHERE tenant_id = $1 AND id = $2`,
		op.Tenant, op.ID, made.ResourceID, made.Answer, sealed, SecretReplay,
		made.ProjectID, made.DatabaseID, made.CredentialsID, op.Kind.makes() && made.MayLand, sweepFirst, SweepFor, made.Gone)
	if err != nil {
		return fmt.Errorf("finish operation: %w", err)
	}
	return nil
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

// recordMade tells of everything that an operation made, less what was told when it
// had landed.
func (s *Store) recordMade(ctx context.Context, tx pgx.Tx, by Actor, op Operation, made Made) error {
	data, err := provisioningData(ctx, tx, op.Tenant, op.Connection)
	if err != nil {
		return err
	}
	data["operationId"] = op.ID.String()
	for name, id := range map[string]string{
		"projectId": made.ProjectID, "databaseId": made.DatabaseID, "credentialsId": made.CredentialsID,
	} {
		if id != "" {
			data[name] = id
		}
	}
	for _, c := range changesOf(op, made) {
		c.data = data
		if err := s.record(ctx, tx, op.Tenant, by, c); err != nil {
			return err
		}
	}
	return nil
}

// changesOf lists what there is to tell of an operation.
func changesOf(op Operation, made Made) []change {
	switch op.Kind {
	case OperationCreateProject:
		return []change{{event: EventProjectCreated, target: made.ProjectID}}
	case OperationRotateCredentials:
		return []change{{event: EventCredentialsRotated, target: made.CredentialsID}}
	case OperationRestoreDatabase:
		return []change{{event: EventDatabaseRestored, target: made.DatabaseID}}
	case OperationCreateCredentials:
		if op.Landed != nil {
			return nil // told; their first connection string is no news
		}
		return []change{{event: EventCredentialsCreated, target: made.CredentialsID}}
	case OperationCreateDatabase:
	}
	if op.Landed != nil {
		return []change{{event: EventCredentialsCreated, target: made.CredentialsID}}
	}
	database := change{event: EventDatabaseCreated, target: made.DatabaseID}
	if made.NewProject {
		return []change{{event: EventProjectCreated, target: made.ProjectID}, database}
	}
	return []change{database}
}

// provisioningData is what every event about something in a workspace says. The
// connection may have been disconnected meanwhile: what was made stays made.
func provisioningData(ctx context.Context, tx pgx.Tx, tenant TenantID, id ConnectionID) (map[string]any, error) {
	var userID, workspaceID string
	err := tx.QueryRow(ctx, `SELECT user_id, workspace_id FROM connections WHERE tenant_id = $1 AND id = $2`, tenant, id).
		Scan(&userID, &workspaceID)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "There is no such connection.", err)
	}
	if err != nil {
		return nil, fmt.Errorf("read connection: %w", err)
	}
	return map[string]any{"connectionId": id.String(), "userId": userID, "workspaceId": workspaceID}, nil
}

// eraseSecretsOf erases the connection strings that operations keep for replays and
// that no longer open anything: column names what went, except the operation that
// did it.
func eraseSecretsOf(ctx context.Context, tx pgx.Tx, tenant TenantID, except OperationID, column, id string) error {
	_, err := tx.Exec(ctx, `
		UPDATE operations SET secret_sealed = NULL
		WHERE tenant_id = $1 AND id <> $2 AND `+column+` = ANY($3) AND secret_sealed IS NOT NULL`, tenant, except, idForms(id))
	if err != nil {
		return fmt.Errorf("erase secrets: %w", err)
	}
	return nil
}

// ForgetString erases the connection string of credentials that is kept for replays, since
// they are about to be rotated: from then on it may open nothing.
func (s *Store) ForgetString(ctx context.Context, tenant TenantID, credentials string) error {
	return s.inTenant(ctx, tenant, func(tx pgx.Tx) error {
		return eraseSecretsOf(ctx, tx, tenant, OperationID{}, "credentials_id", credentials)
	})
}

// ForgetStringsOf is ForgetString of all credentials of databases that are about to go.
func (s *Store) ForgetStringsOf(ctx context.Context, tenant TenantID, databases []string) error {
	return s.inTenant(ctx, tenant, func(tx pgx.Tx) error {
		for _, id := range databases {
			if err := eraseSecretsOf(ctx, tx, tenant, OperationID{}, "database_id", id); err != nil {
				return err
			}
		}
		return nil
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
