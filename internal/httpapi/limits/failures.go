package limits

import (
	"container/list"
	"crypto/sha256"
	"net/netip"
	"sync"
	"time"
)

const (
	// remembered bounds each of the three memories: some 2 MB together.
	remembered = 8192
	// knownFor is how long a key that worked is let through whatever its neighbours do.
	knownFor = time.Hour
	// prefixLength is how much of a key names it: what lists show of it.
	prefixLength = 8
)

// FailureRate is how many failed authentications an address, and a key's beginning,
// may have.
type FailureRate struct {
	PerMinute int // default 60
	Burst     int // default 30
}

// Failures counts failed authentication. It is safe for concurrent use, and its memory
// is bounded: who was not seen longest is forgotten first.
type Failures struct {
	rate FailureRate
	now  func() time.Time

	mu       sync.Mutex
	byIP     memory[netip.Prefix]
	byPrefix memory[string]
	known    memory[[sha256.Size]byte]
}

// NewFailures returns Failures without any.
func NewFailures(rate FailureRate, now func() time.Time) *Failures {
	if rate.PerMinute == 0 {
		rate.PerMinute = 60
	}
	if rate.Burst == 0 {
		rate.Burst = 30
	}
	return &Failures{
		rate: rate, now: now,
		byIP: newMemory[netip.Prefix](), byPrefix: newMemory[string](), known: newMemory[[sha256.Size]byte](),
	}
}

// Wait returns how long a key from that address is not to be looked up; 0: now. A key
// that has worked here within the hour never waits.
func (f *Failures) Wait(from netip.Addr, key string) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if worked, ok := f.known.get(sha256.Sum256([]byte(key))); ok && now.Sub(worked.at) < knownFor {
		return 0
	}
	var wait time.Duration
	if e, ok := f.byIP.get(network(from)); ok {
		wait = max(wait, f.wait(e, now))
	}
	if e, ok := f.byPrefix.get(prefix(key)); ok {
		wait = max(wait, f.wait(e, now))
	}
	return wait
}

// Failed notes that a key from that address was refused.
func (f *Failures) Failed(from netip.Addr, key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	f.known.remove(sha256.Sum256([]byte(key)))
	f.fail(f.byIP.put(network(from)), now)
	if p := prefix(key); p != "" {
		f.fail(f.byPrefix.put(p), now)
	}
}

// Worked notes that a key was good.
func (f *Failures) Worked(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known.put(sha256.Sum256([]byte(key))).at = f.now()
}

// fail adds one failure to those that have not been forgiven yet.
func (f *Failures) fail(e *entry, now time.Time) {
	e.failures = min(f.left(e, now)+1, float64(f.rate.Burst))
	e.at = now
}

// left are the failures that time has not forgiven.
func (f *Failures) left(e *entry, now time.Time) float64 {
	return max(0, e.failures-now.Sub(e.at).Minutes()*float64(f.rate.PerMinute))
}

func (f *Failures) wait(e *entry, now time.Time) time.Duration {
	over := f.left(e, now) - float64(f.rate.Burst-1)
	if over <= 0 {
		return 0
	}
	return time.Duration(over / float64(f.rate.PerMinute) * float64(time.Minute))
}

// network is who an address belongs to: in IPv6 one customer has a /64 at least.
func network(from netip.Addr) netip.Prefix {
	bits := from.BitLen()
	if from.Is6() && !from.Is4In6() {
		bits = 64
	}
	p, _ := from.Prefix(bits) // fails for the zero address, which is one of its own
	return p
}

func prefix(key string) string {
	if len(key) < prefixLength || key[:4] != "cpk_" {
		return ""
	}
	return key[:prefixLength]
}

// entry is what is remembered of one address, beginning or key.
type entry struct {
	failures float64
	at       time.Time
	element  *list.Element
}

// memory keeps the entries that were put last.
type memory[K comparable] struct {
	entries map[K]*entry
	order   *list.List // of keys, the last one put in front
}

func newMemory[K comparable]() memory[K] {
	return memory[K]{entries: make(map[K]*entry), order: list.New()}
}

func (m memory[K]) get(key K) (*entry, bool) {
	e, ok := m.entries[key]
	return e, ok
}

func (m memory[K]) put(key K) *entry {
	if e, ok := m.entries[key]; ok {
		m.order.MoveToFront(e.element)
		return e
	}
	if len(m.entries) >= remembered {
		oldest := m.order.Back()
		last, _ := oldest.Value.(K)
		m.remove(last)
	}
	e := &entry{element: m.order.PushFront(key)}
	m.entries[key] = e
	return e
}

func (m memory[K]) remove(key K) {
	if e, ok := m.entries[key]; ok {
		m.order.Remove(e.element)
		delete(m.entries, key)
	}
}
