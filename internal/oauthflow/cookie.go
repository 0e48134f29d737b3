package oauthflow

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/securecookie"

	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

const (
	// cookiePrefix begins the name of a flow's cookie; the session id ends it, so
	// that several flows in one browser don't disturb each other. __Host- makes the
	// browser refuse it from another host, path or an insecure page.
	cookiePrefix = "__Host-connect-"
	// clockSkew is how far in the future a cookie's time may lie: replicas' clocks
	// differ a little.
	clockSkew = time.Minute
	// maxCookie bounds what is decoded; an honest cookie has under 1 KiB.
	maxCookie = 4096
)

// flowCookie is what the browser carries between the page and the callback,
// encrypted and signed. The page sets it with Browser alone: a second click on a
// slow line overtakes the answer to the first, and has to be known as the same
// browser's. The click fills in the rest.
type flowCookie struct {
	Browser     string            `json:"browser"` // which browser: the one secret that is there before the click
	State       string            `json:"state"`
	Verifier    string            `json:"verifier"`
	Session     tenants.SessionID `json:"-"`
	SessionText string            `json:"session"`
	Tenant      string            `json:"tenant"`
	ClientID    string            `json:"client"`
	Issuer      string            `json:"issuer"`
	RedirectURI string            `json:"redirectUri"`
	Time        int64             `json:"time"` // Unix seconds of the click
}

var (
	errNoCookie  = errors.New("the flow's cookie is missing")
	errBadCookie = errors.New("the flow's cookie is not usable")
)

// cookies seals and opens flow cookies. The first codec writes; all of them read,
// so that keys can be rotated under running flows.
type cookies struct {
	codecs []securecookie.Codec
	now    func() time.Time
}

func newCookies(pairs []sealing.CookieKeys, now func() time.Time) (*cookies, error) {
	c := &cookies{now: now}
	for _, pair := range pairs {
		codec := securecookie.New(pair.Hash, pair.Block)
		codec.SetSerializer(securecookie.JSONEncoder{})
		codec.MaxAge(int(tenants.SessionLife.Seconds()))
		c.codecs = append(c.codecs, codec)
	}
	// A wrong key shows only at first use; a missing block key not even then.
	probe := flowCookie{State: "state-probe", Verifier: "verifier-probe"}
	text, err := securecookie.EncodeMulti("probe", probe, c.codecs...)
	if err != nil || strings.Contains(text, "probe") || len(c.codecs) == 0 {
		return nil, errors.New("cookie keys: can't encrypt with them")
	}
	return c, nil
}

func cookieName(session tenants.SessionID) string { return cookiePrefix + session.String() }

func (c *cookies) seal(content flowCookie) (*http.Cookie, error) {
	content.SessionText = content.Session.String()
	content.Time = c.now().Unix()
	name := cookieName(content.Session)
	value, err := securecookie.EncodeMulti(name, content, c.codecs...)
	if err != nil {
		return nil, err
	}
	return hostCookie(name, value, int(tenants.SessionLife.Seconds())), nil
}

// open returns the content of the one cookie of that session. Two cookies of the
// name are refused: one of them was planted.
func (c *cookies) open(r *http.Request, session tenants.SessionID) (flowCookie, error) {
	name := cookieName(session)
	found := r.CookiesNamed(name)
	if len(found) == 0 {
		return flowCookie{}, errNoCookie
	}
	if len(found) > 1 || len(found[0].Value) > maxCookie {
		return flowCookie{}, errBadCookie
	}
	var content flowCookie
	if err := securecookie.DecodeMulti(name, found[0].Value, &content, c.codecs...); err != nil {
		return flowCookie{}, errBadCookie
	}
	age := c.now().Sub(time.Unix(content.Time, 0))
	if age > tenants.SessionLife || age < -clockSkew {
		return flowCookie{}, errBadCookie
	}
	if content.SessionText != session.String() {
		return flowCookie{}, errBadCookie
	}
	content.Session = session
	return content, nil
}

// forget is a cookie that removes the flow's cookie from the browser.
func forget(session tenants.SessionID) *http.Cookie {
	return hostCookie(cookieName(session), "", -1)
}

// hostCookie has what the __Host- prefix demands. Lax, because the callback is a
// top-level navigation that comes from Prisma's site.
func hostCookie(name, value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: maxAge, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
}
