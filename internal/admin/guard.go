package admin

import (
	"net/http"
	"net/url"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

// sessionCookie: the prefix makes browsers refuse one that another host set, one
// without Secure and one for a narrower path.
const sessionCookie = "__Host-admin"

// contentPolicy allows what package web needs and nothing more.
const contentPolicy = "default-src 'none'; style-src 'self'; img-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// secureHeaders sets the headers of every answer, also of errors.
func secureHeaders(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		header := c.Response().Header()
		header.Set("Content-Security-Policy", contentPolicy)
		// no-referrer would turn a form's Origin into "null".
		header.Set("Referrer-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		header.Set("X-Content-Type-Options", "nosniff")
		return next(c)
	}
}

// sameOrigin refuses state changes that a page of another origin asks for.
//
// CrossOriginProtection lets through what carries neither Sec-Fetch-Site nor
// Origin. Browsers of this decade send one of them with every POST, so that is a
// script, or a browser so old that Referer is all there is to go by: a foreign
// one is refused, and a missing one is taken only without a session, where there
// is nothing to misuse.
func (s *Server) sameOrigin(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		r := c.Request()
		if err := s.crossOrigin.Check(r); err != nil {
			return errForeign(err)
		}
		if changesState(r.Method) && r.Header.Get("Sec-Fetch-Site") == "" && r.Header.Get("Origin") == "" {
			referer := r.Header.Get("Referer")
			if referer == "" && len(r.CookiesNamed(sessionCookie)) > 0 || referer != "" && !s.isOwn(referer, r.Host) {
				return errForeign(nil)
			}
		}
		return next(c)
	}
}

func changesState(method string) bool {
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
}

// isOwn reports whether a URL is of the public origin, or of the host that the
// request was sent to.
func (s *Server) isOwn(raw, host string) bool {
	u, err := url.Parse(raw)
	return err == nil && u.Host != "" && (u.Host == host || u.Scheme+"://"+u.Host == s.Origin)
}

func errForeign(cause error) error {
	return fault.New(fault.OperationNotAllowed, "The form was sent from another site. Open the dashboard and try again.", cause)
}

// sessionSecret returns what the session cookie holds. Two cookies of the name
// are none: one of them was planted.
func sessionSecret(r *http.Request) (string, bool) {
	cookies := r.CookiesNamed(sessionCookie)
	if len(cookies) != 1 || cookies[0].Value == "" {
		return "", false
	}
	return cookies[0].Value, true
}

// setSession stores a session secret in the browser; "" removes it. Lax, because
// with Strict a link to the dashboard in a mail or chat would ask to sign in
// again; no GET changes anything.
func setSession(c echo.Context, secret string) {
	cookie := &http.Cookie{
		Name: sessionCookie, Value: secret, Path: "/",
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	if secret == "" {
		cookie.MaxAge = -1
	}
	c.SetCookie(cookie)
}

// session returns the admin that the request's session belongs to; ok is false
// when there is no session or it has ended.
func (s *Server) session(r *http.Request) (admin tenants.Admin, ok bool, err error) {
	secret, ok := sessionSecret(r)
	if !ok {
		return tenants.Admin{}, false, nil
	}
	admin, err = s.Store.AdminBySession(r.Context(), secret)
	if fault.KindOf(err) == fault.Unauthorized {
		return tenants.Admin{}, false, nil
	}
	return admin, err == nil, err
}

// signedIn wraps a page that needs a session. Without one the answer is 303 to
// the sign-in form, which leads back here.
func (s *Server) signedIn(page func(echo.Context, tenants.Admin) error) echo.HandlerFunc {
	return func(c echo.Context) error {
		admin, ok, err := s.session(c.Request())
		if err != nil {
			return err
		}
		if !ok {
			to := base + "/sign-in"
			if next := safeNext(c.Request().URL.Path); next != base {
				to += "?" + url.Values{"next": {next}}.Encode()
			}
			return c.Redirect(http.StatusSeeOther, to)
		}
		return page(c, admin)
	}
}
