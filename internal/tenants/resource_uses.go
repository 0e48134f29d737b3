package tenants

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
)

// Anything stands in OutgoingCall.Uses for whatever could not be told: from then on,
// nothing that is there counts as unused.
const Anything = "*"

// condemnedFor is how long nobody may begin to use what is being deleted as a double. It
// is longer than a deletion may take.
const condemnedFor = 5 * time.Minute

// usesKept is how long uses are kept. Of an operation that began longer ago nothing is taken
// for unused.
const usesKept = KeyLife + SweepFor

// usedIDs are the ids of a call as they are stored. What can't be one of Prisma's is left
// out: it means nothing there.
func usedIDs(ids []string) []string {
	var used []string
	for _, id := range ids {
		if plain := PlainID(id); id == Anything || plain != "" && len(plain) <= 64 && !strings.ContainsFunc(plain, notOfID) {
			used = append(used, plain)
		}
	}
	slices.Sort(used)
	return slices.Compact(used)
}

func notOfID(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-'
}

// use notes what a call is about to use or change, before it is sent: Condemn takes none
// of it from then on. fault.Conflict: something of it is being deleted.
func (s *Store) use(ctx context.Context, tx pgx.Tx, tenant TenantID, call OutgoingCall) error {
	ids := usedIDs(call.Uses)
	if len(ids) == 0 {
		return nil
	}
	var operation *uuid.UUID
	if id, err := ParseOperationID(call.OperationID); err == nil {
		operation = &id.UUID
	}
	// Condemn takes this lock too, so that each sees what the other has done.
	if _, err := lockAuditHead(ctx, tx, tenant); err != nil {
		return fmt.Errorf("lock what is used: %w", err)
	}
	var condemned int
	err := tx.QueryRow(ctx, `
		SELECT count(*) FROM resource_uses
		WHERE tenant_id = $1 AND condemned_until > app.now() AND (resource_id = ANY($2) OR $3 = ANY($2))`,
		tenant, ids, Anything).Scan(&condemned)
	if err != nil {
		return fmt.Errorf("look what is being deleted: %w", err)
	}
	if condemned > 0 {
		return fault.New(fault.Conflict,
			"This was made twice by an operation whose answer got lost, and is being deleted: use the other one.", nil)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO resource_uses AS u (tenant_id, resource_id, used_at, operation_id)
		SELECT $1, id, app.now(), $3 FROM unnest($2::text[]) AS i (id)
		ON CONFLICT (tenant_id, resource_id) DO UPDATE SET used_at = app.now(), touched_at = app.now(), condemned_until = NULL,
			operation_id = CASE WHEN u.used_at IS NULL OR u.operation_id = EXCLUDED.operation_id THEN EXCLUDED.operation_id END`,
		tenant, ids, operation)
	if err != nil {
		return fmt.Errorf("note what is used: %w", err)
	}
	return nil
}

// UsedElsewhere reports whether another operation or call may have used, changed or given out
// what an operation made.
func (s *Store) UsedElsewhere(ctx context.Context, op Operation, id string) (bool, error) {
	var uses []string
	err := s.read(ctx, op.Tenant, func(rows pgx.Rows) (err error) {
		uses, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	}, `SELECT id::text FROM operations
		WHERE tenant_id = $1 AND id <> $2 AND (resource_id = ANY($3) OR credentials_id = ANY($3))
		UNION ALL
		SELECT resource_id FROM resource_uses
		WHERE tenant_id = $1 AND used_at IS NOT NULL AND resource_id = ANY($4) AND operation_id IS DISTINCT FROM $2
		UNION ALL
		SELECT 'forgotten' WHERE $5::timestamptz <= app.now() - $6::interval`,
		op.Tenant, op.ID, idForms(id), usedIDs([]string{id}), op.BeganAt, usesKept)
	if err != nil {
		return false, fmt.Errorf("look who uses what was made: %w", err)
	}
	return len(uses) > 0, nil
}

// Condemn reports whether things that an operation made twice may be deleted: no
// operation has recorded any of them, and nobody else has begun to use or to change one.
// Then nobody may for a while. Of an operation so old that uses are forgotten, nothing may.
func (s *Store) Condemn(ctx context.Context, op Operation, ids []string) (bool, error) {
	var forms []string
	for _, id := range ids {
		forms = append(forms, idForms(id)...)
	}
	condemned := false
	err := s.inTenant(ctx, op.Tenant, func(tx pgx.Tx) error {
		head, err := lockAuditHead(ctx, tx, op.Tenant)
		if err != nil {
			return fmt.Errorf("lock what is used: %w", err)
		}
		var uses int
		err = tx.QueryRow(ctx, `
			SELECT (SELECT count(*) FROM operations WHERE tenant_id = $1
			        AND (resource_id = ANY($3) OR project_id = ANY($3) OR database_id = ANY($3) OR credentials_id = ANY($3)))
			     + (SELECT count(*) FROM resource_uses WHERE tenant_id = $1 AND used_at IS NOT NULL
			        AND (resource_id = ANY($3) AND operation_id IS DISTINCT FROM $2 OR resource_id = $4 AND used_at >= $5))`,
			op.Tenant, op.ID, forms, Anything, op.BeganAt).Scan(&uses)
		if err != nil {
			return fmt.Errorf("look who uses a double: %w", err)
		}
		if condemned = uses == 0 && head.now.Sub(op.BeganAt) < usesKept; !condemned {
			return nil
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO resource_uses (tenant_id, resource_id, condemned_until)
			SELECT $1, id, app.now() + $3::interval FROM unnest($2::text[]) AS i (id)
			ON CONFLICT (tenant_id, resource_id) DO UPDATE SET condemned_until = EXCLUDED.condemned_until, touched_at = app.now()`,
			op.Tenant, usedIDs(ids), condemnedFor)
		if err != nil {
			return fmt.Errorf("condemn a double: %w", err)
		}
		return nil
	})
	return condemned && err == nil, err
}

// ForgetUses forgets what was used so long ago that no look asks for it any more, of
// every tenant. It returns how many; 0 means that nothing is left.
func (s *Store) ForgetUses(ctx context.Context) (int, error) {
	var forgotten int64
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			DELETE FROM resource_uses WHERE (tenant_id, resource_id) IN (
				SELECT tenant_id, resource_id FROM resource_uses WHERE touched_at <= app.now() - $1::interval
				ORDER BY touched_at LIMIT $2 FOR UPDATE SKIP LOCKED)`, usesKept, sweepBatch)
		forgotten = tag.RowsAffected()
		return err
	})
	return int(forgotten), err
}
