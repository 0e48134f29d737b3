package prismasim

import (
	"net"
	"net/url"
	"slices"
	"strings"
)

// allowsRedirect tells whether uri is one of the client's redirect URIs. They
// are compared as strings, but a registered URI on a loopback host matches on
// any port (RFC 8252, 7.3), and a client with AnyLoopbackRedirect may name any
// http URI on a loopback host.
func (c client) allowsRedirect(uri string) bool {
	if slices.Contains(c.RedirectURIs, uri) {
		return true
	}
	asked, ok := loopbackURI(uri)
	if !ok {
		return false
	}
	if c.AnyLoopbackRedirect {
		return true
	}
	return slices.ContainsFunc(c.RedirectURIs, func(registered string) bool {
		known, ok := loopbackURI(registered)
		return ok && withoutPort(known) == withoutPort(asked)
	})
}

// loopbackURI parses uri if it is an http(s) URI on localhost, 127.0.0.1 or
// [::1] that hides nothing: no user, no fragment, and written as it is read, so
// that two parsers cannot see two hosts in it.
func loopbackURI(uri string) (*url.URL, bool) {
	u, err := url.Parse(uri)
	if err != nil || u.User != nil || u.Opaque != "" || strings.ContainsAny(uri, "#\\@") || u.String() != uri {
		return nil, false
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, false
	}
	switch u.Hostname() {
	case "localhost", "127.0.0.1", "::1":
		return u, true
	}
	return nil, false
}

func withoutPort(u *url.URL) string {
	bare := *u
	bare.Host = u.Hostname()
	return bare.String()
}

// withQuery returns uri with the parameters added to those that it has.
func withQuery(uri string, params url.Values) string {
	separator := "?"
	if strings.Contains(uri, "?") {
		separator = "&"
	}
	return uri + separator + params.Encode()
}

// formTargets are the sources of the consent page's form-action. Chromium holds
// every redirect that follows a form against it, so that it must name the
// client's origin and what the client may hand on to: other ports of this machine
// for a client on a loopback host, https elsewhere.
func formTargets(redirectURI string) string {
	u, err := url.Parse(redirectURI)
	if err != nil {
		return "'self'"
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return "'self' " + u.Scheme + ": https:"
	}
	ip := net.ParseIP(u.Hostname())
	switch {
	case ip != nil && ip.To4() == nil:
		return "'self' " + u.Scheme + ": https:" // the policy's grammar has no IPv6 address
	case u.Hostname() == "localhost", ip != nil && ip.IsLoopback():
		return "'self' " + u.Scheme + "://" + u.Host + " https: http://localhost:* http://127.0.0.1:*"
	}
	return "'self' " + u.Scheme + "://" + u.Host + " https:"
}
