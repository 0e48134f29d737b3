package tenants

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/sealing"
)

// OperationKind says what an operation makes.
type OperationKind string

// The kinds.
const (
	OperationCreateProject     OperationKind = "create_project"
	OperationCreateDatabase    OperationKind = "create_database"
	OperationCreateCredentials OperationKind = "create_credentials" //nolint:gosec // the name of a kind, not a credential
)

// OperationStatus is where an operation stands.
type OperationStatus string

// The statuses.
const (
	OperationRunning OperationStatus = "running" // while its lease lasts; after that its holder is dead
	OperationUnknown OperationStatus = "unknown" // Prisma may have made it
	OperationDone    OperationStatus = "done"
	OperationFailed  OperationStatus = "failed" // nothing was made
)

// The times of an operation.
const (
	// SecretReplay is how long a repeated request gets the connection string again.
	SecretReplay = 60 * time.Minute
	// KeyLife is how long an idempotency key names its operation; later the same
	// key is a new one.
	KeyLife = 7 * 24 * time.Hour
	// inProgressAdvice is when to ask again for an operation that runs elsewhere.
	inProgressAdvice = 2 * time.Second
)

// NewOperation describes a creating call before anything is sent.
type NewOperation struct {
	Connection  ConnectionID
	Kind        OperationKind
	Key         string        // the client's idempotency key, 1 to 255 characters; "": none
	RequestHash [32]byte      // over everything that the client asked for
	Lease       time.Duration // how long it counts as running without a renewal
}

// Operation is one creating call: the right to go on with it, or its answer.
type Operation struct {
	ID         OperationID
	Tenant     TenantID
	Connection ConnectionID
	Kind       OperationKind
	Attempt    int64           // fences the writes of a holder that lost its lease
	Previous   OperationStatus // how the attempt before ended; "" at the first
	BeganAt    time.Time       // by the database's clock

	Done          bool
	Answer        json.RawMessage // with Done: what was answered, without its secret
	Secret        string          // with Done: the connection string, within SecretReplay
	SecretExpired bool            // with Done: there was a secret, and it is no longer kept
}

// String names the operation and shows no answer.
func (o Operation) String() string { return "operation " + o.ID.String() }

// GoString is String, so that %#v shows no secret either.
func (o Operation) GoString() string { return o.String() }

// BeginOperation stores an operation with a lease, before anything is sent. With
// a key that is known it resumes that operation, or answers it with Done.
//
// Errors: fault.NotFound and fault.ReconnectRequired, about the connection;
// fault.IdempotencyConflict, the key belongs to another request;
// fault.OperationInProgress, with RetryAfter, while another holder's lease lasts.
func (s *Store) BeginOperation(ctx context.Context, tenant TenantID, in NewOperation) (Operation, error) {
	var op Operation
	err := s.inTenant(ctx, tenant, func(tx pgx.Tx) error {
		connection, err := connectionRow(ctx, tx, tenant, in.Connection, "")
		if err != nil {
			return err
		}
		var fresh bool
		if op, fresh, err = insertOperation(ctx, tx, tenant, in); err != nil {
			return err
		}
		if !fresh {
			if op, err = s.resumeOperation(ctx, tx, tenant, in); err != nil {
				return err
			}
		}
		// An answer that is known can be given again; everything else needs the token.
		if !op.Done && connection.Status == ConnectionNeedsReconnect {
			return errReconnect()
		}
		return nil
	})
	if err != nil {
		return Operation{}, err
	}
	return op, nil
}

func errReconnect() error {
	return fault.New(fault.ReconnectRequired, "The user has to connect again.", nil)
}

// insertOperation stores a new operation and reports whether it did: false means
// that the key is taken.
func insertOperation(ctx context.Context, tx pgx.Tx, tenant TenantID, in NewOperation) (Operation, bool, error) {
	op := Operation{ID: OperationID{newID()}, Tenant: tenant, Connection: in.Connection, Kind: in.Kind, Attempt: 1}
	err := tx.QueryRow(ctx, `
		INSERT INTO operations (tenant_id, id, connection_id, kind, idempotency_key, request_hash, lease_until)
		VALUES ($1, $2, $3, $4, NULLIF($5, ''), $6, app.wall_clock() + $7::interval)
		ON CONFLICT (tenant_id, kind, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
		RETURNING created_at`,
		tenant, op.ID, in.Connection, in.Kind, in.Key, in.RequestHash[:], in.Lease).Scan(&op.BeganAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return Operation{}, false, nil
	}
	if err != nil {
		return Operation{}, false, fmt.Errorf("insert operation: %w", err)
	}
	return op, true, nil
}

// operationRow is an operation as it is stored.
type operationRow struct {
	Operation

	status      OperationStatus
	requestHash []byte
	leased      bool // its lease still lasts
	keyed       bool // its key still counts
	resource    string
	sealed      []byte
	secretUntil *time.Time
	now         time.Time
}

const selectOperation = `
	SELECT id, tenant_id, connection_id, kind, attempt, created_at, status, request_hash,
	       status = 'running' AND lease_until > app.wall_clock(), created_at > app.now() - $3::interval,
	       coalesce(resource_id, ''), answer, secret_sealed, secret_until, app.now()
	FROM operations`

func scanOperation(row pgx.CollectableRow) (operationRow, error) {
	var r operationRow
	err := row.Scan(&r.ID, &r.Tenant, &r.Connection, &r.Kind, &r.Attempt, &r.BeganAt, &r.status, &r.requestHash,
		&r.leased, &r.keyed, &r.resource, &r.Answer, &r.sealed, &r.secretUntil, &r.now)
	return r, err
}

// resumeOperation takes up the operation of a known key.
func (s *Store) resumeOperation(ctx context.Context, tx pgx.Tx, tenant TenantID, in NewOperation) (Operation, error) {
	rows, err := tx.Query(ctx, selectOperation+
		` WHERE tenant_id = $1 AND kind = $2 AND idempotency_key = $4 FOR UPDATE`, tenant, in.Kind, KeyLife, in.Key)
	if err != nil {
		return Operation{}, fmt.Errorf("read operation: %w", err)
	}
	row, err := pgx.CollectExactlyOneRow(rows, scanOperation)
	if errors.Is(err, pgx.ErrNoRows) { // it lost its key between our two statements
		return Operation{}, errInProgress()
	}
	if err != nil {
		return Operation{}, fmt.Errorf("read operation: %w", err)
	}
	switch {
	case !row.keyed && !row.leased:
		return renewKey(ctx, tx, tenant, in, row)
	case !bytes.Equal(row.requestHash, in.RequestHash[:]):
		return Operation{}, fault.New(fault.IdempotencyConflict,
			"This Idempotency-Key was used with another request; choose a new one.", nil)
	case row.status == OperationDone:
		return s.answerOf(ctx, tx, row)
	case row.leased:
		return Operation{}, errInProgress()
	}
	op := row.Operation
	op.Previous = row.status
	err = tx.QueryRow(ctx, `
		UPDATE operations SET status = 'running', attempt = attempt + 1, finished_at = NULL,
			lease_until = app.wall_clock() + $3::interval
		WHERE tenant_id = $1 AND id = $2 RETURNING attempt`, tenant, op.ID, in.Lease).Scan(&op.Attempt)
	if err != nil {
		return Operation{}, fmt.Errorf("resume operation: %w", err)
	}
	return op, nil
}

// renewKey takes an outlived key from its old operation and begins a new one.
func renewKey(ctx context.Context, tx pgx.Tx, tenant TenantID, in NewOperation, old operationRow) (Operation, error) {
	_, err := tx.Exec(ctx, `
		UPDATE operations SET idempotency_key = NULL WHERE tenant_id = $1 AND id = $2`, tenant, old.ID)
	if err != nil {
		return Operation{}, fmt.Errorf("retire key: %w", err)
	}
	op, fresh, err := insertOperation(ctx, tx, tenant, in)
	if err == nil && !fresh {
		err = errInProgress()
	}
	return op, err
}

func errInProgress() error {
	return fault.New(fault.OperationInProgress, "The same operation is running; ask again in a moment.", nil).
		WithRetryAfter(inProgressAdvice)
}

// answerOf opens the answer of a finished operation. A secret that outlived its
// time is erased here, if nobody has yet.
func (s *Store) answerOf(ctx context.Context, tx pgx.Tx, row operationRow) (Operation, error) {
	op := row.Operation
	op.Done = true
	if row.secretUntil == nil {
		return op, nil
	}
	if row.sealed != nil && row.now.Before(*row.secretUntil) {
		secret, err := s.keyset.Open(row.sealed, operationPlace(op))
		op.Secret = string(secret)
		return op, err
	}
	op.SecretExpired = true
	if row.sealed == nil {
		return op, nil
	}
	_, err := tx.Exec(ctx, `
		UPDATE operations SET secret_sealed = NULL WHERE tenant_id = $1 AND id = $2`, op.Tenant, op.ID)
	if err != nil {
		return Operation{}, fmt.Errorf("erase secret: %w", err)
	}
	return op, nil
}

// RenewOperation prolongs the lease of a running operation, counted from now;
// fault.OperationInProgress when somebody else has taken it up.
func (s *Store) RenewOperation(ctx context.Context, op Operation, lease time.Duration) error {
	return s.inTenant(ctx, op.Tenant, func(tx pgx.Tx) error {
		return holdOperation(ctx, tx, op, `lease_until = app.wall_clock() + $4::interval`, lease)
	})
}

// EndOperation ends an attempt that brought no answer: OperationFailed when
// certainly nothing was made, OperationUnknown otherwise. Either way the same key
// takes the operation up again. fault.OperationInProgress as RenewOperation.
func (s *Store) EndOperation(ctx context.Context, op Operation, as OperationStatus) error {
	return s.inTenant(ctx, op.Tenant, func(tx pgx.Tx) error {
		return holdOperation(ctx, tx, op,
			`status = $4::text, finished_at = CASE WHEN $4::text = 'failed' THEN app.now() END`, as)
	})
}

// holdOperation updates an operation if the attempt is still the current one.
func holdOperation(ctx context.Context, tx pgx.Tx, op Operation, set string, value any) error {
	tag, err := tx.Exec(ctx, `UPDATE operations SET `+set+`
		WHERE tenant_id = $1 AND id = $2 AND attempt = $3 AND status = 'running'`, op.Tenant, op.ID, op.Attempt, value)
	if err != nil {
		return fmt.Errorf("update operation: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return errInProgress()
	}
	return nil
}

func operationPlace(op Operation) sealing.Place {
	return sealing.Place{Table: "operations", Column: "secret", Tenant: op.Tenant.String(), ID: op.ID.String()}
}
