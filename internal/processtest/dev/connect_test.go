package dev_test

import (
	"encoding/json"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/connect-prisma/server/internal/processtest"
)

// TestDevOverHTTP goes from nothing to a database with HTTP alone, on a Postgres
// that DATABASE_URL names, and looks at what Prisma saw of it.
func TestDevOverHTTP(t *testing.T) {
	t.Parallel()
	d := processtest.StartDev(t, processtest.DevOptions{Env: []string{"DATABASE_URL=" + processtest.LimitedServer(t)}})
	checkDevFiles(t, d)

	d.Control(t, http.MethodPut, "consent", map[string]string{"mode": "approve", "workspaceId": d.WorkspaceIDs[0]}, nil)
	first := d.Connect(t, "approved")
	if first.Workspace.ID != d.WorkspaceIDs[0] || first.Workspace.Name != processtest.FirstWorkspace || first.Status != "active" || first.UserID != "approved" {
		t.Errorf("connection = %+v, want an active one of the user in %s", first, processtest.FirstWorkspace)
	}
	made := d.Partner().CreateDatabase(t, first, "orders")
	if found := processtest.Tables(t, made.Credentials.ConnectionString); len(found) != 0 {
		t.Errorf("the new database has the tables %v, want none", found)
	}
	processtest.WriteNote(t, made.Credentials.ConnectionString, "from the process test")
	if saw := d.Ledger(t).Counters; saw.CodeExchanges != 1 || saw.Refreshes != 0 || saw.Replays != 0 || saw.Revocations != 0 {
		t.Errorf("Prisma saw %+v, want one code exchange and nothing else of tokens", saw)
	}

	d.Control(t, http.MethodPut, "consent", map[string]string{"mode": "page"}, nil)
	onTwoReplicas(t, d)
	if saw := d.Ledger(t).Counters; saw.CodeExchanges != 2 || saw.Refreshes != 0 || saw.Replays != 0 || saw.Revocations != 0 {
		t.Errorf("Prisma saw %+v, want two code exchanges and nothing else of tokens", saw)
	}
	// The simulator promises iss, and dev has read that.
	processtest.CheckIss(t, processtest.StartTraveller(t, d.Partner(), d.SampleAppURL+"/callback"), d.PublicURL, d.PrismaAuthURL)
	d.Stop(t, syscall.SIGINT)
}

// checkDevFiles holds dev.json and serve.env to what scripts rely on.
func checkDevFiles(t *testing.T, d *processtest.Dev) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(d.Dir, "dev.json"))
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(content, &fields); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"adminEmail", "adminPassword", "adminUrl", "apiKey", "databaseUrl", "prismaApiUrl", "prismaAuthUrl", "prismaClientId",
		"prismaPublicClientId", "publicUrl", "sampleAppUrl", "serviceToken", "simulatorUrl", "workspaceIds",
	}
	if got := slices.Sorted(maps.Keys(fields)); !slices.Equal(got, want) {
		t.Errorf("dev.json has the fields %v, want %v", got, want)
	}
	for name, value := range fields {
		if text, ok := value.(string); ok && text == "" {
			t.Errorf("dev.json: %s is empty", name)
		}
	}
	if len(d.WorkspaceIDs) != 2 {
		t.Errorf("dev.json names %d workspaces, want 2", len(d.WorkspaceIDs))
	}
	if !strings.HasPrefix(d.PublicURL, "http://localhost:") {
		t.Errorf("publicUrl = %s, want one of localhost", d.PublicURL)
	}
	for _, name := range []string{"dev.json", "serve.env", "server.log"} {
		info, err := os.Stat(filepath.Join(d.Dir, name))
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode() != fs.FileMode(0o600) {
			t.Errorf("%s has the mode %s, want it closed to others", name, info.Mode())
		}
	}
}

// onTwoReplicas starts a second replica with serve.env and goes through one flow on
// both: the session is made and begun on the second, returns to the first and is
// completed on the second again. The consent is a form that is sent.
func onTwoReplicas(t *testing.T, d *processtest.Dev) {
	t.Helper()
	second := processtest.StartServe(t, d.Settings(t))
	there := processtest.Partner{Origin: second.Origin, Key: d.APIKey}
	session := there.BeginSession(t, "both", d.SampleAppURL+"/callback")
	if !strings.HasPrefix(session.URL, d.PublicURL+"/connect/") {
		t.Fatal("the second replica's link does not lead to the public URL")
	}
	b := processtest.NewCookieBrowser()
	page := b.Get(t, second.Origin+strings.TrimPrefix(session.URL, d.PublicURL))
	started := b.Submit(t, page, "form#connect", nil)
	// The replica was asked at 127.0.0.1; a browser knows the public name alone.
	b.Cookies["localhost"] = b.Cookies["127.0.0.1"]
	consent := b.Get(t, started.Next(t).String())
	approved := b.Submit(t, consent, "form", url.Values{"workspace": {d.WorkspaceIDs[1]}, "decision": {"approve"}})
	returned := b.Follow(t, approved, d.SampleAppURL+"/callback")
	if id := returned.Query().Get("sessionId"); id != session.ID {
		t.Errorf("returned with the session %s, want %s", id, session.ID)
	}
	made := there.Complete(t, session, "both", returned.Query().Get("completionCode"))
	if made.Workspace.ID != d.WorkspaceIDs[1] || made.Workspace.Name != processtest.SecondWorkspace {
		t.Errorf("connected %+v, want %s", made.Workspace, processtest.SecondWorkspace)
	}
	for _, replica := range []processtest.Partner{d.Partner(), there} {
		var projects []struct{ ID string }
		replica.Call(t, http.MethodGet, "/v1/connections/"+made.ID+"/projects", nil, &projects)
	}
}
