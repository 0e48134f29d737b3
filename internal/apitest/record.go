package apitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/connect-prisma/server/internal/fault"
)

// shortest is the length below which a text is too common to be looked for.
const shortest = 12

// codeLetters are what completion codes are made of, and more.
const codeLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

// exchange is one request to the service and its answer.
type exchange struct {
	method, path string
	status       int
	header       http.Header
	body         []byte
}

// record keeps what happened in a test.
type record struct {
	raw      lines // every log line as it was written
	redacted lines // the same behind the redactor, as the serve command logs

	mu        sync.Mutex
	exchanges []exchange
	secrets   map[string]string // the kind by the text
	redirects []string
	failures  map[int]bool // statuses above 499 that were announced
}

func newRecord() *record {
	return &record{secrets: make(map[string]string), failures: make(map[int]bool)}
}

// lines is a log in memory.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (r *record) expect(statuses ...int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, status := range statuses {
		r.failures[status] = true
	}
}

func (r *record) allowRedirect(addresses ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.redirects = append(r.redirects, addresses...)
}

func (r *record) secret(kind, text string) {
	if len(text) < shortest {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secrets[text] = kind
}

func (r *record) connectionString(text string) {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return
	}
	r.secret("connection string", text)
	password, _ := u.User.Password()
	r.secret("connection string", password)
}

func (r *record) figures() (answers, logLines, secrets int) {
	logLines = strings.Count(r.raw.String(), "\n")
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.exchanges), logLines, len(r.secrets)
}

// watch notes each request to next and its answer.
func (r *record) watch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.noteRequest(req)
		answer := newRecorder(w)
		next.ServeHTTP(answer, req)
		r.noteAnswer(req, answer.ResponseRecorder)
		answer.end()
	})
}

func (r *record) noteRequest(req *http.Request) {
	query := req.URL.Query()
	r.secret("code", query.Get("code"))
	r.state(query.Get("state"))
	r.secret("API key", strings.TrimPrefix(req.Header.Get("Authorization"), "Bearer "))
	for _, cookie := range req.Cookies() {
		r.secret("cookie", cookie.Value)
	}
	if !strings.HasSuffix(req.URL.Path, "/complete") || req.Body == nil {
		return
	}
	body, _ := io.ReadAll(io.LimitReader(req.Body, 4096))
	req.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), req.Body), req.Body}
	var asked struct {
		CompletionCode string `json:"completionCode"`
	}
	// What is no code is none of ours to hide: made-up ones turn up as names elsewhere.
	if json.Unmarshal(body, &asked) == nil && strings.Trim(asked.CompletionCode, codeLetters) == "" {
		r.secret("completion code", asked.CompletionCode)
	}
}

// state notes the random part of a state; the session id before it is no secret.
func (r *record) state(state string) {
	_, random, _ := strings.Cut(state, ".")
	r.secret("state", random)
}

func (r *record) noteAnswer(req *http.Request, answer *httptest.ResponseRecorder) {
	result := answer.Result()
	defer result.Body.Close()
	for _, cookie := range result.Cookies() {
		r.secret("cookie", cookie.Value)
	}
	if to, err := result.Location(); err == nil {
		r.secret("completion code", to.Query().Get("completionCode"))
		r.state(to.Query().Get("state"))
	}
	var body any
	// Below /v1/ alone: the contract's examples have links too.
	if strings.HasPrefix(req.URL.Path, "/v1/") && json.Unmarshal(answer.Body.Bytes(), &body) == nil {
		walk(body, func(name, text string) {
			if _, link, ok := strings.Cut(text, "/connect/"); name == "url" && ok {
				r.secret("link", link)
			}
		})
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exchanges = append(r.exchanges, exchange{
		method: req.Method, path: req.URL.Path, status: answer.Code,
		header: result.Header, body: bytes.Clone(answer.Body.Bytes()),
	})
}

// judge fails the test for everything that findings finds.
func (r *record) judge(t *testing.T) {
	t.Helper()
	for finding, n := range r.findings() {
		t.Errorf("%d × %s", n, finding)
	}
}

// findings holds the record against what is true of every test, and counts what
// is not by what it is, since thousands of answers may share it.
func (r *record) findings() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	found := make(map[string]int)
	secrets := newFinder(r.secrets)
	for name, log := range map[string]string{"log": r.raw.String(), "redacted log": r.redacted.String()} {
		for _, secret := range secrets.in(log) {
			found["a secret ("+r.secrets[secret]+") in the "+name]++
		}
	}
	for _, e := range r.exchanges {
		for _, problem := range slices.Concat(e.badHeaders(), r.badRedirect(e), e.badProblem(), e.badByContract(), r.shownSecrets(secrets, e)) {
			found[fmt.Sprintf("%s %s answered %d: %s", e.method, e.kindOfPath(), e.status, problem)]++
		}
		if e.status >= http.StatusInternalServerError && !r.failures[e.status] {
			found[fmt.Sprintf("%s %s answered %d", e.method, e.kindOfPath(), e.status)]++
		}
	}
	return found
}

// kinds counts the secrets by kind.
func (r *record) kinds() map[string]int {
	r.mu.Lock()
	defer r.mu.Unlock()
	kinds := make(map[string]int)
	for _, kind := range r.secrets {
		kinds[kind]++
	}
	return kinds
}

// kindOfPath is the path without what may be secret in it.
func (e exchange) kindOfPath() string {
	if strings.HasPrefix(e.path, "/connect/") {
		return "/connect/…"
	}
	return e.path
}

func (e exchange) isPage() bool { return strings.HasPrefix(e.header.Get("Content-Type"), "text/html") }

// isPrismas reports whether an error is Prisma's own, in its own form, which the
// pass-through leaves as it is.
func (e exchange) isPrismas() bool {
	var p struct {
		Error struct{ Code, Message string }
	}
	return strings.Contains(e.path, "/prisma/v1/") && e.header.Get("Content-Type") == "application/json" &&
		json.Unmarshal(e.body, &p) == nil && p.Error.Code != "" && p.Error.Message != ""
}

// badHeaders lists the security headers that an answer lacks.
func (e exchange) badHeaders() []string {
	var bad []string
	policy := e.header.Get("Content-Security-Policy")
	if e.header.Get("X-Content-Type-Options") != "nosniff" {
		bad = append(bad, "no nosniff")
	}
	if !strings.Contains(policy, "default-src 'none'") || !strings.Contains(policy, "frame-ancestors 'none'") {
		bad = append(bad, fmt.Sprintf("content security policy %q", policy))
	}
	if strings.HasPrefix(e.path, "/static/") && e.status == http.StatusOK {
		return bad
	}
	if !e.mayBeKept() && e.header.Get("Cache-Control") != "no-store" {
		bad = append(bad, "may be cached")
	}
	if got := e.header.Get("Referrer-Policy"); got != "no-referrer" && got != "same-origin" {
		bad = append(bad, fmt.Sprintf("referrer policy %q", got))
	}
	if e.isPage() && (!strings.Contains(policy, "base-uri 'none'") || !strings.Contains(policy, "form-action ")) {
		bad = append(bad, fmt.Sprintf("content security policy of a page %q", policy))
	}
	return bad
}

// mayBeKept reports whether a receiver may keep an answer, to ask each time whether it
// still holds.
func (e exchange) mayBeKept() bool {
	return e.method == http.MethodGet && strings.HasPrefix(e.path, "/v1/") && e.header.Get("ETag") != "" &&
		(e.status == http.StatusOK || e.status == http.StatusNotModified) && e.header.Get("Cache-Control") == "private, no-cache"
}

// badRedirect refuses a Location that nobody registered. The query is the
// service's own part of it.
func (r *record) badRedirect(e exchange) []string {
	to := e.header.Get("Location")
	if to == "" || strings.HasPrefix(to, "/v1/connect-sessions/") && e.status == http.StatusCreated {
		return nil
	}
	target, err := url.Parse(to)
	if err != nil {
		return []string{"a Location that is no URL"}
	}
	for _, allowed := range r.redirects {
		u, err := url.Parse(allowed)
		if err == nil && u.Scheme == target.Scheme && u.Host == target.Host && u.Path == target.Path &&
			target.User == nil && target.Fragment == "" {
			return nil
		}
	}
	return []string{"a Location outside the registered ones"}
}

// badProblem checks the errors of the API.
func (e exchange) badProblem() []string {
	if e.status < http.StatusBadRequest || e.isPage() || e.method == http.MethodHead || !strings.HasPrefix(e.path, "/v1") || e.isPrismas() {
		return nil
	}
	var p struct {
		Type, Title, RequestID string
		Status                 int
	}
	if err := json.Unmarshal(e.body, &p); err != nil || e.header.Get("Content-Type") != "application/problem+json" {
		return []string{"not a problem: " + e.header.Get("Content-Type")}
	}
	kind, ok := strings.CutPrefix(p.Type, PublicURL+"/problems/")
	if !ok || kind != "internal" && !slices.Contains(fault.Kinds(), fault.Kind(kind)) {
		return []string{"unknown problem type " + p.Type}
	}
	if p.Title == "" || p.Status != e.status || p.RequestID == "" || p.RequestID != e.header.Get("X-Request-Id") {
		return []string{"a problem without all its parts"}
	}
	return nil
}

// shownSecrets looks for secrets in a body that is not their hand-over.
func (r *record) shownSecrets(secrets *finder, e exchange) []string {
	var found []string
	for _, text := range secrets.in(string(e.body)) {
		kind, handOver := r.secrets[text], false
		switch kind {
		case "link":
			handOver = e.method == http.MethodPost && e.status == http.StatusCreated && e.path == "/v1/connect-sessions" ||
				e.status == http.StatusConflict || e.path == "/connect/"+text
		case "connection string":
			handOver = e.method == http.MethodPost && (e.status == http.StatusCreated ||
				e.status == http.StatusOK && strings.HasSuffix(e.path, "/rotate") || strings.Contains(e.path, "/prisma/v1/"))
		case "API key":
			handOver = e.method == http.MethodPost && e.status == http.StatusCreated && e.path == "/v1/keys/rotate"
		}
		if !handOver {
			found = append(found, "shows a secret ("+kind+")")
		}
	}
	return found
}
