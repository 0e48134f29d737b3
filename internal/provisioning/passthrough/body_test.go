package passthrough_test

import (
	"bytes"
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

// unsized hides a reader's length, so that the body is sent in chunks.
type unsized struct{ io.Reader }

// letters is a body of n bytes that is not all the same.
func letters(n int) []byte {
	return bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]
}

func TestBodiesArriveWhole(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{})
	for _, n := range []int{1, 100, 64 << 10, 64<<10 + 1, 1 << 20, 10 << 20} {
		for name, reader := range map[string]io.Reader{"sized": bytes.NewReader(letters(n)), "chunked": unsized{bytes.NewReader(letters(n))}} {
			before := len(r.arrived())
			got := r.do(t, http.MethodPost, "/v1/projects", reader, nil)
			all := r.arrived()
			if got.status != http.StatusOK || len(all) != before+1 {
				t.Errorf("%d bytes, %s: answered %d: %s", n, name, got.status, got.body)
				continue
			}
			want := int64(n)
			if name == "chunked" {
				want = -1
			}
			if all[before].body != string(letters(n)) || all[before].length != want {
				t.Errorf("%d bytes, %s: %d arrived with the length %d", n, name, len(all[before].body), all[before].length)
			}
		}
	}
}

func TestLargeBodiesAreRefused(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{})
	got := r.do(t, http.MethodPost, "/v1/projects", bytes.NewReader(letters(10<<20+1)), nil)
	if got.err == nil && got.status != http.StatusRequestEntityTooLarge {
		t.Errorf("10 MiB and a byte answered %d", got.status)
	}
	// Announced, and never sent: the answer does not wait for it.
	status := r.raw(t, "POST "+prefix+"/v1/projects HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n")
	if status != http.StatusRequestEntityTooLarge || len(r.arrived()) != 0 {
		t.Errorf("an announced body of 99 GB answered %d, and %d requests arrived", status, len(r.arrived()))
	}
	// Without a length it is only known on the way: Prisma gets no whole request.
	got = r.do(t, http.MethodPost, "/v1/projects", unsized{bytes.NewReader(letters(10<<20 + 1))}, nil)
	if got.err == nil && got.status != http.StatusRequestEntityTooLarge {
		t.Errorf("10 MiB and a byte in chunks answered %d: %s", got.status, got.body)
	}
	for _, one := range r.arrived() {
		if one.bodyErr == nil {
			t.Errorf("a whole request of %d bytes arrived", len(one.body))
		}
	}
}

func TestReadsTakeNoBody(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{})
	for _, body := range []io.Reader{strings.NewReader("{}"), unsized{strings.NewReader("{}")}} {
		if got := r.do(t, http.MethodGet, "/v1/projects", body, nil); got.status != http.StatusBadRequest || len(r.arrived()) != 0 {
			t.Errorf("a read with a body answered %d", got.status)
		}
	}
}

// TestExpectContinue: the client is told to send its body only when Prisma is going to
// get it.
func TestExpectContinue(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{})
	expect := func(req *http.Request) { req.Header.Set("Expect", "100-continue") }
	if got := r.do(t, http.MethodPost, "/v1/projects", bytes.NewReader(letters(1<<20)), expect); got.status != http.StatusOK {
		t.Errorf("answered %d", got.status)
	}
	if one := r.arrived()[0]; len(one.body) != 1<<20 || one.header.Get("Expect") != "" {
		t.Errorf("%d bytes arrived, with Expect %q", len(one.body), one.header.Get("Expect"))
	}
	untouched := &reading{Reader: bytes.NewReader(letters(1 << 20))}
	got := r.do(t, http.MethodPost, "/v1/projects/p/transfer", untouched, func(req *http.Request) {
		expect(req)
		req.ContentLength = 1 << 20
	})
	if got.status != http.StatusForbidden || untouched.n != 0 {
		t.Errorf("a refused operation answered %d after %d bytes", got.status, untouched.n)
	}
}

// reading counts what is read.
type reading struct {
	io.Reader

	n int
}

func (r *reading) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += n
	return n, err
}

func TestTrailersStayHere(t *testing.T) {
	t.Parallel()
	r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		if len(req.Trailer) != 0 {
			w.WriteHeader(http.StatusTeapot)
		}
		w.Header().Set("Trailer", "X-After")
		_, _ = io.WriteString(w, "{}")
		w.Header().Set("X-After", "theirs")
	})
	got := r.do(t, http.MethodPost, "/v1/projects", unsized{strings.NewReader("{}")}, func(req *http.Request) {
		req.Trailer = http.Header{"Authorization": {apiKey}}
	})
	if got.status != http.StatusOK || got.body != "{}" || got.header.Get("Trailer") != "" || got.header.Get("X-After") != "" {
		t.Errorf("answered %d %s with %v", got.status, got.body, got.header)
	}
}

// refusing answers the first token with 401, after it has read n bytes of the body, and
// the second with what arrived.
func refusing(n int64) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer second" {
			_, _ = io.CopyN(io.Discard, req.Body, n)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		body, _ := io.ReadAll(req.Body)
		fmt.Fprintf(w, "%d %t", len(body), bytes.Equal(body, letters(len(body))))
	}
}

// TestRepeatAfterRefusal: a request is sent again if its body can be.
func TestRepeatAfterRefusal(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		length int
		read   int64
		again  bool
	}{
		"none":                  {0, 0, true},
		"small":                 {100, 100, true},
		"small, unread":         {100, 0, true},
		"as much as is kept":    {64 << 10, 64 << 10, true},
		"a byte more":           {64<<10 + 1, 64<<10 + 1, false},
		"large, read to an end": {1 << 20, 1 << 20, false},
	} {
		for _, sized := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, sized %t", name, sized), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, passthrough.Limits{}, refusing(tc.read))
				var body io.Reader
				if tc.length > 0 {
					body = bytes.NewReader(letters(tc.length))
				}
				if !sized && body != nil {
					body = unsized{body}
				}
				got := r.do(t, http.MethodPost, "/v1/projects", body, nil)
				want := fmt.Sprintf("%d true", tc.length)
				if tc.again && (got.status != http.StatusOK || got.body != want) {
					t.Errorf("answered %d %s, want 200 %s", got.status, got.body, want)
				}
				if !tc.again && (got.status != http.StatusBadGateway || !strings.Contains(got.body, "send the request again")) {
					t.Errorf("answered %d %s, want the advice to send it again", got.status, got.body)
				}
				if n := r.tokens.renewals(); n != 1 {
					t.Errorf("%d renewals, want 1", n)
				}
			})
		}
	}
}

// TestRepeatWhileTheBodyIsOnItsWay: the refusal comes when the client has sent the first
// part only. What was read is kept, and the rest follows to the second attempt.
func TestRepeatWhileTheBodyIsOnItsWay(t *testing.T) {
	t.Parallel()
	for _, sized := range []bool{true, false} {
		refused := make(chan struct{})
		r := newRig(t, passthrough.Limits{}, func(w http.ResponseWriter, req *http.Request) {
			if req.Header.Get("Authorization") == "Bearer second" {
				refusing(0)(w, req)
				return
			}
			_ = http.NewResponseController(w).EnableFullDuplex() // or it would wait for the rest
			_, _ = io.ReadFull(req.Body, make([]byte, 4<<10))
			w.WriteHeader(http.StatusUnauthorized)
			_ = http.NewResponseController(w).Flush()
			close(refused)
		})
		reader, writer := io.Pipe()
		go func() {
			_, _ = writer.Write(letters(40000)[:20000])
			<-refused
			_, _ = writer.Write(letters(40000)[20000:])
			_ = writer.Close()
		}()
		got := r.do(t, http.MethodPost, "/v1/projects", reader, func(req *http.Request) {
			if sized {
				req.ContentLength = 40000
			}
		})
		if got.status != http.StatusOK || got.body != "40000 true" {
			t.Errorf("sized %t: answered %d %s", sized, got.status, got.body)
		}
	}
}

// TestSlowBodies: a client that drips its body is sent away in time, and Prisma has got
// no whole request.
func TestSlowBodies(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{Upload: 200 * time.Millisecond})
	conn := r.dial(t)
	_, err := fmt.Fprintf(conn, "POST %s/v1/projects HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{", prefix)
	check(t, err)
	if err := <-r.errs; fault.KindOf(err) != fault.InvalidRequest {
		t.Errorf("a body that never ends: %v", err)
	}
	for _, one := range r.arrived() {
		if one.bodyErr == nil {
			t.Errorf("a whole request of %d bytes arrived", len(one.body))
		}
	}
}

// TestQuickBodiesHaveTime: the time for the body is not the time for the answer.
func TestQuickBodiesHaveTime(t *testing.T) {
	t.Parallel()
	const upload = 200 * time.Millisecond
	r := newRig(t, passthrough.Limits{Upload: upload}, func(w http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body)
		select {
		case <-req.Context().Done():
		case <-time.After(3 * upload):
			_, _ = io.WriteString(w, "late")
		}
	})
	for method, body := range map[string]io.Reader{http.MethodGet: nil, http.MethodPost: strings.NewReader("{}")} {
		if got := r.do(t, method, "/v1/projects", body, nil); got.body != "late" || got.err != nil {
			t.Errorf("%s: answered %d %q (%v)", method, got.status, got.body, got.err)
		}
	}
}

// TestClientsThatLeaveInTheMiddle of their body leave no whole request behind.
func TestClientsThatLeaveInTheMiddle(t *testing.T) {
	t.Parallel()
	r := recording(t, passthrough.Limits{})
	for _, head := range []string{"Content-Length: 100\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"} {
		conn := r.dial(t)
		_, err := fmt.Fprintf(conn, "POST %s/v1/projects HTTP/1.1\r\nHost: a\r\n%s", prefix, head)
		check(t, err)
		check(t, conn.Close())
		if err := <-r.errs; err == nil || errors.Is(err, passthrough.ErrBroken) {
			t.Errorf("a body that was cut off: %v", err)
		}
	}
	for _, one := range r.arrived() {
		if one.bodyErr == nil {
			t.Errorf("a whole request of %d bytes arrived", len(one.body))
		}
	}
}
