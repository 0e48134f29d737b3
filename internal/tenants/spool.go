package tenants

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
)

// SpoolConfig is what a Spool needs.
type SpoolConfig struct {
	// Dir is where the spool lies, made when it is missing. Any number of processes of
	// one installation may share it, over a network file system too if that has locks.
	// It should survive them: what is in it may be the only live copy of a refresh
	// token. Required.
	Dir string

	// Store is where the pairs belong; its keyset seals them. Required.
	Store *Store

	// Now is this process's clock, used to tell how old an entry is. Required.
	Now func() time.Time

	// Logger is told what becomes of entries. Nil: nobody is.
	Logger *slog.Logger
}

// Spool keeps fresh token pairs on a disk while Postgres can't take them. It is a
// prisma.Spool; it is safe for concurrent use.
//
//	Dir/                                        of the operator, or made with mode 0700
//	  replica-<id>/                             0700, of one process
//	    lock                                    held with flock while that process lives
//	    <tenant>.<connection>.<n>.<µs>.pair     0600, one sealed pair
//	    ….pair.tmp                              is being written, or was when it died
//	    ….pair.unreadable                       put aside: damaged, or under another key
//
// A pair is written to the temporary name, synced, renamed, and the directory synced.
// The names say whose pair it is, which generation it follows, and when that was
// claimed. These are no secrets, they let an operator see without any key which
// connections wait, and the seal is bound to them: a file under another's name does
// not open.
//
// Whoever finds a directory whose lock is free has outlived its owner, locks it and
// stores what is in it. Storing is TokenStorage.Save, fenced by the generation, so an
// entry may be replayed at any time, by anybody and any number of times.
type Spool struct {
	dir    string
	store  *Store
	now    func() time.Time
	logger *slog.Logger

	pass    sync.Mutex                 // one replay at a time
	adopted map[string]*spoolDirectory // of dead processes, by name; guarded by pass
	left    map[string]bool            // directories with nothing but what can't be read; guarded by pass

	mu     sync.Mutex
	own    *spoolDirectory   // nil: there is none yet
	owed   map[string][]byte // entries that the disk did not take, by name
	told   map[string]bool   // what was logged and needs no repetition
	closed bool
}

var _ prisma.Spool = (*Spool)(nil)

// worldWritable are the permissions of a directory in which everybody could replace
// ours: write, without the sticky bit.
const worldWritable = 0o002

// OpenSpool makes this process's part of the spool. It does not look at what others
// left: Replay does.
//
// It fails if the directory can't be used. One on a disk that is full at the moment
// can: that is logged, and tried again when it is needed.
func OpenSpool(cfg SpoolConfig) (*Spool, error) {
	if cfg.Dir == "" || cfg.Store == nil || cfg.Now == nil {
		return nil, errors.New("spool: a directory, a store and a clock are needed")
	}
	s := &Spool{
		dir: cfg.Dir, store: cfg.Store, now: cfg.Now, logger: cfg.Logger,
		adopted: map[string]*spoolDirectory{}, left: map[string]bool{},
		owed: map[string][]byte{}, told: map[string]bool{},
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	err := s.prepare()
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		s.logger.Error("the spool's disk is full", slog.Any("error", err))
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("spool: %w", err)
	}
	return s, nil
}

func (s *Spool) prepare() error {
	info, err := os.Stat(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = s.home()
		return err
	}
	if err != nil {
		return err
	}
	if info.Mode().Perm()&worldWritable != 0 && info.Mode()&os.ModeSticky == 0 {
		return fmt.Errorf("everybody may write to %s", s.dir)
	}
	_, err = s.home()
	return err
}

// home returns this process's own directory and makes it if there is none.
func (s *Spool) home() (*spoolDirectory, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("the spool is closed")
	}
	if s.own == nil {
		err := os.MkdirAll(s.dir, 0o700) // it may have gone since the start
		if err != nil {
			return nil, err
		}
		if s.own, err = makeSpoolDirectory(s.dir); err != nil {
			return nil, err
		}
	}
	return s.own, nil
}

// Keep implements prisma.Spool. conn must be a connection of a Store.
//
// A pair that the disk does not take is kept in memory as well, and every Replay
// tries again to write it, until done is called: done is returned beside the error.
func (s *Spool) Keep(_ context.Context, conn prisma.Connection, claim prisma.Claim, fresh prisma.Tokens,
) (done func(), err error) {
	storage, known := conn.Storage.(*TokenStorage)
	if !known {
		return nil, fmt.Errorf("spool the tokens of %s: its storage is not known here", conn)
	}
	entry := spoolEntry{
		tenant: storage.tenant, connection: storage.id, generation: claim.Current.Generation,
		taken: claim.Taken, fresh: fresh,
	}
	name := entry.name()
	content, err := s.store.sealSpoolEntry(entry)
	if err != nil {
		return nil, fmt.Errorf("spool the tokens of %s: %w", conn, err)
	}
	if err = s.write(name, content); err != nil {
		s.mu.Lock()
		s.owed[name] = content
		s.mu.Unlock()
		err = fmt.Errorf("spool the tokens of %s: %w", conn, err)
	}
	return func() { s.drop(name) }, err
}

// write brings an entry to the disk.
func (s *Spool) write(name string, content []byte) error {
	home, err := s.home()
	if err != nil {
		return err
	}
	err = home.write(name, content)
	if err == nil || home.exists() {
		return err
	}
	// Somebody removed our directory, or the disk went and came back without it.
	s.mu.Lock()
	if s.own == home {
		home.release()
		s.own = nil
	}
	s.mu.Unlock()
	if home, err = s.home(); err != nil {
		return err
	}
	return home.write(name, content)
}

// drop removes an entry of this process, written or not.
func (s *Spool) drop(name string) {
	s.mu.Lock()
	delete(s.owed, name)
	home := s.own
	s.mu.Unlock()
	if home != nil {
		_ = home.remove(name) // what stays is superseded, and goes with a replay
	}
}

// writeOwed tries again to write what the disk did not take, and returns how many
// entries it still owes.
func (s *Spool) writeOwed(ctx context.Context) int {
	s.mu.Lock()
	owed := maps.Clone(s.owed)
	s.mu.Unlock()
	left := 0
	for name, content := range owed {
		if err := s.write(name, content); err != nil {
			left++
			continue
		}
		s.mu.Lock()
		_, wanted := s.owed[name]
		delete(s.owed, name)
		s.mu.Unlock()
		if !wanted { // it was stored meanwhile
			s.drop(name)
			continue
		}
		s.logger.WarnContext(ctx, "refreshed tokens spooled at last", slog.String("entry", name))
	}
	return left
}

// Close lets go of every directory, and removes this process's own if it is empty.
// Entries stay for whoever comes next. Keep and Replay do nothing after it. While a
// Replay is at work, as on a disk that hangs, Close does nothing: the locks then end
// with the process.
func (s *Spool) Close() {
	if !s.pass.TryLock() {
		return
	}
	defer s.pass.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.own != nil {
		s.own.dissolve(s.dir)
		s.own = nil
	}
	for name, dir := range s.adopted {
		dir.release()
		delete(s.adopted, name)
	}
}

// first reports whether something has not been told of yet, and notes that it is now.
func (s *Spool) first(what string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told[what] {
		return false
	}
	s.told[what] = true
	return true
}

// forget makes room: the entry is gone.
func (s *Spool) forget(what ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, one := range what {
		delete(s.told, one)
	}
}
