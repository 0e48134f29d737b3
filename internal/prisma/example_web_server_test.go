package prisma_test

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/gorilla/securecookie"

	"github.com/connect-prisma/server/internal/prisma"
)

// loginCookie is the cookie of a login that has begun. With __Host- no other host or
// path can set it, and only https carries it.
const loginCookie = "__Host-prisma-login"

// loginLife is how long a user may take to consent.
const loginLife = 10 * time.Minute

// webServer logs its operator in. It keeps nothing of a login that has begun: what
// /callback needs is in a cookie of the browser's, so that any replica may answer.
type webServer struct {
	sdk     *prisma.SDK
	cookies *securecookie.SecureCookie
}

// newWebServer returns a server whose cookies are signed with a key of 32 bytes and
// encrypted with another. All replicas have the same.
func newWebServer(sdk *prisma.SDK, hashKey, blockKey []byte) (*webServer, error) {
	if len(hashKey) != 32 || len(blockKey) != 32 { // without a block key, cookies can be read
		return nil, errors.New("the cookie keys must have 32 bytes")
	}
	cookies := securecookie.New(hashKey, blockKey)
	cookies.SetSerializer(securecookie.JSONEncoder{})
	cookies.MaxAge(int(loginLife.Seconds()))
	return &webServer{sdk: sdk, cookies: cookies}, nil
}

// pendingLogin is what the cookie holds.
type pendingLogin struct{ State, Verifier string }

// login serves GET /login: it sends the browser to Prisma.
func (s *webServer) login(w http.ResponseWriter, r *http.Request) {
	login, err := s.sdk.LoginURL(r.Context(), prisma.LoginOptions{})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	value, err := s.cookies.Encode(loginCookie, pendingLogin{State: login.State, Verifier: login.Verifier})
	if err != nil {
		s.fail(w, r, err)
		return
	}
	setLoginCookie(w, value, int(loginLife.Seconds()))
	http.Redirect(w, r, login.URL, http.StatusSeeOther)
}

// callback serves GET /callback, where Prisma sends the browser back to.
func (s *webServer) callback(w http.ResponseWriter, r *http.Request) {
	var pending pendingLogin
	cookie, err := r.Cookie(loginCookie)
	if err == nil {
		err = s.cookies.Decode(loginCookie, cookie.Value, &pending)
	}
	if err != nil {
		http.Error(w, "This login began in another browser, or too long ago. Please begin again.", http.StatusBadRequest)
		return
	}
	setLoginCookie(w, "", -1) // good for one attempt
	if err := s.sdk.HandleCallback(r.Context(), r.URL.String(), pending.Verifier, pending.State); err != nil {
		s.fail(w, r, err)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// home serves GET /.
func (s *webServer) home(w http.ResponseWriter, r *http.Request) {
	me, err := s.sdk.Client().GetMe(r.Context())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	user, err := me.User.Get()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	fmt.Fprintf(w, "Logged in as %s.", user.Email)
}

// fail tells the user what only they can mend, and the log the rest.
func (s *webServer) fail(w http.ResponseWriter, r *http.Request, err error) {
	if failure, ok := errors.AsType[*prisma.AuthError](err); ok {
		http.Error(w, failure.Error()+"\nLog in again at /login.", http.StatusForbidden)
		return
	}
	slog.ErrorContext(r.Context(), "request failed", slog.Any("error", err))
	http.Error(w, "Prisma can't be reached. Please try again later.", http.StatusBadGateway)
}

// setLoginCookie sets the cookie, or with a negative age removes it. Lax, because the
// callback is a navigation that begins at Prisma's site.
func setLoginCookie(w http.ResponseWriter, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: loginCookie, Value: value, Path: "/", MaxAge: maxAge,
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// A web server without sessions keeps the state and the verifier of a login in an
// encrypted cookie, between /login and /callback. An SDK acts for one user, here the one
// who runs the site; a server with many users makes one for each, on a storage of theirs.
func Example_webServer() {
	platform := startPrisma()
	defer platform.Close()

	mux := http.NewServeMux()
	web := httptest.NewTLSServer(mux) // http.ListenAndServeTLS in real life
	defer web.Close()
	sdk, err := prisma.NewSDK(prisma.SDKConfig{
		ClientID:     "client_public",
		RedirectURI:  web.URL + "/callback",
		TokenStorage: prisma.NewMemoryStorage(time.Now, 0), // one that all replicas share, in real life
		APIBaseURL:   platform.URL,
		AuthBaseURL:  platform.URL,
	})
	if err != nil {
		log.Fatal(err)
	}
	server, err := newWebServer(sdk, securecookie.GenerateRandomKey(32), securecookie.GenerateRandomKey(32))
	if err != nil {
		log.Fatal(err)
	}
	mux.HandleFunc("GET /login", server.login)
	mux.HandleFunc("GET /callback", server.callback)
	mux.HandleFunc("GET /{$}", server.home)

	fmt.Println(visit(web, "/login")) // a browser that keeps cookies and follows redirects

	// Output:
	// Logged in as ada@example.com.
}
