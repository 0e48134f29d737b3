package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// balance asks the replicas all the time whether they want requests, as a balancer
// does, until the returned function is called.
func (w *world) balance(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() {
		for pause(ctx, 100*time.Millisecond) == nil {
			var round sync.WaitGroup
			for _, r := range w.live() {
				round.Go(func() { r.setHealthy(w.ready(ctx, r)) })
			}
			round.Wait()
		}
	})
	return func() {
		cancel()
		group.Wait()
	}
}

func (w *world) ready(ctx context.Context, r *replica) bool {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	status, err := w.get(ctx, r, "/readyz")
	return err == nil && status == http.StatusOK
}

// pick returns a replica that wants requests; any, if none does; nil, if there is none.
func (w *world) pick() *replica {
	live := w.live()
	wanted := slices.DeleteFunc(slices.Clone(live), func(r *replica) bool { return !r.isHealthy() })
	switch {
	case len(wanted) > 0:
		return wanted[w.dice.below(len(wanted))]
	case len(live) > 0:
		return live[w.dice.below(len(live))]
	}
	return nil
}

// get makes one request with the API key.
func (w *world) get(ctx context.Context, r *replica, path string) (status int, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, r.origin+path, nil)
	if err != nil {
		return 0, fmt.Errorf("make a request: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+w.key)
	response, err := w.http.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

// projects is the call that partners make: it needs a live access token.
func (w *world) projects(ctx context.Context, r *replica, c *connection) (int, error) {
	return w.get(ctx, r, "/v1/connections/"+c.id.String()+"/projects")
}

// tally counts what callers got.
type tally struct {
	mu       sync.Mutex
	statuses map[int]int // 0: no answer
	took     []time.Duration
}

func newTally() *tally { return &tally{statuses: make(map[int]int)} }

func (t *tally) add(status int, took time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.statuses[status]++
	t.took = append(t.took, took)
}

// of counts the answers that match.
func (t *tally) of(match func(status int) bool) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for status, count := range t.statuses {
		if match(status) {
			n += count
		}
	}
	return n
}

func (t *tally) all() int { return t.of(func(int) bool { return true }) }

// broken counts what a partner would call an outage: no answer, or a 5xx.
func (t *tally) broken() int {
	return t.of(func(status int) bool { return status == 0 || status >= http.StatusInternalServerError })
}

// percentile returns how long the call at that share took, 0 without calls.
func (t *tally) percentile(share float64) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return percentile(t.took, share)
}

func (t *tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var parts []string
	for _, status := range slices.Sorted(maps.Keys(t.statuses)) {
		parts = append(parts, fmt.Sprintf("%d×%d", t.statuses[status], status))
	}
	return strings.Join(parts, " ")
}

func percentile(took []time.Duration, share float64) time.Duration {
	if len(took) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(took))
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

// traffic is what partners do.
type traffic struct {
	rate   int     // connections that become due in a second
	ahead  float64 // the share of those whose refresh is ahead of need; for the others the caller waits
	hangUp bool    // callers leave after up to 300 ms
}

// usual is the traffic of most scenarios.
func (w *world) usual() traffic { return traffic{rate: w.cfg.Counts.Rate, ahead: 0.3} }

// load lets connections become due and calls each through the balancer, until the
// returned function is called, which waits for the calls under way.
func (w *world) load(ctx context.Context, t traffic) (result *tally, stop func()) {
	result = newTally()
	work := make(chan *connection)
	running, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() {
		defer close(work)
		pace := time.NewTicker(time.Second / time.Duration(t.rate))
		defer pace.Stop()
		order := slices.Clone(w.connections)
		for next := 0; ; next++ {
			if next%len(order) == 0 {
				w.shuffle(order)
			}
			select {
			case <-running.Done():
				return
			case <-pace.C:
			}
			select {
			case <-running.Done():
				return
			case work <- order[next%len(order)]:
			}
		}
	})
	for range w.cfg.Counts.Workers {
		group.Go(func() {
			for c := range work {
				w.callDue(ctx, c, t, result)
			}
		})
	}
	return result, func() {
		cancel()
		group.Wait()
	}
}

func (w *world) shuffle(order []*connection) {
	for i := len(order) - 1; i > 0; i-- {
		j := w.dice.below(i + 1)
		order[i], order[j] = order[j], order[i]
	}
}

// callDue makes a connection due and calls it.
func (w *world) callDue(ctx context.Context, c *connection, t traffic, result *tally) {
	left := -time.Second
	if w.dice.chance(t.ahead) {
		left = w.dice.within(63*time.Second, 8*time.Minute) // of an hour: past 85 % of it
	}
	_, _ = w.db.age(ctx, left, c.uuid()) // while Postgres is down it can't
	r := w.pick()
	if r == nil {
		_ = pause(ctx, 50*time.Millisecond)
		return
	}
	if t.hangUp {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.dice.within(0, 300*time.Millisecond))
		defer cancel()
	}
	began := w.cfg.Now()
	status, err := w.projects(ctx, r, c)
	for range 3 { // a look at readiness may come late, and no proxy gives up at a refused connection
		refused, ok := errors.AsType[*net.OpError](err)
		if other := w.pick(); ok && refused.Op == "dial" && other != nil {
			status, err = w.projects(ctx, other, c)
		}
	}
	if err != nil {
		status = 0
	}
	result.add(status, w.cfg.Now().Sub(began))
}

// each calls fn for all, a few at a time.
func (w *world) each(ctx context.Context, all []*connection, fn func(ctx context.Context, c *connection) error) error {
	work := make(chan *connection)
	var group sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for range w.cfg.Counts.Workers {
		group.Go(func() {
			for c := range work {
				if err := fn(ctx, c); err != nil {
					mu.Lock()
					failed = errors.Join(failed, err)
					mu.Unlock()
				}
			}
		})
	}
	for _, c := range all {
		work <- c
	}
	close(work)
	group.Wait()
	return failed
}
