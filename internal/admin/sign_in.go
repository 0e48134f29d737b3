package admin

import (
	"context"
	"errors"
	"fmt"
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

// The limit of failed sign-ins from one address, over all replicas.
const (
	maxFailures   = 10
	failureWindow = 15 * time.Minute
)

const (
	maxSignInForm = 8 << 10 // bytes
	maxPassword   = 1024    // bytes
)

// errWrongSignIn tells that address and password don't belong together.
var errWrongSignIn = errors.New("wrong email address or password")

// showSignIn serves GET /admin/sign-in?next=.
func (s *Server) showSignIn(c echo.Context) error {
	next := safeNext(c.QueryParam("next"))
	_, ok, err := s.session(c.Request())
	if err != nil {
		return err
	}
	if ok {
		return c.Redirect(http.StatusSeeOther, next)
	}
	return s.render(c, http.StatusOK, web.AdminSignInPage{Next: next})
}

// signIn serves POST /admin/sign-in: email, password, next.
func (s *Server) signIn(c echo.Context) error {
	r := c.Request()
	r.Body = http.MaxBytesReader(c.Response(), r.Body, maxSignInForm)
	if err := r.ParseForm(); err != nil {
		return fault.New(fault.InvalidRequest, "The sign-in form can't be read.", err)
	}
	email, next := r.PostForm.Get("email"), safeNext(r.PostForm.Get("next"))

	admin, err := s.authenticate(r.Context(), s.actor(r, tenants.AdminID{}), email, r.PostForm.Get("password"))
	if errors.Is(err, errWrongSignIn) {
		// A 401 has to name a scheme. No browser knows this one, so none opens a prompt.
		c.Response().Header().Set("WWW-Authenticate", `Form realm="admin"`)
		return s.render(c, http.StatusUnauthorized, web.AdminSignInPage{
			Error: "Email address or password is wrong.", Email: email, Next: next,
		})
	}
	if err != nil {
		return err
	}
	by := s.actor(r, admin.ID)
	// What the browser already had is ended, never taken over.
	if old, ok := sessionSecret(r); ok {
		if err := s.Store.EndAdminSession(r.Context(), by, old); err != nil {
			return err
		}
	}
	secret, err := s.Store.BeginAdminSession(r.Context(), by, admin.ID)
	if err != nil {
		return err
	}
	s.Logger.InfoContext(r.Context(), "admin signed in", slog.String("admin_id", admin.ID.String()))
	setSession(c, secret)
	return c.Redirect(http.StatusSeeOther, next)
}

// authenticate returns the admin whom address and password name. Whether there
// is no such admin or the password is another one, the answer is errWrongSignIn
// and takes the same work. fault.QuotaExceeded after too many failures.
func (s *Server) authenticate(ctx context.Context, by tenants.Actor, email, password string) (tenants.Admin, error) {
	by.IP = network(by.IP)
	// Asked first so that a flood costs one query a try, and asked again below so
	// that tries which waited together don't all slip under the limit.
	if err := s.checkFailures(ctx, by); err != nil {
		return tenants.Admin{}, err
	}
	select {
	case s.hashing <- struct{}{}:
		defer func() { <-s.hashing }()
	case <-ctx.Done():
		return tenants.Admin{}, fmt.Errorf("wait to check a password: %w", ctx.Err())
	}
	if err := s.checkFailures(ctx, by); err != nil {
		return tenants.Admin{}, err
	}
	admin, hash, known, err := s.find(ctx, email)
	if err != nil {
		return tenants.Admin{}, err
	}
	if len(password) > maxPassword {
		password = "" // no hash is of an empty password
	}
	matches, err := CheckPassword(hash, password)
	if err != nil {
		return tenants.Admin{}, fmt.Errorf("check the password of %s: %w", admin.ID, err)
	}
	if known && matches {
		return admin, nil
	}
	if err := s.Store.NoteFailedSignIn(ctx, by); err != nil {
		return tenants.Admin{}, err
	}
	s.Logger.WarnContext(ctx, "admin sign-in failed", slog.String("ip", by.IP.String()))
	return tenants.Admin{}, errWrongSignIn
}

// find returns the admin with that address and the hash to compare with; when
// there is none, known is false and the hash is of a password that nobody knows.
func (s *Server) find(ctx context.Context, email string) (admin tenants.Admin, hash string, known bool, err error) {
	if !tenants.IsLabel(strings.TrimSpace(email), 254) { // nobody's, and Postgres refuses some of it
		return tenants.Admin{}, s.noHash, false, nil
	}
	admin, hash, err = s.Store.AdminByEmail(ctx, email)
	if fault.KindOf(err) == fault.NotFound {
		return tenants.Admin{}, s.noHash, false, nil
	}
	return admin, hash, err == nil, err
}

func (s *Server) checkFailures(ctx context.Context, by tenants.Actor) error {
	n, err := s.Store.FailedSignIns(ctx, by, failureWindow)
	if err != nil {
		return err
	}
	if n >= maxFailures {
		return fault.New(fault.QuotaExceeded, "There were too many failed sign-ins. Try again in 15 minutes.", nil).
			WithRetryAfter(failureWindow)
	}
	return nil
}

// network is what failures are counted by: an IPv4 address, or the /64 of an
// IPv6 one, all of which is one subscriber's to choose from.
func network(ip netip.Addr) netip.Addr {
	if !ip.Is6() {
		return ip
	}
	prefix, err := ip.WithZone("").Prefix(64)
	if err != nil {
		return ip
	}
	return prefix.Addr()
}

// signOut serves POST /admin/sign-out.
func (s *Server) signOut(c echo.Context) error {
	r := c.Request()
	admin, ok, err := s.session(r)
	if err != nil {
		return err
	}
	if secret, has := sessionSecret(r); ok && has {
		if err := s.Store.EndAdminSession(r.Context(), s.actor(r, admin.ID), secret); err != nil {
			return err
		}
	}
	setSession(c, "")
	return c.Redirect(http.StatusSeeOther, base+"/sign-in")
}
