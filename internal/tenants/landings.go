package tenants

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
)

// LandingsJob looks for what operations made without anybody knowing.
type LandingsJob struct{}

// Kind is the job's name in the queue.
func (LandingsJob) Kind() string { return "late_landings" }

// LandingsQueue is a queue of its own: while Prisma hangs, looks take minutes, and nothing
// else must wait behind them.
const LandingsQueue = "landings"

// InsertOpts implements river.JobArgsWithInsertOpts.
func (LandingsJob) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: LandingsQueue} }

const (
	// SweepFor is how long after its last doubtful request something of an operation is
	// looked for.
	SweepFor = 24 * time.Hour
	// sweepFirst is when the first look comes; the pauses double from there ...
	sweepFirst = 30 * time.Second
	// ... up to this.
	sweepEvery = 10 * time.Minute
)

// ShortenWaits brings back to its usual length whatever of an operation or a deletion waits
// for longer than it ever should, of every tenant: the clock of the database was set back.
// Leases get a whole one from now, so that a holder that lives, and counts by a clock of its
// own, has let go before anybody else takes over.
func (s *Store) ShortenWaits(ctx context.Context, lease time.Duration) error {
	return s.inOperator(ctx, func(tx pgx.Tx) error {
		for _, wait := range []struct {
			sql           string
			longest, then time.Duration
		}{
			{`UPDATE operations SET lease_until = app.wall_clock() + $2::interval
				WHERE status = 'running' AND lease_until > app.wall_clock() + $1::interval`, lease, lease},
			{`UPDATE operations SET sweep_at = app.now() + $2::interval
				WHERE sweep_at > app.now() + $1::interval`, sweepEvery, sweepFirst},
			{`UPDATE deletions SET look_at = app.now() + $2::interval
				WHERE look_at > app.now() + $1::interval`, sweepEvery, sweepFirst},
			{`UPDATE operations SET secret_until = app.now() + $2::interval
				WHERE secret_sealed IS NOT NULL AND secret_until > app.now() + $1::interval`, SecretReplay, SecretReplay},
		} {
			if _, err := tx.Exec(ctx, wait.sql, wait.longest, wait.then); err != nil {
				return fmt.Errorf("shorten waits: %w", err)
			}
		}
		return nil
	})
}

// lookAgain makes the operations of a connection whose outcome is not known due for a look:
// while it needed its user, nobody could look.
func lookAgain(ctx context.Context, tx pgx.Tx, tenant TenantID, connection ConnectionID) error {
	_, err := tx.Exec(ctx, `
		UPDATE operations SET sweep_at = app.now(), sweep_until = app.now() + $3::interval
		WHERE tenant_id = $1 AND connection_id = $2 AND status = 'unknown'`, tenant, connection, SweepFor)
	if err != nil {
		return fmt.Errorf("look again for what was made: %w", err)
	}
	return nil
}

// Landing names an operation of which something may turn up.
type Landing struct {
	Tenant    TenantID
	Operation OperationID
}

// LandingsToLookFor returns up to 100 operations of all tenants that are due for a look,
// tenants in turn: those of unknown outcome, those whose holder died, and those that
// ended with a request in doubt.
func (s *Store) LandingsToLookFor(ctx context.Context) ([]Landing, error) {
	var list []Landing
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT tenant_id, id FROM (
				SELECT tenant_id, id, sweep_at, row_number() OVER (PARTITION BY tenant_id ORDER BY sweep_at, id) AS turn
				FROM operations
				WHERE sweep_at <= app.now() AND NOT (status = 'running' AND lease_until > app.wall_clock())
			) AS due ORDER BY turn, sweep_at, id LIMIT $1`, sweepBatch)
		if err != nil {
			return fmt.Errorf("find operations in doubt: %w", err)
		}
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (Landing, error) {
			var l Landing
			err := row.Scan(&l.Tenant, &l.Operation)
			return l, err
		})
		return err
	})
	return list, err
}

// Look is the right to look for what an operation made. An operation that is not done
// is held meanwhile, as by an attempt.
type Look struct {
	Operation

	// What is known to be the operation's; all "" while nothing is.
	ProjectID, DatabaseID, CredentialsID string

	// Last: after this look nothing will land any more.
	Last bool
}

// Known reports whether what the operation made is recorded: whatever else bears its
// marker is a double.
func (l Look) Known() bool { return l.ProjectID != "" || l.DatabaseID != "" || l.CredentialsID != "" }

// BeginLook takes the right to look, for one lease; false: it is not due any more, or
// somebody is at it.
func (s *Store) BeginLook(ctx context.Context, at Landing, lease time.Duration) (look Look, due bool, err error) {
	err = s.inTenant(ctx, at.Tenant, func(tx pgx.Tx) error {
		// A replica of an earlier version, which knows of no such columns, ends an operation
		// with its resource and its answer alone.
		err := tx.QueryRow(ctx, `
			SELECT coalesce(project_id, CASE kind WHEN 'create_project' THEN resource_id WHEN 'create_database' THEN answer->>'projectId' END, ''),
				coalesce(database_id, CASE kind WHEN 'create_database' THEN resource_id END, ''),
				coalesce(credentials_id, CASE kind WHEN 'create_credentials' THEN resource_id
					WHEN 'create_database' THEN answer#>>'{credentials,id}' END, ''),
				sweep_until <= app.now()
			FROM operations WHERE tenant_id = $1 AND id = $2 AND sweep_at <= app.now()
			  AND NOT (status = 'running' AND lease_until > app.wall_clock())
			FOR UPDATE`, at.Tenant, at.Operation).
			Scan(&look.ProjectID, &look.DatabaseID, &look.CredentialsID, &look.Last)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("begin look: %w", err)
		}
		row, err := operationByID(ctx, tx, Operation{ID: at.Operation, Tenant: at.Tenant})
		if err != nil {
			return err
		}
		due = true
		if row.status != OperationDone {
			look.Operation, err = takeOperation(ctx, tx, row, lease, false)
			return err
		}
		// It is done, so there is nothing to hold: the next look is simply not yet due.
		look.Operation = row.Operation
		look.Done = true
		_, err = tx.Exec(ctx, `UPDATE operations SET sweep_at = app.now() + $3::interval WHERE tenant_id = $1 AND id = $2`,
			at.Tenant, at.Operation, lease)
		return err
	})
	return look, due && err == nil, err
}

// EndLook ends a look that changed nothing about the operation; seen: the lists could be
// read. What can still land is looked for again: soon at first, then every 10 minutes,
// for a day of looking, and a week after its last request at most. After that, an operation
// of which nothing was found has made nothing.
func (s *Store) EndLook(ctx context.Context, look Look, seen bool) error {
	as := OperationUnknown
	switch {
	case look.Done:
		as = OperationDone
	case look.Previous == OperationFailed, seen && look.Last && look.Landed == nil:
		as = OperationFailed
	}
	return s.inTenant(ctx, look.Tenant, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			WITH next AS (
				SELECT CASE WHEN $5::boolean OR greatest(created_at, sweep_until - $9::interval) <= app.now() - $6::interval THEN NULL
					ELSE app.now() + least($7::interval, greatest($8::interval, $9::interval - (sweep_until - app.now()))) END AS at
				FROM operations WHERE tenant_id = $1 AND id = $2)
			UPDATE operations SET status = $4::text, sweep_at = next.at,
				sweep_until = CASE WHEN next.at IS NOT NULL THEN sweep_until END,
				finished_at = CASE WHEN $4::text = 'failed' THEN app.now() WHEN $4::text = 'done' THEN finished_at END
			FROM next WHERE tenant_id = $1 AND id = $2 AND attempt = $3 AND status = CASE WHEN $4::text = 'done' THEN 'done' ELSE 'running' END`,
			look.Tenant, look.ID, look.Attempt, as, seen && look.Last, KeyLife, sweepEvery, sweepFirst, SweepFor)
		if err != nil {
			return fmt.Errorf("end look: %w", err)
		}
		if tag.RowsAffected() == 0 {
			return errInProgress()
		}
		return nil
	})
}

// Landed stores what a look found for a client that may ask again, and tells it by
// events. The operation stays unknown to its client: what is missing, a connection
// string, is made when it asks.
func (s *Store) Landed(ctx context.Context, by Actor, look Look, made Made) error {
	return s.inTenant(ctx, look.Tenant, func(tx pgx.Tx) error {
		err := holdOperation(ctx, tx, look.Operation, `
			status = 'unknown', landed = $4, project_id = NULLIF($5, ''), database_id = NULLIF($6, ''),
			credentials_id = NULLIF($7, ''), sweep_at = app.now() + $8::interval`,
			made.Answer, made.ProjectID, made.DatabaseID, made.CredentialsID, sweepFirst)
		if err != nil {
			return err
		}
		return s.recordMade(ctx, tx, by, look.Operation, made)
	})
}
