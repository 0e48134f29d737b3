package processtest

import (
	"bytes"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"
)

// CookieBrowser is as much of a browser as the flow needs: it keeps cookies, by
// host and not by port, sends Secure ones to the loopback over plain http, and
// says where a form comes from.
type CookieBrowser struct {
	client  *http.Client
	Cookies map[string]map[string]string // host → name → value
}

// NewCookieBrowser returns one without cookies.
func NewCookieBrowser() *CookieBrowser {
	return &CookieBrowser{client: PlainClient(), Cookies: map[string]map[string]string{}}
}

// Answer is a response that was read whole.
type Answer struct {
	url    *url.URL
	Status int
	header http.Header
	body   []byte
}

// document parses an answer that is a page.
func (a Answer) document(tb testing.TB) *goquery.Document {
	tb.Helper()
	document, err := goquery.NewDocumentFromReader(bytes.NewReader(a.body))
	if err != nil {
		tb.Fatal(err)
	}
	return document
}

// Get opens an address.
func (b *CookieBrowser) Get(tb testing.TB, target string) Answer {
	tb.Helper()
	return b.Send(tb, http.MethodGet, target, nil)
}

// Send sends a request, with a form if there is one, and keeps the cookies of the answer.
func (b *CookieBrowser) Send(tb testing.TB, method, target string, form url.Values) Answer {
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
	for name, value := range b.Cookies[request.URL.Hostname()] {
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
	return Answer{url: request.URL, Status: response.StatusCode, header: response.Header, body: body}
}

// keep stores a cookie, as strict about __Host- as browsers are.
func (b *CookieBrowser) keep(tb testing.TB, host string, cookie *http.Cookie) {
	tb.Helper()
	if !strings.HasPrefix(cookie.Name, "__Host-") || !cookie.Secure || !cookie.HttpOnly || cookie.Path != "/" || cookie.Domain != "" {
		tb.Errorf("cookie %s: Secure %t, HttpOnly %t, Path %q, Domain %q; want a __Host- cookie that scripts can't read",
			cookie.Name, cookie.Secure, cookie.HttpOnly, cookie.Path, cookie.Domain)
	}
	if b.Cookies[host] == nil {
		b.Cookies[host] = map[string]string{}
	}
	if cookie.MaxAge < 0 || cookie.Value == "" {
		delete(b.Cookies[host], cookie.Name)
		return
	}
	b.Cookies[host][cookie.Name] = cookie.Value
}

// Submit sends a form of a page with its hidden fields and those in fields.
func (b *CookieBrowser) Submit(tb testing.TB, page Answer, selector string, fields url.Values) Answer {
	tb.Helper()
	form := page.document(tb).Find(selector)
	if form.Length() != 1 {
		tb.Fatalf("%s (status %d) has %d forms %q, want 1:\n%s", page.url.Path, page.Status, form.Length(), selector, page.body)
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
	return b.Send(tb, strings.ToUpper(form.AttrOr("method", http.MethodGet)), action.String(), values)
}

// Next is where an answer redirects to.
func (a Answer) Next(tb testing.TB) *url.URL {
	tb.Helper()
	if a.Status != http.StatusSeeOther {
		tb.Fatalf("%s: status %d, want 303:\n%s", a.url.Path, a.Status, a.body)
	}
	to, err := a.url.Parse(a.header.Get("Location"))
	if err != nil {
		tb.Fatal(err)
	}
	return to
}

// Follow goes along redirects until one leads to the address end, which it returns
// with its query, unvisited.
func (b *CookieBrowser) Follow(tb testing.TB, from Answer, end string) *url.URL {
	tb.Helper()
	for range 10 {
		to := from.Next(tb)
		bare := *to
		bare.RawQuery = ""
		if bare.String() == end {
			return to
		}
		from = b.Get(tb, to.String())
	}
	tb.Fatal("ten redirects and no end")
	return nil
}
