package main_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"sync"
	"testing"
)

// These tests know the server as its users do: as a program with arguments, an
// environment, HTTP on its ports and signals. It is built once for all of them,
// with the race detector if the tests have it.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		if err := os.RemoveAll(built.dir); err != nil {
			fmt.Fprintln(os.Stderr, "remove the built server:", err)
			code = max(code, 1)
		}
	}
	os.Exit(code)
}

// serverBinary returns the path of the built program, which every account of the
// machine may run.
func serverBinary(tb testing.TB) string {
	tb.Helper()
	built.once.Do(func() { built.err = buildServer() })
	if built.err != nil {
		tb.Fatalf("build the server: %v", built.err)
	}
	return built.path
}

func buildServer() error {
	var err error
	if built.dir, err = os.MkdirTemp("", "connect-prisma-binary-"); err != nil {
		return err
	}
	if err := os.Chmod(built.dir, 0o755); err != nil {
		return err
	}
	built.path = filepath.Join(built.dir, "server")
	return goBuild(".", built.path)
}

// goBuild builds the server in a directory of its sources.
func goBuild(from, to string) error {
	// Without symbols: linking takes a third of the time, and the race detector
	// still names functions and lines.
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
