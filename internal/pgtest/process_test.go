package pgtest_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/devpg"
	"github.com/connect-prisma/server/internal/pgtest"
)

// askEngine as the first argument makes the test binary say whether a Docker engine
// answers: the library looks it up once in a process.
const askEngine = "ask-engine"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == askEngine {
		if err := pgtest.EngineAnswers(context.Background()); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runTests runs tests of this package in another process and returns what it said.
func runTests(t *testing.T, pattern string, env ...string) (string, error) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.v", "-test.run", pattern)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// freshServer returns the URL of a server that no test has used.
func freshServer(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := devpg.Start(t.Context(), devpg.Config{Dir: filepath.Join(dir, "pg"), Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return s.URL("postgres")
}

func TestManyProcessesShareAServer(t *testing.T) {
	t.Parallel()
	url := freshServer(t)
	old := "connect_test_" + "sgk7k0" + "_killed" // 2023
	young := fmt.Sprintf("connect_test_%s_running", base36(time.Now()))
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	for _, name := range []string{old, young, "connect_template_building_killed", "precious"} {
		if _, err := conn.Exec(t.Context(), `CREATE DATABASE `+name); err != nil {
			t.Fatal(err)
		}
	}

	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			out, err := runTests(t, "TestOpenIs|TestDatabases|TestOpenEmpty", pgtest.EnvURL+"="+url)
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()

	rows, err := conn.Query(t.Context(), `SELECT datname FROM pg_database WHERE datname NOT LIKE 'template_' ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	template, err := pgtest.Template()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{template, young, "postgres", "precious"}
	slices.Sort(want)
	slices.Sort(left)
	if !slices.Equal(left, want) {
		t.Errorf("databases afterwards = %q, want %q", left, want)
	}
}

func base36(at time.Time) string {
	const digits = "0123456789abcdefghijklmnopqrstuvwxyz"
	var out []byte
	for n := at.Unix(); n > 0; n /= 36 {
		out = append([]byte{digits[n%36]}, out...)
	}
	return string(out)
}

func TestUnusableServerFailsTheTest(t *testing.T) {
	t.Parallel()
	url := freshServer(t)
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `CREATE ROLE plain LOGIN PASSWORD 'canary'`); err != nil {
		t.Fatal(err)
	}
	at := url[strings.Index(url, "@"):]

	for name, tc := range map[string]struct{ url, want string }{
		"not a URL":       {"host=127.0.0.1 password=canary", "not of the form postgres://"},
		"a broken URL":    {"postgres://u:canary@127.0.0.1:port/x", "not of the form postgres://"},
		"nobody listens":  {"postgres://u:canary@127.0.0.1:1/x", "connect to the test server"},
		"not a superuser": {"postgres://plain:canary" + at, "must be a superuser"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, err := runTests(t, "TestOpenEmpty", pgtest.EnvURL+"="+tc.url)
			if err == nil || !strings.Contains(out, "--- FAIL: TestOpenEmpty") || !strings.Contains(out, tc.want) {
				t.Errorf("want a failed test that says %q, got %v:\n%s", tc.want, err, out)
			}
			if strings.Contains(out, "canary") {
				t.Errorf("the password is in the output:\n%s", out)
			}
		})
	}
}

func TestEngineAnswers(t *testing.T) {
	t.Parallel()
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.47")
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/_ping") {
			fmt.Fprint(w, "OK")
			return
		}
		fmt.Fprint(w, `{"ID": "fake", "ServerVersion": "27.0", "OSType": "linux"}`)
	}))
	t.Cleanup(engine.Close)
	deaf := httptest.NewServer(http.NotFoundHandler())
	deaf.Close()

	for name, tc := range map[string]struct {
		server *httptest.Server
		want   bool
	}{
		"an engine":      {engine, true},
		"nobody listens": {deaf, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), exe, askEngine)
			cmd.Env = []string{"HOME=" + t.TempDir(), "DOCKER_HOST=tcp://" + tc.server.Listener.Addr().String()}
			out, err := cmd.CombinedOutput()
			if (err == nil) != tc.want {
				t.Errorf("engine answers = %t, want %t: %s", err == nil, tc.want, out)
			}
		})
	}
}
