package prisma

import (
	"cmp"
	"container/list"
	"sync"
)

// slots are the places for exchanges in flight. They bound what a crash can cost, and
// nobody holds more than a fair share of them while others wait:
//
//   - a free place goes to the share that holds the fewest, and among equals to the one
//     that was given one longest ago, or never and came first; so one share may hold all
//     while no other waits, and the next place that comes free is the other's;
//   - within a share, and before every share's background refreshes, go those that a
//     caller waits for.
type slots struct {
	mu     sync.Mutex
	free   int
	turn   int
	shares map[string]*share  // those that hold places or wait
	queued map[string]*waiter // by connection
	wanted map[string]int     // callers that wait, by connection
}

// share is one party's part of the slots.
type share struct {
	held    int
	came    int       // the turn in which it came
	served  int       // the turn in which it was last given a place; 0: none yet
	callers list.List // of *waiter, longest first
	ahead   list.List // of *waiter: refreshes ahead of need
}

// waiter is one flight that waits for a place.
type waiter struct {
	key     string // its connection
	share   *share
	queue   *list.List
	place   *list.Element
	granted chan struct{} // closed with the place
}

func newSlots(places int) *slots {
	return &slots{
		free: places, shares: make(map[string]*share), queued: make(map[string]*waiter), wanted: make(map[string]int),
	}
}

// want notes that a caller waits for the connection's refresh; unwant must follow. A
// refresh that was queued ahead of need moves up.
func (s *slots) want(key string) (callers int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanted[key]++
	if w := s.queued[key]; w != nil && w.queue == &w.share.ahead {
		w.queue.Remove(w.place)
		w.queue = &w.share.callers
		w.place = w.queue.PushBack(w)
	}
	return s.wanted[key]
}

// unwant ends what want began.
func (s *slots) unwant(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wanted[key]--; s.wanted[key] == 0 {
		delete(s.wanted, key)
	}
}

// isWanted reports whether a caller waits for the connection's refresh.
func (s *slots) isWanted(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wanted[key] > 0
}

// acquire waits for a place for the connection, of which there must be one flight only.
// It reports whether it got one before one of the stops was closed; if so release must
// follow.
func (s *slots) acquire(key, of string, drain, trip <-chan struct{}) bool {
	s.mu.Lock()
	w := s.enqueue(key, of)
	s.serve()
	s.mu.Unlock()
	select {
	case <-w.granted:
		return true
	case <-drain:
	case <-trip:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-w.granted: // meanwhile
		return true
	default:
	}
	s.dequeue(w)
	s.tidy(of)
	return false
}

// release gives the place back.
func (s *slots) release(of string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free++
	s.shares[of].held--
	s.serve()
	s.tidy(of)
}

// counts returns how many places are taken and how many flights wait for one.
func (s *slots) counts() (taken, waiting int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range s.shares {
		taken += one.held
	}
	return taken, len(s.queued)
}

// enqueue adds a waiter. Its caller holds mu, as those of the functions below do.
func (s *slots) enqueue(key, of string) *waiter {
	one := s.shares[of]
	if one == nil {
		s.turn++
		one = &share{came: s.turn}
		s.shares[of] = one
	}
	w := &waiter{key: key, share: one, queue: &one.ahead, granted: make(chan struct{})}
	if s.wanted[key] > 0 {
		w.queue = &one.callers
	}
	w.place = w.queue.PushBack(w)
	s.queued[key] = w
	return w
}

func (s *slots) dequeue(w *waiter) {
	w.queue.Remove(w.place)
	delete(s.queued, w.key)
}

// serve gives the free places away.
func (s *slots) serve() {
	for s.free > 0 && len(s.queued) > 0 {
		w := s.next()
		s.free--
		s.turn++
		w.share.held++
		w.share.served = s.turn
		s.dequeue(w)
		close(w.granted)
	}
}

// next is the waiter whose turn it is. Somebody must be waiting.
func (s *slots) next() *waiter {
	for _, queue := range []func(*share) *list.List{
		func(one *share) *list.List { return &one.callers },
		func(one *share) *list.List { return &one.ahead },
	} {
		var best *share
		for _, one := range s.shares {
			if queue(one).Len() > 0 && (best == nil || one.before(best)) {
				best = one
			}
		}
		if best != nil {
			if w, ok := queue(best).Front().Value.(*waiter); ok {
				return w
			}
		}
	}
	return nil
}

// before reports whether a share is to be given a place rather than the other.
func (one *share) before(other *share) bool {
	if one.held != other.held {
		return one.held < other.held
	}
	return cmp.Or(cmp.Compare(one.served, other.served), cmp.Compare(one.came, other.came)) < 0
}

// tidy forgets a share that neither holds a place nor waits.
func (s *slots) tidy(of string) {
	if one := s.shares[of]; one.held == 0 && one.callers.Len() == 0 && one.ahead.Len() == 0 {
		delete(s.shares, of)
	}
}
