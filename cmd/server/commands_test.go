package main_test

import (
	"encoding/json"
	"fmt"
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
	"github.com/connect-prisma/server/internal/processtest"
)

// TestOperatorCommands runs the commands of an operator against the database of a
// running service.
func TestOperatorCommands(t *testing.T) {
	t.Parallel()
	in := processtest.NewInstallation(t)
	r := processtest.StartServeAt(t, in.With(nil), in.Public)

	const secret = "the-client-secret-from-stdin"
	tenant := in.Command(t, secret+"\n", "tenant", "create", "--name", "Acme", "--client-id", "acme-client", "--client-secret-stdin",
		"--return-url", "https://acme.example/callback")
	if !regexp.MustCompile(`^ten_[a-z2-7]+$`).MatchString(tenant) {
		t.Fatalf("tenant create prints %q, want the id alone", tenant)
	}
	in.Command(t, "a-service-token\n", "tenant", "set", tenant, "--name", "Acme Inc", "--completion", "automatic", "--service-token-stdin")
	const next = "the-next-secret-from-stdin"
	in.Command(t, next+"\n", "tenant", "set", tenant, "--next-client-secret-stdin")
	list := in.Command(t, "", "tenant", "list")
	if !strings.Contains(list, "acme-client (next secret stored)") || strings.Contains(list, next) {
		t.Errorf("tenant list does not tell of the next secret, or tells it:\n%s", list)
	}
	in.Command(t, "\n", "tenant", "set", tenant, "--next-client-secret-stdin")
	if list = in.Command(t, "", "tenant", "list"); strings.Contains(list, "next secret") {
		t.Errorf("tenant list tells of a next secret that was taken away:\n%s", list)
	}
	if !strings.Contains(list, tenant) || !strings.Contains(list, "Acme Inc") || !strings.Contains(list, "acme-client") || strings.Contains(list, secret) {
		t.Errorf("tenant list:\n%s", list)
	}

	key := in.Command(t, "", "key", "create", tenant, "--name", "backend")
	if !strings.HasPrefix(key, "cpk_") || strings.ContainsAny(key, " \n") {
		t.Fatal("key create prints something else than the key alone")
	}
	other := in.Command(t, "", "key", "create", tenant, "--name", "other", "--for", "24h")
	keys := in.Command(t, "", "key", "list", tenant)
	if strings.Contains(keys, key) || strings.Contains(keys, other) {
		t.Error("key list prints a key")
	}
	id := regexp.MustCompile(`(?m)^(key_[a-z2-7]+)\s+backend\s`).FindStringSubmatch(keys)
	if id == nil {
		t.Fatalf("key list:\n%s", keys)
	}
	if got := keyStatus(t, r, key); got != http.StatusOK {
		t.Errorf("with a new key: status %d, want 200", got)
	}
	for name, form := range map[string]string{
		"backend": `live\s+never\s+[0-9-]+ [0-9:]+\s+-`,
		"other":   `live\s+[0-9-]+ [0-9:]+\s+never\s+-`,
	} {
		keys := in.Command(t, "", "key", "list", tenant)
		if !regexp.MustCompile(`(?m)^key_[a-z2-7]+\s+` + name + `\s.*\s` + form + `$`).MatchString(keys) {
			t.Errorf("key list does not show the end and the last use of %s:\n%s", name, keys)
		}
	}
	in.Command(t, "", "tenant", "set", tenant, "--requests-per-second", "75", "--calls-at-once", "30")
	if list := in.Command(t, "", "tenant", "list"); !regexp.MustCompile(`\s75\s`).MatchString(list) {
		t.Errorf("tenant list does not show the limit:\n%s", list)
	}
	code, _, stderr := processtest.Run(t, processtest.Launch{Args: []string{"tenant", "set", tenant, "--burst", "3"}, Env: in.With(nil)})
	if code != 1 || !strings.Contains(stderr, "burst") {
		t.Errorf("a burst below the rate: exit status %d\n%s", code, stderr)
	}
	in.Command(t, "", "key", "revoke", tenant, id[1])
	processtest.Eventually(t, "the revoked key is refused", func() bool { return keyStatus(t, r, key) == http.StatusUnauthorized })
	if got := keyStatus(t, r, other); got != http.StatusOK {
		t.Errorf("with the other key: status %d, want 200", got)
	}
	if keys := in.Command(t, "", "key", "list", tenant); !regexp.MustCompile(`(?m)^` + id[1] + `\s.*\srevoked\s`).MatchString(keys) {
		t.Errorf("key list after the revocation:\n%s", keys)
	}
	leaked(t, in, r, tenant)
	in.Command(t, "", "tenant", "set", tenant, "--pause")
	processtest.Eventually(t, "a paused tenant's key is refused", func() bool { return keyStatus(t, r, other) != http.StatusOK })

	admins(t, in)
	r.Stop(t, syscall.SIGTERM)
	for _, told := range []string{secret, next, key, other, "a-service-token"} {
		if strings.Contains(r.Stderr.String(), told) {
			t.Error("the service's log has a secret of the commands")
		}
	}
}

// leaked plays the leak of a key: somebody rotates it, and the operator ends all of it.
func leaked(t *testing.T, in *processtest.Installation, r *processtest.Replica, tenant string) {
	t.Helper()
	key := in.Command(t, "", "key", "create", tenant, "--name", "leaked")
	thief := rotated(t, r, key)
	id := regexp.MustCompile(`(?m)^(key_[a-z2-7]+)\s+leaked\s.*\s-$`).FindStringSubmatch(in.Command(t, "", "key", "list", tenant))
	if id == nil {
		t.Fatal("key list does not show which key the others replaced")
	}
	said := in.Command(t, "", "key", "revoke", tenant, id[1])
	if !regexp.MustCompile(`(?m)^key_[a-z2-7]+\s+leaked\s.*\slive\s.*\s`+id[1]+`$`).MatchString(said) ||
		!strings.Contains(said, "server key revoke "+tenant+" "+id[1]+" --successors") {
		t.Errorf("key revoke does not tell of the successor, or what to do:\n%s", said)
	}
	if got := keyStatus(t, r, thief); got != http.StatusOK {
		t.Errorf("with the successor: status %d, want 200", got)
	}
	said = in.Command(t, "", "key", "revoke", tenant, id[1], "--successors")
	if strings.Count(said, " is revoked") != 2 {
		t.Errorf("key revoke --successors:\n%s", said)
	}
	for _, secret := range []string{key, thief} {
		if got := keyStatus(t, r, secret); got != http.StatusUnauthorized {
			t.Errorf("with a key of the chain: status %d, want 401", got)
		}
		if strings.Contains(said, secret) || strings.Contains(r.Stderr.String(), secret) {
			t.Error("a key is shown")
		}
	}
}

// rotated is a key's successor, used once.
func rotated(t *testing.T, r *processtest.Replica, key string) string {
	t.Helper()
	status, body := processtest.SendJSON(t, http.MethodPost, r.Origin+"/v1/keys/rotate", key, map[string]any{})
	var made struct{ Data struct{ Key string } }
	if err := json.Unmarshal(body, &made); err != nil || keyStatus(t, r, made.Data.Key) != http.StatusOK {
		t.Fatalf("rotate: status %d, %v", status, err)
	}
	return made.Data.Key
}

// keyStatus is how the API answers a key.
func keyStatus(tb testing.TB, r *processtest.Replica, key string) int {
	tb.Helper()
	status, _ := processtest.SendJSON(tb, http.MethodGet, r.Origin+"/v1/connections", key, nil)
	return status
}

// admins makes an admin, signs in with the printed password, and after a reset with
// the new one only.
func admins(t *testing.T, in *processtest.Installation) {
	t.Helper()
	const email = "root@acme.example"
	first := in.Command(t, "", "admin", "create", email)
	b := processtest.NewCookieBrowser()
	if !signIn(t, in, b, email, first) {
		t.Error("the first password does not sign in")
	}
	second := in.Command(t, "", "admin", "reset", email)
	if first == second || len(second) < 20 {
		t.Error("the reset's password is the old one, or short")
	}
	if page := b.Get(t, in.Values["PUBLIC_URL"]+"/admin"); page.Status == http.StatusOK {
		t.Error("the session from before the reset still works")
	}
	if signIn(t, in, processtest.NewCookieBrowser(), email, first) {
		t.Error("the old password still signs in")
	}
	if !signIn(t, in, processtest.NewCookieBrowser(), email, second) {
		t.Error("the new password does not sign in")
	}
	code, _, stderr := processtest.Run(t, processtest.Launch{Args: []string{"admin", "create", email}, Env: in.With(nil)})
	if code != 1 || !strings.Contains(stderr, "server admin reset") {
		t.Errorf("admin create of one that is there: exit status %d\n%s", code, stderr)
	}
}

// signIn sends the dashboard's form and tells whether the dashboard then opens.
func signIn(tb testing.TB, in *processtest.Installation, b *processtest.CookieBrowser, email, password string) bool {
	tb.Helper()
	page := b.Get(tb, in.Values["PUBLIC_URL"]+"/admin/sign-in")
	b.Submit(tb, page, "form#sign-in", url.Values{"email": {email}, "password": {password}})
	return b.Get(tb, in.Values["PUBLIC_URL"]+"/admin").Status == http.StatusOK
}

// TestMigrate brings an empty database up with three migrate at once, then again
// with one, and serves from it.
func TestMigrate(t *testing.T) {
	t.Parallel()
	in := processtest.NewInstallation(t)
	empty := pgtest.OpenEmpty(t)
	env := in.With(map[string]string{"DATABASE_URL": empty.AppURL, "MIGRATE_DATABASE_URL": empty.OwnerURL})

	code, _, stderr := processtest.Run(t, processtest.Launch{Args: []string{"serve"}, Env: env})
	processtest.CheckRefusal(t, code, stderr, "server migrate")

	var wg sync.WaitGroup
	for range 3 {
		p := processtest.Start(t, processtest.Launch{Args: []string{"migrate"}, Env: env})
		wg.Go(func() { <-p.Done })
		t.Cleanup(func() {
			if code := p.Cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("one of three migrate at once: exit status %d\n%s", code, p.Stderr.Tail())
			}
		})
	}
	wg.Wait()
	code, stdout, stderr := processtest.Run(t, processtest.Launch{Args: []string{"migrate"}, Env: env})
	if code != 0 || !strings.HasPrefix(stdout, "The database is at schema version ") {
		t.Errorf("migrate again: exit status %d\n%s%s", code, stdout, stderr)
	}
	other := append(env, "ENVIRONMENT=production")
	if code, _, stderr := processtest.Run(t, processtest.Launch{Args: []string{"migrate"}, Env: other}); code != 1 || !strings.Contains(stderr, "environment") {
		t.Errorf("migrate for another environment: exit status %d\n%s", code, stderr)
	}
	processtest.StartServe(t, env).Stop(t, syscall.SIGTERM)
}

// TestSecretFiles gives every secret as a file.
func TestSecretFiles(t *testing.T) {
	t.Parallel()
	in := processtest.NewInstallation(t)
	changes := map[string]string{}
	for _, name := range []string{"DATABASE_URL", "COOKIE_KEYS", "TOKEN_KEYSET"} {
		file := filepath.Join(t.TempDir(), strings.ToLower(name))
		if err := os.WriteFile(file, []byte(in.Values[name]+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		changes[name], changes[name+"_FILE"] = "", file
	}
	processtest.StartServe(t, in.With(changes)).Stop(t, syscall.SIGTERM)

	code, _, stderr := processtest.Run(t, processtest.Launch{Args: []string{"serve"}, Env: append(in.With(changes), "COOKIE_KEYS="+in.Values["COOKIE_KEYS"])})
	processtest.CheckRefusal(t, code, stderr, "COOKIE_KEYS and COOKIE_KEYS_FILE")
	changes["TOKEN_KEYSET_FILE"] = filepath.Join(t.TempDir(), "missing")
	code, _, stderr = processtest.Run(t, processtest.Launch{Args: []string{"serve"}, Env: in.With(changes)})
	processtest.CheckRefusal(t, code, stderr, "TOKEN_KEYSET_FILE")
}

// TestServeRefuses starts the service with one thing wrong.
func TestServeRefuses(t *testing.T) {
	t.Parallel()
	in := processtest.NewInstallation(t)
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
		"superuser":               {map[string]string{"DATABASE_URL": in.DB.AdminURL}, []string{"superuser", "connect_app"}},
		"owner":                   {map[string]string{"DATABASE_URL": in.DB.OwnerURL}, []string{"owns", "connect_app"}},
		"schema too old":          {map[string]string{"DATABASE_URL": old.AppURL}, []string{"older", "server migrate"}},
		"another environment":     {map[string]string{"ENVIRONMENT": "development"}, []string{"ENVIRONMENT", `"test"`}},
		"endless drain delay":     {map[string]string{"DRAIN_DELAY": "2m"}, []string{"DRAIN_DELAY", "1m"}},
		"next secret of nothing":  {map[string]string{"PRISMA_CLIENT_NEXT_SECRET": "s"}, []string{"PRISMA_CLIENT_NEXT_SECRET"}},
		"negative drain delay":    {map[string]string{"DRAIN_DELAY": "-1s"}, []string{"DRAIN_DELAY"}},
		"drain delay of no unit":  {map[string]string{"DRAIN_DELAY": "5"}, []string{"DRAIN_DELAY"}},
		"lease too short":         {map[string]string{"REFRESH_LEASE": "60s"}, []string{"REFRESH_*", "longer than the lease of 1m0s"}},
		"answer of no unit":       {map[string]string{"REFRESH_ANSWER": "60"}, []string{"REFRESH_ANSWER must be a duration such as 5s"}},
		"half an exchange":        {map[string]string{"REFRESH_EXCHANGES": "0.5"}, []string{"REFRESH_EXCHANGES must be a whole number"}},
		"no exchanges":            {map[string]string{"REFRESH_EXCHANGES": "0"}, []string{"REFRESH_EXCHANGES must be above 0"}},
		"share of no number":      {map[string]string{"REFRESH_FROM": "early"}, []string{"REFRESH_FROM must be a number"}},
		"leeway of a day":         {map[string]string{"REFRESH_LEEWAY": "24h"}, []string{"REFRESH_LEEWAY", "1h"}},
		"kept alive too late":     {map[string]string{"REFRESH_KEEP_ALIVE": "2160h"}, []string{"REFRESH_KEEP_ALIVE", "1920h"}},
		"wrong password":          {map[string]string{"DATABASE_URL": otherPassword(t, in.DB.AppURL)}, []string{"DATABASE_URL", "password"}},
		"no database there":       {map[string]string{"DATABASE_URL": "postgres://connect_app:x@127.0.0.1:1/none"}, []string{"DATABASE_URL", "does not answer"}},
		"DATABASE_URL not a URL":  {map[string]string{"DATABASE_URL": "postgres://a:b c@["}, []string{"DATABASE_URL"}},
		"plain http in the world": {map[string]string{"PUBLIC_URL": "http://connect.example.com"}, []string{"PUBLIC_URL", "https"}},
		"PUBLIC_URL with a path":  {map[string]string{"PUBLIC_URL": "https://connect.example.com/x"}, []string{"PUBLIC_URL"}},
		"short COOKIE_KEYS":       {map[string]string{"COOKIE_KEYS": in.Values["COOKIE_KEYS"][:64]}, []string{"COOKIE_KEYS"}},
		"zero COOKIE_KEYS":        {map[string]string{"COOKIE_KEYS": strings.Repeat("A", 128)}, []string{"COOKIE_KEYS"}},
		"COOKIE_KEYS twice":       {map[string]string{"COOKIE_KEYS": in.Values["COOKIE_KEYS"] + "," + in.Values["COOKIE_KEYS"]}, []string{"COOKIE_KEYS"}},
		"short TOKEN_KEYSET":      {map[string]string{"TOKEN_KEYSET": in.Values["TOKEN_KEYSET"][:64]}, []string{"TOKEN_KEYSET"}},
		"zero TOKEN_KEYSET":       {map[string]string{"TOKEN_KEYSET": zeroKeyset(t, in.Values["TOKEN_KEYSET"])}, []string{"TOKEN_KEYSET"}},
		"LOG_LEVEL":               {map[string]string{"LOG_LEVEL": "loud"}, []string{"LOG_LEVEL"}},
		"port in use":             {map[string]string{"LISTEN_ADDR": "256.0.0.1:x"}, []string{"LISTEN_ADDR"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := processtest.Run(t, processtest.Launch{Args: []string{"serve"}, Env: in.With(tc.changes)})
			processtest.CheckRefusal(t, code, stderr, tc.words...)
			for _, setting := range []string{"DATABASE_URL", "COOKIE_KEYS", "TOKEN_KEYSET"} {
				value := in.Values[setting]
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
