package prisma

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/connect-prisma/server/internal/fault"
)

// pollsPerClaim is how often the stored pair is looked at, while another process holds
// the lease, before the lease itself is tried again: looking is cheap, trying takes a
// row lock, and the holder may have given the lease back without a new pair.
const pollsPerClaim = 5

// settleTries is how often the end of an exchange without a pair is reported. If all
// fail the lease runs out by itself, which tells the storage less but nothing wrong.
const settleTries = 5

// errPanicked stands for a panic, whose text might hold anything.
var errPanicked = errors.New("prisma: panic")

// fly is one refresh of one connection, from the claim to the save. ctx is detached
// from every caller. Its errors go to all callers that wait; what went wrong with the
// token endpoint is logged here and not by them, because there may be none.
func (r *Refresher) fly(ctx context.Context, conn Connection, stale Tokens) (tokens Tokens, err error) {
	// The flight runs on a goroutine that nobody else can recover.
	defer r.recoverPanic(ctx, conn, &err)

	if pause := r.backoffs.remaining(conn.Key, r.now()); pause > 0 {
		return Tokens{}, errUnavailable(pause, nil)
	}
	lease := leaseOf(conn.Storage, r.now)
	begun := r.now()
	for polls := 0; ; {
		tokens, held, err := r.attempt(ctx, conn, lease, stale)
		if err != nil || !held {
			return tokens, err
		}
		for range pollsPerClaim {
			if r.now().Sub(begun) >= r.settings.CallerWait {
				return Tokens{}, errInProgress()
			}
			r.sleep(r.pollPause(conn.Key, polls))
			polls++
			current, err := r.reread(ctx, conn)
			if err != nil {
				return Tokens{}, fmt.Errorf("read the tokens of %s while another process refreshes them: %w", conn, err)
			}
			if !current.SamePair(stale) {
				return current, nil
			}
		}
	}
}

// attempt tries to take the lease and, if that is ours, makes the one exchange it is
// for. held says that another process has it.
func (r *Refresher) attempt(
	ctx context.Context, conn Connection, lease RefreshLease, stale Tokens,
) (tokens Tokens, held bool, err error) {
	r.slots <- struct{}{} // before the claim: waiting for a place must not use up the lease
	defer func() { <-r.slots }()
	if !r.drain.enter() {
		return Tokens{}, false, errInProgress()
	}
	defer r.drain.leave()

	client, err := r.client(ctx, conn) // before the claim too: it may read a database
	if err != nil {
		return Tokens{}, false, fmt.Errorf("find the OAuth client of %s: %w", conn, err)
	}
	claimed := r.now()
	claim, err := r.claim(ctx, lease, stale)
	switch {
	case err != nil:
		return Tokens{}, false, fmt.Errorf("claim the refresh of %s: %w", conn, err)
	case claim.Held:
		return Tokens{}, true, nil
	case !claim.Due && !claim.Current.SamePair(stale):
		return claim.Current, false, nil
	case !claim.Due:
		r.backoffs.pause(conn.Key, r.now(), r.settings.SuspectPause)
		return Tokens{}, false, errUnavailable(r.settings.SuspectPause, nil)
	case claim.Current.Refresh == "":
		_ = r.settle(ctx, conn, lease, claim, NotSent) // logged there
		return Tokens{}, false, errNoRefreshToken()
	case r.now().Sub(claimed) > r.settings.SendGuard:
		_ = r.settle(ctx, conn, lease, claim, NotSent) // logged there
		r.logger.WarnContext(ctx, "refresh given back: the process stood still after the claim",
			slog.String("connection", conn.Key))
		return Tokens{}, false, errInProgress()
	}
	tokens, err = r.exchange(ctx, conn, lease, claim, client)
	return tokens, false, err
}

// claim takes the lease with a deadline: one that takes longer than the send guard is
// of no use.
func (r *Refresher) claim(ctx context.Context, lease RefreshLease, stale Tokens) (Claim, error) {
	ctx, cancel := context.WithTimeout(ctx, r.settings.SendGuard)
	defer cancel()
	return lease.Claim(ctx, stale)
}

// exchange sends the refresh token and stores what comes back. From here on nothing
// may fail between the answer and the save.
func (r *Refresher) exchange(
	ctx context.Context, conn Connection, lease RefreshLease, claim Claim, client OAuthClient,
) (Tokens, error) {
	grant, err := r.exchanger.Refresh(ctx, client, claim.Current.Refresh)
	if err != nil {
		return r.settleFailure(ctx, conn, lease, claim, err)
	}
	fresh := grant.Tokens(claim.Taken)
	if fresh.Refresh == "" {
		fresh.Refresh = claim.Current.Refresh // it was not replaced, so it lives on
	}
	if claim.Current.Generation != 0 {
		fresh.Generation = claim.Current.Generation + 1
	}
	// A refresh never changes the workspace. Should it seem to, the pair is kept all
	// the same, since the old one is gone, and somebody is told.
	odd := fresh.WorkspaceID != "" && claim.Current.WorkspaceID != "" && fresh.WorkspaceID != claim.Current.WorkspaceID
	if claim.Current.WorkspaceID != "" {
		fresh.WorkspaceID = claim.Current.WorkspaceID
	}

	stored, err := r.save(ctx, conn, lease, claim, fresh)
	if err != nil {
		return Tokens{}, err
	}
	r.backoffs.clear(conn.Key)
	if odd {
		r.logger.ErrorContext(ctx, "a refreshed access token names another workspace", slog.String("connection", conn.Key))
	}
	if !grant.Rotated {
		r.logger.WarnContext(ctx, "a refresh kept its refresh token", slog.String("connection", conn.Key))
	}
	return stored, nil
}

// save stores the fresh pair, trying until it succeeds or the process gives up. It
// returns the pair to use: the fresh one, or what has superseded it.
func (r *Refresher) save(
	ctx context.Context, conn Connection, lease RefreshLease, claim Claim, fresh Tokens,
) (Tokens, error) {
	pause := r.settings.SaveRetryFrom
	for try := 1; ; try++ {
		err := r.write(ctx, conn, func(ctx context.Context) error { return lease.Save(ctx, claim, fresh) })
		switch {
		case err == nil && try > 1:
			r.logger.WarnContext(ctx, "refreshed tokens stored at last",
				slog.String("connection", conn.Key), slog.Int("tries", try))
			return fresh, nil
		case err == nil:
			return fresh, nil
		case errors.Is(err, ErrSuperseded):
			r.logger.WarnContext(ctx, "refreshed tokens dropped: the connection has others by now",
				slog.String("connection", conn.Key), slog.Int64("generation", fresh.Generation))
			return r.reread(ctx, conn)
		case try == 1:
			r.logger.ErrorContext(ctx, "refreshed tokens can't be stored yet", slog.String("connection", conn.Key),
				slog.Int64("generation", fresh.Generation), slog.Any("error", err))
		}
		select {
		case <-time.After(pause):
		case <-r.drain.gaveUp:
			r.logger.ErrorContext(ctx, "refreshed tokens lost: the process ends before they could be stored",
				slog.String("connection", conn.Key), slog.Int("tries", try), slog.Any("error", err))
			return Tokens{}, fmt.Errorf("store the refreshed tokens of %s: %w", conn, err)
		}
		pause = min(2*pause, r.settings.SaveRetryTo)
	}
}

// settleFailure ends an exchange that gave no pair, by the class of its error.
func (r *Refresher) settleFailure(
	ctx context.Context, conn Connection, lease RefreshLease, claim Claim, cause error,
) (Tokens, error) {
	outcome, advice := Unknown, time.Duration(0)
	if failure, ok := errors.AsType[*TokenError](cause); ok {
		outcome, advice = failure.Class, failure.RetryAfter
	}
	level := slog.LevelWarn
	if outcome == Misconfigured {
		level = slog.LevelError // only an operator can mend it
	}
	r.logger.Log(ctx, level, "token refresh failed", slog.String("connection", conn.Key),
		slog.String("outcome", outcome.String()), slog.Int64("generation", claim.Current.Generation),
		slog.Any("error", cause))

	settled := r.settle(ctx, conn, lease, claim, outcome)
	if outcome != InvalidGrant {
		pause := r.backoffs.failed(conn.Key, r.now(), advice, r.jitter(conn.Key, 0))
		return Tokens{}, errUnavailable(pause, cause)
	}
	if settled != nil {
		return Tokens{}, fmt.Errorf("end the refresh of %s: %w", conn, settled)
	}
	// A dead token is no proof of a dead connection: if the pair was replaced while we
	// exchanged it, ours was merely late, and the storage kept the newer one.
	current, err := r.reread(ctx, conn)
	switch kind := fault.KindOf(err); {
	case err == nil && !current.SamePair(claim.Current):
		return current, nil
	case err == nil, kind == fault.NotFound, kind == fault.ReconnectRequired:
		return Tokens{}, fault.New(fault.ReconnectRequired,
			"Prisma no longer accepts this connection. The user has to connect again.", cause)
	}
	return Tokens{}, fmt.Errorf("read the tokens of %s after a refused refresh: %w", conn, err)
}

// settle reports the end of an exchange without a pair, a few times if it must. A
// failure is logged, because most callers can't do anything about it.
func (r *Refresher) settle(
	ctx context.Context, conn Connection, lease RefreshLease, claim Claim, outcome Outcome,
) error {
	pause := r.settings.SaveRetryFrom
	for try := 1; ; try++ {
		err := r.write(ctx, conn, func(ctx context.Context) error { return lease.Settle(ctx, claim, outcome) })
		if err == nil {
			return nil
		}
		if try == settleTries {
			r.logger.ErrorContext(ctx, "the end of a refresh can't be stored", slog.String("connection", conn.Key),
				slog.String("outcome", outcome.String()), slog.Any("error", err))
			return err
		}
		r.sleep(pause)
		pause = min(2*pause, r.settings.SaveRetryTo)
	}
}

// reread reads the stored pair on behalf of a flight. It has a deadline because no
// caller's would end it, and a flight that hangs blocks its connection.
func (r *Refresher) reread(ctx context.Context, conn Connection) (Tokens, error) {
	ctx, cancel := context.WithTimeout(ctx, r.settings.WriteAttempt)
	defer cancel()
	return conn.Storage.Tokens(ctx)
}

// client finds the connection's OAuth client, with a deadline for the same reason.
func (r *Refresher) client(ctx context.Context, conn Connection) (OAuthClient, error) {
	ctx, cancel := context.WithTimeout(ctx, r.settings.WriteAttempt)
	defer cancel()
	return conn.Client(ctx)
}

// write makes one attempt to write to the storage. A panic in it counts as a failed
// attempt: the pair in our hands must survive it.
func (r *Refresher) write(ctx context.Context, conn Connection, do func(context.Context) error) (err error) {
	defer r.recoverPanic(ctx, conn, &err)
	ctx, cancel := context.WithTimeout(ctx, r.settings.WriteAttempt)
	defer cancel()
	return do(ctx)
}

// recoverPanic turns a panic into an error. The stack is logged and the panic's value
// is not: it could quote a token.
func (r *Refresher) recoverPanic(ctx context.Context, conn Connection, err *error) {
	if recover() != nil {
		r.logger.ErrorContext(ctx, "panic in a token refresh", slog.String("connection", conn.Key),
			slog.String("stack", string(debug.Stack())))
		*err = errPanicked
	}
}

// pollPause is the pause before the next look at another process's refresh.
func (r *Refresher) pollPause(key string, polls int) time.Duration {
	pause := r.settings.PollTo
	if polls < 16 {
		pause = min(r.settings.PollFrom<<polls, r.settings.PollTo)
	}
	return withJitter(pause, r.jitter(key, polls))
}

// sleep waits, for what no caller may cut short.
func (r *Refresher) sleep(d time.Duration) { <-time.After(d) }

// errNoRefreshToken says that an access token has ended and nothing can renew it.
func errNoRefreshToken() error {
	return fault.New(fault.ReconnectRequired,
		"The connection was made without lasting access and has expired. The user has to connect again.", nil)
}

// errInProgress says that a refresh runs and the caller should come back.
func errInProgress() error {
	return fault.New(fault.RefreshInProgress, "The connection is being refreshed. Try again in a moment.", nil).
		WithRetryAfter(2 * time.Second)
}

// errUnavailable says that a refresh failed and when it will be tried again.
func errUnavailable(after time.Duration, cause error) error {
	return fault.New(fault.PrismaUnavailable, "Prisma could not renew the connection. Try again later.", cause).
		WithRetryAfter(after)
}
