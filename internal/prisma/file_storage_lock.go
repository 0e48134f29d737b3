package prisma

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// Pauses between tries to take a lock that somebody holds for a moment.
const (
	lockPollFrom = time.Millisecond
	lockPollTo   = 30 * time.Millisecond
)

// waitLock takes the lock at path, however long that takes; ctx ends the wait.
func waitLock(ctx context.Context, path string) (*os.File, error) {
	for pause := lockPollFrom; ; pause = min(2*pause, lockPollTo) {
		lock, err := tryLock(path)
		if lock != nil || err != nil {
			return lock, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the lock of the token file: %w", ctx.Err())
		}
	}
}

// tryLock takes the lock at path, which the kernel frees when the process dies, or
// returns nil when somebody has it: another process or another open file of this one.
func tryLock(path string) (*os.File, error) {
	for {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) //nolint:gosec // G304: beside the caller's file
		if err != nil {
			return nil, fmt.Errorf("open the lock of the token file: %w", err)
		}
		free, err := lockOpenFile(f)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		if !free {
			return nil, f.Close()
		}
		if isFileAt(f, path) {
			return f, nil
		}
		// Somebody removed it between our opening and locking: others lock a new one.
		unlock(f)
	}
}

// isFileAt reports whether f is still the file at path.
func isFileAt(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(mine, there)
}

// unlock lets go of a lock; nil is none.
func unlock(lock *os.File) {
	if lock != nil {
		_ = lock.Close() // nothing was written to it, and the lock is gone either way
	}
}
