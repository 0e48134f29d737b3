package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/oauthflow"
	"github.com/connect-prisma/server/internal/tenants"
	"github.com/connect-prisma/server/web"
)

// Store is what the API reads by itself; *tenants.Store implements it.
type Store interface {
	Authenticate(ctx context.Context, key string) (tenants.Caller, error)
	Connection(ctx context.Context, tenant tenants.TenantID, id tenants.ConnectionID) (tenants.Connection, error)
	Connections(ctx context.Context, tenant tenants.TenantID, f tenants.ConnectionFilter) ([]tenants.Connection, bool, error)
	Cursor(tenant tenants.TenantID, list string, last tenants.ConnectionID) (string, error)
	ParseCursor(tenant tenants.TenantID, list, cursor string) (tenants.ConnectionID, error)
}

// Config is what a Server rests on.
type Config struct {
	Store        Store
	Flow         *oauthflow.Flow
	Provisioning Provisioning
	Pages        *web.Pages
	PublicURL    string // this service's origin, no trailing slash
	Now          func() time.Time
	Logger       *slog.Logger

	// TrustedHops is how many proxies stand before the service and add to
	// X-Forwarded-For. Default 0: the header is ignored.
	TrustedHops int

	// MountAdmin adds the dashboard below /admin; nil leaves it out.
	MountAdmin func(*echo.Group)
}

// Server serves the REST API and the browser pages.
type Server struct {
	cfg      Config
	echo     *echo.Echo
	csrf     *http.CrossOriginProtection
	draining atomic.Bool
}

// New builds the routes.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, echo: echo.New(), csrf: http.NewCrossOriginProtection()}
	s.echo.HideBanner, s.echo.HidePort = true, true
	s.echo.HTTPErrorHandler = s.handleError
	s.echo.IPExtractor = clientIP(cfg.TrustedHops)
	s.echo.Pre(s.identify)
	s.echo.Use(s.record, s.recoverPanics, refuseOddPaths)
	s.routes()
	return s
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.echo.ServeHTTP(w, r) }

// Drain turns readiness off, so that load balancers send new requests elsewhere
// while those that are here finish.
func (s *Server) Drain() { s.draining.Store(true) }

func (s *Server) routes() {
	e := s.echo

	// Partner backends. No middleware of the group's own: with one, echo answers
	// wrong methods with 404.
	api := e.Group("/v1")
	api.POST("/connect-sessions", s.createSession, s.scope(tenants.ScopeConnect))
	api.GET("/connect-sessions/:session", s.getSession, s.scope(tenants.ScopeConnect))
	api.POST("/connect-sessions/:session/complete", s.completeSession, s.scope(tenants.ScopeConnect))
	api.GET("/connections", s.listConnections, s.scope(tenants.ScopeRead))
	api.GET("/connections/:connection", s.getConnection, s.scope(tenants.ScopeRead))
	api.POST("/connections/:connection/check", s.checkConnection, s.scope(tenants.ScopeRead))
	api.DELETE("/connections/:connection", s.deleteConnection, s.scope(tenants.ScopeWrite))
	api.GET("/connections/:connection/projects", s.listProjects, s.scope(tenants.ScopeRead))
	api.POST("/connections/:connection/projects", s.createProject, s.scope(tenants.ScopeWrite))
	api.GET("/connections/:connection/databases", s.listDatabases, s.scope(tenants.ScopeRead))
	api.POST("/connections/:connection/databases", s.createDatabase, s.scope(tenants.ScopeWrite))
	api.GET("/connections/:connection/databases/:database", s.getDatabase, s.scope(tenants.ScopeRead))
	api.DELETE("/connections/:connection/databases/:database", s.deleteDatabase, s.scope(tenants.ScopeWrite))
	api.POST("/connections/:connection/databases/:database/credentials", s.createCredentials, s.scope(tenants.ScopeWrite))
	api.GET("/regions", s.listRegions, s.scope(tenants.ScopeRead))

	// End users' browsers.
	e.Match([]string{http.MethodGet, http.MethodHead}, "/connect/:token", s.showConnect)
	e.POST("/connect/:token", s.startConnect, s.sameOrigin)
	e.GET("/oauth/callback", s.callback)

	// Everybody.
	e.GET("/", s.front)
	e.GET("/robots.txt", robots)
	e.GET("/problems", s.listProblems)
	e.GET("/problems/:kind", s.showProblem)
	e.Match([]string{http.MethodGet, http.MethodHead}, "/healthz", s.healthz)
	e.Match([]string{http.MethodGet, http.MethodHead}, "/readyz", s.readyz)
	e.GET("/static/*", echo.WrapHandler(s.cfg.Pages.Static()))
	if s.cfg.MountAdmin != nil {
		s.cfg.MountAdmin(e.Group("/admin"))
	}
}

// envelope is every success body of the API.
type envelope struct {
	Data       any         `json:"data"`
	Pagination *pagination `json:"pagination,omitempty"`
}

type pagination struct {
	NextCursor *string `json:"nextCursor"`
	HasMore    bool    `json:"hasMore"`
}

func newPagination(next string) *pagination {
	if next == "" {
		return &pagination{}
	}
	return &pagination{NextCursor: &next, HasMore: true}
}

func send(c echo.Context, code int, data any) error {
	return c.JSON(code, envelope{Data: data})
}

func sendPage(c echo.Context, data any, next string) error {
	return c.JSON(http.StatusOK, envelope{Data: data, Pagination: newPagination(next)})
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

// connectionID reads the path's connection; a malformed one is as absent as any
// other.
func connectionID(c echo.Context) (tenants.ConnectionID, error) {
	id, err := tenants.ParseConnectionID(c.Param("connection"))
	if err != nil {
		return id, fault.New(fault.NotFound, "There is no such connection.", err)
	}
	return id, nil
}
