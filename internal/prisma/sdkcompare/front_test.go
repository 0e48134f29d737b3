package sdkcompare_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// front stands between an SDK and the simulator. It writes every request into the
// transcript and lets a scenario do what networks and servers do.
type front struct {
	*httptest.Server

	simulator http.Handler // set before the first request
	log       atomic.Pointer[transcript]
	hook      atomic.Pointer[hook]
	busy      sync.WaitGroup // requests being answered
	refused   bool
}

// hook answers a request, with next as what lies behind.
type hook func(w http.ResponseWriter, r *http.Request, next http.Handler)

func newFront(t *testing.T) *front {
	t.Helper()
	f := &front{}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

// between sets what happens to requests from now on; nil: nothing.
func (f *front) between(h hook) {
	if h == nil {
		f.hook.Store(nil)
		return
	}
	f.hook.Store(&h)
}

// refuse makes the address refuse connections for good.
func (f *front) refuse() {
	f.refused = true
	f.Listener.Close()
	f.CloseClientConnections()
}

// ServeHTTP records a request and lets it through, as the hook wants.
func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.busy.Add(1)
	defer f.busy.Done()
	log := f.log.Load()
	body, err := io.ReadAll(r.Body)
	seen := log.arrive(r, body)
	if err != nil {
		seen.outcome = "not read whole"
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer := &watched{ResponseWriter: w}
	defer func() {
		log.mu.Lock()
		seen.outcome = answer.outcome()
		log.mu.Unlock()
		if p := recover(); p != nil {
			panic(p) // http.ErrAbortHandler
		}
	}()
	if h := f.hook.Load(); h != nil {
		(*h)(answer, r, f.simulator)
	} else {
		f.simulator.ServeHTTP(answer, r)
	}
	if strings.HasSuffix(r.URL.Path, "/token") {
		nameTokens(log, answer.body.Bytes())
	}
}

// nameTokens gives the tokens of an answer their names.
func nameTokens(log *transcript, body []byte) {
	var tokens struct {
		Access  string `json:"access_token"`  //nolint:tagliatelle // RFC 6749
		Refresh string `json:"refresh_token"` //nolint:tagliatelle // RFC 6749
	}
	if json.Unmarshal(body, &tokens) == nil {
		log.call("access", tokens.Access)
		log.call("refresh", tokens.Refresh)
	}
}

// watched notes what an answer was.
type watched struct {
	http.ResponseWriter

	status int
	body   bytes.Buffer
	cut    string // how it ended, if not well
}

// Unwrap lets http.ResponseController reach the connection.
func (w *watched) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader notes the status.
func (w *watched) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Write notes the body.
func (w *watched) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.body.Write(b)
	return w.ResponseWriter.Write(b) //nolint:wrapcheck // an http.ResponseWriter passes its error on
}

func (w *watched) outcome() string {
	switch {
	case w.cut != "":
		return w.cut
	case w.status == 0:
		return "cut"
	}
	return strconv.Itoa(w.status)
}

// on limits a hook to the requests below a path; others pass.
func on(path string, h hook) hook {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasPrefix(r.URL.Path, path) {
			h(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}
}

// first limits a hook to the first n requests it sees; later ones pass.
func first(n int32, h hook) hook {
	var seen atomic.Int32
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if seen.Add(1) <= n {
			h(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	}
}

// always makes a hook for a run.
func always(h hook) func() hook { return func() hook { return h } }

// once makes a hook for a run that acts on the first request alone.
func once(h hook) func() hook { return func() hook { return first(1, h) } }

// answers replaces the simulator's answer. header are pairs of name and value.
func answers(status int, contentType, body string, header ...string) hook {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.Header().Set("Content-Type", contentType)
		for i := 0; i+1 < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// resets breaks the connection without an answer.
func resets(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // RST instead of FIN
	}
	_ = conn.Close()
	if watch, ok := w.(*watched); ok {
		watch.cut = "reset"
	}
}

// truncates lets the simulator work and sends half of its answer's body.
func truncates(w http.ResponseWriter, r *http.Request, next http.Handler) {
	answer := httptest.NewRecorder()
	next.ServeHTTP(answer, r)
	body := answer.Body.Bytes()
	w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(answer.Code)
	_, err := w.Write(body[:len(body)/2])
	if watch, ok := w.(*watched); ok {
		watch.cut = strconv.Itoa(answer.Code) + ", cut"
		watch.body.Reset() // nobody has got the tokens in it
	}
	if errors.Join(err, http.NewResponseController(w).Flush()) == nil {
		panic(http.ErrAbortHandler)
	}
}

// rewrites changes the JSON object that the simulator answers.
func rewrites(change func(map[string]any)) hook {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		object := map[string]any{}
		if err := json.Unmarshal(answer.Body.Bytes(), &object); err != nil {
			panic(err)
		}
		change(object)
		answers(answer.Code, answer.Header().Get("Content-Type"), ordered(object))(w, r, next)
	}
}

// abandoned keeps a request without an answer until its client gives up. arrived closes
// when the request is there.
func abandoned(arrived chan struct{}) hook {
	return func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		close(arrived)
		<-r.Context().Done()
		if watch, ok := w.(*watched); ok {
			watch.cut = "abandoned"
		}
	}
}

// held keeps requests until release closes. arrived gets a value for each.
func held(arrived chan<- struct{}, release <-chan struct{}) hook {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		arrived <- struct{}{}
		<-release
		next.ServeHTTP(w, r)
	}
}

// together lets requests pass when n of them have arrived, and later ones at once.
func together(n int32) hook {
	var seen atomic.Int32
	all := make(chan struct{})
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if seen.Add(1) == n {
			close(all)
		}
		<-all
		next.ServeHTTP(w, r)
	}
}
