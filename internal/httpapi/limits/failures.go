package limits

import (
	"container/list"
	"context"
	"crypto/sha256"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	// remembered bounds each of the three memories: some 2 MB together.
	remembered = 8192
	// knownFor is how long a key that worked is let through whatever its neighbours do.
	knownFor = time.Hour
	// atOnce is how many keys from one address are looked up at the same time, of those that
	// are not known; the others wait for their turn, maxTurn at most.
	atOnce  = 8
	maxTurn = time.Second
	// issuedFactor is how many times as many failures an address may have with keys that were
	// issued here. They are no guesses, but a partner can have any number of its own made.
	issuedFactor = 10
)

// FailureRate is how many failed authentications a key may have, and how many different
// keys that fail an address.
type FailureRate struct {
	PerMinute int // default 60
	Burst     int // default 30
}

// Failures counts failed authentication. It is safe for concurrent use, and its memory
// is bounded: who was not seen longest is forgotten first.
type Failures struct {
	rate   FailureRate
	issued func(key string) bool
	now    func() time.Time

	mu    sync.Mutex
	byIP  memory[origin]
	byKey memory[[sha256.Size]byte]
	known memory[[sha256.Size]byte]
	turns map[origin]*turns // of the origins of those who are being looked up
}

// origin is where keys come from. Those that were issued here are counted apart: guesses
// from the same address don't hold them up.
type origin struct {
	network netip.Prefix
	issued  bool
}

// turns are the places for those from one address who are being looked up.
type turns struct {
	places  chan struct{}
	members int // who has a place or waits for one
}

// NewFailures returns Failures without any. issued tells of a key, by itself, that it can't
// be a guess: no guesses hold such a key up.
func NewFailures(rate FailureRate, issued func(key string) bool, now func() time.Time) *Failures {
	if rate.PerMinute == 0 {
		rate.PerMinute = 60
	}
	if rate.Burst == 0 {
		rate.Burst = 30
	}
	return &Failures{
		rate: rate, issued: issued, now: now,
		byIP: newMemory[origin](), byKey: newMemory[[sha256.Size]byte](), known: newMemory[[sha256.Size]byte](),
		turns: map[origin]*turns{},
	}
}

// Enter waits for the turn of a key from that address to be looked up, and returns what
// ends it. Guesses that come all at once would else all be looked up before the first of
// them has failed. Nobody waits for long, so that keys are looked up when the database is
// slow too. wait is how long the key is not to be looked up; then there is no turn. A key
// that has worked here within the hour waits for nothing.
func (f *Failures) Enter(ctx context.Context, from netip.Addr, key string) (leave func(), wait time.Duration) {
	if f.worked(key) {
		return func() {}, 0
	}
	where := f.origin(from, key)
	if wait = f.wait(where, from, key); wait > 0 {
		return func() {}, wait
	}
	leave = f.turn(ctx, where)
	if wait = f.wait(where, from, key); wait > 0 {
		leave()
		return func() {}, wait
	}
	return leave, 0
}

// turn waits for a place, maxTurn at most, and returns what gives it back.
func (f *Failures) turn(ctx context.Context, of origin) (leave func()) {
	f.mu.Lock()
	t := f.turns[of]
	if t == nil {
		t = &turns{places: make(chan struct{}, atOnce)}
		f.turns[of] = t
	}
	t.members++
	f.mu.Unlock()

	placed := true
	late := time.NewTimer(maxTurn)
	defer late.Stop()
	select {
	case t.places <- struct{}{}:
	case <-late.C:
		placed = false
	case <-ctx.Done():
		placed = false
	}
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if placed {
			<-t.places
		}
		if t.members--; t.members == 0 {
			delete(f.turns, of)
		}
	}
}

// Wait returns how long a key from that address is not to be looked up; 0: now. A key
// that has worked here within the hour never waits.
func (f *Failures) Wait(from netip.Addr, key string) time.Duration {
	if f.worked(key) {
		return 0
	}
	return f.wait(f.origin(from, key), from, key)
}

func (f *Failures) wait(where origin, from netip.Addr, key string) (wait time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if e, ok := f.byIP.get(where); ok {
		wait = f.until(e, where.times(), now)
	}
	if e, ok := f.byKey.get(nameOf(from, key)); ok {
		wait = max(wait, f.until(e, 1, now))
	}
	return wait
}

// origin finds out where a key comes from; it hashes, so not under the lock.
func (f *Failures) origin(from netip.Addr, key string) origin {
	return origin{network(from), f.issued(key)}
}

// times is how many times the rate an origin has.
func (o origin) times() float64 {
	if o.issued {
		return issuedFactor
	}
	return 1
}

// worked tells whether a key has worked here within the hour.
func (f *Failures) worked(key string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	worked, ok := f.known.get(sha256.Sum256([]byte(key)))
	return ok && f.now().Sub(worked.at) < knownFor
}

// Failed notes that a key from that address was refused. The address is charged for each
// different key, as a guesser has them: a client that tries one key that has ended again
// and again shuts out nobody else.
func (f *Failures) Failed(from netip.Addr, key string) {
	where := f.origin(from, key)
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	f.known.remove(sha256.Sum256([]byte(key)))
	e := f.byKey.put(nameOf(from, key))
	if f.left(e, 1, now) == 0 {
		f.fail(f.byIP.put(where), where.times(), now)
	}
	f.fail(e, 1, now)
}

// Worked notes that a key was good.
func (f *Failures) Worked(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.known.put(sha256.Sum256([]byte(key))).at = f.now()
}

// fail adds one failure to those that have not been forgiven yet. times is how many times
// the rate counts.
func (f *Failures) fail(e *entry, times float64, now time.Time) {
	e.failures = min(f.left(e, times, now)+1, times*float64(f.rate.Burst))
	e.at = now
}

// left are the failures that time has not forgiven.
func (f *Failures) left(e *entry, times float64, now time.Time) float64 {
	return max(0, e.failures-now.Sub(e.at).Minutes()*times*float64(f.rate.PerMinute))
}

// until is how long it takes until there may be another failure.
func (f *Failures) until(e *entry, times float64, now time.Time) time.Duration {
	over := f.left(e, times, now) - (times*float64(f.rate.Burst) - 1)
	if over <= 0 {
		return 0
	}
	return time.Duration(over / (times * float64(f.rate.PerMinute)) * float64(time.Minute))
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

// nameOf is what a key is counted by: the whole of it, for what lists show of one would
// let anybody who has seen a list shut its holder out. What is no key is counted for each
// address apart: somebody who forgets theirs isn't alone in the world.
func nameOf(from netip.Addr, key string) [sha256.Size]byte {
	if !strings.HasPrefix(key, "cpk_") {
		key = network(from).String() + " " + key
	}
	return sha256.Sum256([]byte(key))
}

// entry is what is remembered of one address or key.
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
