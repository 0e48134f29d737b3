package drill

import (
	"math/rand/v2"
	"sync"
	"time"
)

// dice makes the drill's choices. The same seed gives the same ones; what the machine
// makes of them differs from run to run.
type dice struct {
	mu   sync.Mutex
	rand *rand.Rand
}

func newDice(seed uint64) *dice {
	return &dice{rand: rand.New(rand.NewPCG(seed, 0x6472696c6c))} //nolint:gosec // G404: choices of a test, no secrets
}

// below returns a number from 0 to n-1.
func (d *dice) below(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.IntN(n)
}

// chance is true in that share of all cases.
func (d *dice) chance(rate float64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rand.Float64() < rate
}

// within returns a duration between the two.
func (d *dice) within(least, most time.Duration) time.Duration {
	if most <= least {
		return least
	}
	return least + time.Duration(d.below(int(most-least)))
}

// split returns two durations whose sum is at most total.
func (d *dice) split(total time.Duration) (first, second time.Duration) {
	if total <= 0 {
		return 0, 0
	}
	sum := d.within(0, total)
	first = d.within(0, sum)
	return first, sum - first
}
