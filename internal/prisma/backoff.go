package prisma

import (
	"sync"
	"time"
)

// maxBackoffs is how many connections' pauses are kept before old ones are dropped.
const maxBackoffs = 10_000

// backoffs remembers which connections this process leaves alone for a while, because
// their last exchange failed. It is per process on purpose: a pause is a courtesy to
// a sick server, not what keeps a token from being sent twice.
type backoffs struct {
	from, to time.Duration

	mu      sync.Mutex
	entries map[string]backoff
}

// backoff is one connection's pause.
type backoff struct {
	failures int
	until    time.Time
}

// newBackoffs returns backoffs whose pauses double between from and to.
func newBackoffs(from, to time.Duration) *backoffs {
	return &backoffs{from: from, to: to, entries: make(map[string]backoff)}
}

// remaining is how long the connection is to be left alone, 0 if it is not.
func (b *backoffs) remaining(key string, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(b.entries[key].until.Sub(now), 0)
}

// failed records a failed exchange and returns the pause: at least atLeast, otherwise
// doubling with every failure in a row. jitter, in [0, 1), adds up to a quarter.
func (b *backoffs) failed(key string, now time.Time, atLeast time.Duration, jitter float64) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prune(now)
	entry := b.entries[key]
	pause := b.to
	if entry.failures < 16 { // beyond that the shift would overflow, and to was reached long ago
		pause = min(b.from<<entry.failures, b.to)
	}
	pause = max(withJitter(pause, jitter), atLeast)
	b.entries[key] = backoff{failures: entry.failures + 1, until: now.Add(pause)}
	return pause
}

// pause leaves the connection alone for d without counting a failure.
func (b *backoffs) pause(key string, now time.Time, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prune(now)
	entry := b.entries[key]
	entry.until = now.Add(d)
	b.entries[key] = entry
}

// clear forgets the connection's failures.
func (b *backoffs) clear(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.entries, key)
}

// prune drops pauses that ended long ago, once there are many. Its caller holds mu.
func (b *backoffs) prune(now time.Time) {
	if len(b.entries) < maxBackoffs {
		return
	}
	for key, entry := range b.entries {
		if now.Sub(entry.until) > b.to {
			delete(b.entries, key)
		}
	}
}

// withJitter lengthens d by up to a quarter.
func withJitter(d time.Duration, jitter float64) time.Duration {
	return d + time.Duration(float64(d)*jitter/4)
}
