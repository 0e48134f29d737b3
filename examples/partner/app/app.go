package app

import (
	"crypto/rand"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/connect-prisma/server/client"
)

// Config is what the app needs to know.
type Config struct {
	// ConnectURL is where the app calls the Connect Prisma server.
	ConnectURL string
	// ConnectPublicURL is where browsers reach that server, if it is another
	// address than the app's own way to it; "": ConnectURL.
	ConnectPublicURL string
	// APIKey is the partner's key, cpk_….
	APIKey string
	// PublicURL is where browsers reach this app. PublicURL + "/callback" must be
	// registered with the server as a return URL.
	PublicURL string
	// SessionKey signs the session cookies: 32 bytes or more. nil: a random one,
	// with which everybody is signed out when the program ends.
	SessionKey []byte
	// HTTPClient sends the API calls; nil: a plain one.
	HTTPClient *http.Client
	// Timeout bounds one API call; 0: 90 s.
	Timeout time.Duration
	// Logger hears of failures; nil: nobody does.
	Logger *slog.Logger
}

// maxForm bounds the body of a request, in bytes.
const maxForm = 16 << 10

//go:embed static
var static embed.FS

// app handles the requests.
type app struct {
	connect      *client.Client
	connectAt    *url.URL // where browsers reach the server
	publicURL    *url.URL
	sessions     *sessions
	pages        *pages
	logger       *slog.Logger
	contentRules string // the Content-Security-Policy
}

// New returns the app. It fails on a setting that cannot work, and sends nothing.
func New(cfg Config) (http.Handler, error) {
	connect, err := client.New(cfg.ConnectURL, cfg.APIKey,
		client.Options{HTTPClient: cfg.HTTPClient, Timeout: cfg.Timeout})
	if err != nil {
		return nil, err
	}
	publicURL, err := origin("the public URL", cfg.PublicURL)
	if err != nil {
		return nil, err
	}
	if cfg.ConnectPublicURL == "" {
		cfg.ConnectPublicURL = cfg.ConnectURL
	}
	connectAt, err := origin("the public Connect URL", cfg.ConnectPublicURL)
	if err != nil {
		return nil, err
	}
	if cfg.SessionKey == nil {
		cfg.SessionKey = make([]byte, minSessionKey)
		_, _ = rand.Read(cfg.SessionKey) // never fails: it ends the program instead
	}
	sessions, err := newSessions(cfg.SessionKey, publicURL)
	if err != nil {
		return nil, err
	}
	pages, err := newPages()
	if err != nil {
		return nil, err
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	a := &app{
		connect: connect, connectAt: connectAt, publicURL: publicURL,
		sessions: sessions, pages: pages, logger: cfg.Logger,
		// A browser applies form-action to the redirect that answers a form, too:
		// without the server's origin the way to the connect page would be cut.
		contentRules: "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self' " + connectAt.String() +
			"; frame-ancestors 'none'; base-uri 'none'",
	}
	return a.guard(a.routes()), nil
}

// routes is the whole app. A handler for a user gets the session of whoever is
// signed in; without one the browser is sent to the sign-in page.
func (a *app) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.home)
	mux.HandleFunc("POST /sign-in", a.signIn)
	mux.HandleFunc("POST /sign-out", a.signOut)
	mux.Handle("POST /connect", a.user(a.beginConnect))
	mux.HandleFunc("GET /callback", a.callback)
	mux.Handle("GET /connections/{connection}", a.user(a.connection))
	mux.Handle("POST /connections/{connection}/disconnect", a.user(a.disconnect))
	mux.Handle("POST /connections/{connection}/databases", a.user(a.createDatabase))
	mux.Handle("POST /connections/{connection}/databases/{database}/delete", a.user(a.deleteDatabase))
	mux.Handle("POST /connections/{connection}/databases/{database}/credentials", a.user(a.createCredentials))
	mux.Handle("GET /static/", http.FileServerFS(static))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		a.say(w, r, http.StatusNotFound, notFoundPage())
	})
	return mux
}

// guard is what holds for every request: the headers, the limits, and that no
// other site's page can make a signed-in browser change anything here.
func (a *app) guard(next http.Handler) http.Handler {
	crossOrigin := http.NewCrossOriginProtection()
	crossOrigin.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.say(w, r, http.StatusForbidden, messagePage{
			Title:      "That came from another site",
			Paragraphs: []string{"Another site's page asked for this, so it was not done. Do it from here if you meant it."},
		})
	}))
	next = http.MaxBytesHandler(crossOrigin.Handler(next), maxForm)

	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := w.Header()
		header.Set("Content-Security-Policy", a.contentRules)
		header.Set("X-Content-Type-Options", "nosniff")
		// The pages have forms, and no-referrer would turn their Origin into null.
		header.Set("Referrer-Policy", "same-origin")
		header.Set("Cache-Control", "no-store")
		if strings.HasPrefix(r.URL.Path, "/static/") {
			header.Set("Cache-Control", "public, max-age=300")
		}
		if a.otherLoopback(r) {
			// 127.0.0.1 and localhost are one machine but not one site: a cookie
			// that was set for the one would be missing after the way through Prisma.
			http.Redirect(w, r, a.publicURL.String()+"/", http.StatusSeeOther)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// otherLoopback tells whether a page was asked for by another of the loopback's
// names than the public URL's.
func (a *app) otherLoopback(r *http.Request) bool {
	asked, err := url.Parse("http://" + r.Host)
	return err == nil && r.Method == http.MethodGet && asked.Port() == a.publicURL.Port() &&
		asked.Hostname() != a.publicURL.Hostname() &&
		isLoopback(asked.Hostname()) && isLoopback(a.publicURL.Hostname())
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// userHandler serves a signed-in user; an error that it returns becomes a page.
type userHandler func(w http.ResponseWriter, r *http.Request, s session) error

// user makes a handler of h that only a signed-in browser reaches.
func (a *app) user(h userHandler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, ok := a.sessions.read(r)
		if !ok {
			http.Redirect(w, r, "/", http.StatusSeeOther)
			return
		}
		if err := r.ParseForm(); err != nil {
			a.say(w, r, http.StatusBadRequest, unreadablePage())
			return
		}
		if err := h(w, r, s); err != nil {
			a.fail(w, r, s, err)
		}
	})
}

// fail shows an error to the signed-in user, and logs it if it is not the user's.
func (a *app) fail(w http.ResponseWriter, r *http.Request, s session, err error) {
	page, status := explain(err)
	page.Account = s.account()
	if id := r.PathValue("connection"); id != "" && r.Method == http.MethodPost && status != http.StatusNotFound {
		page.Link, page.LinkLabel = "/connections/"+url.PathEscape(id), "Back to the workspace"
	}
	if status >= http.StatusInternalServerError {
		a.logFailure(r, err)
	}
	a.show(w, r, status, page)
}

// logFailure notes a failure of the server, the network or this app. The URL stays
// out of it: the callback's has the completion code.
func (a *app) logFailure(r *http.Request, err error) {
	attrs := []slog.Attr{slog.String("route", r.Pattern), slog.Any("error", err)}
	if problem, ok := errors.AsType[*client.Problem](err); ok {
		// Just what mends a wrong key or an unregistered return URL.
		attrs = append(attrs, slog.String("detail", problem.Detail), slog.Any("fields", problem.Errors))
	}
	a.logger.LogAttrs(r.Context(), slog.LevelError, "request failed", attrs...)
}

// say shows a message to whoever is there, signed in or not.
func (a *app) say(w http.ResponseWriter, r *http.Request, status int, page messagePage) {
	if s, ok := a.sessions.read(r); ok {
		page.Account = s.account()
	}
	a.show(w, r, status, page)
}

// show renders a page whole before it sends the first byte, so that a failing
// template cannot leave half of one.
func (a *app) show(w http.ResponseWriter, r *http.Request, status int, view view) {
	body, err := a.pages.render(view)
	if err != nil {
		a.logger.LogAttrs(r.Context(), slog.LevelError, "page not rendered", slog.Any("error", err))
		http.Error(w, "This page could not be shown.", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the browser is gone: nobody is left to tell
}

// origin parses a URL that has a scheme and a host and nothing else.
func origin(name, raw string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSuffix(raw, "/"))
	if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil ||
		u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%s %q is not of the form https://host", name, raw)
	}
	return u, nil
}
