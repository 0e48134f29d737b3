package drill

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// lateHolders is how many refreshes a replica has in hand when it stands still: as many
// as it may.
const lateHolders = 8

// late lets a replica stand still with answers in its sockets until its leases are over;
// the database's clock sees to that within a moment. Meanwhile every other user connects
// again. What the replica then saves is the only live pair of those who did not, and must
// not touch the new grant of those who did.
func late(ctx context.Context, b *board, w *world) error {
	if err := w.ensure(ctx, w.cfg.Counts.Replicas, brisk()); err != nil {
		return err
	}
	if _, err := b.settle(ctx, w, "late", false, true); err != nil { // no other refresh is due
		return err
	}
	holder := w.live()[0]
	those := w.connections[:lateHolders]
	ids := make([]string, 0, len(those))
	for _, c := range those {
		ids = append(ids, c.uuid())
	}
	w.plat.set(weather{hang: time.Second})
	if _, err := w.db.age(ctx, -time.Second, ids...); err != nil {
		return err
	}
	waiting, leave := context.WithCancel(ctx)
	defer leave()
	for _, c := range those {
		go func() { _, _ = w.projects(waiting, holder, c) }() // what came of it the comparison tells
	}
	open, err := w.allInHand(ctx, holder)
	if err != nil {
		return err
	}
	holder.setHealthy(false)
	if err := holder.signal(syscall.SIGSTOP); err != nil {
		return err
	}
	again, err := w.whileItStands(ctx, those)
	if err := errors.Join(err, holder.signal(syscall.SIGCONT)); err != nil {
		return err
	}
	if err := w.saved(ctx, holder); err != nil {
		return err
	}
	found, err := b.settle(ctx, w, "late", false, true)
	if err != nil {
		return err
	}
	b.count("lost to saves that came after their lease", found.gone(), 0,
		fmt.Sprintf("of %d, %d connected again meanwhile", open, again))
	return w.db.jump(ctx, -w.numbers.lease()-time.Second)
}

// allInHand waits until the replica has sent every one of its requests.
func (w *world) allInHand(ctx context.Context, r *replica) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for w.plat.inFlight.Load() < lateHolders {
		if err := pause(ctx, time.Millisecond); err != nil {
			return 0, fmt.Errorf("a replica does not have %d exchanges under way: %w", lateHolders, err)
		}
	}
	open, err := w.db.openIntents(ctx, r.id)
	return len(open), err
}

// whileItStands lets the answers arrive and the leases end, and every other user connect
// again.
func (w *world) whileItStands(ctx context.Context, those []*connection) (again int, err error) {
	if err := w.plat.idle(ctx, 200*time.Millisecond); err != nil {
		return 0, err
	}
	w.plat.set(weather{})
	if err := w.db.jump(ctx, w.numbers.lease()+time.Second); err != nil {
		return 0, err
	}
	for i, c := range those {
		if i%2 == 1 {
			continue
		}
		if err := w.connect(ctx, c); err != nil {
			return 0, fmt.Errorf("connect %s again: %w", c.user, err)
		}
		again++
	}
	return again, w.findGrants(ctx)
}

// saved waits until the replica has said what it got: before that, a call would be a late
// retry, whose token Prisma has used.
func (w *world) saved(ctx context.Context, r *replica) error {
	limit, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		open, err := w.db.openIntents(limit, r.id)
		if err != nil {
			return err
		}
		if len(open) == 0 {
			return nil
		}
		if pause(limit, 20*time.Millisecond) != nil {
			return ctx.Err() // the comparison says what is open
		}
	}
}
