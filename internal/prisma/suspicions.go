package prisma

import (
	"sync"

	"github.com/connect-prisma/server/internal/fault"
)

// maxSuspicions is how many pairs of unknown fate a process remembers.
const maxSuspicions = 10_000

// suspicions remembers which pairs of plain storages have a refresh token of unknown
// fate, for as long as this process lives: such a storage has no place for it, and a
// token presented again early could end an access token that still works.
type suspicions struct {
	mu    sync.Mutex
	pairs map[string]suspicion // by the connection's key
}

// suspicion is a pair whose refresh token was sent without a usable answer.
type suspicion struct {
	pair  Tokens
	times int
}

func newSuspicions() *suspicions { return &suspicions{pairs: make(map[string]suspicion)} }

// allows reports whether the current pair may be exchanged now to replace the refused
// one: at any time if nothing is known against it, once more when its access token is
// about to end or was refused, and then never again, which is an error of kind
// fault.ReconnectRequired. late says that this would be that second time.
func (s *suspicions) allows(key string, current, refused Tokens) (ok, late bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, suspect := s.pairs[key]
	switch {
	case !suspect || !known.pair.SamePair(current):
		return true, false, nil
	case known.times > 1:
		return false, false, fault.New(fault.ReconnectRequired,
			"What became of the last refresh is not known, and the token can't be sent again. Connect again.", nil)
	}
	return aboutToEnd(current) || aboutToEnd(refused), true, nil
}

// raise notes that the pair's refresh token was sent without a usable answer.
func (s *suspicions) raise(key string, pair Tokens) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.pairs[key]
	if !known.pair.SamePair(pair) {
		known = suspicion{pair: pair}
	}
	known.times++
	if _, there := s.pairs[key]; !there && len(s.pairs) >= maxSuspicions {
		for other := range s.pairs { // any: so many are only reached when all are about as old
			delete(s.pairs, other)
			break
		}
	}
	s.pairs[key] = known
}

// clear forgets what was known of the connection's pair.
func (s *suspicions) clear(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pairs, key)
}
