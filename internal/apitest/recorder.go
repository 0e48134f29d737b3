package apitest

import (
	"bufio"
	"bytes"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
)

// recorder keeps an answer until its handler ends, so that it can be looked at before
// anybody has it. A handler that flushes streams: from then on each part is passed on as
// it comes, and kept as well.
type recorder struct {
	*httptest.ResponseRecorder

	to      http.ResponseWriter
	flushed bool
}

func newRecorder(to http.ResponseWriter) *recorder {
	return &recorder{ResponseRecorder: httptest.NewRecorder(), to: to}
}

// Unwrap lets a handler set deadlines of the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.to }

// Write implements io.Writer.
func (r *recorder) Write(p []byte) (int, error) {
	n, err := r.ResponseRecorder.Write(p)
	if err != nil || !r.flushed {
		return n, err //nolint:wrapcheck // a buffer's, which has none
	}
	return r.to.Write(p) //nolint:wrapcheck // the handler's own
}

// WriteString implements io.StringWriter.
func (r *recorder) WriteString(text string) (int, error) { return r.Write([]byte(text)) }

// FlushError passes on what was written so far.
func (r *recorder) FlushError() error {
	if !r.flushed {
		r.ResponseRecorder.Flush() // settles the status
		r.pass()
		r.flushed = true
	}
	return http.NewResponseController(r.to).Flush() //nolint:wrapcheck // the handler's own
}

// Flush implements http.Flusher.
func (r *recorder) Flush() { _ = r.FlushError() }

// Hijack implements http.Hijacker. Whoever takes the connection leaves nothing to pass on.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	r.flushed = true
	return http.NewResponseController(r.to).Hijack() //nolint:wrapcheck // the handler's own
}

// end passes on what is left to pass on.
func (r *recorder) end() {
	if !r.flushed {
		r.pass()
	}
}

// pass copies the answer. A client that hung up needs none.
func (r *recorder) pass() {
	maps.Copy(r.to.Header(), r.Header())
	r.to.WriteHeader(r.Code)
	_, _ = io.Copy(r.to, bytes.NewReader(r.Body.Bytes()))
}
