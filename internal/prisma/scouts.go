package prisma

import (
	"crypto/sha256"
	"errors"
	"net/http"
	"sync"
	"time"
)

const (
	// scoutsAtOnce is how many calls of a process may try an access token of a connection
	// before the API has taken it from one.
	scoutsAtOnce = 16
	// scoutsWait is how long the others wait for what the API says to those; then they go
	// too. It is about a storm, not about an API that is slow.
	scoutsWait = time.Second
	// scoutsTrust is how long it is believed that the API takes a token: so long, everybody
	// goes at once.
	scoutsTrust = 10 * time.Second
	// scoutsDistrust is how long it is believed that it does not: the renewed one is there
	// by then, and Prisma may have changed its mind about the old one.
	scoutsDistrust = 2 * time.Second
)

// scouts keep many callers at once from all sending an access token that Prisma has ended
// before its time, which nobody knows until one was refused: some go first.
type scouts struct {
	now func() time.Time

	mu    sync.Mutex
	known map[string]*scouted // by connection
}

// scouted is what is known of a connection's access token.
type scouted struct {
	token   [sha256.Size]byte
	out     int           // calls that try it
	waiting int           // calls that wait for what those are told
	taken   time.Time     // when the API last took it
	refused time.Time     // when it last did not
	told    chan struct{} // closed when one of them was told
}

func newScouts(now func() time.Time) *scouts {
	return &scouts{now: now, known: make(map[string]*scouted)}
}

// enter lets a call send the token, at once or when others have tried it: leave is then to
// be called with the answer. It is nil if the API has just refused the token. done ends
// the wait; the call goes then, and its own context ends it.
func (s *scouts) enter(done <-chan struct{}, key, bearer string) (leave func(err error)) {
	timeout := time.NewTimer(scoutsWait)
	defer timeout.Stop()
	late := false
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		token := sha256.Sum256([]byte(bearer))
		one := s.known[key]
		if one == nil || one.token != token {
			one = &scouted{token: token, told: make(chan struct{})}
			s.known[key] = one
		}
		now := s.now()
		switch {
		case !one.refused.IsZero() && now.Sub(one.refused) < scoutsDistrust:
			return nil
		case late, one.out < scoutsAtOnce, !one.taken.IsZero() && now.Sub(one.taken) < scoutsTrust:
			one.out++
			return func(err error) { s.leave(key, one, err) }
		}
		one.waiting++
		told := one.told
		s.mu.Unlock()
		select {
		case <-told:
		case <-done:
			late = true
		case <-timeout.C:
			late = true
		}
		s.mu.Lock()
		one.waiting--
	}
}

// leave notes what the API said, and lets those go on who wait for it.
func (s *scouts) leave(key string, one *scouted, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	one.out--
	switch {
	case refusesToken(err):
		one.refused, one.taken = s.now(), time.Time{}
	case err == nil || isAnswer(err):
		one.taken, one.refused = s.now(), time.Time{}
	}
	close(one.told)
	one.told = make(chan struct{})
	if one.out == 0 && one.waiting == 0 && s.known[key] == one {
		s.forget(key, one)
	}
}

// isAnswer reports whether err is what the API says to a token that it takes.
func isAnswer(err error) bool {
	answer, ok := errors.AsType[*APIError](err)
	return ok && answer.Status < http.StatusInternalServerError && answer.Status != http.StatusTooManyRequests
}

// forget drops what has nothing more to say, and all such when they have become many.
func (s *scouts) forget(key string, one *scouted) {
	const many = 10_000
	now := s.now()
	old := func(one *scouted) bool {
		return one.out == 0 && one.waiting == 0 && now.Sub(one.taken) >= scoutsTrust && now.Sub(one.refused) >= scoutsDistrust
	}
	if old(one) {
		delete(s.known, key)
	}
	if len(s.known) < many {
		return
	}
	for key, one := range s.known {
		if old(one) {
			delete(s.known, key)
		}
	}
}

// errRefusedBefore stands for the answer that others got with the same token.
func errRefusedBefore() error { return &APIError{Status: http.StatusUnauthorized} }
