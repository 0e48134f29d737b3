package main_test

import (
	"os/user"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/processtest"
)

// Commands stand in the logs with the name of whoever gave them: what OPERATOR says, who
// called sudo, or the system's account.
func TestCommandsSayWhoseTheyAre(t *testing.T) {
	t.Parallel()
	in := processtest.NewInstallation(t)
	account, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	db, err := pgx.Connect(t.Context(), in.DB.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	said := func(sql string) (who string) {
		t.Helper()
		if err := db.QueryRow(t.Context(), sql).Scan(&who); err != nil {
			t.Fatal(err)
		}
		return who
	}
	tenant := in.Command(t, "", "tenant", "create", "--name", "Acme", "--client-id", "client")
	for _, tc := range []struct {
		given map[string]string
		want  string
	}{
		{nil, account.Username},
		{map[string]string{"SUDO_USER": "grace"}, "grace"},
		{map[string]string{"SUDO_USER": "grace", "OPERATOR": "Ada Lovelace"}, "Ada Lovelace"},
	} {
		env := in.With(tc.given)
		code, _, stderr := processtest.Run(t, processtest.Launch{Args: []string{"key", "create", tenant}, Env: env})
		if got := said(`SELECT actor_type || ' ' || actor_id FROM audit_log ORDER BY sequence DESC LIMIT 1`); code != 0 || got != "command "+tc.want {
			t.Errorf("%v: the audit log says %q, want %q\n%s", tc.given, got, tc.want, stderr)
		}
		code, _, stderr = processtest.Run(t, processtest.Launch{Args: []string{"admin", "create", tc.want[:3] + "@acme.example"}, Env: env})
		if got := said(`SELECT actor_type || ' ' || (details->>'by') FROM admin_log ORDER BY chained DESC LIMIT 1`); code != 0 || got != "command "+tc.want {
			t.Errorf("%v: the admin log says %q, want %q\n%s", tc.given, got, tc.want, stderr)
		}
	}
	for _, bad := range []string{"a\u202eb", " ada", strings.Repeat("a", 256), "a\x1b[2J"} {
		code, _, stderr := processtest.Run(t, processtest.Launch{Args: []string{"key", "create", tenant}, Env: in.With(map[string]string{"OPERATOR": bad})})
		processtest.CheckRefusal(t, code, stderr, "OPERATOR")
	}
	if n := said(`SELECT count(*)::text FROM api_keys`); n != "3" {
		t.Errorf("%s keys, want 3", n)
	}
	in.Command(t, "", "ledger", "verify") // fails with a finding

	code, _, stderr := processtest.Run(t, processtest.Launch{Args: []string{"key", "create", tenant, "--for=-1h"}, Env: in.With(nil)})
	if code != 1 || !strings.Contains(stderr, "--for") || said(`SELECT count(*)::text FROM api_keys`) != "3" {
		t.Errorf("a key that has ended already: exit status %d\n%s", code, stderr)
	}
}
