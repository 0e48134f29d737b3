package provisioning_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// gate lies between the replicas and Prisma. It lets everything pass, cuts off what it
// is told to, and can hold one request while its sender is killed.
type gate struct {
	url string

	mu     sync.Mutex
	marker string // of the last create that was stopped
	plan   []stop
	held   chan struct{} // closed when the last stop of the plan has been reached
	leave  chan struct{} // closed when the held request may go
}

// stop is something that happens to the next request that fits.
type stop struct {
	method, suffix string // of the path
	processed      bool   // Prisma gets it before it is stopped
	cut            bool   // the connection is cut; else it is held, then cut
}

func newGate(t *testing.T, prisma string) *gate {
	t.Helper()
	target, err := url.Parse(prisma)
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{}
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = target.Host
	}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.serve(w, r, pass)
	}))
	t.Cleanup(server.Close)
	g.url = server.URL
	return g
}

// set plans the stops and returns what tells that the last one is reached, and what
// lets the held request go.
func (g *gate) set(plan ...stop) (held <-chan struct{}, leave func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.plan, g.held, g.leave = plan, make(chan struct{}), make(chan struct{})
	return g.held, sync.OnceFunc(func() { close(g.leave) })
}

// next takes the next stop from the plan if the request fits it. Replicas look for what
// earlier operations made, too: a look fits only if it is for the marker of the create
// that was stopped.
func (g *gate) next(r *http.Request) (at stop, last, fits bool, held, leave chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.plan) == 0 || g.plan[0].method != r.Method || !strings.HasSuffix(r.URL.Path, g.plan[0].suffix) {
		return stop{}, false, false, nil, nil
	}
	if r.Method == http.MethodGet && r.URL.Query().Get("logicalId") != g.marker {
		return stop{}, false, false, nil, nil
	}
	if body, err := io.ReadAll(r.Body); err == nil {
		r.Body = io.NopCloser(bytes.NewReader(body))
		var create struct{ LogicalID string }
		if json.Unmarshal(body, &create) == nil && create.LogicalID != "" {
			g.marker = create.LogicalID
		}
	}
	at, g.plan = g.plan[0], g.plan[1:]
	return at, len(g.plan) == 0, true, g.held, g.leave
}

func (g *gate) serve(w http.ResponseWriter, r *http.Request, pass http.Handler) {
	at, last, fits, held, leave := g.next(r)
	if !fits {
		pass.ServeHTTP(w, r)
		return
	}
	answer := httptest.NewRecorder()
	if at.processed { // also when its sender is gone
		pass.ServeHTTP(answer, r.WithContext(context.WithoutCancel(r.Context())))
	}
	if last {
		close(held)
		if !at.cut {
			<-leave
		}
	}
	if at.cut || !at.processed {
		panic(http.ErrAbortHandler)
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes()) // its sender may be gone
}
