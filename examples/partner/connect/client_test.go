package connect_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/examples/partner/connect"
)

const apiKey = "cpk_canary_of_the_tests"

func newClient(t *testing.T, handler http.HandlerFunc) *connect.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	client, err := connect.New(connect.Config{BaseURL: server.URL, APIKey: apiKey})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func TestListsFollowTheCursor(t *testing.T) {
	t.Parallel()

	var queries []string
	client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.RawQuery)
		more := len(queries) < 3
		_, _ = fmt.Fprintf(w, `{"data": [{"id": "cnx_%d"}], "pagination": {"nextCursor": "c&%d", "hasMore": %v}}`,
			len(queries), len(queries), more)
	})
	got, err := client.Connections(t.Context(), "ada")
	if err != nil || len(got) != 3 || got[2].ID != "cnx_3" {
		t.Fatalf("Connections() = %+v, %v, want three", got, err)
	}
	want := []string{"userId=ada", "cursor=c%261&userId=ada", "cursor=c%262&userId=ada"}
	if diff := cmp.Diff(want, queries); diff != "" {
		t.Errorf("queries (-want +got):\n%s", diff)
	}
}

func TestACursorWithoutEndIsGivenUp(t *testing.T) {
	t.Parallel()

	client := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"data": [], "pagination": {"nextCursor": "same", "hasMore": true}}`)
	})
	if _, err := client.Connections(t.Context(), "ada"); err == nil {
		t.Error("Connections() = nil, want an error")
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()

	const doc = `{"type": "https://c.example/problems/workspace-changed", "title": "Conflict", "status": 409,
		"detail": "Another workspace.", "requestId": "req_1", "errors": [{"pointer": "/name", "detail": "Bad."}],
		"expected": {"id": "w1", "name": "One"}, "chosen": {"id": "w2", "name": "Two"}, "url": "https://c.example/x", "sessionId": "cs_2"}`
	tests := map[string]struct {
		media, retryAfter, body string
		status                  int
		want                    connect.Error
		kind                    connect.Kind
	}{
		"whole": {
			media: "application/problem+json; charset=utf-8", retryAfter: "7", body: doc, status: 409,
			kind: connect.WorkspaceChanged,
			want: connect.Error{
				Type: "https://c.example/problems/workspace-changed", Title: "Conflict", Status: 409, Detail: "Another workspace.",
				RequestID: "req_1", Fields: []connect.FieldError{{Pointer: "/name", Detail: "Bad."}},
				Expected: connect.Workspace{ID: "w1", Name: "One"}, Chosen: connect.Workspace{ID: "w2", Name: "Two"},
				URL: "https://c.example/x", SessionID: "cs_2", RetryAfter: 7 * time.Second,
			},
		},
		"a proxy's page": {
			media: "text/html", body: "<h1>secret upstream</h1>", status: 502,
			want: connect.Error{Title: "Bad Gateway", Status: 502},
		},
		"garbled": {
			media: "application/problem+json", body: `{"status": "x"`, status: 500, retryAfter: "soon",
			want: connect.Error{Title: "Internal Server Error", Status: 500},
		},
		"a redirect is not followed": {
			media: "text/html", status: 307, want: connect.Error{Title: "Temporary Redirect", Status: 307},
		},
		"about:blank": {
			media: "application/problem+json", body: `{"type": "about:blank", "title": "Gone"}`, status: 410,
			want: connect.Error{Type: "about:blank", Title: "Gone", Status: 410},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := newClient(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", tc.media)
				w.Header().Set("Retry-After", tc.retryAfter)
				w.Header().Set("Location", "/elsewhere")
				w.WriteHeader(tc.status)
				_, _ = fmt.Fprint(w, tc.body)
			})
			_, err := client.Connection(t.Context(), "cnx_1")
			problem, ok := errors.AsType[*connect.Error](err)
			if !ok {
				t.Fatalf("Connection() = %v, want an *Error", err)
			}
			if diff := cmp.Diff(tc.want, *problem); diff != "" {
				t.Errorf("problem (-want +got):\n%s", diff)
			}
			if got := problem.Kind(); got != tc.kind {
				t.Errorf("Kind() = %q, want %q", got, tc.kind)
			}
		})
	}
}

func TestUnusableAnswers(t *testing.T) {
	t.Parallel()

	tests := map[string]http.HandlerFunc{
		"not JSON": func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "<html>") },
		"too large": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = fmt.Fprint(w, `{"data": {"id": "`+strings.Repeat("x", 2<<20)+`"}}`)
		},
		"cut": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = fmt.Fprint(w, `{"data": {}}`)
		},
	}
	for name, handler := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := newClient(t, handler).Connection(t.Context(), "cnx_1")
			if _, ok := errors.AsType[*connect.UnreachableError](err); !ok {
				t.Fatalf("Connection() = %v, want an *UnreachableError", err)
			}
			if strings.Contains(err.Error(), apiKey) {
				t.Errorf("the error has the key: %v", err)
			}
		})
	}
}

func TestEveryCallHasADeadline(t *testing.T) {
	t.Parallel()

	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done() // until the client gives up
	}))
	t.Cleanup(server.Close)
	client, err := connect.New(connect.Config{BaseURL: server.URL, APIKey: apiKey, Timeout: 20 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.Connection(t.Context(), "cnx_1")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Connection() = %v, want the deadline", err)
	}
}

// TestIDsStayInTheirPlace: ids come from URLs that anybody may type.
func TestIDsStayInTheirPlace(t *testing.T) {
	t.Parallel()

	for id, want := range map[string]string{
		"cnx_1":     "/v1/connections/cnx_1",
		"a/../../b": "/v1/connections/a%2F..%2F..%2Fb",
		"a?x=1#y":   "/v1/connections/a%3Fx=1%23y",
		"%2e%2e":    "/v1/connections/%252e%252e",
		"..":        "", ".": "", "": "",
	} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			got := ""
			client := newClient(t, func(w http.ResponseWriter, r *http.Request) {
				got = r.RequestURI
				_, _ = fmt.Fprint(w, `{"data": {}}`)
			})
			_, err := client.Connection(t.Context(), id)
			if got != want {
				t.Errorf("asked for %q, want %q", got, want)
			}
			if problem, ok := errors.AsType[*connect.Error](err); want == "" && (!ok || problem.Kind() != connect.NotFound) {
				t.Errorf("Connection() = %v, want a not-found", err)
			}
		})
	}
}
