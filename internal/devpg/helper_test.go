package devpg_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/devpg"
)

// First arguments that turn the test binary into a process that runs a server; the
// second is its directory.
const (
	lasting   = "run-lasting-server"
	ephemeral = "run-ephemeral-server"
)

// ready is what such a process prints once its server runs.
type ready struct {
	URL   string `json:"url"`
	Home  string `json:"home"`
	Pid   int    `json:"pid"` // the postmaster's
	Owned bool   `json:"owned"`
}

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && (os.Args[1] == lasting || os.Args[1] == ephemeral) {
		if err := helper(os.Args[2], os.Args[1] == ephemeral); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// helper runs a server until SIGTERM.
func helper(dir string, forTests bool) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	s, err := devpg.StartIn(ctx, devpg.Config{Dir: dir, Ephemeral: forTests}, filepath.Join(filepath.Dir(dir), "fallback"))
	if err != nil {
		return err
	}
	out := ready{URL: s.URL("postgres"), Home: s.Home(), Pid: s.Pid(), Owned: s.Owned()}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		return err
	}
	<-ctx.Done()
	return s.Stop(context.WithoutCancel(ctx))
}

// runHelper starts the test binary as a process that runs a server, and returns
// when the server is ready. as nil: as this user. The process is ended with the
// test if it still runs.
func runHelper(t *testing.T, kind, dir string, as *syscall.Credential, env ...string) (*exec.Cmd, ready) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if as != nil {
		exe = copyFile(t, exe) // go test builds where other users may not look
	}
	cmd := exec.CommandContext(t.Context(), exe, kind, dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=/usr/bin:/bin"}, env...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Wait() }) // t.Context ends before
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatalf("the helper ended before its server was ready: %v", err)
	}
	var r ready
	if err := json.Unmarshal(line, &r); err != nil {
		t.Fatal(err)
	}
	return cmd, r
}

// copyFile returns a copy that every account can run.
func copyFile(t *testing.T, name string) string {
	t.Helper()
	to := filepath.Join(openDir(t), "helper")
	sh(t, `cp "$1" "$2" && chmod 755 "$2"`, name, to)
	return to
}

// sh runs a shell script. Files that are run later are written this way: while this
// process has one open for writing, a child forked by another test holds it open
// too, and running it fails with "text file busy".
func sh(t *testing.T, script string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", script, "sh"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// openDir returns a directory that every account can enter, as t.TempDir's is not.
func openDir(tb testing.TB) string {
	tb.Helper()
	dir := tb.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		if err := os.Chmod(d, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// clusterDir returns the path of a cluster that is not there yet.
func clusterDir(t *testing.T) string {
	t.Helper()
	return filepath.Join(openDir(t), "pg")
}

// mustStart starts a server that is stopped with the test if it still runs.
func mustStart(t *testing.T, cfg devpg.Config) *devpg.Server {
	t.Helper()
	s, err := devpg.StartIn(t.Context(), cfg, filepath.Join(filepath.Dir(cfg.Dir), "fallback"))
	if err != nil {
		t.Fatalf("Start() = %v", err)
	}
	t.Cleanup(func() { mustStop(t, s) })
	return s
}

func mustStop(t *testing.T, s *devpg.Server) {
	t.Helper()
	if err := s.Stop(context.WithoutCancel(t.Context())); err != nil {
		t.Errorf("Stop() = %v", err)
	}
}

// query returns the one text value of a query.
func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(t.Context())
	var got string
	if err := conn.QueryRow(t.Context(), sql).Scan(&got); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return got
}

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	return conn
}

func exec1(t *testing.T, url, sql string) {
	t.Helper()
	conn := connect(t, url)
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// eventually waits for something that another process does.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline.C:
			t.Fatalf("did not happen in 20 s: %s", what)
		case <-tick.C:
		}
	}
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}
