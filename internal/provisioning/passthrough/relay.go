package passthrough

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// errLarge is the cause of the end of an answer that is too large.
var errLarge = errors.New("the answer is larger than the pass-through takes")

// relay passes Prisma's answer to the client, each part as it arrives.
func (x *exchange) relay(resp *http.Response) error {
	if resp.ContentLength > x.limits.Answer {
		return x.explain(managementapi.NewFetchError(true, errLarge))
	}
	defer context.AfterFunc(x.client, func() { x.cancel(context.Cause(x.client)) })()
	idle, whole := x.limits.Idle, x.limits.Whole
	if isStream(resp.Header) {
		idle, whole = x.limits.StreamIdle, x.limits.StreamWhole
		defer context.AfterFunc(x.draining, func() { x.cancel(errors.New("the process is stopping")) })()
	}
	over := time.AfterFunc(whole, func() { x.cancel(errSlow) })
	defer over.Stop()

	header := x.w.Header()
	setAnswerHeader(header, resp.Header)
	if resp.ContentLength >= 0 && resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusNotModified {
		header.Set("Content-Length", strconv.FormatInt(resp.ContentLength, 10))
	}
	x.writeBy()
	x.w.WriteHeader(resp.StatusCode)
	if err := x.flush(); err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	if err := x.copy(resp.Body, idle); err != nil {
		if cause := context.Cause(x.ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return nil
}

// copy passes the body on until its end.
func (x *exchange) copy(from io.Reader, idle time.Duration) error {
	buffer, _ := x.buffers.Get().(*[32 << 10]byte)
	defer x.buffers.Put(buffer)
	silence := time.AfterFunc(idle, func() { x.cancel(errSlow) })
	defer silence.Stop()
	for left := x.limits.Answer; ; {
		n, err := from.Read(buffer[:])
		silence.Reset(idle)
		if left -= int64(n); left < 0 {
			return errLarge
		}
		if n > 0 {
			x.writeBy()
			if _, err := x.w.Write(buffer[:n]); err != nil {
				return fmt.Errorf("write to the client: %w", err)
			}
			if err := x.flush(); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
	}
}

// writeBy gives the client time to read the next part.
func (x *exchange) writeBy() {
	_ = x.wire.SetWriteDeadline(time.Now().Add(x.limits.Idle)) //nolint:forbidigo // sockets have their deadlines in real time
}

// flush sends what was written.
func (x *exchange) flush() error {
	if err := x.wire.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return fmt.Errorf("write to the client: %w", err)
	}
	return nil
}

// isStream reports whether an answer is one of events, which comes for as long as there
// are any.
func isStream(header http.Header) bool {
	media, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	return err == nil && (media == "application/x-ndjson" || media == "text/event-stream")
}
