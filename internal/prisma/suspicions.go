package prisma

import (
	"sync"
	"time"
)

// maxSuspicions is how many pairs of unknown fate a process remembers.
const maxSuspicions = 10_000

// suspicions remembers which pairs of plain storages have a refresh token of unknown
// fate, for as long as this process lives: such a storage has no place for it, and a
// token presented again early could end an access token that still works.
type suspicions struct {
	pauses LatePauses

	mu    sync.Mutex
	pairs map[string]suspicion // by the connection's key
}

// suspicion is a pair whose refresh token was sent without a usable answer.
type suspicion struct {
	pair      Tokens
	retries   int       // late ones, of unknown outcome too
	notBefore time.Time // for the next one
}

func newSuspicions(pauses LatePauses) *suspicions {
	return &suspicions{pauses: pauses, pairs: make(map[string]suspicion)}
}

// allows answers a claim of the current pair, which is to replace the refused one. If
// nothing is known against the pair it is due. Else that would be a late retry: late, or
// too early for one. now is on the storage's clock.
func (s *suspicions) allows(key string, current, refused Tokens, now time.Time) (late bool, tooEarly time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known, suspect := s.pairs[key]
	if !suspect || !known.pair.SamePair(current) {
		return false, 0
	}
	from := lateFrom(current, known.retries, known.notBefore)
	if from.After(now) && (known.retries > 0 || !useless(refused)) {
		return false, from.Sub(now)
	}
	return true, 0
}

// raise notes that the pair's refresh token was sent without a usable answer, and
// whether it was a late retry already.
func (s *suspicions) raise(key string, pair Tokens, late bool, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.pairs[key]
	if !known.pair.SamePair(pair) {
		known = suspicion{pair: pair}
	}
	if late {
		known.retries++
		known.notBefore = now.Add(s.pauses.After(key, known.retries))
	}
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
