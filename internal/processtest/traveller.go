package processtest

import (
	"net/http"
	"net/url"
	"testing"
)

// Traveller is somebody who stands before the consent page.
type Traveller struct {
	browser *CookieBrowser
	At      *url.URL
}

// StartTraveller takes a user to the consent page, and no further.
func StartTraveller(tb testing.TB, p Partner, returnURL string) Traveller {
	tb.Helper()
	session := p.BeginSession(tb, "ada", returnURL)
	who := Traveller{browser: NewCookieBrowser()}
	who.browser.Get(tb, session.URL)
	who.At = who.browser.Send(tb, http.MethodPost, session.URL, url.Values{}).Next(tb)
	return who
}

// CheckIss comes back with a code: without iss, which leads nowhere and spends nothing,
// and with it.
func CheckIss(tb testing.TB, who Traveller, publicURL, issuer string) {
	tb.Helper()
	query := url.Values{"code": {"a-code-of-the-test"}, "state": {who.At.Query().Get("state")}}
	if got := who.browser.Get(tb, publicURL+"/oauth/callback?"+query.Encode()); got.Status != http.StatusBadRequest {
		tb.Errorf("began at %s, came back without iss: status %d, want 400", who.At.Path, got.Status)
	}
	query.Set("iss", issuer)
	if got := who.browser.Get(tb, publicURL+"/oauth/callback?"+query.Encode()); got.Status != http.StatusSeeOther {
		tb.Errorf("began at %s, came back with iss: status %d, want 303", who.At.Path, got.Status)
	}
}
