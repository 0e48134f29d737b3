package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// BehindPooler reports whether something stands between the pool and Postgres that
// shares server connections between clients, such as PgBouncer. There a session may
// have another server process for each transaction: LISTEN, prepared statements and
// session locks can't be relied on. A pooler in session mode counts as one too,
// because it can't be told from the outside. It waits for a connection until ctx ends.
func BehindPooler(ctx context.Context, pool *pgxpool.Pool) (bool, error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return false, fmt.Errorf("look for a pooler: %w", err)
	}
	defer conn.Release()
	return Pooled(ctx, conn.Conn())
}

// Pooled is BehindPooler for one connection, outside of a transaction. The process
// id that the other side gave with its greeting, for cancelling queries, is that of
// the server process, unless a pooler wrote the greeting: that has a number of its
// own.
func Pooled(ctx context.Context, conn *pgx.Conn) (bool, error) {
	within, cancel := context.WithTimeout(ctx, beginWithin)
	defer cancel()
	// The simple protocol, which every pooler passes on.
	results, err := conn.PgConn().Exec(within, "SELECT pg_backend_pid()").ReadAll()
	if err != nil {
		if SQLSTATE(err) == "" && ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", ErrSilent, err)
		}
		return false, fmt.Errorf("look for a pooler: %w", err)
	}
	if len(results) != 1 || len(results[0].Rows) != 1 || len(results[0].Rows[0]) != 1 {
		return false, errors.New("look for a pooler: the answer is not one row")
	}
	pid, err := strconv.ParseUint(string(results[0].Rows[0][0]), 10, 32)
	if err != nil {
		return false, fmt.Errorf("look for a pooler: %w", err)
	}
	return uint64(conn.PgConn().PID()) != pid, nil
}

// queryMode lets a pool find out by itself how its queries may be sent. Each new
// connection is asked once what it leads to. The first answer holds for the next
// connections, and one that was opened for the wrong answer is never used.
//
// Straight to Postgres, statements are prepared once per connection. Through a pooler
// they can't be, so only their descriptions are kept, and each query is parsed again;
// parameters and results keep their binary forms.
type queryMode struct {
	pooled atomic.Bool
}

// wrongMode marks a connection in its custom data.
const wrongMode = "connect-prisma: opened for prepared statements, leads to a pooler"

// choose sets the hooks of cfg, unless the URL names a mode: then its author knows
// better, such as of a PgBouncer that keeps prepared statements.
func (m *queryMode) choose(cfg *pgxpool.Config, url string) {
	if strings.Contains(url, "default_query_exec_mode=") {
		return
	}
	cfg.BeforeConnect = func(_ context.Context, conn *pgx.ConnConfig) error {
		if m.pooled.Load() {
			conn.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
		}
		return nil
	}
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		pooled, err := Pooled(ctx, conn)
		if err != nil {
			return err
		}
		m.pooled.Store(pooled)
		if pooled && conn.Config().DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
			mark(conn.PgConn())
		}
		return nil
	}
	cfg.PrepareConn = func(_ context.Context, conn *pgx.Conn) (bool, error) {
		_, wrong := conn.PgConn().CustomData()[wrongMode]
		return !wrong, nil // the pool closes a wrong one and takes another
	}
}

func mark(conn *pgconn.PgConn) { conn.CustomData()[wrongMode] = struct{}{} }
