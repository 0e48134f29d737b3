package prisma

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// ErrSuperseded is what Save returns, possibly wrapped, when the stored pair is no
// longer the one that was exchanged: the user reconnected, disconnected, or another
// exchange was saved first. Saving again can't succeed, so the refresher stops and
// uses what is stored.
var ErrSuperseded = errors.New("prisma: the stored tokens are no longer the ones exchanged")

// Tokens is one token pair and what its storage knows about it.
//
// IssuedAt, ExpiresAt and ReadAt are read on one clock, the storage's (for Postgres
// the database's), so that a process whose own clock is wrong neither refreshes
// early nor serves an expired token. Between two reads only elapsed time is
// measured locally, on the monotonic clock.
//
// Printing or logging Tokens shows everything but the tokens themselves.
type Tokens struct {
	// WorkspaceID is the Prisma workspace that the user granted ("wksp_…").
	WorkspaceID string

	// Access is the bearer token for the Management API.
	Access string

	// Refresh is the single-use refresh token. It is "" when the grant came without
	// offline_access; then the user has to connect again once Access has expired.
	Refresh string

	// IssuedAt is when the pair was asked for: when the lease was taken, not when
	// the answer came. Zero means unknown, which counts as long ago.
	IssuedAt time.Time

	// ExpiresAt is when Access stops working. Zero means unknown: the token is used
	// until the API refuses it.
	ExpiresAt time.Time

	// ReadAt is the storage's time when it read this value. A storage that serves
	// cached values moves it forward by the age of the cache entry. Zero means that
	// the storage has no clock of its own, and the refresher uses its own.
	ReadAt time.Time

	// Generation counts the connection's pairs from 1 and fences every write. 0 means
	// that the storage does not count; pairs are then compared by value.
	Generation int64

	// LateToo is said to RefreshLease.Claim and means nothing elsewhere: the lease is
	// wanted also if the exchange is a late retry. See Claim.Late.
	LateToo bool
}

// SamePair reports whether t and other are the same token pair: the same generation
// where both count, else the same two tokens.
func (t Tokens) SamePair(other Tokens) bool {
	if t.Generation != 0 && other.Generation != 0 {
		return t.Generation == other.Generation
	}
	return t.Access == other.Access && t.Refresh == other.Refresh
}

// String describes the pair without its secrets.
func (t Tokens) String() string {
	return fmt.Sprintf("tokens of %s, generation %d", t.WorkspaceID, t.Generation)
}

// GoString is String, so that %#v shows no secret either.
func (t Tokens) GoString() string { return t.String() }

// LogValue describes the pair without its secrets.
func (t Tokens) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("workspace_id", t.WorkspaceID),
		slog.Int64("generation", t.Generation),
		slog.Time("expires_at", t.ExpiresAt),
	)
}

// TokenStorage keeps the token pair of one connection. Implementations must be safe
// for concurrent use. A storage that also implements RefreshLease, or at least
// RefreshLock, coordinates refreshes between processes; one that implements
// CompareAndClear never forgets a pair that somebody else has just replaced.
type TokenStorage interface {
	// Tokens returns the stored pair. Without one the error is ErrNoTokens or of its
	// kind, fault.NotFound; of kind fault.ReconnectRequired when the storage knows
	// that the refresh token died.
	Tokens(ctx context.Context) (Tokens, error)

	// SetTokens replaces whatever is stored, as after a new consent. A storage that
	// counts ignores tokens.Generation and moves its own on by 1. tokens.ReadAt is zero:
	// a storage without a clock of its own may keep and return the value as it is.
	SetTokens(ctx context.Context, tokens Tokens) error

	// ClearTokens forgets the pair. Without one it does nothing.
	ClearTokens(ctx context.Context) error
}

// CompareAndClear is an optional part of a TokenStorage.
type CompareAndClear interface {
	// ClearTokensIfCurrent forgets the pair if it is still the stored one
	// (Tokens.SamePair), and otherwise does nothing.
	ClearTokensIfCurrent(ctx context.Context, tokens Tokens) error
}

// RefreshLock is an optional part of a TokenStorage that several processes share, for
// storages whose authors have no use for the whole of RefreshLease: a lock around each
// refresh. A storage that has both is used by its lease.
//
// The refresher takes the lock, reads the tokens again, exchanges them if they are
// still the ones to replace, stores the result, and lets go. What the lock can't do is
// tell of an exchange that a crash cut off: whoever takes it next sends the same
// refresh token again, which may end the grant.
type RefreshLock interface {
	// LockRefresh waits until this process has the lock and returns what lets go of it;
	// release is called once. It must not be re-entrant: another call, even of the same
	// process, waits. Tokens, SetTokens and ClearTokens are called while it is held.
	//
	// ctx ends the wait, and the error then is ctx's. After that it lives as long as the
	// lock is held, so a lock may be bound to it. A lock that can expire by itself should
	// last at least as long as RefreshSettings.Lease.
	LockRefresh(ctx context.Context) (release func(), err error)
}

// RefreshLease is an optional part of a TokenStorage: it makes one process at a time
// exchange a connection's refresh token, and leaves a durable trace of every
// exchange that was begun. Each method is one short transaction; nothing is held
// while the token endpoint works.
type RefreshLease interface {
	// Claim looks at the stored pair under a lock. If it is still refused and nobody
	// holds the lease, Claim takes the lease, writes the intent to exchange, commits,
	// and answers Due. An error means that nothing may be sent: without a durable
	// intent there is no exchange. No tokens: as TokenStorage.Tokens. If it is not known
	// whether the intent was stored, the error comes with the claim, Due: it is settled as
	// NotSent, so that no exchange is suspected that was none.
	//
	// "Refused" is the pair that the caller wants replaced, because it expires soon
	// or because the API no longer takes it. In the latter case refused.ExpiresAt is
	// not after refused.ReadAt, whatever is stored, and a storage may use that: the
	// access token is of no use any more, so an open intent need not wait for its end.
	//
	// A refresh token of unknown fate is presented again while nothing is left to lose:
	// for the first time when its access token is about to end or was refused, and
	// further times only once that has ended, after the lease of the time before, with
	// growing pauses (LatePauses). It is never given up for that alone: what ends it is an
	// answer, or its own age (RefreshTokenLife).
	Claim(ctx context.Context, refused Tokens) (Claim, error)

	// Save stores the fresh pair and ends the lease, in one statement that applies
	// only while the stored generation is claim.Current's; the owner of the lease
	// does not matter, because a stalled owner may hold the only live pair. It is
	// repeated after any error except ErrSuperseded, so it must recognise a pair
	// that an earlier attempt stored after all, and answer nil.
	Save(ctx context.Context, claim Claim, fresh Tokens) error

	// Settle ends a lease whose exchange gave no pair. It changes nothing when the
	// stored generation has moved on since the claim, or the claim is not in force.
	Settle(ctx context.Context, claim Claim, outcome Outcome) error
}

// Claim is the answer to RefreshLease.Claim. When it is neither Due nor Held, Current
// are the tokens to use. Those may be the refused pair itself: its refresh token was
// sent before, nobody knows with what result, and it is too early to send it again.
type Claim struct {
	// Due: the lease is the caller's, who exchanges Current.Refresh exactly once and
	// then calls Save or Settle.
	Due bool

	// Held: another process holds the lease; read the tokens again a little later.
	Held bool

	// Current is what is stored now.
	Current Tokens

	// Taken is the storage's time when the lease was taken. The life of the fresh
	// access token is counted from here, so that it is never thought to last longer
	// than it does.
	Taken time.Time

	// Late: the refresh token was sent before, and nobody knows with what result, so it
	// should not be wasted on an endpoint that does not answer. Asked without
	// Tokens.LateToo, a storage says Late alone and leaves everything as it is: whoever
	// asks looks at the endpoint first and then asks with it. A storage that does not
	// know of LateToo says Late and Due at once.
	Late bool

	// TooEarly, of a claim that is neither Due, Held nor Late and whose Current is the
	// refused pair: how long it will be too early to send its refresh token, if that is
	// known.
	TooEarly time.Duration

	// Forced: the refused access token had life left, so it was the API's refusal that
	// asked for this exchange. A storage may keep the next one apart from it.
	Forced bool

	// SendWithin, if not 0, is how long after the claim the request may still be begun,
	// where the storage allows less than the send guard does.
	SendWithin time.Duration

	// Again is for Settle, of an exchange that will be made once more at once, with another
	// client secret: a storage that keeps exchanges apart after a failure lets that one
	// through, and holds nothing against the connection.
	Again bool
}

// Outcome says how an exchange that gave no pair ended.
type Outcome int

// The outcomes that Settle is told.
const (
	// NotSent: no byte of the request left this process. The refresh token is
	// untouched and may be sent at once.
	NotSent Outcome = iota + 1

	// Misconfigured: the token endpoint refused our client or our request, or limited
	// our rate, without looking at the refresh token. It is our fault, never the
	// user's: the connection stays as it is.
	Misconfigured

	// InvalidGrant: the refresh token is dead. If the stored pair is still the one
	// that was sent, the user has to connect again.
	InvalidGrant

	// Unknown: the request was sent and no usable answer came back; the refresh token
	// may be used up or not. It must not be sent again until the access token is
	// about to end, because an early replay can only do harm; and further times only
	// once that has ended.
	Unknown
)

// String is the outcome's name in logs.
func (o Outcome) String() string {
	switch o {
	case NotSent:
		return "not_sent"
	case Misconfigured:
		return "misconfigured"
	case InvalidGrant:
		return "invalid_grant"
	case Unknown:
		return "unknown"
	}
	return fmt.Sprintf("outcome(%d)", int(o))
}
