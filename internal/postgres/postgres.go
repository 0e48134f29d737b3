// Package postgres opens pools, runs transactions and reads SQLSTATEs. It knows
// the roles and the tenant setting of the schema, and none of its tables.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// OperatorRole is entered with SET LOCAL ROLE by what acts across tenants.
const OperatorRole = "connect_operator"

// PoolConfig says how a pool is opened.
type PoolConfig struct {
	URL      string        // with default_query_exec_mode, if the pool shall not choose it
	Name     string        // application_name, shown in pg_stat_activity
	MaxConns int32         // default 10
	MinConns int32         // kept open and warm; default 0
	Connect  time.Duration // limit of one connection attempt; default 5 s
}

// OpenPool returns a pool that connects when it is first used, so that a program
// can start while the database is away. It works straight to Postgres and through a
// pooler, and finds out which. Its errors never quote the URL.
func OpenPool(ctx context.Context, cfg PoolConfig) (*pgxpool.Pool, error) {
	parsed, err := pgxpool.ParseConfig(cfg.URL)
	if err != nil {
		return nil, errors.New("the database URL can't be parsed") // pgx's own text quotes parts of it
	}
	parsed.MaxConns = 10
	if cfg.MaxConns > 0 {
		parsed.MaxConns = cfg.MaxConns
	}
	parsed.MinConns = cfg.MinConns
	parsed.ConnConfig.ConnectTimeout = 5 * time.Second
	if cfg.Connect > 0 {
		parsed.ConnConfig.ConnectTimeout = cfg.Connect
	}
	parsed.HealthCheckPeriod = 5 * time.Second
	if cfg.Name != "" {
		parsed.ConnConfig.RuntimeParams["application_name"] = cfg.Name
	}
	new(queryMode).choose(parsed, cfg.URL)
	pool, err := pgxpool.NewWithConfig(ctx, parsed)
	if err != nil {
		return nil, fmt.Errorf("open pool: %w", err)
	}
	return pool, nil
}

// Dial returns what opens connections like those of a pool, outside of it and under
// another name: for LISTEN, which keeps one for itself.
func Dial(pool *pgxpool.Pool, name string) func(ctx context.Context) (*pgx.Conn, error) {
	return func(ctx context.Context) (*pgx.Conn, error) {
		cfg := pool.Config().ConnConfig
		cfg.RuntimeParams["application_name"] = name
		conn, err := pgx.ConnectConfig(ctx, cfg)
		if err != nil {
			return nil, fmt.Errorf("connect: %w", err)
		}
		return conn, nil
	}
}

const (
	// acquireWithin is how long a transaction waits for a free connection of its
	// pool: who has to wait longer is better told to come back.
	acquireWithin = 2 * time.Second
	// beginWithin bounds the first round trip, which finds out that a server is
	// gone without a word.
	beginWithin = 5 * time.Second
	// idleInTransaction ends a transaction whose process stands still or is gone.
	idleInTransaction = 10 * time.Second
)

// ErrBusy tells that no connection of the pool became free in time, ErrSilent that
// the server did not answer within this package's own limits.
var (
	ErrBusy   = errors.New("no free database connection")
	ErrSilent = errors.New("the database does not answer")
)

// silent marks an error of a limit of our own, as against the caller's.
func silent(own, callers context.Context, err error) error {
	if own.Err() != nil && callers.Err() == nil {
		return fmt.Errorf("%w: %w", ErrSilent, err)
	}
	return err
}

// Scope is whose rows a transaction sees and how long its statements may take.
// The zero value sees no rows of any tenant.
type Scope struct {
	Tenant    uuid.UUID     // uuid.Nil: none
	Operator  bool          // every tenant's; for admin, jobs and commands
	Durable   bool          // a commit survives a crash of the server, also where synchronous_commit is off
	Lock      time.Duration // lock_timeout, default 2 s
	Statement time.Duration // statement_timeout, default 5 s
}

// begin is one round trip. Its parts are numbers, a UUID and constants, so there
// is nothing to escape; SET LOCAL ends with the transaction, which also holds
// behind a pooler in transaction mode.
func (s Scope) begin() string {
	lock := s.Lock
	if lock == 0 {
		lock = 2 * time.Second
	}
	// Without the third, a process that was cut off from the server would keep its
	// row locks until TCP gives up, hours later.
	query := fmt.Sprintf("BEGIN; SET LOCAL lock_timeout = %d; SET LOCAL statement_timeout = %d; "+
		"SET LOCAL idle_in_transaction_session_timeout = %d",
		lock.Milliseconds(), s.statement().Milliseconds(), idleInTransaction.Milliseconds())
	if s.Operator {
		query += "; SET LOCAL ROLE " + OperatorRole
	}
	if s.Durable { // and no less than it is, if the server waits for standbys
		query += "; SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'"
	}
	if s.Tenant != uuid.Nil {
		query += "; SET LOCAL app.tenant = '" + s.Tenant.String() + "'"
	}
	return query
}

// InTx runs fn in a transaction of that scope and commits when fn returns nil.
// Otherwise it rolls back, on a context of its own, and returns fn's error
// unchanged. An error of the commit leaves open whether it happened: CommitUnknown
// tells.
func InTx(ctx context.Context, pool *pgxpool.Pool, scope Scope, fn func(tx pgx.Tx) error) error {
	conn, err := acquire(ctx, pool)
	if err != nil {
		return err
	}
	defer conn.Release()
	beginCtx, cancelBegin := context.WithTimeout(ctx, beginWithin)
	defer cancelBegin()
	tx, err := conn.BeginTx(beginCtx, pgx.TxOptions{BeginQuery: scope.begin()})
	if err != nil {
		return fmt.Errorf("begin: %w", silent(beginCtx, ctx, err))
	}
	// After a commit this does nothing; after a panic in fn it frees the connection.
	defer rollback(ctx, tx)
	if err := fn(tx); err != nil {
		return err
	}
	// Not the caller's context: a commit that is cut short may have happened.
	commitCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := tx.Commit(commitCtx); err != nil {
		return &commitError{silent(commitCtx, context.WithoutCancel(ctx), err)}
	}
	return nil
}

func acquire(ctx context.Context, pool *pgxpool.Pool) (*pgxpool.Conn, error) {
	within, cancel := context.WithTimeout(ctx, acquireWithin)
	defer cancel()
	conn, err := pool.Acquire(within)
	if err != nil && within.Err() != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("%w: %w", ErrBusy, err)
	}
	if err != nil {
		return nil, fmt.Errorf("acquire: %w", err)
	}
	return conn, nil
}

func rollback(ctx context.Context, tx pgx.Tx) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = tx.Rollback(ctx) // the connection is closed when it fails, which rolls back too
}

type commitError struct{ cause error }

func (e *commitError) Error() string { return "commit: " + e.cause.Error() }
func (e *commitError) Unwrap() error { return e.cause }

// CommitUnknown reports whether err comes from a COMMIT whose outcome the server
// did not tell: it may have happened. A COMMIT that the server refused did not; a
// FATAL error says that the server hangs up, and nothing about the COMMIT.
func CommitUnknown(err error) bool {
	commit, ok := errors.AsType[*commitError](err)
	if !ok || errors.Is(err, pgx.ErrTxCommitRollback) {
		return false
	}
	refusal, told := errors.AsType[*pgconn.PgError](commit.cause)
	return !told || refusal.SeverityUnlocalized != "ERROR"
}

// SQLSTATE returns the five characters of a server error, "" for other errors.
func SQLSTATE(err error) string {
	if e, ok := errors.AsType[*pgconn.PgError](err); ok {
		return e.Code
	}
	return ""
}

// IsUniqueViolation reports a duplicate in that constraint or index.
func IsUniqueViolation(err error, constraint string) bool {
	e, ok := errors.AsType[*pgconn.PgError](err)
	return ok && e.Code == "23505" && e.ConstraintName == constraint
}

// IsUnavailable reports that the database could not be reached, is starting or
// stopping, or is short of connections or disk: a later try may work.
func IsUnavailable(err error) bool {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok || errors.Is(err, ErrBusy) || errors.Is(err, ErrSilent) {
		return true
	}
	if code := SQLSTATE(err); code != "" {
		switch code[:2] {
		case "08", "53", "57": // connection, resources, operator intervention (shutdown, cancel)
			return true
		}
		return code == "55P03" || code == "25006" // lock not available; read-only
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return false // somebody's own deadline, which says nothing about the database
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return true // the server's process died while it answered
	}
	_, netErr := errors.AsType[net.Error](err)
	return netErr || pgconn.SafeToRetry(err)
}
