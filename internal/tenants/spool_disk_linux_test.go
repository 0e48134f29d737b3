package tenants_test

import (
	"syscall"
	"testing"
)

// mountSmall mounts a disk in memory with those options until the test ends.
func mountSmall(t *testing.T, at, options string) error {
	t.Helper()
	if err := syscall.Mount("tmpfs", at, "tmpfs", 0, options); err != nil {
		return err
	}
	t.Cleanup(func() { ok(t, syscall.Unmount(at, syscall.MNT_DETACH)) })
	return nil
}

// remountSmall gives a disk other options.
func remountSmall(at, options string) error {
	return syscall.Mount("tmpfs", at, "tmpfs", syscall.MS_REMOUNT, options)
}
