package limits

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/connect-prisma/server/internal/tenants"
)

const (
	// turnWithin is how long a call waits for its turn.
	turnWithin = time.Second
	// leastShare is what a replica lets in at once, however many they are: balancers
	// don't deal evenly.
	leastShare = 2
)

// Kind is what of a tenant's is counted by itself.
type Kind string

// The kinds.
const (
	Calls   Kind = "calls"   // which end by themselves, soon
	Streams Kind = "streams" // which stay open for as long as somebody listens
)

type gateKey struct {
	tenant tenants.TenantID
	kind   Kind
}

// Enter waits for a tenant's turn among what it has of that kind at once, and reports
// whether it came: then leave ends the call, and must be called once. The only error is
// that of ctx.
func (l *Limiter) Enter(ctx context.Context, tenant tenants.TenantID, kind Kind, atOnce int) (leave func(), ok bool, err error) {
	l.mu.Lock()
	key := gateKey{tenant, kind}
	g, found := l.gates[key]
	if !found {
		g = &gate{}
		l.gates[key] = g
	}
	turn := g.enter(l.share(atOnce)) // within the lock: an idle gate may be forgotten
	l.mu.Unlock()
	if turn == nil {
		return nil, false, nil
	}
	leave = func() { g.leave(l.share(atOnce)) }
	within := time.NewTimer(turnWithin)
	defer within.Stop()
	select {
	case <-turn:
		return leave, true, nil
	case <-within.C:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if !g.giveUp(turn) { // it came at the last moment
		if err == nil {
			return leave, true, nil
		}
		leave()
	}
	return nil, false, err
}

// share is how many of a tenant's calls this replica lets in at once: its part of them, and
// one of those that are left over, if there are any for its rank.
func (l *Limiter) share(atOnce int) int {
	fleet := l.fleet.Load()
	share := atOnce / fleet.replicas
	if fleet.rank < atOnce%fleet.replicas {
		share++
	}
	return max(share, min(leastShare, atOnce))
}

// gate counts one tenant's calls, or streams, in one replica.
type gate struct {
	mu      sync.Mutex
	inside  int
	waiting []chan struct{} // in the order in which they came
}

// enter returns a channel that is closed when the caller's turn comes, nil if as many
// wait already as may be inside.
func (g *gate) enter(share int) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	turn := make(chan struct{})
	switch {
	case g.inside < share:
		g.inside++
		close(turn)
	case len(g.waiting) < share:
		g.waiting = append(g.waiting, turn)
	default:
		return nil
	}
	return turn
}

func (g *gate) leave(share int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	for g.inside < share && len(g.waiting) > 0 {
		close(g.waiting[0])
		g.waiting = g.waiting[1:]
		g.inside++
	}
}

// giveUp takes a caller out of those who wait; false: its turn has come already.
func (g *gate) giveUp(turn chan struct{}) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting, turn)
	if i < 0 {
		return false
	}
	g.waiting = slices.Delete(g.waiting, i, i+1)
	return true
}

func (g *gate) idle() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside == 0 && len(g.waiting) == 0
}
