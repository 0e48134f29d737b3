package storagetest_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

// worker is one process of the kill test.
type worker struct {
	cmd  *exec.Cmd
	in   io.WriteCloser
	open int64 // the generation that it has claimed and not ended, 0: none

	done   bool // it has answered in this round
	doomed bool // it was killed
	gone   bool // it has ended, and all that it told was read
}

// event is what a worker told: a word and a generation or result; or "gone".
type event struct {
	worker     *worker
	what, rest string
}

func (e event) generation(t *testing.T) (generation int64) {
	t.Helper()
	if _, err := fmt.Sscan(e.rest, &generation); err != nil {
		t.Fatalf("a worker said %q %q", e.what, e.rest)
	}
	return generation
}

// start starts a worker.
func (k *killTest) start() *worker {
	k.Helper()
	cmd := exec.CommandContext(context.WithoutCancel(k.Context()), k.self, workerArg,
		k.path, k.server.URL, prismasimtest.ClientID, prismasimtest.ClientSecret)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	k.ok("make a pipe", err)
	// A pipe of our own: Wait would close one of cmd's with what is still in it.
	out, write, err := os.Pipe()
	k.ok("make a pipe", err)
	cmd.Stdout = write
	k.ok("start a worker", cmd.Start())
	k.ok("close the worker's end", write.Close())
	k.Cleanup(func() { _ = cmd.Process.Kill() }) // if the test fails on the way
	w := &worker{cmd: cmd, in: in}
	go func() {
		defer out.Close()
		for lines := bufio.NewScanner(out); lines.Scan(); {
			e := event{worker: w}
			if _, err := fmt.Sscan(lines.Text(), &e.what, &e.rest); err != nil {
				e.what = "unreadable"
			}
			k.events <- e
		}
		k.events <- event{worker: w, what: "gone"}
	}()
	return w
}

// want lets the worker ask for an access token, with the clock moved that far.
func (w *worker) want(t *testing.T, offset time.Duration) {
	t.Helper()
	w.done = false
	if _, err := fmt.Fprintln(w.in, int64(offset)); err != nil {
		t.Fatalf("tell a worker: %v", err)
	}
}

// fileLook is what a reader finds in the token file.
type fileLook struct {
	WorkspaceID  string `json:"workspaceId"`
	AccessToken  string `json:"accessToken"`
	RefreshToken string `json:"refreshToken"`
	Generation   int64  `json:"generation"`
	Ended        string `json:"ended"`
}

// readFile reads the token file as any program might.
func readFile(path string) (look fileLook, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return look, err
	}
	if info.Mode().Perm() != 0o600 {
		return look, fmt.Errorf("permissions %v", info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return look, err
	}
	if err := json.Unmarshal(text, &look); err != nil {
		return look, errors.New("not JSON") // without the text, which may hold a token
	}
	whole := look.WorkspaceID == prismasimtest.WorkspaceA && look.AccessToken != "" && look.RefreshToken != ""
	if ended := look.Ended != "" && look.AccessToken == "" && look.RefreshToken == ""; !whole && !ended {
		return look, errors.New("neither a whole pair nor none")
	}
	return look, nil
}

// readAlways reads the file all the time until stop: it is whole, its generation never
// goes back, and a generation is one pair.
func (k *killTest) readAlways() (stop func()) {
	quit := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		pairs := map[int64]string{}
		last := int64(0)
		pause := time.NewTicker(200 * time.Microsecond) // or it would have a core to itself
		defer pause.Stop()
		for {
			look, err := readFile(k.path)
			k.reads++
			if err != nil {
				k.Errorf("the token file: %v", err)
				return
			}
			if look.Generation < last {
				k.Errorf("generation %d after %d", look.Generation, last)
			}
			last = look.Generation
			if pair := look.AccessToken + " " + look.RefreshToken; look.Ended == "" {
				if known, ok := pairs[last]; ok && known != pair {
					k.Errorf("generation %d has two pairs", last)
				}
				pairs[last] = pair
			}
			select {
			case <-quit:
				return
			case <-pause.C:
			}
		}
	})
	return func() { close(quit); reading.Wait() }
}
