package processtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"sync"
	"syscall"
	"testing"
)

// Server returns the path of the server program as it is in this tree, with the race
// detector if the tests have it. All test programs of a run share it: the first builds it,
// the others find it up to date. It is in bin/ of the repository, where `make clean`
// removes it.
func Server(tb testing.TB) string {
	tb.Helper()
	path, err := built()
	if err != nil {
		tb.Fatalf("build the server: %v", err)
	}
	return path
}

// built looks once in each test program.
//
//nolint:gochecknoglobals // one answer for all tests of a program
var built = sync.OnceValues(buildServer)

func buildServer() (path string, err error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, "bin", "processtest")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	path = filepath.Join(dir, "server")
	if raceEnabled() {
		path += "-race"
	}
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return "", err
	}
	defer lock.Close() // and with it goes the lock
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("wait for whoever builds it now: %w", err)
	}
	return path, Build(filepath.Join(root, "cmd", "server"), path)
}

// moduleRoot is the directory of go.mod: a test runs in that of its package.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		above := filepath.Dir(dir)
		if above == dir {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = above
	}
}

// Build builds the server whose sources are in a directory, unless it is up to date.
func Build(from, to string) error {
	// Without symbols: linking takes a third of the time, and the race detector
	// still names functions and lines. No other flag that the tests are not compiled with:
	// then what they have compiled is only linked here.
	args := []string{"build", "-ldflags=-s -w", "-o", to}
	if raceEnabled() {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, ".")...) //nolint:noctx // no test's context may end what all of them use
	cmd.Dir = from
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// raceEnabled tells whether this test program has the race detector.
func raceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, setting := range info.Settings {
		if setting.Key == "-race" {
			return setting.Value == "true"
		}
	}
	return false
}
