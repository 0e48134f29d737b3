package managementapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"mime"
	"net/http"
	"time"

	"github.com/connect-prisma/server/internal/prisma/wire"
)

// maxRecord is the largest record of a stream that is read, in bytes.
const maxRecord = 1 << 20

// errTimeout says that our own deadline passed before the first byte of a stream.
var errTimeout = fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)

// stream makes a call whose answer is one JSON object a line, for as long as the server
// keeps sending. Config.Timeout bounds the wait for the answer; the stream itself
// lasts until it ends, ctx is done, or the loop over it stops. It ends after the first
// error, which comes with a zero record.
func stream[T any](ctx context.Context, c *Client, call call) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		var none T
		var resp *http.Response
		first := time.AfterFunc(c.timeout, func() { cancel(errTimeout) })
		defer first.Stop()
		call := call                                                 // several loops may run at once
		call.accept = "application/x-ndjson, application/json;q=0.5" // JSON tells what went wrong
		call, err := call.ready()
		if err != nil {
			yield(none, &FetchError{cause: err})
			return
		}
		err = c.authorize(ctx, func(ctx context.Context, authorization string) error {
			return c.repeat(ctx, call, func() (err error) {
				resp, err = c.openStream(ctx, call, authorization) //nolint:bodyclose // closed below, once the retries are over
				return err
			})
		})
		if err != nil {
			yield(none, err)
			return
		}
		defer resp.Body.Close()
		if !first.Stop() {
			yield(none, &FetchError{Sent: true, cause: errTimeout})
			return
		}
		for record, err := range records[T](ctx, resp.Body) {
			if !yield(record, err) {
				return
			}
		}
	}
}

// openStream sends one request and returns the answer if it is a stream.
func (c *Client) openStream(ctx context.Context, call call, authorization string) (*http.Response, error) {
	resp, err := c.open(ctx, call, authorization)
	if err != nil {
		return nil, err
	}
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case !call.succeeds(resp.StatusCode):
		defer resp.Body.Close()
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
		if err != nil {
			body = nil // the status says enough
		}
		return nil, call.refusal(resp, body)
	case err != nil || media != "application/x-ndjson":
		_ = resp.Body.Close()
		return nil, &FetchError{Sent: true, cause: errors.New("the answer is not the documented stream")}
	}
	return resp, nil
}

// records reads one JSON value a line.
func records[T any](ctx context.Context, body io.Reader) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		lines := bufio.NewScanner(body)
		lines.Buffer(make([]byte, 0, 4<<10), maxRecord)
		for lines.Scan() && lines.Err() == nil { // with an error comes the part of a record
			if len(bytes.TrimSpace(lines.Bytes())) == 0 {
				continue
			}
			var record T
			if json.Unmarshal(lines.Bytes(), &record) != nil {
				yield(none, &FetchError{Sent: true, cause: errors.New("a record is not the documented JSON")})
				return
			}
			if !yield(record, nil) {
				return
			}
		}
		switch err := lines.Err(); {
		case errors.Is(err, bufio.ErrTooLong):
			yield(none, &FetchError{Sent: true, cause: errors.New("a record is larger than 1 MiB")})
		case err != nil:
			yield(none, &FetchError{Sent: true, cause: wire.Cause(ctx, err, true)})
		}
	}
}
