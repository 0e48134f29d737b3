package prisma

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/connect-prisma/server/internal/prisma/wire"
)

// probeTimeout bounds a whole probe: it comes between a claim and its request, and must
// not use up the time that the send guard leaves.
const probeTimeout = 2 * time.Second

// Prober is what an Exchanger may offer beside: it finds out whether the token endpoint
// answers, without a token. *OAuth is one.
type Prober interface {
	// Probe returns nil if the endpoint gave an answer of its own. It takes 2 s at most.
	Probe(ctx context.Context) error
}

// Probe sends the token endpoint a request that it can only refuse, with neither a grant
// nor a client in it. A refusal in OAuth's terms shows that the endpoint works; a 5xx, a
// 429, a page of HTML or no answer within 2 s does not, and is a *TokenError.
//
//	POST /token
//	4xx {"error", …}
//
// Source: RFC 6749 section 5.2.
func (o *OAuth) Probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, probeTimeout, errAnswerTimedOut)
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
	failure.Code = parseOAuthErrorCode(body)
	if failure.Code == "" || resp.StatusCode < 400 || resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests {
		failure.RetryAfter = wire.RetryAfter(resp.Header)
		return failure
	}
	return nil
}
