package prismasim_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/prismasim"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

func TestStateSurvivesARestart(t *testing.T) {
	t.Parallel()
	dir, server := t.TempDir(), pgtest.OpenEmpty(t).OwnerURL
	options := func(c *prismasim.Config) { c.StateDir, c.DatabaseURL = dir, server }
	var tokens, gone prismasimtest.Tokens
	var shop made
	var rotated string
	{
		sim := prismasimtest.Start(t, options)
		tokens, gone = sim.Connect(t, prismasimtest.WorkspaceA), sim.Connect(t, prismasimtest.WorkspaceB)
		sim.Refresh(t, gone.Refresh)
		shop = newProject(t, sim, tokens.Access, "shop")
		exec(t, open(t, shop.url), "CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (7)")
		body := api(t, sim, http.MethodPost, "/v1/connections/"+shop.connection+"/rotate", tokens.Access, nil, http.StatusOK)
		rotated = text(t, body, "data.endpoints.direct.connectionString")
		faults(t, sim, map[string]any{"api429": 0.0, "listLag": "3s"})
		advance(t, sim, "30m")
		sim.Stop(t)
	}

	sim := prismasimtest.Start(t, options)
	refused(t, shop.url)
	if got := one[int](t, open(t, rotated), "SELECT id FROM kept"); got != 7 {
		t.Errorf("kept row = %d", got)
	}
	api(t, sim, http.MethodGet, "/v1/projects/"+shop.project, tokens.Access, nil, http.StatusOK)
	if status, _ := sim.Refresh(t, tokens.Refresh); status != http.StatusOK {
		t.Errorf("refresh = %d", status)
	}
	if status, _ := sim.Refresh(t, gone.Refresh); status != http.StatusBadRequest {
		t.Errorf("replay of a token used before the restart = %d", status)
	}
	ledger := sim.Ledger(t)
	if c := ledger.Counters; c.CodeExchanges != 2 || c.Refreshes != 3 || c.Replays != 1 || c.APIRequests != 3 {
		t.Errorf("counters = %+v", c)
	}
	var clock struct{ Offset string }
	sim.Control(t, http.MethodGet, "clock", nil, &clock)
	if clock.Offset != "30m0s" {
		t.Errorf("clock offset = %s", clock.Offset)
	}
	advance(t, sim, "31m")
	api(t, sim, http.MethodGet, "/v1/me", tokens.Access, nil, http.StatusUnauthorized)
}

func TestJournalOfAKilledProcess(t *testing.T) {
	t.Parallel()
	dir, copied := t.TempDir(), t.TempDir()
	server := pgtest.OpenEmpty(t).OwnerURL
	sim := prismasimtest.Start(t, func(c *prismasim.Config) { c.StateDir, c.DatabaseURL = dir, server })
	tokens := sim.Connect(t, prismasimtest.WorkspaceA)
	_, body := sim.Refresh(t, tokens.Refresh)
	tokens = prismasimtest.ReadTokens(t, body)

	// What a kill -9 now leaves: the file as it is, with half a line at its end.
	journal, err := os.ReadFile(filepath.Join(dir, "journal.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{tokens.Refresh, tokens.Access, prismasimtest.ClientSecret, prismasimtest.ServiceToken} {
		if strings.Contains(string(journal), secret) {
			t.Error("the journal holds a secret in the clear")
		}
	}
	half := append(journal, []byte(`{"k":"grant","i":"grant_x","r":{"id":`)...)
	if err := os.WriteFile(filepath.Join(copied, "journal.jsonl"), half, 0o600); err != nil {
		t.Fatal(err)
	}
	again := prismasimtest.Start(t, func(c *prismasim.Config) { c.StateDir, c.DatabaseURL = copied, server })
	if status, _ := again.Refresh(t, tokens.Refresh); status != http.StatusOK {
		t.Errorf("refresh after the kill = %d", status)
	}
	info, err := os.Stat(filepath.Join(copied, "journal.jsonl"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("journal mode = %v, %v", info.Mode(), err)
	}
}

func TestStateDirBelongsToOne(t *testing.T) {
	t.Parallel()
	dir, server := t.TempDir(), pgtest.OpenEmpty(t).OwnerURL
	prismasimtest.Start(t, func(c *prismasim.Config) { c.StateDir, c.DatabaseURL = dir, server })
	_, err := prismasim.New(t.Context(), prismasim.Config{URL: "http://localhost:1", DatabaseURL: server, StateDir: dir})
	if err == nil || !strings.Contains(err.Error(), "another simulator") {
		t.Errorf("a second simulator on the same state: %v", err)
	}
}

func TestHalfMadeDatabaseIsFinishedAfterARestart(t *testing.T) {
	t.Parallel()
	dir, server := t.TempDir(), pgtest.OpenEmpty(t).OwnerURL
	options := func(c *prismasim.Config) { c.StateDir, c.DatabaseURL = dir, server }
	first := prismasimtest.Start(t, options)
	shop := newProject(t, first, prismasimtest.ServiceToken, "shop")
	first.Stop(t)
	// The journal as of a kill while the real database was being made.
	path := filepath.Join(dir, "journal.jsonl")
	journal, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(journal)) {
		if !strings.HasPrefix(line, `{"k":"connection"`) && !strings.HasPrefix(line, `{"k":"backup"`) {
			kept = append(kept, strings.Replace(line, `"status":"ready"`, `"status":"provisioning"`, 1))
		}
	}
	if err := os.WriteFile(path, []byte(strings.Join(kept, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	sim := prismasimtest.Start(t, options)
	body := api(t, sim, http.MethodGet, "/v1/databases/"+shop.database, prismasimtest.ServiceToken, nil, http.StatusOK)
	if text(t, body, "data.status") != "ready" || count(t, body, "data.connections") != 1 {
		t.Errorf("after the restart: %s", text(t, body, "data.status"))
	}
	body = api(t, sim, http.MethodPost, "/v1/databases/"+shop.database+"/connections", prismasimtest.ServiceToken,
		map[string]string{"name": "n"}, http.StatusOK)
	open(t, text(t, body, "data.connectionString"))
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	server := pgtest.OpenEmpty(t)
	tests := map[string]struct {
		config prismasim.Config
		want   string
	}{
		"trailing slash":       {prismasim.Config{URL: "http://localhost:1/", DatabaseURL: server.OwnerURL}, "trailing slash"},
		"no origin":            {prismasim.Config{DatabaseURL: server.OwnerURL}, "origin"},
		"socket":               {prismasim.Config{URL: "http://localhost:1", DatabaseURL: "postgres:///x?host=/tmp"}, "TCP"},
		"unreadable URL":       {prismasim.Config{URL: "http://localhost:1", DatabaseURL: "postgres://u:se%cret@h/x"}, "parsed"},
		"role without rights":  {prismasim.Config{URL: "http://localhost:1", DatabaseURL: server.AppURL}, "CREATEDB"},
		"seed without its own": {prismasim.Config{URL: "http://localhost:1", DatabaseURL: server.OwnerURL, Seed: prismasim.Seed{Users: []prismasim.User{{ID: "u", Email: "u@x", WorkspaceIDs: []string{"w"}}}}}, "does not exist"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := prismasim.New(t.Context(), tc.config)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("New() error = %v, want one with %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "se%cret") {
				t.Error("the error holds the password")
			}
		})
	}
}

func TestUnfinishedWorkIsFinishedAfterARestart(t *testing.T) {
	t.Parallel()
	dir, server := t.TempDir(), pgtest.OpenEmpty(t).OwnerURL
	options := func(c *prismasim.Config) { c.StateDir, c.DatabaseURL = dir, server }
	token := prismasimtest.ServiceToken
	first := prismasimtest.Start(t, options)
	shop := newProject(t, first, token, "shop")
	exec(t, open(t, shop.url), "CREATE TABLE t (id int)")
	list := api(t, first, http.MethodGet, "/v1/databases/"+shop.database+"/backups", token, nil, http.StatusOK)
	faults(t, first, map[string]any{"landLate": "5m"})
	api(t, first, http.MethodPost, "/v1/projects", token, map[string]any{"name": "late"}, http.StatusInternalServerError)
	first.Stop(t)

	// The journal as of a kill in the middle of a restore of the empty beginning.
	path := filepath.Join(dir, "journal.jsonl")
	journal, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	restoring := strings.ReplaceAll(string(journal), `"status":"ready"`, `"status":"recovering"`)
	restoring = strings.ReplaceAll(restoring, `"source":{"type":"empty"}`,
		`"source":{"type":"backup","databaseId":"`+shop.database+`","backupId":"`+text(t, list, "data.0.id")+`"}`)
	if err := os.WriteFile(path, []byte(restoring), 0o600); err != nil {
		t.Fatal(err)
	}
	sim := prismasimtest.Start(t, options)
	eventually(t, func() bool {
		body := api(t, sim, http.MethodGet, "/v1/databases/"+shop.database, token, nil, http.StatusOK)
		return text(t, body, "data.status") == "ready"
	})
	if tables := one[int](t, open(t, shop.url), "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"); tables != 0 {
		t.Errorf("%d tables after the restore", tables)
	}
	advance(t, sim, "5m")
	eventually(t, func() bool {
		body := api(t, sim, http.MethodGet, "/v1/projects", token, nil, http.StatusOK)
		return count(t, body, "data") == 2
	})
}
