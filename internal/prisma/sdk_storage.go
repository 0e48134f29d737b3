package prisma

import "context"

// gate lets one through at a time. Unlike a mutex it can be waited for with a context.
type gate chan struct{}

func newGate() gate { return make(gate, 1) }

// pass runs do while nobody else is inside, unless ctx ends first.
func (g gate) pass(ctx context.Context, do func() error) error {
	select {
	case g <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-g }()
	if err := ctx.Err(); err != nil { // both were ready
		return err
	}
	return do()
}

// refreshStorage is the storage as the refresher gets it. One that coordinates refreshes
// itself fences late writes too. Any other one can't tell a login or a logout that
// happens between a look and a write, so those of this SDK are kept out of the way.
func (s *SDK) refreshStorage() TokenStorage {
	if _, ok := s.storage.(RefreshLease); ok {
		return s.storage
	}
	return &gatedStorage{TokenStorage: s.storage, sdk: s}
}

// gatedStorage is a plain storage whose refreshes exclude the SDK's logins and logouts
// while they compare and write. It hides what else the storage implements; its lease
// uses that.
type gatedStorage struct {
	TokenStorage

	sdk   *SDK
	lease RefreshLease // of the refresh in flight; there is one at most
}

var _ RefreshLease = (*gatedStorage)(nil)

// Claim begins a refresh. It may wait long for a lock of the storage's own, which is no
// reason to keep anybody from logging out.
func (g *gatedStorage) Claim(ctx context.Context, refused Tokens) (Claim, error) {
	g.lease = leaseOf(g.sdk.conn.Key, g.TokenStorage, g.sdk.refresher.suspicions, g.sdk.now)
	return g.lease.Claim(ctx, refused)
}

// Save stores the fresh pair, or finds it superseded.
func (g *gatedStorage) Save(ctx context.Context, claim Claim, fresh Tokens) error {
	return g.sdk.gate.pass(ctx, func() error { return g.lease.Save(ctx, claim, fresh) })
}

// Settle ends a refresh without a pair.
func (g *gatedStorage) Settle(ctx context.Context, claim Claim, outcome Outcome) error {
	return g.sdk.gate.pass(ctx, func() error { return g.lease.Settle(ctx, claim, outcome) })
}
