package storagetest

import (
	"sync/atomic"
	"testing"
	"time"
)

// Clock is a clock that goes on by itself and can be moved forward: what Setup asks of
// one.
type Clock struct {
	source func() time.Time
	offset atomic.Int64
}

// NewClock returns a clock that is driven by source, which is time.Now.
func NewClock(source func() time.Time) *Clock { return &Clock{source: source} }

// Now is the time.
func (c *Clock) Now() time.Time { return c.source().Add(time.Duration(c.offset.Load())) }

// Advance moves the clock forward.
func (c *Clock) Advance(_ *testing.T, by time.Duration) { c.offset.Add(int64(by)) }
