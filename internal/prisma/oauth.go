package prisma

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma/wire"
)

// DefaultScope asks for the Management API and for a refresh token.
const DefaultScope = "workspace:admin offline_access"

// ExchangeTimeouts bound one request to the authorization server. A zero field takes its
// default.
type ExchangeTimeouts struct {
	// Dial bounds name resolution and the TCP connection. Default 2 s.
	Dial time.Duration

	// TLS bounds the handshake. Default 3 s.
	TLS time.Duration

	// Answer bounds writing the request and reading the whole answer. Default 60 s:
	// hanging up on a slow success would lose the pair in it.
	Answer time.Duration

	// Discovery bounds one whole request for the server's metadata. Default 5 s.
	Discovery time.Duration
}

// withDefaults fills the fields left zero.
func (t ExchangeTimeouts) withDefaults() ExchangeTimeouts {
	return ExchangeTimeouts{
		Dial:   cmp.Or(t.Dial, 2*time.Second),
		TLS:    cmp.Or(t.TLS, 3*time.Second),
		Answer: cmp.Or(t.Answer, time.Minute),

		Discovery: cmp.Or(t.Discovery, defaultDiscoveryTimeout),
	}
}

// OAuthConfig says where the authorization server is.
type OAuthConfig struct {
	// AuthURL is the authorization server's issuer, to the letter, a slash at its end
	// included: https://auth.prisma.io in production. No query. Until Discover has
	// found the endpoints they are taken to be /authorize and /token below it.
	AuthURL string

	// PlainHTTP accepts an issuer, and endpoints below it, by plain http elsewhere than on
	// loopback, where they are accepted anyway. For development.
	PlainHTTP bool

	// Timeouts bound each request.
	Timeouts ExchangeTimeouts

	// DialContext opens the connections. Nil takes a net.Dialer under Timeouts.Dial.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

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
	issuer      string
	base        *url.URL // the issuer, parsed
	plainHTTP   bool
	metadataURL string
	endpoints   atomic.Pointer[endpoints] // never nil
	refused     atomic.Bool               // metadata was read and was never acceptable
	timeouts    ExchangeTimeouts
	http        *http.Client
}

// NewOAuth checks the configuration and returns an OAuth; it sends nothing.
func NewOAuth(cfg OAuthConfig) (*OAuth, error) {
	base, err := wire.BaseURL(cfg.AuthURL, cfg.PlainHTTP)
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
	dial := cfg.DialContext
	if dial == nil {
		dial = (&net.Dialer{Timeout: timeouts.Dial}).DialContext
	}
	transport := &http.Transport{
		Proxy:                  cfg.Proxy,
		DialContext:            dial,
		TLSClientConfig:        cfg.TLS,
		TLSHandshakeTimeout:    timeouts.TLS,
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxTokenAnswer,
		Protocols:              &protocols,
	}
	o := &OAuth{
		issuer:      cfg.AuthURL,
		base:        base,
		plainHTTP:   cfg.PlainHTTP,
		metadataURL: metadataURLOf(base),
		timeouts:    timeouts,
		http:        &http.Client{Transport: transport, CheckRedirect: wire.KeepRedirect},
	}
	o.endpoints.Store(conventional(cfg.AuthURL, base))
	return o, nil
}

// Issuer is the authorization server's identity: the configured URL, unchanged.
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
// kind is fault.InvalidValue. Of kind fault.PrismaUnavailable: the server's metadata
// is not acceptable (Discover).
//
// Source: RFC 6749 section 4.1.1, RFC 7636 section 4.3.
func (o *OAuth) AuthorizationURL(req AuthorizationRequest) (string, error) {
	if req.ClientID == "" || req.RedirectURI == "" || req.State == "" || req.Verifier == "" {
		return "", fault.New(fault.InvalidValue, "The authorization request is incomplete.", nil)
	}
	if o.refused.Load() && !o.endpoints.Load().discovered {
		return "", fault.New(fault.PrismaUnavailable, "Prisma can't be connected at the moment.", nil).
			WithRetryAfter(time.Minute)
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
	u := *o.endpoints.Load().authorizeURL
	for name, values := range u.Query() { // an endpoint may have a query, which stays
		if _, ours := query[name]; !ours {
			query[name] = values
		}
	}
	u.RawQuery = query.Encode()
	return u.String(), nil
}

// CheckIssuer compares the iss parameter of an authorization response with this
// server, so that a code from another authorization server is never presented here.
// An empty, doubled or different one does not pass; a response without iss passes only
// as long as the server's metadata has not promised it. What counts is what is known
// when the response arrives: a server that promises iss sends it in all its responses,
// also to requests that were begun before we had read the promise. The error's kind is
// fault.InvalidRequest.
//
// Source: RFC 9207 section 2.4.
func (o *OAuth) CheckIssuer(response url.Values) error {
	iss, present := response["iss"]
	if !present && !o.endpoints.Load().IssInResponse {
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
// one HTTP request. The code is spent by it, whatever comes back, unless SecretRefused.
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
	grant, status, err := o.requestToken(ctx, client, url.Values{
		"grant_type":    {"authorization_code"},
		"code":          {code},
		"redirect_uri":  {redirectURI},
		"code_verifier": {verifier},
	})
	if err != nil {
		return Grant{}, err
	}
	if grant.WorkspaceID == "" {
		return Grant{}, &TokenError{Class: Unknown, Status: status, cause: errNoWorkspace}
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
// Grant.WorkspaceID empty. Nor does an answer that breaks off once its refresh token has
// come whole: what else came is in the Grant, Access perhaps not.
//
//	POST /token  grant_type=refresh_token&refresh_token=&client_id=[&client_secret=]
//
// Every error is a *TokenError, whose Class says what became of the token.
//
// Source: RFC 6749 sections 5 and 6.
func (o *OAuth) Refresh(ctx context.Context, client OAuthClient, refreshToken string) (Grant, error) {
	grant, status, err := o.requestToken(ctx, client, url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {refreshToken},
	})
	if err != nil {
		return Grant{}, err
	}
	if grant.Access == "" && grant.Refresh == refreshToken { // which says nothing
		return Grant{}, &TokenError{Class: Unknown, Status: status, cause: errUnusableAnswer}
	}
	grant.Rotated = grant.Refresh != ""
	grant.Refresh = cmp.Or(grant.Refresh, refreshToken)
	return grant, nil
}
