package passthrough_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/provisioning/passthrough"
)

// TestRequestHeaders: Prisma gets the listed headers, the connection's token, and no
// other; our key least of all.
func TestRequestHeaders(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{})
	given := http.Header{
		"Accept": {"application/json"}, "Accept-Language": {"de", "en;q=0.5"}, "Accept-Encoding": {"br, gzip"}, "User-Agent": {"node"},
		"If-None-Match": {`"x"`}, "Content-Type": {"application/json; charset=utf-8"}, "Content-Language": {"de"},
	}
	dropped := []string{
		"Cookie", "Proxy-Authorization", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Upgrade", "Http2-Settings",
		"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Prefix", "Forwarded", "Via", "X-Real-Ip", "True-Client-Ip",
		"Cf-Connecting-Ip", "X-Client-Ip", "X-Original-Url", "X-Rewrite-Url", "X-Original-Host", "X-Host", "X-Http-Method-Override",
		"X-Http-Method", "X-Method-Override", "Idempotency-Key", "X-Idempotency-Key", "X-Api-Key", "Api-Key", "X-Auth-Token", "X-Access-Token",
		"X-Csrf-Token", "Origin", "Referer", "Sec-Fetch-Site", "Expect-Ct", "Early-Data", "Range", "If-Range", "Traceparent", "X-Request-Id",
		"Alchemy-State-Lease-Id", "X-Prisma-Workspace", "Max-Forwards", "Prefer", "Date", "Host-Override", "Accept-Datetime", "If-Match",
	}
	got := r.do(t, http.MethodPost, "/v1/projects", strings.NewReader("{}"), func(req *http.Request) {
		maps.Copy(req.Header, given)
		for _, name := range dropped {
			req.Header.Set(name, "smuggled "+apiKey)
		}
		req.Header.Set("Connection", "keep-alive, If-Match , close, x-custom")
		req.Header.Set("X-Custom", "hop by hop")
	})
	if got.status != http.StatusOK {
		t.Fatalf("answered %d: %s", got.status, got.body)
	}
	want := given.Clone()
	want["Authorization"], want["Content-Length"] = []string{"Bearer first"}, []string{"2"}
	arrived := r.arrived()[0].header
	if diff := cmp.Diff(want, arrived); diff != "" {
		t.Errorf("headers (-want +arrived):\n%s", diff)
	}
	if strings.Contains(fmt.Sprint(r.arrived()), apiKey) {
		t.Error("our API key arrived at Prisma")
	}
}

func TestDocumentedHeaderParameters(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{})
	path := "/v1/projects/p/branches/b/alchemy-state/lease"
	r.do(t, http.MethodPatch, path, strings.NewReader("{}"), func(req *http.Request) { req.Header.Set("Alchemy-State-Lease-Id", "lease") })
	if got := r.arrived()[0].header.Get("Alchemy-State-Lease-Id"); got != "lease" {
		t.Errorf("the documented header arrived as %q", got)
	}
	if got := r.arrived()[0].header.Get("Accept-Encoding"); got != "identity" {
		t.Errorf("without a wish of the client's the encodings asked for are %q", got)
	}
	before := len(r.arrived())
	got := r.do(t, http.MethodPatch, path, strings.NewReader("{}"), func(req *http.Request) { req.Header.Add("Content-Type", "text/plain") })
	if got.status != http.StatusBadRequest || len(r.arrived()) != before {
		t.Errorf("two content types answered %d", got.status)
	}
}

// TestAnswerHeaders: the client gets the listed headers and ours.
func TestAnswerHeaders(t *testing.T) {
	t.Parallel()
	kept := http.Header{
		"Content-Type": {"application/json"}, "Etag": {`"1"`}, "Last-Modified": {"Fri, 02 Jan 2026 03:04:05 GMT"}, "Retry-After": {"7"},
		"Content-Language": {"de"}, "Vary": {"Accept"}, "Sunset": {"Fri, 02 Jan 2026 03:04:05 GMT"},
	}
	dropped := []string{
		"Set-Cookie", "Www-Authenticate", "Proxy-Authenticate", "Location", "Refresh", "Alt-Svc", "Strict-Transport-Security",
		"Access-Control-Allow-Origin", "Access-Control-Allow-Credentials", "Content-Security-Policy", "Clear-Site-Data", "Keep-Alive", "Upgrade",
		"Server", "X-Powered-By", "Via", "Link", "Ratelimit", "Ratelimit-Policy", "X-Ratelimit-Limit", "Cache-Control", "Nel", "Report-To",
		"X-Accel-Redirect", "X-Accel-Buffering", "X-Sendfile", "Service-Worker-Allowed", "Sourcemap", "X-Anything", "Accept-Ranges",
	}
	r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), kept)
		for _, name := range dropped {
			w.Header().Set(name, "theirs")
		}
		w.Header().Set("X-Request-Id", "req_theirs")
		w.Header().Set("Connection", "Content-Disposition")
		w.Header().Set("Content-Disposition", "attachment")
		w.WriteHeader(http.StatusConflict)
		_, _ = io.WriteString(w, `{"error":{"code":"conflict","message":"no"}}`)
	})
	got := r.do(t, http.MethodGet, "/v1/projects", nil, nil)
	if got.status != http.StatusConflict || got.body != `{"error":{"code":"conflict","message":"no"}}` {
		t.Errorf("answered %d %s", got.status, got.body)
	}
	want := kept.Clone()
	want["Prisma-Request-Id"], want["Content-Length"] = []string{"req_theirs"}, []string{"44"}
	delete(got.header, "Date")
	if diff := cmp.Diff(want, got.header); diff != "" {
		t.Errorf("headers (-want +got):\n%s", diff)
	}
}

// TestStatuses: every status that Prisma may answer with is the client's, but for
// redirects, for 401, and for what is none.
func TestStatuses(t *testing.T) {
	t.Parallel()
	status := make(chan int, 1)
	r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, _ *http.Request) {
		code := <-status
		if code == http.StatusSwitchingProtocols || code > 599 {
			conn, _, _ := w.(http.Hijacker).Hijack() //nolint:forcetypeassert // it is one
			fmt.Fprintf(conn, "HTTP/1.1 %03d Odd\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", code)
			_ = conn.Close()
			return
		}
		w.Header().Set("Location", "/v1/elsewhere")
		w.WriteHeader(code)
	})
	for _, code := range []int{200, 201, 202, 203, 204, 205, 206, 226, 304, 400, 402, 403, 404, 405, 409, 410, 413, 415, 418, 422, 429, 451, 500, 501, 502, 503, 504, 599} {
		status <- code
		if got := r.do(t, http.MethodPost, "/v1/databases/db_1/restore", strings.NewReader("{}"), nil); got.status != code || got.err != nil {
			t.Errorf("%d came as %d (%v)", code, got.status, got.err)
		}
	}
	for _, code := range []int{101, 300, 301, 302, 303, 305, 307, 308, 399, 600, 777, 999} {
		status <- code
		got := r.do(t, http.MethodPost, "/v1/databases/db_1/restore", strings.NewReader("{}"), nil)
		if got.status != http.StatusServiceUnavailable || got.header.Get("Location") != "" || !strings.Contains(got.body, "Look before") {
			t.Errorf("%d came as %d: %s", code, got.status, got.body)
		}
	}
	if n := r.hits.Load(); n != 40 {
		t.Errorf("%d requests arrived: a redirect was followed", n)
	}
}

func TestUnauthorizedIsOurs(t *testing.T) {
	t.Parallel()
	r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.WriteHeader(http.StatusUnauthorized)
	})
	got := r.do(t, http.MethodGet, "/v1/projects", nil, nil)
	if got.status != http.StatusBadGateway || got.header.Get("X-Kind") != "prisma-refused" || got.header.Get("Www-Authenticate") != "" {
		t.Errorf("a 401 that renewing did not mend answered %d", got.status)
	}
	var tokens []string
	for _, one := range r.arrived() {
		tokens = append(tokens, one.header.Get("Authorization"))
	}
	if want := []string{"Bearer first", "Bearer second"}; !slices.Equal(tokens, want) {
		t.Errorf("sent with %q, want %q", tokens, want)
	}
}
