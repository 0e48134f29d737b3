package drill

import "syscall"

// withParent lets a process end with this one, and keeps Ctrl-C in a terminal from it.
func withParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// mountSmall mounts a disk in memory that holds 1 MiB. Only root may.
func mountSmall(at string) error { return syscall.Mount("tmpfs", at, "tmpfs", 0, "size=1m,mode=0700") }

func unmount(at string) error { return syscall.Unmount(at, syscall.MNT_DETACH) }
