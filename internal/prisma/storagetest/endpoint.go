package storagetest

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
)

// behaviour is what the endpoint does with one request.
type behaviour int

const (
	answer     behaviour = iota // as it should
	failBefore                  // 503, and the token is as good as before
	failAfter                   // the token is used up, and the answer a 500
)

// endpoint is a strict token endpoint: a refresh token works once, and one that comes
// twice ends them all.
type endpoint struct {
	url string

	// plan, if set, is asked about the nth request (from 1) before anything is done
	// with it, and may take its time.
	plan func(n int) behaviour

	mu       sync.Mutex
	live     string
	revoked  bool
	requests int
	replays  int
	received map[string]int // presentations of each token
}

// startEndpoint starts an endpoint that knows one refresh token.
func startEndpoint(t *testing.T, live string, plan func(n int) behaviour) *endpoint {
	t.Helper()
	e := &endpoint{live: live, plan: plan, received: map[string]int{}}
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	e.url = server.URL
	return e
}

// ServeHTTP serves POST /token. The nth success brings the pair "exchange-n".
func (e *endpoint) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	status, body := http.StatusBadRequest, map[string]string{"error": "invalid_request"}
	if presented := r.PostFormValue("refresh_token"); presented != "" { // without one it only asks whether anybody is there
		n := e.receive(presented)
		todo := answer
		if e.plan != nil {
			todo = e.plan(n)
		}
		status, body = e.exchange(presented, n, todo)
	}
	text, err := json.Marshal(body)
	if err != nil { // strings always encode
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that is gone has no use for it
}

// receive counts a request and looks whether its token came before.
func (e *endpoint) receive(presented string) (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.requests++
	e.received[presented]++
	return e.requests
}

// exchange does the work of one request.
func (e *endpoint) exchange(presented string, n int, todo behaviour) (status int, body map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if todo == failBefore {
		return http.StatusServiceUnavailable, map[string]string{"error": "temporarily_unavailable"}
	}
	if presented != e.live || e.revoked {
		e.replays++
		e.revoked = true
		return http.StatusBadRequest, map[string]string{"error": "invalid_grant"}
	}
	name := "exchange-" + strconv.Itoa(n)
	e.live = "refresh-" + name
	if todo == failAfter {
		return http.StatusInternalServerError, map[string]string{"error": "server_error"}
	}
	return http.StatusOK, map[string]string{
		"access_token": "access-" + name, "refresh_token": e.live, "token_type": "Bearer", "expires_in": "3600",
	}
}

// counts returns how many requests came, how many of them presented a dead token, and
// how often each token came.
func (e *endpoint) counts() (requests, replays int, received map[string]int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.requests, e.replays, maps.Clone(e.received)
}

// wantRequests fails the test unless there were so many requests and replays.
func (b *bench) wantRequests(e *endpoint, requests, replays int) {
	b.Helper()
	if gotRequests, gotReplays, _ := e.counts(); gotRequests != requests || gotReplays != replays {
		b.Errorf("%d token requests with %d replays, want %d with %d", gotRequests, gotReplays, requests, replays)
	}
}
