package tenants

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgxlisten"
)

const (
	// changesChannel is where the database tells of changed tenants and keys.
	changesChannel = "connect_changes"
	// listenAgainAfter is the pause after a connection that listens was lost.
	listenAgainAfter = time.Second
)

// FollowChanges lets this process drop at once what it has cached and another one has
// changed, until ctx ends. connect opens a connection for it alone, straight to Postgres:
// LISTEN does not pass a pooler. While there is none, what is cached holds for CacheFor.
func (s *Store) FollowChanges(ctx context.Context, connect func(context.Context) (*pgx.Conn, error)) {
	if s.callers == nil {
		return
	}
	f := &follower{store: s}
	listener := &pgxlisten.Listener{Connect: connect, ReconnectDelay: listenAgainAfter, LogError: f.lost}
	listener.Handle(changesChannel, f)
	_ = listener.Listen(ctx) // ends with ctx, and for no other reason
}

// follower hears of changes on one connection after the other.
type follower struct {
	store *Store
	away  bool
}

// HandleBacklog drops everything: nobody knows what was told before.
func (f *follower) HandleBacklog(ctx context.Context, _ string, _ *pgx.Conn) error {
	f.store.callers.forgetAll()
	if f.away {
		f.away = false
		f.store.log.InfoContext(ctx, "changes are heard of again")
	}
	return nil
}

// HandleNotification drops what is cached of the tenant that it names.
func (f *follower) HandleNotification(_ context.Context, n *pgconn.Notification, _ *pgx.Conn) error {
	if n.Payload == "" {
		f.store.callers.forgetAll()
		return nil
	}
	tenant, err := uuid.Parse(n.Payload)
	if err != nil {
		f.store.callers.forgetAll()
		return fmt.Errorf("a change of what is no tenant: %w", err)
	}
	f.store.callers.forget(TenantID{tenant})
	return nil
}

// lost says once that changes are not heard of.
func (f *follower) lost(ctx context.Context, err error) {
	if f.away || ctx.Err() != nil {
		return
	}
	f.away = true
	f.store.log.WarnContext(ctx, "changes of keys and tenants are not heard of; they count here after some seconds",
		slog.String("error", err.Error()))
}
