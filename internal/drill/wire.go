package drill

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
)

// wire stands between the replicas and Postgres and cuts connections at their COMMITs:
// in turn before the server gets it, and when it has committed and its answer is on the
// way. A client can't tell the two apart.
type wire struct {
	target   string
	listener net.Listener

	mu      sync.Mutex
	open    map[net.Conn]bool
	closed  bool
	every   int // cut each so many COMMITs; 0: none
	commits int
	cuts    int
	links   sync.WaitGroup
}

// openWire listens on a port of its own.
func openWire(ctx context.Context, target string) (*wire, error) {
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for Postgres: %w", err)
	}
	w := &wire{target: target, listener: listener, open: make(map[net.Conn]bool)}
	w.links.Go(func() { w.accept(ctx) })
	return w, nil
}

func (w *wire) address() string { return w.listener.Addr().String() }

// cutEvery cuts each so many COMMITs from now on; 0 ends it.
func (w *wire) cutEvery(commits int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.every, w.commits = commits, 0
}

// count is how many were cut so far.
func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cuts
}

// close ends the wire and all that runs over it.
func (w *wire) close() error {
	w.mu.Lock()
	w.closed = true
	for conn := range w.open {
		_ = conn.Close() // nobody is left to care
	}
	w.mu.Unlock()
	err := w.listener.Close()
	w.links.Wait()
	return err
}

func (w *wire) accept(ctx context.Context) {
	for {
		client, err := w.listener.Accept()
		if err != nil {
			return // closed
		}
		w.links.Go(func() { w.link(ctx, client) })
	}
}

// keep registers a connection; false means that the wire is closed.
func (w *wire) keep(conn net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false
	}
	w.open[conn] = true
	return true
}

func (w *wire) drop(conn net.Conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, conn)
	_ = conn.Close() // may be closed already
}

// link carries one connection until either end is gone.
func (w *wire) link(ctx context.Context, client net.Conn) {
	defer w.drop(client)
	server, err := (&net.Dialer{}).DialContext(ctx, "tcp", w.target)
	if err != nil {
		return // Postgres is down, and so the client is told
	}
	defer w.drop(server)
	if !w.keep(client) || !w.keep(server) {
		return
	}
	var swallow atomic.Bool // the server's next answer is lost
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer client.Close()
		_ = pump(client, server, func([]byte) bool { return !swallow.Load() })
	}()
	_ = pump(server, client, func(b []byte) bool {
		if !bytes.Contains(b, []byte("commit\x00")) {
			return true
		}
		cut, after := w.next()
		if cut && after {
			swallow.Store(true)
		}
		return !cut || after
	})
	if swallow.Load() {
		<-done // the server has to be heard: it commits
	}
	_ = server.Close()
	_ = client.Close()
	<-done
}

// next counts a COMMIT and says whether it is cut, and whether after it happened.
func (w *wire) next() (cut, after bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.commits++
	if w.every == 0 || w.commits%w.every != 0 {
		return false, false
	}
	w.cuts++
	return true, w.cuts%2 == 0
}

// errCut ends a pump whose bytes were not let through.
var errCut = errors.New("cut")

// pump copies until an end is gone or pass refuses.
func pump(to, from net.Conn, pass func([]byte) bool) error {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !pass(buffer[:n]) {
				return errCut
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
}
