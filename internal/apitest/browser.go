package apitest

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/PuerkitoBio/goquery"
)

// Answer is an answer of the service, or of Prisma to a browser.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// Location is where a redirect leads; "" when it is none.
func (a Answer) Location() string { return a.Header.Get("Location") }

// Query is the query of the redirect's target.
func (a Answer) Query(t *testing.T) url.Values {
	t.Helper()
	u, err := url.Parse(a.Location())
	check(t, err)
	return u.Query()
}

// Heading is the text of the page's only h1.
func (a Answer) Heading(t *testing.T) string {
	t.Helper()
	headings := a.page(t).Find("h1")
	if headings.Length() != 1 {
		t.Errorf("the page has %d headings", headings.Length())
	}
	return strings.TrimSpace(headings.Text())
}

// Text is what the page says below its heading.
func (a Answer) Text(t *testing.T) string {
	t.Helper()
	return strings.Join(strings.Fields(a.page(t).Find("main").Text()), " ")
}

// Links are the targets of the page's links.
func (a Answer) Links(t *testing.T) []string {
	t.Helper()
	return a.page(t).Find("main a").Map(func(_ int, s *goquery.Selection) string { return s.AttrOr("href", "") })
}

func (a Answer) page(t *testing.T) *goquery.Document {
	t.Helper()
	doc, err := goquery.NewDocumentFromReader(strings.NewReader(string(a.Body)))
	check(t, err)
	return doc
}

// JSON decodes the body.
func (a Answer) JSON(t *testing.T, into any) {
	t.Helper()
	if err := json.Unmarshal(a.Body, into); err != nil {
		t.Fatalf("the answer %d is not the JSON it should be: %v", a.Status, err)
	}
}

// Browser keeps cookies as browsers do. It follows no redirect by itself.
type Browser struct {
	// Cookies are this browser's cookies for the service, by name.
	Cookies map[string]string

	world *World
}

// NewBrowser returns a browser without cookies.
func (w *World) NewBrowser() *Browser {
	return &Browser{world: w, Cookies: make(map[string]string)}
}

// Copy returns a browser with the same cookies.
func (b *Browser) Copy() *Browser {
	other := b.world.NewBrowser()
	maps.Copy(other.Cookies, b.Cookies)
	return other
}

// Do sends a request to the service, with the browser's cookies, and keeps what it
// is given. It may be used from any goroutine as long as the cookies don't change.
func (b *Browser) Do(t *testing.T, method, address string, header http.Header) Answer {
	t.Helper()
	header = header.Clone()
	if header == nil {
		header = http.Header{}
	}
	for name, value := range b.Cookies {
		header.Add("Cookie", name+"="+value)
	}
	answer := b.world.send(t, method, address, header, nil)
	for _, cookie := range (&http.Response{Header: answer.Header}).Cookies() {
		b.keep(t, cookie)
	}
	return answer
}

// keep stores or drops a cookie, and demands of it what browsers demand of its
// name.
func (b *Browser) keep(t *testing.T, cookie *http.Cookie) {
	t.Helper()
	if !strings.HasPrefix(cookie.Name, "__Host-") || !cookie.Secure || cookie.Path != "/" || cookie.Domain != "" ||
		!cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode {
		t.Errorf("the cookie %s has the wrong attributes", cookie.Name)
	}
	if cookie.MaxAge < 0 {
		delete(b.Cookies, cookie.Name)
		return
	}
	if cookie.MaxAge == 0 || cookie.MaxAge > 600 {
		t.Errorf("the cookie %s lives %d s", cookie.Name, cookie.MaxAge)
	}
	b.Cookies[cookie.Name] = cookie.Value
}

// Click opens a one-time link and presses its button; it returns the address of
// Prisma's consent page.
func (b *Browser) Click(t *testing.T, link string) string {
	t.Helper()
	if page := b.Do(t, http.MethodGet, link, nil); page.Status != http.StatusOK {
		t.Fatalf("the connect page answered %d", page.Status)
	}
	answer := b.Press(t, link)
	if answer.Status != http.StatusSeeOther {
		t.Fatalf("the click answered %d", answer.Status)
	}
	return answer.Location()
}

// Press sends the form of the connect page as a browser on that page does.
func (b *Browser) Press(t *testing.T, link string) Answer {
	t.Helper()
	return b.Do(t, http.MethodPost, link, http.Header{
		"Origin": {PublicURL}, "Sec-Fetch-Site": {"same-origin"}, "Content-Type": {"application/x-www-form-urlencoded"},
	})
}

// Consent approves on Prisma's page for that workspace, or denies when it is "",
// and returns the callback's address.
func (b *Browser) Consent(t *testing.T, authorize, workspace string) string {
	t.Helper()
	u, err := url.Parse(authorize)
	check(t, err)
	form := u.Query()
	form.Set("decision", "approve")
	form.Set("workspace", workspace)
	if workspace == "" {
		form.Set("decision", "deny")
	}
	u.RawQuery = ""
	answer := b.world.send(t, http.MethodPost, u.String(),
		http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, []byte(form.Encode()))
	if !strings.HasPrefix(answer.Location(), PublicURL+"/oauth/callback?") {
		t.Fatalf("the consent page answered %d", answer.Status)
	}
	return answer.Location()
}

// Finish goes from the link to the answer of the callback.
func (b *Browser) Finish(t *testing.T, link, workspace string) Answer {
	t.Helper()
	return b.Do(t, http.MethodGet, b.Consent(t, b.Click(t, link), workspace), nil)
}

// send makes one request. Connections to the public address end at the listener.
func (w *World) send(t *testing.T, method, address string, header http.Header, body []byte) Answer {
	t.Helper()
	target, err := url.Parse(address)
	check(t, err)
	host := target.Host
	if host == publicHost {
		target.Host = w.listener
	}
	// Detached, because tests send from goroutines that may outlast a failed one.
	request, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, target.String(), strings.NewReader(string(body)))
	if err != nil {
		t.Errorf("make a request: %v", err)
		return Answer{}
	}
	request.Host = host
	if header != nil {
		request.Header = header
	}
	response, err := w.transport.RoundTrip(request)
	if err != nil {
		t.Errorf("%s: no answer: %v", method, clean(err))
		return Answer{}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Errorf("%s: half an answer: %v", method, clean(err))
	}
	return Answer{Status: response.StatusCode, Header: response.Header, Body: text}
}

// clean drops the address, which may hold a secret, from an error of net/http.
func clean(err error) error {
	if op, ok := err.(*net.OpError); ok { //nolint:errorlint // only its own outermost form
		return op.Err
	}
	return err
}
