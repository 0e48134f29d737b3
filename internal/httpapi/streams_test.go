package httpapi_test

import (
	"bufio"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/apitest"
	"github.com/connect-prisma/server/internal/tenants"
)

const logsPath = "/prisma/v1/builds/build_1/logs"

// streams lets Prisma answer logs with what is sent to the returned channel, for as long
// as somebody listens.
func streams(w *apitest.World) chan<- string {
	lines := make(chan string)
	w.Upstream(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			if !strings.HasSuffix(r.URL.Path, "/logs") {
				next.ServeHTTP(rw, r)
				return
			}
			rw.Header().Set("Content-Type", "application/x-ndjson")
			flush := http.NewResponseController(rw).Flush
			for err := flush(); err == nil; err = flush() {
				select {
				case line := <-lines:
					_, _ = io.WriteString(rw, line+"\n")
				case <-r.Context().Done():
					return
				}
			}
		})
	})
	return lines
}

// give gives a value to whoever is to take it.
func give[T any](t *testing.T, to chan<- T, value T) {
	t.Helper()
	select {
	case to <- value:
	case <-time.After(30 * time.Second):
		t.Fatal("nobody takes it any more")
	}
}

// A stream ends when its caller would no longer be let in, whatever the reason.
func TestStreamsEndWithWhoMayReadThem(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, w *apitest.World, tenant apitest.Tenant, connection string){
		"the key is revoked": func(t *testing.T, w *apitest.World, tenant apitest.Tenant, _ string) {
			t.Helper()
			caller, err := w.Store.Authenticate(t.Context(), tenant.Key)
			if err == nil {
				_, err = w.Store.RevokeKey(t.Context(), tenants.System(), tenant.ID, caller.Key)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
		"the tenant is paused": func(t *testing.T, w *apitest.World, tenant apitest.Tenant, _ string) {
			t.Helper()
			w.Pause(t, tenant, true)
		},
		"the connection is disconnected": func(t *testing.T, w *apitest.World, tenant apitest.Tenant, connection string) {
			t.Helper()
			w.Call(t, tenant.Key, http.MethodDelete, "/v1/connections/"+connection, nil)
		},
		"Prisma revoked the grant": func(t *testing.T, w *apitest.World, tenant apitest.Tenant, connection string) {
			t.Helper()
			revokeGrants(t, w)
			w.Advance(t, 2*time.Minute)
			apitest.WantProblem(t, w.Call(t, tenant.Key, http.MethodGet, "/v1/connections/"+connection+"/projects", nil),
				http.StatusConflict, "reconnect-required")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ticks := make(chan time.Time)
			w := apitest.New(t, apitest.WithTicks(ticks))
			lines := streams(w)
			tenant := w.NewTenant(t, "Listening", nil)
			connection := w.Connect(t, tenant, "ada", workspaceA).ID
			stream, err := w.Open(t, tenant.Key, "/v1/connections/"+connection+logsPath)
			if err != nil || stream.Status != http.StatusOK {
				t.Fatalf("a stream: %v", err)
			}
			read := bufio.NewReader(stream)
			for range 2 { // asked twice, and let in twice
				give(t, ticks, time.Time{})
				give(t, ticks, time.Time{})
				give(t, lines, "{}")
				if line, err := read.ReadString('\n'); err != nil || line != "{}\n" {
					t.Fatalf("the stream has %q, %v", line, err)
				}
			}
			end(t, w, tenant, connection)
			ended := make(chan struct{})
			go func() {
				select {
				case ticks <- time.Time{}:
				case <-ended: // the last tick was still being asked about, and ended it
				}
			}()
			if rest, err := io.ReadAll(read); err == nil || len(rest) > 0 {
				t.Errorf("the stream went on with %q, or ended as if it were whole: %v", rest, err)
			}
			close(ended)
		})
	}
}

// Open streams take none of the tenant's calls at once, and there is a limit to them too.
func TestOpenStreamsShutNobodyOut(t *testing.T) {
	t.Parallel()
	const atOnce = 20
	w := apitest.New(t)
	lines := streams(w)
	tenant := limited(t, w, tenants.Limits{Requests: 1000, AtOnce: atOnce})
	connection := "/v1/connections/" + w.Connect(t, tenant, "ada", workspaceA).ID
	open := func() apitest.Stream {
		t.Helper()
		stream, err := w.Open(t, tenant.Key, connection+logsPath)
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	all := make([]apitest.Stream, atOnce)
	for i := range all {
		if all[i] = open(); all[i].Status != http.StatusOK {
			t.Fatalf("stream %d: %d", i, all[i].Status)
		}
	}
	apitest.AtOnce(atOnce, func(int) {
		if answer := w.Call(t, tenant.Key, http.MethodGet, connection+"/projects", nil); answer.Status != http.StatusOK {
			t.Errorf("a call beside %d open streams: %d", atOnce, answer.Status)
		}
	})
	retryAfter(t, w.Call(t, tenant.Key, http.MethodGet, connection+logsPath, nil))
	if answer := w.Call(t, tenant.Key, http.MethodGet, connection+"/prisma/v1/projects", nil); answer.Status != http.StatusOK {
		t.Errorf("a call through the pass-through beside them: %d", answer.Status)
	}
	_ = all[0].Close() // its place is free as soon as the server has noticed
	await(t, func() bool { return open().Status == http.StatusOK })
	for range atOnce { // and every one of them still flows
		give(t, lines, "{}")
	}
}

// Whatever Prisma says of its limits, an answer tells the tenant's own.
func TestPassThroughShowsOurLimits(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	tenant := limited(t, w, tenants.Limits{Requests: 7})
	connection := "/v1/connections/" + w.Connect(t, tenant, "ada", workspaceA).ID
	w.Upstream(func(http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
			for _, name := range []string{"RateLimit", "RateLimit-Policy", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "X-RateLimit-Limit", "X-RateLimit-Remaining"} {
				rw.Header().Set(name, "999")
			}
			rw.Header().Set("Retry-After", "17") // this one is about the call, and passes
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(http.StatusTooManyRequests)
			_, _ = io.WriteString(rw, `{"error":{"code":"rate_limited","message":"Slow down."}}`)
		})
	})
	answer := w.Call(t, tenant.Key, http.MethodGet, connection+"/prisma/v1/projects", nil)
	if answer.Status != http.StatusTooManyRequests || answer.Header.Get("Retry-After") != "17" {
		t.Errorf("Prisma's 429 came as %d, Retry-After %q", answer.Status, answer.Header.Get("Retry-After"))
	}
	if got := answer.Header.Values("RateLimit-Policy"); len(got) != 1 || got[0] != `"requests";q=14;w=2` {
		t.Errorf("RateLimit-Policy is %q", got)
	}
	for name, values := range answer.Header {
		if strings.Contains(strings.ToLower(name), "ratelimit") && (len(values) != 1 || strings.Contains(values[0], "999")) {
			t.Errorf("%s is %q", name, values)
		}
	}
}

// HTTP/1.0 can't tell half an answer from a whole one: it gets nothing through the
// pass-through, and its own answer everywhere else.
func TestHTTP10IsNotPassedThrough(t *testing.T) {
	t.Parallel()
	w := apitest.New(t)
	connection := "/v1/connections/" + w.Connect(t, w.Tenant, "ada", workspaceA).ID
	before := w.Sim.Ledger(t).Counters.APIRequests
	get := func(path string) int {
		return raw(t, w, "GET "+path+" HTTP/1.0\r\nHost: localhost:8080\r\nAuthorization: Bearer "+w.Tenant.Key+"\r\n\r\n")
	}
	if status := get(connection + "/prisma/v1/projects"); status != http.StatusBadRequest || w.Sim.Ledger(t).Counters.APIRequests != before {
		t.Errorf("the pass-through answered %d", status)
	}
	if status := get(connection); status != http.StatusOK {
		t.Errorf("a call of our own answered %d", status)
	}
}
