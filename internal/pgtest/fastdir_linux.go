package pgtest

import (
	"os"
	"syscall"
)

// fastDir returns a directory in memory if one has room for a server and many test
// databases (in a container /dev/shm often has 64 MiB, too little), else the
// temporary directory.
func fastDir() string {
	const (
		shm     = "/dev/shm"
		enough  = 1 << 30
		tmpfsID = 0x01021994 // statfs(2), TMPFS_MAGIC
	)
	var fs syscall.Statfs_t
	if err := syscall.Statfs(shm, &fs); err != nil || fs.Type != tmpfsID {
		return os.TempDir()
	}
	if fs.Bavail*uint64(fs.Bsize) < enough { //nolint:gosec // G115: a block size is positive
		return os.TempDir()
	}
	return shm
}
