package httpapi

import (
	"context"
	"maps"
	"net/http"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/provisioning/passthrough"
	"github.com/connect-prisma/server/internal/tenants"
)

// PassThrough passes requests to Prisma's own API; *passthrough.Proxy is one.
type PassThrough interface {
	Serve(w http.ResponseWriter, r *http.Request, in passthrough.Request) error
	Drain()
}

// passThroughPath is what stands before Prisma's own path, behind the connection's id.
const passThroughPath = "/prisma/"

// passedThrough are the contract's operations that are passed through, reading first.
func passedThrough() []string {
	return []string{"passThroughGet", "passThroughPost", "passThroughPut", "passThroughPatch", "passThroughDelete"}
}

// passThroughRoutes mounts the pass-through beside the generated routes, whose handlers
// would read the bodies. Behind the guards of GET stand the other methods too, those that
// HTTP does not know included, and paths that the contract does not have: the
// pass-through knows best what Prisma takes where.
func (s *Server) passThroughRoutes() {
	for _, id := range passedThrough() {
		one := s.operations[id]
		s.echo.Add(one.method, one.path, s.passThrough, s.guard(one)...)
	}
	read := s.operations[passedThrough()[0]]
	for _, path := range []string{read.path, "/v1/connections/:connectionId/prisma/*"} {
		s.echo.RouteNotFound(path, s.passThrough, s.guard(read)...)
	}
}

// passThrough serves every method of /v1/connections/{connectionId}/prisma/v1/{path}.
func (s *Server) passThrough(c echo.Context) error {
	// A malformed id is the zero one, which nothing has: the path is judged first, so that
	// all ids that don't exist have the same answer.
	id, err := tenants.ParseConnectionID(c.Param("connectionId"))
	if err != nil {
		id = tenants.ConnectionID{}
	}
	r := c.Request()
	caller := callerOf(r.Context())
	_, path, _ := strings.Cut(r.URL.EscapedPath(), passThroughPath)
	return s.cfg.PassThrough.Serve(c.Response(), r, passthrough.Request{
		By: actorOf(r.Context()), Tenant: caller.Tenant.ID, Connection: id, Path: "/" + path,
		Still:  s.stillLetIn(r, id),
		Stream: func(ctx context.Context) (func(), error) { return s.becomeStream(ctx, c, caller.Tenant) },
	})
}

// stillLetIn returns what asks whether a call through a connection would be let in now.
func (s *Server) stillLetIn(r *http.Request, id tenants.ConnectionID) func(ctx context.Context) error {
	key, _ := bearer(r) // it was good a moment ago
	return func(ctx context.Context) error {
		caller, err := s.cfg.Store.AuthenticateAnew(ctx, key)
		if err != nil {
			return err
		}
		connection, err := s.cfg.Store.Connection(ctx, caller.Tenant.ID, id)
		if err != nil {
			return err
		}
		if connection.Status == tenants.ConnectionNeedsReconnect {
			return fault.New(fault.ReconnectRequired, "The connection needs a reconnect.", nil)
		}
		return nil
	}
}

// isPassThrough reports whether a request is for Prisma's own API, also when it got no
// further than a check before it.
func isPassThrough(c echo.Context) bool {
	path := c.Request().URL.Path
	return strings.HasPrefix(path, "/v1/connections/") && strings.Contains(path, passThroughPath)
}

// withPrismaError returns the extra members of a problem with Prisma's form of an error
// beside ours: whoever calls through Prisma's SDK reads error.code and error.message.
func withPrismaError(p problem) map[string]any {
	extra := map[string]any{}
	maps.Copy(extra, p.Extra)
	extra["error"] = map[string]string{"code": p.Type[strings.LastIndexByte(p.Type, '/')+1:], "message": p.Detail}
	return extra
}
