package main

import (
	"context"
	"fmt"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

const (
	// firstReplayFor bounds the replay before a start serves. What takes longer goes on
	// beside the requests.
	firstReplayFor = 10 * time.Second
	// lastReplayFor is how long a drain waits for the entry in hand. A disk that hangs
	// must not keep the process.
	lastReplayFor = 5 * time.Second
)

// openSpool opens the spool in SPOOL_DIR, if that is set.
func (s *service) openSpool() (prisma.Spool, error) {
	if s.cfg.SpoolDir == "" {
		return nil, nil //nolint:nilnil // none is what was asked for
	}
	var err error
	s.spool, err = tenants.OpenSpool(tenants.SpoolConfig{Dir: s.cfg.SpoolDir, Store: s.store, Now: time.Now, Logger: s.log})
	if err != nil {
		return nil, fmt.Errorf("SPOOL_DIR: %w", err)
	}
	return s.spool, nil
}

// replaySpool stores what an earlier process left, before any refresh token is
// presented, and goes on doing so until the returned function is called: when the
// exchanges in flight have ended.
func (s *service) replaySpool(ctx context.Context) (stop func()) {
	if s.spool == nil {
		return func() {}
	}
	first, cancel := context.WithTimeout(ctx, firstReplayFor)
	s.spool.Replay(first)
	cancel()
	ctx, cancel = context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.spool.Run(ctx)
	}()
	return func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(lastReplayFor):
		}
	}
}
