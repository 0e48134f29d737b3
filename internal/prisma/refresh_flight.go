package prisma

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/connect-prisma/server/internal/fault"
)

// pollsPerClaim is how often the stored pair is looked at, while another process holds
// the lease, before the lease itself is tried again: looking is cheap, trying takes a
// row lock, and the holder may have given the lease back without a new pair.
const pollsPerClaim = 5

// settleTries is how often the end of an exchange without a pair is reported, where the
// token may be spent. If all fail the lease runs out by itself, which tells the storage
// as much.
const settleTries = 5

// errPanicked stands for a panic, whose text might hold anything.
var errPanicked = errors.New("prisma: panic")

// fly is one refresh of one connection, from the claim to the save. ctx is detached
// from every caller. Its errors go to all callers that wait; what went wrong with the
// token endpoint is logged here and not by them, because there may be none.
func (r *Refresher) fly(ctx context.Context, conn Connection, o order) (tokens Tokens, err error) {
	// The flight runs on a goroutine that nobody else can recover.
	defer r.recoverPanic(ctx, conn, &err)

	if pause := r.backoffs.remaining(conn.Key, r.now()); pause > 0 {
		return Tokens{}, errUnavailable(pause, r.backoffs.reason(conn.Key))
	}
	if r.suspects.remaining(conn.Key, r.now()) > 0 && !o.forced {
		return Tokens{}, errUnavailable(r.suspects.advice(conn.Key, r.now()), nil)
	}
	lease := leaseOf(conn.Key, conn.Storage, r.suspicions, r.now)
	begun := r.now()
	again := false
	for polls := 0; ; {
		tokens, held, err := r.attempt(ctx, conn, lease, &o)
		switch {
		case errors.Is(err, errOtherSecret):
			continue
		case err == nil && !held && isHalf(o.stale, tokens):
			if again {
				pause := r.backoffs.failed(conn.Key, r.now(), 0, r.jitter(conn.Key, 0), errHalfAnswers)
				return Tokens{}, errUnavailable(pause, errHalfAnswers)
			}
			o.stale, again = tokens, true
			continue
		case err != nil || !held:
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
			if isHalf(o.stale, current) {
				o.stale = current
				break
			}
			if !current.SamePair(o.stale) {
				return current, nil
			}
		}
	}
}

// attempt waits for its turn, tries to take the lease and, if that is ours, makes the
// one exchange it is for. held says that another process has it.
func (r *Refresher) attempt(
	ctx context.Context, conn Connection, lease RefreshLease, o *order,
) (tokens Tokens, held bool, err error) {
	tripped := r.breaker.tripped()
	if pause := r.breaker.refuses(r.slots.isWanted(conn.Key)); pause > 0 {
		return Tokens{}, false, errUnavailable(pause, nil)
	}
	// Before the claim: waiting for a place must not use up the lease.
	if !r.slots.acquire(conn.Key, conn.Share, r.drain.shut, tripped) {
		if pause := r.breaker.refuses(true); pause > 0 {
			return Tokens{}, false, errUnavailable(pause, nil)
		}
		return Tokens{}, false, errInProgress()
	}
	defer r.slots.release(conn.Share)
	if !r.drain.enter() {
		return Tokens{}, false, errInProgress()
	}
	defer r.drain.leave()

	client, err := r.client(ctx, conn) // before the claim too: it may read a database
	if err != nil {
		r.stumbled(ctx, conn, err)
		return Tokens{}, false, fmt.Errorf("find the OAuth client of %s: %w", conn, noClientError{err})
	}
	if pause := r.clients.remaining(client.ID, r.now()); pause > 0 {
		return Tokens{}, false, errUnavailable(pause, r.clients.reason(client.ID))
	}
	as := senderOf(client, o.refused)
	leave, pause := r.breaker.enter(r.slots.isWanted(conn.Key))
	if leave == nil {
		return Tokens{}, false, errUnavailable(pause, nil)
	}
	defer leave.end(ctx, unused)
	claim, err := r.claim(ctx, conn, lease, o.stale, leave)
	switch {
	case err != nil:
		return Tokens{}, false, err
	case claim.Held:
		return Tokens{}, true, nil
	case !claim.Due:
		return claim.Current, false, nil
	}
	tokens, err = r.exchange(ctx, conn, lease, claim, as, leave)
	if errors.Is(err, errOtherSecret) {
		o.refused = as.Secret
		return Tokens{}, false, err
	}
	if o.forced {
		r.backoffs.force(conn.Key, r.now())
	}
	return tokens, false, err
}

// claim takes the lease and finds out whether to send. Claims that are Due are to be
// exchanged; what others hold is to be used, or to be waited for.
func (r *Refresher) claim(
	ctx context.Context, conn Connection, lease RefreshLease, stale Tokens, leave *pass,
) (Claim, error) {
	claimed := r.now()
	claim, err := r.take(ctx, lease, stale)
	if err == nil && claim.Late && !claim.Due {
		// Asked before the claim: whoever dies while it asks leaves no intent behind.
		if err := r.probe(ctx, leave, claim.Current); err != nil {
			return Claim{}, r.outOfOrder(conn, err)
		}
		stale.LateToo = true
		claimed = r.now()
		claim, err = r.take(ctx, lease, stale)
	}
	guard := r.settings.SendGuard
	if claim.SendWithin > 0 {
		guard = min(guard, claim.SendWithin)
	}
	switch {
	case err != nil:
		if claim.Due { // and perhaps stored: nothing was sent, whatever comes of that
			_ = r.settle(ctx, conn, lease, claim, NotSent) // logged there
		}
		r.stumbled(ctx, conn, err)
		return Claim{}, fmt.Errorf("claim the refresh of %s: %w", conn, err)
	case claim.Held, !claim.Due && !claim.Current.SamePair(stale):
		r.stuck.clear(conn.Key)
		return claim, nil
	case !claim.Due:
		// Apart from the pauses after failures: they don't hold up a caller whose access
		// token was refused, and this one must not either.
		r.suspects.pause(conn.Key, r.now(), r.settings.SuspectPause, claim.TooEarly)
		return Claim{}, errUnavailable(max(r.settings.SuspectPause, claim.TooEarly), nil)
	case claim.Current.Refresh == "":
		_ = r.settle(ctx, conn, lease, claim, NotSent) // logged there
		return Claim{}, errNoRefreshToken()
	}
	if claim.Late && !stale.LateToo { // a storage that does not ask first
		if err := r.probe(ctx, leave, claim.Current); err != nil {
			_ = r.settle(ctx, conn, lease, claim, NotSent) // logged there
			return Claim{}, r.outOfOrder(conn, err)
		}
	}
	if claim.Late {
		if current, err := r.stillStored(ctx, conn, lease, claim); err != nil || !current.SamePair(claim.Current) {
			return Claim{Current: current}, err
		}
	}
	if r.now().Sub(claimed) > guard {
		_ = r.settle(ctx, conn, lease, claim, NotSent) // logged there
		r.logger.WarnContext(ctx, "refresh given back: the process stood still after the claim",
			slog.String("connection", conn.Key))
		return Claim{}, errInProgress()
	}
	return claim, nil
}

const (
	// freshAnswer is how recent an answer of the token endpoint must be to count as a sign
	// that it is well.
	freshAnswer = 30 * time.Second
	// probeFor is for how long after its access token's end a connection's late retry is
	// made to depend on a probe: an endpoint may have its reasons not to answer that.
	probeFor = time.Hour
)

// noClientError says that the OAuth client of a grant can't be had.
type noClientError struct{ error }

func (e noClientError) Unwrap() error { return e.error }

// stumbled takes an error that kept a refresh from its exchange. Refreshes ahead of need
// pause, or every call would begin one; and of theirs nobody else is told. Callers that
// wait get the error themselves, and do not wait for the pause.
func (r *Refresher) stumbled(ctx context.Context, conn Connection, err error) {
	pause := r.stuck.failed(conn.Key, r.now(), 0, r.jitter(conn.Key, 0), err)
	if kind := fault.KindOf(err); kind == fault.ReconnectRequired || kind == fault.NotFound || r.slots.isWanted(conn.Key) {
		return
	}
	r.logger.WarnContext(ctx, "a refresh could not begin", slog.String("connection", conn.Key),
		slog.Duration("pause", pause), slog.Any("error", err))
}

// outOfOrder pauses a connection because the token endpoint does not answer a probe.
func (r *Refresher) outOfOrder(conn Connection, cause error) error {
	return errUnavailable(r.backoffs.failed(conn.Key, r.now(), 0, r.jitter(conn.Key, 0), cause), cause)
}

// probe finds out whether the token endpoint is well, before a refresh token is sent
// late: into an outage it would be sent for nothing, and the next time is further away.
// Without a recent answer the endpoint is asked something that costs nothing.
func (r *Refresher) probe(ctx context.Context, leave *pass, pair Tokens) error {
	prober, ok := r.exchanger.(Prober)
	longOver := !pair.ExpiresAt.IsZero() && pair.ReadAt.Sub(pair.ExpiresAt) > probeFor
	if !ok || longOver || r.breaker.wellSince(r.now().Add(-freshAnswer)) {
		return nil
	}
	late := time.AfterFunc(r.settings.BreakerSlow, func() { leave.end(ctx, failed) })
	err := prober.Probe(ctx)
	late.Stop()
	if err != nil {
		leave.end(ctx, failed)
		r.logger.WarnContext(ctx, "a late refresh waits: the token endpoint does not answer", slog.Any("error", err))
		return err
	}
	r.breaker.seenWell()
	return nil
}

// take takes the lease with a deadline: one that takes longer than the send guard is of
// no use.
func (r *Refresher) take(ctx context.Context, lease RefreshLease, stale Tokens) (Claim, error) {
	ctx, cancel := context.WithTimeout(ctx, r.settings.SendGuard)
	defer cancel()
	return lease.Claim(ctx, stale)
}

// exchange sends the refresh token and stores what comes back. From here on nothing
// may fail between the answer and the save.
func (r *Refresher) exchange(
	ctx context.Context, conn Connection, lease RefreshLease, claim Claim, as sender, leave *pass,
) (Tokens, error) {
	grant, err := leave.send(ctx, func() (_ Grant, err error) {
		defer r.recoverPanic(ctx, conn, &err) // an outcome like any other unknown one, to be settled
		return r.exchanger.Refresh(ctx, as.OAuthClient, claim.Current.Refresh)
	})
	if err != nil {
		if r.hasOther(ctx, conn, as, err) {
			claim.Again = true
			_ = r.settle(ctx, conn, lease, claim, Misconfigured) // logged there
			return Tokens{}, errOtherSecret
		}
		r.heed(ctx, as.OAuthClient, err)
		return r.settleFailure(ctx, conn, lease, claim, err)
	}
	r.clients.clear(as.ID)
	fresh := grant.Tokens(claim.Taken)
	if grant.Access == "" {
		r.logger.WarnContext(ctx, "an answer to a token request breaks off after its refresh token",
			slog.String("connection", conn.Key))
		fresh = withAccessOf(claim, grant.Refresh)
	}
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
	r.stuck.clear(conn.Key)
	r.adopt(ctx, conn, as)
	if odd {
		r.logger.ErrorContext(ctx, "a refreshed access token names another workspace", slog.String("connection", conn.Key))
	}
	if !grant.Rotated {
		r.logger.WarnContext(ctx, "a refresh kept its refresh token", slog.String("connection", conn.Key))
	}
	return stored, nil
}

// heed leaves an OAuth client alone that the endpoint refuses or wants to hear less of.
// That is one tenant's affair. Only when a second client is told to slow down it is the
// endpoint's, and everybody waits.
func (r *Refresher) heed(ctx context.Context, client OAuthClient, cause error) {
	outcome, failure := outcomeOf(cause)
	if outcome != Misconfigured {
		return
	}
	now := r.now()
	pause := r.clients.failed(client.ID, now, failure.RetryAfter, r.jitter(client.ID, 0), cause)
	if failure.Status != http.StatusTooManyRequests {
		return
	}
	r.limited.pause(client.ID, now, pause, 0)
	if r.limited.others(client.ID, now) {
		r.breaker.pause(ctx, failure.RetryAfter)
	}
}

// outcomeOf is the class of an exchange's error, and the error if it is a *TokenError.
func outcomeOf(err error) (Outcome, *TokenError) {
	if failure, ok := errors.AsType[*TokenError](err); ok {
		return failure.Class, failure
	}
	return Unknown, &TokenError{Class: Unknown}
}

// settleFailure ends an exchange that gave no pair, by the class of its error.
func (r *Refresher) settleFailure(
	ctx context.Context, conn Connection, lease RefreshLease, claim Claim, cause error,
) (Tokens, error) {
	outcome, failure := outcomeOf(cause)
	level := slog.LevelWarn
	if outcome == Misconfigured {
		level = slog.LevelError // only an operator can mend it
	}
	r.logger.Log(ctx, level, "token refresh failed", slog.String("connection", conn.Key),
		slog.String("outcome", outcome.String()), slog.Int64("generation", claim.Current.Generation),
		slog.Any("error", cause))

	settled := r.settle(ctx, conn, lease, claim, outcome)
	if outcome != InvalidGrant {
		pause := r.backoffs.failed(conn.Key, r.now(), failure.RetryAfter, r.jitter(conn.Key, 0), cause)
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

// settle reports the end of an exchange without a pair, a few times if it must. That the
// token was not spent it reports for as long as the lease lasts: unsaid, the token would
// be suspected of it. A failure is logged, because most callers can't do anything about it.
func (r *Refresher) settle(
	ctx context.Context, conn Connection, lease RefreshLease, claim Claim, outcome Outcome,
) error {
	begun, pause := r.now(), r.settings.SaveRetryFrom
	unspent := outcome == NotSent || outcome == Misconfigured
	for try := 1; ; try++ {
		err := r.write(ctx, conn, func(ctx context.Context) error { return lease.Settle(ctx, claim, outcome) })
		if err == nil {
			return nil
		}
		last := try >= settleTries
		if unspent {
			last = r.now().Sub(begun) >= r.settings.Lease
		}
		if !last {
			select {
			case <-time.After(pause):
			case <-r.drain.gaveUp:
				last = true
			}
		}
		if last {
			r.logger.ErrorContext(ctx, "the end of a refresh can't be stored", slog.String("connection", conn.Key),
				slog.String("outcome", outcome.String()), slog.Any("error", err))
			return err
		}
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
