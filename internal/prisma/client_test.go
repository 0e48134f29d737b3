package prisma_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

func newClient(t *testing.T, cfg prisma.ClientConfig) *prisma.Client {
	t.Helper()
	c, err := prisma.NewClient(cfg)
	if err != nil {
		t.Fatalf("NewClient() error = %v", err)
	}
	return c
}

// answering starts an API that gives every request this answer and returns its URL.
func answering(t *testing.T, status int, contentType, body string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if contentType != "" {
			w.Header().Set("Content-Type", contentType)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestAPIErrors(t *testing.T) {
	t.Parallel()

	body := func(code string) string {
		return fmt.Sprintf(`{"error":{"code":%q,"message":"canary-message","hint":"canary-hint"}}`, code)
	}
	tests := map[string]struct {
		status  int
		content string
		body    string
		code    string
		kind    fault.Kind
	}{
		"400":             {400, "application/json", body("client-error"), "client-error", fault.InvalidValue},
		"401":             {401, "application/json", body("authentication-failed"), "authentication-failed", fault.PrismaRefused},
		"403":             {403, "application/json", body("permission-denied"), "permission-denied", fault.OperationNotAllowed},
		"404":             {404, "application/json", body("resource-not-found"), "resource-not-found", fault.NotFound},
		"409":             {409, "application/json", body("conflict"), "conflict", fault.Conflict},
		"413":             {413, "text/html", "<h1>canary-message</h1>", "", fault.InvalidValue},
		"422":             {422, "application/problem+json", body("validation-error"), "validation-error", fault.InvalidValue},
		"429":             {429, "application/json", body("rate-limit-exceeded"), "rate-limit-exceeded", fault.QuotaExceeded},
		"500":             {500, "application/json", body("bad code\n"), "", fault.PrismaUnavailable},
		"502 odd body":    {502, "application/json", "[1", "", fault.PrismaUnavailable},
		"503 empty":       {503, "", "", "", fault.PrismaUnavailable},
		"redirect":        {302, "", "", "", fault.PrismaUnavailable},
		"no error object": {404, "application/json", `{"error":"x"}`, "", fault.NotFound},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := newClient(t, prisma.ClientConfig{BaseURL: answering(t, tc.status, tc.content, tc.body)}).GetMe(t.Context())
			answer, ok := errors.AsType[*prisma.APIError](err)
			if !ok || answer.Status != tc.status || answer.Code != tc.code {
				t.Fatalf("GetMe() error = %v, want status %d and code %q", err, tc.status, tc.code)
			}
			if tc.code != "" && (answer.Message != "canary-message" || answer.Hint != "canary-hint") {
				t.Errorf("message and hint = %q, %q", answer.Message, answer.Hint)
			}
			mapped := prisma.FaultOf(fmt.Errorf("wrapped: %w", err))
			if fault.KindOf(mapped) != tc.kind || strings.Contains(mapped.Error(), "canary") || !errors.Is(mapped, err) {
				t.Errorf("FaultOf() = %v, want kind %q without upstream text", mapped, tc.kind)
			}
			if again := prisma.FaultOf(mapped); !errors.Is(again, mapped) || again.Error() != mapped.Error() {
				t.Errorf("FaultOf() twice = %v", again)
			}
		})
	}
	if other := errors.New("other"); !errors.Is(prisma.FaultOf(other), other) || fault.KindOf(prisma.FaultOf(other)) != fault.Internal {
		t.Error("FaultOf() changes an error that is not a client's")
	}
	if prisma.FaultOf(nil) != nil {
		t.Error("FaultOf(nil) is not nil")
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()

	for value, want := range map[string]time.Duration{
		"3": 3 * time.Second, "1.5": 1500 * time.Millisecond, "99999999": time.Hour, "": 0, "-1": 0, "NaN": 0, "soon": 0,
		"Sat, 21 Nov 2026 10:00:30 GMT": 30 * time.Second, "Sat, 21 Nov 2026 09:00:00 GMT": 0,
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Date", "Sat, 21 Nov 2026 10:00:00 GMT")
			w.Header().Set("Retry-After", value)
			w.WriteHeader(http.StatusTooManyRequests)
		}))
		_, err := newClient(t, prisma.ClientConfig{BaseURL: server.URL}).GetMe(t.Context())
		server.Close()
		if answer, ok := errors.AsType[*prisma.APIError](err); !ok || answer.RetryAfter != want {
			t.Errorf("Retry-After %q: error = %#v, want %s", value, err, want)
		}
		if mapped, ok := errors.AsType[*fault.Error](prisma.FaultOf(err)); !ok || mapped.RetryAfter <= 0 {
			t.Errorf("Retry-After %q: FaultOf() has no advice", value)
		}
	}
}

func TestUnusableAnswers(t *testing.T) {
	t.Parallel()

	for name, answer := range map[string][2]string{
		"HTML":            {"text/html", "<p>canary</p>"},
		"no content type": {"", `{"data":{}}`},
		"garbled":         {"application/json", `{"data":canary`},
		"other types":     {"application/json", `{"data":{"id":["canary"]}}`},
		"no data":         {"application/json", `{}`},
		"null":            {"application/json", `null`},
		"too large":       {"application/json", `{"data":{"id":"` + strings.Repeat("x", 10<<20) + `"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := newClient(t, prisma.ClientConfig{BaseURL: answering(t, 200, answer[0], answer[1])}).GetWorkspace(t.Context(), "w")
			failure, ok := errors.AsType[*prisma.FetchError](err)
			if !ok || !failure.Sent || strings.Contains(err.Error(), "canary") {
				t.Errorf("GetWorkspace() error = %v, want a *FetchError that was sent and repeats nothing", err)
			}
			if fault.KindOf(prisma.FaultOf(err)) != fault.PrismaUnavailable {
				t.Errorf("FaultOf() = %v", prisma.FaultOf(err))
			}
		})
	}
}

func TestCompressedAnswersAreBounded(t *testing.T) {
	t.Parallel()

	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size := 10
		if strings.HasSuffix(r.URL.Path, "bomb") {
			size = 30 << 20
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Encoding", "gzip")
		z := gzip.NewWriter(w)
		defer z.Close()
		_, _ = io.WriteString(z, `{"data":{"id":"`)
		_, _ = io.Copy(z, io.LimitReader(zeros{}, int64(size)))
		_, _ = io.WriteString(z, `"}}`)
	}))
	defer server.Close()
	client := newClient(t, prisma.ClientConfig{BaseURL: server.URL, Header: http.Header{"Accept-Encoding": {"br"}}})
	if w, err := client.GetWorkspace(t.Context(), "small"); err != nil || w.ID != strings.Repeat("0", 10) {
		t.Errorf("GetWorkspace() = %+v, %v", w, err)
	}
	if _, err := client.GetWorkspace(t.Context(), "bomb"); err == nil || !strings.Contains(err.Error(), "10 MiB") {
		t.Errorf("GetWorkspace() error = %v, want the limit", err)
	}
}

// zeros reads as '0' without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte("0"), len(p))), nil }

func TestClientHeaders(t *testing.T) {
	t.Parallel()

	var got http.Header
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Header
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	header := http.Header{"Authorization": {"Basic x"}, "X-Extra": {"1"}, "Idempotency-Key": {"k"}}
	client := newClient(t, prisma.ClientConfig{BaseURL: server.URL, Header: header})
	if err := client.WithToken("token").DeleteProject(t.Context(), "p"); err != nil {
		t.Fatal(err)
	}
	if got.Get("Authorization") != "Basic x" || got.Get("X-Extra") != "1" || got.Get("Idempotency-Key") != "" {
		t.Errorf("header = %v", got)
	}
	if header.Get("Idempotency-Key") == "" {
		t.Error("NewClient() changed its caller's header")
	}
	if err := newClient(t, prisma.ClientConfig{BaseURL: server.URL, Token: "a\nb"}).DeleteProject(t.Context(), "p"); err == nil {
		t.Error("a token with a line break was sent")
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()

	var sink atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { sink.Add(1) }))
	defer elsewhere.Close()
	for _, status := range []int{301, 302, 303, 307, 308} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, elsewhere.URL, status)
		}))
		client := newClient(t, prisma.ClientConfig{BaseURL: server.URL, Token: "t"})
		if _, err := client.GetMe(t.Context()); err == nil {
			t.Errorf("status %d: no error", status)
		}
		if _, err := client.RotateConnection(t.Context(), "c"); err == nil {
			t.Errorf("status %d: no error", status)
		}
		server.Close()
	}
	if sink.Load() != 0 {
		t.Errorf("%d requests reached the redirect's target", sink.Load())
	}
}

func TestIDsThatCannotBePaths(t *testing.T) {
	t.Parallel()

	client := newClient(t, prisma.ClientConfig{BaseURL: rawServer(t, func(net.Conn) { t.Error("something was sent") })})
	for _, id := range []string{"", ".", "..", strings.Repeat("x", 257)} {
		_, err := client.GetProject(t.Context(), id)
		if failure, ok := errors.AsType[*prisma.FetchError](err); !ok || failure.Sent || fault.KindOf(prisma.FaultOf(err)) != fault.NotFound {
			t.Errorf("GetProject(%.5q) error = %v, want nothing sent and kind %q", id, err, fault.NotFound)
		}
	}
}

// TestCreatesAreNeverResent: on a kept-alive connection that the server drops after
// reading the request, a create fails rather than arrive twice.
func TestCreatesAreNeverResent(t *testing.T) {
	t.Parallel()

	var creates atomic.Int32
	base := rawServer(t, func(c net.Conn) {
		r := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			if req.Method == http.MethodPost {
				creates.Add(1)
				return // processed; the answer is lost
			}
			const body = `{"data":{"credential":{"type":"oauth"}}}`
			_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		}
	})
	client := newClient(t, prisma.ClientConfig{BaseURL: base, Header: http.Header{"X-Idempotency-Key": {"k"}}})
	if _, err := client.GetMe(t.Context()); err != nil { // leaves a connection in the pool
		t.Fatalf("GetMe() error = %v", err)
	}
	_, err := client.CreateProject(t.Context(), prisma.NewProject{Name: "p"})
	if failure, ok := errors.AsType[*prisma.FetchError](err); !ok || !failure.Sent {
		t.Errorf("CreateProject() error = %v, want a *FetchError that was sent", err)
	}
	if creates.Load() != 1 {
		t.Errorf("the create arrived %d times", creates.Load())
	}
}

func TestDeadline(t *testing.T) {
	t.Parallel()

	base := rawServer(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	_, err := newClient(t, prisma.ClientConfig{BaseURL: base, Timeout: 50 * time.Millisecond}).GetMe(t.Context())
	if failure, ok := errors.AsType[*prisma.FetchError](err); !ok || !failure.Sent || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("GetMe() error = %v, want a deadline after sending", err)
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()

	connection := prisma.DatabaseConnection{
		ID: "con_1", LegacyString: "canary",
		Endpoints: prisma.Endpoints{Direct: &prisma.Endpoint{Host: "h", ConnectionString: "canary"}},
	}
	database := prisma.Database{ID: "db_1", Connections: []prisma.DatabaseConnection{connection}}
	for _, value := range []any{
		prisma.Tokens{Access: "canary", Refresh: "canary"},
		prisma.Claim{Current: prisma.Tokens{Access: "canary", Refresh: "canary"}},
		prisma.Grant{Access: "canary", Refresh: "canary"},
		prisma.OAuthClient{ID: "c", Secret: "canary"},
		database, connection, connection.Endpoints, *connection.Endpoints.Direct,
		prisma.CreatedProject{Database: &database},
		newClient(t, prisma.ClientConfig{Token: "canary"}),
	} {
		if text := fmt.Sprintf("%v %+v %#v %s", value, value, value, value); strings.Contains(text, "canary") {
			t.Errorf("%T prints its secret: %s", value, text)
		}
	}
	if raw, err := json.Marshal(database); err != nil || !bytes.Contains(raw, []byte("canary")) {
		t.Errorf("JSON of a database = %s, %v; the connection string has to be in it", raw, err)
	}
}
