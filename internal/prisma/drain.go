package prisma

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// lastWords is how long a process that gives up on its exchanges still lets them spool
// what they have and say so.
const lastWords = time.Second

// drain counts the exchanges that must not be interrupted and closes the door behind
// them. (A WaitGroup can't: it must not grow again while somebody waits.)
type drain struct {
	shut     chan struct{} // closed with the door
	mu       sync.Mutex
	closed   bool
	inside   int
	idle     chan struct{} // closed once the door is shut and nobody is inside
	gaveUp   chan struct{} // closed when the process stops waiting for them
	forsaken bool
}

func newDrain() *drain {
	return &drain{shut: make(chan struct{}), idle: make(chan struct{}), gaveUp: make(chan struct{})}
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

// isShut reports whether no exchange may begin any more.
func (d *drain) isShut() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.closed
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
		close(d.shut)
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
	left := d.forsake()
	if left == 0 {
		return nil
	}
	select { // so that the log says of each pair in hand what becomes of it
	case <-d.idle:
	case <-time.After(lastWords):
	}
	return fmt.Errorf("%d token exchanges did not end in time: %w", left, ctx.Err())
}

// forsake gives up on those inside and returns how many they are.
func (d *drain) forsake() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.inside > 0 && !d.forsaken {
		d.forsaken = true
		close(d.gaveUp)
	}
	return d.inside
}
