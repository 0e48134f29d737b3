package prisma

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/connect-prisma/server/internal/fault"
)

// lockWait is how long a claim waits for a storage's own refresh lock before it tells
// the refresher to look again later. It is shorter than the send guard, so that a lock
// that was waited for still leaves time to send.
const lockWait = 2 * time.Second

// errLockHeld says that somebody else has had the storage's refresh lock for lockWait.
var errLockHeld = errors.New("prisma: another process holds the refresh lock")

// leaseOf returns the storage's own lease, or one for this flight alone that makes do
// with what the storage has and what the process remembers of the connection.
func leaseOf(key string, storage TokenStorage, memory *suspicions, now func() time.Time) RefreshLease {
	if lease, ok := storage.(RefreshLease); ok {
		return lease
	}
	return &localLease{key: key, storage: storage, memory: memory, now: now}
}

// localLease gives a plain TokenStorage the form of a RefreshLease, so that there is
// one refresh algorithm. It serves one flight.
//
// Within a process the refresher's single flight is the lock. Between processes it is
// the storage's RefreshLock, if it has one: held from the claim that is due until the
// exchange is saved or settled. That the fate of a refresh token is unknown is remembered
// by the process, not by the storage, so an exchange that a crash cut off leaves no
// trace; only a storage with a lease of its own can see to that.
type localLease struct {
	key     string
	storage TokenStorage
	memory  *suspicions
	now     func() time.Time

	taken time.Time // when the storage was read for the last claim, on now's clock

	mu     sync.Mutex
	unlock func()      // not nil while the storage's refresh lock is held
	expiry *time.Timer // lets go of it when nobody ends the exchange
}

// Claim takes the storage's lock, reads the tokens again, and is due if they are still
// the refused ones. Unless it is, the lock is free again.
func (l *localLease) Claim(ctx context.Context, refused Tokens) (_ Claim, err error) {
	switch err := l.lock(ctx); {
	case errors.Is(err, errLockHeld):
		return Claim{Held: true}, nil
	case err != nil:
		return Claim{}, err
	}
	due := false
	defer func() { // deferred: a storage that panics must not keep the lock
		if !due {
			l.release()
		}
	}()
	l.taken = l.now()
	current, err := l.storage.Tokens(ctx)
	if err != nil {
		return Claim{}, err
	}
	if current.ReadAt.IsZero() {
		current.ReadAt = l.taken
	}
	claim := Claim{Current: current, Taken: current.ReadAt}
	if current.SamePair(refused) {
		claim.Late, claim.TooEarly = l.memory.allows(l.key, current, refused, current.ReadAt)
		due = claim.TooEarly == 0 && (!claim.Late || refused.LateToo)
		claim.Due = due
	}
	return claim, nil
}

// Save stores the fresh pair unless the user has logged out or in meanwhile. The lock
// is kept until it succeeds. Against a login or logout, which take no lock, its look
// and its write are not protected; only a lease can do that.
func (l *localLease) Save(ctx context.Context, claim Claim, fresh Tokens) error {
	if err := l.lock(ctx); err != nil {
		return err
	}
	err := l.save(ctx, claim, fresh)
	if err == nil || errors.Is(err, ErrSuperseded) {
		l.memory.clear(l.key)
		l.release()
	}
	return err
}

func (l *localLease) save(ctx context.Context, claim Claim, fresh Tokens) error {
	current, err := l.storage.Tokens(ctx)
	switch {
	case err != nil && isGone(err):
		return ErrSuperseded
	case err != nil:
		return err
	case current.Access == fresh.Access && current.Refresh == fresh.Refresh:
		return nil // an earlier attempt that seemed to fail did store it
	case !current.SamePair(claim.Current):
		return ErrSuperseded
	}
	fresh.ReadAt = time.Time{} // a storage that keeps the whole value must not take it for its clock
	return l.storage.SetTokens(ctx, fresh)
}

// Settle forgets a pair whose refresh token is dead, and remembers one whose fate is
// unknown. The lock ends with it even when it fails, because nobody knows whether it will be
// repeated; a repetition takes the lock anew.
func (l *localLease) Settle(ctx context.Context, claim Claim, outcome Outcome) error {
	defer l.release()
	if outcome == Unknown {
		l.memory.raise(l.key, claim.Current, claim.Late, claim.Taken.Add(l.now().Sub(l.taken)))
	}
	if outcome != InvalidGrant {
		return nil
	}
	if err := l.lock(ctx); err != nil {
		return err
	}
	if storage, ok := l.storage.(CompareAndClear); ok {
		return storage.ClearTokensIfCurrent(ctx, claim.Current)
	}
	current, err := l.storage.Tokens(ctx)
	switch {
	case err != nil && isGone(err):
		return nil
	case err != nil:
		return err
	case !current.SamePair(claim.Current):
		return nil
	}
	return l.storage.ClearTokens(ctx)
}

// isGone reports whether an error of TokenStorage.Tokens means that there is no pair.
func isGone(err error) bool {
	kind := fault.KindOf(err)
	return kind == fault.NotFound || kind == fault.ReconnectRequired
}

// lock takes the storage's refresh lock, if it has one and the lock is not held
// already. Either way the time after which it is let go begins anew: whoever calls is
// still at work.
func (l *localLease) lock(ctx context.Context) error {
	storage, ok := l.storage.(RefreshLock)
	if !ok {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	leaseFor := RefreshSettings{}.WithDefaults().Lease
	if l.unlock != nil {
		l.expiry.Reset(leaseFor)
		return nil
	}
	unlock, err := lockRefresh(ctx, storage)
	if err != nil {
		return err
	}
	l.unlock = unlock
	l.expiry = time.AfterFunc(leaseFor, l.release)
	return nil
}

// lockRefresh waits for the lock, but not long. The context that the storage gets ends
// with the wait or, once the lock is held, with the lock: some locks, such as those of
// a database transaction, live no longer than the context they were taken with.
func lockRefresh(ctx context.Context, storage RefreshLock) (unlock func(), err error) {
	wait, stop := context.WithTimeout(ctx, lockWait)
	defer stop()
	lockCtx, drop := context.WithCancel(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(wait, drop)
	defer unhook()
	release, err := storage.LockRefresh(lockCtx)
	if err != nil {
		drop()
		if wait.Err() != nil {
			return nil, errLockHeld
		}
		return nil, err
	}
	unlock = func() {
		defer drop()
		if release != nil {
			release()
		}
	}
	if !unhook() { // granted as the time ran out: its context has ended, so it may be worth nothing
		unlock()
		return nil, errLockHeld
	}
	return unlock, nil
}

// release lets go of the lock if it is held.
func (l *localLease) release() {
	l.mu.Lock()
	unlock := l.unlock
	l.unlock = nil
	if l.expiry != nil {
		l.expiry.Stop()
	}
	l.mu.Unlock()
	if unlock != nil {
		unlock()
	}
}
