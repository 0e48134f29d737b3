//go:build unix && !linux

package devpg

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// deathSignal: this kernel does not tell; the watchdog does.
const deathSignal = false

func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}

// isPostmaster reports whether pid is the postmaster of a data directory, by its
// command line.
func isPostmaster(pid int, data string) bool {
	out, err := exec.Command("ps", "-ww", "-o", "command=", "-p", strconv.Itoa(pid)).Output() //nolint:gosec,noctx // G204: a number; ps answers at once
	return err == nil && strings.Contains(string(out), "postgres -D "+data+" ")
}

// hasProcesses reports whether children of a cluster's postmaster live. They
// outlive a killed one for a moment and hold its shared memory.
func hasProcesses(cluster string) bool {
	out, err := exec.Command("ps", "-ax", "-ww", "-o", "command=").Output() //nolint:noctx // ps answers at once
	return err == nil && strings.Contains(string(out), "postgres: "+cluster+": ")
}
