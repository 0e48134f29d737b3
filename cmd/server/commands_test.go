package main_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/connect-prisma/server/internal/pgtest"
)

// installation is a service's environment, as an operator sets it.
type installation struct {
	db      *pgtest.Database
	public  string // host:port that PUBLIC_URL names
	values  map[string]string
	program string // that runs the commands; "": this tree's
}

// newInstallation returns settings that `serve` accepts, on a migrated database of
// the test's own and with secrets from `secrets generate`.
func newInstallation(tb testing.TB) *installation {
	tb.Helper()
	in := &installation{db: pgtest.Open(tb), public: fixedPorts(tb).service}
	in.values = map[string]string{
		"DATABASE_URL": in.db.AppURL, "ENVIRONMENT": "test", "PUBLIC_URL": "http://localhost:" + port(tb, "http://"+in.public),
		// Nobody listens there: none of these tests may reach Prisma.
		"PRISMA_API_URL": "http://127.0.0.1:1", "PRISMA_AUTH_URL": "http://127.0.0.1:1",
	}
	maps.Copy(in.values, generateSecrets(tb))
	return in
}

// generateSecrets runs `secrets generate` and reads what it prints.
func generateSecrets(tb testing.TB) map[string]string {
	tb.Helper()
	code, stdout, stderr := run(tb, launch{args: []string{"secrets", "generate"}})
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

// with is the environment with some settings changed; "" takes one away.
func (in *installation) with(changes map[string]string) []string {
	var env []string
	for _, from := range []map[string]string{in.values, changes} {
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

// command runs one of the operator's commands, which has to succeed, and returns
// its standard output without the last line break.
func (in *installation) command(tb testing.TB, stdin string, args ...string) string {
	tb.Helper()
	code, stdout, stderr := run(tb, launch{program: in.program, args: args, env: in.with(nil), stdin: stdin})
	if code != 0 {
		tb.Fatalf("%s: exit status %d\n%s%s", strings.Join(args[:min(2, len(args))], " "), code, stdout, stderr)
	}
	return strings.TrimSuffix(stdout, "\n")
}

// TestOperatorCommands runs the commands of an operator against the database of a
// running service.
func TestOperatorCommands(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	r := startServeAt(t, in.with(nil), in.public)

	const secret = "the-client-secret-from-stdin"
	tenant := in.command(t, secret+"\n", "tenant", "create", "--name", "Acme", "--client-id", "acme-client", "--client-secret-stdin",
		"--return-url", "https://acme.example/callback")
	if !regexp.MustCompile(`^ten_[a-z2-7]+$`).MatchString(tenant) {
		t.Fatalf("tenant create prints %q, want the id alone", tenant)
	}
	in.command(t, "a-service-token\n", "tenant", "set", tenant, "--name", "Acme Inc", "--completion", "automatic", "--service-token-stdin")
	list := in.command(t, "", "tenant", "list")
	if !strings.Contains(list, tenant) || !strings.Contains(list, "Acme Inc") || !strings.Contains(list, "acme-client") || strings.Contains(list, secret) {
		t.Errorf("tenant list:\n%s", list)
	}

	key := in.command(t, "", "key", "create", tenant, "--name", "backend")
	if !strings.HasPrefix(key, "cpk_") || strings.ContainsAny(key, " \n") {
		t.Fatal("key create prints something else than the key alone")
	}
	other := in.command(t, "", "key", "create", tenant, "--name", "other", "--for", "24h")
	keys := in.command(t, "", "key", "list", tenant)
	if strings.Contains(keys, key) || strings.Contains(keys, other) {
		t.Error("key list prints a key")
	}
	id := regexp.MustCompile(`(?m)^(key_[a-z2-7]+)\s+backend\s`).FindStringSubmatch(keys)
	if id == nil {
		t.Fatalf("key list:\n%s", keys)
	}
	if got := r.status(t, key); got != http.StatusOK {
		t.Errorf("with a new key: status %d, want 200", got)
	}
	for name, form := range map[string]string{
		"backend": `live\s+never\s+[0-9-]+ [0-9:]+\s+-`,
		"other":   `live\s+[0-9-]+ [0-9:]+\s+never\s+-`,
	} {
		keys := in.command(t, "", "key", "list", tenant)
		if !regexp.MustCompile(`(?m)^key_[a-z2-7]+\s+` + name + `\s.*\s` + form + `$`).MatchString(keys) {
			t.Errorf("key list does not show the end and the last use of %s:\n%s", name, keys)
		}
	}
	in.command(t, "", "tenant", "set", tenant, "--requests-per-second", "75", "--calls-at-once", "30")
	if list := in.command(t, "", "tenant", "list"); !regexp.MustCompile(`\s75\s`).MatchString(list) {
		t.Errorf("tenant list does not show the limit:\n%s", list)
	}
	code, _, stderr := run(t, launch{args: []string{"tenant", "set", tenant, "--burst", "3"}, env: in.with(nil)})
	if code != 1 || !strings.Contains(stderr, "burst") {
		t.Errorf("a burst below the rate: exit status %d\n%s", code, stderr)
	}
	in.command(t, "", "key", "revoke", tenant, id[1])
	eventually(t, "the revoked key is refused", func() bool { return r.status(t, key) == http.StatusUnauthorized })
	if got := r.status(t, other); got != http.StatusOK {
		t.Errorf("with the other key: status %d, want 200", got)
	}
	if keys := in.command(t, "", "key", "list", tenant); !regexp.MustCompile(`(?m)^` + id[1] + `\s.*\srevoked\s`).MatchString(keys) {
		t.Errorf("key list after the revocation:\n%s", keys)
	}
	in.command(t, "", "tenant", "set", tenant, "--pause")
	eventually(t, "a paused tenant's key is refused", func() bool { return r.status(t, other) != http.StatusOK })

	admins(t, in)
	r.stop(t, syscall.SIGTERM)
	for _, told := range []string{secret, key, other, "a-service-token"} {
		if strings.Contains(r.stderr.String(), told) {
			t.Error("the service's log has a secret of the commands")
		}
	}
}

// status is how the API answers a key.
func (r *replica) status(tb testing.TB, key string) int {
	tb.Helper()
	status, _ := sendJSON(tb, http.MethodGet, r.origin+"/v1/connections", key, nil)
	return status
}

// admins makes an admin, signs in with the printed password, and after a reset with
// the new one only.
func admins(t *testing.T, in *installation) {
	t.Helper()
	const email = "root@acme.example"
	first := in.command(t, "", "admin", "create", email)
	b := newCookieBrowser()
	if !in.signIn(t, b, email, first) {
		t.Error("the first password does not sign in")
	}
	second := in.command(t, "", "admin", "reset", email)
	if first == second || len(second) < 20 {
		t.Error("the reset's password is the old one, or short")
	}
	if page := b.get(t, in.values["PUBLIC_URL"]+"/admin"); page.status == http.StatusOK {
		t.Error("the session from before the reset still works")
	}
	if in.signIn(t, newCookieBrowser(), email, first) {
		t.Error("the old password still signs in")
	}
	if !in.signIn(t, newCookieBrowser(), email, second) {
		t.Error("the new password does not sign in")
	}
	code, _, stderr := run(t, launch{args: []string{"admin", "create", email}, env: in.with(nil)})
	if code != 1 || !strings.Contains(stderr, "server admin reset") {
		t.Errorf("admin create of one that is there: exit status %d\n%s", code, stderr)
	}
}

// signIn sends the dashboard's form and tells whether the dashboard then opens.
func (in *installation) signIn(tb testing.TB, b *cookieBrowser, email, password string) bool {
	tb.Helper()
	page := b.get(tb, in.values["PUBLIC_URL"]+"/admin/sign-in")
	b.submit(tb, page, "form#sign-in", url.Values{"email": {email}, "password": {password}})
	return b.get(tb, in.values["PUBLIC_URL"]+"/admin").status == http.StatusOK
}

// TestMigrate brings an empty database up with three migrate at once, then again
// with one, and serves from it.
func TestMigrate(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	empty := pgtest.OpenEmpty(t)
	env := in.with(map[string]string{"DATABASE_URL": empty.AppURL, "MIGRATE_DATABASE_URL": empty.OwnerURL})

	code, _, stderr := run(t, launch{args: []string{"serve"}, env: env})
	checkRefusal(t, code, stderr, "server migrate")

	var wg sync.WaitGroup
	for range 3 {
		p := start(t, launch{args: []string{"migrate"}, env: env})
		wg.Go(func() { <-p.done })
		t.Cleanup(func() {
			if code := p.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("one of three migrate at once: exit status %d\n%s", code, p.stderr.tail())
			}
		})
	}
	wg.Wait()
	code, stdout, stderr := run(t, launch{args: []string{"migrate"}, env: env})
	if code != 0 || !strings.HasPrefix(stdout, "The database is at schema version ") {
		t.Errorf("migrate again: exit status %d\n%s%s", code, stdout, stderr)
	}
	other := append(env, "ENVIRONMENT=production")
	if code, _, stderr := run(t, launch{args: []string{"migrate"}, env: other}); code != 1 || !strings.Contains(stderr, "environment") {
		t.Errorf("migrate for another environment: exit status %d\n%s", code, stderr)
	}
	startServe(t, env).stop(t, syscall.SIGTERM)
}

// TestSecretFiles gives every secret as a file.
func TestSecretFiles(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	changes := map[string]string{}
	for _, name := range []string{"DATABASE_URL", "COOKIE_KEYS", "TOKEN_KEYSET"} {
		file := filepath.Join(t.TempDir(), strings.ToLower(name))
		if err := os.WriteFile(file, []byte(in.values[name]+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		changes[name], changes[name+"_FILE"] = "", file
	}
	startServe(t, in.with(changes)).stop(t, syscall.SIGTERM)

	code, _, stderr := run(t, launch{args: []string{"serve"}, env: append(in.with(changes), "COOKIE_KEYS="+in.values["COOKIE_KEYS"])})
	checkRefusal(t, code, stderr, "COOKIE_KEYS and COOKIE_KEYS_FILE")
	changes["TOKEN_KEYSET_FILE"] = filepath.Join(t.TempDir(), "missing")
	code, _, stderr = run(t, launch{args: []string{"serve"}, env: in.with(changes)})
	checkRefusal(t, code, stderr, "TOKEN_KEYSET_FILE")
}

// checkRefusal wants exit status 1 and one line that has the words.
func checkRefusal(tb testing.TB, code int, stderr string, words ...string) {
	tb.Helper()
	line, rest, ended := strings.Cut(stderr, "\n")
	if code != 1 || !strings.HasPrefix(line, "server: ") || rest != "" || !ended {
		tb.Errorf("exit status %d and this on standard error, want 1 and one line:\n%s", code, stderr)
	}
	for _, word := range words {
		if !strings.Contains(line, word) {
			tb.Errorf("the refusal does not say %q:\n%s", word, stderr)
		}
	}
}

// TestServeRefuses starts the service with one thing wrong.
func TestServeRefuses(t *testing.T) {
	t.Parallel()
	in := newInstallation(t)
	old := outdatedDatabase(t)
	tests := map[string]struct {
		changes map[string]string
		words   []string
	}{
		"no DATABASE_URL":         {map[string]string{"DATABASE_URL": ""}, []string{"DATABASE_URL is not set"}},
		"no ENVIRONMENT":          {map[string]string{"ENVIRONMENT": ""}, []string{"ENVIRONMENT is not set"}},
		"no PUBLIC_URL":           {map[string]string{"PUBLIC_URL": ""}, []string{"PUBLIC_URL is not set"}},
		"no COOKIE_KEYS":          {map[string]string{"COOKIE_KEYS": ""}, []string{"COOKIE_KEYS is not set", "server secrets generate"}},
		"no TOKEN_KEYSET":         {map[string]string{"TOKEN_KEYSET": ""}, []string{"TOKEN_KEYSET is not set", "server secrets generate"}},
		"superuser":               {map[string]string{"DATABASE_URL": in.db.AdminURL}, []string{"superuser", "connect_app"}},
		"owner":                   {map[string]string{"DATABASE_URL": in.db.OwnerURL}, []string{"owns", "connect_app"}},
		"schema too old":          {map[string]string{"DATABASE_URL": old.AppURL}, []string{"older", "server migrate"}},
		"another environment":     {map[string]string{"ENVIRONMENT": "development"}, []string{"ENVIRONMENT", `"test"`}},
		"endless drain delay":     {map[string]string{"DRAIN_DELAY": "2m"}, []string{"DRAIN_DELAY", "1m"}},
		"negative drain delay":    {map[string]string{"DRAIN_DELAY": "-1s"}, []string{"DRAIN_DELAY"}},
		"drain delay of no unit":  {map[string]string{"DRAIN_DELAY": "5"}, []string{"DRAIN_DELAY"}},
		"lease too short":         {map[string]string{"REFRESH_LEASE": "60s"}, []string{"REFRESH_*", "longer than the lease of 1m0s"}},
		"answer of no unit":       {map[string]string{"REFRESH_ANSWER": "60"}, []string{"REFRESH_ANSWER must be a duration such as 5s"}},
		"half an exchange":        {map[string]string{"REFRESH_EXCHANGES": "0.5"}, []string{"REFRESH_EXCHANGES must be a whole number"}},
		"no exchanges":            {map[string]string{"REFRESH_EXCHANGES": "0"}, []string{"REFRESH_EXCHANGES must be above 0"}},
		"share of no number":      {map[string]string{"REFRESH_FROM": "early"}, []string{"REFRESH_FROM must be a number"}},
		"leeway of a day":         {map[string]string{"REFRESH_LEEWAY": "24h"}, []string{"REFRESH_LEEWAY", "1h"}},
		"kept alive too late":     {map[string]string{"REFRESH_KEEP_ALIVE": "2160h"}, []string{"REFRESH_KEEP_ALIVE", "1920h"}},
		"wrong password":          {map[string]string{"DATABASE_URL": otherPassword(t, in.db.AppURL)}, []string{"DATABASE_URL", "password"}},
		"no database there":       {map[string]string{"DATABASE_URL": "postgres://connect_app:x@127.0.0.1:1/none"}, []string{"DATABASE_URL", "does not answer"}},
		"DATABASE_URL not a URL":  {map[string]string{"DATABASE_URL": "postgres://a:b c@["}, []string{"DATABASE_URL"}},
		"plain http in the world": {map[string]string{"PUBLIC_URL": "http://connect.example.com"}, []string{"PUBLIC_URL", "https"}},
		"PUBLIC_URL with a path":  {map[string]string{"PUBLIC_URL": "https://connect.example.com/x"}, []string{"PUBLIC_URL"}},
		"short COOKIE_KEYS":       {map[string]string{"COOKIE_KEYS": in.values["COOKIE_KEYS"][:64]}, []string{"COOKIE_KEYS"}},
		"zero COOKIE_KEYS":        {map[string]string{"COOKIE_KEYS": strings.Repeat("A", 128)}, []string{"COOKIE_KEYS"}},
		"COOKIE_KEYS twice":       {map[string]string{"COOKIE_KEYS": in.values["COOKIE_KEYS"] + "," + in.values["COOKIE_KEYS"]}, []string{"COOKIE_KEYS"}},
		"short TOKEN_KEYSET":      {map[string]string{"TOKEN_KEYSET": in.values["TOKEN_KEYSET"][:64]}, []string{"TOKEN_KEYSET"}},
		"zero TOKEN_KEYSET":       {map[string]string{"TOKEN_KEYSET": zeroKeyset(t, in.values["TOKEN_KEYSET"])}, []string{"TOKEN_KEYSET"}},
		"LOG_LEVEL":               {map[string]string{"LOG_LEVEL": "loud"}, []string{"LOG_LEVEL"}},
		"port in use":             {map[string]string{"LISTEN_ADDR": "256.0.0.1:x"}, []string{"LISTEN_ADDR"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := run(t, launch{args: []string{"serve"}, env: in.with(tc.changes)})
			checkRefusal(t, code, stderr, tc.words...)
			for _, setting := range []string{"DATABASE_URL", "COOKIE_KEYS", "TOKEN_KEYSET"} {
				value := in.values[setting]
				if changed := tc.changes[setting]; changed != "" {
					value = changed
				}
				if strings.Contains(stdout+stderr, value) {
					t.Errorf("the refusal quotes %s", setting)
				}
			}
			if u, err := url.Parse(tc.changes["DATABASE_URL"]); err == nil && u.User != nil {
				if password, _ := u.User.Password(); len(password) > 8 && strings.Contains(stderr, password) {
					t.Error("the refusal quotes the password of DATABASE_URL")
				}
			}
		})
	}
}

func otherPassword(tb testing.TB, raw string) string {
	tb.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		tb.Fatal("that is no URL")
	}
	u.User = url.UserPassword(u.User.Username(), fmt.Sprintf("not-%d", os.Getpid()))
	return u.String()
}
