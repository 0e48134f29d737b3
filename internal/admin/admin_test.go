package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/PuerkitoBio/goquery"
	"github.com/google/uuid"
	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/admin"
	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
	"github.com/connect-prisma/server/web"
)

const (
	origin   = "https://connect.example"
	email    = "root@example.com"
	password = "correct horse battery"
	cookie   = "__Host-admin"
)

// passwordHash is made once: under the race detector a hash takes most of a second.
var passwordHash = sync.OnceValues(func() (string, error) { return admin.HashPassword(password) })

// dashboard is a mounted dashboard on a database of its own, with one admin.
type dashboard struct {
	db      *pgtest.Database
	store   *tenants.Store
	handler http.Handler
}

func newDashboard(t *testing.T) *dashboard {
	t.Helper()
	text, err := sealing.Generate()
	if err != nil {
		t.Fatal(err)
	}
	keyset, err := sealing.Parse(text, "test")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := web.New()
	if err != nil {
		t.Fatal(err)
	}
	db := pgtest.Open(t)
	store, err := tenants.NewStore(tenants.Config{Pool: db.Pool, Keyset: keyset})
	if err != nil {
		t.Fatal(err)
	}
	d := &dashboard{db: db, store: store}
	hash, err := passwordHash()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.store.SetAdmin(t.Context(), tenants.System(), email, hash); err != nil {
		t.Fatal(err)
	}
	server, err := admin.New(admin.Config{
		Store: d.store, Pages: pages, Now: d.now(t), Origin: origin, Diagnose: diagnose(d.store),
		// Tests choose where they come from.
		IP: func(r *http.Request) netip.Addr {
			ip, err := netip.ParseAddr(r.Header.Get("X-Test-IP"))
			if err != nil {
				return netip.MustParseAddr("192.0.2.1")
			}
			return ip
		},
		RequestID: func(*http.Request) string { return "req_test" },
	})
	if err != nil {
		t.Fatal(err)
	}
	e := echo.New()
	e.HTTPErrorHandler = showKind
	server.Mount(e.Group("/admin"))
	d.handler = e
	return d
}

// now returns a clock that stands at the database's time.
func (d *dashboard) now(t *testing.T) func() time.Time {
	t.Helper()
	var now time.Time
	if err := d.db.Pool.QueryRow(t.Context(), `SELECT app.now()`).Scan(&now); err != nil {
		t.Fatal(err)
	}
	return func() time.Time { return now }
}

// showKind answers with what the service's own error handler works from.
func showKind(err error, c echo.Context) {
	status, known := map[fault.Kind]int{
		fault.NotFound:            http.StatusNotFound,
		fault.OperationNotAllowed: http.StatusForbidden,
		fault.QuotaExceeded:       http.StatusTooManyRequests,
		fault.InvalidRequest:      http.StatusBadRequest,
	}[fault.KindOf(err)]
	if !known {
		status = http.StatusInternalServerError
	}
	if e, ok := errors.AsType[*echo.HTTPError](err); ok { // echo's own 405
		status = e.Code
	}
	_ = c.String(status, err.Error())
}

// request is one request to the dashboard. A POST says that it comes from a page
// of the dashboard, unless header says otherwise.
type request struct {
	method, path string
	form         url.Values
	session      string
	header       map[string]string // "" removes one
}

func (d *dashboard) do(t *testing.T, q request) *httptest.ResponseRecorder {
	t.Helper()
	var body io.Reader = http.NoBody
	if q.form != nil {
		body = strings.NewReader(q.form.Encode())
	}
	r := httptest.NewRequestWithContext(t.Context(), q.method, origin+q.path, body)
	if q.method == http.MethodPost {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", origin)
	}
	if q.session != "" {
		r.AddCookie(&http.Cookie{Name: cookie, Value: q.session})
	}
	for name, value := range q.header {
		if r.Header.Del(name); value != "" {
			r.Header.Set(name, value)
		}
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	for name, want := range map[string]string{
		"Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
		"Referrer-Policy":         "same-origin",
		"Cache-Control":           "no-store",
		"X-Content-Type-Options":  "nosniff",
	} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s %s: %s = %q, want %q", q.method, q.path, name, got, want)
		}
	}
	return w
}

func (d *dashboard) trySignIn(t *testing.T, mail, pass, session, ip string) *httptest.ResponseRecorder {
	t.Helper()
	return d.do(t, request{
		method: http.MethodPost, path: "/admin/sign-in", session: session,
		form:   url.Values{"email": {mail}, "password": {pass}},
		header: map[string]string{"X-Test-IP": ip},
	})
}

// signIn returns the secret of a new session.
func (d *dashboard) signIn(t *testing.T) string {
	t.Helper()
	w := d.trySignIn(t, email, password, "", "")
	if w.Code != http.StatusSeeOther || w.Header().Get("Location") != "/admin" {
		t.Fatalf("sign in: %d to %q, want 303 to /admin", w.Code, w.Header().Get("Location"))
	}
	return sessionOf(t, w)
}

func sessionOf(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	set, err := http.ParseSetCookie(w.Header().Get("Set-Cookie"))
	if err != nil {
		t.Fatalf("Set-Cookie %q: %v", w.Header().Get("Set-Cookie"), err)
	}
	if set.Name != cookie || !set.Secure || !set.HttpOnly || set.Path != "/" || set.Domain != "" ||
		set.SameSite != http.SameSiteLaxMode || len(set.Value) < 43 {
		t.Errorf("the session cookie lacks protection: name %q, path %q, %d characters", set.Name, set.Path, len(set.Value))
	}
	return set.Value
}

func (d *dashboard) wantSignedIn(t *testing.T, session string, want bool) {
	t.Helper()
	w := d.do(t, request{method: http.MethodGet, path: "/admin", session: session})
	if got := w.Code == http.StatusOK; got != want {
		t.Errorf("GET /admin with the session: %d, want signed in = %t", w.Code, want)
	}
}

// seed is a tenant with secrets of every kind.
type seed struct {
	tenant  tenants.Tenant
	keys    []tenants.Key
	secrets []string
}

func (d *dashboard) seed(t *testing.T) seed {
	t.Helper()
	by := tenants.Actor{Type: tenants.ActorCommand}
	s := seed{secrets: []string{"canary-client-secret", "canary-service-token", password}}
	tenant, err := d.store.CreateTenant(t.Context(), by, tenants.TenantInput{
		Name: `Field <b>Notes</b>`, Client: tenants.OAuthClient{ID: "client_1", Secret: s.secrets[0]},
		ServiceToken: s.secrets[1], ReturnURLs: []string{"https://app.example/callback"},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.tenant = tenant
	for i, name := range []string{"live", "revoked", "expired"} {
		expires := time.Time{}
		if name == "expired" {
			expires = d.now(t)().Add(-time.Minute)
		}
		key, secret, err := d.store.CreateKey(t.Context(), by, tenant.ID, name, tenants.AllScopes()[i:], expires)
		if err != nil {
			t.Fatal(err)
		}
		s.keys, s.secrets = append(s.keys, key), append(s.secrets, secret)
	}
	if _, err := d.store.RevokeKey(t.Context(), by, tenant.ID, s.keys[1].ID); err != nil {
		t.Fatal(err)
	}
	return s
}

// addConnections adds connections of users called "<status> user 1" and so on, whose
// tokens are secrets that no page may show.
func (d *dashboard) addConnections(t *testing.T, s *seed, status, reason string, n int) {
	t.Helper()
	const access, refresh = "canary-access-token", "canary-refresh-token"
	s.secrets = append(s.secrets, access, refresh)
	now := d.now(t)()
	lines := make([]tenants.ImportLine, n)
	for i := range lines {
		user := fmt.Sprintf("%s user %d", status, i+1)
		lines[i] = tenants.ImportLine{
			Number: int64(i + 1), Tenant: s.tenant.ID, UserID: user, WorkspaceID: fmt.Sprintf("wksp_%d", i+1),
			Access: access + user, Refresh: refresh + user, IssuedAt: now, ExpiresAt: now.Add(time.Hour),
		}
	}
	if _, err := d.store.Import(t.Context(), tenants.System(), lines); err != nil {
		t.Fatal(err)
	}
	// A pair of unknown fate is given up when its refresh token has ended, and not before.
	if reason == tenants.ReasonUnknown {
		d.update(t, s, `UPDATE connections SET access_issued_at = app.now() - interval '91 days' WHERE user_id LIKE $1 || ' user %'`, status)
	}
	d.update(t, s, `
		UPDATE connections SET workspace_name = 'Team ' || split_part(workspace_id, '_', 2), status = $1, status_reason = NULLIF($2, ''),
			access_token_sealed = CASE WHEN $1 <> 'disconnected' THEN access_token_sealed END,
			refresh_token_sealed = CASE WHEN $1 <> 'disconnected' THEN refresh_token_sealed END
		WHERE user_id LIKE $1 || ' user %'`, status, reason)
}

func (d *dashboard) update(t *testing.T, s *seed, sql string, args ...any) {
	t.Helper()
	if err := d.inTenant(t.Context(), s.tenant.ID, sql, args...); err != nil {
		t.Fatal(err)
	}
}

func (d *dashboard) inTenant(ctx context.Context, id tenants.TenantID, sql string, args ...any) error {
	tx, err := d.db.Pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if _, err := tx.Exec(ctx, `SELECT set_config('app.tenant', $1, true)`, id.UUID.String()); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, sql, args...); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

func page(t *testing.T, w *httptest.ResponseRecorder) *goquery.Document {
	t.Helper()
	doc, err := goquery.NewDocumentFromReader(strings.NewReader(w.Body.String()))
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

func words(s *goquery.Selection) string { return strings.Join(strings.Fields(s.Text()), " ") }

func TestTenantsPage(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	session := d.signIn(t)
	empty := d.do(t, request{method: http.MethodGet, path: "/admin", session: session})
	if got := words(page(t, empty).Find("main")); !strings.Contains(got, "no tenant yet") {
		t.Errorf("the empty page says %q", got)
	}

	s := d.seed(t)
	for status, n := range map[string]int{"active": 4, "suspect": 3, "disconnected": 1} {
		d.addConnections(t, &s, status, "", n)
	}
	d.addConnections(t, &s, "needs_reconnect", tenants.ReasonRefused, 2)
	doc := page(t, d.do(t, request{method: http.MethodGet, path: "/admin", session: session}))
	row := doc.Find("tbody tr")
	if got, want := words(row.Find("th")), s.tenant.Name+s.tenant.ID.String(); got != want {
		t.Errorf("the row is of %q, want %q", got, want)
	}
	if got := words(row.Find("td.number")); got != "4321" {
		t.Errorf("counts = %q, want 4, 3, 2 and 1", got)
	}
	if got, _ := doc.Find("tbody a").Attr("href"); got != "/admin/tenants/"+s.tenant.ID.String() {
		t.Errorf("the tenant links to %q", got)
	}
	if got := words(doc.Find(".tiles")); got != "Active4 Suspect3 Needs reconnect2 Disconnected1" {
		t.Errorf("totals = %q", got)
	}
}

// diagnose is what a service says, which has something against the workspace wksp_3.
func diagnose(store *tenants.Store) func(tenants.Connection) tenants.Diagnosis {
	return func(c tenants.Connection) tenants.Diagnosis {
		d := store.Diagnose(c, time.Time{})
		if c.WorkspaceID == "wksp_3" {
			d.Code, d.Message, d.Action = tenants.DiagnosisStopped, "Nothing is renewed.", tenants.ActionOperator
		}
		return d
	}
}

func TestTenantPageDiagnoses(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	session, s := d.signIn(t), d.seed(t)
	d.addConnections(t, &s, "active", "", 3)
	d.addConnections(t, &s, "needs_reconnect", tenants.ReasonUnknown, 1)
	doc := page(t, d.do(t, request{method: http.MethodGet, path: "/admin/tenants/" + s.tenant.ID.String(), session: session}))
	said := map[string]string{}
	doc.Find("section[aria-labelledby=connections] tbody tr").Each(func(_ int, row *goquery.Selection) {
		user, _, _ := strings.Cut(words(row.Find("th")), "cnx_")
		said[user] = words(row.Find("[data-label=Status]"))
	})
	for user, want := range map[string][]string{
		"active user 1":          {"active"},
		"active user 3":          {"active", "renewals stopped", "Nothing is renewed.", "You have to act."},
		"needs_reconnect user 1": {"needs reconnect", "refresh outcome unknown", "The user has to connect again."},
	} {
		for _, text := range want {
			if !strings.Contains(said[user], text) {
				t.Errorf("the row of %s says %q, not %q", user, said[user], text)
			}
		}
		if len(want) == 1 && said[user] != want[0] {
			t.Errorf("the row of %s says %q, want %q alone", user, said[user], want[0])
		}
	}
}

func TestTenantPage(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	session, s := d.signIn(t), d.seed(t)
	d.addConnections(t, &s, "needs_reconnect", tenants.ReasonRefused, 1)
	path := "/admin/tenants/" + s.tenant.ID.String()
	w := d.do(t, request{method: http.MethodGet, path: path, session: session})
	if w.Code != http.StatusOK {
		t.Fatalf("GET %s: %d", path, w.Code)
	}
	doc := page(t, w)
	text := words(doc.Find("main"))
	for _, want := range []string{
		s.tenant.Name, s.tenant.ID.String(), "client_1", "https://app.example/callback",
		"needs_reconnect user 1", "Team 1", "wksp_1", "needs reconnect", "refresh token refused",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the page doesn't say %q", want)
		}
	}
	for _, key := range s.keys {
		row := doc.Find("tr").FilterFunction(func(_ int, row *goquery.Selection) bool {
			return strings.Contains(row.Text(), key.ID.String())
		})
		if got := words(row.Find(".badge")); got != key.Name { // each is named after its state
			t.Errorf("key %s: state %q", key.Name, got)
		}
		if got := words(row); !strings.Contains(got, key.Hint+"…") || !strings.Contains(got, "passthrough") {
			t.Errorf("key %s: row %q lacks hint or scopes", key.Name, got)
		}
	}

	d.addConnections(t, &s, "active", "", 250)
	doc = page(t, d.do(t, request{method: http.MethodGet, path: path, session: session}))
	if n := doc.Find("section[aria-labelledby=connections] tbody tr").Length(); n != 200 {
		t.Errorf("%d connections are listed, want the newest 200", n)
	}
	if got := words(doc.Find(".hint")); !strings.Contains(got, "there are more") {
		t.Errorf("the page doesn't say that there are more: %q", got)
	}
}

func TestUnknownPagesAreNotFound(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	session := d.signIn(t)
	for _, path := range []string{
		"/admin/tenants/ten_aaaaaaaaaaaaaaaaaaaaaaaaaa", "/admin/tenants/" + tenants.TenantID{UUID: uuid.New()}.String(),
		"/admin/tenants/x", "/admin/tenants/' OR 1=1", "/admin/tenants/", "/admin/nothing",
	} {
		r := request{method: http.MethodGet, path: (&url.URL{Path: path}).EscapedPath(), session: session}
		if got := d.do(t, r).Code; got != http.StatusNotFound {
			t.Errorf("GET %s: %d, want 404", path, got)
		}
	}
}

func TestNoPageShowsASecret(t *testing.T) {
	t.Parallel()
	d := newDashboard(t)
	session, s := d.signIn(t), d.seed(t)
	d.addConnections(t, &s, "active", "", 3)
	s.secrets = append(s.secrets, session)
	var hash string
	if _, stored, err := d.store.AdminByEmail(t.Context(), email); err != nil {
		t.Fatal(err)
	} else if hash = stored; hash == "" {
		t.Fatal("no hash is stored")
	}
	s.secrets = append(s.secrets, hash)

	answers := []*httptest.ResponseRecorder{
		d.do(t, request{method: http.MethodGet, path: "/admin", session: session}),
		d.do(t, request{method: http.MethodGet, path: "/admin/tenants/" + s.tenant.ID.String(), session: session}),
		d.do(t, request{method: http.MethodGet, path: "/admin/sign-in"}),
		d.do(t, request{method: http.MethodGet, path: "/admin/nothing", session: session}),
		d.trySignIn(t, email, password+"!", "", ""),
		d.trySignIn(t, "nobody@example.com", password, "", ""),
		d.do(t, request{method: http.MethodPost, path: "/admin/sign-out", session: session}),
	}
	for _, w := range answers {
		headers, err := json.Marshal(w.Header())
		if err != nil {
			t.Fatal(err)
		}
		for i, secret := range s.secrets {
			if strings.Contains(w.Body.String(), secret) || strings.Contains(string(headers), secret) {
				t.Errorf("answer %d shows secret %d", w.Code, i)
			}
		}
	}
}
