package sdkcompare_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prismasim"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

const (
	clientID    = prismasimtest.PublicClientID
	redirectURI = prismasimtest.RedirectURI
	fullScope   = "workspace:admin offline_access"
)

// side is one of the two SDKs: it makes the objects that a scenario acts with.
type side interface {
	// storage makes a token storage, empty unless set is not nil.
	storage(s *stage, kind storageKind, set *pair, broken failures) storage

	// sdk makes an SDK of the public client.
	sdk(s *stage, of storage, options sdkOptions) actor

	// client makes a plain client.
	client(s *stage, options clientOptions) actor

	// quick reports whether a call whose context has ended returns without the answer
	// it waits for. It must not be asked before the answer is being waited for.
	quick(s *stage, call *pending) bool
}

// actor is an SDK or a client.
type actor interface {
	loginURL(ctx context.Context, scope string, params map[string]string) (login, *failure)
	handleCallback(ctx context.Context, callbackURL, verifier string, state *string) *failure
	call(ctx context.Context, op operation) (any, *failure)
	logout(ctx context.Context) *failure

	// finish waits for what goes on behind the callers' backs.
	finish()
}

// storage is a token storage.
type storage interface {
	// stored returns the tokens in it, nil for none.
	stored() *pair

	// contended closes when a second refresh waits until the first has ended.
	contended() <-chan struct{}
}

type storageKind int

const (
	plain   storageKind = iota // get, set and clear
	locking                    // with the optional lock and compare-and-clear
	best                       // the best that comes with each SDK: the plain one, and our MemoryStorage
)

// failures are how often calls of a storage's methods fail before they work.
type failures struct{ get, set, clear int }

// pair are stored tokens. expires says whether the storage knows when.
type pair struct {
	workspace, access, refresh string
	expires                    bool
}

type sdkOptions struct {
	id      string // client id, if not the public one
	secret  string // an SDK that has no place for it does without
	apiURL  string // default: in front of the simulator
	authURL string // same
	giveUp  bool   // ours: give up storing at the first failure
}

type clientOptions struct {
	token   string
	header  map[string]string
	baseURL string
}

// login is what begins a login.
type login struct {
	URL      string `json:"url"`
	State    string `json:"state"`
	Verifier string `json:"verifier"`
}

// failure is an error as its caller sees it.
type failure struct {
	Kind                string `json:"kind"`
	Message             string `json:"message"`
	RefreshTokenInvalid bool   `json:"refreshTokenInvalid"`
	HasCause            bool   `json:"hasCause"`

	// Of an answer of the API.
	status                 int
	code, hint, retryAfter string
}

// String is the failure in one line.
func (f *failure) String() string {
	var b strings.Builder
	b.WriteString(f.Kind)
	if f.Kind == "APIError" {
		fmt.Fprintf(&b, " %d", f.status)
		if f.code != "" {
			fmt.Fprintf(&b, " %s: %q", f.code, f.Message)
		}
		if f.hint != "" {
			fmt.Fprintf(&b, " (%q)", f.hint)
		}
		if f.retryAfter != "" {
			fmt.Fprintf(&b, ", retry after %s s", f.retryAfter)
		}
		return b.String()
	}
	if f.RefreshTokenInvalid {
		b.WriteString(" (refresh token invalid)")
	}
	fmt.Fprintf(&b, ": %q", f.Message)
	if f.HasCause && f.Kind == "FetchError" {
		b.WriteString(" (with its cause)")
	}
	return b.String()
}

// house is a simulator and the front before it. A run has one to itself.
type house struct {
	front     *front
	simulator *prismasimtest.Server
	offset    atomic.Int64 // of the simulator's clock, in ns; our SDK's goes with it
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{front: newFront(t)}
	h.simulator = prismasimtest.Start(t, func(c *prismasim.Config) { c.URL = h.front.URL })
	h.front.simulator = h.simulator
	return h
}

// street has houses that are free. A simulator takes half a second to build, and a reset
// leaves nothing in it but the seed and the time.
type street struct {
	t    *testing.T
	free chan *house
}

func newStreet(t *testing.T, houses int) *street {
	t.Helper()
	st := &street{t: t, free: make(chan *house, houses)}
	for range houses {
		st.free <- newHouse(t)
	}
	return st
}

// stage is one run of a scenario: a simulator as good as new, a front before it, and one
// of the SDKs.
type stage struct {
	*house

	t        *testing.T
	side     side
	log      *transcript
	actors   []actor
	storages []storage
	sdks     int
}

// run plays a scenario with one side.
func (st *street) run(t *testing.T, with side, play func(*stage)) *stage {
	t.Helper()
	s := &stage{house: <-st.free, t: t, side: with, log: newTranscript()}
	defer func() {
		if s.front.refused { // nobody can get in any more
			s.house = newHouse(st.t)
		}
		st.free <- s.house
	}()
	s.front.log.Store(s.log)
	s.front.between(nil)
	s.simulator.Control(t, http.MethodPost, "reset", nil, nil)
	s.consentFor(prismasimtest.WorkspaceA)
	play(s)
	for _, a := range s.actors {
		a.finish()
	}
	s.front.busy.Wait()
	for _, kept := range s.storages {
		s.noteStored(kept)
	}
	return s
}

// now is our SDK's clock.
func (s *stage) now() time.Time {
	return time.Now().Add(time.Duration(s.offset.Load())) //nolint:forbidigo // this is the injected clock
}

// advance moves the clocks.
func (s *stage) advance(by time.Duration) {
	s.simulator.Control(s.t, http.MethodPost, "clock", map[string]string{"advance": by.String()}, nil)
	s.offset.Add(int64(by))
}

// expire makes the API refuse every access token, which no clock foretells.
func (s *stage) expire() {
	s.simulator.Control(s.t, http.MethodPost, "expire-access-tokens", nil, nil)
}

// revoke ends every grant.
func (s *stage) revoke() {
	for _, token := range s.simulator.Ledger(s.t).RefreshTokens {
		s.simulator.Control(s.t, http.MethodPost, "revoke", map[string]string{"grant": token.Grant}, nil)
	}
}

func (s *stage) consentFor(workspace string) {
	s.simulator.Control(s.t, http.MethodPut, "consent", map[string]string{"mode": "approve", "workspaceId": workspace}, nil)
}

// storage makes a storage whose content is part of the transcript.
func (s *stage) storage(kind storageKind, set *pair, broken ...failures) storage {
	how := failures{}
	if len(broken) > 0 {
		how = broken[0]
	}
	made := s.side.storage(s, kind, set, how)
	s.storages = append(s.storages, made)
	return made
}

// sdk makes an SDK.
func (s *stage) sdk(of storage, options ...sdkOptions) actor {
	how := sdkOptions{}
	if len(options) > 0 {
		how = options[0]
	}
	if how.id == "" {
		how.id = clientID
	}
	if how.apiURL == "" {
		how.apiURL = s.front.URL
	}
	if how.authURL == "" {
		how.authURL = s.front.URL
	}
	s.sdks++
	made := s.side.sdk(s, of, how)
	s.actors = append(s.actors, made)
	return made
}

// client makes a plain client.
func (s *stage) client(options clientOptions) actor {
	if options.baseURL == "" {
		options.baseURL = s.front.URL
	}
	return s.side.client(s, options)
}

// loggedIn makes an SDK whose plain storage has the tokens of a login.
func (s *stage) loggedIn() actor { return s.sdk(s.storage(plain, s.tokens(fullScope))) }

// tokens logs the user in without either SDK and without the front.
func (s *stage) tokens(scope string) *pair {
	s.t.Helper()
	verifier := prisma.NewVerifier()
	callback := s.consent(s.front.URL + "/authorize?" + url.Values{
		"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {redirectURI}, "scope": {scope},
		"state": {"s"}, "code_challenge": {prisma.Challenge(verifier)}, "code_challenge_method": {"S256"},
	}.Encode())
	status, body := s.simulator.Token(s.t, url.Values{
		"grant_type": {"authorization_code"}, "code": {query(s.t, callback).Get("code")}, "redirect_uri": {redirectURI},
		"client_id": {clientID}, "code_verifier": {verifier},
	})
	if status != http.StatusOK {
		s.t.Fatalf("log in without an SDK: status %d", status)
	}
	tokens := prismasimtest.ReadTokens(s.t, body)
	s.log.call("access", tokens.Access)
	s.log.call("refresh", tokens.Refresh)
	return &pair{workspace: prismasimtest.WorkspaceA, access: tokens.Access, refresh: tokens.Refresh}
}

// consent lets the user's browser open a login URL and returns the callback URL that it
// is sent to.
func (s *stage) consent(loginURL string) string {
	s.t.Helper()
	answer := httptest.NewRecorder()
	request := httptest.NewRequestWithContext(s.t.Context(), http.MethodGet, loginURL, http.NoBody)
	s.simulator.ServeHTTP(answer, request)
	callback := answer.Header().Get("Location")
	if callback == "" {
		s.t.Fatalf("the login URL answered %d without a redirect", answer.Code)
	}
	if code := query(s.t, callback).Get("code"); code != "" {
		s.log.call("code", code)
	}
	return callback
}

func query(t *testing.T, rawURL string) url.Values {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatalf("parse a URL: %v", err)
	}
	return u.Query()
}

// begin begins a login, as a step, and lets the user consent.
func (s *stage) begin(a actor, scope string) (login, string) {
	s.t.Helper()
	begun := s.loginURL(a, scope, nil)
	return begun, s.consent(begun.URL)
}

// loginURL is a step. It checks what can't be seen in a transcript: how random the
// secrets look, and that the challenge is the verifier's.
func (s *stage) loginURL(a actor, scope string, params map[string]string) login {
	s.t.Helper()
	begun, failed := a.loginURL(s.t.Context(), scope, params)
	if failed != nil {
		s.log.note("login URL: %s", failed)
		return login{}
	}
	asked := query(s.t, begun.URL)
	s.log.call("state", begun.State)
	verifier := s.log.call("verifier", begun.Verifier)
	s.log.alias(prisma.Challenge(begun.Verifier), "S256("+verifier+")")
	page, _, _ := strings.Cut(begun.URL, "?")
	s.log.note("login URL: ok, %d characters of state, %d of verifier, %s?%s", len(begun.State), len(begun.Verifier), page, pairs(asked))
	return begun
}

// callback is a step.
func (s *stage) callback(a actor, callbackURL string, begun login) {
	s.t.Helper()
	s.note("callback", nil, a.handleCallback(s.t.Context(), callbackURL, begun.Verifier, &begun.State))
}

// call is a step.
func (s *stage) call(a actor, op operation) any {
	s.t.Helper()
	value, failed := a.call(s.t.Context(), op)
	s.note(op.name, value, failed)
	return value
}

// logout is a step.
func (s *stage) logout(a actor) {
	s.t.Helper()
	s.note("logout", nil, a.logout(s.t.Context()))
}

// note writes the outcome of a step.
func (s *stage) note(step string, value any, failed *failure) {
	switch {
	case failed != nil:
		s.log.note("%s: %s", step, failed)
	case value != nil:
		s.log.note("%s: ok %s", step, ordered(value)) // of which lines makes several when it is long
	default:
		s.log.note("%s: ok", step)
	}
}

// noteStored writes what is in a storage.
func (s *stage) noteStored(kept storage) {
	stored := kept.stored()
	if stored == nil {
		s.log.note("stored: nothing")
		return
	}
	line := fmt.Sprintf("stored: workspace %q, access %q, refresh %q", stored.workspace, stored.access, stored.refresh)
	if stored.expires {
		line += expiryKept
	}
	s.log.note("%s", line)
}

// pending is a step that runs beside others.
type pending struct {
	s      *stage
	step   string
	cancel context.CancelFunc
	trace  *trace
	done   chan struct{}
	value  any
	failed *failure
}

// trace follows a step into the process of the published SDK. It travels in a context.
type trace struct {
	request int           // its id; to be read when aborted is closed
	aborted chan struct{} // closed when that process has raised the AbortSignal
}

type traceKey struct{}

// start begins a step beside others.
func (s *stage) start(step string, do func(ctx context.Context) (any, *failure)) *pending {
	ctx, cancel := context.WithCancel(s.t.Context())
	s.t.Cleanup(cancel)
	p := &pending{s: s, step: step, cancel: cancel, trace: &trace{aborted: make(chan struct{})}, done: make(chan struct{})}
	ctx = context.WithValue(ctx, traceKey{}, p.trace)
	go func() {
		defer close(p.done)
		p.value, p.failed = do(ctx)
	}()
	return p
}

// startCall begins a call beside other steps.
func (s *stage) startCall(a actor, op operation) *pending {
	return s.start(op.name, func(ctx context.Context) (any, *failure) { return a.call(ctx, op) })
}

// end waits for the step and writes its outcome.
func (p *pending) end() {
	p.s.t.Helper()
	p.s.wait(p.done, p.step)
	p.s.note(p.step, p.value, p.failed)
}

// wait waits for a signal, which every scenario gets unless something is broken.
func (s *stage) wait(signal <-chan struct{}, what string) {
	s.t.Helper()
	select {
	case <-signal:
	case <-time.After(20 * time.Second):
		s.t.Fatalf("nothing came of %q", what)
	}
}
