package oauthflow

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net/url"
	"sync"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// Store is what the flow keeps; *tenants.Store implements it.
type Store interface {
	Tenant(ctx context.Context, id tenants.TenantID) (tenants.Tenant, error)
	OAuthClientOf(ctx context.Context, id tenants.TenantID) (tenants.OAuthClient, error)
	AdoptClientSecret(ctx context.Context, by tenants.Actor, id tenants.TenantID, client tenants.OAuthClient) (bool, error)
	Connection(ctx context.Context, tenant tenants.TenantID, id tenants.ConnectionID) (tenants.Connection, error)
	CreateSession(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, in tenants.NewSession) (tenants.Session, string, error)
	Session(ctx context.Context, tenant tenants.TenantID, id tenants.SessionID) (tenants.Session, error)
	SessionByLink(ctx context.Context, link string) (tenants.Session, error)
	SessionByID(ctx context.Context, id tenants.SessionID) (tenants.Session, error)
	StartSession(ctx context.Context, by tenants.Actor, x tenants.Session, start tenants.Start) error
	ReturnSession(ctx context.Context, by tenants.Actor, x tenants.Session, back tenants.Return) (string, error)
	EndSession(ctx context.Context, by tenants.Actor, x tenants.Session, end tenants.Ending, from ...tenants.SessionStatus) (bool, error)
	ClaimCompletion(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, id tenants.SessionID, code, userID string) (tenants.Completing, error)
	FinishSession(ctx context.Context, by tenants.Actor, x tenants.Session, clientID string, grant prisma.Tokens) (tenants.Connection, error)
	NameWorkspace(ctx context.Context, tenant tenants.TenantID, id tenants.ConnectionID, name string) error
	PrismaConnection(tenant tenants.TenantID, id tenants.ConnectionID) prisma.Connection
	GrantIsShared(ctx context.Context, c tenants.Connection) (bool, error)
	Disconnect(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, id tenants.ConnectionID) (tenants.Connection, error)
	BeginCall(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, call tenants.OutgoingCall) (tenants.AuditedCall, error)
	EndCall(ctx context.Context, by tenants.Actor, call tenants.AuditedCall, result tenants.CallResult) error
	BeginCheck(ctx context.Context, tenant tenants.TenantID, id tenants.ConnectionID) (tenants.Connection, bool, error)
	EndCheck(ctx context.Context, by tenants.Actor, checked tenants.Connection, found tenants.Finding) (tenants.Connection, error)
	Diagnose(c tenants.Connection, endpointDown time.Time) tenants.Diagnosis
}

// TokenEndpoint makes authorization URLs and code exchanges; *prisma.OAuth
// implements it.
type TokenEndpoint interface {
	AuthorizationURL(req prisma.AuthorizationRequest) (string, error)
	CheckIssuer(response url.Values) error
	ExchangeCode(ctx context.Context, client prisma.OAuthClient, redirectURI, code, verifier string) (prisma.Grant, error)
	Issuer() string
}

// Config is what a Flow rests on. Everything but the durations and the
// refresher is required.
type Config struct {
	Store     Store
	OAuth     TokenEndpoint
	API       *prisma.Client // without a token
	Caller    *prisma.Caller
	Cookies   []sealing.CookieKeys // the newest first
	PublicURL string               // this service's origin as browsers see it, no trailing slash
	Now       func() time.Time
	Logger    *slog.Logger

	// Refresher tells whether the token endpoint is left alone; *prisma.Refresher
	// implements it. Default: diagnoses go by what is stored alone.
	Refresher interface{ State() prisma.RefresherState }

	// CompletionWait is how long a completion waits for Prisma before the caller is
	// told to come back; the exchange goes on. Default 15 s.
	CompletionWait time.Duration
	// SaveFor is how long the save of a new grant is tried again. Default 90 s.
	SaveFor time.Duration
}

// Flow runs connect sessions. It is safe for concurrent use.
type Flow struct {
	cfg     Config
	cookies *cookies

	mu      sync.Mutex
	closing bool           // no new completion may begin
	running sync.WaitGroup // completions, also those whose callers have gone
}

// enter lets a completion begin, unless the process is about to end; whoever
// entered calls running.Done. Under the lock, so that none begins once Wait waits.
func (f *Flow) enter() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closing {
		f.running.Add(1)
	}
	return !f.closing
}

// errClosing sends the caller to another replica; nothing was spent.
func errClosing() error {
	return fault.New(fault.CompletionInProgress, "This server is stopping; send the same request again.", nil).
		WithRetryAfter(time.Second)
}

// New checks the cookie keys and returns a Flow.
func New(cfg Config) (*Flow, error) {
	if cfg.CompletionWait == 0 {
		cfg.CompletionWait = 15 * time.Second
	}
	if cfg.SaveFor == 0 {
		cfg.SaveFor = 90 * time.Second
	}
	jar, err := newCookies(cfg.Cookies, cfg.Now)
	if err != nil {
		return nil, err
	}
	return &Flow{cfg: cfg, cookies: jar}, nil
}

// RedirectURI is the callback that is registered at Prisma.
func (f *Flow) RedirectURI() string { return f.cfg.PublicURL + "/oauth/callback" }

// AuthorizeOrigin is the origin that a connect page's form may lead to.
func (f *Flow) AuthorizeOrigin() string {
	u, err := url.Parse(f.cfg.OAuth.Issuer())
	if err != nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// Link is the one-time URL of a session.
func (f *Flow) Link(secret string) string { return f.cfg.PublicURL + "/connect/" + secret }

// Wait lets no further completion begin and waits for those that run, so that the
// process may end without losing a grant.
func (f *Flow) Wait(ctx context.Context) error {
	f.mu.Lock()
	f.closing = true
	f.mu.Unlock()
	done := make(chan struct{})
	go func() {
		f.running.Wait()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.New("oauthflow: completions are still running")
	}
}

// CreateSession makes a session and returns it with its one-time URL.
func (f *Flow) CreateSession(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, in tenants.NewSession,
) (tenants.Session, string, error) {
	session, secret, err := f.cfg.Store.CreateSession(ctx, by, tenant, in)
	if err != nil {
		return tenants.Session{}, "", err
	}
	return session, f.Link(secret), nil
}

// Session returns a session of the tenant; fault.NotFound when there is none.
func (f *Flow) Session(ctx context.Context, tenant tenants.TenantID, id tenants.SessionID) (tenants.Session, error) {
	return f.cfg.Store.Session(ctx, tenant, id)
}

// user is the actor of what a browser does.
func user(by tenants.Actor, x tenants.Session) tenants.Actor {
	by.Type, by.ID = tenants.ActorUser, x.UserID
	return by
}

// withQuery adds parameters to a registered URL, keeping those it has.
func withQuery(registered string, add url.Values) (string, error) {
	u, err := url.Parse(registered)
	if err != nil {
		return "", err
	}
	query := u.Query()
	maps.Copy(query, add)
	u.RawQuery = query.Encode()
	return u.String(), nil
}
