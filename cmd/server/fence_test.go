package main_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/processtest"
	"github.com/connect-prisma/server/internal/tenants"
)

// TestFenceCommand moves a database, in effect, under a running service: it stays
// ready, says once what to do, and goes on when an operator has decided.
func TestFenceCommand(t *testing.T) {
	t.Parallel()
	in := processtest.NewInstallation(t)
	r := processtest.StartServeAt(t, in.With(nil), in.Public)
	db, err := pgx.Connect(t.Context(), in.DB.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(t.Context())
	processtest.Eventually(t, "the service writes down where its database is", func() bool {
		var n int
		return db.QueryRow(t.Context(), `SELECT count(*) FROM app.fence`).Scan(&n) == nil && n == 1
	})
	if out := in.Command(t, "", "fence", "accept"); !strings.Contains(out, "nothing to decide") {
		t.Errorf("fence accept where nothing happened:\n%s", out)
	}
	if _, err := db.Exec(t.Context(), `UPDATE app.fence SET system_identifier = 4711`); err != nil {
		t.Fatal(err)
	}
	said := func(level, text string) int {
		n := 0
		for line := range strings.Lines(r.Stderr.String()) {
			if strings.Contains(line, `"level":"`+level+`"`) && strings.Contains(line, text) {
				n++
			}
		}
		return n
	}
	processtest.Eventually(t, "the service says what to do", func() bool { return said("ERROR", tenants.FenceCommand) > 0 })
	if status, _ := processtest.SendJSON(t, http.MethodGet, r.Origin+"/readyz", "", nil); status != http.StatusOK {
		t.Errorf("/readyz answers %d", status)
	}

	for answer, want := range map[string]string{"no\n": "nothing was accepted", "": "--yes"} {
		code, stdout, stderr := processtest.Run(t, processtest.Launch{Args: []string{"fence", "accept"}, Env: in.With(nil), Stdin: answer})
		if code != 1 || !strings.Contains(stderr, want) || !strings.Contains(stdout, "cluster 4711, ") {
			t.Errorf("fence accept, answered %q: exit status %d\n%s\n%s", answer, code, stdout, stderr)
		}
	}
	if out := in.Command(t, "accept\n", "fence", "accept"); !strings.Contains(out, "Accepted.") {
		t.Errorf("fence accept:\n%s", out)
	}
	processtest.Eventually(t, "the service goes on", func() bool { return said("INFO", "token requests go on") == 1 })
	if n := said("ERROR", tenants.FenceCommand); n != 1 {
		t.Errorf("the error was logged %d times, want once", n)
	}
	if out := in.Command(t, "", "fence", "accept", "--yes"); !strings.Contains(out, "nothing to decide") {
		t.Errorf("fence accept once more:\n%s", out)
	}
}
