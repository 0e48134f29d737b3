package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/postgres"
)

// blackHole swallows what is written once it is on: the server seems to be there
// and never answers.
type blackHole struct {
	net.Conn

	on *atomic.Bool
}

func (b blackHole) Write(p []byte) (int, error) {
	if b.on.Load() {
		return len(p), nil
	}
	return b.Conn.Write(p)
}

// A server that is gone without a word is unavailable, and not somebody's own
// deadline.
func TestASilentServerIsUnavailable(t *testing.T) {
	t.Parallel()
	cfg, err := pgxpool.ParseConfig(pgtest.Open(t).AppURL)
	if err != nil {
		t.Fatal("the test database's URL can't be parsed")
	}
	var on atomic.Bool
	opened := make(chan net.Conn, 10)
	cfg.MaxConns = 1
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err == nil {
			opened <- conn
		}
		return blackHole{conn, &on}, err
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	t.Cleanup(func() { // otherwise the pool waits for a farewell
		for len(opened) > 0 {
			_ = (<-opened).Close()
		}
	})
	if err := pool.Ping(t.Context()); err != nil { // fresh, so that it isn't tried out before its next use
		t.Fatal(err)
	}
	on.Store(true)
	err = postgres.InTx(t.Context(), pool, postgres.Scope{}, func(pgx.Tx) error { return nil })
	if !errors.Is(err, postgres.ErrSilent) || !postgres.IsUnavailable(err) {
		t.Errorf("InTx() = %v, want ErrSilent, which is unavailable", err)
	}
	if postgres.IsUnavailable(context.DeadlineExceeded) {
		t.Error("a deadline alone counts as the database's fault")
	}
}

// A server process that dies while it answers leaves half an answer.
func TestHalfAnAnswerIsUnavailable(t *testing.T) {
	t.Parallel()
	for _, err := range []error{io.EOF, io.ErrUnexpectedEOF} {
		if !postgres.IsUnavailable(fmt.Errorf("read tokens: %w", err)) {
			t.Errorf("IsUnavailable(%v) = false", err)
		}
	}
}
