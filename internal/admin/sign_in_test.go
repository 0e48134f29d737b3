package admin_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/admin"
	"github.com/connect-prisma/server/internal/tenants"
	"github.com/connect-prisma/server/web"
)

func TestSignInAndOut(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	form := d.do(t, request{method: http.MethodGet, path: "/admin/sign-in"})
	if form.Code != http.StatusOK || page(t, form).Find("form#sign-in[method=post] input[type=password]").Length() != 1 {
		t.Fatalf("GET /admin/sign-in: %d without a form", form.Code)
	}
	session := d.signIn(t)
	d.wantSignedIn(t, session, true)
	again := d.do(t, request{method: http.MethodGet, path: "/admin/sign-in", session: session})
	if again.Code != http.StatusSeeOther || again.Header().Get("Location") != "/admin" {
		t.Errorf("GET /admin/sign-in when signed in: %d, want 303 to /admin", again.Code)
	}

	out := d.do(t, request{method: http.MethodPost, path: "/admin/sign-out", session: session})
	set, err := http.ParseSetCookie(out.Header().Get("Set-Cookie"))
	if out.Code != http.StatusSeeOther || err != nil || set.Name != cookie || set.MaxAge >= 0 || set.Value != "" || !set.Secure {
		t.Errorf("sign out: %d, Set-Cookie %q", out.Code, out.Header().Get("Set-Cookie"))
	}
	d.wantSignedIn(t, session, false)
}

func TestWrongSignInSaysNotWhatIsWrong(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	bodies := make(map[string]bool)
	for name, try := range map[string][2]string{
		"wrong password":    {email, password + "!"},
		"empty password":    {email, ""},
		"long password":     {email, strings.Repeat("x", 5000)},
		"unknown address":   {"nobody@example.com", password},
		"hostile address":   {`"><script>alert(1)</script>`, password},
		"NUL in an address": {"a\x00b@example.com", password},
	} {
		w := d.trySignIn(t, try[0], try[1], "", "")
		if w.Code != http.StatusUnauthorized || w.Header().Get("Set-Cookie") != "" {
			t.Errorf("%s: %d, Set-Cookie %q; want 401 without one", name, w.Code, w.Header().Get("Set-Cookie"))
		}
		doc := page(t, w)
		if doc.Find("script").Length() != 0 {
			t.Errorf("%s: the answer holds a script", name)
		}
		if got, _ := doc.Find("input[name=password]").Attr("value"); got != "" {
			t.Errorf("%s: the password comes back", name)
		}
		doc.Find("input[name=email]").SetAttr("value", "")
		html, err := doc.Html()
		if err != nil {
			t.Fatal(err)
		}
		bodies[html] = true
	}
	if len(bodies) != 1 {
		t.Errorf("%d different answers, want one", len(bodies))
	}
	d.wantSignedIn(t, d.signIn(t), true) // the address still works
}

func TestAPlantedSessionIsNeverAdopted(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	d.wantSignedIn(t, "planted-by-somebody-else", false)
	w := d.trySignIn(t, email, password, "planted-by-somebody-else", "")
	fresh := sessionOf(t, w)
	d.wantSignedIn(t, "planted-by-somebody-else", false)
	d.wantSignedIn(t, fresh, true)

	// An attacker's own live session, planted before the victim signs in, ends.
	second := sessionOf(t, d.trySignIn(t, email, password, fresh, ""))
	if second == fresh {
		t.Error("sign-in kept the session that was there")
	}
	d.wantSignedIn(t, fresh, false)
	d.wantSignedIn(t, second, true)

	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, origin+"/admin", http.NoBody)
	r.Header.Set("Cookie", cookie+"=planted; "+cookie+"="+second)
	both := httptest.NewRecorder()
	d.handler.ServeHTTP(both, r)
	if both.Code != http.StatusSeeOther {
		t.Errorf("two session cookies: %d, want 303 to the form", both.Code)
	}
}

func TestASessionEnds(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	session := d.signIn(t)
	d.db.Advance(t, 14*time.Minute)
	d.wantSignedIn(t, session, true) // and is awake again
	d.db.Advance(t, 14*time.Minute)
	d.wantSignedIn(t, session, true)
	d.db.Advance(t, 15*time.Minute)
	d.wantSignedIn(t, session, false)

	session = d.signIn(t)
	for range 51 { // 51 × 14 minutes is just under 12 hours
		d.db.Advance(t, 14*time.Minute)
		d.wantSignedIn(t, session, true)
	}
	d.db.Advance(t, 14*time.Minute)
	d.wantSignedIn(t, session, false)
}

func TestTooManyFailures(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	const attacker, neighbour = "2001:db8:1:2:3:4:5:6", "2001:db8:1:3::1"
	for i := range 10 {
		if got := d.trySignIn(t, email, "wrong password", "", attacker).Code; got != http.StatusUnauthorized {
			t.Fatalf("try %d: %d, want 401", i+1, got)
		}
	}
	// Also with the right password, and from another address of the same network.
	for _, ip := range []string{attacker, "2001:db8:1:2::1"} {
		if got := d.trySignIn(t, email, password, "", ip).Code; got != http.StatusTooManyRequests {
			t.Errorf("try 11 from %s: %d, want 429", ip, got)
		}
	}
	if got := d.trySignIn(t, email, password, "", neighbour).Code; got != http.StatusSeeOther {
		t.Errorf("from another network: %d, want 303", got)
	}
	d.db.Advance(t, 15*time.Minute)
	if got := d.trySignIn(t, email, password, "", attacker).Code; got != http.StatusSeeOther {
		t.Errorf("15 minutes later: %d, want 303", got)
	}
}

func TestFailuresAtOnceDontSlipUnderTheLimit(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	codes := make([]int, 40)
	var all sync.WaitGroup
	for i := range codes {
		all.Go(func() { codes[i] = d.trySignIn(t, email, "wrong password", "", "198.51.100.7").Code })
	}
	all.Wait()
	n := make(map[int]int)
	for _, code := range codes {
		n[code]++
	}
	// Four are checked together, so three may be under way when the tenth fails.
	if n[http.StatusUnauthorized] < 10 || n[http.StatusUnauthorized] > 13 || n[http.StatusUnauthorized]+n[http.StatusTooManyRequests] != len(codes) {
		t.Errorf("answers = %v, want 10 to 13 × 401 and the rest 429", n)
	}
}

func TestWithoutASession(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	tenant := "/admin/tenants/" + tenants.TenantID{}.String()
	for path, want := range map[string]string{
		"/admin":              "/admin/sign-in",
		"/admin/":             "/admin/sign-in",
		"/admin/nothing":      "/admin/sign-in",
		"/admin/tenants/evil": "/admin/sign-in",
		tenant:                "/admin/sign-in?next=" + url.QueryEscape(tenant),
	} {
		for _, session := range []string{"", "unknown"} {
			w := d.do(t, request{method: http.MethodGet, path: path, session: session})
			if got := w.Header().Get("Location"); w.Code != http.StatusSeeOther || got != want {
				t.Errorf("GET %s: %d to %q, want 303 to %q", path, w.Code, got, want)
			}
		}
	}
	w := d.do(t, request{method: http.MethodPost, path: "/admin/sign-out"})
	if got := w.Header().Get("Location"); w.Code != http.StatusSeeOther || got != "/admin/sign-in" {
		t.Errorf("POST /admin/sign-out: %d to %q, want 303 to /admin/sign-in", w.Code, got)
	}
}

func TestSignInLeadsBackOnlyIntoTheDashboard(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	tenant := "/admin/tenants/" + tenants.TenantID{}.String()
	for next, want := range map[string]string{
		"": "/admin", "/admin": "/admin", tenant: tenant,
		"https://evil.example": "/admin", "//evil.example": "/admin", `/\evil.example`: "/admin", "/admin/../x": "/admin",
		tenant + "/../..//evil": "/admin", tenant + "\r\nX: y": "/admin", "/admin/sign-out": "/admin", "javascript:alert(1)": "/admin",
		"\thttps://evil.example": "/admin", "/admin/tenants/@evil.example": "/admin", "/%09/evil.example": "/admin",
	} {
		form := d.do(t, request{method: http.MethodGet, path: "/admin/sign-in?" + url.Values{"next": {next}}.Encode()})
		if got, _ := page(t, form).Find("input[name=next]").Attr("value"); got != want {
			t.Errorf("next %q: the form carries %q, want %q", next, got, want)
		}
		w := d.do(t, request{method: http.MethodPost, path: "/admin/sign-in", form: url.Values{
			"email": {email}, "password": {password}, "next": {next},
		}})
		if got := w.Header().Get("Location"); w.Code != http.StatusSeeOther || got != want {
			t.Errorf("next %q: %d to %q, want 303 to %q", next, w.Code, got, want)
		}
	}
}

func TestPostsFromElsewhereAreRefused(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	session := d.signIn(t)
	none := map[string]string{"Origin": ""}
	with := func(name, value string) map[string]string { return map[string]string{"Origin": "", name: value} }
	tests := map[string]struct {
		header  map[string]string
		session string
		foreign bool
	}{
		"our origin":                      {nil, session, false},
		"same-origin fetch":               {with("Sec-Fetch-Site", "same-origin"), session, false},
		"own referer, no other header":    {with("Referer", origin+"/admin"), session, false},
		"no header and no session":        {none, "", false}, // a script; there is nothing to misuse
		"foreign origin":                  {map[string]string{"Origin": "https://evil.example"}, session, true},
		"foreign origin, no session":      {map[string]string{"Origin": "https://evil.example"}, "", true},
		"null origin":                     {map[string]string{"Origin": "null"}, session, true},
		"other scheme":                    {with("Referer", "https://connect.example.evil/"), session, true},
		"cross-site fetch":                {map[string]string{"Origin": "", "Sec-Fetch-Site": "cross-site"}, session, true},
		"same-site fetch":                 {map[string]string{"Origin": "", "Sec-Fetch-Site": "same-site"}, session, true},
		"foreign referer":                 {with("Referer", "https://evil.example/"), session, true},
		"foreign referer, no session":     {with("Referer", "https://evil.example/"), "", true},
		"unreadable referer":              {with("Referer", "about:blank"), session, true},
		"user information in the referer": {with("Referer", "https://connect.example@evil.example/"), session, true},
		"no header but a session":         {none, session, true},
	}
	for name, tc := range tests {
		if !tc.foreign {
			continue
		}
		for _, path := range []string{"/admin/sign-in", "/admin/sign-out", "/admin", "/admin/nothing"} {
			w := d.do(t, request{
				method: http.MethodPost, path: path, session: tc.session, header: tc.header,
				form: url.Values{"email": {email}, "password": {password}},
			})
			if w.Code != http.StatusForbidden || w.Header().Get("Set-Cookie") != "" {
				t.Errorf("%s: POST %s: %d, Set-Cookie %q; want 403 and none", name, path, w.Code, w.Header().Get("Set-Cookie"))
			}
		}
	}
	d.wantSignedIn(t, session, true) // nothing signed it out
	for name, tc := range tests {
		if tc.foreign {
			continue
		}
		w := d.do(t, request{
			method: http.MethodPost, path: "/admin/sign-in", session: tc.session, header: tc.header,
			form: url.Values{"email": {email}, "password": {password}},
		})
		if w.Code != http.StatusSeeOther {
			t.Errorf("%s: %d, want 303", name, w.Code)
		}
	}
}

func TestUnreadableForms(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	for name, q := range map[string]request{
		"too long": {form: url.Values{"email": {strings.Repeat("x", 20_000)}}},
		"broken":   {form: nil, header: map[string]string{"Content-Type": "application/x-www-form-urlencoded; ="}},
	} {
		q.method, q.path = http.MethodPost, "/admin/sign-in"
		if got := d.do(t, q).Code; got != http.StatusBadRequest {
			t.Errorf("%s: %d, want 400", name, got)
		}
	}
}

func TestNewRefusesWhatIsNoOrigin(t *testing.T) {
	t.Parallel()
	pages, err := web.New()
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "connect.example", "https://connect.example/path"} {
		if _, err := admin.New(admin.Config{Pages: pages, Origin: bad}); err == nil {
			t.Errorf("New took %q for an origin", bad)
		}
	}
}
