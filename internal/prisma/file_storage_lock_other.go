//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd || windows)

package prisma

import (
	"errors"
	"os"
)

// lockOpenFile says that there are no file locks here that end with their process, so
// tokens can be read from a file but not written.
func lockOpenFile(*os.File) (free bool, err error) { return false, errors.ErrUnsupported }

// syncDir is never reached without a lock.
func syncDir(string) error { return errors.ErrUnsupported }
