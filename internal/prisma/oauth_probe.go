package prisma

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/connect-prisma/server/internal/prisma/wire"
)

// Prober is what an Exchanger may offer beside: it finds out whether the token endpoint
// answers, without a token. *OAuth is one.
type Prober interface {
	// Probe returns nil if the endpoint gave an answer of its own. It takes no longer than
	// an exchange.
	Probe(ctx context.Context) error
}

// Probe sends the token endpoint a request that it can only refuse, with neither a grant
// nor a client in it. Any complete answer shows that the endpoint works, whatever it
// says; a 5xx, a 429 or none at all does not, and is a *TokenError.
//
//	POST /token
//	4xx {"error", …}
//
// Source: RFC 6749 section 5.2.
func (o *OAuth) Probe(ctx context.Context) error {
	whole := o.timeouts.Dial + o.timeouts.TLS + o.timeouts.Answer
	ctx, cancel := context.WithTimeoutCause(ctx, whole, errAnswerTimedOut)
	defer cancel()
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.endpoints.Load().TokenEndpoint, http.NoBody)
	if err != nil {
		return &TokenError{Class: NotSent, cause: errors.New("the token URL can't be requested")}
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	resp, err := o.http.Do(req)
	if err != nil {
		return &TokenError{Class: NotSent, cause: wire.Cause(ctx, err, connected.Load())}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	failure := &TokenError{Class: NotSent, Status: resp.StatusCode, cause: wire.Cause(ctx, err, true)}
	if err != nil {
		return failure
	}
	if resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
		failure.Code = parseOAuthErrorCode(body)
		failure.RetryAfter = wire.RetryAfter(resp.Header)
		return failure
	}
	return nil
}
