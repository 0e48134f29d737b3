package oauthflow_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/apitest"
)

func TestEachDeadEndSaysWhatToDo(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	more := map[string]any{"restartUrl": apitest.OtherReturnURL}
	start := func() (apitest.Session, *apitest.Browser, string) {
		session, browser := w.CreateSession(t, w.Tenant, "ada", more), w.NewBrowser()
		return session, browser, browser.Consent(t, browser.Click(t, session.URL), workspaceA)
	}

	session, browser, back := start()
	clear(browser.Cookies)
	lost := browser.Do(t, http.MethodGet, back, nil)

	replayed, browser, back := start()
	first := browser.Do(t, http.MethodGet, back, nil)
	if len(browser.Cookies) != 0 {
		t.Error("the cookie was kept after the callback")
	}
	gone := browser.Do(t, http.MethodGet, back, nil) // as a browser does that reloads

	_, browser, back = start()
	kept := browser.Copy()
	browser.Do(t, http.MethodGet, back, nil)
	spent := kept.Do(t, http.MethodGet, back, nil)

	nonsense := w.NewBrowser().Do(t, http.MethodGet, apitest.PublicURL+"/oauth/callback?code=x", nil)
	for name, page := range map[string]apitest.Answer{
		"lost cookie": lost, "replay": gone, "replay with the cookie": spent, "nonsense": nonsense,
	} {
		heading, text := page.Heading(t), page.Text(t)
		if page.Status != http.StatusBadRequest || heading == "" || !strings.Contains(text, "app") || len(text) < 80 {
			t.Errorf("%s: status %d, %q: %q", name, page.Status, heading, text)
		}
		t.Logf("%s: %q", name, heading)
	}
	if !strings.Contains(strings.ToLower(lost.Text(t)), "cookies") || lost.Heading(t) == nonsense.Heading(t) {
		t.Error("the page of a lost cookie does not speak of cookies")
	}
	if gone.Heading(t) != spent.Heading(t) {
		t.Error("a reload is told something else than a replay")
	}
	for name, page := range map[string]apitest.Answer{"lost cookie": lost, "replay": gone, "replay with the cookie": spent} {
		if !cmp.Equal(page.Links(t), []string{apitest.OtherReturnURL}) {
			t.Errorf("%s: links %v", name, page.Links(t))
		}
	}
	// A lost cookie disturbs nothing, and a replay does not undo.
	if got := w.GetSession(t, w.Tenant, session.ID).Status; got != "started" {
		t.Errorf("the session without its cookie is %s", got)
	}
	if answer := w.Complete(t, w.Tenant.Key, replayed.ID, first.Query(t).Get("completionCode"), "ada"); answer.Status != http.StatusOK {
		t.Errorf("the completion after a replay: %d", answer.Status)
	}
}

func TestDenialAndExpiryGoBackToThePartner(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	tests := []struct {
		workspace, word, status, event string
		after                          time.Duration
	}{
		{"", "access_denied", "denied", "connect_session.denied", 0},
		{workspaceA, "expired", "expired", "connect_session.expired", 9*time.Minute + 59*time.Second},
		{"", "expired", "expired", "connect_session.expired", 10 * time.Minute},
	}
	var events []string
	for _, tc := range tests {
		session := w.CreateSession(t, w.Tenant, "ada", nil)
		browser := w.NewBrowser()
		back := browser.Consent(t, browser.Click(t, session.URL), tc.workspace)
		w.DB.Advance(t, tc.after+time.Second)
		answer := browser.Do(t, http.MethodGet, back, nil)
		query := answer.Query(t)
		if answer.Status != http.StatusSeeOther || query.Get("error") != tc.word || query.Get("sessionId") != session.ID ||
			query.Get("from") != "prisma" || query.Has("completionCode") || len(query) != 3 {
			t.Errorf("%s: status %d, %d parameters, error %q", tc.word, answer.Status, len(query), query.Get("error"))
		}
		if got := w.GetSession(t, w.Tenant, session.ID).Status; got != tc.status {
			t.Errorf("%s: the session is %s", tc.word, got)
		}
		// A second time tells nobody again.
		browser.Do(t, http.MethodGet, back, nil)
		events = append(events, tc.event)
		if problem := w.Complete(t, w.Tenant.Key, session.ID, "any", "ada"); problem.Status != http.StatusConflict && problem.Status != http.StatusGone {
			t.Errorf("%s: complete answered %d", tc.word, problem.Status)
		}
	}
	if diff := cmp.Diff(events, w.Events(t, w.Tenant)); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if n := w.Sim.Ledger(t).Counters.CodeExchanges; n != 0 {
		t.Errorf("%d token requests", n)
	}
}

// TestOnlyTheClickChangesAnything opens a link in every way that is not the click.
func TestOnlyTheClickChangesAnything(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	session := w.CreateSession(t, w.Tenant, "ada", map[string]any{"userLabel": "Ada <b>Lovelace</b>"})
	dump := func() string {
		return apitest.Query[string](t, w, `SELECT json_agg(s)::text || (SELECT json_agg(a)::text FROM audit_log a) FROM connect_sessions s`)
	}
	before := dump()
	browser := w.NewBrowser()
	page := browser.Do(t, http.MethodGet, session.URL, nil)
	if page.Status != http.StatusOK || !strings.Contains(page.Text(t), "Acme") || !strings.Contains(page.Text(t), "Ada <b>Lovelace</b>") {
		t.Errorf("status %d: %s", page.Status, page.Text(t))
	}
	if got := page.Header.Get("Referrer-Policy"); got != "same-origin" {
		t.Errorf("referrer policy %q: the form would be sent with Origin null", got)
	}
	if policy := page.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "form-action 'self' "+w.Flow.AuthorizeOrigin()+" https://partner.example https:;") {
		t.Errorf("content security policy %q", policy)
	}
	opened := 1
	for range 100 {
		opened++
		if got := browser.Do(t, http.MethodGet, session.URL, nil).Status; got != http.StatusOK {
			t.Fatalf("reload %d answered %d", opened, got)
		}
	}
	for _, purpose := range []http.Header{{"Sec-Purpose": {"prefetch"}}, {"Purpose": {"prefetch"}}, {"User-Agent": {"Slackbot-LinkExpanding 1.0"}}} {
		opened++
		browser.Do(t, http.MethodGet, session.URL, purpose)
	}
	head := browser.Do(t, http.MethodHead, session.URL, nil)
	if head.Status != http.StatusOK || len(head.Body) != 0 {
		t.Errorf("HEAD answered %d with %d bytes", head.Status, len(head.Body))
	}
	foreign := []http.Header{
		{"Origin": {"https://evil.example"}},
		{"Origin": {"null"}},
		{"Origin": {"http://localhost:8081"}},
		{"Origin": {apitest.PublicURL + ".evil.example"}},
		{"Sec-Fetch-Site": {"cross-site"}},
		{"Sec-Fetch-Site": {"same-site"}},
		{"Sec-Fetch-Site": {"cross-site"}, "Origin": {apitest.PublicURL}},
		{"Referer": {"https://evil.example/page"}},
		{"Referer": {"::not a url"}},
	}
	for _, header := range foreign {
		answer := browser.Do(t, http.MethodPost, session.URL, header)
		if answer.Status != http.StatusForbidden || answer.Heading(t) == "" {
			t.Errorf("POST with %v answered %d", header, answer.Status)
		}
	}
	if _, marked := browser.Cookies[cookieName(session.ID)]; len(browser.Cookies) != 1 || !marked {
		t.Errorf("the browser has %d cookies, want the mark alone", len(browser.Cookies))
	}
	if dump() != before {
		t.Error("something changed")
	}
	t.Logf("%d GETs, 1 HEAD and %d foreign POSTs: no row changed", opened, len(foreign))
	if answer := browser.Press(t, session.URL); answer.Status != http.StatusSeeOther {
		t.Errorf("the click answered %d", answer.Status)
	}
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch} {
		answer := browser.Do(t, method, apitest.PublicURL+"/oauth/callback?code=x&state=y", http.Header{"Origin": {apitest.PublicURL}})
		if answer.Status != http.StatusMethodNotAllowed || !strings.Contains(answer.Header.Get("Allow"), http.MethodGet) {
			t.Errorf("%s of the callback: %d, Allow %q", method, answer.Status, answer.Header.Get("Allow"))
		}
	}
}

// TestForwardedHeadersChangeNothing: addresses come from the configuration.
func TestForwardedHeadersChangeNothing(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	session := w.CreateSession(t, w.Tenant, "ada", nil)
	browser := w.NewBrowser()
	spoofed := http.Header{
		"X-Forwarded-Host": {"evil.example"}, "X-Forwarded-Proto": {"https"}, "Forwarded": {"host=evil.example;proto=https"},
		"X-Original-Url": {"/admin/"}, "X-Rewrite-Url": {"/admin/"}, "X-Http-Method-Override": {"DELETE"},
		"Origin": {apitest.PublicURL}, "Sec-Fetch-Site": {"same-origin"},
	}
	answer := browser.Do(t, http.MethodPost, session.URL, spoofed)
	if answer.Status != http.StatusSeeOther || !strings.Contains(answer.Location(), "redirect_uri=http%3A%2F%2Flocalhost%3A8080%2Foauth%2Fcallback") {
		t.Errorf("status %d", answer.Status)
	}
	if strings.Contains(answer.Location(), "evil.example") {
		t.Error("a header of the request is in the redirect")
	}
}

func TestAPausedTenantsLinksStop(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	session := w.CreateSession(t, w.Tenant, "ada", nil)
	w.Pause(t, w.Tenant, true)
	if got := w.NewBrowser().Do(t, http.MethodGet, session.URL, nil).Status; got != http.StatusNotFound {
		t.Errorf("GET answered %d", got)
	}
	if got := w.NewBrowser().Press(t, session.URL).Status; got != http.StatusNotFound {
		t.Errorf("the click answered %d", got)
	}
	w.Pause(t, w.Tenant, false)
	w.NewBrowser().Click(t, session.URL)
}
