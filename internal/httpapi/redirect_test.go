package httpapi_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

const (
	workspaceA = prismasimtest.WorkspaceA
	workspaceB = prismasimtest.WorkspaceB
)

// redirectPayloads are addresses that some comparison somewhere takes for a
// registered one, or some browser for another than it looks.
func redirectPayloads() []string {
	const good = apitest.ReturnURL // https://partner.example/connected?from=prisma
	host, rest := "partner.example", "/connected?from=prisma"
	payloads := []string{
		"javascript:alert(1)", "JavaScript:alert(1)", "java\tscript:alert(1)", "javascript://partner.example/%0aalert(1)",
		"data:text/html,<script>alert(1)</script>", "vbscript:msgbox(1)", "file:///etc/passwd", "blob:https://partner.example/1",
		"about:blank", "ftp://" + host + rest, "ws://" + host + rest, "http://" + host + rest, "HTTPS://" + host + rest,
		"https:/" + host + rest, "https:" + host + rest, "https:///" + host + rest, "https:\\\\" + host + rest, "//" + host + rest,
		"///evil.example", "////evil.example", "/\\evil.example", "\\\\evil.example", "/\\/evil.example", "\\/evil.example",
		"/evil", "evil.example", "./", "../", "?from=prisma", "#", ".", "/", " ", "/connected?from=prisma",
		"https://evil.example", "https://evil.example/" + host, "https://evil.example?" + good, "https://evil.example#" + good,
		"https://" + host + "@evil.example/", "https://" + host + ":443@evil.example/", "https://evil.example@" + host + rest,
		"https://user:pass@" + host + rest, "https://@" + host + rest, "https://:@" + host + rest, "https://" + host + "%40evil.example/",
		"https://" + host + ".evil.example" + rest, "https://evil" + host + rest, "https://evil.example\\@" + host + rest,
		"https://" + host + "\\.evil.example" + rest, "https://" + host + "%2eevil.example/", "https://" + host + "%00.evil.example/",
		"https://" + host + ":443" + rest, "https://" + host + ":8443" + rest, "https://" + host + ":" + rest, "https://" + host + ":0443" + rest,
		"https://" + host + "." + rest, "https://PARTNER.example" + rest, "https://Partner.Example" + rest, "https://partner.example./connected?from=prisma",
		"https://pаrtner.example" + rest, "https://partner.еxample" + rest, "https://ｐartner.example" + rest, "https://partner。example" + rest,
		"https://partner．example" + rest, "https://xn--prtner-3ve.example" + rest, "https://pärtner.example" + rest, "https://partner.exampIe" + rest,
		"https://partner\u00ad.example" + rest, "https://partner\u200b.example" + rest, "https://\u202epartner.example" + rest,
		"https://127.0.0.1/", "https://0x7f000001/", "https://2130706433/", "https://[::1]/", "http://localhost/", "http://127.0.0.1:8080/",
		"https://169.254.169.254/latest/meta-data", "https://[::ffff:7f00:1]/", "https://localhost:8080/oauth/callback",
		good + "#", good + "#fragment", good + "&", good + "&x=1", good + "?", good + "/", good + "%20", good + "\x00", good + "\ufeff",
		"https://" + host + "/connected", "https://" + host + "/connected?", "https://" + host + "/connected/?from=prisma",
		"https://" + host + "/Connected?from=prisma", "https://" + host + "/connected?From=prisma", "https://" + host + "/connected?from=Prisma",
		"https://" + host + "/connected?from=prisma&from=prisma", "https://" + host + "/connected;x?from=prisma",
		"https://" + host + "//connected?from=prisma", "https://" + host + "/./connected?from=prisma", "https://" + host + "/x/../connected?from=prisma",
		"https://" + host + "/%63onnected?from=prisma", "https://" + host + "/connected%3ffrom=prisma", "https://" + host + "/connected?from=%70risma",
		"https://" + host + "/connected%2f?from=prisma", "https://" + host + "/..%2fconnected?from=prisma", "https://" + host + "\\connected?from=prisma",
		"https://" + host + "/connected?from=prisma HTTP/1.1\r\nX: y", "https://" + host + "/connected?from=prisma\r\nSet-Cookie: a=b",
		apitest.OtherReturnURL + "/", apitest.OtherReturnURL + "?x", apitest.OtherReturnURL + "#x", "https://" + host, "https://" + host + "/",
		strings.Repeat("https://partner.example/", 100), "https://" + strings.Repeat("a", 3000) + ".example/", "null", "undefined", "[object Object]",
	}
	// White space and control characters, which browsers strip, in every place.
	for _, c := range []string{"\t", "\n", "\r", "\x00", "\x0b", "\x1f", " ", "\u00a0", "\u2028", "\u3000", "%09", "%0a", "%0d", "%00"} {
		for _, at := range []int{0, 1, 5, 7, 8, 15, len(good)} {
			payloads = append(payloads, good[:at]+c+good[at:])
		}
	}
	return payloads
}

// TestOnlyRegisteredURLsAreTaken sends the corpus as return URL, and as restart URL of
// sessions that need no return URL.
func TestOnlyRegisteredURLsAreTaken(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	payloads := redirectPayloads()
	if len(payloads) < 200 {
		t.Fatalf("the corpus has %d payloads only", len(payloads))
	}
	refused := 0
	for _, payload := range payloads {
		for field, completion := range map[string]string{"returnUrl": "code", "restartUrl": "automatic"} {
			body := map[string]any{"userId": "ada", "returnUrl": apitest.ReturnURL, "completion": completion, field: payload}
			answer := w.Call(t, w.Tenant.Key, http.MethodPost, "/v1/connect-sessions", body)
			var p apitest.Problem
			answer.JSON(t, &p)
			named := p.Names("/" + field)
			if (answer.Status != http.StatusUnprocessableEntity && answer.Status != http.StatusBadRequest) || !named {
				t.Errorf("%s %q, %s: status %d, field named: %v", field, payload, completion, answer.Status, named)
				continue
			}
			refused++
		}
	}
	if n := apitest.Query[int](t, w, "SELECT count(*)::int FROM connect_sessions"); n != 0 {
		t.Errorf("%d sessions were made", n)
	}
	t.Logf("%d payloads × 2 fields: %d refused", len(payloads), refused)
}

// TestNoQueryMovesARedirect adds the corpus to every request of the browser whose
// answer is a redirect. Where those lead, apitest checks as well.
func TestNoQueryMovesARedirect(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	names := []string{"returnUrl", "return_url", "redirect_uri", "redirect", "next", "url", "restartUrl", "error_uri", "iss", "target"}
	redirects, elsewhere := 0, 0
	look := func(answer apitest.Answer, allowed string) {
		if answer.Location() == "" {
			return
		}
		redirects++
		if !strings.HasPrefix(answer.Location(), allowed) {
			elsewhere++
			t.Errorf("a redirect leads elsewhere")
		}
	}
	for i, payload := range redirectPayloads() {
		if i%6 != 0 {
			continue // a flow for each sixth is enough: it is the same code for all
		}
		extra := fmt.Sprintf("%s=%s", names[i/6%len(names)], url.QueryEscape(payload))
		session := w.CreateSession(t, w.Tenant, "ada", nil)
		browser := w.NewBrowser()
		click := browser.Press(t, session.URL+"?"+extra)
		look(click, w.Flow.AuthorizeOrigin()+"/authorize?")
		if len(payload) > 3 && strings.Contains(click.Location(), url.QueryEscape(payload)) {
			t.Errorf("%q went on to Prisma", payload)
		}
		workspace := workspaceA
		if i%12 == 0 {
			workspace = ""
		}
		back := browser.Do(t, http.MethodGet, browser.Consent(t, click.Location(), workspace)+"&"+extra, nil)
		look(back, apitest.ReturnURL[:len("https://partner.example/connected?")])
	}
	t.Logf("%d redirects, %d outside the registered URLs", redirects, elsewhere)
	if redirects < 60 {
		t.Errorf("only %d redirects were seen", redirects)
	}
}
