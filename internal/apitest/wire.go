package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"syscall"
	"testing"
)

// wire stands before the simulated Prisma and notes the secrets that pass.
type wire struct {
	url    string
	record *record
	next   atomic.Pointer[http.Handler]
	hang   atomic.Pointer[chan struct{}] // token requests wait for its end, unprocessed
	away   atomic.Bool                   // the token endpoint takes no connections
}

// TokensAway makes the token endpoint refuse connections, or take them again.
func (w *World) TokensAway(away bool) { w.wire.away.Store(away) }

// dial connects to the token endpoint.
func (w *wire) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if w.away.Load() {
		return nil, syscall.ECONNREFUSED
	}
	return (&net.Dialer{}).DialContext(ctx, network, address)
}

// HangTokens lets the token endpoint take requests and not answer, until the returned
// function is called: then they are cut off, and nothing was done. It must be called.
func (w *World) HangTokens() (release func()) {
	gate := make(chan struct{})
	w.wire.hang.Store(&gate)
	return func() {
		if w.wire.hang.CompareAndSwap(&gate, nil) {
			close(gate)
		}
	}
}

func newWire(t *testing.T, r *record) *wire {
	t.Helper()
	w := &wire{record: r}
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

func (w *wire) pass(to http.Handler) { w.next.Store(&to) }

// ServeHTTP passes a request on. An aborted answer stays aborted: the panic that
// says so goes through.
func (w *wire) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	next := w.next.Load()
	if next == nil {
		http.Error(rw, "not ready", http.StatusServiceUnavailable)
		return
	}
	if r.URL.Path == "/token" {
		w.noteForm(r)
		if gate := w.hang.Load(); gate != nil {
			<-*gate
			panic(http.ErrAbortHandler)
		}
	}
	answer := newRecorder(rw)
	(*next).ServeHTTP(answer, r)
	w.noteAnswer(answer.Body.Bytes())
	answer.end()
}

// Upstream puts a handler before Prisma, which gets what is left to next.
func (w *World) Upstream(change func(next http.Handler) http.Handler) {
	w.wire.pass(change(*w.wire.next.Load()))
}

// noteForm notes what a token request brings.
func (w *wire) noteForm(r *http.Request) {
	body, err := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, formErr := url.ParseQuery(string(body))
	if err != nil || formErr != nil {
		return // the simulator refuses it
	}
	w.record.secret("code", form.Get("code"))
	w.record.secret("verifier", form.Get("code_verifier"))
	w.record.secret("refresh token", form.Get("refresh_token"))
	w.record.secret("client secret", form.Get("client_secret"))
}

// noteAnswer notes tokens and connection strings, wherever in the JSON they are.
func (w *wire) noteAnswer(body []byte) {
	var answer any
	if json.Unmarshal(body, &answer) != nil {
		return // a page
	}
	walk(answer, func(name, text string) {
		switch name {
		case "access_token":
			w.record.secret("access token", text)
		case "refresh_token":
			w.record.secret("refresh token", text)
		case "connectionString":
			w.record.connectionString(text)
		}
	})
}

// walk calls note for every named string in a decoded JSON value.
func walk(value any, note func(name, text string)) {
	switch v := value.(type) {
	case map[string]any:
		for name, member := range v {
			if text, ok := member.(string); ok {
				note(name, text)
				continue
			}
			walk(member, note)
		}
	case []any:
		for _, member := range v {
			walk(member, note)
		}
	}
}
