package browser_test

import (
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp/kb"

	"github.com/connect-prisma/server/internal/processtest"
)

const (
	firstChoice  = `input[name="workspace"][value="wksp_adas_workspace"]`
	secondChoice = `input[name="workspace"][value="wksp_moonshot_labs"]`
	ourForm      = `form#connect[action^="/connect/"]`
	partnerForm  = `form#connect[action="/connect"]`
	// backToApp is on the sample app's messages, and on no page that leads to one: seen, it
	// is the new page that is looked at.
	backToApp = `main a.button[href="/"]`
)

// TestBrowser goes through the product in Chromium, as a user of the sample app.
func TestBrowser(t *testing.T) {
	t.Parallel()
	if dir := os.Getenv("SCREENSHOTS"); dir != "" {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	d := processtest.StartDev(t, processtest.DevOptions{})
	chromium := startChromium(t)
	for name, test := range map[string]func(*testing.T, *processtest.Dev, *tab){
		"connect and create a database": connectAndCreate,
		"deny":                          denyConsent,
		"two tabs":                      twoTabs,
		"without JavaScript":            withoutScripts,
		"keyboard alone":                keyboardAlone,
		"dashboard":                     dashboard,
		"dead ends":                     deadEnds,
		"reference":                     reference,
		"reference without JavaScript":  referenceWithoutScripts,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, d, newBrowser(chromium, t))
		})
	}
}

// TestBrowserOfAUserWhoConsentedBefore: Prisma asks nothing and sends the browser
// straight back. That is one chain of redirects from our form to the partner, and
// browsers hold all of it against form-action.
func TestBrowserOfAUserWhoConsentedBefore(t *testing.T) {
	t.Parallel()
	d := processtest.StartDev(t, processtest.DevOptions{Env: []string{"DATABASE_URL=" + processtest.LimitedServer(t)}})
	chromium := startChromium(t)
	for _, mode := range []string{"approve", "deny"} {
		b := newBrowser(chromium, t)
		d.Control(t, http.MethodPut, "consent", map[string]string{"mode": mode, "workspaceId": d.WorkspaceIDs[0]}, nil)
		b.signIn(d, mode)
		b.click(partnerForm + " button")
		b.see(ourForm)
		b.click(ourForm + " button")
		if mode == "deny" {
			b.see(backToApp)
			continue
		}
		b.see(`[data-connection][data-status="active"]`)
		b.says(".notice", "Connected")
	}
}

// signIn opens the sample app and types in a user of the test's own: the tests
// share one dev.
func (t *tab) signIn(d *processtest.Dev, user string) {
	t.tb.Helper()
	t.open(d.SampleAppURL)
	t.write("#other-user input[name=user]", user)
	t.click("#other-user button")
	t.see(partnerForm)
}

// approve chooses a workspace on the simulator's consent page by a click on its
// label.
func (t *tab) approve(radio string) {
	t.tb.Helper()
	t.click("label:has(" + radio + ")")
	t.click(`button[value="approve"]`)
}

// connectAndCreate is the whole way, with a look at every page.
func connectAndCreate(t *testing.T, d *processtest.Dev, b *tab) {
	t.Helper()
	b.open(d.SampleAppURL)
	b.check("01-sign-in")
	b.click(`#choose-user button[value="ada"]`)
	b.see(partnerForm)
	b.check("02-home-not-connected")
	b.click(partnerForm + " button")

	b.see(ourForm)
	b.says("h1", "Sample app")
	b.says("main", "Sample app", "Ada Lovelace", "Continue to Prisma")
	b.check("03-connect")
	b.click(ourForm + " button")

	b.see(secondChoice)
	b.says("main", "Sample app", processtest.FirstWorkspace, processtest.SecondWorkspace)
	b.check("04-consent")
	b.approve(secondChoice)

	b.see(`[data-connection][data-status="active"]`)
	b.says("[data-connection]", processtest.SecondWorkspace, "Connected")
	b.says(".notice", "Connected")
	if at := evaluate[string](b, "location.href"); at != d.SampleAppURL+"/" {
		t.Errorf("back at %q, want the sample app without the code in its address", at)
	}
	b.check("05-home-connected")
	b.click("[data-connection] a.button")
	b.see("#create-database")
	b.check("06-connection-empty")
	b.write("#name", "orders")
	b.click("#create-database button")

	connectionString := b.text("#connection-string")
	b.check("07-connection-string")
	if found := processtest.Tables(t, connectionString); len(found) != 0 {
		t.Errorf("the new database has the tables %v, want none", found)
	}
	processtest.WriteNote(t, connectionString, "from the browser test")
	if found := processtest.Tables(t, connectionString); len(found) != 1 || found[0] != "public.notes" {
		t.Errorf("after CREATE TABLE the database has the tables %v, want public.notes", found)
	}
	b.click(".back a")
	b.see("[data-database]")
	b.says("[data-project]", "orders")
	b.check("08-connection-with-database")
}

// denyConsent says no on Prisma's page.
func denyConsent(t *testing.T, d *processtest.Dev, b *tab) {
	t.Helper()
	b.signIn(d, "denier")
	b.click(partnerForm + " button")
	b.click(ourForm + " button")
	b.see(secondChoice)
	b.click(`button[value="deny"]`)
	b.see(backToApp)
	b.check("09-denied")
	if text := strings.ToLower(b.text("main")); !strings.Contains(text, "not connected") && !strings.Contains(text, "nothing") {
		t.Errorf("after a denial the app says %q", text)
	}
	var connections []processtest.Connection
	d.Partner().Call(t, http.MethodGet, "/v1/connections?userId=denier", nil, &connections)
	if len(connections) != 0 {
		t.Errorf("after a denial there are %d connections, want none", len(connections))
	}
}

// twoTabs has two flows under way in one browser and ends the older one first.
func twoTabs(t *testing.T, d *processtest.Dev, b *tab) {
	t.Helper()
	b.signIn(d, "tabs")
	other := b.another()
	other.open(d.SampleAppURL)
	for _, one := range []*tab{b, other} {
		one.click(partnerForm + " button")
		one.click(ourForm + " button")
		one.see(secondChoice)
	}
	b.approve(firstChoice)
	b.see(".notice")
	other.approve(secondChoice)
	other.see(".notice")
	other.says("main", processtest.FirstWorkspace, processtest.SecondWorkspace)
	if count := evaluate[int](other, `document.querySelectorAll('[data-status="active"]').length`); count != 2 {
		t.Errorf("%d connections, want 2", count)
	}
}

// withoutScripts has JavaScript turned off from the sign-in to the database.
func withoutScripts(t *testing.T, d *processtest.Dev, b *tab) {
	t.Helper()
	b.do("turn JavaScript off", call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
	b.open("data:text/html,<title>off</title><script>document.title='on'</script>")
	if title := evaluate[string](b, "document.title"); title != "off" {
		t.Fatal("JavaScript still runs")
	}
	b.signIn(d, "no-scripts")
	b.click(partnerForm + " button")
	b.click(ourForm + " button")
	b.approve(firstChoice) // the other workspace is expected to be empty elsewhere
	b.says("[data-connection]", processtest.FirstWorkspace)
	b.click("[data-connection] a.button")
	b.write("#name", "plain")
	b.click("#create-database button")
	if found := processtest.Tables(t, b.text("#connection-string")); len(found) != 0 {
		t.Errorf("the new database has the tables %v, want none", found)
	}
}

// keyboardAlone touches no mouse from the connect page to the consent.
func keyboardAlone(t *testing.T, d *processtest.Dev, b *tab) {
	t.Helper()
	session := d.Partner().BeginSession(t, "keys", d.SampleAppURL+"/callback")
	b.open(session.URL)
	b.see(ourForm)
	b.focus(ourForm + " button")
	b.press(kb.Enter)
	b.see(secondChoice)
	b.focus(`input[name="workspace"]`)
	b.press(kb.ArrowDown)
	if evaluate[string](b, `document.querySelector('input[name="workspace"]:checked').value`) != "wksp_moonshot_labs" {
		b.press(kb.ArrowDown)
	}
	b.focus(`button[value="approve"]`)
	b.press(kb.Enter)
	// The sample app did not begin this session, so it must not take it.
	b.see(backToApp)
	b.messages.forgive("403 (Forbidden)")
	returned, err := url.Parse(evaluate[string](b, "location.href"))
	if err != nil {
		t.Fatal(err)
	}
	made := d.Partner().Complete(t, session, "keys", returned.Query().Get("completionCode"))
	if made.Workspace.ID != "wksp_moonshot_labs" {
		t.Errorf("connected %s, want the second workspace", made.Workspace.ID)
	}
}

// dashboard signs in as the admin and finds the connection that the API made.
func dashboard(t *testing.T, d *processtest.Dev, b *tab) {
	t.Helper()
	// Through the sample app, so that there is a connection to look for.
	b.signIn(d, "for-the-dashboard")
	b.click(partnerForm + " button")
	b.click(ourForm + " button")
	b.approve(secondChoice)
	b.see(".notice")

	b.open(d.AdminURL)
	b.see("#sign-in")
	b.check("10-admin-sign-in")
	b.write("#email", d.AdminEmail)
	b.write("#password", "not the password")
	b.click("#sign-in button")
	b.see("#error")
	b.check("11-admin-refused")
	b.messages.forgive("401 (Unauthorized)")
	b.write("#password", d.AdminPassword)
	b.click("#sign-in button")
	b.see("#sign-out")
	b.says("main", "Sample app")
	b.check("12-admin-tenants")
	b.click("main table a")
	b.see("#connections")
	b.says("main", "for-the-dashboard", processtest.SecondWorkspace, "Active")
	b.check("13-admin-tenant")
	b.click("#sign-out button")
	b.see("#sign-in")
	b.open(d.AdminURL)
	b.see("#sign-in")
	if text := b.text("main"); strings.Contains(text, "Sample app") {
		t.Error("after signing out the dashboard still shows a tenant")
	}
}

// deadEnds are the pages of people who got lost.
func deadEnds(t *testing.T, d *processtest.Dev, b *tab) {
	t.Helper()
	session := d.Partner().BeginSession(t, "lost", d.SampleAppURL+"/callback")
	b.open(session.URL)
	b.click(ourForm + " button")
	b.see(secondChoice)
	consent := evaluate[string](b, "location.href")
	// Every test fails on what the console says of the policy; see that it would.
	for _, origin := range []string{d.PublicURL + "/problems", d.SampleAppURL, consent} {
		b.open(origin)
		evaluate[bool](b, `document.head.append(Object.assign(document.createElement("style"), {textContent: "p{}"})) === undefined`)
		processtest.Eventually(t, "the console tells of an inline style", func() bool { return b.messages.take("Content Security Policy") })
	}

	b.open(d.PublicURL + "/problems/reconnect-required")
	b.check("14-problem")
	b.open(d.PublicURL + "/problems")
	b.check("15-problems")

	b.open(consent)
	b.approve(secondChoice)
	b.see(backToApp)
	b.check("16-not-begun-here")
	b.messages.forgive("403 (Forbidden)")

	b.open(d.PublicURL + "/connect/" + strings.Repeat("a", 43))
	b.check("17-link-not-usable")
	b.open(d.PublicURL + "/oauth/callback?state=none&code=none")
	b.check("18-callback-without-cookie")
	b.open(d.PublicURL + "/nowhere")
	b.check("19-not-found")
	b.open(d.SampleAppURL + "/nowhere")
	b.check("20-sample-app-not-found")
	b.open(d.SimulatorURL + "/authorize?client_id=nobody&redirect_uri=http%3A%2F%2Flocalhost")
	b.check("21-simulator-error")
	b.messages.forgive("404 (Not Found)", "400 (Bad Request)")
}

// reference tries calls from the page of the API's reference, with the keyboard alone.
func reference(t *testing.T, d *processtest.Dev, b *tab) {
	t.Helper()
	b.open(d.PublicURL + "/docs")
	b.see("#key")
	b.check("22-reference")
	b.write("#key", d.APIKey)
	call := func(id string, fields map[string]string) string {
		t.Helper()
		form := "article:has(#" + id + ") details.try"
		b.click(form + " > summary")
		for name, value := range fields {
			b.write("#"+id+"-"+name, value)
		}
		b.focus(form + " button")
		b.press(kb.Enter)
		b.see(form + " output pre")
		if !evaluate[bool](b, "document.activeElement.matches('"+form+" button')") {
			t.Errorf("%s: the call has taken the focus from its button", id)
		}
		return b.text(form + " output")
	}
	if said := call("listRegions", nil); !strings.Contains(said, "answered 200") || !strings.Contains(said, "eu-central-1") {
		t.Errorf("the regions: %s", said)
	}
	if said := call("listConnections", map[string]string{"limit": "0"}); !strings.Contains(said, "answered 400") || !strings.Contains(said, "invalid-request") {
		t.Errorf("a bad limit: %s", said)
	}
	if said := call("getConnection", map[string]string{"connectionId": "a/../b"}); !strings.Contains(said, "a%2F..%2Fb answered 400") {
		t.Errorf("an odd id: %s", said)
	}
	b.messages.forgive("400 (Bad Request)")
	b.check("23-reference-tried")
	// The key is in the field alone: nothing keeps it.
	kept := evaluate[string](b, "JSON.stringify([localStorage, sessionStorage, document.cookie, location.href, history.state])")
	if strings.Contains(kept, d.APIKey) {
		t.Error("the page keeps the key")
	}
}

// referenceWithoutScripts reads the reference where scripts don't run: all is there but
// what would need one.
func referenceWithoutScripts(t *testing.T, d *processtest.Dev, b *tab) {
	t.Helper()
	b.do("turn JavaScript off", call(emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}))
	b.open(d.PublicURL + "/docs")
	b.says("article:has(#createDatabase)", "Idempotency-Key", "/v1/connections/{connectionId}/databases", "write", "shop")
	if n := evaluate[int](b, "[...document.querySelectorAll('.try')].filter((e) => e.checkVisibility()).length"); n != 0 {
		t.Errorf("%d parts that need a script are shown", n)
	}
	b.click("article:has(#createDatabase) details summary")
	b.says("article:has(#createDatabase) details[open]", "201", "connectionString")
}
