package prisma

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// save stores the fresh pair, trying until it succeeds or the process gives up. It
// returns the pair to use: the fresh one, or what has superseded it.
//
// It keeps its place among the exchanges in flight while it tries. That is a fuse: a
// storage that takes no pairs, whatever the reason, gets no more than a few exchanges
// whose pairs it can't take.
func (r *Refresher) save(
	ctx context.Context, conn Connection, lease RefreshLease, claim Claim, fresh Tokens,
) (Tokens, error) {
	attempt := func(ctx context.Context) error { return lease.Save(ctx, claim, fresh) }
	err := r.write(ctx, conn, attempt)
	if err == nil {
		return fresh, nil
	}
	if errors.Is(err, ErrSuperseded) {
		return r.superseded(ctx, conn, fresh)
	}
	r.logger.ErrorContext(ctx, "refreshed tokens can't be stored yet", slog.String("connection", conn.Key),
		slog.Int64("generation", fresh.Generation), slog.Any("error", err))
	entry := r.spool(ctx, conn, claim, fresh)
	pause := r.settings.SaveRetryFrom
	for try := 2; ; try++ {
		select {
		case <-time.After(pause):
		case <-r.drain.gaveUp:
			r.giveUp(ctx, conn, fresh, entry, err)
			return Tokens{}, fmt.Errorf("store the refreshed tokens of %s: %w", conn, err)
		}
		pause = min(2*pause, r.settings.SaveRetryTo)
		err = r.write(ctx, conn, attempt)
		switch {
		case err == nil:
			entry.end(true)
			r.logger.WarnContext(ctx, "refreshed tokens stored at last",
				slog.String("connection", conn.Key), slog.Int("tries", try))
			return fresh, nil
		case errors.Is(err, ErrSuperseded):
			entry.end(true)
			return r.superseded(ctx, conn, fresh)
		}
	}
}

// superseded says that a pair is not needed, and returns the one that is stored.
func (r *Refresher) superseded(ctx context.Context, conn Connection, fresh Tokens) (Tokens, error) {
	r.logger.WarnContext(ctx, "refreshed tokens dropped: the connection has others by now",
		slog.String("connection", conn.Key), slog.Int64("generation", fresh.Generation))
	return r.reread(ctx, conn)
}

// giveUp says what becomes of a pair that this process could not store before its end.
func (r *Refresher) giveUp(ctx context.Context, conn Connection, fresh Tokens, entry *spooling, err error) {
	attrs := []any{
		slog.String("connection", conn.Key), slog.Int64("generation", fresh.Generation), slog.Any("error", err),
	}
	if entry.isSafe() {
		r.logger.WarnContext(ctx, "refreshed tokens stay in the spool: the process ends before they could be stored", attrs...)
	} else {
		r.logger.ErrorContext(ctx, "refreshed tokens lost: the process ends before they could be stored", attrs...)
	}
	entry.end(false)
}
