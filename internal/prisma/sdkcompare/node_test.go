package sdkcompare_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/nodetest"
)

func readTestdata(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// node is the process in which Prisma's SDK runs. It serves any number of scenarios at
// once.
type node struct {
	input io.WriteCloser

	mu        sync.Mutex
	next      int
	waiting   map[int]chan nodeAnswer
	contended map[string]chan struct{} // closed when the lock of that storage is waited for
	ended     error                    // not nil: no answer will come any more
}

// nodeAnswer is what testdata/driver.mjs sends.
type nodeAnswer struct {
	ID     int             `json:"id"`
	Result json.RawMessage `json:"result"`
	Error  *failure        `json:"error"`
	Event  string          `json:"event"`
	Name   string          `json:"name"`
}

// startNode starts the process; it ends with the test.
func startNode(t *testing.T) *node {
	t.Helper()
	n := &node{waiting: map[int]chan nodeAnswer{}, contended: map[string]chan struct{}{}}
	var output io.Reader
	process := nodetest.Start(t, nodetest.Installed(t, "testdata"), readTestdata(t, "driver.mjs"), func(cmd *exec.Cmd) (err error) {
		if output, err = cmd.StdoutPipe(); err != nil {
			return err
		}
		n.input, err = cmd.StdinPipe()
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.read(output)
	}()
	t.Cleanup(func() {
		defer process.Kill()
		n.input.Close() // the driver ends by itself
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			process.Kill()
			<-done
		}
		if err := process.Wait(); err != nil || process.Said.Len() > 0 {
			t.Errorf("node ended: %v\n%s", err, process.Said)
		}
	})
	return n
}

// read hands out answers until the process ends.
func (n *node) read(output io.Reader) {
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var answer nodeAnswer
		err := json.Unmarshal(lines.Bytes(), &answer)
		n.mu.Lock()
		switch {
		case err != nil:
			n.ended = err
		case answer.Event == "contended":
			closeOnce(n.contention(answer.Name))
		default:
			n.waiting[answer.ID] <- answer // has room for it
			delete(n.waiting, answer.ID)
		}
		n.mu.Unlock()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ended = errors.Join(errors.New("node has ended"), lines.Err())
	for _, waiting := range n.waiting {
		close(waiting)
	}
}

// contention returns the channel of a storage. n.mu must be held.
func (n *node) contention(storage string) chan struct{} {
	if n.contended[storage] == nil {
		n.contended[storage] = make(chan struct{})
	}
	return n.contended[storage]
}

// contends returns a channel that closes when a refresh waits for the storage's lock.
func (n *node) contends(storage string) <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.contention(storage)
}

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}

// ask sends a request and waits for its answer; when ctx ends, the request's AbortSignal
// is raised, and the answer waited for all the same, as somebody would who awaits the
// promise.
func (n *node) ask(ctx context.Context, t *testing.T, action string, args any, result any) *failure {
	t.Helper()
	id, answer := n.send(ctx, t, action, args)
	select {
	case got, ok := <-answer:
		return readAnswer(t, got, ok, result)
	case <-ctx.Done():
		n.ask(context.WithoutCancel(ctx), t, "abort", map[string]int{"target": id}, nil)
		if follow, ok := ctx.Value(traceKey{}).(*trace); ok {
			follow.request = id
			close(follow.aborted)
		}
		got, ok := <-answer
		return readAnswer(t, got, ok, result)
	}
}

// answered reports whether a request has its answer.
func (n *node) answered(id int) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.waiting[id] == nil
}

// send writes a request.
func (n *node) send(ctx context.Context, t *testing.T, action string, args any) (int, <-chan nodeAnswer) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	n.next++
	answer := make(chan nodeAnswer, 1)
	line, err := json.Marshal(map[string]any{"id": n.next, "action": action, "args": args, "aborted": ctx.Err() != nil})
	if err == nil {
		err = n.ended
	}
	if err == nil {
		n.waiting[n.next] = answer
		_, err = n.input.Write(append(line, '\n'))
	}
	if err != nil {
		delete(n.waiting, n.next)
		close(answer)
		t.Errorf("node: send a request: %v", err)
	}
	return n.next, answer
}

func readAnswer(t *testing.T, got nodeAnswer, ok bool, result any) *failure {
	t.Helper()
	if !ok {
		t.Error("node ended before it answered")
		return &failure{Kind: "NoAnswer"}
	}
	if got.Error != nil {
		return got.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(got.Result, result); err != nil {
		t.Errorf("node: read an answer: %v", err)
	}
	return nil
}
