package httpapi_test

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/httpapi"
)

// pipes is a listener in memory.
type pipes struct {
	dialed chan net.Conn
	close  func()
	closed chan struct{}
}

func newPipes() *pipes {
	closed := make(chan struct{})
	return &pipes{dialed: make(chan net.Conn), closed: closed, close: sync.OnceFunc(func() { close(closed) })}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.dialed:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.close(); return nil }

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// dial returns the client's end once the server has accepted the other.
func (p *pipes) dial() net.Conn {
	ours, theirs := net.Pipe()
	p.dialed <- theirs
	return ours
}

// serving runs a server of ours on a listener in memory. Its handler reads the body.
func serving(t *testing.T) *pipes {
	t.Helper()
	server := httpapi.NewHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			w.WriteHeader(http.StatusBadRequest)
		}
	}), slog.New(slog.DiscardHandler))
	all := newPipes()
	ended := make(chan error)
	go func() { ended <- server.Serve(httpapi.LimitConnections(all)) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve() = %v", err)
		}
	})
	return all
}

// Who sends nothing, or too little, is cut off in time.
func TestSlowClientsAreCutOff(t *testing.T) {
	t.Parallel()
	const get = "GET / HTTP/1.1\r\nHost: a\r\n"
	const post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n"
	for name, tc := range map[string]struct {
		first string // sent at once
		drip  string // sent again each second
		after time.Duration
	}{
		"nothing at all":        {"", "", 10 * time.Second},
		"half a head":           {get, "", 10 * time.Second},
		"a head that drips":     {get + "X: ", "x", 10 * time.Second},
		"half a body":           {post + "{", "", 30 * time.Second},
		"a body that drips":     {post, "x", 30 * time.Second},
		"a chunk that drips":    {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\n", "x", 30 * time.Second},
		"nothing after the end": {get + "\r\n", "", 120 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				conn := serving(t).dial()
				began := time.Now() //nolint:forbidigo // the bubble's clock
				var sending sync.WaitGroup
				sending.Go(func() {
					_, err := io.Copy(conn, strings.NewReader(tc.first))
					for err == nil && tc.drip != "" {
						time.Sleep(time.Second) // of the bubble
						_, err = io.WriteString(conn, tc.drip)
					}
				})
				_, err := io.Copy(io.Discard, conn)
				took := time.Since(began)
				_ = conn.Close()
				sending.Wait()
				if err != nil || took < tc.after || took > tc.after+time.Second {
					t.Errorf("cut off after %s (%v), want %s", took, err, tc.after)
				}
			})
		})
	}
}

// A flood of connections that send nothing finds an end, and makes room within ten
// seconds.
func TestAFloodOfConnections(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		all := serving(t)
		for range httpapi.MaxConnections {
			defer all.dial().Close()
		}
		began := time.Now() //nolint:forbidigo // the bubble's clock
		one := all.dial()   // waits for its turn
		defer one.Close()
		if waited := time.Since(began); waited != 10*time.Second {
			t.Errorf("it waited for %s", waited)
		}
		go func() { _, _ = io.WriteString(one, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") }()
		if answer, err := io.ReadAll(one); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200 ") {
			t.Errorf("then it got %q, %v", answer, err)
		}
	})
}
