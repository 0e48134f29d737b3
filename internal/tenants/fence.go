package tenants

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/postgres"
)

// ErrFenced is in the chain of what a token request gets that must not be sent: the
// database is not, or not surely, the one that tokens may be presented from. Stored
// access tokens are served all the same.
var ErrFenced = errors.New("token requests are stopped: this database may be a copy or may have lost writes")

// FenceCommand is what an operator runs to decide.
const FenceCommand = "server fence accept"

// errStandby tells that the database takes no writes yet.
var errStandby = errors.New("the database is a standby")

// fencedPause is when callers are told to come back.
const fencedPause = 30 * time.Second

// Place says which database in which cluster this is. Two copies of one database
// differ in it, unless the cluster's files were copied while nobody looked.
type Place struct {
	SystemIdentifier int64  // of the cluster, made by initdb; 0 where the server does not tell
	Timeline         int64  // of its WAL; 0 where the server does not tell
	DatabaseOID      int64  // pg_database.oid
	Database         string // its name
	Environment      string // what the schema was made for
}

// samePlace reports whether a database at p is the one at other, but for the timeline,
// which moves when a standby takes over.
func (p Place) samePlace(other Place) bool {
	p.Timeline = other.Timeline
	return p == other
}

// String names the place on one line.
func (p Place) String() string {
	return fmt.Sprintf("cluster %d, timeline %d, database %q (oid %d), environment %q",
		uint64(p.SystemIdentifier), p.Timeline, p.Database, p.DatabaseOID, p.Environment) //nolint:gosec // as pg_controldata prints it
}

// Decision is one that was made about the place of this database.
type Decision struct {
	ID    int64  // counts from 1; 0: none was made yet
	What  string // one of the Decided constants
	At    time.Time
	Place Place
}

// What can be decided; the texts are those of the column.
const (
	DecidedFirstUse   = "first_use"
	DecidedFailover   = "failover"
	DecidedByCommand  = "command"
	DecidedWritesLost = "writes_lost" // token requests stop
)

// FenceState is what an operator decides upon.
type FenceState struct {
	Here    Place
	Decided Decision
}

// Open reports whether token requests may be sent. A database of which nothing was
// decided yet is open: the first replica that is started on it decides.
func (f FenceState) Open() bool {
	return f.Decided.ID == 0 || f.Decided.What != DecidedWritesLost && f.Here == f.Decided.Place
}

// sight is what one look at the database showed.
type sight struct {
	FenceState

	startedAt time.Time // when the server was started
	young     bool      // less than the hold ago
	standby   bool      // it replays what another one writes, and lags behind
}

const selectSight = `
	SELECT c.system_identifier, c.timeline, c.database_oid, c.database_name, c.environment, c.started_at,
	       clock_timestamp() < c.started_at + $1::interval, pg_is_in_recovery(),
	       coalesce(f.id, 0), coalesce(f.decision, ''), coalesce(f.at, c.started_at), coalesce(f.system_identifier, 0),
	       coalesce(f.timeline, 0), coalesce(f.database_oid, 0), coalesce(f.database_name, ''), coalesce(f.environment, '')
	FROM app.cluster() c LEFT JOIN LATERAL (
		SELECT id, decision, at, system_identifier, timeline, database_oid, database_name, environment
		FROM app.fence ORDER BY id DESC LIMIT 1) f ON true`

func readSight(ctx context.Context, tx pgx.Tx, hold time.Duration) (sight, error) {
	var s sight
	here, decided := &s.Here, &s.Decided
	err := tx.QueryRow(ctx, selectSight, hold).Scan(&here.SystemIdentifier, &here.Timeline, &here.DatabaseOID, &here.Database,
		&here.Environment, &s.startedAt, &s.young, &s.standby, &decided.ID, &decided.What, &decided.At, &decided.Place.SystemIdentifier,
		&decided.Place.Timeline, &decided.Place.DatabaseOID, &decided.Place.Database, &decided.Place.Environment)
	if err != nil {
		return sight{}, fmt.Errorf("look where the database is: %w", err)
	}
	return s, nil
}

// admit is asked in the transaction that a token request begins with, before anything
// is written: it returns an ErrFenced, as a fault.PrismaUnavailable, if the request
// must not be sent.
func (s *Store) admit(ctx context.Context, tx pgx.Tx) (sight, error) {
	seen, err := s.lookAndBegin(ctx, tx)
	if err != nil {
		return seen, err
	}
	if why := s.fence.judge(ctx, seen); why != fenceOpen {
		return seen, fault.New(fault.PrismaUnavailable,
			"Connections are not renewed at present. The service's operator has to look at its database.", ErrFenced).
			WithRetryAfter(fencedPause)
	}
	return seen, nil
}

// lookAndBegin is look, after which something is decided: at its first use a database
// is where it belongs.
func (s *Store) lookAndBegin(ctx context.Context, tx pgx.Tx) (sight, error) {
	seen, err := s.look(ctx, tx)
	if err != nil || seen.Decided.ID != 0 {
		return seen, err
	}
	if _, err := tx.Exec(ctx, `SELECT app.begin_fence()`); err != nil {
		return seen, fmt.Errorf("begin the fence: %w", err)
	}
	return s.look(ctx, tx) // somebody else's decision may have come first
}

// look reads where the database is. The first look into another run of the server,
// which may have lost something, asks it for what this process knows was written.
func (s *Store) look(ctx context.Context, tx pgx.Tx) (sight, error) {
	known := s.fence.memory() // before the query: what is remembered must be in its snapshot
	seen, err := readSight(ctx, tx, s.fence.hold)
	if err != nil {
		return seen, err
	}
	if seen.standby {
		return seen, errStandby // what it lacks may still come
	}
	if known.startedAt.IsZero() { // its first look, or the first one after it found writes lost
		behind, err := s.marks.behind(ctx, tx, seen)
		if err != nil {
			return seen, err
		}
		s.fence.remember(seen, known, behind)
		return seen, nil
	}
	if !known.mustAsk(seen) {
		s.fence.remember(seen, known, false)
		return seen, nil
	}
	var beat int64
	var lost bool
	err = tx.QueryRow(ctx, `
		SELECT coalesce((SELECT beat FROM app.replicas WHERE id = $1), 0), app.token_writes_lost($2, $3, $4)`,
		s.replica, known.tenants, known.connections, known.generations).Scan(&beat, &lost)
	if err != nil {
		return seen, fmt.Errorf("look what the database has lost: %w", err)
	}
	s.fence.remember(seen, known, lost || beat < known.beat)
	return seen, nil
}

// Fence returns where the database is and what was decided about it.
func (s *Store) Fence(ctx context.Context) (FenceState, error) {
	var seen sight
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		var err error
		seen, err = readSight(ctx, tx, 0)
		return err
	})
	return seen.FenceState, err
}

// AcceptFence decides that token requests may be sent from where the database is now.
// state is what the operator saw: if it is no longer so the error is a fault.Conflict
// and nothing was decided. The installation's log gets a row.
func (s *Store) AcceptFence(ctx context.Context, by Actor, state FenceState) error {
	return s.inOperator(ctx, func(tx pgx.Tx) error {
		seen, err := readSight(ctx, tx, 0)
		if err != nil {
			return err
		}
		if seen.Here != state.Here || seen.Decided.ID != state.Decided.ID {
			return errOtherFence()
		}
		if err := decide(ctx, tx, seen, DecidedByCommand); err != nil {
			return err
		}
		return s.logAdmin(ctx, tx, by, adminChange{action: "fence.accepted", details: map[string]any{
			"decision": seen.Decided.ID + 1, "was": seen.Decided.Place.String(), "is": seen.Here.String(),
		}})
	})
}

func errOtherFence() error {
	return fault.New(fault.Conflict, "The database moved, or somebody else decided, meanwhile; look again.", nil)
}

// decide adds a decision about where the database is, after the one that was seen.
func decide(ctx context.Context, tx pgx.Tx, seen sight, what string) error {
	here := seen.Here
	_, err := tx.Exec(ctx, `
		INSERT INTO app.fence (id, decision, system_identifier, timeline, database_oid, database_name, environment)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		seen.Decided.ID+1, what, here.SystemIdentifier, here.Timeline, here.DatabaseOID, here.Database, here.Environment)
	if postgres.IsUniqueViolation(err, "fence_pkey") {
		return errOtherFence()
	}
	if err != nil {
		return fmt.Errorf("decide about the fence: %w", err)
	}
	return nil
}

// follow makes, in a transaction of its own, the decision that this process can make
// by itself: that writes were lost, or that nothing was in a failover that it lived
// through.
func (s *Store) follow(ctx context.Context, seen sight) error {
	what := s.fence.decision(seen)
	if what == "" {
		return nil
	}
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		now, err := readSight(ctx, tx, s.fence.hold)
		if err != nil || now.Here != seen.Here || !now.startedAt.Equal(seen.startedAt) || now.Decided.ID != seen.Decided.ID {
			return err // the next look tells
		}
		return decide(ctx, tx, seen, what)
	})
	if fault.KindOf(err) == fault.Conflict {
		return nil // somebody else decided; the next look tells what
	}
	if err == nil {
		s.fence.log.WarnContext(ctx, "decided about the fence", slog.String("decision", what),
			slog.String("was", seen.Decided.Place.String()), slog.String("is", seen.Here.String()))
	}
	return err
}

// written is a token pair that the database has acknowledged.
type written struct {
	tenant     uuid.UUID
	connection uuid.UUID
	generation int64
}
