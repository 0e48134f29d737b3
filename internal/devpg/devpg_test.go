package devpg_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/connect-prisma/server/internal/devpg"
)

func TestRestartKeepsDataPortAndPassword(t *testing.T) {
	t.Parallel()
	dir := clusterDir(t)

	first := mustStart(t, devpg.Config{Dir: dir})
	exec1(t, first.URL("postgres"), `CREATE TABLE kept AS SELECT 'still here'::text AS v`)
	mustStop(t, first)
	if _, err := pgx.Connect(t.Context(), first.URL("postgres")); err == nil {
		t.Fatal("the server takes connections after Stop")
	}

	second := mustStart(t, devpg.Config{Dir: dir})
	if first.URL("postgres") != second.URL("postgres") || first.Port() != second.Port() {
		t.Error("the connection string changed over a restart")
	}
	if got := query(t, second.URL("postgres"), `SELECT v FROM kept`); got != "still here" {
		t.Errorf("row after restart = %q", got)
	}
}

func TestServerIsPrivate(t *testing.T) {
	t.Parallel()
	s := mustStart(t, devpg.Config{Dir: clusterDir(t)})
	for sql, want := range map[string]string{
		`SHOW listen_addresses`:        "127.0.0.1",
		`SHOW unix_socket_directories`: "",
		`SHOW password_encryption`:     "scram-sha-256",
		`SHOW fsync`:                   "on",
		`SHOW server_encoding`:         "UTF8",
		`SHOW timezone`:                "UTC",
		`SELECT string_agg(concat_ws(' ', type, array_to_string(database, ','), address, auth_method), ';') FROM pg_hba_file_rules`: "host all 127.0.0.1 scram-sha-256",
		`SELECT current_user::text`: "postgres",
	} {
		if got := query(t, s.URL("postgres"), sql); got != want {
			t.Errorf("%s = %q, want %q", sql, got, want)
		}
	}

	_, err := pgx.Connect(t.Context(), "postgres://postgres:wrong@127.0.0.1:"+strconv.Itoa(s.Port())+"/postgres?sslmode=disable")
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "28P01" {
		t.Errorf("connecting with a wrong password: %v, want SQLSTATE 28P01", err)
	}
	info, err := os.Stat(filepath.Join(s.Home(), "password"))
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != 0o600 {
		t.Errorf("mode of the password file = %o, want 600", got)
	}
}

func TestSecondStarterAttaches(t *testing.T) {
	t.Parallel()
	dir := clusterDir(t)

	// Both start at once, so that the second also has to wait for the first.
	servers := make([]*devpg.Server, 2)
	var wg sync.WaitGroup
	for i := range servers {
		wg.Go(func() {
			s, err := devpg.StartIn(t.Context(), devpg.Config{Dir: dir}, filepath.Join(filepath.Dir(dir), "fallback"))
			if err != nil {
				t.Errorf("Start() = %v", err)
				return
			}
			servers[i] = s
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	owner, guest := servers[0], servers[1]
	if guest.Owned() {
		owner, guest = guest, owner
	}
	t.Cleanup(func() { mustStop(t, owner) })
	if !owner.Owned() || guest.Owned() {
		t.Fatal("want one owner and one guest")
	}
	if owner.URL("x") != guest.URL("x") {
		t.Error("owner and guest have different URLs")
	}

	_, other := runHelper(t, lasting, dir, nil) // and from another process
	if other.Owned || other.URL != owner.URL("postgres") {
		t.Errorf("starter in another process: owned %t, same URL %t; want false, true", other.Owned, other.URL == owner.URL("postgres"))
	}

	mustStop(t, guest)
	if got := query(t, owner.URL("postgres"), `SELECT 'up'`); got != "up" {
		t.Errorf("after the guest's Stop: %q", got)
	}
}

func TestStopEndsClientsAndIgnoresADoneContext(t *testing.T) {
	t.Parallel()
	s := mustStart(t, devpg.Config{Dir: clusterDir(t)})
	conn := connect(t, s.URL("postgres"))
	if _, err := conn.Exec(t.Context(), `BEGIN`); err != nil {
		t.Fatal(err)
	}
	pid := s.Pid()

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Stop(ctx); err != nil {
		t.Fatalf("Stop() = %v", err)
	}
	if devpg.IsPostmaster(pid, s.Home()) {
		t.Error("the server runs after Stop")
	}
	if err := s.Stop(ctx); err != nil {
		t.Errorf("second Stop() = %v", err)
	}
}

func TestEphemeralLeavesNothing(t *testing.T) {
	t.Parallel()
	s := mustStart(t, devpg.Config{Dir: clusterDir(t), Ephemeral: true})
	if got := query(t, s.URL("postgres"), `SHOW fsync`); got != "off" {
		t.Errorf("fsync = %s, want off", got)
	}
	mustStop(t, s)
	if exists(s.Home()) {
		t.Error("the cluster's directory is there after Stop")
	}
}

func TestManyServersAtOnce(t *testing.T) {
	t.Parallel()
	ports := make([]int, 4)
	var wg sync.WaitGroup
	for i := range ports {
		dir := clusterDir(t)
		wg.Go(func() {
			s, err := devpg.StartIn(t.Context(), devpg.Config{Dir: dir, Ephemeral: true}, dir+"-fallback")
			if err != nil {
				t.Errorf("Start() = %v", err)
				return
			}
			ports[i] = s.Port()
			t.Cleanup(func() { mustStop(t, s) })
		})
	}
	wg.Wait()
	seen := map[int]bool{}
	for _, port := range ports {
		if seen[port] {
			t.Errorf("port %d twice", port)
		}
		seen[port] = true
	}
}

func TestOutputTakesTheLogWithoutSecrets(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var log bytes.Buffer
	s := mustStart(t, devpg.Config{Dir: clusterDir(t), Output: writerFunc(func(b []byte) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		return log.Write(b)
	})})
	conn := connect(t, s.URL("postgres"))
	for _, sql := range []string{
		`CREATE ROLE r PASSWORD 'canary-1' NONSENSE`,
		`DO $$ BEGIN RAISE 'it failed' USING DETAIL = 'canary-2'; END $$`,
		`CREATE TABLE u (v text UNIQUE); INSERT INTO u VALUES ('canary-3'), ('canary-3')`,
	} {
		if _, err := conn.Exec(t.Context(), sql); err == nil {
			t.Errorf("%s: no error", sql)
		}
	}
	password, err := os.ReadFile(filepath.Join(s.Home(), "password"))
	if err != nil {
		t.Fatal(err)
	}
	mustStop(t, s)

	mu.Lock()
	defer mu.Unlock()
	for _, want := range []string{"database system is ready", "it failed", "duplicate key"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q", want)
		}
	}
	if strings.Contains(log.String(), "canary-") || strings.Contains(log.String(), strings.TrimSpace(string(password))) {
		t.Error("the log holds a secret")
	}
}

func TestFailedStartTellsWhy(t *testing.T) {
	t.Parallel()
	dir := clusterDir(t)
	s := mustStart(t, devpg.Config{Dir: dir})
	home, port := s.Home(), s.Port()
	mustStop(t, s)

	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	_, err = devpg.Start(t.Context(), devpg.Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "port "+strconv.Itoa(port)+" of this cluster is in use") {
		t.Errorf("with the port taken: %v", err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}

	conf := filepath.Join(home, "data", "postgresql.conf")
	good, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	write(t, conf, "no_such_setting = 1\n")
	_, err = devpg.Start(t.Context(), devpg.Config{Dir: dir})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("with a broken configuration: %v; want the server's own words", err)
	}
	write(t, conf, string(good))

	again := mustStart(t, devpg.Config{Dir: dir}) // neither failure left a lock or a process
	if again.Port() != port {
		t.Errorf("port = %d, want the kept %d", again.Port(), port)
	}
}

func TestFindBinaries(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	install := func(name, version string, programs ...string) string {
		dir := filepath.Join(root, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for _, p := range programs {
			sh(t, `printf '#!/bin/sh\necho "postgres (PostgreSQL) %s"\n' "$2" >"$1" && chmod 755 "$1"`, filepath.Join(dir, p), version)
		}
		return dir
	}
	v9 := install("9", "9.6.24", "postgres", "initdb")
	v15 := install("15", "15.18 (Debian 15.18-0+deb12u1)", "postgres", "initdb")
	v18 := install("18", "18beta1", "postgres", "initdb")
	client := install("client", "99.1", "psql")
	half := install("half", "99.1", "postgres")
	all := []string{v15, v9, v18, client, half, filepath.Join(root, "missing")}

	tests := map[string]struct {
		dirs  []string
		major int
		want  string // "": ErrNotInstalled
	}{
		"newest":               {dirs: all, want: v18},
		"the cluster's own":    {dirs: all, major: 15, want: v15},
		"own major is missing": {dirs: all, major: 16},
		"only too old":         {dirs: []string{v9}},
		"incomplete":           {dirs: []string{client, half}},
		"nothing":              {},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := devpg.FindBinaries(t.Context(), tc.dirs, tc.major)
			if tc.want != "" {
				if err != nil || got != tc.want {
					t.Errorf("FindBinaries() = %q, %v; want %q", got, err, tc.want)
				}
				return
			}
			if !errors.Is(err, devpg.ErrNotInstalled) {
				t.Fatalf("FindBinaries() = %q, %v; want ErrNotInstalled", got, err)
			}
			for _, want := range []string{"apt-get install postgresql", "brew install", "DATABASE_URL"} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not name %q: %v", want, err)
				}
			}
		})
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// write replaces the text of a file and keeps its owner.
func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkStart tells what a start and its stop take: of a new cluster, and of one
// that is there.
func BenchmarkStart(b *testing.B) {
	run := func(b *testing.B, dir string) {
		b.Helper()
		s, err := devpg.StartIn(b.Context(), devpg.Config{Dir: dir}, dir+"-fallback")
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Stop(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	b.Run("first", func(b *testing.B) {
		base := openDir(b)
		for b.Loop() {
			run(b, filepath.Join(base, rand.Text()))
		}
	})
	b.Run("later", func(b *testing.B) {
		dir := filepath.Join(openDir(b), "pg")
		run(b, dir)
		for b.Loop() {
			run(b, dir)
		}
	})
}
