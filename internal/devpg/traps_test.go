package devpg_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/connect-prisma/server/internal/devpg"
)

// nobody is an ordinary user, when this process may become one.
func nobody() *syscall.Credential {
	if !devpg.IsRoot() {
		return nil // it is an ordinary user already
	}
	return &syscall.Credential{Uid: 65534, Gid: 65534}
}

func TestKilledParentLeavesNoServer(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{lasting, ephemeral} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			dir := clusterDir(t)
			cmd, r := runHelper(t, kind, dir, nil)
			exec1(t, r.URL, `CREATE TABLE kept AS SELECT 'still here'::text AS v`)
			if !devpg.IsPostmaster(r.Pid, r.Home) {
				t.Fatal("the server is not recognised as a postmaster of its directory")
			}
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the server ends after its parent was killed", func() bool { return !devpg.IsPostmaster(r.Pid, r.Home) })
			if kind == ephemeral {
				eventually(t, "the ephemeral directory goes", func() bool { return !exists(r.Home) })
				return
			}
			s := mustStart(t, devpg.Config{Dir: dir})
			if got := query(t, s.URL("postgres"), `SELECT v FROM kept`); got != "still here" {
				t.Errorf("row = %q", got)
			}
		})
	}
}

// At once after the kill the old server may still be there, which must not keep
// the new one from starting.
func TestStartRightAfterParentWasKilled(t *testing.T) {
	t.Parallel()
	dir := clusterDir(t)
	cmd, r := runHelper(t, lasting, dir, nil)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // its lock is free now
	s := mustStart(t, devpg.Config{Dir: dir})
	if !s.Owned() || s.Pid() == r.Pid {
		t.Errorf("owned = %t, pid = %d; want a new server", s.Owned(), s.Pid())
	}
}

// A server whose owner is gone but which was not told to end, as on systems
// without a parent-death signal.
func TestOrphanIsReplaced(t *testing.T) {
	t.Parallel()
	dir := clusterDir(t)
	s := mustStart(t, devpg.Config{Dir: dir})
	exec1(t, s.URL("postgres"), `CREATE TABLE kept AS SELECT 'still here'::text AS v`)
	if err := os.Remove(filepath.Join(s.Home(), "lock")); err != nil { // now nobody seems to own it
		t.Fatal(err)
	}
	again := mustStart(t, devpg.Config{Dir: dir})
	if got := query(t, again.URL("postgres"), `SELECT v FROM kept`); got != "still here" {
		t.Errorf("row = %q", got)
	}
	mustStop(t, s) // gone already, which is no error
}

func TestStalePidFile(t *testing.T) {
	t.Parallel()
	dir := clusterDir(t)
	s := mustStart(t, devpg.Config{Dir: dir})
	home, port := s.Home(), s.Port()
	mustStop(t, s)

	// Another program of the server's account has the old pid by now. Postgres
	// itself takes it for a running server and refuses to start.
	sleeper := exec.CommandContext(t.Context(), "sleep", "60")
	if info, err := os.Stat(filepath.Join(home, "data")); err != nil {
		t.Fatal(err)
	} else if st, ok := info.Sys().(*syscall.Stat_t); ok && devpg.IsRoot() {
		sleeper.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: st.Uid, Gid: st.Gid}}
	}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sleeper.Wait() }) // ended by its context

	pidFile := filepath.Join(home, "data", "postmaster.pid")
	for name, text := range map[string]string{
		"alive, another program": devpg.PidFile(sleeper.Process.Pid, home, port),
		"gone":                   devpg.PidFile(1<<22-1, home, port),
		"garbage":                "what\n",
		"empty":                  "",
	} {
		write(t, pidFile, text)
		if err := s.GiveTo(pidFile); err != nil {
			t.Fatal(err)
		}
		again := mustStart(t, devpg.Config{Dir: dir})
		if !again.Owned() {
			t.Errorf("%s: attached to a server that is not there", name)
		}
		mustStop(t, again)
	}
	if err := sleeper.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the other program was ended: %v", err)
	}
}

func TestKilledPostmaster(t *testing.T) {
	t.Parallel()
	dir := clusterDir(t)
	s := mustStart(t, devpg.Config{Dir: dir})
	exec1(t, s.URL("postgres"), `CREATE TABLE kept AS SELECT 'still here'::text AS v`)
	idle := connect(t, s.URL("postgres")) // its backend notices the death late
	defer idle.Close(t.Context())
	if err := syscall.Kill(s.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	mustStop(t, s) // gives the lock back
	again := mustStart(t, devpg.Config{Dir: dir})
	if got := query(t, again.URL("postgres"), `SELECT v FROM kept`); got != "still here" {
		t.Errorf("row after crash = %q", got)
	}
}

func TestHalfFinishedCluster(t *testing.T) {
	t.Parallel()
	dir := clusterDir(t)
	for _, name := range []string{"data/base/1", "data.init-123/base"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}

	// Given up in the middle of initdb.
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := devpg.Start(ctx, devpg.Config{Dir: dir})
		done <- err
	}()
	eventually(t, "initdb begins", func() bool {
		found, _ := filepath.Glob(filepath.Join(dir, "data.init-*", "postgresql.conf"))
		return len(found) > 0
	})
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Fatalf("Start() = %v, want context.Canceled", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "data*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}

	s := mustStart(t, devpg.Config{Dir: dir})
	if got := query(t, s.URL("postgres"), `SELECT 'up'`); got != "up" {
		t.Errorf("query = %q", got)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "data.init-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLongPathWithSpacesAndQuotes(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), strings.Repeat("long directory ", 12), `it's "quoted"`, strings.Repeat("x", 100))
	s := mustStart(t, devpg.Config{Dir: dir, Ephemeral: true})
	if s.Home() != dir {
		t.Errorf("home = %s", s.Home())
	}
	if got := query(t, s.URL("postgres"), `SELECT 'up'`); got != "up" {
		t.Errorf("query = %q", got)
	}
}

func TestHostileEnvironment(t *testing.T) {
	t.Parallel()
	_, r := runHelper(t, lasting, clusterDir(t), nil, "PGHOST=/nonexistent", "PGHOSTADDR=192.0.2.1", "PGPORT=1", "PGUSER=intruder",
		"PGPASSWORD=wrong", "PGPASSFILE=/nonexistent", "PGDATABASE=none", "PGDATA=/nonexistent", "PGOPTIONS=-c fsync=nonsense",
		"PGSSLMODE=verify-full", "PGSERVICE=none", "PGSERVICEFILE=/nonexistent", "PGTARGETSESSIONATTRS=read-only", "PGTZ=Mars/Base",
		"PGCLIENTENCODING=NONE", "LC_ALL=xx_XX.UTF-8", "LANG=xx_XX", "TZ=Mars/Base")
	if got := query(t, r.URL, `SELECT current_user || ' ' || current_setting('timezone')`); got != "postgres UTC" {
		t.Errorf("query = %q", got)
	}
}

func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	home := openDir(t)
	as := nobody()
	if as != nil {
		if err := os.Chown(home, int(as.Uid), int(as.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(home, ".dev", "postgres")
	cmd, r := runHelper(t, lasting, dir, as)
	if r.Home != dir || !r.Owned {
		t.Errorf("home = %s, owned = %t; want %s, true", r.Home, r.Owned, dir)
	}
	exec1(t, r.URL, `CREATE TABLE kept AS SELECT 'still here'::text AS v`)
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the server ends", func() bool { return !devpg.IsPostmaster(r.Pid, r.Home) })

	// Root goes on with the user's cluster, as that user.
	s := mustStart(t, devpg.Config{Dir: dir})
	if got := query(t, s.URL("postgres"), `SELECT v FROM kept`); got != "still here" {
		t.Errorf("row = %q", got)
	}
}

func startIn(t *testing.T, dir, fallback string) *devpg.Server {
	t.Helper()
	s, err := devpg.StartIn(t.Context(), devpg.Config{Dir: dir}, fallback)
	if err != nil {
		t.Fatalf("Start() = %v", err)
	}
	t.Cleanup(func() { mustStop(t, s) })
	return s
}

func TestDirectoryThatTheServerCannotEnter(t *testing.T) {
	t.Parallel()
	base := openDir(t)
	private := filepath.Join(base, "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, fallback := filepath.Join(private, "pg"), filepath.Join(base, "system")

	start := func() *devpg.Server { return startIn(t, dir, fallback) }
	first := start()
	want := dir
	if devpg.IsRoot() {
		want = fallback
	}
	if !strings.HasPrefix(first.Home(), want) {
		t.Fatalf("home = %s, want it below %s", first.Home(), want)
	}
	mustStop(t, first)

	// Data made there is not forgotten when the directory opens up later.
	if err := os.Chmod(private, 0o755); err != nil {
		t.Fatal(err)
	}
	if again := start(); again.Home() != first.Home() {
		t.Errorf("home after chmod = %s, want %s", again.Home(), first.Home())
	}
}

// TestRemovedDirectoryBeginsAnew: wherever the cluster lies, removing the directory removes
// the data, because whoever does so loses the keys to it as well.
func TestRemovedDirectoryBeginsAnew(t *testing.T) {
	t.Parallel()
	base := openDir(t)
	private := filepath.Join(base, "private")
	if err := os.Mkdir(private, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, fallback := filepath.Join(private, "pg"), filepath.Join(base, "system")
	start := func() *devpg.Server { return startIn(t, dir, fallback) }
	const tables = `SELECT count(*)::text FROM pg_tables WHERE tablename = 'kept'`

	first := start()
	exec1(t, first.URL("postgres"), `CREATE TABLE kept (id int)`)
	mustStop(t, first)
	again := start()
	if got := query(t, again.URL("postgres"), tables); got != "1" {
		t.Fatalf("%s tables after another start, want 1", got)
	}
	mustStop(t, again)

	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	anew := start()
	if got := query(t, anew.URL("postgres"), tables); got != "0" {
		t.Errorf("%s tables after the directory was removed, want 0", got)
	}
	mustStop(t, anew)
	if last := start(); last.Home() != anew.Home() {
		t.Errorf("home = %s, want %s", last.Home(), anew.Home())
	}
}

// TestInterruptedSearch: whoever ends a start early is not told to install something.
func TestInterruptedSearch(t *testing.T) {
	t.Parallel()
	dir, err := devpg.FindBinaries(t.Context(), devpg.InstalledIn(), 0)
	if err != nil {
		t.Fatalf("FindBinaries() = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = devpg.FindBinaries(ctx, []string{dir}, 0)
	if !errors.Is(err, context.Canceled) || errors.Is(err, devpg.ErrNotInstalled) {
		t.Errorf("FindBinaries() = %v, want the context's end alone", err)
	}
}
