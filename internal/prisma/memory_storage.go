package prisma

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/connect-prisma/server/internal/fault"
)

// MemoryStorage keeps one connection's tokens in memory, with everything a storage can
// offer: counted generations, compare-and-clear and the refresh lease. It suits tests,
// tools and programs that may forget. Several refreshers may share one.
type MemoryStorage struct {
	now      func() time.Time
	leaseFor time.Duration

	mu         sync.Mutex
	tokens     Tokens // Generation stays when the pair is cleared: it fences late saves
	present    bool
	dead       bool      // cleared because the refresh token was refused
	leaseUntil time.Time // zero: nobody holds the lease
	intent     int64     // generation whose exchange was begun and has not ended; 0: none
	suspect    bool      // that exchange, or one before it, may have reached the server
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

// Tokens returns the stored pair.
func (m *MemoryStorage) Tokens(context.Context) (Tokens, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.read()
}

// SetTokens replaces the pair, moves the generation on and ends any lease.
func (m *MemoryStorage) SetTokens(_ context.Context, tokens Tokens) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.store(tokens)
	return nil
}

// ClearTokens forgets the pair.
func (m *MemoryStorage) ClearTokens(context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget()
	return nil
}

// ClearTokensIfCurrent forgets the pair if it is still the stored one.
func (m *MemoryStorage) ClearTokensIfCurrent(_ context.Context, tokens Tokens) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.present && m.tokens.SamePair(tokens) {
		m.forget()
	}
	return nil
}

// Claim takes the lease if the pair is still refused and may be exchanged.
func (m *MemoryStorage) Claim(_ context.Context, refused Tokens) (Claim, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	current, err := m.read()
	if err != nil {
		return Claim{}, err
	}
	claim := Claim{Current: current, Taken: current.ReadAt}
	switch {
	case !current.SamePair(refused):
		return claim, nil
	case m.leaseUntil.After(current.ReadAt):
		claim.Held = true
		return claim, nil
	case m.intent == current.Generation && !aboutToEnd(current) && !aboutToEnd(refused):
		return claim, nil // it may have been sent before: too early to send it again
	}
	claim.Due = true
	m.leaseUntil = current.ReadAt.Add(m.leaseFor)
	m.suspect = m.intent == current.Generation // left open by whoever held the lease before
	m.intent = current.Generation
	return claim, nil
}

// Save stores the fresh pair if the generation is still the claim's.
func (m *MemoryStorage) Save(_ context.Context, claim Claim, fresh Tokens) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.present && m.tokens.Access == fresh.Access && m.tokens.Refresh == fresh.Refresh {
		return nil
	}
	if !m.present || m.tokens.Generation != claim.Current.Generation {
		return ErrSuperseded
	}
	m.store(fresh)
	return nil
}

// Settle ends the lease of an exchange that gave no pair.
func (m *MemoryStorage) Settle(_ context.Context, claim Claim, outcome Outcome) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.present || m.tokens.Generation != claim.Current.Generation {
		return nil
	}
	m.leaseUntil = time.Time{}
	switch outcome {
	case NotSent, Misconfigured:
		if !m.suspect { // this exchange did nothing, but one before it may have
			m.intent = 0
		}
	case InvalidGrant:
		m.forget()
		m.dead = true
	case Unknown: // the intent stays open
	}
	return nil
}

// read returns the pair with the time of reading. Its caller holds mu.
func (m *MemoryStorage) read() (Tokens, error) {
	switch {
	case m.present:
		tokens := m.tokens
		tokens.ReadAt = m.now()
		return tokens, nil
	case m.dead:
		return Tokens{}, fault.New(fault.ReconnectRequired, "Prisma no longer accepts this connection. Connect again.", nil)
	}
	return Tokens{}, fault.New(fault.NotFound, "There is no connection to Prisma. Connect first.", nil)
}

// store writes a pair as the next generation. Its caller holds mu.
func (m *MemoryStorage) store(tokens Tokens) {
	tokens.Generation = m.tokens.Generation + 1
	m.tokens, m.present, m.dead = tokens, true, false
	m.leaseUntil, m.intent, m.suspect = time.Time{}, 0, false
}

// forget drops the pair and keeps its generation. Its caller holds mu.
func (m *MemoryStorage) forget() {
	m.tokens = Tokens{Generation: m.tokens.Generation}
	m.present, m.dead = false, false
	m.leaseUntil, m.intent, m.suspect = time.Time{}, 0, false
}

// aboutToEnd reports whether an access token has so little life left that sending a
// refresh token again can cost nothing more. One of unknown life counts as ended: it
// is only ever replaced because the API refused it.
func aboutToEnd(t Tokens) bool {
	return t.ExpiresAt.IsZero() || t.ExpiresAt.Sub(t.ReadAt) <= time.Minute
}
