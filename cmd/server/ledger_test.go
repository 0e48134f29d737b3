package main_test

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/processtest"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// ledgered makes a connection that was refreshed once, and a checkpoint.
func ledgered(t *testing.T, in *processtest.Installation) (tenants.Connection, tenants.LedgerCheckpoint) {
	t.Helper()
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	keyset, err := sealing.Parse(in.Values["TOKEN_KEYSET"], in.Values["ENVIRONMENT"])
	ok(err)
	store, err := tenants.NewStore(tenants.Config{Pool: in.DB.Pool, Keyset: keyset})
	ok(err)
	ctx, by := t.Context(), tenants.System()
	tenant, err := store.CreateTenant(ctx, by, tenants.TenantInput{
		Name: "Acme", Completion: tenants.CompletionAutomatic, Client: tenants.OAuthClient{ID: "client"},
	})
	ok(err)
	x, _, err := store.CreateSession(ctx, by, tenant.ID, tenants.NewSession{UserID: "user"})
	ok(err)
	ok(store.StartSession(ctx, by, x, tenants.Start{State: "s", ClientID: "client", RedirectURI: "https://connect.example/cb"}))
	_, err = store.ReturnSession(ctx, by, x, tenants.Return{State: "s", Code: "c", Verifier: "v"})
	ok(err)
	c, err := store.FinishSession(ctx, by, x, "client", prisma.Tokens{WorkspaceID: "wksp_1", Access: "access-1", Refresh: "refresh-1"})
	ok(err)
	storage := store.TokensOf(tenant.ID, c.ID)
	tokens, err := storage.Tokens(ctx)
	ok(err)
	claim, err := storage.Claim(ctx, tokens)
	ok(err)
	ok(storage.Save(ctx, claim, prisma.Tokens{WorkspaceID: "wksp_1", Access: "access-2", Refresh: "refresh-2", Generation: 2}))
	ok(store.Wait(ctx))
	made, err := store.CheckpointLedger(ctx, 90*24*time.Hour)
	ok(err)
	if len(made) != 1 {
		t.Fatalf("%d checkpoints", len(made))
	}
	return c, made[0]
}

func TestLedgerVerify(t *testing.T) {
	t.Parallel()
	in := processtest.NewInstallation(t)
	if out := in.Command(t, "", "ledger", "verify"); !strings.HasPrefix(out, "0 connections, 0 rows, 0 folds, 0 attempts") {
		t.Errorf("an empty ledger:\n%s", out)
	}
	c, _ := ledgered(t, in)
	out := in.Command(t, "", "ledger", "verify")
	if !strings.HasPrefix(out, "1 connections, 3 rows, 0 folds, 1 attempts (0 late retries, 0 without an end, 0 saved and not written yet), "+
		"1 checkpoints: 0 findings in ") {
		t.Errorf("it printed:\n%s", out)
	}
	if !strings.Contains(out, "\n1 audit logs, 5 rows (0 of versions without MACs, covered by later rows; 0 more, not covered yet).\n") {
		t.Errorf("it printed:\n%s", out)
	}
	witness := regexp.MustCompile(`newest checkpoint is (1:[0-9a-f]{64})$`).FindStringSubmatch(out)
	if witness == nil {
		t.Fatalf("no witness in:\n%s", out)
	}
	in.Command(t, "", "ledger", "verify", "--witness", witness[1], "--tenant", c.Tenant.String(), "--connection", c.ID.String())

	refused := map[string][]string{
		"no tenant id":     {"--tenant", "acme"},
		"no connection id": {"--connection", c.Tenant.String()},
		"--witness takes":  {"--witness", "1:abc"},
	}
	for want, args := range refused {
		code, _, stderr := processtest.Run(t, processtest.Launch{Args: append([]string{"ledger", "verify"}, args...), Env: in.With(nil)})
		if code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%s: exit status %d, %s", args, code, stderr)
		}
	}

	admin, err := pgx.Connect(t.Context(), in.DB.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(t.Context())
	for _, sql := range []string{
		`DELETE FROM refresh_ledger WHERE sequence = 2`, `DELETE FROM ledger_checkpoints`,
		`UPDATE audit_log SET actor_id = 'somebody' WHERE sequence = 3`, `INSERT INTO admin_log (at, action) VALUES (app.now() + interval '8 days', 'a.b')`,
	} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	code, stdout, stderr := processtest.Run(t, processtest.Launch{Args: []string{"ledger", "verify", "--witness", witness[1]}, Env: in.With(nil)})
	for _, want := range []string{
		c.ID.String() + " of " + c.Tenant.String() + ", row 2: the row is missing\n",
		"checkpoint 1: the checkpoint was witnessed, and is gone\n",
		"checkpoint 1: its entries are not those that were signed\n",
		"audit log of " + c.Tenant.String() + ", row 3: the row was altered, or does not belong here: ",
		"admin log: the row of id 1 has no MAC, long after the upgrade to a version that writes one\n",
		"5 findings in ",
	} {
		if !strings.Contains(stdout, want) {
			t.Errorf("it does not say %q:\n%s", want, stdout)
		}
	}
	if code != 1 || !strings.Contains(stderr, "5 findings") || strings.Contains(stdout+stderr, "refresh-") {
		t.Errorf("exit status %d:\n%s", code, stderr)
	}
	acknowledge(t, in)
}

// acknowledge says of each finding that it is known.
func acknowledge(t *testing.T, in *processtest.Installation) {
	t.Helper()
	verify := processtest.Launch{Args: []string{"ledger", "verify"}, Env: in.With(nil)}
	_, stdout, _ := processtest.Run(t, verify)
	ids := regexp.MustCompile(`(?m)^[0-9a-f]{32} `).FindAllString(stdout, -1)
	if len(ids) != 4 { // without the witness
		t.Fatalf("%d findings have an id:\n%s", len(ids), stdout)
	}
	args := []string{"ledger", "acknowledge", "--reason", "the test did it"}
	for _, id := range ids {
		args = append(args, strings.TrimSpace(id))
	}
	env := in.With(map[string]string{"OPERATOR": "Ada"})
	code, _, stderr := processtest.Run(t, processtest.Launch{Args: append(args, strings.Repeat("0", 32)), Env: env})
	if code != 1 || !strings.Contains(stderr, "nothing is acknowledged") {
		t.Errorf("a finding that is not there: exit status %d\n%s", code, stderr)
	}
	code, _, stderr = processtest.Run(t, processtest.Launch{Args: args, Env: env})
	if code != 0 {
		t.Errorf("exit status %d\n%s", code, stderr)
	}
	code, stdout, _ = processtest.Run(t, verify)
	if code != 0 || strings.Count(stdout, " (acknowledged by Ada on ") != 4 || strings.Count(stdout, ": the test did it)\n") != 4 ||
		!strings.Contains(stdout, ": 0 findings in ") || !strings.Contains(stdout, "\n4 more findings are acknowledged.\n") {
		t.Errorf("exit status %d:\n%s", code, stdout)
	}
}
