package httpapi

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/oauthflow"
	"github.com/connect-prisma/server/internal/tenants"
	"github.com/connect-prisma/server/web"
)

// page sends a view with the headers of a page that has no form.
func (s *Server) page(c echo.Context, code int, view web.View) error {
	return s.render(c, code, view, "no-referrer", "'none'")
}

// formPage sends a view whose form leads to this service and from there on to
// further origins. Browsers hold every redirect of a form against form-action, and
// where Prisma's sign-in and the partner's callback redirect to is not ours to
// know: so any https address may follow, and plain http only where it is named.
// The referrer policy is same-origin, because with no-referrer browsers send
// "Origin: null", which can't be told from another site.
func (s *Server) formPage(c echo.Context, code int, view web.View, targets ...string) error {
	return s.render(c, code, view, "same-origin", "'self' "+strings.Join(append(targets, "https:"), " "))
}

func (s *Server) render(c echo.Context, code int, view web.View, referrer, formAction string) error {
	body, err := s.cfg.Pages.Render(view)
	if err != nil {
		return err
	}
	return sendPage(c, code, body, referrer, formAction)
}

// sendPage sends a page; further parts of the policy loosen it to what the page needs.
func sendPage(c echo.Context, code int, body []byte, referrer, formAction string, further ...string) error {
	header := c.Response().Header()
	header.Set("Content-Security-Policy", strings.Join(append([]string{
		"default-src 'none'", "style-src 'self'", "img-src 'self'", "form-action " + formAction,
		"frame-ancestors 'none'", "base-uri 'none'",
	}, further...), "; "))
	header.Set("Referrer-Policy", referrer)
	header.Set("X-Frame-Options", "DENY")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	noStore(c)
	return c.HTMLBlob(code, body)
}

// front serves GET /: somebody followed the service's address to its root.
func (s *Server) front(c echo.Context) error {
	page := web.MessagePage{
		Title: "Connect Prisma", Heading: "Connect Prisma", Status: http.StatusOK,
		Paragraphs: []string{
			"This service connects apps with their users’ Prisma workspaces.",
			"If an app sent you here, go back to it and press “Connect Prisma” there.",
		},
	}
	if s.cfg.MountAdmin != nil {
		page.ActionLabel, page.ActionURL = "Dashboard for admins", "/admin"
	}
	return s.page(c, page.Status, page)
}

// robots serves GET /robots.txt: nothing here is for a search engine.
func robots(c echo.Context) error { return c.String(http.StatusOK, "User-agent: *\nDisallow: /\n") }

// showConnect serves GET /connect/:token. It changes nothing: link previews and
// mail scanners open it too.
func (s *Server) showConnect(c echo.Context) error {
	invitation, err := s.cfg.Flow.Invite(c.Request(), c.Param("token"))
	if fault.KindOf(err) == fault.NotFound {
		return s.neutral(c)
	}
	if err != nil {
		return err
	}
	if invitation.Cookie != nil {
		c.SetCookie(invitation.Cookie)
	}
	return s.formPage(c, http.StatusOK, web.ConnectPage{
		PartnerName: invitation.PartnerName, UserLabel: invitation.Session.UserLabel,
		Action:    c.Request().URL.EscapedPath(),
		Reconnect: invitation.Session.ConnectionID != (tenants.ConnectionID{}), WorkspaceName: invitation.WorkspaceName,
		ExpiresAt: invitation.Session.ExpiresAt, Now: invitation.Session.ReadAt(),
	}, s.cfg.Flow.AuthorizeOrigin(), originOf(invitation.Session.ReturnURL))
}

// originOf is scheme, host and port of a registered URL.
func originOf(registered string) string {
	u, err := url.Parse(registered)
	if err != nil || u.Host == "" {
		return "https:"
	}
	return u.Scheme + "://" + u.Host
}

// startConnect serves POST /connect/:token, the click.
func (s *Server) startConnect(c echo.Context) error {
	target, cookie, err := s.cfg.Flow.Begin(c.Request(), browserOf(c), c.Param("token"))
	if fault.KindOf(err) == fault.NotFound {
		return s.neutral(c)
	}
	if err != nil {
		return err
	}
	c.SetCookie(cookie)
	noStore(c)
	c.Response().Header().Set("Referrer-Policy", "no-referrer")
	return c.Redirect(http.StatusSeeOther, target)
}

// neutral is the one page of links that are unknown, used, expired or somebody
// else's: it must not tell which.
func (s *Server) neutral(c echo.Context) error {
	return s.page(c, http.StatusNotFound, web.MessagePage{
		Title: "Link not usable", Heading: "This link can’t be used", Status: http.StatusNotFound,
		Paragraphs: []string{
			"It may have expired, have been used already, or have been opened in another browser.",
			"Go back to the app that you came from and press “Connect Prisma” again.",
		},
	})
}

// callback serves GET /oauth/callback, where Prisma sends the browser back to.
func (s *Server) callback(c echo.Context) error {
	result, err := s.cfg.Flow.Callback(c.Request(), browserOf(c))
	if err != nil {
		return err
	}
	if result.Cookie != nil {
		c.SetCookie(result.Cookie)
	}
	if result.Redirect != "" {
		noStore(c)
		c.Response().Header().Set("Referrer-Policy", "no-referrer")
		return c.Redirect(http.StatusSeeOther, result.Redirect)
	}
	code, view := s.callbackView(result)
	return s.page(c, code, view)
}

func (s *Server) callbackView(r oauthflow.CallbackResult) (int, web.View) {
	restart := func(page web.MessagePage) (int, web.View) {
		if r.Session.RestartURL != "" {
			page.ActionLabel, page.ActionURL = "Start again", r.Session.RestartURL
		}
		return page.Status, page
	}
	switch {
	case r.Connected:
		return http.StatusOK, web.ConnectedPage{
			PartnerName: r.PartnerName, UserLabel: r.Session.UserLabel, WorkspaceName: r.Connection.WorkspaceName,
			ReturnURL: r.Session.ReturnURL,
		}
	case r.Changed != nil:
		return http.StatusConflict, web.WorkspaceChangedPage{
			PartnerName: r.PartnerName, Expected: r.Changed.ExpectedName, Chosen: r.Changed.ChosenName, RestartURL: r.Changed.URL,
		}
	case r.Denied:
		return restart(web.MessagePage{
			Title: "Not connected", Heading: "Nothing was connected", Status: http.StatusOK,
			Paragraphs: []string{"You said no on Prisma’s page, so " + r.PartnerName + " got no access.", "You can close this tab."},
		})
	case r.Pending:
		return http.StatusAccepted, web.MessagePage{
			Title: "Still connecting", Heading: "Prisma takes its time", Status: http.StatusAccepted,
			Paragraphs: []string{
				"Prisma has not confirmed the connection yet. It goes on without this page.",
				"Look in the app that you came from in a minute: if you are not connected then, begin again there.",
			},
		}
	case r.Expired:
		return restart(web.MessagePage{
			Title: "Link expired", Heading: "That took too long", Status: http.StatusGone,
			Paragraphs: []string{"For your safety a connect link works for ten minutes. Nothing was connected.", "Begin again in the app that you came from."},
		})
	case r.Failed:
		return restart(web.MessagePage{
			Title: "Not connected", Heading: "The connection could not be completed", Status: http.StatusBadGateway,
			Paragraphs: []string{"Prisma did not confirm the connection. Nothing was stored.", "Begin again in the app that you came from."},
		})
	case r.Problem == oauthflow.CallbackNoCookie:
		return restart(web.MessagePage{
			Title: "Cookies needed", Heading: "Your browser did not bring its cookie back", Status: http.StatusBadRequest,
			Paragraphs: []string{
				"To keep others from finishing in your place, the browser that pressed the button must also be the one that comes back, with a cookie from this site.",
				"Allow cookies for this site, then press “Connect Prisma” again in the app that you came from, and stay in the same browser.",
			},
		})
	case r.Problem == oauthflow.CallbackSpent:
		return restart(web.MessagePage{
			Title: "Already used", Heading: "This answer was used already", Status: http.StatusBadRequest,
			Paragraphs: []string{
				"The page was loaded twice, or you began once more in another tab.",
				"Look in the app that you came from: you may be connected. If not, press “Connect Prisma” again.",
			},
		})
	}
	return restart(web.MessagePage{
		Title: "Not usable", Heading: "This page can’t be opened like that", Status: http.StatusBadRequest,
		Paragraphs: []string{
			"It is the end of a connection that this browser did not begin.",
			"Go to the app that you want to connect and press “Connect Prisma” there.",
		},
	})
}
