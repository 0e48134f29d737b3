//go:build unix

package prisma_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
)

// pauseWorker is the first argument of the test's own binary when it is to be the process
// that is paused; the second is the token endpoint's address, the third where it stops.
const pauseWorker = "pause-worker"

// pauseLimit is Dial + TLS of the paused process, and pauseFor longer than that and its
// answer timeout together.
const (
	pauseLimit = 400 * time.Millisecond
	pauseFor   = 1500 * time.Millisecond
)

// TestPauseWorker is the paused process, and nothing in the test's own. It makes one
// exchange and says what came of it.
func TestPauseWorker(*testing.T) {
	if flag.Arg(0) != pauseWorker {
		return
	}
	stop := func() { // until the other process lets it go on
		began := now()
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
		for now().Sub(began) < pauseFor/2 { // the signal takes a moment, the clock goes on
			runtime.Gosched()
		}
	}
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if flag.Arg(2) == "dialled" {
			stop()
		} else {
			conn = &stopsOnceWritten{Conn: conn, stop: stop}
		}
		return conn, err
	}
	oauth, err := prisma.NewOAuth(prisma.OAuthConfig{
		AuthURL: flag.Arg(1), DialContext: dial,
		Timeouts: prisma.ExchangeTimeouts{Dial: pauseLimit / 2, TLS: pauseLimit / 2, Answer: time.Second},
	})
	if err == nil {
		_, err = oauth.Refresh(context.Background(), prisma.OAuthClient{ID: "c"}, "r1")
	}
	said := "answered"
	if failure, ok := errors.AsType[*prisma.TokenError](err); ok {
		said = failure.Class.String()
	}
	_, _ = fmt.Fprintln(os.Stdout, "said "+said)
	os.Exit(0)
}

// stopsOnceWritten is a connection that stops the process after its first write.
type stopsOnceWritten struct {
	net.Conn

	stop func()
	once atomic.Bool
}

func (c *stopsOnceWritten) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if !c.once.Swap(true) {
		c.stop()
	}
	return n, err
}

// paused runs the worker against a server, lets it stand still, and returns what it says
// and how many requests arrived.
func paused(t *testing.T, where string) (said string, arrived int32) {
	t.Helper()
	var requests atomic.Int32
	base := rawServer(t, func(c net.Conn) {
		if readRequest(bufio.NewReader(c)) != nil {
			return
		}
		requests.Add(1)
		answer := goodAnswer()
		_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(answer), answer)
	})
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestPauseWorker$", pauseWorker, base, where)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("the worker did not stop: %v, %v", status, err)
	}
	<-time.After(pauseFor) // the process must stand still longer than it may
	if err := cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "said "); ok {
			said = text
		}
	}
	_ = cmd.Wait()
	return said, requests.Load()
}

// TestPauseWhileDialling: a process that stood still between connecting and sending for
// longer than it may sends nothing any more, and knows that it did not.
func TestPauseWhileDialling(t *testing.T) {
	t.Parallel()
	for n := range 4 {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			if said, arrived := paused(t, "dialled"); said != "not_sent" || arrived != 0 {
				t.Errorf("%d requests arrived, and it says %q; want none and not_sent", arrived, said)
			}
		})
	}
}

// TestPauseWhileWaiting: an answer that came while the process stood still is read, though
// the time to wait for it is over.
func TestPauseWhileWaiting(t *testing.T) {
	t.Parallel()
	for n := range 4 {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			if said, arrived := paused(t, "written"); said != "answered" || arrived != 1 {
				t.Errorf("%d requests arrived, and it says %q; want one and the answer", arrived, said)
			}
		})
	}
}
