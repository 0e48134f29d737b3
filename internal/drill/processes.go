package drill

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// ensure brings the installation to so many replicas with those numbers.
func (w *world) ensure(ctx context.Context, count int, n numbers) error {
	if len(w.live()) == count && w.numbers == n {
		return nil
	}
	return w.deploy(ctx, count, n)
}

// kills kills replicas one after the other under load.
func kills(ctx context.Context, b *board, w *world) error {
	counts := w.cfg.Counts
	if err := w.ensure(ctx, counts.Replicas, brisk()); err != nil {
		return err
	}
	if err := w.plat.mix(ctx); err != nil {
		return err
	}
	before := w.plat.refreshes.Load()
	result, stop := w.load(ctx, w.usual())
	defer func() { stop() }()
	inHand := 0
	for i := range counts.Kills {
		if err := pause(ctx, w.dice.within(time.Second, 2*time.Second)); err != nil {
			return err
		}
		live := w.live()
		victim := live[w.dice.below(len(live))]
		open, err := w.kill(ctx, victim)
		if err != nil {
			return err
		}
		inHand += open
		if err := w.startReplica(ctx, w.numbers); err != nil {
			return err
		}
		if i%10 == 9 {
			b.note("  %d kills", i+1)
		}
		if i%25 == 24 && i+1 < counts.Kills { // or the lost ones would be called no more
			if err := w.between(ctx, b, "kills", stop); err != nil {
				return err
			}
			if err := w.plat.mix(ctx); err != nil {
				return err
			}
			result, stop = w.load(ctx, w.usual())
		}
	}
	stop()
	b.note("  answers: %s", result)
	exchanges := w.plat.refreshes.Load() - before
	if _, err := b.settle(ctx, w, "kills", false, false); err != nil {
		return err
	}
	b.told("killed hard: lost with their process, and what they had in hand",
		fmt.Sprintf("%d in %d kills, %d of %d exchanges were in hand", b.verdicts[lostWithProcess], counts.Kills, inHand, exchanges))
	b.told("lost in kills because the simulator kept its answer", strconv.Itoa(b.verdicts[lostUnanswered]))
	return nil
}

// between ends a part of a scenario, compares, and lets the lost connect again.
func (w *world) between(ctx context.Context, b *board, name string, stop func()) error {
	stop()
	_, err := b.settle(ctx, w, name, false, false)
	return err
}

// pauses stops replicas and lets them go on.
func pauses(ctx context.Context, b *board, w *world) error {
	counts := w.cfg.Counts
	n := brisk()
	if counts.LongPauses > 0 {
		n = steady()
	}
	if err := w.ensure(ctx, counts.Replicas, n); err != nil {
		return err
	}
	within := 0
	for _, kind := range []struct {
		count int
		of    time.Duration
		over  bool
	}{{counts.Pauses, 3 * time.Second, false}, {counts.LongPauses, 20 * time.Second, false}, {counts.OverPauses, 90 * time.Second, true}} {
		if kind.count == 0 {
			continue
		}
		w.plat.set(weather{jitter: 300 * time.Millisecond})
		_, stop := w.load(ctx, w.usual())
		for range kind.count {
			if err := w.freeze(ctx, kind.of, kind.over); err != nil {
				stop()
				return err
			}
		}
		stop()
		found, err := b.settle(ctx, w, "pauses", false, false)
		if err != nil {
			return err
		}
		b.note("  %d pauses of %s", kind.count, kind.of)
		if kind.over {
			b.told(fmt.Sprintf("lost in %d pauses of %s, longer than the lease", kind.count, kind.of), strconv.Itoa(found.gone()))
		} else {
			within += found.gone()
		}
	}
	b.count("lost in pauses within the stall allowance", within, 0, fmt.Sprintf("in %d of 3 s and %d of 20 s", counts.Pauses, counts.LongPauses))
	return nil
}

// freeze stops one replica for that long. Users want what it has in hand, and come to the
// others for it. It is exposed only if its leases end meanwhile.
func (w *world) freeze(ctx context.Context, d time.Duration, over bool) error {
	if err := pause(ctx, w.dice.within(500*time.Millisecond, time.Second)); err != nil {
		return err
	}
	live := w.live()
	r := live[w.dice.below(len(live))]
	if err := r.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	r.setHealthy(false)
	err := pause(ctx, 100*time.Millisecond)
	open := map[string]int64{}
	if err == nil {
		open, err = w.db.openIntents(ctx, r.id)
	}
	if over {
		w.expose(open)
	}
	limit, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var group sync.WaitGroup
	for _, c := range w.connections {
		if _, ok := open[c.uuid()]; ok {
			group.Go(func() {
				for pause(limit, 100*time.Millisecond) == nil {
					_, _ = w.projects(limit, w.pick(), c) // what came of it the comparison tells
				}
			})
		}
	}
	group.Wait()
	<-limit.Done()
	return errors.Join(err, ctx.Err(), r.signal(syscall.SIGCONT))
}

// rolls replaces one replica after the other: the new one is there before the old one
// goes, as a rolling deployment does it.
func rolls(ctx context.Context, b *board, w *world) error {
	counts := w.cfg.Counts
	if err := w.ensure(ctx, counts.Replicas, brisk()); err != nil {
		return err
	}
	// Slow answers, and mostly exchanges that no caller waits for: the end of the last
	// request is not the end of the work.
	w.plat.set(weather{jitter: 300 * time.Millisecond, hang: 1500 * time.Millisecond})
	result, stop := w.load(ctx, traffic{rate: 2*counts.Replicas + 2, ahead: 0.7})
	defer stop()
	for range counts.Rolls {
		if err := w.startReplica(ctx, w.numbers); err != nil {
			return err
		}
		if err := pause(ctx, 300*time.Millisecond); err != nil {
			return err
		}
		old := w.live()[0]
		if err := old.end(ctx, syscall.SIGTERM); err != nil {
			return err
		}
		w.remove(old)
		if old.err != nil {
			b.note("  replica %d does not end cleanly: %v", old.number, old.err)
		}
	}
	stop()
	b.note("  answers: %s", result)
	found, err := b.settle(ctx, w, "rolls", false, false)
	if err != nil {
		return err
	}
	b.shed("5xx or no answer during rolls", result.broken(), 0, fmt.Sprintf("of %d calls, %d rolls", result.all(), counts.Rolls))
	b.count("lost in rolls", found.gone(), 0, "")
	return nil
}

// leeway kills replicas that have been told how long Prisma takes a used token once
// more: the others present at once what the dead one had in hand.
func leeway(ctx context.Context, b *board, w *world) error {
	counts := w.cfg.Counts
	if err := w.ensure(ctx, counts.Replicas, forgiving()); err != nil {
		return err
	}
	if err := w.plat.faults(ctx, 0, 0, 0, leewayAtPrisma); err != nil {
		return err
	}
	w.plat.set(weather{jitter: 300 * time.Millisecond})
	if err := pause(ctx, w.numbers.hold); err != nil { // a replica that has just started holds back
		return err
	}
	_, stop := w.load(ctx, w.usual())
	defer stop()
	inHand, slowest := 0, time.Duration(0)
	for range counts.LeewayKills {
		if err := pause(ctx, w.dice.within(time.Second, 2*time.Second)); err != nil {
			return err
		}
		live := w.live()
		victim := live[w.dice.below(len(live))]
		w.remove(victim)
		if err := victim.end(ctx, syscall.SIGKILL); err != nil {
			return err
		}
		killed := w.cfg.Now()
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
		open, err := w.db.openIntents(ctx, victim.id)
		if err != nil {
			return err
		}
		inHand += len(open)
		if err := w.heal(ctx, victim.id, killed); err != nil {
			return err
		}
		slowest = max(slowest, w.cfg.Now().Sub(killed))
		if err := w.startReplica(ctx, w.numbers); err != nil {
			return err
		}
	}
	stop()
	w.plat.set(weather{})
	found, err := b.settle(ctx, w, "leeway", true, true)
	if err != nil {
		return err
	}
	b.count("lost in hard kills with leeway", found.gone(), 0, fmt.Sprintf("in %d kills, %d exchanges were in hand", counts.LeewayKills, inHand))
	b.within("slowest recovery of what a killed replica had in hand", slowest, leewayOfOurs)
	return nil
}

// heal calls what a dead replica left open until nothing of it is.
func (w *world) heal(ctx context.Context, replica string, killed time.Time) error {
	for w.cfg.Now().Sub(killed) < leewayAtPrisma {
		open, err := w.db.openIntents(ctx, replica)
		if err != nil || len(open) == 0 {
			return err
		}
		var waiting []*connection
		for _, c := range w.connections {
			if _, ok := open[c.uuid()]; ok {
				waiting = append(waiting, c)
			}
		}
		err = w.each(ctx, waiting, func(ctx context.Context, c *connection) error {
			_, _ = w.projects(ctx, w.pick(), c) // what came of it the row tells
			return nil
		})
		if err := errors.Join(err, pause(ctx, 100*time.Millisecond)); err != nil {
			return err
		}
	}
	return nil
}
