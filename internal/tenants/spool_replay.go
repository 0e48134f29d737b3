package tenants

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

const (
	// spoolPauseFrom and spoolPauseTo bound the doubling pause between replays while
	// something waits; with nothing there is a look each spoolPauseTo. That is well
	// below the 30 s for which no refresh token of a suspect connection is presented
	// after the database was away: entries are to be stored first.
	spoolPauseFrom = time.Second
	spoolPauseTo   = 5 * time.Second

	// spoolAttempt bounds one attempt to store an entry.
	spoolAttempt = 10 * time.Second

	// spoolWorkers is how many entries are stored at once: half of the reserved pool,
	// whose first use is to store pairs that are no entries yet.
	spoolWorkers = 2
)

// Replayed is what one replay did.
type Replayed struct {
	// Stored entries are in their rows now; Superseded ones are not needed, because the
	// connection has another pair, or none. Both are removed.
	Stored, Superseded int

	// Waiting entries could not be stored yet, or not be written to the disk.
	Waiting int

	// Unreadable entries are put aside.
	Unreadable int
}

// Run replays until ctx ends: every five seconds, and sooner at first while something
// waits. It returns when the entries in hand are settled or given up for now.
func (s *Spool) Run(ctx context.Context) {
	pause := spoolPauseFrom
	for {
		next := min(2*pause, spoolPauseTo)
		if s.Replay(ctx).Waiting == 0 {
			pause, next = spoolPauseTo, spoolPauseFrom
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = next
	}
}

// Replay looks once at everything in the spool: it writes what the disk did not take
// before, takes over the directories of processes that died, and stores every entry.
// An entry is removed when it was stored or is superseded. If the outcome is unknown, or
// the database is away, it stays. What can't be read is put aside and logged, once by
// each process: later ones look at it again, since they may have the right key.
func (s *Spool) Replay(ctx context.Context) Replayed {
	s.pass.Lock()
	defer s.pass.Unlock()
	var total tally
	total.waiting(s.writeOwed(ctx))
	s.adopt(ctx)
	s.mu.Lock()
	own := s.own
	s.mu.Unlock()
	if own != nil {
		s.replayDirectory(ctx, own, &total)
	}
	for name, dir := range s.adopted {
		counts := s.replayDirectory(ctx, dir, &total)
		switch {
		case counts.Waiting > 0:
		case counts.Unreadable > 0: // somebody with another key may want it
			s.left[name] = true
			dir.release()
			delete(s.adopted, name)
		default:
			dir.dissolve(s.dir)
			delete(s.adopted, name)
		}
	}
	return total.counts
}

// adopt takes over the directories whose owners are dead.
func (s *Spool) adopt(ctx context.Context) {
	found, err := os.ReadDir(s.dir)
	if err != nil {
		if s.first(s.dir) {
			s.logger.ErrorContext(ctx, "the spool can't be read", slog.Any("error", err))
		}
		return
	}
	s.forget(s.dir)
	s.mu.Lock()
	own, closed := s.own, s.closed
	s.mu.Unlock()
	for _, one := range found {
		name := one.Name()
		known := s.adopted[name] != nil || s.left[name] || own != nil && own.name == name
		if closed || known || !one.IsDir() || !strings.HasPrefix(name, spoolReplica) {
			continue
		}
		dir, err := lockSpoolDirectory(s.dir, name)
		if errors.Is(err, errSpoolLocked) || errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			if s.first(name) {
				s.logger.ErrorContext(ctx, "a directory of the spool can't be taken over",
					slog.String("directory", name), slog.Any("error", err))
			}
			continue
		}
		s.sift(ctx, dir)
		s.adopted[name] = dir
	}
}

// sift looks at what a dead process was writing, and at what others put aside. What is
// good becomes an entry. What was cut short goes: nobody has relied on it.
func (s *Spool) sift(ctx context.Context, dir *spoolDirectory) {
	names, err := dir.names()
	if err != nil {
		return // the replay that follows tells
	}
	for _, name := range names {
		entry, temp := strings.CutSuffix(name, spoolTemp)
		if !temp {
			var aside bool
			if entry, aside = strings.CutSuffix(name, spoolUnreadable); !aside {
				continue
			}
		}
		content, err := dir.read(name)
		if err == nil {
			_, err = s.store.openSpoolEntry(entry, content)
		}
		switch {
		case err == nil:
			err = dir.rename(name, entry)
		case temp && errors.Is(err, errSpoolDamaged):
			err = dir.remove(name)
		case temp && errors.Is(err, errSpoolForeign):
			err = dir.rename(name, entry+spoolUnreadable)
		default:
			continue // aside it stays; replayDirectory tells
		}
		if err != nil {
			s.logger.WarnContext(ctx, "a file of the spool can't be put in order",
				slog.String("entry", name), slog.Any("error", err))
		}
	}
}

// replayDirectory replays the entries of one directory.
func (s *Spool) replayDirectory(ctx context.Context, dir *spoolDirectory, total *tally) Replayed {
	var here tally
	names, err := dir.names()
	if err != nil {
		if s.first(dir.name) {
			s.logger.ErrorContext(ctx, "a directory of the spool can't be read",
				slog.String("directory", dir.name), slog.Any("error", err))
		}
		total.waiting(1)
		return Replayed{Waiting: 1}
	}
	var workers errgroup.Group
	workers.SetLimit(spoolWorkers)
	for _, name := range names {
		switch {
		case strings.HasSuffix(name, spoolUnreadable):
			s.tellUnreadable(ctx, dir, name, errors.New("it was put aside before"))
			here.count(func(r *Replayed) { r.Unreadable++ })
		case strings.HasSuffix(name, spoolSuffix):
			workers.Go(func() error {
				here.count(s.replayEntry(ctx, dir, name))
				return nil
			})
		}
	}
	_ = workers.Wait() // they return none
	total.add(here.counts)
	return here.counts
}

// replayEntry stores one entry and returns what to count it as.
func (s *Spool) replayEntry(ctx context.Context, dir *spoolDirectory, name string) (as func(*Replayed)) {
	waiting := func(r *Replayed) { r.Waiting++ }
	defer func() { // one bad entry must not end the service
		if recover() != nil {
			s.logger.ErrorContext(ctx, "panic in a replay of the spool", slog.String("entry", name),
				slog.String("stack", string(debug.Stack())))
			as = waiting
		}
	}()
	content, err := dir.read(name)
	if errors.Is(err, fs.ErrNotExist) {
		return func(*Replayed) {} // stored by the refresher that had put it there
	}
	var entry spoolEntry
	if err == nil {
		entry, err = s.store.openSpoolEntry(name, content)
	}
	switch {
	case errors.Is(err, errSpoolDamaged), errors.Is(err, errSpoolForeign):
		return s.putAside(ctx, dir, name, err)
	case err != nil: // a disk in trouble
		s.tellWaiting(ctx, name, err)
		return waiting
	}
	s.tellOld(ctx, name, entry)

	ctx, cancel := context.WithTimeout(ctx, spoolAttempt)
	defer cancel()
	storage := s.store.TokensOf(entry.tenant, entry.connection)
	err = storage.Save(ctx, entry.claim(), entry.fresh)
	if errors.Is(err, prisma.ErrSuperseded) {
		return s.supersede(ctx, dir, name, entry, storage)
	}
	if err != nil {
		s.tellWaiting(ctx, name, err)
		return waiting
	}
	if s.first("stored " + name) {
		s.logger.WarnContext(ctx, "spooled tokens stored", slog.String("connection", entry.connection.String()),
			slog.Int64("generation", entry.fresh.Generation))
	}
	s.discard(ctx, dir, name)
	return func(r *Replayed) { r.Stored++ }
}

// supersede removes an entry that its row does not wait for. Only a row that is further
// on shows that: one that is not even at the entry's generation comes from a database
// that has lost its last hours, as after a restore, and then the entry holds the one
// refresh token that is alive.
func (s *Spool) supersede(ctx context.Context, dir *spoolDirectory, name string, entry spoolEntry, storage *TokenStorage,
) (as func(*Replayed)) {
	generation, err := storage.generation(ctx)
	if err == nil && generation <= entry.generation {
		// Equal: it came to be so between the two statements. The next replay stores it.
		err = fmt.Errorf("the database is behind: it has generation %d, and this entry follows %d",
			generation, entry.generation)
	}
	if err != nil && fault.KindOf(err) != fault.NotFound {
		s.tellWaiting(ctx, name, err)
		return func(r *Replayed) { r.Waiting++ }
	}
	if s.first("superseded " + name) {
		s.logger.WarnContext(ctx, "spooled tokens dropped: the connection has others by now, or is gone",
			slog.String("connection", entry.connection.String()), slog.Int64("generation", entry.fresh.Generation))
	}
	s.discard(ctx, dir, name)
	return func(r *Replayed) { r.Superseded++ }
}

// discard removes an entry that is of no use any more.
func (s *Spool) discard(ctx context.Context, dir *spoolDirectory, name string) {
	if err := dir.remove(name); err != nil {
		if s.first("remove " + name) {
			s.logger.WarnContext(ctx, "a spooled entry can't be removed", slog.String("entry", name), slog.Any("error", err))
		}
		return // and is settled again by the next replay, without a word
	}
	s.forget("stored "+name, "superseded "+name, "waiting "+name, "old "+name, "remove "+name)
}

// putAside renames an entry that can't be opened.
func (s *Spool) putAside(ctx context.Context, dir *spoolDirectory, name string, cause error) (as func(*Replayed)) {
	if err := dir.rename(name, name+spoolUnreadable); err != nil {
		cause = errors.Join(cause, err) // it is told of all the same, and stays where it is
	}
	s.tellUnreadable(ctx, dir, name+spoolUnreadable, cause)
	return func(r *Replayed) { r.Unreadable++ }
}

func (s *Spool) tellUnreadable(ctx context.Context, dir *spoolDirectory, name string, cause error) {
	if s.first(dir.name + "/" + name) {
		s.logger.ErrorContext(ctx, "a spooled entry can't be opened and is put aside",
			slog.String("directory", dir.name), slog.String("entry", name), slog.Any("error", cause))
	}
}

func (s *Spool) tellWaiting(ctx context.Context, name string, cause error) {
	if s.first("waiting " + name) {
		s.logger.ErrorContext(ctx, "spooled tokens can't be stored yet", slog.String("entry", name), slog.Any("error", cause))
	}
}

// tellOld warns of a pair that has waited for longer than a refresh token lives. It is
// stored all the same: the row's own refresh token was spent for it.
func (s *Spool) tellOld(ctx context.Context, name string, entry spoolEntry) {
	if age := s.now().Sub(entry.taken); age > refreshTokenLife && s.first("old "+name) {
		s.logger.ErrorContext(ctx, "spooled tokens are older than a refresh token lives",
			slog.String("connection", entry.connection.String()), slog.Duration("age", age.Round(time.Hour)))
	}
}

// generation is the generation of the stored pair; fault.NotFound without one.
func (t *TokenStorage) generation(ctx context.Context) (generation int64, err error) {
	err = t.store.read(ctx, t.tenant, func(rows pgx.Rows) error {
		var err error
		generation, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[int64])
		return err
	}, `SELECT generation FROM connections WHERE tenant_id = $1 AND id = $2 AND status <> 'disconnected'`, t.tenant, t.id)
	if errors.Is(err, pgx.ErrNoRows) {
		return 0, errNoConnection()
	}
	return generation, err
}

// tally counts what several workers do.
type tally struct {
	mu     sync.Mutex
	counts Replayed
}

func (t *tally) count(as func(*Replayed)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	as(&t.counts)
}

func (t *tally) add(r Replayed) {
	t.count(func(sum *Replayed) {
		sum.Stored += r.Stored
		sum.Superseded += r.Superseded
		sum.Waiting += r.Waiting
		sum.Unreadable += r.Unreadable
	})
}

func (t *tally) waiting(n int) { t.count(func(r *Replayed) { r.Waiting += n }) }
