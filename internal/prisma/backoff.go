package prisma

import (
	"sync"
	"time"
)

// maxBackoffs is how many connections' pauses are kept before old ones are dropped.
const maxBackoffs = 10_000

// backoffs remembers which connections, or which OAuth clients, this process leaves
// alone for a while, because their last exchange failed. It is per process on purpose: a
// pause is a courtesy to a sick server, not what keeps a token from being sent twice.
type backoffs struct {
	from, to time.Duration
	keep     time.Duration // how long what is over may still matter

	mu      sync.Mutex
	entries map[string]backoff
}

// backoff is one connection's pause.
type backoff struct {
	failures int
	until    time.Time
	cause    error     // what failed last, for those who are told of the pause
	forced   time.Time // when a refresh that a refused access token had forced last ended
	advised  time.Time // when those who are told of the pause had better come back, if that is later
}

// newBackoffs returns backoffs whose pauses double between from and to. Forced refreshes
// are remembered for window at least.
func newBackoffs(from, to, window time.Duration) *backoffs {
	return &backoffs{from: from, to: to, keep: max(to, window), entries: make(map[string]backoff)}
}

// others reports whether anybody but key is to be left alone.
func (b *backoffs) others(key string, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for other, entry := range b.entries {
		if other != key && entry.until.After(now) {
			return true
		}
	}
	return false
}

// remaining is how long the connection is to be left alone, 0 if it is not.
func (b *backoffs) remaining(key string, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(b.entries[key].until.Sub(now), 0)
}

// reason is what failed last, nil if nothing is known.
func (b *backoffs) reason(key string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entries[key].cause
}

// failed records a failed exchange and returns the pause: at least atLeast, otherwise
// doubling with every failure in a row. jitter, in [0, 1), adds up to a quarter.
func (b *backoffs) failed(key string, now time.Time, atLeast time.Duration, jitter float64, cause error) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prune(now)
	entry := b.entries[key]
	pause := b.to
	if entry.failures < 16 { // beyond that the shift would overflow, and to was reached long ago
		pause = min(b.from<<entry.failures, b.to)
	}
	pause = max(withJitter(pause, jitter), atLeast)
	b.entries[key] = backoff{failures: entry.failures + 1, until: now.Add(pause), cause: cause}
	return pause
}

// pause leaves the connection alone for d without counting a failure. Those who are told
// of it are advised to come back after advice, if that is longer.
func (b *backoffs) pause(key string, now time.Time, d, advice time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prune(now)
	entry := b.entries[key]
	entry.until, entry.advised = now.Add(d), now.Add(max(d, advice))
	b.entries[key] = entry
}

// advice is after what time those who are told of a pause should come back.
func (b *backoffs) advice(key string, now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return max(b.entries[key].advised.Sub(now), b.entries[key].until.Sub(now), 0)
}

// clear forgets the connection's failures.
func (b *backoffs) clear(key string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if forced := b.entries[key].forced; !forced.IsZero() {
		b.entries[key] = backoff{forced: forced}
		return
	}
	delete(b.entries, key)
}

// force notes the end of a forced refresh, whatever came of it.
func (b *backoffs) force(key string, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.prune(now)
	entry := b.entries[key]
	entry.forced = now
	b.entries[key] = entry
}

// forcedSince reports whether a forced refresh ended after that time.
func (b *backoffs) forcedSince(key string, t time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.entries[key].forced.After(t)
}

// prune drops what was over long ago, once there is much. Its caller holds mu.
func (b *backoffs) prune(now time.Time) {
	if len(b.entries) < maxBackoffs {
		return
	}
	for key, entry := range b.entries {
		if now.Sub(entry.until) > b.keep && now.Sub(entry.forced) > b.keep {
			delete(b.entries, key)
		}
	}
}

// withJitter lengthens d by up to a quarter.
func withJitter(d time.Duration, jitter float64) time.Duration {
	return d + time.Duration(float64(d)*jitter/4)
}
