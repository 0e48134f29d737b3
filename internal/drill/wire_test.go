package drill_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/drill"
)

// commit is how a client asks for a COMMIT, in Postgres's protocol.
const commit = "Q\x00\x00\x00\x0bcommit\x00"

// echo answers everything with itself and tells what it got.
func echo(t *testing.T) (address string, got <-chan string) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	heard := make(chan string, 10)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buffer := make([]byte, 1024)
				for {
					n, err := conn.Read(buffer)
					if err != nil {
						heard <- "end"
						return
					}
					heard <- string(buffer[:n])
					_, _ = conn.Write(buffer[:n])
				}
			}()
		}
	}()
	return listener.Addr().String(), heard
}

// ask sends a text over a new connection and returns the answer, "" when it is cut.
func ask(t *testing.T, address, text string) string {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(clock().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, len(text))
	if _, err := io.ReadFull(conn, answer); err != nil {
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			t.Fatal("neither an answer nor a cut")
		}
		return ""
	}
	return string(answer)
}

func TestWireCutsCommitsInTurn(t *testing.T) {
	t.Parallel()
	target, got := echo(t)
	w, err := drill.OpenWire(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	w.CutEvery(2)
	for i, step := range []struct{ send, answer, heard string }{
		{"select 1", "select 1", "select 1"},
		{commit, commit, commit}, // the first COMMIT is let through
		{commit, "", ""},         // the second is cut before
		{commit, commit, commit},
		{commit, "", commit}, // the fourth after
	} {
		if answer := ask(t, w.Address(), step.send); answer != step.answer {
			t.Errorf("step %d: answer %q, want %q", i, answer, step.answer)
		}
		var parts []string
		for text := range got {
			if text == "end" {
				break
			}
			parts = append(parts, text)
		}
		if heard := strings.Join(parts, ""); heard != step.heard {
			t.Errorf("step %d: the server heard %q, want %q", i, heard, step.heard)
		}
	}
	if w.Cuts() != 2 {
		t.Errorf("%d cuts, want 2", w.Cuts())
	}
}

func TestWireTellsThatTheServerIsGone(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	target := listener.Addr().String()
	_ = listener.Close()
	w, err := drill.OpenWire(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = w.Close() })
	if answer := ask(t, w.Address(), "select 1"); answer != "" {
		t.Errorf("an answer from nobody: %q", answer)
	}
}
