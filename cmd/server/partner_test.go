package main_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"
	"github.com/jackc/pgx/v5"
)

// plain is a client that follows no redirect: tests want to see each.
func plain() *http.Client {
	return &http.Client{
		Timeout:       callLimit,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// sendJSON sends one request and returns the answer's status and body. key is the
// bearer token, "" for none; a nil body sends none.
func sendJSON(tb testing.TB, method, target, key string, body any) (int, []byte) {
	tb.Helper()
	status, answer, err := exchangeJSON(tb.Context(), method, target, key, body)
	if err != nil {
		tb.Fatal(err)
	}
	return status, answer
}

// exchangeJSON is sendJSON for goroutines that must not end the test.
func exchangeJSON(ctx context.Context, method, target, key string, body any) (int, []byte, error) {
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return 0, nil, err
		}
		content = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, target, content)
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	response, err := plain().Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return response.StatusCode, answer, err
}

// partner is a partner's backend: it calls the API of one replica with a key.
type partner struct{ origin, key string }

func (d *dev) partner() partner { return partner{origin: d.PublicURL, key: d.APIKey} }

// call sends a request that has to succeed and decodes what it says into data.
func (p partner) call(tb testing.TB, method, path string, body, data any) {
	tb.Helper()
	status, raw := sendJSON(tb, method, p.origin+path, p.key, body)
	if status/100 != 2 {
		tb.Fatalf("%s %s: status %d: %s", method, path, status, raw)
	}
	if err := json.Unmarshal(raw, &struct{ Data any }{data}); err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
}

type connectSession struct{ ID, Status, URL string }

type connection struct {
	ID, UserID, Status string
	Workspace          struct{ ID, Name string }
}

type database struct {
	ID, Name, ProjectID string
	Credentials         struct{ ID, ConnectionString string }
}

// beginSession makes a one-time link for a user.
func (p partner) beginSession(tb testing.TB, userID, returnURL string) connectSession {
	tb.Helper()
	var session connectSession
	p.call(tb, http.MethodPost, "/v1/connect-sessions", map[string]string{"userId": userID, "returnUrl": returnURL}, &session)
	return session
}

func (p partner) complete(tb testing.TB, session connectSession, userID, code string) connection {
	tb.Helper()
	var made connection
	p.call(tb, http.MethodPost, "/v1/connect-sessions/"+session.ID+"/complete",
		map[string]string{"completionCode": code, "userId": userID}, &made)
	return made
}

func (p partner) createDatabase(tb testing.TB, c connection, name string) database {
	tb.Helper()
	var made database
	p.call(tb, http.MethodPost, "/v1/connections/"+c.ID+"/databases",
		map[string]string{"name": name, "region": "eu-central-1"}, &made)
	return made
}

// connect takes a user through the flow, with the simulator set to approve.
func (d *dev) connect(tb testing.TB, userID string) connection {
	tb.Helper()
	p := d.partner()
	session := p.beginSession(tb, userID, d.SampleAppURL+"/callback")
	b := newCookieBrowser()
	page := b.get(tb, session.URL)
	returned := b.follow(tb, b.submit(tb, page, "form#connect", nil), d.SampleAppURL+"/callback")
	return p.complete(tb, session, userID, returned.Query().Get("completionCode"))
}

// cookieBrowser is as much of a browser as the flow needs: it keeps cookies, by
// host and not by port, sends Secure ones to the loopback over plain http, and
// says where a form comes from.
type cookieBrowser struct {
	client  *http.Client
	cookies map[string]map[string]string // host → name → value
}

func newCookieBrowser() *cookieBrowser {
	return &cookieBrowser{client: plain(), cookies: map[string]map[string]string{}}
}

// answer is a response that was read whole.
type answer struct {
	url    *url.URL
	status int
	header http.Header
	body   []byte
}

// document parses an answer that is a page.
func (a answer) document(tb testing.TB) *goquery.Document {
	tb.Helper()
	document, err := goquery.NewDocumentFromReader(bytes.NewReader(a.body))
	if err != nil {
		tb.Fatal(err)
	}
	return document
}

func (b *cookieBrowser) get(tb testing.TB, target string) answer {
	tb.Helper()
	return b.send(tb, http.MethodGet, target, nil)
}

func (b *cookieBrowser) send(tb testing.TB, method, target string, form url.Values) answer {
	tb.Helper()
	request, err := http.NewRequestWithContext(tb.Context(), method, target, strings.NewReader(form.Encode()))
	if err != nil {
		tb.Fatal(err)
	}
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Origin", request.URL.Scheme+"://"+request.URL.Host)
		request.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for name, value := range b.cookies[request.URL.Hostname()] {
		request.AddCookie(&http.Cookie{Name: name, Value: value})
	}
	response, err := b.client.Do(request)
	if err != nil {
		tb.Fatalf("%s %s: %v", method, request.URL.Path, err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		tb.Fatal(err)
	}
	for _, cookie := range response.Cookies() {
		b.keep(tb, request.URL.Hostname(), cookie)
	}
	return answer{url: request.URL, status: response.StatusCode, header: response.Header, body: body}
}

// keep stores a cookie, as strict about __Host- as browsers are.
func (b *cookieBrowser) keep(tb testing.TB, host string, cookie *http.Cookie) {
	tb.Helper()
	if !strings.HasPrefix(cookie.Name, "__Host-") || !cookie.Secure || !cookie.HttpOnly || cookie.Path != "/" || cookie.Domain != "" {
		tb.Errorf("cookie %s: Secure %t, HttpOnly %t, Path %q, Domain %q; want a __Host- cookie that scripts can't read",
			cookie.Name, cookie.Secure, cookie.HttpOnly, cookie.Path, cookie.Domain)
	}
	if b.cookies[host] == nil {
		b.cookies[host] = map[string]string{}
	}
	if cookie.MaxAge < 0 || cookie.Value == "" {
		delete(b.cookies[host], cookie.Name)
		return
	}
	b.cookies[host][cookie.Name] = cookie.Value
}

// submit sends a form of a page with its hidden fields and those in fields.
func (b *cookieBrowser) submit(tb testing.TB, page answer, selector string, fields url.Values) answer {
	tb.Helper()
	form := page.document(tb).Find(selector)
	if form.Length() != 1 {
		tb.Fatalf("%s (status %d) has %d forms %q, want 1:\n%s", page.url.Path, page.status, form.Length(), selector, page.body)
	}
	values := url.Values{}
	form.Find("input[type=hidden]").Each(func(_ int, input *goquery.Selection) {
		values.Add(input.AttrOr("name", ""), input.AttrOr("value", ""))
	})
	maps.Copy(values, fields)
	action, err := page.url.Parse(form.AttrOr("action", ""))
	if err != nil {
		tb.Fatal(err)
	}
	return b.send(tb, strings.ToUpper(form.AttrOr("method", http.MethodGet)), action.String(), values)
}

// next is where an answer redirects to.
func (a answer) next(tb testing.TB) *url.URL {
	tb.Helper()
	if a.status != http.StatusSeeOther {
		tb.Fatalf("%s: status %d, want 303:\n%s", a.url.Path, a.status, a.body)
	}
	to, err := a.url.Parse(a.header.Get("Location"))
	if err != nil {
		tb.Fatal(err)
	}
	return to
}

// follow goes along redirects until one leads to the address end, which it returns
// with its query, unvisited.
func (b *cookieBrowser) follow(tb testing.TB, from answer, end string) *url.URL {
	tb.Helper()
	for range 10 {
		to := from.next(tb)
		bare := *to
		bare.RawQuery = ""
		if bare.String() == end {
			return to
		}
		from = b.get(tb, to.String())
	}
	tb.Fatal("ten redirects and no end")
	return nil
}

// tables opens a created database with its connection string and lists its tables.
func tables(tb testing.TB, connectionString string) []string {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), connectionString)
	if err != nil {
		tb.Fatalf("open the created database: %v", err)
	}
	defer conn.Close(tb.Context())
	rows, err := conn.Query(tb.Context(),
		`SELECT schemaname || '.' || tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')`)
	if err != nil {
		tb.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatal(err)
	}
	slices.Sort(names)
	return names
}

// writeNote makes the table notes, if there is none, and puts a line into it.
func writeNote(tb testing.TB, connectionString, text string) {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), connectionString)
	if err != nil {
		tb.Fatalf("open the created database: %v", err)
	}
	defer conn.Close(tb.Context())
	for _, statement := range []struct {
		sql  string
		args []any
	}{{`CREATE TABLE IF NOT EXISTS notes (text text NOT NULL)`, nil}, {`INSERT INTO notes (text) VALUES ($1)`, []any{text}}} {
		if _, err := conn.Exec(tb.Context(), statement.sql, statement.args...); err != nil {
			tb.Fatalf("write to the created database: %v", err)
		}
	}
}
