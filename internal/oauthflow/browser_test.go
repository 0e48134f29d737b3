package oauthflow_test

import (
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/oauthflow"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
	"github.com/connect-prisma/server/internal/tenants"
)

// TestACallbackInAnotherBrowserLeadsNowhere moves the address that Prisma sent one
// browser to into others: the attacker's code must not end in a victim's session.
func TestACallbackInAnotherBrowserLeadsNowhere(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	attacker, victim := begin(t, w, "mallory"), begin(t, w, "victim")
	disguised := victim.browser.Copy() // the victim's cookie under the attacker's name
	disguised.Cookies[cookieName(attacker.session.ID)] = victim.browser.Cookies[cookieName(victim.session.ID)]

	browsers := map[string]*apitest.Browser{
		"without cookies": w.NewBrowser(), "with its own flow": victim.browser.Copy(), "with a renamed cookie": disguised,
	}
	refused := 0
	for name, browser := range browsers {
		answer := browser.Do(t, http.MethodGet, attacker.callback.String(), nil)
		if answer.Status != http.StatusBadRequest {
			t.Errorf("%s: status %d, want 400", name, answer.Status)
			continue
		}
		refused++
	}
	// Neither flow was disturbed by that.
	for _, b := range []begun{attacker, victim} {
		if answer := b.browser.Do(t, http.MethodGet, b.callback.String(), nil); answer.Status != http.StatusSeeOther {
			t.Errorf("%s's own callback answered %d", b.session.UserID, answer.Status)
		}
	}
	n := w.Sim.Ledger(t).Counters.CodeExchanges
	t.Logf("%d of %d browsers refused, %d token requests", refused, len(browsers), n)
	if n != 0 {
		t.Errorf("%d token requests", n)
	}
}

// TestCallbacksThatPrismaNeverSends: each is refused before anything is looked up.
func TestCallbacksThatPrismaNeverSends(t *testing.T) {
	t.Parallel()
	w := apitest.New(t, discovered(t))
	set := func(name, value string) func(url.Values) { return func(q url.Values) { q.Set(name, value) } }
	add := func(name, value string) func(url.Values) { return func(q url.Values) { q.Add(name, value) } }
	tests := map[string]func(url.Values){
		"no code":           func(q url.Values) { q.Del("code") },
		"empty code":        set("code", ""),
		"code of 10 KB":     set("code", strings.Repeat("c", 10<<10)),
		"two codes":         add("code", "another-code-entirely"),
		"two states":        add("state", "another-state-entirely"),
		"state of 10 KB":    set("state", strings.Repeat("s", 10<<10)),
		"code and error":    set("error", "access_denied"),
		"wrong issuer":      set("iss", "https://evil.example"),
		"two issuers":       func(q url.Values) { q.Add("iss", q.Get("iss")) },
		"empty issuer":      set("iss", ""),
		"no issuer":         func(q url.Values) { q.Del("iss") },
		"no issuer, denied": func(q url.Values) { q.Del("iss"); q.Del("code"); q.Set("error", "access_denied") },
		"empty error":       func(q url.Values) { q.Del("code"); q.Set("error", "") },
		"session id longer": func(q url.Values) { q.Set("state", "x"+q.Get("state")) },
	}
	for name, damage := range tests {
		b := begin(t, w, "ada")
		query := b.callback.Query()
		damage(query)
		u := *b.callback
		u.RawQuery = query.Encode()
		answer := b.browser.Do(t, http.MethodGet, u.String(), nil)
		if answer.Status != http.StatusBadRequest {
			t.Errorf("%s: status %d, want 400", name, answer.Status)
		}
	}
	n := w.Sim.Ledger(t).Counters.CodeExchanges
	t.Logf("%d damaged callbacks, %d token requests", len(tests), n)
	if n != 0 {
		t.Errorf("%d token requests", n)
	}
}

// TestIssIsAwaitedOnlyOncePromised: a service that could not read Prisma's metadata yet
// takes an answer without iss, and none whose iss is wrong. As soon as it knows better,
// users who are under way need it too.
func TestIssIsAwaitedOnlyOncePromised(t *testing.T) {
	t.Parallel()
	var oauth *prisma.OAuth
	w := apitest.New(t, apitest.WithFlow(func(c *oauthflow.Config) { oauth, _ = c.OAuth.(*prisma.OAuth) }))
	answer := func(b begun, iss string) int {
		t.Helper()
		u := *b.callback
		query := u.Query()
		query.Del("iss")
		if iss != "" {
			query.Set("iss", iss)
		}
		u.RawQuery = query.Encode()
		return b.browser.Do(t, http.MethodGet, u.String(), nil).Status
	}
	early, underWay := begin(t, w, "ada"), begin(t, w, "ada")
	if got := answer(early, "https://evil.example"); got != http.StatusBadRequest {
		t.Errorf("nothing known, wrong iss: status %d, want 400", got)
	}
	if got := answer(early, ""); got != http.StatusSeeOther {
		t.Errorf("nothing known, no iss: status %d, want 303", got)
	}
	if _, err := oauth.Discover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := answer(underWay, ""); got != http.StatusBadRequest {
		t.Errorf("promised meanwhile, no iss: status %d, want 400", got)
	}
	if n := w.Sim.Ledger(t).Counters.CodeExchanges; n != 0 {
		t.Errorf("%d token requests", n)
	}
	// The refusal spent nothing: Prisma's own answer still counts.
	if got := answer(underWay, oauth.Issuer()); got != http.StatusSeeOther {
		t.Errorf("promised meanwhile, right iss: status %d, want 303", got)
	}
}

func TestAnErrorTextOfPrismaIsNotShown(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	const marker = "<script>marker-of-the-attacker</script>"
	for _, word := range []string{marker, "server_error"} {
		b := begin(t, w, "ada")
		query := b.callback.Query()
		query.Del("code")
		query.Set("error", word)
		query.Set("error_description", marker)
		query.Set("error_uri", "https://evil.example/")
		u := *b.callback
		u.RawQuery = query.Encode()
		answer := b.browser.Do(t, http.MethodGet, u.String(), nil)
		if got := answer.Query(t).Get("error"); answer.Status != http.StatusSeeOther || got != "failed" {
			t.Errorf("error %q: status %d, told %q", word, answer.Status, got)
		}
		if strings.Contains(answer.Location()+string(answer.Body), "marker-of-the-attacker") {
			t.Error("the text of the query went to the partner")
		}
		if got := w.GetSession(t, w.Tenant, b.session.ID).Status; got != "failed" {
			t.Errorf("the session is %s", got)
		}
	}
}

func TestTwoFlowsInOneBrowserBothFinish(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	browser := w.NewBrowser()
	first := w.CreateSession(t, w.Tenant, "ada", nil)
	second := w.CreateSession(t, w.Tenant, "ada", nil)
	to1, to2 := browser.Click(t, first.URL), browser.Click(t, second.URL)
	back2, back1 := browser.Consent(t, to2, workspaceB), browser.Consent(t, to1, workspaceA)

	ids := map[string]string{}
	for session, back := range map[string]string{first.ID: back1, second.ID: back2} {
		answer := browser.Do(t, http.MethodGet, back, nil)
		done := w.Complete(t, w.Tenant.Key, session, answer.Query(t).Get("completionCode"), "ada")
		connection := apitest.Data[apitest.Connection](t, done)
		ids[connection.Workspace.ID] = connection.ID
	}
	if len(ids) != 2 || ids[workspaceA] == ids[workspaceB] || len(browser.Cookies) != 0 {
		t.Errorf("connections %v, %d cookies are left", ids, len(browser.Cookies))
	}
	t.Logf("2 flows in one browser: %d connections, %d token requests", len(ids), w.Sim.Ledger(t).Counters.CodeExchanges)
}

func TestARepeatedClickReplacesTheOneBefore(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	browser := w.NewBrowser()
	session := w.CreateSession(t, w.Tenant, "ada", nil)
	old := browser.Consent(t, browser.Click(t, session.URL), workspaceA)
	before := browser.Copy() // a browser that kept the first cookie, against the rules
	fresh := browser.Consent(t, browser.Click(t, session.URL), workspaceA)

	for name, b := range map[string]*apitest.Browser{"with the new cookie": browser.Copy(), "with the old cookie": before.Copy()} {
		if answer := b.Do(t, http.MethodGet, old, nil); answer.Status != http.StatusBadRequest {
			t.Errorf("the old callback %s answered %d", name, answer.Status)
		}
	}
	// A first cookie with the state of the second click has the wrong verifier.
	if answer := before.Copy().Do(t, http.MethodGet, fresh, nil); answer.Status != http.StatusBadRequest {
		t.Errorf("the new callback with the old cookie answered %d", answer.Status)
	}
	answer := browser.Do(t, http.MethodGet, fresh, nil)
	if answer.Status != http.StatusSeeOther {
		t.Fatalf("the new callback answered %d", answer.Status)
	}
	done := w.Complete(t, w.Tenant.Key, session.ID, answer.Query(t).Get("completionCode"), "ada")
	if n := w.Sim.Ledger(t).Counters.CodeExchanges; done.Status != http.StatusOK || n != 1 {
		t.Errorf("complete answered %d after %d token requests", done.Status, n)
	}
}

// TestAClickOvertakesTheAnswerToTheOneBefore: on a slow line a user presses twice,
// and the second request has only the cookie of the page.
func TestAClickOvertakesTheAnswerToTheOneBefore(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	session := w.CreateSession(t, w.Tenant, "ada", nil)
	browser := w.NewBrowser()
	browser.Do(t, http.MethodGet, session.URL, nil)
	stranger := w.NewBrowser()
	stranger.Do(t, http.MethodGet, session.URL, nil) // before anybody clicked: it has a mark too
	overtaken := browser.Copy().Press(t, session.URL)
	second := browser.Press(t, session.URL)
	if overtaken.Status != http.StatusSeeOther || second.Status != http.StatusSeeOther {
		t.Fatalf("the clicks answered %d and %d", overtaken.Status, second.Status)
	}
	if answer := stranger.Press(t, session.URL); answer.Status != http.StatusNotFound {
		t.Errorf("another browser's click answered %d", answer.Status)
	}
	back := browser.Do(t, http.MethodGet, browser.Consent(t, second.Location(), workspaceA), nil)
	if back.Status != http.StatusSeeOther {
		t.Errorf("the callback answered %d", back.Status)
	}
}

// TestLinksThatCantBeUsedLookAllTheSame compares every kind of unusable link, byte
// by byte, in another browser and for GET and POST.
func TestLinksThatCantBeUsedLookAllTheSame(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	started := begin(t, w, "started")
	used := w.CreateSession(t, w.Tenant, "used", nil)
	w.NewBrowser().Finish(t, used.URL, workspaceA)
	denied := w.CreateSession(t, w.Tenant, "denied", nil)
	w.NewBrowser().Finish(t, denied.URL, "")
	expired := w.CreateSession(t, w.Tenant, "expired", map[string]any{"expiresInSeconds": 60})
	w.DB.Advance(t, 61*time.Second)

	links := map[string]string{
		"unknown":   apitest.PublicURL + "/connect/" + strings.Repeat("A", 43),
		"malformed": apitest.PublicURL + "/connect/x",
		"foreign":   started.session.URL, "used": used.URL, "denied": denied.URL, "expired": expired.URL,
	}
	bodies := map[string]int{}
	for name, link := range links {
		stranger := w.NewBrowser()
		for method, answer := range map[string]apitest.Answer{
			"GET": stranger.Do(t, http.MethodGet, link, nil), "POST": stranger.Press(t, link),
		} {
			bodies[string(answer.Body)]++
			if answer.Status != http.StatusNotFound || len(stranger.Cookies) != 0 || answer.Heading(t) == "" {
				t.Errorf("%s %s answered %d", method, name, answer.Status)
			}
		}
	}
	t.Logf("%d kinds of links × 2 methods: %d different pages", len(links), len(bodies))
	if len(bodies) != 1 {
		t.Errorf("%d different pages", len(bodies))
	}
	// The browser that began is not locked out by any of that.
	if answer := started.browser.Press(t, started.session.URL); answer.Status != http.StatusSeeOther {
		t.Errorf("the browser that began: %d", answer.Status)
	}
}

func TestOnlyOneOfManyBrowsersGetsALink(t *testing.T) {
	t.Parallel()
	const many = 30
	w := apitest.New(t)
	session := w.CreateSession(t, w.Tenant, "ada", nil)
	var started, refused atomic.Int32
	apitest.AtOnce(many, func(int) {
		switch answer := w.NewBrowser().Press(t, session.URL); answer.Status {
		case http.StatusSeeOther:
			started.Add(1)
		case http.StatusNotFound:
			refused.Add(1)
		default:
			t.Errorf("status %d", answer.Status)
		}
	})
	t.Logf("%d browsers click one link: %d go on, %d see the neutral page", many, started.Load(), refused.Load())
	if started.Load() != 1 || refused.Load() != many-1 {
		t.Errorf("%d go on", started.Load())
	}
}

func TestACodeOfAReplacedClientIsNotPresented(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	b := begin(t, w, "ada")
	// The tenant gets another OAuth client while the user is away: a code of the old
	// one must not be presented by the new one.
	other := tenants.OAuthClient{ID: prismasimtest.OtherClientID, Secret: prismasimtest.ClientSecret}
	_, err := w.Store.UpdateTenant(t.Context(), tenants.System(), w.Tenant.ID, tenants.TenantChange{Client: &other})
	if err != nil {
		t.Fatal(err)
	}
	answer := b.browser.Do(t, http.MethodGet, b.callback.String(), nil)
	done := w.Complete(t, w.Tenant.Key, b.session.ID, answer.Query(t).Get("completionCode"), "ada")
	apitest.WantProblem(t, done, http.StatusConflict, "restart-connect")
	if n := w.Sim.Ledger(t).Counters.CodeExchanges; n != 0 {
		t.Errorf("%d token requests", n)
	}
}
