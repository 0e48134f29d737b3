package tenants

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"github.com/maypok86/otter/v2"
)

// rememberedKeys bounds the cache of keys: some 5 MB. Which keys go when it is full is
// decided by how often they come, so that somebody's guesses don't push good keys out.
const rememberedKeys = 10_000

// presented is what the database said of a presented key.
type presented struct {
	caller  Caller // the zero one, when there is no such key or it is not live
	good    bool
	unnoted bool          // its use was not noted for a minute
	asked   time.Time     // before the database was
	holds   time.Duration // from then on, unless something changes
}

// callerCache remembers who presented which key, so that a busy partner's calls cost no
// query, and neither do the refused ones of a noisy partner. An answer counts for a time
// and until its tenant changes, and only if it was asked for after the last change that
// this process knows of: so it does not matter whether a change overtakes an answer.
type callerCache struct {
	keys *otter.Cache[[sha256.Size]byte, presented] // by the hash of what was presented
	life time.Duration
	now  func() time.Time

	mu      sync.RWMutex
	changed map[TenantID]time.Time // when each one did, within life
	all     time.Time              // when all may have
	sweepAt int                    // the number of changes that makes the old ones go
}

func newCallerCache(life time.Duration, now func() time.Time) (*callerCache, error) {
	keys, err := otter.New(&otter.Options[[sha256.Size]byte, presented]{
		MaximumSize: rememberedKeys,
		// Only frees memory: valid decides, by a clock that tests inject.
		ExpiryCalculator: otter.ExpiryWriting[[sha256.Size]byte, presented](life),
	})
	if err != nil {
		return nil, fmt.Errorf("cache of keys: %w", err)
	}
	return &callerCache{keys: keys, life: life, now: now, changed: make(map[TenantID]time.Time), sweepAt: 1024}, nil
}

// get returns what is known of a key, and asks for it otherwise: once, for all who
// present it at the same time.
func (c *callerCache) get(ctx context.Context, key string, ask func(context.Context) (presented, error)) (presented, error) {
	id := sha256.Sum256([]byte(key))
	fresh := otter.LoaderFunc[[sha256.Size]byte, presented](func(ctx context.Context, _ [sha256.Size]byte) (presented, error) {
		return c.ask(ctx, ask)
	})
	for range 2 {
		p, err := c.keys.Get(ctx, id, fresh)
		if err != nil {
			return presented{}, fmt.Errorf("cached key: %w", err)
		}
		if c.valid(p) {
			return p, nil
		}
		c.keys.Invalidate(id)
	}
	return c.ask(ctx, ask) // in a tenant that changes all the time
}

func (c *callerCache) ask(ctx context.Context, ask func(context.Context) (presented, error)) (presented, error) {
	asked := c.now()
	p, err := ask(ctx)
	p.asked, p.holds = asked, min(p.holds, c.life)
	return p, err
}

func (c *callerCache) valid(p presented) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.now().Sub(p.asked) < p.holds && p.asked.After(c.all) && p.asked.After(c.changed[p.caller.Tenant.ID])
}

// forget makes a tenant's keys be asked for again.
func (c *callerCache) forget(tenant TenantID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if len(c.changed) >= c.sweepAt {
		for t, at := range c.changed {
			if now.Sub(at) > c.life {
				delete(c.changed, t)
			}
		}
		c.sweepAt = max(1024, 2*len(c.changed))
	}
	c.changed[tenant] = now
}

// forgetAll makes every key be asked for again.
func (c *callerCache) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = c.now()
	clear(c.changed)
}

// forgetCallers is for whoever changes a tenant or its keys, whether the commit worked or
// its answer was lost.
func (s *Store) forgetCallers(tenant TenantID) {
	if s.callers != nil {
		s.callers.forget(tenant)
	}
}
