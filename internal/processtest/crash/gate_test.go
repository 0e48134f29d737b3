package crash_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/processtest"
)

// gate is a way to the token endpoint on which nobody takes a connection while it is
// closed: whoever dials waits, and has sent nothing.
type gate struct {
	url      string
	listener *net.TCPListener
	ended    chan struct{} // the loop that takes connections has
	filled   []net.Conn
}

func newGate(t *testing.T) *gate {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	must(err)
	file := os.NewFile(uintptr(fd), "gate")
	defer file.Close() // the listener has a copy
	must(syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(syscall.Listen(fd, 0)) // next to nobody waits in the kernel's line
	listener, err := net.FileListener(file)
	must(err)
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		t.Fatalf("the listener is a %T", listener)
	}
	t.Cleanup(func() { _ = tcp.Close() })
	return &gate{url: "http://" + tcp.Addr().String(), listener: tcp}
}

// open takes connections and leads them to a URL.
func (g *gate) open(t *testing.T, to string) {
	t.Helper()
	to = "127.0.0.1:" + processtest.Port(t, to)
	for _, conn := range g.filled {
		_ = conn.Close()
	}
	g.filled = nil
	if err := g.listener.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	g.ended = make(chan struct{})
	go func() {
		defer close(g.ended)
		for {
			conn, err := g.listener.Accept()
			if err != nil {
				return
			}
			go lead(context.WithoutCancel(t.Context()), conn, to)
		}
	}()
}

func lead(ctx context.Context, from net.Conn, address string) {
	defer from.Close()
	to, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return
	}
	defer to.Close()
	go func() {
		_, _ = io.Copy(to, from) // either side may end it
		_ = to.Close()
	}()
	_, _ = io.Copy(from, to)
}

// close takes no connection any more, and fills the kernel's line so that nobody gets in.
func (g *gate) close(t *testing.T) {
	t.Helper()
	if err := g.listener.SetDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	<-g.ended
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", g.listener.Addr().String())
		cancel()
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		g.filled = append(g.filled, conn)
	}
}
