package prisma

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// maxTokenAnswer is the largest token response that is read, in bytes, and the largest
// header of one.
const maxTokenAnswer = 64 << 10

// maxRetryAfter bounds what a server may ask us to wait.
const maxRetryAfter = time.Hour

// requestToken sends one form to the token endpoint and reads the answer. Every error
// is a *TokenError.
func (o *OAuth) requestToken(ctx context.Context, client OAuthClient, form url.Values) (Grant, error) {
	if err := ctx.Err(); err != nil {
		return Grant{}, &TokenError{Class: NotSent, cause: err}
	}
	// One explicit style of client authentication, in the body. Trying a second one
	// after a refusal would send the token twice.
	form.Set("client_id", client.ID)
	if client.Secret != "" {
		form.Set("client_secret", client.Secret)
	}

	ctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	var connected atomic.Bool
	deadline := time.AfterFunc(o.timeouts.Dial+o.timeouts.TLS, func() {
		if connected.Load() {
			cancel(errAnswerTimedOut)
			return
		}
		cancel(errConnectTimedOut)
	})
	defer deadline.Stop()
	// From here on bytes may leave. Nothing later tells "sent" from "not sent" as
	// surely: a request that failed while it was written may have arrived all the same.
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		connected.Store(true)
		deadline.Reset(o.timeouts.Answer)
	}})

	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.tokenURL, strings.NewReader(form.Encode()))
	if err != nil {
		return Grant{}, &TokenError{Class: NotSent, cause: errors.New("the token URL can't be requested")}
	}
	req.GetBody = nil // the transport can't resend what it can't read again
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")

	resp, err := o.http.Do(req)
	if err != nil {
		class := NotSent
		if connected.Load() {
			class = Unknown
		}
		return Grant{}, &TokenError{Class: class, cause: networkCause(ctx, err, connected.Load())}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer+1))
	return readTokenAnswer(resp, body, networkCause(ctx, err, true))
}

// networkCause returns why a request failed: our own deadline by its name, otherwise
// the transport's error without the URL around it. Once the request was sent only
// errors of the network itself are passed on, since those of Go's HTTP parser quote
// what the server sent.
func networkCause(ctx context.Context, err error, sent bool) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	if _, network := errors.AsType[*net.OpError](err); network || !sent {
		return err
	}
	for _, plain := range []error{io.ErrUnexpectedEOF, io.EOF} {
		if errors.Is(err, plain) {
			return plain
		}
	}
	return errBrokenAnswer
}

// readTokenAnswer turns the answer to a token request into a grant or a *TokenError.
// readErr is what cut the body short, if anything did.
func readTokenAnswer(resp *http.Response, body []byte, readErr error) (Grant, error) {
	failure := &TokenError{Class: Unknown, Status: resp.StatusCode}
	if len(body) > maxTokenAnswer {
		body, readErr = nil, errAnswerTooLarge
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		// Parsed even when the body was cut short: an object that is complete up to its
		// closing brace is the only copy of the new pair there is.
		grant, err := parseTokenResponse(body)
		if err == nil {
			return grant, nil
		}
		failure.cause = cmp.Or(readErr, err)
		return Grant{}, failure
	}
	if readErr == nil {
		failure.Code = parseOAuthErrorCode(body)
	}
	failure.cause = readErr
	failure.Class = classify(resp.StatusCode, failure.Code)
	failure.RetryAfter = parseRetryAfter(resp.Header)
	return Grant{}, failure
}

// classify says what a refused token request means for the token in it. Whatever is
// not known to leave the token alone counts as Unknown.
func classify(status int, code string) Outcome {
	switch status {
	case http.StatusTooManyRequests:
		return Misconfigured
	case http.StatusBadRequest, http.StatusUnauthorized:
		switch code {
		case "invalid_grant":
			return InvalidGrant
		case "invalid_client", "invalid_request", "unauthorized_client", "unsupported_grant_type", "invalid_scope":
			return Misconfigured
		}
	}
	return Unknown
}

// parseRetryAfter reads a Retry-After header: seconds, or a date that is measured
// against the answer's own Date, so that no clock of ours matters. It is 0 when there
// is none that can be read, and at most an hour.
func parseRetryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if value == "" {
		return 0
	}
	if seconds, err := strconv.ParseFloat(value, 64); err == nil {
		switch {
		case !(seconds > 0): // also NaN
			return 0
		case seconds > maxRetryAfter.Seconds():
			return maxRetryAfter
		}
		return time.Duration(seconds * float64(time.Second))
	}
	until, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	from, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return 0
	}
	return min(max(until.Sub(from), 0), maxRetryAfter)
}
