package web_test

import (
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/PuerkitoBio/goquery"

	"github.com/connect-prisma/server/web"
)

func newPages(t *testing.T) *web.Pages {
	t.Helper()
	pages, err := web.New()
	if err != nil {
		t.Fatal(err)
	}
	return pages
}

func render(t *testing.T, pages *web.Pages, view web.View) *goquery.Document {
	t.Helper()
	body, err := pages.Render(view)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := goquery.NewDocumentFromReader(strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// views returns every page with all that it can show.
func views() map[string]web.View {
	now := time.Date(2026, 3, 4, 15, 6, 7, 0, time.UTC)
	counts := web.AdminConnectionCounts{Active: 12, Suspect: 1, NeedsReconnect: 2, Disconnected: 3}
	problem := web.ProblemPage{
		Kind: "not-found", Title: "Not found", Status: 404, Meaning: "It isn't there.", WhatToDo: "Check the id.",
		Further: []web.ProblemStatus{{Status: 410, Meaning: "It was there."}},
	}
	return map[string]web.View{
		"connect": web.ConnectPage{
			PartnerName: "Field Notes", UserLabel: "ada@example.com", Action: "/connect/abc", ExpiresAt: now, Now: now.Add(-9 * time.Minute),
		},
		"reconnect": web.ConnectPage{
			PartnerName: "Field Notes", UserLabel: "ada@example.com", Action: "/connect/abc",
			Reconnect: true, WorkspaceName: "Team A", ExpiresAt: now,
		},
		"message": web.MessagePage{
			Title: "Expired", Heading: "This link has expired", Paragraphs: []string{"It worked for 10 minutes.", "Begin again."},
			ActionLabel: "Begin again", ActionURL: "https://app.example/start", Status: 404, RequestID: "req_1",
		},
		"connected": web.ConnectedPage{
			PartnerName: "Field Notes", UserLabel: "ada@example.com", WorkspaceName: "Team A", ReturnURL: "https://app.example/done",
		},
		"workspace changed": web.WorkspaceChangedPage{
			PartnerName: "Field Notes", Expected: "Team A", Chosen: "Team B", RestartURL: "https://app.example/start",
		},
		"problem":       problem,
		"reference":     referenceView(),
		"problem index": web.ProblemIndexPage{Problems: []web.ProblemPage{problem, problem}},
		"admin sign in": web.AdminSignInPage{Error: "Email address or password is wrong.", Email: "ada@example.com", Next: "/admin"},
		"admin tenants": web.AdminTenantsPage{Admin: "ada@example.com", Total: counts, Tenants: []web.AdminTenantRow{
			{ID: "ten_1", Name: "Field Notes", URL: "/admin/tenants/ten_1", Paused: true, CreatedAt: now, Connections: counts},
		}},
		"admin tenant": web.AdminTenantPage{
			Admin: "ada@example.com", ID: "ten_1", Name: "Field Notes", Paused: true, Completion: "code", ClientID: "client_1",
			RestartURL: "https://app.example/start", ReturnURLs: []string{"https://app.example/callback"}, CreatedAt: now, Limited: true,
			Keys: []web.AdminKeyRow{{
				ID: "key_1", Name: "production", Hint: "cpk_abcd", Scopes: []string{"read", "write"}, State: "live",
				CreatedAt: now, ExpiresAt: now, LastUsedAt: now,
			}},
			Connections: []web.AdminConnectionRow{{
				ID: "cnx_1", UserID: "user-1", WorkspaceID: "wksp_1", WorkspaceName: "Team A", Status: "needs_reconnect",
				Reason: "refresh-token-refused", Message: "Prisma no longer accepts this connection.", Action: "reconnect",
				Since: now, AccessUntil: now, CreatedAt: now,
			}},
		},
	}
}

func referenceView() web.ReferencePage {
	text := []web.Span{{Text: "Send "}, {Text: "it", Code: true}, {Text: "once", Strong: true}}
	about := []web.Paragraph{{Spans: text}}
	field := web.ReferenceField{
		ID: "callIt-limit", Name: "limit", In: "query", Type: "integer", Object: "object-Thing", Required: true, Several: true,
		About: text, Example: "10",
	}
	example := []web.ReferenceExample{{Name: "One", Text: `{"a": 1}`}}
	return web.ReferencePage{
		Title: "Things", Version: "1.0.0", Server: "https://connect.example.com",
		About: []web.Paragraph{{Heading: true, Spans: text}, {Spans: text}},
		Groups: []web.ReferenceGroup{{ID: "chapter-things", Name: "Things", About: about, Operations: []web.ReferenceOperation{{
			ID: "callIt", Method: "POST", Path: "/v1/things/{id}", Summary: "Call it", About: about, Scope: "write",
			Parameters: []web.ReferenceField{field}, BodyType: "application/json", Body: []web.ReferenceField{field}, Examples: example,
			Answers:  []web.ReferenceAnswer{{Status: "200", About: text, Object: "Thing", ObjectID: "object-Thing", List: true, Headers: []string{"ETag"}, Examples: example}},
			Problems: []web.ReferenceProblem{{Kind: "not-found", Title: "Not found", Status: 404, Further: []int{410}}},
		}}}},
		Objects: []web.ReferenceObject{{ID: "object-Thing", Name: "Thing", About: about, Fields: []web.ReferenceField{field}}},
	}
}

func TestEveryPageIsWhole(t *testing.T) {
	t.Parallel()
	pages := newPages(t)
	for name, view := range views() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doc := render(t, pages, view)
			if lang, _ := doc.Find("html").Attr("lang"); lang != "en" {
				t.Errorf("lang = %q, want en", lang)
			}
			for _, one := range []string{"head > title", "h1", "main", "body > header", `meta[name=viewport][content="width=device-width, initial-scale=1"]`} {
				if n := doc.Find(one).Length(); n != 1 {
					t.Errorf("%d × %s, want 1", n, one)
				}
			}
			if title := strings.TrimSpace(doc.Find("title").Text()); len(title) < 5 || strings.HasPrefix(title, "·") {
				t.Errorf("title = %q", title)
			}
			scripts := 0
			if name == "reference" {
				scripts = doc.Find(`head > script[src^="/static/"][defer]:empty`).Length()
			}
			if n := doc.Find("script, style, [style], iframe, base").Length(); n != scripts {
				t.Errorf("%d scripts, styles or frames, want %d: the content security policy refuses them", n, scripts)
			}
			doc.Find("input:not([type=hidden])").Each(func(_ int, input *goquery.Selection) {
				if id, _ := input.Attr("id"); doc.Find("label[for="+id+"]").Length() != 1 {
					t.Errorf("input %q has no label", id)
				}
			})
			ids := make(map[string]bool)
			doc.Find("[id]").Each(func(_ int, s *goquery.Selection) {
				if id, _ := s.Attr("id"); ids[id] {
					t.Errorf("id %q is there twice", id)
				} else {
					ids[id] = true
				}
			})
			doc.Find("link[href], [src]").Each(func(_ int, s *goquery.Selection) {
				url := s.AttrOr("href", s.AttrOr("src", ""))
				if !strings.HasPrefix(url, "/static/") {
					t.Errorf("the page loads %q", url)
				}
			})
		})
	}
}

func TestWhatPagesSay(t *testing.T) {
	t.Parallel()
	pages := newPages(t)
	tests := map[string]struct {
		view web.View
		want map[string]string // selector → text it must contain
	}{
		"connect names partner and user": {views()["connect"], map[string]string{
			"h1": "Connect Prisma to Field Notes", ".facts": "ada@example.com", ".hint": "This link works for 9 minutes.",
			`form#connect[method=post][action="/connect/abc"] button[type=submit]`: "Continue to Prisma",
		}},
		"reconnect names the workspace": {views()["reconnect"], map[string]string{
			"h1": "Reconnect Prisma to Field Notes", "ol": "You choose the workspace Team A again", ".hint time": "4 Mar 2026, 15:06 UTC",
		}},
		"reconnect without a name": {web.ConnectPage{Reconnect: true}, map[string]string{"ol": "the same workspace as before"}},
		"message":                  {views()["message"], map[string]string{"h1": "This link has expired", ".hint code": "req_1", `a[href="https://app.example/start"]`: "Begin again"}},
		"connected":                {views()["connected"], map[string]string{"h1": "Prisma is connected to Field Notes", "main": "Team A", `a[href="https://app.example/done"]`: "Return to"}},
		"connected, no way back":   {web.ConnectedPage{PartnerName: "Field Notes"}, map[string]string{"main": "You can close this page."}},
		"workspace changed":        {views()["workspace changed"], map[string]string{"main": "Team B", "strong": "Team A"}},
		"problem":                  {views()["problem"], map[string]string{"h1": "Not found", "main": "Check the id."}},
		"reference": {views()["reference"], map[string]string{
			"h1": "Things version 1.0.0", "#callIt": "Call it", ".call": "POST /v1/things/{id}", `input[data-in=query][data-several]`: "",
			`form[data-method=POST][data-path="/v1/things/{id}"] button`: "Send POST", `a[href="/problems/not-found"]`: "not-found",
			"#callIt ~ details[hidden] > summary": "Try it", "#callIt ~ details a[href='#object-Thing']": "Thing",
		}},
		"sign in keeps the email": {views()["admin sign in"], map[string]string{"[role=alert]": "password is wrong", "form#sign-in button": "Sign in"}},
		"tenants, none yet":       {web.AdminTenantsPage{}, map[string]string{"main": "no tenant yet"}},
		"tenant": {views()["admin tenant"], map[string]string{
			".badge.needs_reconnect": "needs reconnect", "small": "refresh token refused", "main": "client_1", "table:last-of-type": "cpk_abcd…",
		}},
		"tenant with the shared client": {web.AdminTenantPage{SharedClient: true}, map[string]string{"main": "the installation’s"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			doc := render(t, pages, tc.view)
			for selector, want := range tc.want {
				if got := strings.Join(strings.Fields(doc.Find(selector).Text()), " "); !strings.Contains(got, want) {
					t.Errorf("%s says %q, want it to contain %q", selector, got, want)
				}
			}
		})
	}
}

func payloads() []string {
	return []string{
		`<script>alert(1)</script>`,
		`"><script>alert(1)</script>`,
		`'><img src=x onerror=alert(1)>`,
		`</title><script>alert(1)</script>`,
		`</style><script>alert(1)</script>`,
		`<svg onload=alert(1)>`,
		`<svg><script>alert(1)</script></svg>`,
		`" onmouseover="alert(1)`,
		`' onfocus='alert(1)' autofocus='`,
		"` onclick=alert(1) `",
		`javascript:alert(1)`,
		"java\tscript:alert(1)",
		`JaVaScRiPt:alert(1)//https://`,
		`data:text/html,<script>alert(1)</script>`,
		`vbscript:msgbox(1)`,
		`--><script>alert(1)</script><!--`,
		`<iframe srcdoc="<script>alert(1)</script>">`,
		`<math><mtext></mtext><mglyph><style><img src=x onerror=alert(1)>`,
		"\u0000<script\u0000>alert(1)</script>",
		`{{.}}<a href="javascript:alert(1)" style="background:url(//x)">x</a>&lt;script&gt;`,
	}
}

// fill sets every string inside v, also those in slices and structs.
func fill(v reflect.Value, text string) {
	switch {
	case v.Kind() == reflect.String:
		v.SetString(text)
	case v.Kind() == reflect.Slice:
		for i := range v.Len() {
			fill(v.Index(i), text)
		}
	case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]():
		for _, field := range v.Fields() {
			fill(field, text)
		}
	}
}

// shape is what a browser makes of a page: elements and attribute names in their
// order, without any text.
func shape(doc *goquery.Document) string {
	var out strings.Builder
	doc.Find("*").Each(func(_ int, s *goquery.Selection) {
		out.WriteString(goquery.NodeName(s))
		for _, attr := range s.Nodes[0].Attr {
			out.WriteString(" " + attr.Key)
		}
		out.WriteByte('\n')
	})
	return out.String()
}

func TestNothingShownBecomesMarkup(t *testing.T) {
	t.Parallel()
	pages := newPages(t)
	checked := 0
	for name, view := range views() {
		filled := func(text string) *goquery.Document {
			// A copy of its own: slices are shared by a shallow one.
			copied := reflect.New(reflect.TypeOf(view)).Elem()
			copied.Set(reflect.ValueOf(views()[name]))
			fill(copied, text)
			return render(t, pages, copied.Interface().(web.View))
		}
		plain := shape(filled("plain"))
		for _, payload := range payloads() {
			doc := filled(payload)
			checked++
			if got := shape(doc); got != plain {
				t.Errorf("%s: %q changed the page's elements or attributes", name, payload)
			}
			doc.Find("a[href], form[action]").Each(func(_ int, s *goquery.Selection) {
				url := strings.ToLower(s.AttrOr("href", s.AttrOr("action", "")))
				for _, scheme := range []string{"javascript:", "data:", "vbscript:"} {
					if strings.HasPrefix(strings.TrimSpace(url), scheme) {
						t.Errorf("%s: %q became the link %q", name, payload, url)
					}
				}
			})
		}
	}
	if checked != len(views())*20 {
		t.Errorf("checked %d pages, want %d", checked, len(views())*20)
	}
}
