package processtest

import (
	"maps"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/pgtest"
)

// Installation is a service's environment, as an operator sets it.
type Installation struct {
	DB      *pgtest.Database
	Public  string // host:port that PUBLIC_URL names
	Values  map[string]string
	Program string // that runs the commands; "": this tree's
}

// NewInstallation returns settings that `serve` accepts, on a migrated database of
// the test's own and with secrets from `secrets generate`.
func NewInstallation(tb testing.TB) *Installation {
	tb.Helper()
	in := &Installation{DB: pgtest.Open(tb), Public: FixedPorts(tb).Service}
	in.Values = map[string]string{
		"DATABASE_URL": in.DB.AppURL, "ENVIRONMENT": "test", "PUBLIC_URL": "http://localhost:" + Port(tb, "http://"+in.Public),
		// Nobody listens there: none of these tests may reach Prisma.
		"PRISMA_API_URL": "http://127.0.0.1:1", "PRISMA_AUTH_URL": "http://127.0.0.1:1",
	}
	maps.Copy(in.Values, generateSecrets(tb))
	return in
}

// generateSecrets runs `secrets generate` and reads what it prints.
func generateSecrets(tb testing.TB) map[string]string {
	tb.Helper()
	code, stdout, stderr := Run(tb, Launch{Args: []string{"secrets", "generate"}})
	values := map[string]string{}
	for line := range strings.Lines(stdout) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		values[name] = value
	}
	if code != 0 || len(values) != 2 || values["COOKIE_KEYS"] == "" || values["TOKEN_KEYSET"] == "" {
		tb.Fatalf("secrets generate: exit status %d, %d settings\n%s", code, len(values), stderr)
	}
	return values
}

// With is the environment with some settings changed; "" takes one away.
func (in *Installation) With(changes map[string]string) []string {
	var env []string
	for _, from := range []map[string]string{in.Values, changes} {
		for name, value := range from {
			if changed, ok := changes[name]; ok {
				value = changed
			}
			if value != "" {
				env = append(env, name+"="+value)
			}
		}
	}
	return env
}

// Command runs one of the operator's commands, which has to succeed, and returns
// its standard output without the last line break.
func (in *Installation) Command(tb testing.TB, stdin string, args ...string) string {
	tb.Helper()
	code, stdout, stderr := Run(tb, Launch{Program: in.Program, Args: args, Env: in.With(nil), Stdin: stdin})
	if code != 0 {
		tb.Fatalf("%s: exit status %d\n%s%s", strings.Join(args[:min(2, len(args))], " "), code, stdout, stderr)
	}
	return strings.TrimSuffix(stdout, "\n")
}
