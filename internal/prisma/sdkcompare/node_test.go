package sdkcompare_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// needsNode is what to do when node or npm is missing. The test fails then: a comparison
// that did not take place proves nothing.
const needsNode = "this test runs Prisma's own SDK and needs Node.js 18 or newer with npm: " +
	"on Debian run .ci/packages node, elsewhere install it from your package manager (macOS: brew install node)"

// installed returns a directory whose node_modules hold the packages of
// testdata/package-lock.json, nothing else and at those versions. It is kept in the
// user's cache, under the fingerprint of the lock file, so that only the first run on a
// machine needs the npm registry.
func installed(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		t.Fatal(needsNode)
	}
	lock := readTestdata(t, "package-lock.json")
	sum := sha256.Sum256(lock)
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir() // no home directory
	}
	parent := filepath.Join(cache, "connect-prisma-sdkcompare")
	dir := filepath.Join(parent, hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		t.Fatalf("make the cache for npm packages: %v", err)
	}
	// Installed beside it and then renamed, so that one that exists is whole.
	building, err := os.MkdirTemp(parent, "building-") //nolint:usetesting // renamed below: it has to be on that disk
	if err != nil {
		t.Fatalf("make the cache for npm packages: %v", err)
	}
	defer os.RemoveAll(building)
	for name, content := range map[string][]byte{"package.json": readTestdata(t, "package.json"), "package-lock.json": lock} {
		if err := os.WriteFile(filepath.Join(building, name), content, 0o600); err != nil {
			t.Fatalf("copy %s: %v", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline",
		"--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000")
	npm.Dir = building
	if out, err := npm.CombinedOutput(); err != nil {
		t.Fatalf("install Prisma's SDK, which takes the npm registry the first time: npm ci: %v\n%s", err, out)
	}
	if err := os.Rename(building, dir); err != nil {
		if _, statErr := os.Stat(dir); statErr != nil { // another run was not quicker either
			t.Fatalf("keep the installed packages: %v", err)
		}
	}
	return dir
}

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
	input  io.WriteCloser
	stderr *bytes.Buffer // to be read when the process has ended

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
	if _, err := exec.LookPath("node"); err != nil {
		t.Fatal(needsNode)
	}
	n := &node{waiting: map[int]chan nodeAnswer{}, contended: map[string]chan struct{}{}, stderr: &bytes.Buffer{}}
	// As text on the command line it finds its packages below the working directory.
	ctx, kill := context.WithCancel(context.WithoutCancel(t.Context())) // ends after the test's clean-up
	command := exec.CommandContext(ctx, "node", "--input-type=module", "--eval", string(readTestdata(t, "driver.mjs")))
	command.Dir = installed(t)
	command.Stderr = n.stderr
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatalf("start node: %v", err)
	}
	if n.input, err = command.StdinPipe(); err != nil {
		t.Fatalf("start node: %v", err)
	}
	if err := command.Start(); err != nil {
		t.Fatalf("start node: %v", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.read(output)
	}()
	t.Cleanup(func() {
		defer kill()
		n.input.Close() // the driver ends by itself
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			kill()
			<-done
		}
		if err := command.Wait(); err != nil || n.stderr.Len() > 0 {
			t.Errorf("node ended: %v\n%s", err, n.stderr)
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
