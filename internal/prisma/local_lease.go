package prisma

import (
	"context"
	"time"

	"github.com/connect-prisma/server/internal/fault"
)

// leaseOf returns the storage's own lease or one that works for this process alone.
func leaseOf(storage TokenStorage, now func() time.Time) RefreshLease {
	if lease, ok := storage.(RefreshLease); ok {
		return lease
	}
	return localLease{storage: storage, now: now}
}

// localLease gives a plain TokenStorage the form of a RefreshLease, so that there is
// one refresh algorithm. The lock itself is the refresher's single flight: within one
// process nobody else exchanges the connection's token meanwhile. It can't see other
// processes and leaves no trace of an exchange that a crash cut off.
type localLease struct {
	storage TokenStorage
	now     func() time.Time
}

// Claim reads the tokens again and is due if they are still the refused ones.
func (l localLease) Claim(ctx context.Context, refused Tokens) (Claim, error) {
	taken := l.now()
	current, err := l.storage.Tokens(ctx)
	if err != nil {
		return Claim{}, err
	}
	if !current.ReadAt.IsZero() {
		taken = current.ReadAt
	}
	return Claim{Due: current.SamePair(refused), Current: current, Taken: taken}, nil
}

// Save stores the fresh pair unless the user has logged out or in meanwhile. Between
// its look and its write it is not protected; only a lease can be.
func (l localLease) Save(ctx context.Context, claim Claim, fresh Tokens) error {
	current, err := l.storage.Tokens(ctx)
	switch kind := fault.KindOf(err); {
	case err != nil && (kind == fault.NotFound || kind == fault.ReconnectRequired):
		return ErrSuperseded
	case err != nil:
		return err
	case current.Access == fresh.Access && current.Refresh == fresh.Refresh:
		return nil // an earlier attempt that seemed to fail did store it
	case !current.SamePair(claim.Current):
		return ErrSuperseded
	}
	return l.storage.SetTokens(ctx, fresh)
}

// Settle forgets a pair whose refresh token is dead; other outcomes leave no mark.
func (l localLease) Settle(ctx context.Context, claim Claim, outcome Outcome) error {
	if outcome != InvalidGrant {
		return nil
	}
	if storage, ok := l.storage.(CompareAndClear); ok {
		return storage.ClearTokensIfCurrent(ctx, claim.Current)
	}
	current, err := l.storage.Tokens(ctx)
	switch {
	case fault.KindOf(err) == fault.NotFound:
		return nil
	case err != nil:
		return err
	case !current.SamePair(claim.Current):
		return nil
	}
	return l.storage.ClearTokens(ctx)
}
