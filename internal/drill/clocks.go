package drill

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// clocks moves the database's clock, which is the only one that the service believes.
func clocks(ctx context.Context, b *board, w *world) error {
	if err := w.ensure(ctx, w.cfg.Counts.Replicas, brisk()); err != nil {
		return err
	}
	if _, err := b.settle(ctx, w, "clocks", false, true); err != nil { // every pair is new
		return err
	}
	callAll := func(replicas int) error {
		return w.each(ctx, w.connections, func(ctx context.Context, c *connection) error {
			var err error
			for _, r := range w.live()[:replicas] {
				status, e := w.projects(ctx, r, c)
				for try := 0; status == http.StatusServiceUnavailable && try < 20; try++ { // it is busy
					if e := pause(ctx, 100*time.Millisecond); e != nil {
						return e
					}
					status, e = w.projects(ctx, r, c)
				}
				if e == nil && status != http.StatusOK {
					e = fmt.Errorf("%s answers %d after the clock moved", c.id, status)
				}
				err = errors.Join(err, e)
			}
			return err
		})
	}
	before := w.plat.refreshes.Load()
	for _, by := range []time.Duration{-10 * time.Minute, 10 * time.Minute} {
		if err := w.db.jump(ctx, by); err != nil {
			return err
		}
		if err := callAll(1); err != nil {
			return err
		}
	}
	b.count("exchanges because the clock went 10 minutes back and forth", int(w.plat.refreshes.Load()-before), 0, "")

	before, refused := w.plat.refreshes.Load(), w.plat.refusals.Load()
	const by = 61 * time.Minute
	advance := map[string]string{"advance": by.String()}
	if err := errors.Join(w.db.jump(ctx, by), w.plat.control(ctx, http.MethodPost, "clock", advance, nil)); err != nil {
		return err
	}
	began := w.cfg.Now()
	if err := callAll(2); err != nil {
		return err
	}
	took := w.cfg.Now().Sub(began)
	b.exactly("exchanges when every access token ends in one second", int(w.plat.refreshes.Load()-before), len(w.connections),
		fmt.Sprintf("in %.1f s", took.Seconds()))
	b.count("calls that reached Prisma with an ended access token", int(w.plat.refusals.Load()-refused), 0, "")
	if _, err := b.settle(ctx, w, "clocks", false, false); err != nil {
		return err
	}
	return w.jumpsInFlight(ctx, b)
}

// jumpsInFlight moves the database's clock while exchanges are under way: back, after
// which leases seem to last longer, and on by no more than the stall that a lease allows
// for. Beyond that its leases end, as those of a process that stands still for too long.
func (w *world) jumpsInFlight(ctx context.Context, b *board) error {
	_, stop := w.busy(ctx)
	defer stop()
	jumps := []time.Duration{-10 * time.Minute, 3 * time.Second, -time.Minute, 3 * time.Second}
	inFlight := int64(0)
	for _, by := range jumps {
		if err := w.inFlight(ctx); err != nil {
			return err
		}
		inFlight += w.plat.inFlight.Load()
		if err := w.db.jump(ctx, by); err != nil {
			return err
		}
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
	}
	stop()
	found, err := b.settle(ctx, w, "clocks", false, true)
	if err != nil {
		return err
	}
	b.count("lost to a clock that jumps while exchanges are under way", found.gone(), 0,
		fmt.Sprintf("in %d jumps, %d exchanges were under way", len(jumps), inFlight))
	return nil
}

// inFlight waits until Prisma has been asked for a pair and has not answered.
func (w *world) inFlight(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for w.plat.inFlight.Load() == 0 {
		if err := pause(ctx, time.Millisecond); err != nil {
			return fmt.Errorf("no exchange begins: %w", err)
		}
	}
	return nil
}
