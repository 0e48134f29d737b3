package drill

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// readyWithin is the time that replicas have to serve again when Postgres is back.
const readyWithin = 5 * time.Second

// back starts Postgres again and returns how long each replica took from then until it
// answers from the database, the slowest.
func (w *world) back(ctx context.Context) (time.Duration, error) {
	if err := w.db.start(ctx); err != nil {
		return 0, err
	}
	began := w.cfg.Now()
	w.db.admin.Reset()
	w.pool.Reset()
	for _, r := range w.live() {
		for {
			status, err := w.get(ctx, r, "/v1/connections/"+w.connections[0].id.String())
			if err == nil && status == http.StatusOK {
				break
			}
			if err := pause(ctx, 20*time.Millisecond); err != nil {
				return 0, err
			}
			if w.cfg.Now().Sub(began) > 2*time.Minute {
				return 0, fmt.Errorf("replica %d does not answer any more", r.number)
			}
		}
	}
	return w.cfg.Now().Sub(began), nil
}

// busy is the load of scenarios in which nothing may be lost: slow answers, so that much
// is in hand when it strikes, and no faults.
func (w *world) busy(ctx context.Context) (*tally, func()) {
	w.plat.set(weather{jitter: 300 * time.Millisecond, hang: 150 * time.Millisecond})
	return w.load(ctx, w.usual())
}

// crashes crashes Postgres while pairs are being saved.
func crashes(ctx context.Context, b *board, w *world) error {
	counts := w.cfg.Counts
	if err := w.ensure(ctx, counts.Replicas, brisk()); err != nil {
		return err
	}
	result, stop := w.busy(ctx)
	defer stop()
	var slowest time.Duration
	for i := range counts.Crashes {
		if err := pause(ctx, w.dice.within(1500*time.Millisecond, 2500*time.Millisecond)); err != nil {
			return err
		}
		sig := syscall.SIGQUIT // an immediate shutdown
		if i%2 == 1 {
			sig = syscall.SIGKILL
		}
		if err := w.db.crash(ctx, sig); err != nil {
			return err
		}
		if err := pause(ctx, w.dice.within(min(2*time.Second, counts.DownFor), counts.DownFor)); err != nil {
			return err
		}
		took, err := w.back(ctx)
		if err != nil {
			return err
		}
		slowest = max(slowest, took)
	}
	stop()
	b.note("  answers: %s", result)
	found, err := b.settle(ctx, w, "crashes", false, false)
	if err != nil {
		return err
	}
	b.count("lost in crashes of Postgres", found.gone(), 0, fmt.Sprintf("in %d crashes", counts.Crashes))
	b.within("slowest time to ready after Postgres was back", slowest, readyWithin)
	return nil
}

// spooled counts the pairs in the spool.
func (w *world) spooled() int {
	found, err := filepath.Glob(filepath.Join(w.spoolDir(), "*", "*.pair"))
	if err != nil { // only a malformed pattern
		return 0
	}
	return len(found)
}

// crashInHand crashes Postgres under load and waits until the answers that were on the
// way have come: each replica then has pairs that it can't save.
func (w *world) crashInHand(ctx context.Context) error {
	_, stop := w.busy(ctx)
	err := pause(ctx, 1500*time.Millisecond)
	if err == nil {
		err = w.db.crash(ctx, syscall.SIGQUIT)
	}
	stop()
	w.plat.set(weather{})
	return errors.Join(err, w.plat.idle(ctx, time.Second))
}

// spool kills every process that holds a pair which Postgres can't take.
func spool(ctx context.Context, b *board, w *world) error {
	counts := w.cfg.Counts
	kept, lost := 0, 0
	for range counts.SpoolDeaths {
		if err := w.ensure(ctx, counts.Replicas, brisk()); err != nil {
			return err
		}
		if err := w.crashInHand(ctx); err != nil {
			return err
		}
		spooled := w.spooled()
		kept += spooled
		for _, r := range w.live() {
			w.remove(r)
			if err := r.end(ctx, syscall.SIGKILL); err != nil {
				return err
			}
		}
		if _, err := w.back(ctx); err != nil {
			return err
		}
		for range counts.Replicas {
			if err := w.startReplica(ctx, w.numbers); err != nil {
				return err
			}
		}
		b.note("  %d pairs were in the spool, %d are left after the start", spooled, w.spooled())
		found, err := b.settle(ctx, w, "spool", false, false)
		if err != nil {
			return err
		}
		lost += found.gone()
	}
	b.count("lost with Postgres down and every replica killed", lost, 0, fmt.Sprintf("of %d spooled pairs", kept))
	if kept == 0 && counts.SpoolDeaths > 0 {
		return errors.New("nothing was in the spool: the scenario shows nothing")
	}
	return nil
}

// disk fills the disk under the spool while Postgres is down: pairs are in memory alone.
func disk(ctx context.Context, b *board, w *world) error {
	counts := w.cfg.Counts
	if err := w.ensure(ctx, counts.Replicas, brisk()); err != nil {
		return err
	}
	lost, dead, before := 0, 0, w.started
	for range counts.FullDisks {
		full, err := w.fillDisk()
		if err != nil {
			return err
		}
		if err := w.crashInHand(ctx); err != nil {
			return errors.Join(err, full())
		}
		b.note("  %d pairs found room in the spool", w.spooled())
		if _, err := w.back(ctx); err != nil {
			return errors.Join(err, full())
		}
		if err := full(); err != nil {
			return err
		}
		for _, r := range w.live() {
			select {
			case <-r.ended:
				dead++
			default:
			}
		}
		found, err := b.settle(ctx, w, "disk", false, false)
		if err != nil {
			return err
		}
		lost += found.gone()
	}
	b.count("lost with Postgres down and the spool's disk full", lost, 0, fmt.Sprintf("in %d times", counts.FullDisks))
	b.count("replicas that ended or were started again for a full disk", dead+w.started-before, 0, "")
	return nil
}

// fillDisk fills the disk of the spool and returns how to make room again. Without a
// disk of its own, which only root can mount, the spool's directories take no new file.
func (w *world) fillDisk() (room func() error, err error) {
	if w.small == "" {
		dirs, err := filepath.Glob(filepath.Join(w.spoolDir(), "replica-*"))
		if err != nil {
			return nil, fmt.Errorf("find the spool: %w", err)
		}
		change := func(mode os.FileMode) (err error) {
			for _, dir := range dirs {
				err = errors.Join(err, os.Chmod(dir, mode))
			}
			return err
		}
		return func() error { return change(0o700) }, change(0o500)
	}
	ballast := filepath.Join(w.small, "ballast")
	file, err := os.Create(filepath.Clean(ballast))
	if err != nil {
		return nil, fmt.Errorf("fill the disk: %w", err)
	}
	for block := make([]byte, 4096); err == nil; {
		_, err = file.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		return nil, fmt.Errorf("fill the disk: %w", err)
	}
	return func() error { return os.Remove(ballast) }, file.Close()
}

// cuts cuts COMMITs on the way.
func cuts(ctx context.Context, b *board, w *world) error {
	counts := w.cfg.Counts
	if err := w.ensure(ctx, counts.Replicas, brisk()); err != nil {
		return err
	}
	result, stop := w.busy(ctx)
	defer stop()
	before, began := w.wire.count(), w.cfg.Now()
	w.wire.cutEvery(9)
	for w.wire.count()-before < counts.Cuts && w.cfg.Now().Sub(began) < 10*time.Minute {
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	w.wire.cutEvery(0)
	made := w.wire.count() - before
	stop()
	b.note("  answers: %s", result)
	found, err := b.settle(ctx, w, "cuts", false, false)
	if err != nil {
		return err
	}
	b.count("lost to cut COMMITs", found.gone(), 0, fmt.Sprintf("of %d cuts", made))
	return nil
}

// readonly lets the database refuse every write: then nothing may be sent.
func readonly(ctx context.Context, b *board, w *world) error {
	counts := w.cfg.Counts
	if err := w.ensure(ctx, counts.Replicas, brisk()); err != nil {
		return err
	}
	_, stop := w.busy(ctx)
	defer stop()
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	if err := w.db.readOnly(ctx, true); err != nil {
		return err
	}
	// What was claimed before is still on its way.
	err := pause(ctx, time.Second)
	before := w.plat.refreshes.Load()
	err = errors.Join(err, pause(ctx, counts.ReadOnlyFor))
	sent := int(w.plat.refreshes.Load() - before)
	if err := errors.Join(err, w.db.readOnly(ctx, false)); err != nil {
		return err
	}
	if err := pause(ctx, time.Second); err != nil {
		return err
	}
	stop()
	found, err := b.settle(ctx, w, "readonly", false, false)
	if err != nil {
		return err
	}
	b.count("exchanges begun while the database took no writes", sent, 0, "in "+counts.ReadOnlyFor.String())
	b.count("lost to a database that took no writes", found.gone(), 0, "")
	return nil
}

// hangups lets every caller leave early: the exchange goes on without it.
func hangups(ctx context.Context, b *board, w *world) error {
	counts := w.cfg.Counts
	if err := w.ensure(ctx, counts.Replicas, brisk()); err != nil {
		return err
	}
	w.plat.set(weather{jitter: 300 * time.Millisecond, hang: 150 * time.Millisecond})
	leaving := w.usual()
	leaving.hangUp = true
	result, stop := w.load(ctx, leaving)
	defer stop()
	for result.all() < counts.HangUps {
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
	stop()
	b.note("  answers: %s", result)
	found, err := b.settle(ctx, w, "hangups", false, false)
	if err != nil {
		return err
	}
	b.count("exchanges aborted by callers who left", found.unstored, 0, fmt.Sprintf("of %d calls", result.all()))
	return nil
}
