//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package prisma

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lockOpenFile takes an exclusive lock on an open file if nobody has one. The lock
// belongs to this opening of the file: closing it, or the end of the process, frees it.
func lockOpenFile(f *os.File) (free bool, err error) {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case !errors.Is(err, unix.EINTR):
			return false, err
		}
	}
}

// syncDir makes a rename in the directory survive a crash of the machine. Some file
// systems have no such thing and say so; then nothing more can be done.
func syncDir(path string) error {
	dir, err := os.Open(path) //nolint:gosec // G304: the directory of the caller's file
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := dir.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	return nil
}
