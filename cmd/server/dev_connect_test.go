package main_test

import (
	"context"
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

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/devpg"
)

// limitedServer starts a Postgres server for one dev alone, which sets the
// passwords of its roles there, and returns a URL of a role that may create
// databases and roles but is no superuser.
func limitedServer(tb testing.TB) string {
	tb.Helper()
	server, err := devpg.Start(tb.Context(), devpg.Config{Dir: filepath.Join(dataDir(tb), "postgres"), Ephemeral: true})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Stop(context.WithoutCancel(tb.Context())); err != nil {
			tb.Errorf("stop Postgres: %v", err)
		}
	})
	conn, err := pgx.Connect(tb.Context(), server.URL("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(tb.Context())
	const password = "only-on-this-loopback"
	if _, err := conn.Exec(tb.Context(), "CREATE ROLE developer LOGIN CREATEDB CREATEROLE PASSWORD '"+password+"'"); err != nil {
		tb.Fatal(err)
	}
	u, err := url.Parse(server.URL("postgres"))
	if err != nil {
		tb.Fatal(err)
	}
	u.User = url.UserPassword("developer", password)
	return u.String()
}

// TestDevOverHTTP goes from nothing to a database with HTTP alone, on a Postgres
// that DATABASE_URL names, and looks at what Prisma saw of it.
func TestDevOverHTTP(t *testing.T) {
	t.Parallel()
	d := startDev(t, devOptions{env: []string{"DATABASE_URL=" + limitedServer(t)}})
	checkDevFiles(t, d)

	d.control(t, http.MethodPut, "consent", map[string]string{"mode": "approve", "workspaceId": d.WorkspaceIDs[0]}, nil)
	first := d.connect(t, "approved")
	if first.Workspace.ID != d.WorkspaceIDs[0] || first.Workspace.Name != firstWorkspace || first.Status != "active" || first.UserID != "approved" {
		t.Errorf("connection = %+v, want an active one of the user in %s", first, firstWorkspace)
	}
	made := d.partner().createDatabase(t, first, "orders")
	if found := tables(t, made.Credentials.ConnectionString); len(found) != 0 {
		t.Errorf("the new database has the tables %v, want none", found)
	}
	writeNote(t, made.Credentials.ConnectionString, "from the process test")
	if saw := d.ledger(t).Counters; saw.CodeExchanges != 1 || saw.Refreshes != 0 || saw.Replays != 0 || saw.Revocations != 0 {
		t.Errorf("Prisma saw %+v, want one code exchange and nothing else of tokens", saw)
	}

	d.control(t, http.MethodPut, "consent", map[string]string{"mode": "page"}, nil)
	onTwoReplicas(t, d)
	if saw := d.ledger(t).Counters; saw.CodeExchanges != 2 || saw.Refreshes != 0 || saw.Replays != 0 || saw.Revocations != 0 {
		t.Errorf("Prisma saw %+v, want two code exchanges and nothing else of tokens", saw)
	}
	// The simulator promises iss, and dev has read that.
	checkIss(t, startTraveller(t, d.partner(), d.SampleAppURL+"/callback"), d.PublicURL, d.PrismaAuthURL)
	d.stop(t, syscall.SIGINT)
}

// checkDevFiles holds dev.json and serve.env to what scripts rely on.
func checkDevFiles(t *testing.T, d *dev) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(d.dir, "dev.json"))
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
		info, err := os.Stat(filepath.Join(d.dir, name))
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
func onTwoReplicas(t *testing.T, d *dev) {
	t.Helper()
	second := startServe(t, d.settings(t))
	there := partner{origin: second.origin, key: d.APIKey}
	session := there.beginSession(t, "both", d.SampleAppURL+"/callback")
	if !strings.HasPrefix(session.URL, d.PublicURL+"/connect/") {
		t.Fatal("the second replica's link does not lead to the public URL")
	}
	b := newCookieBrowser()
	page := b.get(t, second.origin+strings.TrimPrefix(session.URL, d.PublicURL))
	started := b.submit(t, page, "form#connect", nil)
	// The replica was asked at 127.0.0.1; a browser knows the public name alone.
	b.cookies["localhost"] = b.cookies["127.0.0.1"]
	consent := b.get(t, started.next(t).String())
	approved := b.submit(t, consent, "form", url.Values{"workspace": {d.WorkspaceIDs[1]}, "decision": {"approve"}})
	returned := b.follow(t, approved, d.SampleAppURL+"/callback")
	if id := returned.Query().Get("sessionId"); id != session.ID {
		t.Errorf("returned with the session %s, want %s", id, session.ID)
	}
	made := there.complete(t, session, "both", returned.Query().Get("completionCode"))
	if made.Workspace.ID != d.WorkspaceIDs[1] || made.Workspace.Name != secondWorkspace {
		t.Errorf("connected %+v, want %s", made.Workspace, secondWorkspace)
	}
	for _, replica := range []partner{d.partner(), there} {
		var projects []struct{ ID string }
		replica.call(t, http.MethodGet, "/v1/connections/"+made.ID+"/projects", nil, &projects)
	}
}
