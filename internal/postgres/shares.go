package postgres

import (
	"context"
	"fmt"
	"sync"

	"github.com/google/uuid"
	"golang.org/x/sync/semaphore"
)

// Shares hold everybody to a part of a pool: whoever runs slow queries as fast as it may
// waits for itself, and leaves connections to the others. It is safe for concurrent use.
type Shares struct {
	mu    sync.Mutex
	taken map[uuid.UUID]*share
}

// share is what one tenant has of the pool, for as long as it has or wants something.
type share struct {
	places  *semaphore.Weighted
	members int // who has a place or waits for one
}

// NewShares returns Shares of which nothing is taken.
func NewShares() *Shares { return &Shares{taken: make(map[uuid.UUID]*share)} }

// Enter waits for a place among the most that of may have at the same time, as long as a
// transaction waits for a connection, and returns what gives it back. The error is ErrBusy
// or that of ctx. Everybody who enters for one tenant must name the same most.
func (s *Shares) Enter(ctx context.Context, of uuid.UUID, most int64) (leave func(), err error) {
	s.mu.Lock()
	t := s.taken[of]
	if t == nil {
		t = &share{places: semaphore.NewWeighted(most)}
		s.taken[of] = t
	}
	t.members++
	s.mu.Unlock()

	within, cancel := context.WithTimeout(ctx, acquireWithin)
	defer cancel()
	if err := t.places.Acquire(within, 1); err != nil {
		s.quit(of, t)
		if ctx.Err() == nil {
			return nil, fmt.Errorf("%w: its tenant has all that one may have", ErrBusy)
		}
		return nil, fmt.Errorf("acquire: %w", ctx.Err())
	}
	return func() {
		t.places.Release(1)
		s.quit(of, t)
	}, nil
}

func (s *Shares) quit(of uuid.UUID, t *share) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.members--; t.members == 0 {
		delete(s.taken, of)
	}
}
