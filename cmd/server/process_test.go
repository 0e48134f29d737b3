package main_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	// startLimit bounds a start, stopLimit a stop and callLimit one HTTP call:
	// generous, because the machine may be running everybody's tests at once.
	startLimit = 60 * time.Second
	stopLimit  = 45 * time.Second
	callLimit  = 30 * time.Second
	// lookEvery is the pace at which another process's state is looked at, where
	// there is nothing to wait on.
	lookEvery = 10 * time.Millisecond
)

// process is a running server program.
type process struct {
	cmd    *exec.Cmd
	stdout *output
	stderr *output
	done   chan struct{} // closed when it has ended
	err    error         // how; valid after done
}

// launch is how a process is started.
type launch struct {
	program string // "": the one of this tree
	args    []string
	env     []string // the whole environment, but for PATH
	dir     string
	stdin   string
	as      *syscall.Credential // nil: as this process
}

// start runs the server program. A process that is still there when the test ends
// is asked to stop, then killed.
func start(tb testing.TB, how launch) *process {
	tb.Helper()
	if how.program == "" {
		how.program = serverBinary(tb)
	}
	p := &process{
		cmd:    exec.Command(how.program, how.args...), //nolint:noctx // it is ended below, gently
		stdout: &output{}, stderr: &output{}, done: make(chan struct{}),
	}
	// The race detector would let every program that ends well wait for a second.
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "GORACE=atexit_sleep_ms=0"}, how.env...)
	p.cmd.Dir = how.dir
	p.cmd.Stdin = strings.NewReader(how.stdin)
	p.cmd.Stdout, p.cmd.Stderr = p.stdout, p.stderr
	p.cmd.SysProcAttr = ownGroup(how.as)
	if err := p.cmd.Start(); err != nil {
		tb.Fatalf("start %s: %v", strings.Join(how.args, " "), err)
	}
	go func() {
		p.err = p.cmd.Wait()
		p.stdout.end()
		p.stderr.end()
		close(p.done)
	}()
	tb.Cleanup(func() {
		p.cleanUp(tb)
		if strings.Contains(p.stderr.String(), "WARNING: DATA RACE") {
			tb.Errorf("a data race:\n%s", p.stderr.tail())
		}
		for line := range strings.Lines(p.stderr.String()) {
			if tb.Failed() && (strings.Contains(line, `"level":"ERROR"`) || strings.Contains(line, `"level":"WARN"`)) {
				tb.Logf("%s says: %s", how.args[0], line)
			}
		}
	})
	return p
}

func (p *process) cleanUp(tb testing.TB) {
	tb.Helper()
	if !p.running() {
		return
	}
	p.signal(tb, syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(stopLimit):
		tb.Errorf("process %d did not stop in %s\n%s", p.cmd.Process.Pid, stopLimit, p.stderr.tail())
		_ = p.cmd.Process.Kill() // it may have ended just now
		<-p.done
	}
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal sends a signal to the process's whole group, as a terminal does.
func (p *process) signal(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	if err := syscall.Kill(-p.cmd.Process.Pid, sig); err != nil && !errors.Is(err, syscall.ESRCH) {
		tb.Errorf("send %s: %v", sig, err)
	}
}

// wait waits for the end and returns the exit status, -1 after a signal.
func (p *process) wait(tb testing.TB) int {
	tb.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(stopLimit):
		tb.Fatalf("process %d is still there after %s\n%s", p.cmd.Process.Pid, stopLimit, p.stderr.tail())
		return -1
	}
}

// stop sends a signal and checks that the process ends by itself, without an error.
func (p *process) stop(tb testing.TB, sig syscall.Signal) {
	tb.Helper()
	p.signal(tb, sig)
	if code := p.wait(tb); code != 0 {
		tb.Errorf("exit status after %s = %d, want 0\nstdout:\n%s\nstderr:\n%s", sig, code, p.stdout.tail(), p.stderr.tail())
	}
}

// run runs the program to its end and returns its exit status and output.
func run(tb testing.TB, how launch) (code int, stdout, stderr string) {
	tb.Helper()
	p := start(tb, how)
	code = p.wait(tb)
	return code, p.stdout.String(), p.stderr.String()
}

// output collects what a process writes, and lets tests wait for a line of it.
type output struct {
	mu    sync.Mutex
	text  bytes.Buffer
	ended bool
	grown chan struct{} // closed at the next change; nil: nobody waits
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.wake()
	return o.text.Write(b)
}

func (o *output) end() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.wake()
}

func (o *output) wake() {
	if o.grown != nil {
		close(o.grown)
		o.grown = nil
	}
}

// String returns everything so far.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// tail is the end of it, for a failure's message.
func (o *output) tail() string {
	const most = 4000
	text := o.String()
	return text[max(0, len(text)-most):]
}

// await returns the first line that match accepts, or an error when the process
// ends or the time is up before there is one.
func (o *output) await(ctx context.Context, match func(line string) bool) (string, error) {
	for {
		o.mu.Lock()
		text, ended := o.text.String(), o.ended
		if o.grown == nil {
			o.grown = make(chan struct{})
		}
		grown := o.grown
		o.mu.Unlock()
		lines := bufio.NewReader(strings.NewReader(text))
		for {
			line, err := lines.ReadString('\n')
			if errors.Is(err, io.EOF) {
				break // half a line is none yet
			}
			if match(line) {
				return line, nil
			}
		}
		if ended {
			return "", errors.New("the process ended before")
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-grown:
		}
	}
}

// replica is a running `serve`.
type replica struct {
	*process
	origin string // http://127.0.0.1:port
}

// startServe runs `serve` on a port of its own, with the settings given, and waits
// until it takes requests.
func startServe(tb testing.TB, settings []string) *replica {
	tb.Helper()
	return startServeAt(tb, settings, "127.0.0.1:0")
}

func startServeAt(tb testing.TB, settings []string, address string) *replica {
	tb.Helper()
	return startVersion(tb, "", settings, address)
}

// startVersion is startServeAt with another program than this tree's.
func startVersion(tb testing.TB, program string, settings []string, address string) *replica {
	tb.Helper()
	// The last of two equal names counts.
	p := start(tb, launch{program: program, args: []string{"serve"}, env: append(slices.Clone(settings), "LISTEN_ADDR="+address)})
	ctx, cancel := context.WithTimeout(tb.Context(), startLimit)
	defer cancel()
	var record struct{ Msg, Listen string }
	_, err := p.stderr.await(ctx, func(line string) bool {
		return json.Unmarshal([]byte(line), &record) == nil && record.Msg == "serving"
	})
	if err != nil {
		tb.Fatalf("serve does not start: %v\n%s", err, p.stderr.tail())
	}
	return &replica{process: p, origin: "http://" + record.Listen}
}

// eventually looks until ok, where another process has to get somewhere.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	limit := time.NewTimer(callLimit)
	defer limit.Stop()
	pace := time.NewTicker(lookEvery)
	defer pace.Stop()
	for !ok() {
		select {
		case <-limit.C:
			tb.Fatalf("not in %s: %s", callLimit, what)
		case <-pace.C:
		}
	}
}
