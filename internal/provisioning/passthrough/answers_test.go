package passthrough_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/provisioning/passthrough"
)

const logs = "/v1/builds/build_1/logs"

// TestStreamsFlow: each line of a log is there before the next one is written.
func TestStreamsFlow(t *testing.T) {
	t.Parallel()
	next := make(chan string)
	r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		_ = http.NewResponseController(w).Flush()
		for line := range next {
			_, _ = io.WriteString(w, line+"\n")
			_ = http.NewResponseController(w).Flush()
		}
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+logs, nil)
	check(t, err)
	resp, err := client(t).Do(req) // answered before there is a line
	check(t, err)
	defer resp.Body.Close()
	lines := bufio.NewReader(resp.Body)
	for i := range 20 {
		want := fmt.Sprintf(`{"line":%d}`, i)
		next <- want
		got, err := lines.ReadString('\n')
		if err != nil || strings.TrimSpace(got) != want {
			t.Fatalf("read %q (%v), want %s", got, err, want)
		}
	}
	close(next)
	if _, err := lines.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last line: %v", err)
	}
}

// forever is an upstream that answers with writes until the test or the request ends.
func forever(t *testing.T, media string, pause time.Duration, part []byte) http.HandlerFunc {
	t.Helper()
	return func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", media)
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case <-req.Context().Done():
				return
			case <-t.Context().Done():
				return
			case <-time.After(pause):
			}
			if _, err := w.Write(part); err != nil {
				return
			}
			_ = http.NewResponseController(w).Flush()
		}
	}
}

// TestAnswersThatDoNotEnd are cut, and the client sees that.
func TestAnswersThatDoNotEnd(t *testing.T) {
	t.Parallel()
	const json, ndjson = "application/json", "application/x-ndjson"
	short, long := 300*time.Millisecond, time.Minute
	for name, tc := range map[string]struct {
		limits   passthrough.Limits
		upstream http.HandlerFunc
	}{
		"silent":            {passthrough.Limits{Idle: short}, forever(t, json, long, nil)},
		"dripping":          {passthrough.Limits{Whole: short}, forever(t, json, time.Millisecond, []byte(" "))},
		"endless":           {passthrough.Limits{Answer: 1 << 20}, forever(t, json, 0, letters(32<<10))},
		"a silent stream":   {passthrough.Limits{StreamIdle: short}, forever(t, ndjson, long, nil)},
		"a dripping stream": {passthrough.Limits{StreamWhole: short}, forever(t, ndjson, time.Millisecond, []byte("\n"))},
		"an endless stream": {passthrough.Limits{Answer: 1 << 20}, forever(t, ndjson, 0, letters(32<<10))},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, tc.limits, tc.upstream)
			got := r.do(t, http.MethodGet, logs, nil, nil)
			if got.status != http.StatusOK || got.err == nil || len(got.body) > 1<<20 {
				t.Errorf("answered %d, %d bytes, %v; want a transfer that breaks", got.status, len(got.body), got.err)
			}
			if err := <-r.errs; !errors.Is(err, passthrough.ErrBroken) {
				t.Errorf("Serve() = %v, want ErrBroken", err)
			}
		})
	}
}

// TestStreamsAreMorePatient than other answers.
func TestStreamsAreMorePatient(t *testing.T) {
	t.Parallel()
	r := newRig(t, passthrough.Limits{Idle: 50 * time.Millisecond, Whole: 100 * time.Millisecond}, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson; charset=utf-8")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-time.After(400 * time.Millisecond):
			_, _ = io.WriteString(w, "{}\n")
		case <-req.Context().Done():
		}
	})
	if got := r.do(t, http.MethodGet, logs, nil, nil); got.err != nil || got.body != "{}\n" {
		t.Errorf("answered %q, %v", got.body, got.err)
	}
}

func TestNoAnswerInTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, passthrough.Limits{Head: 200 * time.Millisecond}, func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		<-req.Context().Done()
	})
	for method, want := range map[string]string{http.MethodGet: "Try again later", http.MethodPost: "Look before you send it again"} {
		var body io.Reader
		if method == http.MethodPost {
			body = strings.NewReader("{}")
		}
		got := r.do(t, method, "/v1/projects", body, nil)
		if got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, want) {
			t.Errorf("%s answered %d: %s", method, got.status, got.body)
		}
	}
}

// TestAnswersThatBreakOff: half an answer is never taken for a whole one.
func TestAnswersThatBreakOff(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"in a sized body":  "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"data\":",
		"in a chunk":       "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\n{\"data\":",
		"between chunks":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
		"in a broken one":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"in a log":         "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
		"in an error's":    "HTTP/1.1 409 Conflict\r\nContent-Length: 100\r\n\r\n{",
		"before the first": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, _ *http.Request) {
				conn, _, _ := w.(http.Hijacker).Hijack() //nolint:forcetypeassert // it is one
				_, _ = io.WriteString(conn, text)
				_ = conn.Close()
			})
			got := r.do(t, http.MethodGet, logs, nil, nil)
			if got.err == nil {
				t.Errorf("answered %d with a whole body %q", got.status, got.body)
			}
		})
	}
}

// TestGarbageForAnAnswer: what is not HTTP, or too much of it, is no answer.
func TestGarbageForAnAnswer(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"nothing":            "",
		"no HTTP":            "hello\r\n\r\n",
		"another protocol":   "SSH-2.0-x\r\n",
		"no status":          "HTTP/1.1 \r\n\r\n",
		"a word for one":     "HTTP/1.1 abc OK\r\n\r\n",
		"a negative one":     "HTTP/1.1 -20 OK\r\n\r\n",
		"zero":               "HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n",
		"1 MB of one header": "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n",
		"many headers":       "HTTP/1.1 200 OK\r\n" + strings.Repeat("Vary: x\r\n", 100000) + "\r\n",
		"two lengths":        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"a negative length":  "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"another protocol's": "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
		"only half a head":   "HTTP/1.1 200 OK\r\nContent-",
		"a huge body ahead":  "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.Copy(io.Discard, req.Body)
				conn, _, _ := w.(http.Hijacker).Hijack() //nolint:forcetypeassert // it is one
				_, _ = io.WriteString(conn, text)
				_ = conn.Close()
			})
			got := r.do(t, http.MethodPost, "/v1/projects", strings.NewReader("{}"), nil)
			if got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, "Look before you send it again") {
				t.Errorf("answered %d %s (%v)", got.status, got.body, got.err)
			}
			if n := r.hits.Load(); n != 1 {
				t.Errorf("sent %d times", n)
			}
		})
	}
}

// TestUnreachable: nothing was sent, and the client is told so.
func TestUnreachable(t *testing.T) {
	t.Parallel()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	check(t, err)
	check(t, listener.Close())
	r := &rig{errs: make(chan error, 10), audit: &audit{ended: make(chan struct{}, 10)}}
	r.start(t, passthrough.Limits{}, "http://"+listener.Addr().String())
	got := r.do(t, http.MethodPost, "/v1/projects", strings.NewReader("{}"), nil)
	if got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, "nothing was sent") {
		t.Errorf("answered %d %s", got.status, got.body)
	}
	if got := r.do(t, http.MethodGet, "/v1/projects", nil, nil); got.status != http.StatusServiceUnavailable {
		t.Errorf("a read answered %d %s", got.status, got.body)
	}
}

// TestCompressedBodiesStayCompressed: a bomb is somebody else's to open.
func TestCompressedBodiesStayCompressed(t *testing.T) {
	t.Parallel()
	var bomb bytes.Buffer
	packer := gzip.NewWriter(&bomb)
	_, err := packer.Write(make([]byte, 8<<20))
	check(t, errors.Join(err, packer.Close()))
	r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, req *http.Request) {
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Asked", req.Header.Get("Accept-Encoding"))
		_, _ = w.Write(bomb.Bytes())
	})
	for _, asked := range []string{"", "gzip", "identity"} {
		got := r.do(t, http.MethodGet, "/v1/projects", nil, func(req *http.Request) {
			if asked != "" {
				req.Header.Set("Accept-Encoding", asked)
			}
		})
		if got.header.Get("Content-Encoding") != "gzip" || got.body != bomb.String() {
			t.Errorf("asked for %q: %d bytes encoded as %q, want %d of gzip", asked, len(got.body), got.header.Get("Content-Encoding"), bomb.Len())
		}
	}
}

// TestClientsThatLeave end a read at Prisma too; a change goes on until its end is known.
func TestClientsThatLeave(t *testing.T) {
	t.Parallel()
	began, left, ended := make(chan struct{}), make(chan struct{}), make(chan struct{}, 1)
	r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		began <- struct{}{}
		if req.Method == http.MethodGet {
			<-req.Context().Done()
			ended <- struct{}{}
			return
		}
		<-left
		w.WriteHeader(http.StatusCreated)
	})
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		ctx, leave := context.WithCancel(t.Context())
		go func() {
			<-began
			leave()
			if method == http.MethodPost {
				close(left)
			}
		}()
		var body io.Reader
		if method == http.MethodPost {
			body = strings.NewReader("{}")
		}
		req, err := http.NewRequestWithContext(ctx, method, r.url+"/v1/projects", body)
		check(t, err)
		if resp, err := client(t).Do(req); err == nil {
			_ = resp.Body.Close()
		}
		if err := <-r.errs; err == nil && method == http.MethodGet {
			t.Error("a read went on without its client")
		}
	}
	<-ended
	if want := "begun key_1 POST /v1/projects \nended POST /v1/projects done Created"; r.audit.log() != want {
		t.Errorf("the audit log says\n%s\nwant\n%s", r.audit.log(), want)
	}
}

// TestReadersThatStop: a client that takes nothing holds nothing for long.
func TestReadersThatStop(t *testing.T) {
	t.Parallel()
	r := newRig(t, passthrough.Limits{Idle: 300 * time.Millisecond}, forever(t, "application/json", 0, letters(256<<10)))
	conn := r.dial(t)
	_, err := fmt.Fprintf(conn, "GET %s%s HTTP/1.1\r\nHost: a\r\n\r\n", prefix, logs)
	check(t, err)
	if err := <-r.errs; !errors.Is(err, passthrough.ErrBroken) {
		t.Errorf("Serve() = %v, want ErrBroken", err)
	}
}

// TestDrain ends streams, and nothing else.
func TestDrain(t *testing.T) {
	t.Parallel()
	open := make(chan struct{})
	r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, req *http.Request) {
		if !strings.HasSuffix(req.URL.Path, "/logs") {
			_, _ = io.WriteString(w, "{}")
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		_ = http.NewResponseController(w).Flush()
		open <- struct{}{}
		<-req.Context().Done()
	})
	go func() {
		<-open
		r.proxy.Drain()
	}()
	if got := r.do(t, http.MethodGet, logs, nil, nil); got.err == nil {
		t.Errorf("a stream ended as if it were whole: %d %q", got.status, got.body)
	}
	if got := r.do(t, http.MethodGet, "/v1/projects", nil, nil); got.err != nil || got.body != "{}" {
		t.Errorf("another request answered %q, %v", got.body, got.err)
	}
}

// TestMemoryStaysBounded while 100 MB pass: the live heap is looked at 50 times on the
// way, after a collection each time.
func TestMemoryStaysBounded(t *testing.T) { //nolint:paralleltest // it measures the process
	const total, part = 100 << 20, 2 << 20
	r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		text := letters(64 << 10)
		for range total / len(text) {
			if _, err := w.Write(text); err != nil {
				return
			}
		}
	})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+logs, nil)
	check(t, err)
	resp, err := client(t).Do(req)
	check(t, err)
	defer resp.Body.Close()
	var stats runtime.MemStats
	live := func() uint64 {
		runtime.GC()
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before, most := live(), uint64(0)
	allocated, read := stats.TotalAlloc, int64(0)
	for {
		n, err := io.CopyN(io.Discard, resp.Body, part)
		read += n
		most = max(most, live())
		if errors.Is(err, io.EOF) {
			break
		}
		check(t, err)
	}
	grown := int64(most) - int64(before)
	t.Logf("%d MiB passed; the live heap grew by %d KiB at most, %d KiB were allocated in all, client and upstream included",
		read>>20, grown>>10, (stats.TotalAlloc-allocated)>>10)
	if read != total || grown > 2<<20 {
		t.Errorf("%d bytes passed and the live heap grew by %d bytes", read, grown)
	}
}

// TestManyAtOnce: answers and bodies stay with their requests.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		if len(body)%3 == 0 && req.Header.Get("Authorization") == "Bearer first" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, "%s %s %d", req.URL.Path, req.URL.Query().Get("limit"), len(body))
	})
	var wrong atomic.Int32
	var all sync.WaitGroup
	for i := range 200 {
		all.Go(func() {
			path := fmt.Sprintf("/v1/projects/proj_%d", i)
			got := r.do(t, http.MethodPatch, path, bytes.NewReader(letters(i*50+1)), nil)
			if want := fmt.Sprintf("%s  %d", path, i*50+1); got.status != http.StatusOK || got.body != want {
				wrong.Add(1)
				t.Errorf("answered %d %q, want %q", got.status, got.body, want)
			}
		})
	}
	all.Wait()
}

// TestAudit: what is written about a call, and that nothing is sent without it.
func TestAudit(t *testing.T) {
	t.Parallel()
	status := make(chan int, 2)
	r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		if req.Method == http.MethodGet && strings.HasPrefix(req.URL.Path, "/v1/databases/") {
			w.WriteHeader(http.StatusNotFound) // what is deleted is looked at before
			return
		}
		w.WriteHeader(<-status)
	})
	for _, tc := range []struct {
		method, path string
		statuses     []int
		want         string
	}{
		{"DELETE", "/v1/databases/db_1", []int{204}, "begun key_1 DELETE /v1/databases/{databaseId} db_1\ndeletes db_1\nended DELETE /v1/databases/{databaseId} done No Content\ntold db_1"},
		{"DELETE", "/v1/databases/db_1", []int{401, 404}, "begun key_1 DELETE /v1/databases/{databaseId} db_1\ndeletes db_1\nended DELETE /v1/databases/{databaseId} refused Not Found\ncancelled\ntold db_1"},
		{"DELETE", "/v1/databases/db_1", []int{401, 401}, "begun key_1 DELETE /v1/databases/{databaseId} db_1\ndeletes db_1\nended DELETE /v1/databases/{databaseId} refused Unauthorized\ncancelled"},
		{"POST", "/v1/projects", []int{500}, "begun key_1 POST /v1/projects \nended POST /v1/projects unknown Internal Server Error"},
		{"POST", "/v1/projects", []int{303}, "begun key_1 POST /v1/projects \nended POST /v1/projects unknown See Other"},
		{"DELETE", "/v1/buckets/b/keys/k", []int{204}, "begun key_1 DELETE /v1/buckets/{bucketId}/keys/{keyId} k\nended DELETE /v1/buckets/{bucketId}/keys/{keyId} done No Content"},
		{"GET", "/v1/projects", []int{200}, ""},
		{"POST", "/v1/projects/p/transfer", nil, ""},
		{"PUT", "/v1/projects", nil, ""},
	} {
		for _, one := range tc.statuses {
			status <- one
		}
		r.audit.lines = nil
		r.do(t, tc.method, tc.path, nil, nil)
		if got := r.audit.log(); got != tc.want {
			t.Errorf("%s %s, %v: the audit log says\n%s\nwant\n%s", tc.method, tc.path, tc.statuses, got, tc.want)
		}
	}
	before := r.hits.Load()
	r.audit.fail = errors.New("the database is away")
	if got := r.do(t, http.MethodPost, "/v1/projects", strings.NewReader("{}"), nil); got.status != http.StatusInternalServerError {
		t.Errorf("without an audit log: answered %d", got.status)
	}
	status <- http.StatusOK
	if got := r.do(t, http.MethodGet, "/v1/projects", nil, nil); got.status != http.StatusOK || r.hits.Load() != before+1 {
		t.Errorf("%d requests arrived, and a read answered %d", r.hits.Load()-before, got.status)
	}
}

// TestConnectionTroubles come as they are.
func TestConnectionTroubles(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{})
	for kind, status := range map[fault.Kind]int{fault.ReconnectRequired: 409, fault.NotFound: 404, fault.PrismaUnavailable: 503} {
		r.tokens.err = fault.New(kind, "as it is", nil)
		if got := r.do(t, http.MethodPost, "/v1/projects", strings.NewReader("{}"), nil); got.status != status {
			t.Errorf("%s answered %d", kind, got.status)
		}
	}
	if r.audit.log() != "" || len(r.arrived()) != 0 {
		t.Errorf("the audit log says %q, and %d requests arrived", r.audit.log(), len(r.arrived()))
	}
}
