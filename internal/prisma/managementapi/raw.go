package managementapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
)

// maxRefusal is the most that is read of the body of a 401.
const maxRefusal = 64 << 10

// RawRequest is a request whose parts somebody else chose. Whoever fills it has checked
// them: nothing here compares them with the interface document.
type RawRequest struct {
	Method string
	Path   string // escaped, such as "/v1/projects/proj_1"; it goes below Config.BaseURL
	Query  string // encoded, without the "?"

	// Header is sent as it is, but for Authorization and for the names that would make a
	// transport send a request twice. Without Accept-Encoding it asks for "identity":
	// the answer is handed out as it arrives and never decompressed.
	Header http.Header

	// Body is read once and not closed; nil sends none.
	Body io.Reader

	// Length is the body's length in bytes; -1 when it is not known.
	Length int64
}

// Raw sends a request and returns the answer whatever its status, 401 excepted; the
// caller closes its body. ctx bounds the request and the reading of the body, in place
// of Config.Timeout. Redirects are not followed.
//
// A request without a body is repeated as RetrySettings say when the network fails, but
// not because of an answer; one with a body is sent once.
//
// Errors: an *APIError for 401, as an Authorizer needs it, and a *FetchError when there
// was no answer, or what the Authorizer returned.
func (c *Client) Raw(ctx context.Context, raw RawRequest) (*http.Response, error) {
	var resp *http.Response
	err := c.authorize(ctx, func(ctx context.Context, authorization string) error {
		attempt := func() (err error) {
			resp, err = c.attemptRaw(ctx, raw, authorization) //nolint:bodyclose // the caller of Raw closes it
			return err
		}
		if raw.Body != nil {
			return attempt()
		}
		return c.repeat(ctx, call{method: raw.Method}, attempt)
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (c *Client) attemptRaw(ctx context.Context, raw RawRequest, authorization string) (*http.Response, error) {
	resp, err := c.sendOnce(ctx, func(ctx context.Context) (*http.Request, error) {
		return c.newRawRequest(ctx, raw, authorization)
	})
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusUnauthorized {
		return resp, nil
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	if err != nil {
		body = nil // the status says enough
	}
	return nil, call{failure: []int{http.StatusUnauthorized}}.refusal(resp, body)
}

// newRawRequest builds the HTTP request.
func (c *Client) newRawRequest(ctx context.Context, raw RawRequest, authorization string) (*http.Request, error) {
	u := *c.base
	u.RawPath = strings.TrimSuffix(c.base.EscapedPath(), "/") + raw.Path
	path, err := url.PathUnescape(u.RawPath)
	if err != nil {
		return nil, errors.New("the path can't be read")
	}
	u.Path, u.RawQuery = path, raw.Query
	var body io.Reader
	if raw.Body != nil {
		body = io.NopCloser(raw.Body)
	}
	req, err := http.NewRequestWithContext(ctx, raw.Method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("build the request: %w", err)
	}
	req.GetBody = nil // what may have arrived is not sent again
	req.ContentLength = raw.Length
	if raw.Body == nil {
		req.ContentLength = 0
	}
	req.Header = c.header.Clone()
	maps.Copy(req.Header, raw.Header)
	for _, name := range []string{"Authorization", "Idempotency-Key", "X-Idempotency-Key"} {
		req.Header.Del(name)
	}
	if req.Header.Get("Accept-Encoding") == "" {
		req.Header.Set("Accept-Encoding", "identity")
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	return req, nil
}
