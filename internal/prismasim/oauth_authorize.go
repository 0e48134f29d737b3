package prismasim

import (
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Scopes that a client may ask for.
const (
	scopeAdmin   = "workspace:admin"
	scopeOffline = "offline_access"
)

// authRequest is an authorization request whose client and redirect URI are
// right: only then may anything be sent to that URI.
type authRequest struct {
	client      client
	redirectURI string
	state       string
	scope       string
	challenge   string
	params      url.Values // as received, for the form to send again
}

// authError is a fault of the request that the client is told of by redirect.
type authError struct {
	code, description string
}

// getAuthorize serves GET /authorize: the consent page, or at once what
// PUT /_control/consent says.
func (s *Simulator) getAuthorize(w http.ResponseWriter, r *http.Request) {
	request, ok := s.checkAuthorize(w, r, r.URL.Query())
	if !ok {
		return
	}
	switch mode := s.settings().Consent; mode.Mode {
	case consentApprove:
		s.approve(w, r, request, mode.WorkspaceID)
	case consentDeny:
		s.deny(w, r, request)
	default:
		s.renderConsent(w, r, http.StatusOK, request, "")
	}
}

// postAuthorize serves POST /authorize, the form of the consent page. It carries
// the whole request again, which is checked again.
func (s *Simulator) postAuthorize(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
	if err := r.ParseForm(); err != nil {
		s.renderError(w, r, "The form could not be read.")
		return
	}
	request, ok := s.checkAuthorize(w, r, r.PostForm)
	if !ok {
		return
	}
	choice := r.PostForm.Get("workspace")
	switch r.PostForm.Get("decision") {
	case "approve":
		if choice == "" {
			s.renderConsent(w, r, http.StatusUnprocessableEntity, request, "Choose a workspace first.")
			return
		}
		s.approve(w, r, request, choice)
	case "deny":
		s.deny(w, r, request)
	default:
		s.renderConsent(w, r, http.StatusUnprocessableEntity, request, "Choose Approve or Deny.")
	}
}

// checkAuthorize reads an authorization request. A wrong client or redirect URI
// ends on an error page here; any other fault goes to the client. ok is false
// when the answer has been written.
func (s *Simulator) checkAuthorize(w http.ResponseWriter, r *http.Request, params url.Values) (authRequest, bool) {
	for _, name := range []string{"client_id", "redirect_uri"} {
		if len(params[name]) != 1 || params.Get(name) == "" {
			s.renderError(w, r, "The request must have exactly one "+name+".")
			return authRequest{}, false
		}
	}
	var known client
	var found bool
	s.read(func(st *state) { known, found = st.clients.get(params.Get("client_id")) })
	if !found {
		s.renderError(w, r, "The app that sent you here is not known: its client ID is wrong.")
		return authRequest{}, false
	}
	request := authRequest{client: known, redirectURI: params.Get("redirect_uri"), params: params}
	if !known.allowsRedirect(request.redirectURI) {
		s.renderError(w, r, "The address to return to is not one that "+known.Name+" has registered.")
		return authRequest{}, false
	}
	if fault := request.read(params); fault != nil {
		s.redirect(w, r, request, url.Values{"error": {fault.code}, "error_description": {fault.description}})
		return authRequest{}, false
	}
	return request, true
}

// read takes the parameters that the client may be told about.
func (a *authRequest) read(params url.Values) *authError {
	a.state = params.Get("state") // also in the answer to the faults below
	for _, name := range []string{"response_type", "scope", "state", "code_challenge", "code_challenge_method"} {
		if len(params[name]) > 1 {
			return &authError{"invalid_request", name + " must not be repeated"}
		}
	}
	if params.Get("response_type") != "code" {
		return &authError{"unsupported_response_type", "response_type must be code"}
	}
	scope, ok := readScope(params.Get("scope"))
	if !ok {
		return &authError{"invalid_scope", "scope must be workspace:admin, with offline_access for a refresh token"}
	}
	a.scope = scope
	a.challenge = params.Get("code_challenge")
	switch {
	case a.challenge == "" && a.client.Public:
		return &authError{"invalid_request", "a public client must use PKCE: code_challenge is missing"}
	case a.challenge == "" && params.Get("code_challenge_method") != "":
		return &authError{"invalid_request", "code_challenge is missing"}
	case a.challenge == "":
		return nil
	case params.Get("code_challenge_method") != "S256":
		return &authError{"invalid_request", "code_challenge_method must be S256"}
	case !isChallenge(a.challenge):
		return &authError{"invalid_request", "code_challenge must be 43 characters of base64url"}
	}
	return nil
}

// readScope returns the known scopes in one order; ok is false when one is
// unknown or workspace:admin is not among them.
func readScope(text string) (scope string, ok bool) {
	var admin, offline bool
	for name := range strings.FieldsSeq(text) {
		switch name {
		case scopeAdmin:
			admin = true
		case scopeOffline:
			offline = true
		default:
			return "", false
		}
	}
	if admin && offline {
		return scopeAdmin + " " + scopeOffline, true
	}
	return scopeAdmin, admin
}

// isMadeOf tells whether text has only ASCII letters, digits and the marks given.
func isMadeOf(text, marks string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(marks, r)
	})
}

// isChallenge tells whether text can be a SHA-256 in base64url.
func isChallenge(text string) bool {
	return len(text) == 43 && isMadeOf(text, "-_")
}

// approve issues a code for the chosen workspace. The choice is a workspace id,
// with ".user id" behind it when several users have that workspace; "" takes the
// first workspace there is.
func (s *Simulator) approve(w http.ResponseWriter, r *http.Request, request authRequest, choice string) {
	code := newSecret()
	granted := false
	_ = s.write(r.Context(), func(st *state) error { // fn never fails
		userID, workspaceID, ok := st.choose(choice)
		if !ok {
			return nil
		}
		granted = true
		st.sweepCodes(s.clock.now())
		st.codes.set(hashSecret(code), authCode{
			ClientID: request.client.ID, RedirectURI: request.redirectURI, Challenge: request.challenge,
			Scope: request.scope, UserID: userID, WorkspaceID: workspaceID, IssuedAt: s.clock.now(),
		})
		return nil
	})
	if !granted {
		s.renderConsent(w, r, http.StatusUnprocessableEntity, request, "That workspace is not there any more. Choose another.")
		return
	}
	s.redirect(w, r, request, url.Values{"code": {code}})
}

// deny tells the client that the user said no.
func (s *Simulator) deny(w http.ResponseWriter, r *http.Request, request authRequest) {
	s.redirect(w, r, request, url.Values{
		"error": {"access_denied"}, "error_description": {"the user did not approve the request"},
	})
}

// redirect sends the browser back to the client with params, the state it gave
// and the issuer (RFC 9207).
func (s *Simulator) redirect(w http.ResponseWriter, r *http.Request, request authRequest, params url.Values) {
	if request.state != "" {
		params.Set("state", request.state)
	}
	params.Set("iss", s.url)
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Referrer-Policy", "no-referrer")
	http.Redirect(w, r, withQuery(request.redirectURI, params), http.StatusSeeOther)
}

// sweepCodes forgets codes so old that no replay of them means anything, whenever
// their number has reached a power of two, so that the cost is spread.
func (st *state) sweepCodes(now time.Time) {
	count := len(st.codes.rows)
	if count < 1024 || count&(count-1) != 0 {
		return
	}
	for hash, code := range st.codes.rows {
		if now.Sub(code.IssuedAt) > 24*time.Hour {
			st.codes.remove(hash)
		}
	}
}
