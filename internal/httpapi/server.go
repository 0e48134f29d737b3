package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/httpapi/contract"
	"github.com/connect-prisma/server/internal/httpapi/limits"
	"github.com/connect-prisma/server/internal/oauthflow"
	"github.com/connect-prisma/server/internal/tenants"
	"github.com/connect-prisma/server/web"
)

// Store is what the API reads by itself; *tenants.Store implements it.
type Store interface {
	Authenticate(ctx context.Context, key string) (tenants.Caller, error)
	AuthenticateAnew(ctx context.Context, key string) (tenants.Caller, error)
	Issued(key string) bool
	Key(ctx context.Context, tenant tenants.TenantID, id tenants.KeyID) (tenants.Key, error)
	RotateKey(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, id tenants.KeyID, in tenants.NewRotation) (tenants.Rotation, error)
	ChangeMetadata(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, id tenants.ConnectionID, pairs map[string]*string) (tenants.Connection, error)
	limits.Budgets
	Connection(ctx context.Context, tenant tenants.TenantID, id tenants.ConnectionID) (tenants.Connection, error)
	Connections(ctx context.Context, tenant tenants.TenantID, f tenants.ConnectionFilter) ([]tenants.Connection, bool, error)
	Cursor(tenant tenants.TenantID, list string, last tenants.ConnectionID) (string, error)
	ParseCursor(tenant tenants.TenantID, list, cursor string) (tenants.ConnectionID, error)
	PrismaCursor(tenant tenants.TenantID, list, cursor string) (string, error)
	ParsePrismaCursor(tenant tenants.TenantID, list, cursor string) (string, error)
	AuditEntries(ctx context.Context, tenant tenants.TenantID, f tenants.AuditFilter) ([]tenants.AuditEntry, bool, error)
	AuditCursor(tenant tenants.TenantID, list string, last int64) (string, error)
	ParseAuditCursor(tenant tenants.TenantID, list, cursor string) (int64, error)
}

// Config is what a Server rests on.
type Config struct {
	Store        Store
	Flow         *oauthflow.Flow
	Provisioning Provisioning
	PassThrough  PassThrough
	Pages        *web.Pages
	PublicURL    string // this service's origin, no trailing slash
	Now          func() time.Time
	Logger       *slog.Logger

	// TrustedHops is how many proxies stand before the service and add to
	// X-Forwarded-For. Default 0: the header is ignored.
	TrustedHops int

	// AuthFailures is how often a key, and how many keys from one address, may be refused
	// before they are not looked up. Zero fields take the defaults of limits.
	AuthFailures limits.FailureRate

	// MountAdmin adds the dashboard below /admin; nil leaves it out.
	MountAdmin func(*echo.Group)
}

// Server serves the REST API and the browser pages.
type Server struct {
	cfg        Config
	echo       *echo.Echo
	csrf       *http.CrossOriginProtection
	operations map[string]operation // of the contract, by their ids
	limiter    *limits.Limiter
	failures   *limits.Failures
	draining   atomic.Bool

	contractJSON []byte // GET /openapi.json
	reference    []byte // GET /docs
}

// New builds the routes. An error is a contract that can't be served.
func New(cfg Config) (*Server, error) {
	operations, err := loadOperations()
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, echo: echo.New(), csrf: http.NewCrossOriginProtection(), operations: operations,
		limiter:  limits.New(limits.Config{Budgets: cfg.Store, Now: cfg.Now, Logger: cfg.Logger}),
		failures: limits.NewFailures(cfg.AuthFailures, cfg.Store.Issued, cfg.Now),
	}
	s.echo.HideBanner, s.echo.HidePort = true, true
	s.echo.HTTPErrorHandler = s.handleError
	s.echo.Binder = binder{}
	s.echo.IPExtractor = clientIP(cfg.TrustedHops)
	s.echo.Pre(s.identify)
	s.echo.Use(s.record, s.recoverPanics, refuseOddPaths)
	if err := s.loadReference(); err != nil {
		return nil, err
	}
	s.routes()
	return s, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

// Drain turns readiness off, so that load balancers send new requests elsewhere
// while those that are here finish.
func (s *Server) Drain() { s.draining.Store(true) }

// EndStreams ends the streams of the pass-through, which could hold up the end of the
// process for an hour. Their clients open them anew, elsewhere by now.
func (s *Server) EndStreams() { s.cfg.PassThrough.Drain() }

func (s *Server) routes() {
	e := s.echo

	// Partner backends: what the contract says, with what it says in front of it.
	contract.RegisterHandlersWithOptions(e, contract.NewStrictHandler(handlers{s}, nil),
		contract.RegisterHandlersOptions{OperationMiddlewares: s.guards()})

	s.passThroughRoutes()

	// End users' browsers.
	e.Match([]string{http.MethodGet, http.MethodHead}, "/connect/:token", s.showConnect)
	e.POST("/connect/:token", s.startConnect, s.sameOrigin)
	e.GET("/oauth/callback", s.callback)

	// Everybody.
	for path, show := range map[string]echo.HandlerFunc{
		"/": s.front, "/robots.txt": robots,
		"/docs": s.showReference, "/openapi.json": s.showContract, "/problems": s.listProblems, "/problems/:kind": s.showProblem,
		"/healthz": s.healthz, "/readyz": s.readyz,
		"/static/*": echo.WrapHandler(s.cfg.Pages.Static()),
	} {
		e.GET(path, show)
		e.HEAD(path, show) // net/http leaves the body out
	}
	if s.cfg.MountAdmin != nil {
		s.cfg.MountAdmin(e.Group("/admin"))
	}
}

// healthz serves GET /healthz: the process lives.
func (s *Server) healthz(c echo.Context) error {
	noStore(c)
	return c.String(http.StatusOK, "ok\n")
}

// readyz serves GET /readyz: send requests here. It fails only while draining: a
// database that is away is no better reached through another replica, and stored
// answers would be lost with all of them out of the balancer.
func (s *Server) readyz(c echo.Context) error {
	noStore(c)
	if s.draining.Load() {
		return c.String(http.StatusServiceUnavailable, "draining\n")
	}
	return c.String(http.StatusOK, "ok\n")
}
