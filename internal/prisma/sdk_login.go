package prisma

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
)

// LoginOptions say what to ask the user for. The zero value is usable.
type LoginOptions struct {
	// Scope is space-separated. Default DefaultScope; without offline_access there is no
	// refresh token, and the login lasts an hour.
	Scope string

	// Params are further query parameters, such as campaign marks. They can't replace
	// one that OAuth defines.
	Params url.Values
}

// Login is a login that has begun. Printing or logging it shows neither state nor
// verifier.
type Login struct {
	// URL is the consent page to send the user's browser to.
	URL string

	// State and Verifier are secrets of this one attempt, 22 and 43 characters of
	// base64url. Keep both for HandleCallback where only the browser that begins this
	// login can bring them back, such as in an encrypted cookie or a session.
	State, Verifier string
}

// String names the page without its parameters.
func (l Login) String() string {
	page, _, _ := strings.Cut(l.URL, "?")
	return "login at " + page
}

// GoString is String, so that %#v shows no secret either.
func (l Login) GoString() string { return l.String() }

// LogValue is String, for handlers that would encode the fields.
func (l Login) LogValue() slog.Value { return slog.StringValue(l.String()) }

// LoginURL begins a login: it returns the URL of Prisma's consent page and the two
// secrets to keep until the user comes back. The first one reads the authorization
// server's metadata (SDKConfig.DisableDiscovery); nothing else is sent, and nothing
// stored.
//
//	GET /authorize?response_type=code&client_id=&redirect_uri=&scope=&state=
//	    &code_challenge=&code_challenge_method=S256[&further parameters]
//
// The error is an *AuthError when the server's metadata forbids to use it, for example
// because it lacks PKCE with S256; it wraps the context's error when ctx has ended. A
// parameter that replaces one of OAuth's is an error too.
//
// Source: RFC 6749 section 4.1.1, RFC 7636 section 4.3.
func (s *SDK) LoginURL(ctx context.Context, opts LoginOptions) (Login, error) {
	if err := ctx.Err(); err != nil {
		return Login{}, fmt.Errorf("begin a login: %w", err)
	}
	if err := s.ready(ctx); err != nil {
		return Login{}, err
	}
	login := Login{State: newState(), Verifier: NewVerifier()}
	page, err := s.oauth.AuthorizationURL(AuthorizationRequest{
		ClientID: s.identity.ID, RedirectURI: s.redirect, State: login.State, Verifier: login.Verifier,
		Scope: opts.Scope, Params: opts.Params,
	})
	if err != nil {
		return Login{}, fmt.Errorf("begin a login: %w", plainly(err))
	}
	login.URL = page
	return login, nil
}

// newState returns 16 random bytes, base64url, 22 characters.
func newState() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: the process ends instead
	return base64.RawURLEncoding.EncodeToString(b[:])
}
