package admin

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
	"github.com/connect-prisma/server/web"
)

// base is the path that Mount's group must stand for.
const base = "/admin"

// hashesAtOnce bounds the password hashes that are worked out together: each
// takes 19 MiB and some 40 ms of a core.
const hashesAtOnce = 4

// Store is what the dashboard needs of the database; *tenants.Store has it.
type Store interface {
	AdminByEmail(ctx context.Context, email string) (tenants.Admin, string, error)
	BeginAdminSession(ctx context.Context, by tenants.Actor, admin tenants.AdminID) (string, error)
	AdminBySession(ctx context.Context, secret string) (tenants.Admin, error)
	EndAdminSession(ctx context.Context, by tenants.Actor, secret string) error
	NoteFailedSignIn(ctx context.Context, by tenants.Actor) error
	FailedSignIns(ctx context.Context, by tenants.Actor, within time.Duration) (int, error)

	Tenants(ctx context.Context) ([]tenants.Tenant, error)
	Tenant(ctx context.Context, id tenants.TenantID) (tenants.Tenant, error)
	Keys(ctx context.Context, tenant tenants.TenantID) ([]tenants.Key, error)
	TenantConnections(ctx context.Context, tenant tenants.TenantID, limit int) ([]tenants.Connection, error)
	CountConnections(ctx context.Context) (map[tenants.TenantID]map[tenants.ConnectionStatus]int, error)
}

// Config is what a Server rests on. Everything without a default is required.
type Config struct {
	Store Store
	Pages *web.Pages

	// Now tells whether a key has expired.
	Now func() time.Time

	// Origin is the public origin of the service, "https://connect.example". Forms
	// are taken from it and from the origin that the request itself names as Host.
	Origin string

	// IP tells where a request comes from, behind whatever proxies are trusted.
	// Failed sign-ins are counted by it. Default: the peer's address.
	IP func(*http.Request) netip.Addr

	// Diagnose says how a connection is; *oauthflow.Flow has it. Default: the dashboard
	// shows statuses and reasons alone.
	Diagnose func(tenants.Connection) tenants.Diagnosis

	// RequestID ties audit rows to the log. Default: none.
	RequestID func(*http.Request) string

	// Logger gets sign-ins and failed ones. Default: nothing is logged.
	Logger *slog.Logger
}

// Server serves the dashboard.
type Server struct {
	Config
	crossOrigin *http.CrossOriginProtection
	hashing     chan struct{} // a slot for each hash in the making
	noHash      string        // compared with when there is no such admin, for the same work
}

// New returns a dashboard. It fails when Origin is not an origin.
func New(cfg Config) (*Server, error) {
	if cfg.IP == nil {
		cfg.IP = peer
	}
	if cfg.RequestID == nil {
		cfg.RequestID = func(*http.Request) string { return "" }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	noHash, err := HashPassword(rand.Text())
	if err != nil {
		return nil, err
	}
	crossOrigin := http.NewCrossOriginProtection()
	if err := crossOrigin.AddTrustedOrigin(cfg.Origin); err != nil {
		return nil, err
	}
	return &Server{Config: cfg, crossOrigin: crossOrigin, hashing: make(chan struct{}, hashesAtOnce), noHash: noHash}, nil
}

// Mount adds the dashboard to g, the group of /admin. Handlers return their
// errors, as *fault.Error where a caller can act on them.
func (s *Server) Mount(g *echo.Group) {
	g.Use(secureHeaders, s.sameOrigin)
	g.GET("/sign-in", s.showSignIn)
	g.POST("/sign-in", s.signIn)
	g.POST("/sign-out", s.signOut)
	g.GET("", s.signedIn(s.listTenants))
	g.GET("/tenants/:id", s.signedIn(s.showTenant))

	// A path that isn't there tells a stranger no more than one that is.
	nothing := s.signedIn(func(echo.Context, tenants.Admin) error {
		return fault.New(fault.NotFound, "There is no such page.", nil)
	})
	g.RouteNotFound("", nothing)
	g.RouteNotFound("/*", nothing)
}

// render answers with a page.
func (s *Server) render(c echo.Context, status int, view web.View) error {
	body, err := s.Pages.Render(view)
	if err != nil {
		return err
	}
	return c.HTMLBlob(status, body)
}

// actor is who acts in a request; admin is zero when nobody is signed in.
func (s *Server) actor(r *http.Request, admin tenants.AdminID) tenants.Actor {
	by := tenants.Actor{Type: tenants.ActorAdmin, RequestID: s.RequestID(r), IP: s.IP(r).Unmap()}
	if admin != (tenants.AdminID{}) {
		by.ID = admin.String()
	}
	return by
}

// peer is the address at the other end of the connection, zero when unknown.
func peer(r *http.Request) netip.Addr {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return addr.Addr()
}

// safeNext returns path when it is a page of the dashboard, and its first page
// otherwise: a redirect never leaves this list.
func safeNext(path string) string {
	if id, ok := strings.CutPrefix(path, base+"/tenants/"); ok {
		if _, err := tenants.ParseTenantID(id); err == nil {
			return path
		}
	}
	return base
}
