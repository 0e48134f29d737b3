//go:build unix && !linux

package processtest

import "syscall"

// ownGroup gives a process a group of its own.
func ownGroup(as *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: as}
}
