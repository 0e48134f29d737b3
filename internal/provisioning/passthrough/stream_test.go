package passthrough_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/provisioning/passthrough"
)

// lines is an upstream that sends what it is given, each part at once, until the request
// ends or there is no more.
func lines(media string, next <-chan string) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		w.Header().Set("Content-Type", media)
		_ = http.NewResponseController(w).Flush()
		for {
			select {
			case line, more := <-next:
				if !more {
					return
				}
				_, _ = io.WriteString(w, line)
				_ = http.NewResponseController(w).Flush()
			case <-req.Context().Done():
				return
			}
		}
	}
}

// TestCallersThatAreNoLongerLetIn get no more of an answer, be it a stream or not, five
// seconds later at most. While nobody can tell, it goes on.
func TestCallersThatAreNoLongerLetIn(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		method, media string
		kind          fault.Kind
	}{
		"a key that was revoked":     {http.MethodGet, "application/x-ndjson", fault.Unauthorized},
		"a key of another scope":     {http.MethodGet, "application/x-ndjson", fault.ForbiddenScope},
		"a connection that ended":    {http.MethodGet, "application/x-ndjson", fault.NotFound},
		"one that needs a reconnect": {http.MethodGet, "text/event-stream", fault.ReconnectRequired},
		"of an answer that drips":    {http.MethodGet, "application/json", fault.Unauthorized},
		"of a change's answer":       {http.MethodPatch, "application/json", fault.Unauthorized},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			next, says := make(chan string), make(chan error)
			r := newRig(t, passthrough.Limits{}, lines(tc.media, next))
			r.ask = func(_ *http.Request, in *passthrough.Request) {
				in.Still = func(context.Context) error { return <-says }
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, tc.method, r.url+"/v1/projects/proj_1", nil)
			check(t, err)
			resp, err := client(t).Do(req)
			check(t, err)
			defer resp.Body.Close()
			if got, want := resp.Header.Get("X-Accel-Buffering") == "no", tc.media != "application/json"; got != want {
				t.Errorf("proxies are told not to collect it: %t, want %t", got, want)
			}
			if pace := <-r.paces; pace != 5*time.Second {
				t.Errorf("asked every %s", pace)
			}
			read := bufio.NewReader(resp.Body)
			for i, verdict := range []error{nil, errors.New("the database is away"), fault.New(fault.RefreshInProgress, "", nil)} {
				r.ticks <- time.Time{}
				says <- verdict
				want := fmt.Sprintf("{\"line\":%d}\n", i)
				next <- want
				if got, err := read.ReadString('\n'); err != nil || got != want {
					t.Fatalf("after %v: %q, %v", verdict, got, err)
				}
			}
			r.ticks <- time.Time{}
			says <- fault.New(tc.kind, "", nil)
			if rest, err := io.ReadAll(read); err == nil || len(rest) > 0 {
				t.Errorf("it went on with %q, or ended as if it were whole: %v", rest, err)
			}
			if err := <-r.errs; !errors.Is(err, passthrough.ErrBroken) || fault.KindOf(err) != tc.kind {
				t.Errorf("Serve() = %v, want ErrBroken because of %s", err, tc.kind)
			}
		})
	}
}

// TestCallersThatAreNoLongerLetInBeforeTheAnswer: what is not complete is not sent on, a read
// is not waited for, and a change that has been sent whole is, for it may have been done.
func TestCallersThatAreNoLongerLetInBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		method, begin string // what of the body is sent before the key ends
		length        int64
		status        int
		audit         string
	}{
		"a read":                   {http.MethodGet, "", 0, http.StatusUnauthorized, ""},
		"half a change":            {http.MethodPatch, `{"name":`, 14, http.StatusUnauthorized, "begun key_1 PATCH /v1/projects/{id} proj_1\nended PATCH /v1/projects/{id} unknown"},
		"half a change, in chunks": {http.MethodPatch, `{"name":`, -1, http.StatusUnauthorized, "begun key_1 PATCH /v1/projects/{id} proj_1\nended PATCH /v1/projects/{id} unknown"},
		"a change":                 {http.MethodPatch, `{"name":"new"}`, 14, http.StatusOK, "begun key_1 PATCH /v1/projects/{id} proj_1\nended PATCH /v1/projects/{id} done OK"},
		"a change without a body":  {http.MethodPatch, "", 0, http.StatusOK, "begun key_1 PATCH /v1/projects/{id} proj_1\nended PATCH /v1/projects/{id} done OK"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			arrived, proceed := make(chan struct{}), make(chan struct{})
			r := newRig(t, passthrough.Limits{}, func(_ http.ResponseWriter, req *http.Request) {
				if tc.status == http.StatusOK {
					_, _ = io.Copy(io.Discard, req.Body)
				}
				close(arrived)
				if _, err := io.Copy(io.Discard, req.Body); err != nil {
					return // half of it
				}
				select {
				case <-proceed:
				case <-req.Context().Done():
				}
			})
			says := make(chan error)
			r.ask = func(_ *http.Request, in *passthrough.Request) {
				in.Still = func(context.Context) error { return <-says }
			}
			var body io.Reader
			if tc.begin != "" {
				upload, rest := io.Pipe()
				body = upload
				go func() {
					_, _ = io.WriteString(rest, tc.begin)
					if tc.status == http.StatusOK {
						_ = rest.Close()
					}
				}()
				defer rest.Close()
			}
			ended := make(chan answer)
			go func() {
				ended <- r.do(t, tc.method, "/v1/projects/proj_1", body, func(req *http.Request) { req.ContentLength = tc.length })
			}()
			<-arrived
			r.ticks <- time.Time{}
			says <- fault.New(fault.Unauthorized, "revoked", nil)
			if tc.status == http.StatusOK {
				close(proceed)
			}
			got := <-ended
			if got.status != tc.status {
				t.Errorf("answered %d, %v, want %d", got.status, got.err, tc.status)
			}
			err := <-r.errs
			if want := tc.status != http.StatusOK; (fault.KindOf(err) == fault.Unauthorized) != want {
				t.Errorf("Serve() = %v", err)
			}
			if log := r.audit.log(); log != tc.audit {
				t.Errorf("the audit log says\n%s\nwant\n%s", log, tc.audit)
			}
		})
	}
}

// TestPlacesOfStreams: a stream asks for its place before anything is sent, and gives it
// back when it ends. Nothing else asks.
func TestPlacesOfStreams(t *testing.T) {
	t.Parallel()
	next := make(chan string)
	r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, req *http.Request) {
		media := "application/x-ndjson"
		if strings.HasSuffix(req.URL.Path, "/projects") {
			media = "application/json"
		}
		lines(media, next)(w, req)
	})
	events := make(chan string, 10)
	var full error
	r.ask = func(_ *http.Request, in *passthrough.Request) {
		in.Stream = func(context.Context) (func(), error) {
			events <- "asked"
			return func() { events <- "left" }, full
		}
	}
	ended := make(chan answer)
	go func() { ended <- r.do(t, http.MethodGet, logs, nil, nil) }()
	if got := <-events; got != "asked" {
		t.Errorf("a stream %s", got)
	}
	next <- "{}\n" // it is open
	next <- "{}\n"
	close(next)
	if got := <-ended; got.status != http.StatusOK || got.err != nil {
		t.Errorf("a stream answered %d, %v", got.status, got.err)
	}
	if got := <-events; got != "left" {
		t.Errorf("a stream that ended %s", got)
	}
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		if got := r.do(t, method, "/v1/projects", nil, nil); got.status != http.StatusOK || len(events) > 0 {
			t.Errorf("%s answered %d and %d events", method, got.status, len(events))
		}
	}
	full = fault.New(fault.QuotaExceeded, "all places are taken", nil)
	if got := r.do(t, http.MethodGet, logs, nil, nil); got.status != http.StatusTooManyRequests {
		t.Errorf("with all places taken: %d", got.status)
	}
}

// TestHTTP10 is refused before anything is sent: half an answer would look whole in it.
func TestHTTP10(t *testing.T) {
	t.Parallel()
	r := newRig(t, passthrough.Limits{}, func(http.ResponseWriter, *http.Request) {})
	for _, request := range []string{
		"GET " + prefix + logs + " HTTP/1.0\r\nHost: a\r\n\r\n",
		"GET " + prefix + "/v1/projects HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
		"POST " + prefix + "/v1/projects HTTP/1.0\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
	} {
		if got := r.raw(t, request); got != http.StatusBadRequest {
			t.Errorf("%.40q answered %d", request, got)
		}
		if err := <-r.errs; fault.KindOf(err) != fault.InvalidRequest || !strings.Contains(err.Error(), "HTTP/1.1") {
			t.Errorf("%.40q: %v", request, err)
		}
	}
	if r.hits.Load() != 0 || r.audit.log() != "" {
		t.Errorf("%d requests arrived, and the audit log says %q", r.hits.Load(), r.audit.log())
	}
}

// TestUnknownOutcomes come without advice when to send the call again, and with advice how
// to look, whether or not the client waited for the answer.
func TestUnknownOutcomes(t *testing.T) {
	t.Parallel()
	arrived, gone := make(chan struct{}), make(chan struct{})
	r := newRig(t, passthrough.Limits{}, func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		if req.Method == http.MethodPost {
			close(arrived)
			<-gone
		}
		panic(http.ErrAbortHandler)
	})
	unknown := func(what string, err error) {
		t.Helper()
		e, ok := errors.AsType[*fault.Error](err)
		if !ok || e.Kind != fault.PrismaUnavailable || !e.NoRetry || e.RetryAfter != 0 || e.Extra["outcome"] != "unknown" ||
			!strings.Contains(e.Detail, "Look before you send it again") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, method := range []string{http.MethodPatch, http.MethodDelete} {
		r.do(t, method, "/v1/projects/proj_1", nil, nil)
		unknown(method, <-r.errs)
	}
	ctx, leave := context.WithCancel(t.Context())
	r.ask = func(req *http.Request, _ *passthrough.Request) {
		context.AfterFunc(req.Context(), func() { close(gone) }) // the front knows by then
	}
	go func() {
		<-arrived
		leave()
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+"/v1/projects", strings.NewReader("{}"))
	check(t, err)
	if resp, err := client(t).Do(req); err == nil {
		_ = resp.Body.Close()
	}
	unknown("a client that left", <-r.errs)
	r.ask = nil
	r.do(t, http.MethodGet, "/v1/projects", nil, nil)
	if e, ok := errors.AsType[*fault.Error](<-r.errs); !ok || e.NoRetry {
		t.Errorf("a read: %v, want one that may be repeated", e)
	}
}
