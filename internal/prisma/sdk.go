package prisma

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// DefaultAuthBaseURL is Prisma's production authorization server.
const DefaultAuthBaseURL = "https://auth.prisma.io"

// SDKConfig is what an SDK needs. Printing or logging it does not show the secret.
type SDKConfig struct {
	// ClientID is the OAuth client's id. Required.
	ClientID string

	// ClientSecret is the OAuth client's secret; "" for a public client, such as a
	// command-line tool. PKCE is used in either case.
	ClientSecret string

	// RedirectURI is where Prisma sends the user back to: one that the client has
	// registered, absolute, without a fragment. Required.
	RedirectURI string

	// TokenStorage keeps the tokens of the one user that this SDK acts for. Required.
	// One that implements RefreshLease or RefreshLock may be shared with other
	// processes, any other one with no other SDK.
	TokenStorage TokenStorage

	// APIBaseURL is the Management API, without the /v1. Default
	// managementapi.DefaultBaseURL.
	APIBaseURL string

	// AuthBaseURL is the authorization server's issuer, to the letter. Default
	// DefaultAuthBaseURL.
	AuthBaseURL string

	// PlainHTTP accepts base URLs by plain http elsewhere than on loopback, where they are
	// accepted anyway. For development.
	PlainHTTP bool

	// DisableDiscovery: don't read the authorization server's metadata, and use
	// /authorize and /token below AuthBaseURL. iss is then checked in callbacks that
	// have it, but not required. By default the metadata is read before the first
	// login, callback or refresh, and hourly when one of these comes along.
	DisableDiscovery bool

	// Header is added to every API call. It can't have an Authorization: that is the
	// SDK's work.
	Header http.Header

	// Timeout bounds an API call, repetitions included. Default 30 s. A token refresh
	// that the call waits for counts too, but is not cut off by it.
	Timeout time.Duration

	// Transport sends the API calls. Nil takes a pooled one. Token requests never go
	// through it: each has a connection of its own, so that nothing can resend one.
	Transport http.RoundTripper

	// Retry says how API calls that only read are repeated.
	Retry managementapi.RetrySettings

	// TLS is the configuration for requests to the authorization server, such as
	// private root certificates. Nil takes Go's defaults.
	TLS *tls.Config

	// Proxy chooses a forward proxy for requests to the authorization server. Nil: what
	// the environment says (http.ProxyFromEnvironment).
	Proxy func(*http.Request) (*url.URL, error)

	// Refresh are the numbers of the token refresh. RefusalAge defaults to 1 ns here,
	// which means that every 401 is a reason to refresh, once per call. Exchange also
	// bounds the requests of a login.
	Refresh RefreshSettings

	// Now is the clock. Default time.Now.
	Now func() time.Time

	// Logger gets a record of what goes wrong behind the callers' backs, never a
	// secret. Nil: none.
	Logger *slog.Logger
}

// String names the client.
func (c SDKConfig) String() string { return "SDK configuration of client " + c.ClientID }

// GoString is String, so that %#v shows no secret either.
func (c SDKConfig) GoString() string { return c.String() }

// LogValue is String, for handlers that would encode the fields.
func (c SDKConfig) LogValue() slog.Value { return slog.StringValue(c.String()) }

// check finds what the parts made from the configuration would not.
func (c SDKConfig) check() error {
	redirect, err := url.Parse(c.RedirectURI)
	switch {
	case c.ClientID == "":
		return errors.New("a client ID is needed")
	case c.TokenStorage == nil:
		return errors.New("a token storage is needed")
	case err != nil || !redirect.IsAbs() || redirect.Fragment != "":
		return errors.New("the redirect URI must be absolute and without a fragment")
	case hasAuthorization(c.Header):
		return errors.New("the header must not have an Authorization; a managementapi.Client takes one")
	}
	return nil
}

// hasAuthorization looks for the header in any case: it would replace every user's token.
func hasAuthorization(header http.Header) bool {
	for name := range header {
		if http.CanonicalHeaderKey(name) == "Authorization" {
			return true
		}
	}
	return false
}

// SDK logs one user in to Prisma and calls the Management API for them. It is safe for
// concurrent use.
//
//	LoginURL ──> the browser, which consents ──> HandleCallback ──> TokenStorage
//	Client ──> each call: token from the storage, refreshed before it expires and
//	           when the API answers 401, then the call is repeated once
//	Logout ──> TokenStorage cleared
//
// Between LoginURL and HandleCallback nothing is kept: state and verifier are the
// caller's, who binds them to the browser that began, with an encrypted cookie for
// example.
type SDK struct {
	client    *managementapi.Client
	oauth     *OAuth
	refresher *Refresher
	storage   TokenStorage // the user's own
	conn      Connection
	identity  OAuthClient
	redirect  string
	now       func() time.Time
	logger    *slog.Logger
	discovery *discovery // nil: disabled

	// gate is passed by one writer of the storage at a time, and guards ended.
	gate    gate
	tickets atomic.Int64 // the order in which logins and logouts began
	ended   int64        // ticket of the latest one that has taken effect
}

// NewSDK checks the configuration and returns an SDK; it sends and starts nothing.
func NewSDK(cfg SDKConfig) (*SDK, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("prisma SDK: %w", err)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now //nolint:forbidigo // the default of the injected clock
	}
	if cfg.Proxy == nil {
		cfg.Proxy = http.ProxyFromEnvironment
	}
	cfg.Refresh.RefusalAge = cmp.Or(cfg.Refresh.RefusalAge, time.Nanosecond)
	logger := cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))

	oauth, err := NewOAuth(OAuthConfig{
		AuthURL:   cmp.Or(cfg.AuthBaseURL, DefaultAuthBaseURL),
		PlainHTTP: cfg.PlainHTTP,
		Timeouts:  cfg.Refresh.Exchange,
		TLS:       cfg.TLS,
		Proxy:     cfg.Proxy,
	})
	if err != nil {
		return nil, fmt.Errorf("prisma SDK: %w", err)
	}
	refresher, err := NewRefresher(RefresherConfig{Exchanger: oauth, Settings: cfg.Refresh, Now: cfg.Now, Logger: logger})
	if err != nil {
		return nil, fmt.Errorf("prisma SDK: %w", err)
	}
	s := &SDK{
		oauth:     oauth,
		refresher: refresher,
		storage:   cfg.TokenStorage,
		identity:  OAuthClient{ID: cfg.ClientID, Secret: cfg.ClientSecret},
		redirect:  cfg.RedirectURI,
		now:       cfg.Now,
		logger:    logger,
		gate:      newGate(),
	}
	if !cfg.DisableDiscovery {
		s.discovery = newDiscovery(oauth, cfg.Now, logger)
	}
	s.conn = Connection{Key: "sdk", Storage: s.refreshStorage(), Client: func(ctx context.Context) (OAuthClient, error) {
		// A refresh goes where the login went. Whatever is wrong with the metadata, the
		// endpoint below the configured issuer is still what was configured.
		_ = s.discovery.ensure(ctx)
		return s.identity, nil
	}}
	s.client, err = managementapi.New(managementapi.Config{
		BaseURL:    cfg.APIBaseURL,
		PlainHTTP:  cfg.PlainHTTP,
		Authorizer: sdkAuthorizer{s},
		Header:     cfg.Header,
		Timeout:    cfg.Timeout,
		Transport:  cfg.Transport,
		Retry:      cfg.Retry,
	})
	if err != nil {
		return nil, fmt.Errorf("prisma SDK: %w", err)
	}
	return s, nil
}

// String names the authorization server.
func (s *SDK) String() string { return "SDK at " + s.oauth.Issuer() }

// GoString is String, so that %#v shows no secret either.
func (s *SDK) GoString() string { return s.String() }

// LogValue is String, for handlers that would encode the fields.
func (s *SDK) LogValue() slog.Value { return slog.StringValue(s.String()) }

// Client returns the API client, always the same one. Each of its calls finds the stored
// tokens; one that is about to expire is refreshed first, and one that the API refuses
// with 401 is refreshed once, after which the call is repeated once. Concurrent calls
// share one refresh, which none of them can interrupt.
//
// Errors of a call, found with errors.As:
//   - *AuthError: nobody is logged in, or not any more (RefreshTokenInvalid), or
//     Prisma refuses the OAuth client.
//   - *FetchError: no usable answer from the API, or from the token
//     endpoint; in the latter case Sent is false and the stored tokens are kept. The
//     cause is wrapped, a *TokenError if it was the token endpoint.
//   - *APIError: an answer of the API that is no success, a second 401
//     among them.
//
// Errors of the storage come back wrapped. When the call's context ends, the error
// wraps the context's.
func (s *SDK) Client() *managementapi.Client { return s.client }

// Logout clears the stored tokens. A login or a refresh in flight can't bring them back.
// Prisma is not told: it has no revocation endpoint, and removing the integration, which
// would end the grant, is an API call (managementapi.Client).
//
// Errors of the storage and of ctx come back wrapped; the tokens may then still be
// stored.
func (s *SDK) Logout(ctx context.Context) error {
	ticket := s.tickets.Add(1)
	err := s.gate.pass(ctx, func() error {
		// Also when clearing fails: whoever wanted to be logged out does not want to be
		// logged in by an older login that is still in flight.
		s.ended = max(s.ended, ticket)
		return s.storage.ClearTokens(ctx)
	})
	if err != nil {
		return fmt.Errorf("log out: %w", err)
	}
	return nil
}

// Close lets no new login or refresh begin and waits for those in flight, so that the
// process may end without losing a token pair. Stored access tokens that are still valid
// are used on. If ctx ends first, pairs that could not be stored so far are given up and
// the error says how many.
func (s *SDK) Close(ctx context.Context) error {
	if err := s.refresher.Wait(ctx); err != nil {
		return fmt.Errorf("close the SDK: %w", err)
	}
	return nil
}

// sdkAuthorizer gives the SDK's client its tokens.
type sdkAuthorizer struct{ sdk *SDK }

// Authorize calls send with an access token, and after a 401 once more with another.
func (a sdkAuthorizer) Authorize(ctx context.Context, send func(ctx context.Context, bearer string) error) error {
	return callWithToken(ctx, sdkTokens(a), send)
}

// sdkTokens are the stored tokens, with errors as an SDK tells them.
type sdkTokens struct{ sdk *SDK }

func (t sdkTokens) current(ctx context.Context) (Tokens, error) {
	tokens, err := t.sdk.refresher.AccessToken(ctx, t.sdk.conn)
	return tokens, t.sdk.explain(ctx, err)
}

func (t sdkTokens) renewed(ctx context.Context, refused Tokens, refusal error) (Tokens, error) {
	fresh, err := t.sdk.refresher.AfterRefusal(ctx, t.sdk.conn, refused)
	if isKind(err, fault.PrismaRefused) {
		return Tokens{}, refusal // there is no better token: the answer stands
	}
	return fresh, t.sdk.explain(ctx, err)
}

// explain turns an error of the refresher into the one that the SDK's user is told.
func (s *SDK) explain(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case isKind(err, fault.NotFound):
		return errNotLoggedIn(err)
	case isKind(err, fault.ReconnectRequired):
		return s.loginNeeded(ctx, err)
	case isKind(err, fault.PrismaUnavailable, fault.RefreshInProgress):
		return refreshFailure(err)
	}
	return err
}

// loginNeeded says why the stored tokens can't be renewed.
func (s *SDK) loginNeeded(ctx context.Context, err error) error {
	const dead = "Prisma no longer accepts the refresh token. Please log in again."
	if failure, ok := errors.AsType[*TokenError](err); ok {
		return &AuthError{RefreshTokenInvalid: true, Code: failure.Code, message: dead, cause: err}
	}
	stored, readErr := s.storage.Tokens(ctx)
	switch {
	case readErr == nil && stored.Refresh == "":
		return newAuthError("No refresh token available. Please log in again.", err)
	case isKind(readErr, fault.NotFound):
		return errNotLoggedIn(err)
	}
	return &AuthError{RefreshTokenInvalid: true, message: dead, cause: err} // the storage remembers that it died
}
