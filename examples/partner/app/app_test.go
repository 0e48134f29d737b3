package app_test

import (
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/connect-prisma/server/examples/partner/app"
)

func TestNewRefuses(t *testing.T) {
	t.Parallel()

	good := app.Config{ConnectURL: "http://localhost:8080", APIKey: apiKey, PublicURL: "http://localhost:8082"}
	tests := map[string]func(c *app.Config){
		"no key":                func(c *app.Config) { c.APIKey = "" },
		"no server":             func(c *app.Config) { c.ConnectURL = "" },
		"no public URL":         func(c *app.Config) { c.PublicURL = "" },
		"a public URL's path":   func(c *app.Config) { c.PublicURL = "http://localhost:8082/app" },
		"a strange scheme":      func(c *app.Config) { c.PublicURL = "ftp://localhost" },
		"a server path":         func(c *app.Config) { c.ConnectPublicURL = "https://connect.example/x?y" },
		"a short key to sign":   func(c *app.Config) { c.SessionKey = []byte("short") },
		"credentials in an URL": func(c *app.Config) { c.PublicURL = "http://a:b@localhost:8082" },
	}
	if _, err := app.New(good); err != nil {
		t.Fatalf("New() = %v", err)
	}
	for name, spoil := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := good
			spoil(&cfg)
			if _, err := app.New(cfg); err == nil {
				t.Error("New() = nil, want an error")
			} else if strings.Contains(err.Error(), apiKey) {
				t.Errorf("the error has the key: %v", err)
			}
		})
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()

	p := newPartner(t)
	b := p.signedIn("ada")
	b.post("/connect")
	for _, path := range []string{
		"/", "/connections/cnx_1", "/callback?sessionId=cs_1&error=expired", "/callback", "/nothing/here", "/static/app.css",
	} {
		page := b.get(path)
		want := map[string]string{
			"Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self' " + p.api.URL +
				"; frame-ancestors 'none'; base-uri 'none'",
			"X-Content-Type-Options": "nosniff",
			"Referrer-Policy":        "same-origin",
			"Cache-Control":          "no-store",
		}
		if strings.HasPrefix(path, "/static/") {
			want["Cache-Control"] = "public, max-age=300"
		}
		for name, value := range want {
			if got := page.header.Get(name); got != value {
				t.Errorf("%s: %s = %q, want %q", path, name, got, value)
			}
		}
	}
}

func TestEveryPageIsWellMade(t *testing.T) {
	t.Parallel()

	p := newPartner(t)
	b := p.signedIn("ada")
	b.post("/connect")
	pages := map[string]page{
		"sign in":     p.browser().get("/"),
		"home":        b.get("/"),
		"connection":  b.get("/connections/cnx_1"),
		"credentials": b.post("/connections/cnx_1/databases", "name", "x", "region", "us-east-1", "operation", "o"),
		"message":     b.get("/callback?sessionId=cs_1&error=expired"),
		"not found":   b.get("/nothing"),
	}
	for name, page := range pages {
		if page.Find("h1").Length() != 1 || page.Find("main").Length() != 1 || page.Find("title").Length() != 1 {
			t.Errorf("%s: not one h1, main and title", name)
		}
		if got, _ := page.Find("html").Attr("lang"); got != "en" {
			t.Errorf("%s: lang = %q", name, got)
		}
		if page.Find(`meta[name="viewport"]`).Length() != 1 {
			t.Errorf("%s: no viewport", name)
		}
		if page.Find("script, style, [style]").Length() != 0 {
			t.Errorf("%s: has what the policy forbids", name)
		}
		if strings.Contains(page.raw, apiKey) {
			t.Errorf("%s: has the API key", name)
		}
	}
}

func TestCrossSiteFormsAreRefused(t *testing.T) {
	t.Parallel()

	p := newPartner(t)
	b := p.signedIn("ada")
	for _, path := range []string{
		"/sign-in", "/sign-out", "/connect", "/connections/cnx_1/disconnect", "/connections/cnx_1/databases",
		"/connections/cnx_1/databases/db_1/delete", "/connections/cnx_1/databases/db_1/credentials",
	} {
		req := b.form(path, "user", "grace")
		req.Header.Set("Sec-Fetch-Site", "cross-site")
		b.send(req).says(http.StatusForbidden, "That came from another site")
		req = b.form(path, "user", "grace")
		req.Header.Del("Sec-Fetch-Site")
		req.Header.Set("Origin", "https://evil.example")
		b.send(req).says(http.StatusForbidden, "That came from another site")
	}
	if n := len(p.api.seen); n != 0 {
		t.Errorf("%d API calls, want 0", n)
	}
}

func TestHugeForm(t *testing.T) {
	t.Parallel()

	p := newPartner(t)
	p.signedIn("ada").post("/connections/cnx_1/databases", "name", strings.Repeat("x", 64<<10)).
		says(http.StatusBadRequest, "could not be read")
	if n := len(p.api.seen); n != 0 {
		t.Errorf("%d API calls, want 0", n)
	}
}

// TestNamesAreText puts markup wherever the API may bring a name that somebody
// else chose.
func TestNamesAreText(t *testing.T) {
	t.Parallel()

	payloads := []string{
		`<script>alert(1)</script>`, `"><script>alert(1)</script>`, `'><img src=x onerror=alert(1)>`,
		`<svg/onload=alert(1)>`, `</title><script>alert(1)</script>`, `</textarea><script>alert(1)</script>`,
		`" onfocus=alert(1) autofocus="`, `' onmouseover='alert(1)`, `javascript:alert(1)`,
		`</code><script>alert(1)</script>`, `<a href="javascript:alert(1)">x</a>`, `{{.Account}}`, `<!--`,
		`</option></select><script>alert(1)</script>`,
	}
	for i, payload := range payloads {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			t.Parallel()
			p := newPartner(t)
			evil(p.api, payload)
			b := p.signedIn("ada")
			b.post("/connect")
			pages := []page{
				b.get("/"),
				b.get("/connections/cnx_1"),
				b.post("/connections/cnx_1/databases", "name", payload, "region", payload, "operation", payload),
				b.post("/connections/cnx_1/databases/db_1/credentials", "name", payload, "operation", payload),
				b.post("/connections/cnx_1/databases/db_1/delete"),
				b.get("/callback?sessionId=cs_1&completionCode=c"),
			}
			for _, page := range pages {
				if !strings.Contains(page.Text(), payload) {
					t.Errorf("the payload is not on the page as text: %s", page.text())
				}
				if n := page.Find("script, img:not([src='/static/icon.svg']), svg, iframe, object").Length(); n != 0 {
					t.Errorf("%d elements that the payload made", n)
				}
				for _, node := range page.Find("*").Nodes {
					for _, attr := range node.Attr {
						if strings.HasPrefix(attr.Key, "on") || strings.HasPrefix(attr.Val, "javascript:") && attr.Key == "href" {
							t.Errorf("attribute %s=%q", attr.Key, attr.Val)
						}
					}
				}
			}
		})
	}
}

// evil makes every string that the API may bring that payload, ids aside.
func evil(api *fakeAPI, payload string) {
	bad := connection("cnx_1", "ada", payload, "active")
	bad["diagnosis"] = map[string]any{"message": payload}
	one := func(a answer) func(*http.Request, map[string]any) answer {
		return func(*http.Request, map[string]any) answer { return a }
	}
	refusal := problem(http.StatusConflict, "default-database", payload)
	refusal.problem["requestId"] = payload
	changed := problem(http.StatusConflict, "workspace-changed", payload)
	changed.problem["expected"] = map[string]any{"id": payload, "name": payload}
	changed.problem["chosen"] = map[string]any{"id": payload, "name": payload}
	changed.problem["url"], changed.problem["sessionId"] = api.URL+"/connect/"+payload, "cs_2"
	database := map[string]any{
		"id": "db_1", "name": payload, "region": payload, "status": payload, "projectId": "proj_1",
		"credentials": map[string]any{"connectionString": payload},
	}
	api.routes["GET /v1/connections"] = one(ok([]any{bad}))
	api.routes["GET /v1/connections/{connection}"] = one(ok(bad))
	api.routes["GET /v1/connections/{connection}/projects"] = one(ok([]any{map[string]any{"id": "proj_1", "name": payload}}))
	api.routes["GET /v1/connections/{connection}/databases"] = one(ok([]any{database}))
	api.routes["POST /v1/connections/{connection}/databases"] = one(created(database))
	api.routes["POST /v1/connections/{connection}/databases/{database}/credentials"] = one(created(
		map[string]any{"connectionString": payload}))
	api.routes["DELETE /v1/connections/{connection}/databases/{database}"] = one(refusal)
	api.routes["POST /v1/connect-sessions/{session}/complete"] = one(changed)
	api.routes["GET /v1/regions"] = one(ok([]any{map[string]any{"id": payload, "name": payload}}))
}

func TestServerUnreachable(t *testing.T) {
	t.Parallel()

	p := newPartner(t)
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	handler, err := app.New(app.Config{ConnectURL: gone.URL, APIKey: apiKey, PublicURL: p.srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	p.srv.Config.Handler = handler
	b := p.signedIn("ada")
	b.get("/").says(http.StatusBadGateway, "Connect Prisma did not answer")
}

func TestOtherLoopbackNameLeadsToThePublicURL(t *testing.T) {
	t.Parallel()

	handler, err := app.New(app.Config{ConnectURL: "http://localhost:8080", APIKey: apiKey, PublicURL: "http://localhost:8082"})
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"127.0.0.1:8082": "http://localhost:8082/", "[::1]:8082": "http://localhost:8082/",
		"localhost:8082": "", "app.example:8082": "", "127.0.0.1:9999": "",
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if got := w.Header().Get("Location"); got != want {
			t.Errorf("%s leads to %q, want %q", host, got, want)
		}
	}
}
