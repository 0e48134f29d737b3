//go:build unix && !linux

package main_test

import "syscall"

// ownGroup gives a process a group of its own.
func ownGroup(as *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Credential: as}
}
