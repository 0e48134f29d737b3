package oauthflow_test

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/apitest"
)

func generation(t *testing.T, w *apitest.World, id string) int {
	t.Helper()
	return apitest.Query[int](t, w, `SELECT max(generation)::int FROM connections WHERE status <> 'disconnected' AND $1 <> ''`, id)
}

// projects reads through a connection, which needs a live access token.
func projects(t *testing.T, w *apitest.World, id string) int {
	t.Helper()
	return w.Call(t, w.Tenant.Key, http.MethodGet, "/v1/connections/"+id+"/projects", nil).Status
}

func TestReconnectKeepsTheConnection(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	first := w.Connect(t, w.Tenant, "ada", workspaceA)
	for i, more := range []map[string]any{nil, {"connectionId": first.ID}} {
		again := w.ConnectWith(t, w.Tenant, "ada", workspaceA, more)
		if again.ID != first.ID || generation(t, w, first.ID) != i+2 {
			t.Errorf("reconnect %d gave %s of generation %d, want %s of %d", i, again.ID, generation(t, w, first.ID), first.ID, i+2)
		}
		if status := projects(t, w, first.ID); status != http.StatusOK {
			t.Errorf("a call after reconnect %d: %d", i, status)
		}
	}
	second := w.Connect(t, w.Tenant, "ada", workspaceB)
	bob := w.Connect(t, w.Tenant, "bob", workspaceA)
	if second.ID == first.ID || bob.ID == first.ID {
		t.Error("another workspace or user got the same connection")
	}
	want := []string{
		"connection.connected", "connection.reconnected", "connection.reconnected", "connection.connected", "connection.connected",
	}
	if diff := cmp.Diff(want, w.Events(t, w.Tenant)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

// changed is the problem workspace-changed.
type changed struct {
	Expected, Chosen struct{ ID, Name string }
	URL, SessionID   string
}

func TestAReconnectToAnotherWorkspaceChangesNothing(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	first := w.Connect(t, w.Tenant, "ada", workspaceA)
	before := apitest.Query[string](t, w, "SELECT md5(connections::text) FROM connections")

	session, code := w.Return(t, w.Tenant, "ada", workspaceB, map[string]any{"connectionId": first.ID})
	answer := w.Complete(t, w.Tenant.Key, session, code, "ada")
	apitest.WantProblem(t, answer, http.StatusConflict, "workspace-changed")
	var p changed
	answer.JSON(t, &p)
	if p.Expected.ID != workspaceA || p.Chosen.ID != workspaceB || p.Expected.Name != "Ada's first" || p.Chosen.Name != "Ada's second" {
		t.Errorf("the problem names %+v and %+v", p.Expected, p.Chosen)
	}
	if got := apitest.Query[string](t, w, "SELECT md5(connections::text) FROM connections"); got != before {
		t.Error("the connection was touched")
	}
	if status := projects(t, w, first.ID); status != http.StatusOK {
		t.Errorf("the old tokens: %d", status)
	}
	if got := w.GetSession(t, w.Tenant, session).Status; got != "failed" {
		t.Errorf("the session is %s", got)
	}
	// The same completion again makes no request and no connection.
	apitest.WantProblem(t, w.Complete(t, w.Tenant.Key, session, code, "ada"), http.StatusConflict, "restart-connect")
	if n := w.Sim.Ledger(t).Counters.CodeExchanges; n != 2 {
		t.Errorf("%d token requests, want 2", n)
	}

	// The fresh link is pinned too, and leads to the same connection.
	back := w.NewBrowser().Finish(t, p.URL, workspaceA)
	if got := back.Query(t).Get("sessionId"); got != p.SessionID {
		t.Errorf("the link belongs to %s, the problem named %s", got, p.SessionID)
	}
	done := apitest.Data[apitest.Connection](t, w.Complete(t, w.Tenant.Key, p.SessionID, back.Query(t).Get("completionCode"), "ada"))
	if done.ID != first.ID || done.Workspace.ID != workspaceA {
		t.Errorf("the second try gave %+v", done)
	}
	want := []string{"connection.connected", "connect_session.failed", "connection.reconnected"}
	if diff := cmp.Diff(want, w.Events(t, w.Tenant)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
}

func TestOnlyTheOwnLiveConnectionCanBeReconnected(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	other := w.NewTenant(t, "Other", nil)
	foreign := w.Connect(t, other, "ada", workspaceA)
	mine := w.Connect(t, w.Tenant, "ada", workspaceA)
	create := func(user, connection string) apitest.Answer {
		return w.Call(t, w.Tenant.Key, http.MethodPost, "/v1/connect-sessions",
			map[string]any{"userId": user, "returnUrl": apitest.ReturnURL, "connectionId": connection})
	}
	for name, id := range map[string]string{
		"foreign": foreign.ID, "unknown": mine.ID[:len(mine.ID)-4] + "aaaa", "malformed": "cnx_1", "of another kind": "cs_" + mine.ID[4:],
	} {
		if answer := create("ada", id); answer.Status != http.StatusNotFound {
			t.Errorf("%s: %d", name, answer.Status)
		}
	}
	if p := apitest.WantProblem(t, create("bob", mine.ID), http.StatusUnprocessableEntity, "invalid-value"); !p.Names("/userId") {
		t.Error("the problem does not name the user")
	}
	// Disconnected between the session and the completion: nothing comes back to life.
	session, code := w.Return(t, w.Tenant, "ada", workspaceA, map[string]any{"connectionId": mine.ID})
	if answer := w.Call(t, w.Tenant.Key, http.MethodDelete, "/v1/connections/"+mine.ID, nil); answer.Status != http.StatusOK {
		t.Fatalf("disconnect: %d", answer.Status)
	}
	apitest.WantProblem(t, w.Complete(t, w.Tenant.Key, session, code, "ada"), http.StatusConflict, "restart-connect")
	if n := apitest.Query[int](t, w, `SELECT count(*)::int FROM connections WHERE status <> 'disconnected'`); n != 1 {
		t.Errorf("%d live connections, want the other tenant's alone", n)
	}
}

func TestAutomaticCompletion(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	automatic := map[string]any{"completion": "automatic"}

	session := w.CreateSession(t, w.Tenant, "ada", automatic)
	browser := w.NewBrowser()
	address := browser.Consent(t, browser.Click(t, session.URL), workspaceA)
	var mu sync.Mutex
	pages := map[int]int{}
	var won apitest.Answer
	const many = 50
	apitest.AtOnce(many, func(int) {
		answer := browser.Copy().Do(t, http.MethodGet, address, nil)
		mu.Lock()
		defer mu.Unlock()
		pages[answer.Status]++
		if answer.Status == http.StatusOK {
			won = answer
		}
	})
	n := w.Sim.Ledger(t).Counters.CodeExchanges
	t.Logf("%d parallel automatic callbacks: %v, %d token requests", many, pages, n)
	if pages[http.StatusOK] != 1 || pages[http.StatusBadRequest] != many-1 || n != 1 {
		t.Fatalf("pages %v, %d token requests", pages, n)
	}
	if !strings.Contains(string(won.Body), "Ada&#39;s first") || won.Heading(t) == "" {
		t.Errorf("the page says %q: %s", won.Heading(t), won.Text(t))
	}
	made := w.GetSession(t, w.Tenant, session.ID)
	if made.Status != "connected" || made.ConnectionID == nil {
		t.Fatalf("the session is %s", made.Status)
	}
	if status := projects(t, w, *made.ConnectionID); status != http.StatusOK {
		t.Errorf("a call: %d", status)
	}

	// A reconnect that ends in another workspace is told on the page.
	pinned := w.CreateSession(t, w.Tenant, "ada", map[string]any{"completion": "automatic", "connectionId": *made.ConnectionID})
	answer := w.NewBrowser().Finish(t, pinned.URL, workspaceB)
	text := answer.Text(t)
	if answer.Status != http.StatusConflict || !strings.Contains(text, "Ada's first") || !strings.Contains(text, "Ada's second") {
		t.Errorf("status %d: %s", answer.Status, text)
	}
	fresh := ""
	for _, link := range answer.Links(t) {
		if strings.HasPrefix(link, apitest.PublicURL+"/connect/") {
			fresh = link
		}
	}
	if again := w.NewBrowser().Finish(t, fresh, workspaceA); again.Status != http.StatusOK {
		t.Errorf("the link on the page led to %d", again.Status)
	}
	if got := generation(t, w, *made.ConnectionID); got != 2 {
		t.Errorf("generation %d, want 2", got)
	}
}

func TestAutomaticCompletionThatFails(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	w.Expect(http.StatusBadGateway)
	session := w.CreateSession(t, w.Tenant, "ada", map[string]any{
		"completion": "automatic", "returnUrl": nil, "restartUrl": apitest.OtherReturnURL,
	})
	w.Faults(t, map[string]any{"tokenDropAfter": 1})
	answer := w.NewBrowser().Finish(t, session.URL, workspaceA)
	if answer.Status != http.StatusBadGateway || !cmp.Equal(answer.Links(t), []string{apitest.OtherReturnURL}) {
		t.Errorf("status %d, links %v: %s", answer.Status, answer.Links(t), answer.Text(t))
	}
	if got := w.GetSession(t, w.Tenant, session.ID).Status; got != "failed" {
		t.Errorf("the session is %s", got)
	}
	for name, expect := range map[string]string{"denied": "", "expired": workspaceA} {
		session := w.CreateSession(t, w.Tenant, "ada", map[string]any{"completion": "automatic", "returnUrl": nil})
		browser := w.NewBrowser()
		back := browser.Consent(t, browser.Click(t, session.URL), expect)
		if name == "expired" {
			w.DB.Advance(t, 10*time.Minute)
		}
		page := browser.Do(t, http.MethodGet, back, nil)
		if page.Status == http.StatusSeeOther || page.Heading(t) == "" || w.GetSession(t, w.Tenant, session.ID).Status != name {
			t.Errorf("%s: status %d, the session is %s", name, page.Status, w.GetSession(t, w.Tenant, session.ID).Status)
		}
	}
}
