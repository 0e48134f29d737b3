package drill

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// recoverWithin is how long replicas may leave a token endpoint alone that is well
// again: the breaker's longest pause, its jitter and a slow answer.
const recoverWithin = 10 * time.Second

// failing lets half of the token requests fail: a quarter before Prisma acts, a quarter
// after.
func failing(ctx context.Context, b *board, w *world) error {
	counts := w.cfg.Counts
	if err := w.ensure(ctx, counts.Replicas, brisk()); err != nil {
		return err
	}
	if err := w.plat.faults(ctx, 0.25, 0.15, 0.15, 0); err != nil {
		return err
	}
	w.plat.set(weather{jitter: 100 * time.Millisecond})
	result, stop := w.load(ctx, w.usual())
	err := pause(ctx, counts.DeadFor)
	stop()
	if err != nil {
		return err
	}
	b.note("  answers: %s", result)
	if err := w.plat.calm(ctx); err != nil {
		return err
	}
	if _, err := w.recovery(ctx); err != nil { // or the next scenario would meet open breakers
		return err
	}
	found, err := b.settle(ctx, w, "failing", false, false)
	if err != nil {
		return err
	}
	b.told("lost to an endpoint that fails half of the time", fmt.Sprintf("%d; %d answers never arrived", found.gone(), found.unstored))
	return nil
}

// dead lets the token endpoint hang up on everybody before it acts.
func dead(ctx context.Context, b *board, w *world) error {
	counts := w.cfg.Counts
	if err := w.ensure(ctx, counts.Replicas, brisk()); err != nil {
		return err
	}
	before := w.plat.refreshes.Load()
	w.plat.set(weather{cut: true})
	result, stop := w.load(ctx, w.usual())
	err := pause(ctx, counts.DeadFor)
	stop()
	if err != nil {
		return err
	}
	b.note("  answers: %s; %d tokens met the dead endpoint", result, w.plat.refreshes.Load()-before)
	if err := w.plat.calm(ctx); err != nil {
		return err
	}
	took, err := w.recovery(ctx)
	if err != nil {
		return err
	}
	found, err := b.settle(ctx, w, "dead", false, false)
	if err != nil {
		return err
	}
	b.within("until every replica uses a token endpoint that is well again", took, recoverWithin)
	b.count("lost to a dead token endpoint", found.gone(), 0, "in "+counts.DeadFor.String())
	return nil
}

// recovery returns how long it takes until every replica has refreshed a connection.
func (w *world) recovery(ctx context.Context) (time.Duration, error) {
	began := w.cfg.Now()
	for i, r := range w.live() {
		for try := 0; ; try++ {
			c := w.connections[(i+try*7)%len(w.connections)] // none that is left alone for a while
			aged, err := w.db.age(ctx, -time.Second, c.uuid())
			if err != nil {
				return 0, err
			}
			status, err := w.projects(ctx, r, c)
			if err == nil && status == http.StatusOK && aged == 1 {
				break
			}
			if w.cfg.Now().Sub(began) > time.Minute {
				return w.cfg.Now().Sub(began), nil
			}
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return 0, err
			}
		}
	}
	return w.cfg.Now().Sub(began), nil
}

// stuck lets many callers wait for a token endpoint that takes 10 s, and looks at calls
// that need nothing of it.
func stuck(ctx context.Context, b *board, w *world) error {
	counts := w.cfg.Counts
	if err := w.ensure(ctx, counts.StormReplicas, patient()); err != nil {
		return err
	}
	if _, err := b.settle(ctx, w, "stuck", false, true); err != nil { // every pair is new
		return err
	}
	half := len(w.connections) / 2
	waiting, reading := w.connections[:half], w.connections[half:]
	window := counts.Window
	calm, calmUse, err := w.read(ctx, reading, window)
	if err != nil {
		return err
	}
	ids := make([]string, 0, half)
	for _, c := range waiting {
		ids = append(ids, c.uuid())
	}
	if _, err := w.db.age(ctx, -time.Second, ids...); err != nil {
		return err
	}
	w.plat.set(weather{hang: 10 * time.Second})
	told := newTally()
	var callers sync.WaitGroup
	for i := range counts.Stuck {
		callers.Go(func() {
			began := w.cfg.Now()
			status, err := w.projects(ctx, w.live()[i%counts.StormReplicas], waiting[i/2%half])
			if err != nil {
				status = 0
			}
			told.add(status, w.cfg.Now().Sub(began))
		})
	}
	if err := pause(ctx, time.Second); err != nil { // they have come, and stand in line
		return err
	}
	hanging, use, err := w.read(ctx, reading, window)
	w.plat.set(weather{})
	callers.Wait()
	if err != nil {
		return err
	}
	if _, err := w.recovery(ctx); err != nil {
		return err
	}
	again, _, err := w.read(ctx, reading, window)
	if err != nil {
		return err
	}
	b.note("  stuck callers: %s after %s at most", told, told.percentile(1).Round(time.Millisecond))
	b.note("  other reads, 99th percentile: calm %s, hanging %s, calm again %s", calm.percentile(0.99), hanging.percentile(0.99), again.percentile(0.99))
	found, err := b.settle(ctx, w, "stuck", false, false)
	if err != nil {
		return err
	}
	b.shed("other reads that failed meanwhile", hanging.broken(), 0, fmt.Sprintf("of %d, %d callers stuck", hanging.all(), counts.Stuck))
	mean := (calm.percentile(0.99) + again.percentile(0.99)) / 2
	b.ratio("99th percentile of other reads, hanging to calm", float64(hanging.percentile(0.99))/float64(mean), 3,
		fmt.Sprintf("(%s to %s)", hanging.percentile(0.99).Round(100*time.Microsecond), mean.Round(100*time.Microsecond)))
	b.shed("Postgres connections at work at once, with callers stuck", use, calmUse+counts.StormReplicas, fmt.Sprintf("(calm: %d)", calmUse))
	b.count("lost to a token endpoint that takes 10 s", found.gone(), 0, "")
	return nil
}

// read calls connections whose access tokens are fresh, at an even pace, and returns
// the most Postgres connections that worked at one time.
func (w *world) read(ctx context.Context, of []*connection, window time.Duration) (*tally, int, error) {
	const pace = 10 * time.Millisecond
	result := newTally()
	var group sync.WaitGroup
	most, failed := 0, error(nil)
	done := make(chan struct{})
	group.Go(func() {
		for {
			_, busy, err := w.db.inUse(ctx)
			most, failed = max(most, busy), errors.Join(failed, err)
			select {
			case <-done:
				return
			case <-time.After(25 * time.Millisecond):
			}
		}
	})
	replicas := w.live()
	var calls sync.WaitGroup
	for i := range int(window / pace) {
		calls.Go(func() {
			began := w.cfg.Now()
			status, err := w.projects(ctx, replicas[i%len(replicas)], of[i%len(of)])
			if err != nil {
				status = 0
			}
			result.add(status, w.cfg.Now().Sub(began))
		})
		if err := pause(ctx, pace); err != nil {
			failed = err
			break
		}
	}
	calls.Wait()
	close(done)
	group.Wait()
	return result, most, failed
}

// storm lets many callers want one connection whose access token has ended, over all
// replicas at once, several times: as everybody knows, and as only Prisma knows.
func storm(ctx context.Context, b *board, w *world) error {
	if err := w.ensure(ctx, w.cfg.Counts.StormReplicas, patient()); err != nil {
		return err
	}
	w.plat.set(weather{hang: 200 * time.Millisecond})
	for _, kind := range []struct {
		name string
		left time.Duration // of the access token's life, as far as the service knows
	}{{"storm", -time.Second}, {"storm on a token that only Prisma ended", 30 * time.Minute}} {
		if err := w.stormOf(ctx, b, kind.name, kind.left); err != nil {
			return err
		}
	}
	_, err := b.settle(ctx, w, "storm", false, false)
	return err
}

func (w *world) stormOf(ctx context.Context, b *board, name string, left time.Duration) error {
	counts := w.cfg.Counts
	var exchanges, old []int
	var took []time.Duration
	failures := 0
	for range counts.StormRuns {
		c := w.connections[w.dice.below(len(w.connections))]
		if err := w.warm(ctx, counts.StormCallers); err != nil {
			return err
		}
		expire := map[string]string{"grant": c.grant}
		if err := w.plat.control(ctx, http.MethodPost, "expire-access-tokens", expire, nil); err != nil {
			return err
		}
		if aged, err := w.db.age(ctx, left, c.uuid()); err != nil || aged != 1 {
			return errors.Join(errors.New("the connection does not stand still"), err)
		}
		if err := pause(ctx, refusalAge+100*time.Millisecond); err != nil { // no refusal was lately
			return err
		}
		before, err := w.tokens(ctx)
		if err != nil {
			return err
		}
		refused := w.plat.refusals.Load()
		result, all := w.rush(ctx, counts.StormCallers, func(int) *connection { return c })
		after, err := w.tokens(ctx)
		if err != nil {
			return err
		}
		exchanges = append(exchanges, len(after[c.grant])-len(before[c.grant])) // others may be due by themselves
		old = append(old, int(w.plat.refusals.Load()-refused))
		took = append(took, all)
		failed := result.of(func(status int) bool { return status != http.StatusOK })
		if failures += failed; failed > 0 {
			b.note("  answers: %s", result)
		}
	}
	b.exactly("exchanges of a "+name, slices.Max(exchanges), 1, fmt.Sprintf("at most in %d runs, least %d", counts.StormRuns, slices.Min(exchanges)))
	b.shed("failed calls of the "+name, failures, 0, fmt.Sprintf("of %d × %d", counts.StormRuns, counts.StormCallers))
	b.count("calls with the old token in the "+name, slices.Max(old), counts.StormCallers/5, "at most in a run")
	b.told(fmt.Sprintf("all %d callers answered, %d processes (goal 0.8 s)", counts.StormCallers, counts.StormReplicas), spreadOf(took))
	return nil
}

// refused lets Prisma refuse many access tokens at once that should still be good.
func refused(ctx context.Context, b *board, w *world) error {
	counts := w.cfg.Counts
	if err := w.ensure(ctx, counts.StormReplicas, patient()); err != nil {
		return err
	}
	w.plat.set(weather{hang: 200 * time.Millisecond})
	var took []time.Duration
	failures, double, missing := 0, 0, 0
	for range counts.StormRuns {
		those := w.connections[:counts.Refused]
		ids := make([]string, 0, len(those))
		for _, c := range those {
			ids = append(ids, c.uuid())
		}
		if err := w.warm(ctx, counts.Refused); err != nil {
			return err
		}
		if err := w.plat.control(ctx, http.MethodPost, "expire-access-tokens", struct{}{}, nil); err != nil {
			return err
		}
		if _, err := w.db.age(ctx, 30*time.Minute, ids...); err != nil { // half of their life: no reason of their own
			return err
		}
		if err := pause(ctx, refusalAge+100*time.Millisecond); err != nil { // no refusal was lately
			return err
		}
		before, err := w.tokens(ctx)
		if err != nil {
			return err
		}
		result, all := w.rush(ctx, counts.Refused, func(i int) *connection { return those[i] })
		after, err := w.tokens(ctx)
		if err != nil {
			return err
		}
		for _, c := range those {
			switch made := len(after[c.grant]) - len(before[c.grant]); {
			case made > 1:
				double++
			case made < 1:
				missing++
			}
		}
		took = append(took, all)
		failed := result.of(func(status int) bool { return status != http.StatusOK })
		if failures += failed; failed > 0 {
			b.note("  answers: %s", result)
		}
		if err := w.renewAll(ctx); err != nil { // those that nobody called have dead access tokens too
			return err
		}
	}
	of := fmt.Sprintf("of %d × %d", counts.StormRuns, counts.Refused)
	b.count("connections refused at once with more than one exchange", double, 0, of)
	b.shed("connections refused at once with none", missing, 0, of)
	b.shed("failed calls of connections refused at once", failures, 0, of)
	b.told(fmt.Sprintf("all %d refused connections answered, %d processes (goal for 500: 4 s)", counts.Refused, counts.StormReplicas), spreadOf(took))
	_, err := b.settle(ctx, w, "refused", false, false)
	return err
}

// warm opens the connections that a rush will use, so that it is not about TCP.
func (w *world) warm(ctx context.Context, callers int) error {
	var group sync.WaitGroup
	var failed atomic.Int64
	replicas := w.live()
	for i := range callers {
		group.Go(func() {
			if _, err := w.get(ctx, replicas[i%len(replicas)], "/healthz"); err != nil {
				failed.Add(1)
			}
		})
	}
	group.Wait()
	if failed.Load() > 0 {
		return errors.New("replicas are not there")
	}
	return nil
}

// rush makes all calls at once, in turn to each replica, and returns when the last was
// answered.
func (w *world) rush(ctx context.Context, callers int, of func(i int) *connection) (*tally, time.Duration) {
	result := newTally()
	replicas := w.live()
	var ready, group sync.WaitGroup
	ready.Add(callers)
	start := make(chan struct{})
	for i := range callers {
		group.Go(func() {
			ready.Done()
			<-start
			began := w.cfg.Now()
			status, err := w.projects(ctx, replicas[i%len(replicas)], of(i))
			if err != nil {
				status = 0
			}
			result.add(status, w.cfg.Now().Sub(began))
		})
	}
	ready.Wait()
	began := w.cfg.Now()
	close(start)
	group.Wait()
	return result, w.cfg.Now().Sub(began)
}

// spreadOf is the median of some runs, with the fastest and the slowest.
func spreadOf(took []time.Duration) string {
	ms := func(d time.Duration) time.Duration { return d.Round(10 * time.Millisecond) }
	return fmt.Sprintf("%s (%s to %s, %d runs)", ms(percentile(took, 0.5)), ms(slices.Min(took)), ms(slices.Max(took)), len(took))
}
