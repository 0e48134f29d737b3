package processtest

import "syscall"

// ownGroup gives a process a group of its own, and lets it stop when the test
// program is killed.
func ownGroup(as *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: as, Pdeathsig: syscall.SIGTERM}
}
