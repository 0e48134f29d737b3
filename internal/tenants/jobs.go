package tenants

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
)

// NameWorkspaceJob reads the name of a new connection's workspace from Prisma. It
// is stored with the connection, so that a name which could not be read at once
// is not forgotten.
type NameWorkspaceJob struct {
	Tenant     TenantID     `json:"tenant"`
	Connection ConnectionID `json:"connection"`
}

// Kind is the job's name in the queue.
func (NameWorkspaceJob) Kind() string { return "name_workspace" }

// SweepSessionsJob ends the connect sessions whose time is over, and tells their
// tenants.
type SweepSessionsJob struct{}

// Kind is the job's name in the queue.
func (SweepSessionsJob) Kind() string { return "sweep_sessions" }

// EraseSecretsJob erases the connection strings whose time for replays is over.
type EraseSecretsJob struct{}

// Kind is the job's name in the queue.
func (EraseSecretsJob) Kind() string { return "erase_secrets" }

// nameWorkspaceAfter leaves the flow time to read the name itself.
const nameWorkspaceAfter = 30 * time.Second

// enqueue stores a job in the transaction of the change that needs it, due after
// a while by the database's real clock, which is River's too.
func (s *Store) enqueue(ctx context.Context, tx pgx.Tx, args river.JobArgs, after time.Duration) error {
	opts := &river.InsertOpts{MaxAttempts: 12}
	if err := tx.QueryRow(ctx, `SELECT now() + $1::interval`, after).Scan(&opts.ScheduledAt); err != nil {
		return fmt.Errorf("time job %s: %w", args.Kind(), err)
	}
	if _, err := s.jobs.InsertTx(ctx, tx, args, opts); err != nil {
		return fmt.Errorf("insert job %s: %w", args.Kind(), err)
	}
	return nil
}

// sweepBatch bounds one transaction of a sweep.
const sweepBatch = 100

// SweepSessions ends open sessions whose time is over, of every tenant: links
// that nobody followed to the end, codes that nobody redeemed, and completions
// whose process died. It returns how many; 0 without an error means that nothing
// is left. What goes wrong with one tenant's sessions leaves them for the next
// sweep, and the other tenants' are ended all the same.
func (s *Store) SweepSessions(ctx context.Context) (int, error) {
	ended := 0
	busy := make(map[TenantID]error)
	for {
		list, err := s.overdueSessions(ctx, slices.Collect(maps.Keys(busy)))
		if err != nil {
			return ended, errors.Join(err, errors.Join(slices.Collect(maps.Values(busy))...))
		}
		before := len(busy)
		for _, d := range list {
			if busy[d.session.Tenant] != nil {
				continue
			}
			// One transaction each: a tenant whose sequence row is busy holds up nobody else.
			err := s.inTenant(ctx, d.session.Tenant, func(tx pgx.Tx) error {
				_, err := s.endSession(ctx, tx, System(), d.session, d.end, []SessionStatus{d.session.Status})
				return err
			})
			if err != nil {
				busy[d.session.Tenant] = err
				continue
			}
			ended++
		}
		if len(busy) == before { // otherwise a busy tenant may have filled the batch
			return ended, errors.Join(slices.Collect(maps.Values(busy))...)
		}
	}
}

// overdue is a session whose time is over, and how it ends.
type overdue struct {
	session Session
	end     Ending
}

// overdueSessions returns a batch of them, the oldest first, without those of the
// tenants to skip.
func (s *Store) overdueSessions(ctx context.Context, skip []TenantID) ([]overdue, error) {
	ids := make([]uuid.UUID, 0, len(skip))
	for _, id := range skip {
		ids = append(ids, id.UUID)
	}
	var list []overdue
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT tenant_id, id, user_id, status FROM connect_sessions
			WHERE status IN ('created', 'started', 'returned', 'completing') AND NOT tenant_id = ANY ($4) AND (
				status IN ('created', 'started') AND expires_at <= app.now()
				OR status = 'returned' AND returned_at <= app.now() - $1::interval
				OR status = 'completing' AND completing_at <= app.now() - $2::interval)
			ORDER BY expires_at LIMIT $3`, CompletionLife, completingFor, sweepBatch, ids)
		if err != nil {
			return fmt.Errorf("find overdue sessions: %w", err)
		}
		list, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (overdue, error) {
			d := overdue{end: Ending{Status: SessionExpired}}
			err := row.Scan(&d.session.Tenant, &d.session.ID, &d.session.UserID, &d.session.Status)
			if d.session.Status == SessionCompleting {
				d.end = Ending{Status: SessionFailed, Failure: "outcome_unknown"}
			}
			return d, err
		})
		return err
	})
	return list, err
}
