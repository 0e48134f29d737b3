package prisma

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/connect-prisma/server/internal/prisma/wire"
)

// maxTokenAnswer is the largest token response that is read, in bytes, and the largest
// header of one.
const maxTokenAnswer = 64 << 10

// requestToken sends one form to the token endpoint and reads the answer, whose HTTP
// status it returns with the grant. Every error is a *TokenError.
func (o *OAuth) requestToken(ctx context.Context, client OAuthClient, form url.Values) (Grant, int, error) {
	if err := ctx.Err(); err != nil {
		return Grant{}, 0, &TokenError{Class: NotSent, cause: err}
	}
	// One explicit style of client authentication. Trying a second one after a refusal
	// would send the token twice.
	to := o.endpoints.Load()
	basic := to.basicAuth && client.Secret != ""
	if !basic {
		form.Set("client_id", client.ID)
	}
	if !basic && client.Secret != "" {
		form.Set("client_secret", client.Secret)
	}

	ctx, times := startTiming(context.WithoutCancel(ctx), o.timeouts)
	defer times.stop()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.TokenEndpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return Grant{}, 0, &TokenError{Class: NotSent, cause: errors.New("the token URL can't be requested")}
	}
	req.GetBody = nil // the transport can't resend what it can't read again
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if basic { // both parts encoded as in a form: RFC 6749 section 2.3.1
		req.SetBasicAuth(url.QueryEscape(client.ID), url.QueryEscape(client.Secret))
	}

	resp, err := o.http.Do(req)
	if err != nil {
		class := NotSent
		if times.sent() {
			class = Unknown
		}
		return Grant{}, 0, &TokenError{Class: class, cause: wire.Cause(ctx, err, times.sent())}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer+1))
	grant, err := readTokenAnswer(resp, body, wire.Cause(ctx, err, true))
	return grant, resp.StatusCode, err
}

// readTokenAnswer turns the answer to a token request into a grant or a *TokenError.
// readErr is what cut the body short, if anything did.
func readTokenAnswer(resp *http.Response, body []byte, readErr error) (Grant, error) {
	failure := &TokenError{Class: Unknown, Status: resp.StatusCode}
	if len(body) > maxTokenAnswer {
		body, readErr = nil, errAnswerTooLarge
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		// Parsed even when the body was cut short: what is complete of it is the only copy
		// of the new tokens there is.
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
	failure.RetryAfter = wire.RetryAfter(resp.Header)
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
