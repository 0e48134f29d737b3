package prisma

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// lockOpenFile takes an exclusive lock on an open file if nobody has one. The lock
// belongs to this opening of the file: closing it, or the end of the process, frees it.
func lockOpenFile(f *os.File) (free bool, err error) {
	err = windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY,
		0, 1, 0, &windows.Overlapped{})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return false, nil
	}
	return err == nil, err
}

// syncDir does nothing: Windows has no way to sync a directory.
func syncDir(string) error { return nil }
