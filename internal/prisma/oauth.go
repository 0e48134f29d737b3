package prisma

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/connect-prisma/server/internal/fault"
)

// DefaultScope asks for the Management API and for a refresh token.
const DefaultScope = "workspace:admin offline_access"

// ExchangeTimeouts bound one token request. A zero field takes its default.
type ExchangeTimeouts struct {
	// Dial bounds name resolution and the TCP connection. Default 2 s.
	Dial time.Duration

	// TLS bounds the handshake. Default 3 s.
	TLS time.Duration

	// Answer bounds writing the request and reading the whole answer. Default 60 s:
	// hanging up on a slow success would lose the pair in it.
	Answer time.Duration
}

// withDefaults fills the fields left zero.
func (t ExchangeTimeouts) withDefaults() ExchangeTimeouts {
	return ExchangeTimeouts{
		Dial:   cmp.Or(t.Dial, 2*time.Second),
		TLS:    cmp.Or(t.TLS, 3*time.Second),
		Answer: cmp.Or(t.Answer, time.Minute),
	}
}

// OAuthConfig says where the authorization server is.
type OAuthConfig struct {
	// AuthURL is the authorization server's issuer, below which /authorize and /token
	// lie: https://auth.prisma.io in production. No query; a trailing slash is dropped.
	AuthURL string

	// Timeouts bound each token request.
	Timeouts ExchangeTimeouts

	// TLS is the client's TLS configuration, such as private root certificates. Nil
	// takes Go's defaults.
	TLS *tls.Config

	// Proxy chooses a forward proxy for a request. Nil: none, whatever the
	// environment says.
	Proxy func(*http.Request) (*url.URL, error)
}

// OAuth makes authorization URLs and token requests. It is safe for concurrent use
// and holds no connection between requests.
type OAuth struct {
	issuer       string
	authorizeURL *url.URL
	tokenURL     string
	timeouts     ExchangeTimeouts
	http         *http.Client
}

// NewOAuth checks the configuration and returns an OAuth; it sends nothing.
func NewOAuth(cfg OAuthConfig) (*OAuth, error) {
	base, err := parseBaseURL(cfg.AuthURL)
	if err != nil {
		return nil, fmt.Errorf("authorization server URL: %w", err)
	}
	timeouts := cfg.Timeouts.withDefaults()

	// A connection of its own for every request. On a reused one the server may
	// already have hung up, and then nobody knows whether it saw the token; and Go's
	// transport resends some requests that fail on a reused connection, never one
	// that fails on a new one. HTTP/2 shares connections and retries refused
	// streams, so it is off. What this costs is one handshake an hour per user.
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	transport := &http.Transport{
		Proxy:                  cfg.Proxy,
		DialContext:            (&net.Dialer{Timeout: timeouts.Dial}).DialContext,
		TLSClientConfig:        cfg.TLS,
		TLSHandshakeTimeout:    timeouts.TLS,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxTokenAnswer,
		Protocols:              &protocols,
	}
	return &OAuth{
		issuer:       strings.TrimSuffix(cfg.AuthURL, "/"),
		authorizeURL: base.JoinPath("authorize"),
		tokenURL:     base.JoinPath("token").String(),
		timeouts:     timeouts,
		http:         &http.Client{Transport: transport, CheckRedirect: keepRedirect},
	}, nil
}

// Issuer is the authorization server's identity: the configured URL without a
// trailing slash.
func (o *OAuth) Issuer() string { return o.issuer }

// Timeouts are the deadlines that token requests run under.
func (o *OAuth) Timeouts() ExchangeTimeouts { return o.timeouts }

// AuthorizationRequest is what a user is sent to the authorization server with.
type AuthorizationRequest struct {
	// ClientID, RedirectURI, State and Verifier are required. Verifier is the PKCE
	// secret from NewVerifier; only its S256 challenge goes into the URL.
	ClientID, RedirectURI, State, Verifier string

	// Scope is space-separated; "" takes DefaultScope.
	Scope string

	// Params are further query parameters, such as campaign marks. They can't
	// replace one that OAuth defines.
	Params url.Values
}

// AuthorizationURL returns the URL of the consent page for one attempt. The order of
// its parameters is stable.
//
//	GET /authorize?client_id=&code_challenge=&code_challenge_method=S256
//	    &redirect_uri=&response_type=code&scope=&state=
//
// A missing field or a reserved name in Params is an error of the calling code; its
// kind is fault.InvalidValue.
//
// Source: RFC 6749 section 4.1.1, RFC 7636 section 4.3.
func (o *OAuth) AuthorizationURL(req AuthorizationRequest) (string, error) {
	if req.ClientID == "" || req.RedirectURI == "" || req.State == "" || req.Verifier == "" {
		return "", fault.New(fault.InvalidValue, "The authorization request is incomplete.", nil)
	}
	query := url.Values{
		"response_type":         {"code"},
		"client_id":             {req.ClientID},
		"redirect_uri":          {req.RedirectURI},
		"scope":                 {cmp.Or(req.Scope, DefaultScope)},
		"state":                 {req.State},
		"code_challenge":        {Challenge(req.Verifier)},
		"code_challenge_method": {"S256"},
	}
	for name, values := range req.Params {
		switch name {
		case "response_type", "client_id", "redirect_uri", "scope", "state", "code_challenge", "code_challenge_method",
			"client_secret", "nonce", "request", "request_uri", "response_mode":
			return "", fault.New(fault.InvalidValue, "An extra parameter uses a name that OAuth reserves.", nil)
		}
		query[name] = values
	}
	u := *o.authorizeURL
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// CheckIssuer compares the iss parameter of an authorization response with this
// server, so that a code from another authorization server is never presented here.
// A response without iss passes; an empty, doubled or different one does not, and the
// error's kind is fault.InvalidRequest.
//
// Source: RFC 9207 section 2.4.
func (o *OAuth) CheckIssuer(response url.Values) error {
	iss, present := response["iss"]
	if !present {
		return nil
	}
	if len(iss) != 1 || iss[0] != o.issuer {
		return fault.New(fault.InvalidRequest, "The answer does not come from Prisma's authorization server.", nil)
	}
	return nil
}

// NewVerifier returns a fresh PKCE verifier: 32 random bytes, base64url, 43 characters.
//
// Source: RFC 7636 section 4.1.
func NewVerifier() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails: the process ends instead
	return base64.RawURLEncoding.EncodeToString(b[:])
}

// Challenge returns the S256 challenge of a verifier.
//
// Source: RFC 7636 section 4.2.
func Challenge(verifier string) string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// ExchangeCode exchanges an authorization code for the first token pair, with exactly
// one HTTP request. The code is spent by it, whatever comes back.
//
// ctx is only looked at before anything is sent: once begun, the request runs to its
// own deadlines (ExchangeTimeouts), because hanging up would lose the grant.
//
//	POST /token  grant_type=authorization_code&code=&redirect_uri=&code_verifier=
//	             &client_id=[&client_secret=]
//	200 {"access_token", "refresh_token"?, "token_type", "expires_in"}
//	4xx {"error", "error_description"?}
//
// Every error is a *TokenError. An access token without a readable workspace_id is
// one of class Unknown: a grant that belongs to no workspace can't be kept.
//
// Source: RFC 6749 sections 4.1.3 and 5, RFC 7636 section 4.5.
func (o *OAuth) ExchangeCode(
	ctx context.Context, client OAuthClient, redirectURI, code, verifier string,
) (Grant, error) {
	grant, err := o.requestToken(ctx, client, url.Values{
		"grant_type":    {"authorization_code"},
		"code":          {code},
		"redirect_uri":  {redirectURI},
		"code_verifier": {verifier},
	})
	if err != nil {
		return Grant{}, err
	}
	if grant.WorkspaceID == "" {
		return Grant{}, &TokenError{Class: Unknown, Status: http.StatusOK, cause: errNoWorkspace}
	}
	return grant, nil
}

// Refresh exchanges a refresh token for the next pair, with exactly one HTTP request.
// As with ExchangeCode, ctx only matters before anything is sent.
//
// An answer without a refresh token leaves the presented one alive (RFC 6749 section
// 6): Grant.Refresh is then refreshToken and Grant.Rotated is false. Nothing else in a
// successful answer makes Refresh fail that could be sorted out later, because the
// old token is already gone: in particular an unreadable workspace leaves
// Grant.WorkspaceID empty.
//
//	POST /token  grant_type=refresh_token&refresh_token=&client_id=[&client_secret=]
//
// Every error is a *TokenError, whose Class says what became of the token.
//
// Source: RFC 6749 sections 5 and 6.
func (o *OAuth) Refresh(ctx context.Context, client OAuthClient, refreshToken string) (Grant, error) {
	grant, err := o.requestToken(ctx, client, url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {refreshToken},
	})
	if err != nil {
		return Grant{}, err
	}
	grant.Rotated = grant.Refresh != ""
	grant.Refresh = cmp.Or(grant.Refresh, refreshToken)
	return grant, nil
}

// keepRedirect stops a client at the first redirect and hands out that answer: a
// token must never follow a Location header.
func keepRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// parseBaseURL accepts an absolute http or https URL without credentials, query or
// fragment.
func parseBaseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("not a URL") // the parser's text would repeat it, password and all
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, errors.New("must be an absolute http or https URL")
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, errors.New("must have no credentials, query or fragment")
	}
	return u, nil
}
