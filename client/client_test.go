package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/client"
	"github.com/connect-prisma/server/internal/fault"
)

const apiKey = "cpk_canary_of_the_tests"

func newClient(t *testing.T, options client.Options, handler http.HandlerFunc) *client.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	connect, err := client.New(server.URL, apiKey, options)
	if err != nil {
		t.Fatal(err)
	}
	return connect
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()

	for name, tc := range map[string]struct {
		url, key string
		options  client.Options
	}{
		"no scheme":         {url: "connect.example.com", key: apiKey},
		"another scheme":    {url: "ftp://connect.example.com", key: apiKey},
		"a user":            {url: "https://secret@connect.example.com", key: apiKey},
		"a query":           {url: "https://connect.example.com?secret", key: apiKey},
		"no key":            {url: "https://connect.example.com"},
		"a broken key":      {url: "https://connect.example.com", key: apiKey + "\n"},
		"the key as URL":    {url: apiKey, key: "https://connect.example.com"},
		"negative timeout":  {url: "https://connect.example.com", key: apiKey, options: client.Options{Timeout: -1}},
		"negative attempts": {url: "https://connect.example.com", key: apiKey, options: client.Options{Attempts: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connect, err := client.New(tc.url, tc.key, tc.options)
			if err == nil {
				t.Fatalf("New() = %v, want an error", connect)
			}
			if strings.Contains(err.Error(), apiKey) || strings.Contains(err.Error(), "secret") {
				t.Errorf("the error tells a secret: %v", err)
			}
		})
	}
}

// TestRequests shows what a call of each sort sends.
func TestRequests(t *testing.T) {
	t.Parallel()

	type sent struct{ Method, URI, Body, Key, Match, Type string }
	var got sent
	connect := newClient(t, client.Options{}, func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		got = sent{
			r.Method, r.RequestURI, body.String(), r.Header.Get("Idempotency-Key"), r.Header.Get("If-None-Match"),
			r.Header.Get("Content-Type"),
		}
		if r.Header.Get("Authorization") != "Bearer "+apiKey {
			t.Errorf("Authorization = %q", r.Header.Get("Authorization"))
		}
		w.Header().Set("ETag", `"one"`)
		if r.Method == http.MethodDelete && strings.Contains(r.URL.Path, "/databases/") {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		data := `{}`
		if strings.HasSuffix(r.URL.Path, "/regions") || strings.HasSuffix(r.URL.Path, "/databases") && r.Method == http.MethodGet {
			data = `[]`
		}
		_, _ = fmt.Fprintf(w, `{"data": %s, "pagination": {"nextCursor": null, "hasMore": false}}`, data)
	})
	ctx := t.Context()
	etag := ""
	begin := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
	for name, tc := range map[string]struct {
		call func() error
		want sent
	}{
		"create with a key": {
			call: func() error {
				_, err := connect.CreateDatabase(ctx, "cnx_1", client.CreateDatabaseRequest{Name: "shop", Region: new("eu-central-1")},
					client.WithIdempotencyKey("order 1"))
				return err
			},
			want: sent{"POST", "/v1/connections/cnx_1/databases", `{"name":"shop","region":"eu-central-1"}`, "order 1", "", "application/json"},
		},
		"query": {
			call: func() error {
				_, err := connect.ListDatabases(ctx, "cnx_1", client.ListDatabasesParams{ProjectID: "a&b", Limit: 7})
				return err
			},
			want: sent{Method: "GET", URI: "/v1/connections/cnx_1/databases?limit=7&projectId=a%26b"},
		},
		"no body": {
			call: func() error { return connect.DeleteDatabase(ctx, "cnx_1", "db_1") },
			want: sent{Method: "DELETE", URI: "/v1/connections/cnx_1/databases/db_1"},
		},
		"flag": {
			call: func() error {
				_, err := connect.DeleteConnection(ctx, "cnx_1", client.DeleteConnectionParams{Revoke: true})
				return err
			},
			want: sent{Method: "DELETE", URI: "/v1/connections/cnx_1?revoke=true"},
		},
		"times": {
			call: func() error {
				_, err := connect.GetUsage(ctx, "cnx_1", "db_1", client.GetUsageParams{StartDate: begin})
				return err
			},
			want: sent{Method: "GET", URI: "/v1/connections/cnx_1/databases/db_1/usage?startDate=2026-03-01T00%3A00%3A00Z"},
		},
		"null removes": {
			call: func() error {
				_, err := connect.UpdateConnection(ctx, "cnx_1",
					client.UpdateConnectionRequest{Metadata: map[string]*string{"a": new("b"), "c": nil}})
				return err
			},
			want: sent{"PATCH", "/v1/connections/cnx_1", `{"metadata":{"a":"b","c":null}}`, "", "", "application/json"},
		},
		"list without pages": {
			call: func() error { _, err := connect.ListRegions(ctx, client.WithIfNoneMatch(`"zero"`)); return err },
			want: sent{Method: "GET", URI: "/v1/regions", Match: `"zero"`},
		},
		"pass-through": {
			call: func() error {
				_, err := connect.PassThrough(ctx, "cnx_1", client.PassThroughRequest{
					Method: http.MethodPost, Path: "projects/proj_1/databases", Query: url.Values{"a": {"1", "2"}, "b": {""}},
					Body: map[string]string{"name": "shop"},
				})
				return err
			},
			want: sent{"POST", "/v1/connections/cnx_1/prisma/v1/projects/proj_1/databases?a=1&a=2&b=", `{"name":"shop"}`, "", "", "application/json"},
		},
	} {
		if err := tc.call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if _, err := connect.GetConnection(ctx, "cnx_1", client.WithETag(&etag)); err != nil || etag != `"one"` {
		t.Errorf("GetConnection() = %v, with ETag %s", err, etag)
	}
}

func TestNotModified(t *testing.T) {
	t.Parallel()

	connect := newClient(t, client.Options{}, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotModified) })
	if _, err := connect.GetConnection(t.Context(), "cnx_1", client.WithIfNoneMatch(`"one"`)); !errors.Is(err, client.ErrNotModified) {
		t.Errorf("GetConnection() = %v, want ErrNotModified", err)
	}
}

func TestListsFollowTheCursor(t *testing.T) {
	t.Parallel()

	var queries []string
	connect := newClient(t, client.Options{}, func(w http.ResponseWriter, r *http.Request) {
		queries = append(queries, r.URL.RawQuery)
		more := len(queries) < 3
		_, _ = fmt.Fprintf(w, `{"data": [{"id": "cnx_%d"}], "pagination": {"nextCursor": "c&%d", "hasMore": %v}}`,
			len(queries), len(queries), more)
	})
	got, err := client.Collect(connect.AllConnections(t.Context(), client.ListConnectionsParams{UserID: "ada"}))
	if err != nil || len(got) != 3 || got[2].ID != "cnx_3" {
		t.Fatalf("AllConnections() = %+v, %v, want three", got, err)
	}
	want := []string{"userId=ada", "cursor=c%261&userId=ada", "cursor=c%262&userId=ada"}
	if diff := cmp.Diff(want, queries); diff != "" {
		t.Errorf("queries (-want +got):\n%s", diff)
	}
	queries = nil
	for _, err := range connect.AllConnections(t.Context(), client.ListConnectionsParams{}) {
		if err != nil || len(queries) != 1 {
			t.Errorf("%d pages were asked for (%v), want 1", len(queries), err)
		}
		break
	}
	if len(queries) != 1 {
		t.Errorf("%d pages were asked for after the last item that anybody wanted, want 1", len(queries))
	}
}

func TestListsThatAreNotOne(t *testing.T) {
	t.Parallel()

	for name, body := range map[string]string{
		"the same cursor again": `{"data": [], "pagination": {"nextCursor": "same", "hasMore": true}}`,
		"more, but not where":   `{"data": [], "pagination": {"nextCursor": null, "hasMore": true}}`,
		"no data":               `{"pagination": {"nextCursor": null, "hasMore": false}}`,
		"no object":             `[]`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			connect := newClient(t, client.Options{}, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, body) })
			_, err := client.Collect(connect.AllConnections(t.Context(), client.ListConnectionsParams{}))
			if _, ok := errors.AsType[*client.UnreachableError](err); !ok {
				t.Errorf("AllConnections() = %v, want an *UnreachableError", err)
			}
		})
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
			connect := newClient(t, client.Options{}, func(w http.ResponseWriter, r *http.Request) {
				got = r.RequestURI
				_, _ = fmt.Fprint(w, `{"data": {}}`)
			})
			_, err := connect.GetConnection(t.Context(), id)
			if got != want {
				t.Errorf("asked for %q, want %q", got, want)
			}
			if problem, ok := errors.AsType[*client.Problem](err); want == "" && (!ok || problem.Kind != client.NotFound) {
				t.Errorf("GetConnection() = %v, want a not-found", err)
			}
		})
	}
}

func TestPassThroughKeepsStatusAndBody(t *testing.T) {
	t.Parallel()

	media := "application/json"
	connect := newClient(t, client.Options{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", media)
		w.WriteHeader(http.StatusForbidden)
		_, _ = fmt.Fprint(w, `{"type": "https://c.example/problems/operation-not-allowed", "error": "theirs"}`)
	})
	request := client.PassThroughRequest{Method: http.MethodDelete, Path: "integrations/itg_1"}
	got, err := connect.PassThrough(t.Context(), "cnx_1", request)
	if err != nil || got.Status != http.StatusForbidden || !bytes.Contains(got.Body, []byte("theirs")) {
		t.Errorf("PassThrough() = %+v, %v, want Prisma's 403", got, err)
	}
	media = "application/problem+json"
	_, err = connect.PassThrough(t.Context(), "cnx_1", request)
	if problem, ok := errors.AsType[*client.Problem](err); !ok || problem.Kind != client.OperationNotAllowed {
		t.Errorf("PassThrough() = %v, want the problem", err)
	}
	if _, err := connect.PassThrough(t.Context(), "cnx_1", client.PassThroughRequest{Method: "GET", Path: "../../tenant"}); err == nil {
		t.Error("a path that climbs was sent")
	}
}

// TestPrintedClientsTellNoKey: whatever prints a client, in whatever way.
func TestPrintedClientsTellNoKey(t *testing.T) {
	t.Parallel()

	connect := newClient(t, client.Options{}, nil)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).InfoContext(t.Context(), "x", slog.Any("client", connect))
	text := fmt.Sprintf("%v %+v %#v %s %q %d", connect, connect, connect, connect, connect, connect) + log.String()
	if strings.Contains(text, "canary") {
		t.Errorf("the key was printed: %s", text)
	}
}

func TestKindsAreTheServers(t *testing.T) {
	t.Parallel()

	var want []client.Kind
	for _, kind := range append(fault.Kinds(), "internal") {
		want = append(want, client.Kind(kind))
	}
	got := []client.Kind{
		client.InvalidRequest, client.InvalidValue, client.Unauthorized, client.ForbiddenScope, client.NotFound,
		client.MethodNotAllowed, client.Conflict, client.RestartConnect, client.CompletionInProgress, client.WorkspaceChanged,
		client.Expired, client.ReconnectRequired, client.RefreshInProgress, client.IdempotencyConflict,
		client.OperationInProgress, client.OperationNotAllowed, client.DefaultDatabase, client.QuotaExceeded,
		client.PrismaRefused, client.PrismaUnavailable, client.Internal,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("kinds (-server +client):\n%s", diff)
	}
}

// TestEveryCallHasADeadline, the client's own or the call's.
func TestEveryCallHasADeadline(t *testing.T) {
	t.Parallel()

	handler := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() } // until the client gives up
	for name, tc := range map[string]struct {
		options client.Options
		call    []client.CallOption
	}{
		"the client's": {options: client.Options{Timeout: 20 * time.Millisecond}},
		"the call's":   {call: []client.CallOption{client.WithTimeout(20 * time.Millisecond)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := newClient(t, tc.options, handler).GetConnection(t.Context(), "cnx_1", tc.call...)
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("GetConnection() = %v, want the deadline", err)
			}
		})
	}
}
