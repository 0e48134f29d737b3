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

// OperationKind says what an operation does.
type OperationKind string

// The kinds. The first three make something that stays behind if nobody knows of it;
// the others change what is there and leave nothing to look for.
const (
	OperationCreateProject     OperationKind = "create_project"
	OperationCreateDatabase    OperationKind = "create_database"
	OperationCreateCredentials OperationKind = "create_credentials" //nolint:gosec // the name of a kind, not a credential
	OperationRotateCredentials OperationKind = "rotate_credentials" //nolint:gosec // the same
	OperationRestoreDatabase   OperationKind = "restore_database"
)

// makes reports whether an operation of the kind makes something.
func (k OperationKind) makes() bool {
	return k != OperationRotateCredentials && k != OperationRestoreDatabase
}

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
	// KeyLife is how long an idempotency key names its operation once that has ended; later
	// the same key is a new one. While it is not known what became of the operation, the key
	// stays with it: a new one would make the same again.
	KeyLife = 7 * 24 * time.Hour
	// inProgressAdvice is when to ask again for an operation that runs elsewhere.
	inProgressAdvice = 2 * time.Second
)

// NewOperation describes a call before anything is sent.
type NewOperation struct {
	Connection  ConnectionID
	Kind        OperationKind
	Key         string          // the client's idempotency key, 1 to 255 characters; "": none
	RequestHash [32]byte        // over everything that the client asked for
	Request     json.RawMessage // what whoever goes on with it without the client must know; no secrets
	Lease       time.Duration   // how long it counts as running without a renewal
}

// Operation is one call: the right to go on with it, or its answer.
type Operation struct {
	ID         OperationID
	Tenant     TenantID
	Connection ConnectionID
	Kind       OperationKind
	Attempt    int64           // fences the writes of a holder that lost its lease
	Previous   OperationStatus // how the attempt before ended; "" at the first
	BeganAt    time.Time       // by the database's clock
	Keyed      bool            // its client can name it
	Request    json.RawMessage // what was asked for; null for one of an earlier version

	// MayLand: a request of an earlier attempt may have done its work, or do it yet.
	MayLand bool
	// Landed is what an earlier attempt made as it was found later, the answer without
	// its secret; nil: nothing was found.
	Landed json.RawMessage

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

// HasOperation reports whether that request was made with that key, which still names it.
func (s *Store) HasOperation(ctx context.Context, tenant TenantID, kind OperationKind, key string, requestHash [32]byte) (bool, error) {
	var found []OperationID
	err := s.read(ctx, tenant, func(rows pgx.Rows) (err error) {
		found, err = pgx.CollectRows(rows, pgx.RowTo[OperationID])
		return err
	}, `SELECT id FROM operations
		WHERE tenant_id = $1 AND kind = $2 AND idempotency_key = $3 AND request_hash = $4
		  AND (finished_at IS NULL OR finished_at > app.now() - $5::interval)`,
		tenant, kind, key, requestHash[:], KeyLife)
	if err != nil {
		return false, fmt.Errorf("look for an operation: %w", err)
	}
	return len(found) > 0, nil
}

func errReconnect() error {
	return fault.New(fault.ReconnectRequired, "The user has to connect again.", nil)
}

// insertOperation stores a new operation and reports whether it did: false means
// that the key is taken.
func insertOperation(ctx context.Context, tx pgx.Tx, tenant TenantID, in NewOperation) (Operation, bool, error) {
	op := Operation{
		ID: OperationID{newID()}, Tenant: tenant, Connection: in.Connection, Kind: in.Kind, Attempt: 1,
		Keyed: in.Key != "", Request: in.Request,
	}
	// Until it has ended nobody knows what it left behind, so it is to be swept from its
	// first moment on.
	err := tx.QueryRow(ctx, `
		INSERT INTO operations (tenant_id, id, connection_id, kind, idempotency_key, request_hash, request,
			lease_until, sweep_at, sweep_until)
		VALUES ($1, $2, $3, $4, NULLIF($5, ''), $6, $7, app.wall_clock() + $8::interval,
			CASE WHEN $9::boolean THEN app.now() + $8::interval END,
			CASE WHEN $9::boolean THEN app.now() + $10::interval END)
		ON CONFLICT (tenant_id, kind, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
		RETURNING created_at`,
		tenant, op.ID, in.Connection, in.Kind, in.Key, in.RequestHash[:], in.Request, in.Lease, in.Kind.makes(), SweepFor).
		Scan(&op.BeganAt)
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
	keyed       bool // its key still names it
	resource    string
	sealed      []byte
	secretUntil *time.Time
	now         time.Time
}

const selectOperation = `
	SELECT id, tenant_id, connection_id, kind, attempt, created_at, status, request_hash,
	       status = 'running' AND lease_until > app.wall_clock(), finished_at IS NULL OR finished_at > app.now() - $3::interval,
	       coalesce(resource_id, ''), answer, secret_sealed, secret_until, app.now(),
	       idempotency_key IS NOT NULL, request, sweep_until IS NOT NULL, landed
	FROM operations`

func scanOperation(row pgx.CollectableRow) (operationRow, error) {
	var r operationRow
	err := row.Scan(&r.ID, &r.Tenant, &r.Connection, &r.Kind, &r.Attempt, &r.BeganAt, &r.status, &r.requestHash,
		&r.leased, &r.keyed, &r.resource, &r.Answer, &r.sealed, &r.secretUntil, &r.now,
		&r.Keyed, &r.Request, &r.MayLand, &r.Landed)
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
	same := bytes.Equal(row.requestHash, in.RequestHash[:])
	switch {
	case !row.keyed, !same && row.status == OperationFailed && !row.MayLand:
		return renewKey(ctx, tx, tenant, in, row)
	case !same:
		return Operation{}, fault.New(fault.IdempotencyConflict,
			"This Idempotency-Key was used with another request; choose a new one.", nil)
	case row.status == OperationDone:
		return s.answerOf(ctx, tx, row)
	case row.leased:
		return Operation{}, errInProgress()
	}
	return takeOperation(ctx, tx, row, in.Lease, true)
}

// takeOperation gives the next attempt at an operation to its caller; sends: which may make
// something, and is to be looked for anew.
func takeOperation(ctx context.Context, tx pgx.Tx, row operationRow, lease time.Duration, sends bool) (Operation, error) {
	op := row.Operation
	op.Previous = row.status
	err := tx.QueryRow(ctx, `
		UPDATE operations SET status = 'running', attempt = attempt + 1, finished_at = NULL,
			lease_until = app.wall_clock() + $3::interval,
			sweep_at = CASE WHEN $4::boolean THEN app.now() + $3::interval END,
			sweep_until = CASE WHEN $4::boolean THEN
				CASE WHEN $6::boolean THEN app.now() + $5::interval ELSE coalesce(sweep_until, app.now() + $5::interval) END END
		WHERE tenant_id = $1 AND id = $2 RETURNING attempt`, op.Tenant, op.ID, lease, op.Kind.makes(), SweepFor, sends).Scan(&op.Attempt)
	if err != nil {
		return Operation{}, fmt.Errorf("resume operation: %w", err)
	}
	return op, nil
}

// renewKey takes a key from its old operation and begins a new one: the key has outlived
// that, or it was refused and its client has mended the request.
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

// NoteOperation stores more of what whoever goes on with an operation must know, before
// something is sent. fault.OperationInProgress as RenewOperation.
func (s *Store) NoteOperation(ctx context.Context, op Operation, request json.RawMessage) error {
	return s.inTenant(ctx, op.Tenant, func(tx pgx.Tx) error {
		return holdOperation(ctx, tx, op, `request = $4`, request)
	})
}

// OperationEnd is how an attempt ended without an answer.
type OperationEnd struct {
	// As is OperationFailed when nothing was made, OperationUnknown otherwise. Either
	// way the same key takes the operation up again.
	As OperationStatus
	// MayLand: something of it may turn up at Prisma, though the client was told that it
	// failed. With OperationUnknown it always may.
	MayLand bool
}

// EndOperation ends an attempt that brought no answer. What may land is looked for
// from then on. fault.OperationInProgress as RenewOperation.
func (s *Store) EndOperation(ctx context.Context, op Operation, end OperationEnd) error {
	mayLand := op.Kind.makes() && (end.MayLand || end.As == OperationUnknown)
	return s.inTenant(ctx, op.Tenant, func(tx pgx.Tx) error {
		return holdOperation(ctx, tx, op, `
			status = $4::text, finished_at = CASE WHEN $4::text = 'failed' THEN app.now() END,
			sweep_at = CASE WHEN $5::boolean THEN app.now() + $6::interval END,
			sweep_until = CASE WHEN $5::boolean THEN app.now() + $7::interval END`, end.As, mayLand, sweepFirst, SweepFor)
	})
}

// holdOperation updates an operation if the attempt is still the current one.
func holdOperation(ctx context.Context, tx pgx.Tx, op Operation, set string, values ...any) error {
	tag, err := tx.Exec(ctx, `UPDATE operations SET `+set+`
		WHERE tenant_id = $1 AND id = $2 AND attempt = $3 AND status = 'running'`,
		append([]any{op.Tenant, op.ID, op.Attempt}, values...)...)
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
