package processtest

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Limits are generous, because the machine may be running everybody's tests at once.
const (
	// StartLimit bounds a start.
	StartLimit = 60 * time.Second
	// StopLimit bounds a stop.
	StopLimit = 45 * time.Second
	// CallLimit bounds one HTTP call, and waiting for another process to get somewhere.
	CallLimit = 30 * time.Second
	// lookEvery is the pace at which another process's state is looked at, where
	// there is nothing to wait on.
	lookEvery = 10 * time.Millisecond
)

// Process is a running server program.
type Process struct {
	Cmd    *exec.Cmd
	Stdout *Output
	Stderr *Output
	Done   chan struct{} // closed when it has ended
	err    error         // how; valid after done
}

// Launch is how a process is started.
type Launch struct {
	Program string // "": the one of this tree
	Args    []string
	Env     []string // the whole environment, but for PATH
	Dir     string
	Stdin   string
	As      *syscall.Credential // nil: as this process
}

// Start runs the server program. A process that is still there when the test ends
// is asked to stop, then killed.
func Start(tb testing.TB, how Launch) *Process {
	tb.Helper()
	if how.Program == "" {
		how.Program = Server(tb)
	}
	p := &Process{
		Cmd:    exec.Command(how.Program, how.Args...), //nolint:noctx // it is ended below, gently
		Stdout: &Output{}, Stderr: &Output{}, Done: make(chan struct{}),
	}
	// The race detector would let every program that ends well wait for a second.
	p.Cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}, how.Env...)
	p.Cmd.Dir = how.Dir
	p.Cmd.Stdin = strings.NewReader(how.Stdin)
	p.Cmd.Stdout, p.Cmd.Stderr = p.Stdout, p.Stderr
	p.Cmd.SysProcAttr = ownGroup(how.As)
	if err := p.Cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", strings.Join(how.Args, " "), err)
	}
	go func() {
		p.err = p.Cmd.Wait()
		p.Stdout.end()
		p.Stderr.end()
		close(p.Done)
	}()
	tb.Cleanup(func() {
		p.cleanUp(tb)
		if strings.Contains(p.Stderr.String(), "WARNING: DATA RACE") {
			tb.Errorf("a data race:\n%s", p.Stderr.Tail())
		}
		if tb.Failed() {
			tb.Logf("%s says:\n%s", how.Args[0], p.complaints())
		}
	})
	return p
}

// complaints are the last warnings and errors of its log.
func (p *Process) complaints() string {
	const most = 20
	var found []string
	for line := range strings.Lines(p.Stderr.String()) {
		notable := strings.Contains(line, `"level":"ERROR"`) || strings.Contains(line, `"level":"WARN"`)
		if notable && !strings.Contains(line, `"route":"/readyz"`) {
			found = append(found, line)
		}
	}
	return strings.Join(found[max(0, len(found)-most):], "")
}

func (p *Process) cleanUp(tb testing.TB) {
	tb.Helper()
	if !p.running() {
		return
	}
	p.Signal(tb, syscall.SIGTERM)
	select {
	case <-p.Done:
	case <-time.After(StopLimit):
		tb.Errorf("process %d did not stop in %s\n%s", p.Cmd.Process.Pid, StopLimit, p.Stderr.Tail())
		_ = p.Cmd.Process.Kill() // it may have ended just now
		<-p.Done
	}
}

func (p *Process) running() bool {
	select {
	case <-p.Done:
		return false
	default:
		return true
	}
}

// Signal sends a signal to the process's whole group, as a terminal does.
func (p *Process) Signal(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	if err := syscall.Kill(-p.Cmd.Process.Pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		tb.Errorf("send %s: %v", sig, err)
	}
}

// Wait waits for the end and returns the exit status, -1 after a signal.
func (p *Process) Wait(tb testing.TB) int {
	tb.Helper()
	select {
	case <-p.Done:
		return p.Cmd.ProcessState.ExitCode()
	case <-time.After(StopLimit):
		tb.Fatalf("process %d is still there after %s\n%s", p.Cmd.Process.Pid, StopLimit, p.Stderr.Tail())
		return -1
	}
}

// Stop sends a signal and checks that the process ends by itself, without an error.
func (p *Process) Stop(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	p.Signal(tb, sig)
	if code := p.Wait(tb); code != 0 {
		tb.Errorf("exit status after %s = %d, want 0\nstdout:\n%s\nstderr:\n%s", sig, code, p.Stdout.Tail(), p.Stderr.Tail())
	}
}

// Run runs the program to its end and returns its exit status and output.
func Run(tb testing.TB, how Launch) (code int, stdout, stderr string) {
	tb.Helper()
	p := Start(tb, how)
	code = p.Wait(tb)
	return code, p.Stdout.String(), p.Stderr.String()
}
