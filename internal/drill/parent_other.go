//go:build !linux

package drill

import (
	"errors"
	"syscall"
)

// withParent keeps Ctrl-C in a terminal from a process. That it ends with this one is
// up to the drill's own end here.
func withParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

func mountSmall(string) error { return errors.ErrUnsupported }

func unmount(string) error { return nil }
