package httpapi

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/provisioning/passthrough"
	"github.com/connect-prisma/server/internal/tenants"
)

// identify gives every request an id of ours: a client's own id is not taken over,
// since it would end up in logs and rows as it is.
func (s *Server) identify(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		id := "req_" + strings.ToLower(rand.Text())
		c.SetRequest(c.Request().WithContext(context.WithValue(c.Request().Context(), requestIDKey{}, id)))
		header := c.Response().Header()
		header.Set("X-Request-Id", id)
		// What holds for every answer, redirects and errors too; pages loosen it to
		// what they need.
		header.Set(echo.HeaderXContentTypeOptions, "nosniff")
		header.Set(echo.HeaderContentSecurityPolicy, "default-src 'none'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'")
		header.Set(echo.HeaderReferrerPolicy, "no-referrer")
		header.Set(echo.HeaderCacheControl, "no-store")
		if len(c.Request().TransferEncoding) > 0 {
			// It may have had a Content-Length too. RFC 9112 section 6.3 leaves it to a server to
			// refuse that or to read by the coding; net/http does the latter and drops the length
			// before anybody can see it. Whoever passed the request on by its length would take the
			// rest of it for the next request, so there is none on this connection (section 6.1).
			header.Set(echo.HeaderConnection, "close")
		}
		return next(c)
	}
}

// requestIDKey finds the id in a request's context.
type requestIDKey struct{}

// RequestID returns the id that the server gave to a request, "" outside of it.
func RequestID(r *http.Request) string {
	id, _ := r.Context().Value(requestIDKey{}).(string)
	return id
}

func requestID(c echo.Context) string { return RequestID(c.Request()) }

// record logs each request once, by its route: paths and queries hold one-time
// links and codes.
func (s *Server) record(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		began := s.cfg.Now()
		err := next(c)
		if err != nil {
			c.Error(err) // sends the answer now, so that its status is known here
		}
		attrs := []slog.Attr{
			slog.String("request_id", requestID(c)), slog.String("method", c.Request().Method),
			slog.String("route", c.Path()), slog.Int("status", c.Response().Status),
			slog.Duration("took", s.cfg.Now().Sub(began)), slog.Int64("bytes", c.Response().Size),
		}
		if caller := callerOf(c.Request().Context()); caller.Key != (tenants.KeyID{}) {
			attrs = append(attrs, slog.String("tenant", caller.Tenant.ID.String()))
		}
		level := slog.LevelInfo
		if c.Response().Status >= http.StatusInternalServerError && !errors.Is(err, context.Canceled) {
			level = slog.LevelError
		}
		if err != nil {
			attrs = append(attrs, slog.String("error", err.Error()))
		}
		s.cfg.Logger.LogAttrs(c.Request().Context(), level, "request", attrs...)
		if errors.Is(err, passthrough.ErrBroken) {
			panic(http.ErrAbortHandler) // cuts the connection: half an answer must not look whole
		}
		return nil
	}
}

// recoverPanics turns a panic into an internal error: the client gets a request
// id, the log gets the stack.
func (s *Server) recoverPanics(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v == http.ErrAbortHandler { //nolint:errorlint // net/http panics with this very value
				panic(v)
			}
			s.cfg.Logger.ErrorContext(c.Request().Context(), "handler panicked",
				slog.String("request_id", requestID(c)), slog.String("stack", string(debug.Stack())))
			err = fmt.Errorf("handler panicked: %T", v)
		}()
		return next(c)
	}
}

// refuseOddPaths answers paths that different programs read differently before
// any handler sees them.
func refuseOddPaths(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		u := c.Request().URL
		raw := strings.ToLower(u.EscapedPath())
		if !utf8.ValidString(u.Path) || strings.ContainsFunc(u.Path, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) ||
			strings.Contains(u.Path, "//") || strings.Contains(u.Path, "/../") || strings.HasSuffix(u.Path, "/..") ||
			strings.Contains(u.Path, ";") || strings.Contains(raw, "%2f") || strings.Contains(raw, "%2e") {
			return fault.New(fault.InvalidRequest, "The path has characters that no address here has.", nil)
		}
		return next(c)
	}
}

func noStore(c echo.Context) { c.Response().Header().Set(echo.HeaderCacheControl, "no-store") }

// authenticate lets in a partner's backend with a live key.
func (s *Server) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		caller, err := s.identifyCaller(c)
		if err != nil {
			return err
		}
		by := browserOf(c)
		by.Type, by.ID = tenants.ActorAPIKey, caller.Key.String()
		c.SetRequest(c.Request().WithContext(context.WithValue(c.Request().Context(), identityKey{}, identity{caller, by, s.cfg.Now()})))
		return next(c)
	}
}

// fresh is how long it counts who made a call. Bodies come within half a minute, and by
// then a key may have ended.
const fresh = time.Second

// authenticateLate asks again who calls, and whether they may, if the body was long in
// coming.
func (s *Server) authenticateLate(needed tenants.Scope) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		again := s.authenticate(permit(needed)(next))
		return func(c echo.Context) error {
			if who, _ := c.Request().Context().Value(identityKey{}).(identity); s.cfg.Now().Sub(who.at) < fresh {
				return next(c)
			}
			return again(c)
		}
	}
}

// permit lets in callers whose key has that scope, everybody when it is "".
func permit(needed tenants.Scope) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if needed != "" && !callerOf(c.Request().Context()).May(needed) {
				return fault.New(fault.ForbiddenScope, "The API key lacks the scope "+string(needed)+".", nil)
			}
			return next(c)
		}
	}
}

// identity is who makes a call: what they may, and how the audit log names them.
type identity struct {
	caller tenants.Caller
	actor  tenants.Actor
	at     time.Time // when that was looked at
}

// identityKey finds the identity in a request's context.
type identityKey struct{}

// bearer reads the one Authorization header (RFC 6750 section 2.1). A key in the
// address is refused even beside a good header: addresses end up in logs.
func bearer(r *http.Request) (string, error) {
	for _, values := range r.URL.Query() {
		if slices.ContainsFunc(values, func(v string) bool { return strings.HasPrefix(v, "cpk_") }) {
			return "", fault.New(fault.InvalidRequest, "Send the API key in the Authorization header, never in an address; replace this one.", nil)
		}
	}
	given := r.Header.Values(echo.HeaderAuthorization)
	if len(given) > 1 {
		return "", fault.New(fault.InvalidRequest, "Send one Authorization header.", nil)
	}
	if len(given) == 1 {
		scheme, key, found := strings.Cut(given[0], " ")
		if found && strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(key), nil
		}
	}
	return "", fault.New(fault.Unauthorized, "Send your API key as a bearer token: Authorization: Bearer cpk_…", nil)
}

// callerOf returns who authenticate let in, the zero Caller before it did.
func callerOf(ctx context.Context) tenants.Caller {
	who, _ := ctx.Value(identityKey{}).(identity)
	return who.caller
}

// tenantOf returns whose backend calls.
func tenantOf(ctx context.Context) tenants.TenantID { return callerOf(ctx).Tenant.ID }

// actorOf returns the partner's backend as the audit log names it.
func actorOf(ctx context.Context) tenants.Actor {
	who, _ := ctx.Value(identityKey{}).(identity)
	return who.actor
}

// browserOf is somebody at a browser; the flow knows which user it is.
func browserOf(c echo.Context) tenants.Actor {
	ip, _ := netip.ParseAddr(c.RealIP()) // the zero address when there is none
	return tenants.Actor{Type: tenants.ActorUser, RequestID: requestID(c), IP: ip}
}

// sameOrigin refuses form posts that another site made a browser send. Requests
// with neither Sec-Fetch-Site nor Origin come from no browser of this decade; if
// they name a page they come from, it has to be ours.
func (s *Server) sameOrigin(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		refused := fault.New(fault.OperationNotAllowed, "This form was sent from another site. Open the link again and use the button there.", nil)
		r := c.Request()
		if err := s.csrf.Check(r); err != nil {
			return refused
		}
		if r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" && r.Referer() != "" {
			from, err := url.Parse(r.Referer())
			if err != nil || from.Host != r.Host {
				return refused
			}
		}
		return next(c)
	}
}

// clientIP is ClientAddr for echo.
func clientIP(hops int) echo.IPExtractor {
	return func(r *http.Request) string {
		if ip := ClientAddr(r, hops); ip.IsValid() {
			return ip.String()
		}
		return ""
	}
}

// ClientAddr returns the peer, or what the outermost of the trusted proxies saw,
// when hops of them stand before the service. Anything further left in
// X-Forwarded-For is the client's own invention. The zero Addr means unknown.
func ClientAddr(r *http.Request, hops int) netip.Addr {
	if hops > 0 {
		chain := strings.Split(strings.Join(r.Header.Values(echo.HeaderXForwardedFor), ","), ",")
		if ip, err := netip.ParseAddr(strings.TrimSpace(chain[max(0, len(chain)-hops)])); err == nil {
			return ip.Unmap()
		}
	}
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return peer.Addr().Unmap()
}
