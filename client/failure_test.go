package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/client"
)

func TestProblems(t *testing.T) {
	t.Parallel()

	const doc = `{"type": "https://c.example/problems/workspace-changed", "title": "Conflict", "status": 409,
		"detail": "Another workspace.", "requestId": "req_1", "errors": [{"pointer": "/name", "detail": "Bad."}],
		"expected": {"id": "w1", "name": "One"}, "chosen": {"id": "w2", "name": "Two"}, "url": "https://c.example/x", "sessionId": "cs_2"}`
	tests := map[string]struct {
		media, retryAfter, body string
		status                  int
		want                    client.Problem
	}{
		"whole": {
			media: "application/problem+json; charset=utf-8", retryAfter: "7", body: doc, status: 409,
			want: client.Problem{
				Kind: client.WorkspaceChanged,
				Type: "https://c.example/problems/workspace-changed", Title: "Conflict", Status: 409, Detail: "Another workspace.",
				RequestID: "req_1", Errors: []client.FieldError{{Pointer: "/name", Detail: "Bad."}},
				Expected: client.Workspace{ID: "w1", Name: "One"}, Chosen: client.Workspace{ID: "w2", Name: "Two"},
				URL: "https://c.example/x", SessionID: "cs_2", RetryAfter: 7 * time.Second,
			},
		},
		"a proxy's page": {
			media: "text/html", body: "<h1>secret upstream</h1>", status: 502,
			want: client.Problem{Title: "Bad Gateway", Status: 502},
		},
		"garbled": {
			media: "application/problem+json", body: `{"status": "x"`, status: 500, retryAfter: "soon",
			want: client.Problem{Title: "Internal Server Error", Status: 500},
		},
		"a redirect is not followed": {
			media: "text/html", status: 307, want: client.Problem{Title: "Temporary Redirect", Status: 307},
		},
		"about:blank": {
			media: "application/problem+json", body: `{"type": "about:blank", "title": "Gone"}`, status: 410,
			want: client.Problem{Type: "about:blank", Title: "Gone", Status: 410},
		},
		"advice beyond reason": {
			media: "text/html", status: 500, retryAfter: "99999999999", want: client.Problem{
				Title: "Internal Server Error", Status: 500, RetryAfter: time.Hour,
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connect := newClient(t, client.Options{}, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tc.media)
				w.Header().Set("Retry-After", tc.retryAfter)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tc.status)
				_, _ = fmt.Fprint(w, tc.body)
			})
			_, err := connect.GetConnection(t.Context(), "cnx_1")
			problem, ok := errors.AsType[*client.Problem](err)
			if !ok {
				t.Fatalf("GetConnection() = %v, want a *Problem", err)
			}
			if diff := cmp.Diff(tc.want, *problem); diff != "" {
				t.Errorf("problem (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnusableAnswers(t *testing.T) {
	t.Parallel()

	tests := map[string]http.HandlerFunc{
		"not JSON": func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "<html>") },
		"no data":  func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{}`) },
		"too large": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprint(w, `{"data": {"id": "`+strings.Repeat("x", 11<<20)+`"}}`)
		},
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = fmt.Fprint(w, `{"data": {}}`)
		},
	}
	for name, handler := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := newClient(t, client.Options{Attempts: 1}, handler).GetConnection(t.Context(), "cnx_1")
			failure, ok := errors.AsType[*client.UnreachableError](err)
			if !ok || !failure.Sent {
				t.Fatalf("GetConnection() = %v, want an *UnreachableError that was sent", err)
			}
			if strings.Contains(err.Error(), apiKey) {
				t.Errorf("the error has the key: %v", err)
			}
		})
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()

	server := httptest.NewServer(nil)
	server.Close()
	connect, err := client.New(server.URL, apiKey, client.Options{Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	_, err = connect.ListConnections(t.Context(), client.ListConnectionsParams{UserID: "ada@example.com"})
	failure, ok := errors.AsType[*client.UnreachableError](err)
	if !ok || failure.Sent || strings.Contains(err.Error(), "ada") {
		t.Errorf("ListConnections() = %v, want an *UnreachableError that was not sent and names no user", err)
	}
}

// reply is what a script answers with: a status, or no answer at all.
type reply struct {
	status     int // 0: the connection is cut
	kind       client.Kind
	retryAfter string
}

// script answers requests without a network, so that synctest's clock runs: each reply
// once and the last of them for ever.
type script struct {
	replies []reply
	sent    []time.Duration // when each request was, by that clock
}

func (s *script) RoundTrip(r *http.Request) (*http.Response, error) {
	s.sent = append(s.sent, time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)))
	next := s.replies[min(len(s.sent), len(s.replies))-1]
	if next.status == 0 {
		return nil, errors.New("connection reset")
	}
	w := httptest.NewRecorder()
	w.Header().Set("Retry-After", next.retryAfter)
	body := `{"data": {}}`
	if next.status >= 300 {
		w.Header().Set("Content-Type", "application/problem+json")
		body = fmt.Sprintf(`{"type": "https://c.example/problems/%s"}`, next.kind)
	}
	w.WriteHeader(next.status)
	_, _ = w.WriteString(body) // a recorder takes all
	resp := w.Result()
	resp.Request = r
	return resp, nil
}

func TestRepetition(t *testing.T) {
	t.Parallel()

	cut, done, busy := reply{}, reply{status: 200}, reply{429, client.QuotaExceeded, "2"}
	read := func(ctx context.Context, c *client.Client) error {
		_, err := c.GetConnection(ctx, "cnx_1")
		return err
	}
	create := func(options ...client.CallOption) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.CreateDatabase(ctx, "cnx_1", client.CreateDatabaseRequest{Name: "shop"}, options...)
			return err
		}
	}
	keyed, unkeyed := create(client.WithIdempotencyKey("order-1")), create()
	remove := func(ctx context.Context, c *client.Client) error { return c.DeleteDatabase(ctx, "cnx_1", "db_1") }

	for name, tc := range map[string]struct {
		call    func(context.Context, *client.Client) error
		replies []reply
		calls   int
		least   time.Duration // how long it takes at least
		fails   bool
	}{
		"a read waits as advised":            {call: read, replies: []reply{busy, busy, done}, calls: 3, least: 4 * time.Second},
		"a read after 503":                   {call: read, replies: []reply{{503, client.PrismaUnavailable, ""}, done}, calls: 2, least: 100 * time.Millisecond},
		"a read after a cut":                 {call: read, replies: []reply{cut, done}, calls: 2},
		"a read gives up":                    {call: read, replies: []reply{busy}, calls: 3, fails: true},
		"advice that is too long":            {call: read, replies: []reply{{429, client.QuotaExceeded, "100"}, done}, calls: 1, fails: true},
		"a refusal is final":                 {call: read, replies: []reply{{404, client.NotFound, ""}, done}, calls: 1, fails: true},
		"a 500 is final":                     {call: read, replies: []reply{{500, client.Internal, ""}, done}, calls: 1, fails: true},
		"a creation with a key":              {call: keyed, replies: []reply{busy, cut, done}, calls: 3, least: 2 * time.Second},
		"a creation with a key, in progress": {call: keyed, replies: []reply{{409, client.OperationInProgress, "1"}, done}, calls: 2, least: time.Second},
		"a creation with a key, conflict":    {call: keyed, replies: []reply{{409, client.Conflict, "1"}, done}, calls: 1, fails: true},
		"a creation without a key, busy":     {call: unkeyed, replies: []reply{busy, done}, calls: 1, fails: true},
		"a creation without a key, cut":      {call: unkeyed, replies: []reply{cut, done}, calls: 1, fails: true},
		"a creation without a key, 503":      {call: unkeyed, replies: []reply{{503, client.PrismaUnavailable, "1"}, done}, calls: 1, fails: true},
		"a deletion":                         {call: remove, replies: []reply{busy, done}, calls: 1, fails: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				wire := &script{replies: tc.replies}
				connect, err := client.New("https://c.example", apiKey, client.Options{HTTPClient: &http.Client{Transport: wire}})
				if err != nil {
					t.Fatal(err)
				}
				err = tc.call(t.Context(), connect)
				if tc.fails != (err != nil) {
					t.Errorf("the call returned %v", err)
				}
				if got := len(wire.sent); got != tc.calls {
					t.Errorf("it was sent %d times, want %d", got, tc.calls)
				}
				if took := wire.sent[len(wire.sent)-1] - wire.sent[0]; took < tc.least || took > 30*time.Second {
					t.Errorf("it was sent within %v, want %v at least", took, tc.least)
				}
			})
		})
	}
}

// slow answers after a while, by synctest's clock.
type slow struct{ after time.Duration }

func (s slow) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-time.After(s.after):
		return (&script{replies: []reply{{status: http.StatusCreated}}}).RoundTrip(r)
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// TestTheDefaultTimeoutOutlastsACreatingCall: it takes 60 s at Prisma and 20 s of saving.
func TestTheDefaultTimeoutOutlastsACreatingCall(t *testing.T) {
	t.Parallel()

	for after, ends := range map[time.Duration]bool{80 * time.Second: true, 2 * time.Minute: false} {
		synctest.Test(t, func(t *testing.T) {
			connect, err := client.New("https://c.example", apiKey,
				client.Options{HTTPClient: &http.Client{Transport: slow{after}}})
			if err != nil {
				t.Fatal(err)
			}
			_, err = connect.CreateDatabase(t.Context(), "cnx_1", client.CreateDatabaseRequest{Name: "shop"})
			if ends != (err == nil) {
				t.Errorf("CreateDatabase() after %v = %v", after, err)
			}
		})
	}
}

func TestAKeyIsForCallsThatTakeOne(t *testing.T) {
	t.Parallel()

	connect := newClient(t, client.Options{}, func(http.ResponseWriter, *http.Request) { t.Error("it was sent") })
	_, err := connect.CheckConnection(t.Context(), "cnx_1", client.WithIdempotencyKey("order-1"))
	if failure, ok := errors.AsType[*client.UnreachableError](err); !ok || failure.Sent {
		t.Errorf("CheckConnection() = %v, want a refusal", err)
	}
	for _, key := range []string{"line\nbreak", strings.Repeat("x", 256), "ключ"} {
		_, err := connect.CreateProject(t.Context(), "cnx_1", client.CreateProjectRequest{}, client.WithIdempotencyKey(key))
		if failure, ok := errors.AsType[*client.UnreachableError](err); !ok || failure.Sent {
			t.Errorf("CreateProject() = %v, want a refusal", err)
		}
	}
}
