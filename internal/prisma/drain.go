package prisma

import (
	"context"
	"fmt"
	"sync"
)

// drain counts the exchanges that must not be interrupted and closes the door behind
// them. (A WaitGroup can't: it must not grow again while somebody waits.)
type drain struct {
	mu       sync.Mutex
	closed   bool
	inside   int
	idle     chan struct{} // closed once the door is shut and nobody is inside
	gaveUp   chan struct{} // closed when the process stops waiting for them
	forsaken bool
}

func newDrain() *drain {
	return &drain{idle: make(chan struct{}), gaveUp: make(chan struct{})}
}

// enter reports whether an exchange may begin; if so leave must follow.
func (d *drain) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return false
	}
	d.inside++
	return true
}

// leave ends what enter began.
func (d *drain) leave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inside--
	if d.closed && d.inside == 0 {
		close(d.idle)
	}
}

// wait shuts the door and waits until nobody is inside or ctx ends. In the latter case
// it gives up on them for good and says how many there were.
func (d *drain) wait(ctx context.Context) error {
	d.mu.Lock()
	if !d.closed {
		d.closed = true
		if d.inside == 0 {
			close(d.idle)
		}
	}
	d.mu.Unlock()

	select {
	case <-d.idle:
		return nil
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inside == 0 {
		return nil
	}
	if !d.forsaken {
		d.forsaken = true
		close(d.gaveUp)
	}
	return fmt.Errorf("%d token exchanges did not end in time: %w", d.inside, ctx.Err())
}
