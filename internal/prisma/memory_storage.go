package prisma

import (
	"cmp"
	"context"
	"sync"
	"time"
)

// MemoryStorage keeps one connection's tokens in memory, with everything a storage can
// offer: counted generations, compare-and-clear and the refresh lease. It suits tests,
// tools and programs that may forget. Several refreshers may share one. Printing it
// shows no token.
type MemoryStorage struct {
	now      func() time.Time
	leaseFor time.Duration

	mu         sync.Mutex
	record     record
	leaseUntil time.Time // of the exchange that record.intentAt names; zero: nobody holds the lease
}

var (
	_ TokenStorage    = (*MemoryStorage)(nil)
	_ CompareAndClear = (*MemoryStorage)(nil)
	_ RefreshLease    = (*MemoryStorage)(nil)
)

// NewMemoryStorage returns an empty storage that reads its clock from now. Its leases
// last leaseFor; 0 takes the default of RefreshSettings.
func NewMemoryStorage(now func() time.Time, leaseFor time.Duration) *MemoryStorage {
	return &MemoryStorage{now: now, leaseFor: cmp.Or(leaseFor, RefreshSettings{}.WithDefaults().Lease)}
}

// String names the storage without what is in it.
func (m *MemoryStorage) String() string { return "tokens in memory" }

// GoString is String, so that %#v shows no secret either.
func (m *MemoryStorage) GoString() string { return m.String() }

// Tokens returns the stored pair.
func (m *MemoryStorage) Tokens(context.Context) (Tokens, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.record.read(m.now())
}

// SetTokens replaces the pair, moves the generation on and ends any lease.
func (m *MemoryStorage) SetTokens(_ context.Context, tokens Tokens) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record.set(tokens)
	m.leaseUntil = time.Time{}
	return nil
}

// ClearTokens forgets the pair.
func (m *MemoryStorage) ClearTokens(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.record.end(endedCleared)
	m.leaseUntil = time.Time{}
	return nil
}

// ClearTokensIfCurrent forgets the pair if it is still the stored one.
func (m *MemoryStorage) ClearTokensIfCurrent(_ context.Context, tokens Tokens) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.record.present() && m.record.tokens.SamePair(tokens) {
		m.record.end(endedCleared)
		m.leaseUntil = time.Time{}
	}
	return nil
}

// Claim takes the lease if the pair is still refused and may be exchanged. A refresh
// token of unknown outcome is presented again, but late: when its access token is about
// to end or was refused, and then, with pauses from a minute to an hour, after its end.
// Once it is 90 days old the error is of kind fault.ReconnectRequired.
func (m *MemoryStorage) Claim(_ context.Context, refused Tokens) (Claim, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	claim, changed, err := m.record.claim(refused, now, func() (bool, error) { return m.leaseUntil.After(now), nil })
	switch {
	case claim.Due:
		m.leaseUntil = now.Add(m.leaseFor)
	case changed:
		m.leaseUntil = time.Time{}
	}
	return claim, err
}

// Save stores the fresh pair if the generation is still the claim's.
func (m *MemoryStorage) Save(_ context.Context, claim Claim, fresh Tokens) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	changed, err := m.record.save(claim, fresh)
	if changed {
		m.leaseUntil = time.Time{}
	}
	return err
}

// Settle ends the lease of an exchange that gave no pair.
func (m *MemoryStorage) Settle(_ context.Context, claim Claim, outcome Outcome) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.record.settle(claim, outcome, m.now()) {
		m.leaseUntil = time.Time{}
	}
	return nil
}
