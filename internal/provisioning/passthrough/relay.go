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

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// errLarge is the cause of the end of an answer that is too large.
var errLarge = errors.New("the answer is larger than the pass-through takes")

// relay passes Prisma's answer to the client, each part as it arrives.
func (x *exchange) relay(resp *http.Response) error {
	x.answered.Store(true)
	if resp.ContentLength > x.limits.Answer {
		return x.explain(managementapi.NewFetchError(true, errLarge))
	}
	defer context.AfterFunc(x.client, func() { x.cancel(context.Cause(x.client)) })()
	idle, whole := x.limits.Idle, x.limits.Whole
	if isStream(resp.Header) {
		leave, err := x.place()
		if err != nil {
			return err
		}
		defer leave()
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
	if isStream(resp.Header) {
		header.Set("X-Accel-Buffering", "no") // nginx would collect lines until they are worth sending
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

// place finds a place for a stream.
func (x *exchange) place() (leave func(), err error) {
	if x.in.Stream == nil || x.op.changes() {
		return func() {}, nil
	}
	return x.in.Stream(x.client)
}

// watch ends the exchange when its caller would no longer be let in, until stop is called:
// a body may take half a minute and an answer an hour, and a key or a connection that has
// ended must not. In between, what became of a change is waited for.
func (x *exchange) watch() (stop func()) {
	if x.in.Still == nil {
		return func() {}
	}
	ctx, stop := context.WithCancel(x.ctx)
	ticks, end := x.tick(x.limits.Recheck)
	go func() {
		defer end()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticks:
			}
			if err := x.still(ctx); err != nil && !x.inDoubt() {
				x.cancel(fmt.Errorf("the caller is no longer let in: %w", err))
				if !x.uploaded.Load() {
					x.readBy(time.Unix(0, 0)) // net/http waits for the reading of a body to end
				}
				return
			}
		}
	}()
	return stop
}

// inDoubt reports whether a change has been sent whole, and nobody knows yet what Prisma
// did with it.
func (x *exchange) inDoubt() bool {
	return x.op.changes() && x.sending.Load() && x.uploaded.Load() && !x.answered.Load()
}

// still asks whether the caller would be let in; nil also when nobody can tell: a
// database that is away ends nothing, and takes no revocations either.
func (x *exchange) still(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, x.limits.Recheck)
	defer cancel()
	err := x.in.Still(ctx)
	switch fault.KindOf(err) { //nolint:exhaustive // the others say nothing about the caller
	case fault.Unauthorized, fault.ForbiddenScope, fault.NotFound, fault.ReconnectRequired:
		return err
	}
	return nil
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
