package migrations

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"time"

	"github.com/pressly/goose/v3/lock"

	"github.com/connect-prisma/server/internal/postgres"
)

const (
	// defaultLockTimeout is the default of Options.LockTimeout.
	defaultLockTimeout = time.Second

	// lockTries is how often a lock is asked for: with the pauses between, for five
	// minutes.
	lockTries = 60

	// firstPause and lastPause are between two tries, doubled each time: those that
	// queued behind the first are served by then.
	firstPause = 200 * time.Millisecond
	lastPause  = 4 * time.Second
)

// ErrBusy tells that a migration did not get a lock in five minutes, because some
// transaction held it all the time. What it had done stays, and another run goes on.
var ErrBusy = errors.New("a transaction keeps a lock that the migration needs; end it, or run this again")

// patiently runs up until it is not refused a lock any more. A migration that can't have
// its lock at once lets those pass that wait behind it, and comes again.
func patiently(ctx context.Context, opts Options, up func() error) error {
	pause := firstPause
	for try := 1; ; try++ {
		err := up()
		if err == nil || !refusedLock(err) {
			return err
		}
		if try == lockTries {
			return fmt.Errorf("%w: %w", ErrBusy, err)
		}
		if opts.OnBusy != nil {
			opts.OnBusy(try)
		}
		again := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			again.Stop()
			return ctx.Err()
		case <-again.C:
		}
		pause = min(2*pause, lastPause)
	}
}

// refusedLock reports whether a statement waited for a lock as long as it may, or was
// the one of a deadlock that had to give way.
func refusedLock(err error) bool {
	code := postgres.SQLSTATE(err)
	return code == "55P03" || code == "40P01"
}

// locker is goose's session lock. Under it, with nobody else building, it drops the
// indexes that a run left half built that was killed: they are written and never read,
// and their names are taken.
type locker struct{ lock.SessionLocker }

// SessionLock implements lock.SessionLocker.
func (l locker) SessionLock(ctx context.Context, conn *sql.Conn) error {
	if err := l.SessionLocker.SessionLock(ctx, conn); err != nil {
		return fmt.Errorf("wait for another migration: %w", err)
	}
	names, err := halfBuilt(ctx, conn)
	if err != nil {
		return fmt.Errorf("look for indexes that are half built: %w", err)
	}
	for _, name := range names { // from our own files
		// It waits for transactions that use the index, and nobody waits for it.
		for _, statement := range []string{`SET lock_timeout = 0`, `DROP INDEX CONCURRENTLY IF EXISTS ` + name, `RESET lock_timeout`} {
			if _, err := conn.ExecContext(ctx, statement); err != nil {
				return fmt.Errorf("drop index %s, which is half built: %w", name, err)
			}
		}
	}
	return nil
}

// halfBuilt lists the indexes of the migrations that are there and not valid.
func halfBuilt(ctx context.Context, conn *sql.Conn) ([]string, error) {
	ours, err := concurrentIndexes()
	if err != nil {
		return nil, err
	}
	rows, err := conn.QueryContext(ctx, `
		SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = 'public' AND NOT i.indisvalid AND c.relname = ANY ($1)`, ours)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, rows.Err()
}

var createConcurrently = regexp.MustCompile(`CREATE (?:UNIQUE )?INDEX CONCURRENTLY IF NOT EXISTS (\w+)`)

// concurrentIndexes lists the names of the indexes that migrations build beside the
// running service.
func concurrentIndexes() ([]string, error) {
	files, err := fs.Glob(FS, "*.sql")
	if err != nil {
		return nil, err
	}
	names := []string{} // null would match nothing, and not say so
	for _, file := range files {
		text, err := fs.ReadFile(FS, file)
		if err != nil {
			return nil, err
		}
		for _, match := range createConcurrently.FindAllStringSubmatch(string(text), -1) {
			names = append(names, match[1])
		}
	}
	return names, nil
}
