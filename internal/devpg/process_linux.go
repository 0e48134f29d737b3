package devpg

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
)

// deathSignal: the kernel tells a child when its parent has died.
const deathSignal = true

func setDeathSignal(attr *syscall.SysProcAttr, sig syscall.Signal) { attr.Pdeathsig = sig }

// isPostmaster reports whether pid is the postmaster of a data directory. It looks
// at the command line, which everyone may read; the working directory would need a
// capability that containers lack.
func isPostmaster(pid int, data string) bool {
	args := bytes.Split(commandLine(strconv.Itoa(pid)), []byte{0})
	i := slices.IndexFunc(args, func(arg []byte) bool { return string(arg) == "-D" })
	return i >= 0 && i+1 < len(args) && string(args[i+1]) == data &&
		filepath.Base(string(args[0])) == "postgres"
}

// hasProcesses reports whether children of a cluster's postmaster live. They
// outlive a killed one for a moment and hold its shared memory, which keeps a new
// one from starting.
func hasProcesses(cluster string) bool {
	found, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return false
	}
	return slices.ContainsFunc(found, func(dir string) bool {
		return bytes.HasPrefix(commandLine(filepath.Base(dir)), []byte("postgres: "+cluster+": "))
	})
}

func commandLine(pid string) []byte {
	b, err := os.ReadFile("/proc/" + pid + "/cmdline") //nolint:gosec // G304: a process id
	if err != nil {
		return nil // gone
	}
	return b
}
