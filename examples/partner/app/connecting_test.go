package app_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const completeCall = "POST /v1/connect-sessions/cs_1/complete"

func TestSignIn(t *testing.T) {
	t.Parallel()

	t.Run("offers three users and a free id", func(t *testing.T) {
		t.Parallel()
		page := newPartner(t).browser().get("/")
		page.says(http.StatusOK, "Who are you today?")
		for _, id := range []string{"ada", "grace", "alan"} {
			if page.Find(`form#choose-user button[value="`+id+`"]`).Length() != 1 {
				t.Errorf("no button for %s", id)
			}
		}
		if page.Find(`form#other-user input[name="user"]`).Length() != 1 {
			t.Error("no field for another user")
		}
	})
	t.Run("keeps the user in a hardened cookie", func(t *testing.T) {
		t.Parallel()
		p := newPartner(t)
		b := p.browser()
		page := b.post("/sign-in", "user", "grace")
		page.redirects("/")
		cookie := page.header.Get("Set-Cookie")
		for _, part := range []string{"__Host-partner-session=", "Path=/", "HttpOnly", "Secure", "SameSite=Lax"} {
			if !strings.Contains(cookie, part) {
				t.Errorf("Set-Cookie lacks %s: %s", part, cookie)
			}
		}
		b.get("/").says(http.StatusOK, "Hello, Grace Hopper")
		if got := p.api.calls("GET /v1/connections")[0].Query.Get("userId"); got != "grace" {
			t.Errorf("asked for the connections of %q, want grace", got)
		}
	})
	t.Run("takes a free id", func(t *testing.T) {
		t.Parallel()
		b := newPartner(t).signedIn("katherine.j@example.org")
		b.get("/").says(http.StatusOK, "Hello, katherine.j@example.org")
	})
	t.Run("refuses what is no id", func(t *testing.T) {
		t.Parallel()
		b := newPartner(t).browser()
		for _, id := range []string{"", "  ", "a b", "<b>", "a\x00", "é", strings.Repeat("x", 65)} {
			page := b.post("/sign-in", "user", id)
			page.says(http.StatusUnprocessableEntity, "letters, digits")
			if page.header.Get("Set-Cookie") != "" {
				t.Errorf("id %q got a session", id)
			}
		}
	})
	t.Run("sign out forgets", func(t *testing.T) {
		t.Parallel()
		b := newPartner(t).signedIn("ada")
		b.post("/sign-out").redirects("/")
		b.get("/").says(http.StatusOK, "Who are you today?")
	})
	t.Run("a forged cookie is nobody", func(t *testing.T) {
		t.Parallel()
		b := newPartner(t).browser()
		req := b.form("/connect")
		req.Header.Set("Cookie", "__Host-partner-session=eyJ1c2VySWQiOiJhZGEifQ")
		b.send(req).redirects("/")
	})
}

func TestEveryUserRouteWantsASignIn(t *testing.T) {
	t.Parallel()

	p := newPartner(t)
	b := p.browser()
	b.get("/connections/cnx_1").redirects("/")
	for _, path := range []string{
		"/connect", "/connections/cnx_1/disconnect", "/connections/cnx_1/databases",
		"/connections/cnx_1/databases/db_1/delete", "/connections/cnx_1/databases/db_1/credentials",
	} {
		b.post(path).redirects("/")
	}
	if n := len(p.api.seen); n != 0 {
		t.Errorf("%d API calls for nobody, want 0", n)
	}
}

func TestConnect(t *testing.T) {
	t.Parallel()

	p := newPartner(t)
	b := p.signedIn("ada")
	home := b.get("/")
	if home.Find("form#connect button").Length() != 1 {
		t.Fatal("no Connect button")
	}
	b.post("/connect").redirects(p.api.URL + "/connect/one-time")
	want := map[string]any{
		"userId": "ada", "userLabel": "Ada Lovelace", "returnUrl": p.srv.URL + "/callback", "completion": "code",
	}
	if diff := cmp.Diff(want, p.api.calls("POST /v1/connect-sessions")[0].Body); diff != "" {
		t.Errorf("session asked for (-want +got):\n%s", diff)
	}

	b.get("/callback?sessionId=cs_1&completionCode=code-1").redirects("/")
	completed := p.api.calls(completeCall)
	if len(completed) != 1 {
		t.Fatalf("%d complete calls, want 1", len(completed))
	}
	if diff := cmp.Diff(map[string]any{"completionCode": "code-1", "userId": "ada"}, completed[0].Body); diff != "" {
		t.Errorf("complete (-want +got):\n%s", diff)
	}
	page := b.get("/")
	page.says(http.StatusOK, "Connected. You can now", "Analytical Engines")
	if got, _ := page.Find(`[data-connection="cnx_1"]`).Attr("data-status"); got != "active" {
		t.Errorf("data-status = %q, want active", got)
	}
	if strings.Contains(b.get("/").text(), "Connected. You can now") {
		t.Error("the notice is shown twice")
	}
	// The session is over: the same URL from the history is not completed again.
	b.get("/callback?sessionId=cs_1&completionCode=code-1").says(http.StatusForbidden, "not started here")
	if n := len(p.api.calls(completeCall)); n != 1 {
		t.Errorf("%d complete calls after the replay, want 1", n)
	}
}

// TestForeignCallback is the attack that the completion step exists for: somebody
// else's session, finished in this browser.
func TestForeignCallback(t *testing.T) {
	t.Parallel()

	tests := map[string]func(p *partner) *browser{
		"another browser of another user": func(p *partner) *browser {
			p.signedIn("ada").post("/connect")
			return p.signedIn("grace")
		},
		"another browser of the same user": func(p *partner) *browser {
			p.signedIn("ada").post("/connect")
			return p.signedIn("ada")
		},
		"the same browser, after another user signed in": func(p *partner) *browser {
			b := p.signedIn("ada")
			b.post("/connect")
			b.post("/sign-in", "user", "grace").redirects("/")
			return b
		},
		"nobody is signed in": func(p *partner) *browser { return p.browser() },
	}
	for name, open := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPartner(t)
			b := open(p)
			for _, query := range []string{
				"?sessionId=cs_1&completionCode=code-1", "?sessionId=cs_1&error=access_denied", "?completionCode=code-1",
				"?sessionId=&completionCode=code-1", "",
			} {
				b.get("/callback"+query).says(http.StatusForbidden, "This connection was not started here")
			}
			if n := len(p.api.calls(completeCall)); n != 0 {
				t.Errorf("%d complete calls, want 0", n)
			}
		})
	}
}

func TestSeveralConnectsInOneBrowser(t *testing.T) {
	t.Parallel()

	p := newPartner(t)
	ids := []string{"cs_1", "cs_2", "cs_3"}
	next := 0
	p.api.routes["POST /v1/connect-sessions"] = func(*http.Request, map[string]any) answer {
		id := ids[next]
		next++
		return created(map[string]any{"id": id, "url": p.api.URL + "/connect/" + id})
	}
	b := p.signedIn("ada")
	for range ids {
		b.post("/connect")
	}
	for _, id := range []string{"cs_2", "cs_1", "cs_3"} {
		b.get("/callback?sessionId=" + id + "&completionCode=c").redirects("/")
	}
}

func TestCallbackErrors(t *testing.T) {
	t.Parallel()

	for word, want := range map[string]string{
		"access_denied":             "You did not give access",
		"expired":                   "That took too long",
		"failed":                    "Prisma could not connect you",
		"<script>alert(1)</script>": "Prisma could not connect you",
		"":                          "Prisma could not connect you",
	} {
		t.Run(word, func(t *testing.T) {
			t.Parallel()
			p := newPartner(t)
			b := p.signedIn("ada")
			b.post("/connect")
			page := b.get("/callback?sessionId=cs_1&error=" + word)
			page.says(http.StatusOK, want)
			if page.Find("form#connect button").Length() != 1 {
				t.Error("no way to start again")
			}
			if strings.Contains(page.raw, "alert(1)") {
				t.Error("the page repeats the query")
			}
			if n := len(p.api.calls(completeCall)); n != 0 {
				t.Errorf("%d complete calls, want 0", n)
			}
		})
	}
}

func TestCompletionProblems(t *testing.T) {
	t.Parallel()

	running := problem(http.StatusConflict, "completion-in-progress", "The same completion is running.")
	running.header = http.Header{"Retry-After": {"3"}}
	tests := map[string]struct {
		answer  answer
		status  int
		text    string
		again   bool   // the callback may be loaded again
		refresh string // and loads itself after so many seconds
	}{
		"in progress":  {answer: running, status: 409, text: "Still connecting", again: true, refresh: "3"},
		"unavailable":  {answer: problem(503, "prisma-unavailable", "Down."), status: 503, text: "Down.", again: true},
		"expired":      {answer: problem(410, "expired", "The code is too old."), status: 410, text: "The code is too old."},
		"restart":      {answer: problem(409, "restart-connect", "Begin anew."), status: 409, text: "Begin anew."},
		"other user":   {answer: problem(409, "conflict", "Begun for another user."), status: 409, text: "another user"},
		"unknown code": {answer: problem(404, "not-found", "No such session."), status: 404, text: "Not found"},
		"wrong key":    {answer: problem(401, "unauthorized", "Unknown key."), status: 502, text: "does not accept this app's key"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPartner(t)
			p.api.routes["POST /v1/connect-sessions/{session}/complete"] = func(*http.Request, map[string]any) answer {
				return tc.answer
			}
			b := p.signedIn("ada")
			b.post("/connect")
			const url = "/callback?sessionId=cs_1&completionCode=code-1"
			page := b.get(url)
			page.says(tc.status, tc.text)
			if got := page.header.Get("Refresh"); got != tc.refresh {
				t.Errorf("Refresh = %q, want %q", got, tc.refresh)
			}
			if got := page.Find(`a[href="` + url + `"]`).Length(); (got == 1) != tc.again {
				t.Errorf("%d links to try again, want them: %v", got, tc.again)
			}
			if again := b.get(url); (again.status == http.StatusForbidden) == tc.again {
				t.Errorf("the second load: %d; session kept should be %v", again.status, tc.again)
			}
			if strings.Contains(p.log.String(), "code-1") {
				t.Errorf("the log has the completion code: %s", p.log)
			}
		})
	}
}

func TestWorkspaceChanged(t *testing.T) {
	t.Parallel()

	p := newPartner(t)
	p.api.routes["POST /v1/connect-sessions/{session}/complete"] = func(r *http.Request, _ map[string]any) answer {
		if r.PathValue("session") == "cs_9" {
			return ok(connection("cnx_1", "ada", "Analytical Engines", "active"))
		}
		a := problem(http.StatusConflict, "workspace-changed", "Another workspace was chosen.")
		a.problem["expected"] = map[string]any{"id": "wksp_1", "name": "Analytical Engines"}
		a.problem["chosen"] = map[string]any{"id": "wksp_2", "name": "<b>Difference</b>"}
		a.problem["url"], a.problem["sessionId"] = p.api.URL+"/connect/fresh", "cs_9"
		return a
	}
	b := p.signedIn("ada")
	b.post("/connect", "connection", "cnx_1").redirects(p.api.URL + "/connect/one-time")
	if got := p.api.calls("POST /v1/connect-sessions")[0].Body["connectionId"]; got != "cnx_1" {
		t.Errorf("connectionId = %v, want cnx_1", got)
	}

	page := b.get("/callback?sessionId=cs_1&completionCode=c")
	page.says(http.StatusConflict, "You chose another workspace", "Analytical Engines wksp_1", "<b>Difference</b> wksp_2")
	if got, _ := page.Find("a#choose-again").Attr("href"); got != p.api.URL+"/connect/fresh" {
		t.Errorf("fresh link = %q", got)
	}
	b.get("/callback?sessionId=cs_9&completionCode=c").redirects("/") // the fresh link's session is this browser's too
}

func TestConnectLinkToAnotherPlace(t *testing.T) {
	t.Parallel()

	for _, link := range []string{"https://evil.example/connect/x", "javascript:alert(1)", "", "//evil.example", "http://%zz"} {
		t.Run(link, func(t *testing.T) {
			t.Parallel()
			p := newPartner(t)
			p.api.routes["POST /v1/connect-sessions"] = func(*http.Request, map[string]any) answer {
				return created(map[string]any{"id": "cs_1", "url": link})
			}
			page := p.signedIn("ada").post("/connect")
			page.says(http.StatusInternalServerError, "Something went wrong here")
			if page.location != "" {
				t.Errorf("Location = %q, want none", page.location)
			}
		})
	}
}

func TestReconnectAndDisconnect(t *testing.T) {
	t.Parallel()

	t.Run("a broken connection says why and offers the repair", func(t *testing.T) {
		t.Parallel()
		p := newPartner(t)
		broken := connection("cnx_1", "ada", "Analytical Engines", "needs_reconnect")
		broken["diagnosis"] = map[string]any{"code": "x", "message": "Prisma revoked the access.", "action": "reconnect"}
		p.api.routes["GET /v1/connections"] = listed(broken, connection("cnx_2", "ada", "Old", "disconnected"))
		page := p.signedIn("ada").get("/")
		page.says(http.StatusOK, "Prisma revoked the access.", "Disconnected (1)")
		card := page.Find(`[data-connection="cnx_1"][data-status="needs_reconnect"]`)
		if got, _ := card.Find(`form[action="/connect"] input[name="connection"]`).Attr("value"); got != "cnx_1" {
			t.Errorf("the Reconnect form is for %q, want cnx_1", got)
		}
		if page.Find(`[data-connection="cnx_2"] form`).Length() != 0 {
			t.Error("a disconnected connection has buttons")
		}
	})
	t.Run("disconnect", func(t *testing.T) {
		t.Parallel()
		p := newPartner(t)
		b := p.signedIn("ada")
		b.post("/connections/cnx_1/disconnect").redirects("/")
		if n := len(p.api.calls("DELETE /v1/connections/cnx_1")); n != 1 {
			t.Errorf("%d DELETE calls, want 1", n)
		}
		b.get("/").says(http.StatusOK, "Disconnected: this app can no longer")
	})
}
