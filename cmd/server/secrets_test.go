package main_test

import (
	"net/http"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/connect-prisma/server/internal/processtest"
	"github.com/connect-prisma/server/internal/sealing"
)

// keysetOf reads what the secrets commands print.
func keysetOf(t *testing.T, printed string) string {
	t.Helper()
	keyset, ok := strings.CutPrefix(printed, "TOKEN_KEYSET=")
	if !ok || strings.ContainsAny(keyset, " \n") {
		t.Fatal("something else than one setting is printed")
	}
	return keyset
}

// refused runs a command that must refuse, in one line with those words and without a key.
func refused(t *testing.T, in *processtest.Installation, keyset string, args []string, words ...string) {
	t.Helper()
	code, stdout, stderr := processtest.Run(t, processtest.Launch{Args: args, Env: in.With(map[string]string{"TOKEN_KEYSET": keyset})})
	processtest.CheckRefusal(t, code, stderr, words...)
	if strings.Contains(stdout+stderr, "TOKEN_KEYSET=") || strings.Contains(stderr, keyset) {
		t.Errorf("%s: a keyset is printed", args)
	}
}

// TestSecretsAreRotated goes through the documented steps beside a running replica, and
// tries each of them too early.
func TestSecretsAreRotated(t *testing.T) {
	t.Parallel()
	in := processtest.NewInstallation(t)
	restart := func(r *processtest.Replica, keyset string) *processtest.Replica {
		t.Helper()
		if r != nil {
			r.Stop(t, syscall.SIGTERM)
			if strings.Contains(r.Stderr.String(), in.Values["TOKEN_KEYSET"]) {
				t.Error("a keyset is in the log")
			}
		}
		in.Values["TOKEN_KEYSET"] = keyset
		started := processtest.StartServeAt(t, in.With(nil), in.Public)
		processtest.Eventually(t, "the replica has said which keys it has", func() bool {
			return regexp.MustCompile(`(?m)^[0-9a-f-]{36}\s+\d+\s`).MatchString(in.Command(t, "", "secrets", "status"))
		})
		return started
	}
	original := in.Values["TOKEN_KEYSET"]
	r := restart(nil, original)
	tenant := in.Command(t, "a secret\n", "tenant", "create", "--name", "Acme", "--client-id", "c", "--client-secret-stdin")
	key := in.Command(t, "", "key", "create", tenant)
	keys := regexp.MustCompile(`(?m)^(\d+)\s+written with\s+1\s*$`).FindStringSubmatch(in.Command(t, "", "secrets", "status"))
	if keys == nil {
		t.Fatalf("secrets status:\n%s", in.Command(t, "", "secrets", "status"))
	}
	old := keys[1]

	added := keysetOf(t, in.Command(t, "", "secrets", "rotate", "add"))
	promoted, err := sealing.PromoteKeys(added)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, in, original, []string{"secrets", "rotate", "promote"}, "add new ones first")
	refused(t, in, added, []string{"secrets", "rotate", "add"}, "promote them first")
	refused(t, in, added, []string{"secrets", "rotate", "promote"}, "does not have the sealing key", "added and not promoted")
	refused(t, in, promoted, []string{"serve"}, "TOKEN_KEYSET", "does not have the sealing key")
	refused(t, in, promoted, []string{"secrets", "rewrap"}, "does not have the sealing key")

	r = restart(r, added)
	if got := keysetOf(t, in.Command(t, "", "secrets", "rotate", "promote")); got != promoted {
		t.Error("promote prints another keyset than expected")
	}
	refused(t, in, promoted, []string{"secrets", "retire", old}, "writes with the sealing key "+old)
	r = restart(r, promoted)
	refused(t, in, original, []string{"serve"}, "TOKEN_KEYSET", "which this keyset does not have")
	refused(t, in, promoted, []string{"secrets", "retire", old}, "1 values are sealed with key "+old, "server secrets rewrap")
	if said := in.Command(t, "", "secrets", "rewrap"); !strings.HasPrefix(said, "1 values are sealed with the newest key") {
		t.Errorf("secrets rewrap: %s", said)
	}
	if status := in.Command(t, "", "secrets", "status"); !regexp.MustCompile(`(?m)^` + old + `\s+read with\s+0\s*$`).MatchString(status) {
		t.Errorf("secrets status after the rewrap:\n%s", status)
	}
	refused(t, in, promoted, []string{"secrets", "retire", "1"}, "no such sealing key")
	retired := keysetOf(t, in.Command(t, "", "secrets", "retire", old))
	r = restart(r, retired)
	if got := keyStatus(t, r, key); got != http.StatusOK {
		t.Errorf("an API key of before: status %d", got)
	}
	refused(t, in, retired, []string{"secrets", "rotate", "promote"}, "add new ones first")
	in.Command(t, "", "ledger", "verify")
	r.Stop(t, syscall.SIGTERM)
}
