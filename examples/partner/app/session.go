package app

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/gorilla/securecookie"
)

const (
	// minSessionKey is the shortest signing key, in bytes.
	minSessionKey = 32
	// sessionLife is how long a sign-in lasts.
	sessionLife = 12 * time.Hour
	// maxBegun bounds how many connect sessions a browser may have under way: each
	// takes about 30 bytes of the cookie, and they end after ten minutes anyway.
	maxBegun = 8
)

// session is what this app knows of a browser. It lives in a cookie that is
// signed, not encrypted, so it holds nothing that its owner may not read.
type session struct {
	UserID string `json:"userId"`
	// Begun are the connect sessions that this browser began for this user, oldest
	// first. Signing in anew drops them: what another user began is not theirs.
	Begun []string `json:"begun,omitempty"`
	// Notice is shown once, on the next home page.
	Notice notice `json:"notice,omitempty"`
}

// notice says what the last form did.
type notice string

const (
	noticeConnected           notice = "connected"
	noticeDisconnected        notice = "disconnected"
	noticeDisconnectedRemoved notice = "disconnected-removed"
)

// begin notes a connect session that the browser is about to leave for.
func (s *session) begin(id string) {
	s.Begun = append(s.Begun, id)
	if len(s.Begun) > maxBegun {
		s.Begun = s.Begun[len(s.Begun)-maxBegun:]
	}
}

// began tells whether this browser began the connect session, for this user.
func (s *session) began(id string) bool {
	return id != "" && slices.Contains(s.Begun, id)
}

// end forgets a connect session that is over.
func (s *session) end(id string) {
	s.Begun = slices.DeleteFunc(s.Begun, func(begun string) bool { return begun == id })
}

// account is how the pages name the user.
func (s *session) account() account {
	return account{ID: s.UserID, Label: userLabel(s.UserID)}
}

// sessions reads and writes the session cookie.
type sessions struct {
	codec  *securecookie.SecureCookie
	name   string
	secure bool
}

func newSessions(key []byte, publicURL *url.URL) (*sessions, error) {
	if len(key) < minSessionKey {
		return nil, fmt.Errorf("the session key has %d bytes; it needs %d", len(key), minSessionKey)
	}
	codec := securecookie.New(key, nil).MaxAge(int(sessionLife.Seconds())).SetSerializer(securecookie.JSONEncoder{})
	s := &sessions{codec: codec, name: "partner-session"}
	if publicURL.Scheme == "https" || isLoopback(publicURL.Hostname()) {
		// With the prefix no neighbouring host can plant a cookie. Chromium and
		// Firefox take it from http on the loopback too; Safari wants https.
		s.name, s.secure = "__Host-partner-session", true
	}
	return s, nil
}

// read returns the browser's session, false if nobody is signed in there.
func (s *sessions) read(r *http.Request) (session, bool) {
	cookie, err := r.Cookie(s.name)
	if err != nil {
		return session{}, false
	}
	var out session
	if err := s.codec.Decode(s.name, cookie.Value, &out); err != nil || out.UserID == "" {
		return session{}, false // too old, or not signed by us
	}
	return out, true
}

// write stores the session in the answer; it has to come before the status line.
func (s *sessions) write(w http.ResponseWriter, content session) error {
	value, err := s.codec.Encode(s.name, content)
	if err != nil {
		return fmt.Errorf("encode the session: %w", err)
	}
	s.set(w, value, int(sessionLife.Seconds()))
	return nil
}

// clear signs the browser out.
func (s *sessions) clear(w http.ResponseWriter) { s.set(w, "", -1) }

func (s *sessions) set(w http.ResponseWriter, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // Secure is off only for plain http on a network, where no browser would keep the cookie
		Name: s.name, Value: value, Path: "/", MaxAge: maxAge,
		Secure: s.secure, HttpOnly: true,
		// Lax, not Strict: the callback is reached from another site, by a link.
		SameSite: http.SameSiteLaxMode,
	})
}

// signIn serves POST /sign-in: this app's whole login is the choice of a user.
func (a *app) signIn(w http.ResponseWriter, r *http.Request) {
	id, err := userID(r.PostFormValue("user"))
	if err != nil {
		a.show(w, r, http.StatusUnprocessableEntity, signInPage{
			Users: sampleUsers(), Problem: fmt.Sprintf("Use 1 to %d letters, digits or . _ @ - for the id.", maxUserID),
		})
		return
	}
	s := session{UserID: id} // never what was there before: see session.Begun
	if err := a.sessions.write(w, s); err != nil {
		a.fail(w, r, s, err)
		return
	}
	http.Redirect(w, r, "/", http.StatusSeeOther)
}

// signOut serves POST /sign-out.
func (a *app) signOut(w http.ResponseWriter, r *http.Request) {
	a.sessions.clear(w)
	http.Redirect(w, r, "/", http.StatusSeeOther)
}
