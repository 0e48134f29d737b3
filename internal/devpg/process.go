package devpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// stopGently is how long a server may take to disconnect its clients and write
	// everything down before it is told to quit at once.
	stopGently = 15 * time.Second

	// stopAtOnce is how long quitting at once may take; a second is much.
	stopAtOnce = 15 * time.Second

	// pidFile is the postmaster's own record in the data directory.
	pidFile = "postmaster.pid"
)

// process is a child that is being waited for.
type process struct {
	pid    int
	exited chan struct{} // closed once the child is gone
	err    error         // how it ended; read it after exited
}

// spawn starts cmd. The kernel sends the parent-death signal when the starting
// THREAD ends, so the child is started from one that is kept until it is gone.
func spawn(cmd *exec.Cmd) (*process, error) {
	cmd.WaitDelay = time.Second // a grandchild may hold the log pipe a little longer
	p := &process{exited: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err != nil {
			return
		}
		p.err = cmd.Wait()
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(cmd.Path), err)
	}
	return p, nil
}

// stop ends a postmaster: fast, then immediate, never by SIGKILL.
func (p *process) stop(ctx context.Context) error {
	if err := p.signal(syscall.SIGINT); err != nil {
		return err
	}
	gently := time.NewTimer(stopGently)
	defer gently.Stop()
	select {
	case <-p.exited:
		return nil
	case <-gently.C:
	case <-ctx.Done():
	}

	if err := p.signal(syscall.SIGQUIT); err != nil {
		return err
	}
	atOnce := time.NewTimer(stopAtOnce)
	defer atOnce.Stop()
	select {
	case <-p.exited:
		return nil
	case <-atOnce.C:
		return fmt.Errorf("process %d does not end", p.pid)
	}
}

// signal does nothing to a child that is gone: until it has been waited for, its
// pid is nobody else's.
func (p *process) signal(sig syscall.Signal) error {
	select {
	case <-p.exited:
		return nil
	default:
	}
	if err := syscall.Kill(p.pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("send %s: %w", sig, err)
	}
	return nil
}

// status is what a postmaster.pid tells.
type status struct {
	pid, port int
	ready     bool // takes connections
}

// readPidFile reads the postmaster.pid of a data directory. Lines: pid, data
// directory, start time, port, socket directory, address, shared memory, state.
// The later ones are missing while the server starts.
//
// Source: Postgres, src/include/utils/pidfile.h.
func readPidFile(data string) (status, error) {
	b, err := os.ReadFile(filepath.Join(data, pidFile)) //nolint:gosec // G304: our own cluster
	if err != nil {
		return status{}, fmt.Errorf("read postmaster.pid: %w", err)
	}
	lines := strings.Split(string(b), "\n")
	var st status
	if st.pid, err = strconv.Atoi(strings.TrimSpace(lines[0])); err != nil || st.pid <= 0 {
		return status{}, errors.New("postmaster.pid holds no process id")
	}
	if len(lines) > 7 {
		if st.port, err = strconv.Atoi(strings.TrimSpace(lines[3])); err != nil {
			return status{}, fmt.Errorf("read port in postmaster.pid: %w", err)
		}
		st.ready = strings.TrimSpace(lines[7]) == "ready"
	}
	return st, nil
}

// watchdog is a shell that outlives this process for a moment, ends the server
// where the kernel does not, and removes an ephemeral cluster.
type watchdog struct {
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// watchdogScript reads its standard input, whose other end only the owner holds. A
// line means that all is done; the end of it that the owner has died.
//
//	$1 the postmaster  $2 its postmaster.pid  $3 what to remove, or nothing
const watchdogScript = `read -r _ && exit 0
kill -INT "$1" 2>/dev/null
n=0
while [ -e "$2" ] && [ "$n" -lt 150 ]; do n=$((n+1)); sleep 0.1; done
[ -z "$3" ] || rm -rf -- "$3"
`

// watch starts the watchdog of a server, or returns nil where none is needed.
func watch(where site, pid int) (*watchdog, error) {
	if deathSignal && !where.ephemeral {
		return nil, nil //nolint:nilnil // nil is a watchdog that nobody needs
	}
	remove := ""
	if where.ephemeral {
		remove = where.home
	}
	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "watchdog", //nolint:gosec,noctx // G204: arguments only; it must outlive every ctx
		strconv.Itoa(pid), filepath.Join(where.data(), pidFile), remove)
	cmd.Dir, cmd.Env = "/", cleanEnv()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // as this process: the server's account may not remove home
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("make the watchdog's pipe: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the watchdog: %w", err), pipe.Close())
	}
	return &watchdog{cmd: cmd, pipe: pipe}, nil
}

// dismiss ends the watchdog: the server is gone already.
func (w *watchdog) dismiss() error {
	_, err := io.WriteString(w.pipe, "done\n")
	err = errors.Join(err, w.pipe.Close(), w.cmd.Wait())
	if err != nil {
		return fmt.Errorf("dismiss the watchdog: %w", err)
	}
	return nil
}
