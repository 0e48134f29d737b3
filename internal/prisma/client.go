package prisma

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// DefaultBaseURL is Prisma's production API.
const DefaultBaseURL = "https://api.prisma.io"

// maxAnswer is the largest API response that is read, in bytes after decompression.
const maxAnswer = 10 << 20

// errRefusedID says that an id can't be one of Prisma's. Nothing was sent.
var errRefusedID = errors.New("the id can't be part of a path")

// ClientConfig is what a Client needs. Its zero value is usable.
type ClientConfig struct {
	// BaseURL is the API's origin, without the /v1. Default DefaultBaseURL.
	BaseURL string

	// Token is the bearer token: a service token or an access token. "" sends none.
	Token string

	// Header is added to every request. An Authorization in it wins over the token.
	// Accept-Encoding, Content-Type and Idempotency-Key are ignored: the client
	// bounds what it decompresses, and a transport takes an idempotency key as leave
	// to send a request twice.
	Header http.Header

	// Timeout bounds a call, body included. Default 30 s.
	Timeout time.Duration

	// Transport sends the requests. Nil takes a pooled one of the client's own.
	Transport http.RoundTripper
}

// Client makes typed Management API calls. It is immutable and safe for concurrent
// use. It follows no redirect and never repeats a call that may have changed
// something.
type Client struct {
	base    *url.URL
	header  http.Header
	token   string
	timeout time.Duration
	http    *http.Client
}

// NewClient checks the configuration and returns a Client; it sends nothing.
func NewClient(cfg ClientConfig) (*Client, error) {
	base, err := parseBaseURL(cmp.Or(cfg.BaseURL, DefaultBaseURL))
	if err != nil {
		return nil, fmt.Errorf("management API URL: %w", err)
	}
	header := cfg.Header.Clone()
	for _, name := range []string{"Accept-Encoding", "Content-Type", "Idempotency-Key", "X-Idempotency-Key"} {
		header.Del(name)
	}
	transport := cfg.Transport
	if transport == nil {
		transport = newTransport()
	}
	return &Client{
		base:    base,
		header:  header,
		token:   cfg.Token,
		timeout: cmp.Or(cfg.Timeout, 30*time.Second),
		http:    &http.Client{Transport: transport, CheckRedirect: keepRedirect},
	}, nil
}

// WithToken returns a client that sends token and shares everything else, connections
// included, with c.
func (c *Client) WithToken(token string) *Client {
	other := *c
	other.token = token
	return &other
}

// String names the API and shows no token.
func (c *Client) String() string { return "client of " + c.base.Host }

// GoString is String, so that %#v shows no token either.
func (c *Client) GoString() string { return c.String() }

// LogValue is String, for handlers that would encode the fields.
func (c *Client) LogValue() slog.Value { return slog.StringValue(c.String()) }

// newTransport is a pool that fits many callers of one host.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}

// request is one API call.
type request struct {
	method string
	path   []string   // segments below the base URL, unescaped
	query  url.Values // may be nil
	body   any        // encoded as JSON; nil sends none
}

// send makes one call and decodes the answer's body into out, which may be nil when
// the answer has none. It never retries.
//
// An answer outside 2xx is an *APIError, everything else that goes wrong a
// *FetchError.
func (c *Client) send(ctx context.Context, call request, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	var connected atomic.Bool // from then on bytes may have left
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	req, err := c.newRequest(ctx, call)
	if err != nil {
		return &FetchError{cause: err}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return &FetchError{Sent: connected.Load(), cause: networkCause(ctx, err, connected.Load())}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	err = networkCause(ctx, err, true)
	if len(body) > maxAnswer {
		err = errors.New("the answer is larger than 10 MiB")
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return newAPIError(resp, body)
	}
	if err != nil {
		return &FetchError{Sent: true, cause: err}
	}
	if out == nil {
		return nil
	}
	if !isJSON(resp.Header) || json.Unmarshal(body, out) != nil {
		// Not the decoder's error, which may quote the body.
		return &FetchError{Sent: true, cause: fmt.Errorf("the answer with status %d is not the documented JSON", resp.StatusCode)}
	}
	return nil
}

// newRequest builds the HTTP request of a call.
func (c *Client) newRequest(ctx context.Context, call request) (*http.Request, error) {
	u := *c.base
	path, escaped := strings.TrimSuffix(u.Path, "/"), strings.TrimSuffix(u.EscapedPath(), "/")
	for _, segment := range call.path {
		if segment == "" || segment == "." || segment == ".." || len(segment) > 256 {
			return nil, errRefusedID
		}
		path += "/" + segment
		escaped += "/" + url.PathEscape(segment)
	}
	u.Path, u.RawPath, u.RawQuery = path, escaped, call.query.Encode()

	var body io.Reader
	if call.body != nil {
		encoded, err := json.Marshal(call.body)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		body = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, call.method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("build the request: %w", err)
	}
	req.GetBody = nil // a create that may have arrived is not sent again
	maps.Copy(req.Header, c.header)
	req.Header.Set("Accept", "application/json")
	if call.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if req.Header.Get("Authorization") == "" && c.token != "" {
		if !printable(c.token, '!') {
			return nil, errors.New("the token can't be sent in a header")
		}
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	return req, nil
}

// isJSON reports whether a response declares JSON that is not compressed any more.
func isJSON(header http.Header) bool {
	media, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil || header.Get("Content-Encoding") != "" {
		return false
	}
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// ListOptions chooses a page.
type ListOptions struct {
	// Cursor is "" for the first page and the NextCursor of the page before for the
	// next.
	Cursor string

	// Limit is the most items of a page; 0 leaves it to Prisma (100).
	Limit int
}

// query returns the options as query parameters.
func (o ListOptions) query() url.Values {
	query := url.Values{}
	if o.Cursor != "" {
		query.Set("cursor", o.Cursor)
	}
	if o.Limit > 0 {
		query.Set("limit", strconv.Itoa(o.Limit))
	}
	return query
}

// Page is one page of a list, in Prisma's own order.
type Page[T any] struct {
	// Items are the page's items, never nil.
	Items []T

	// NextCursor leads to the next page; "" on the last one.
	NextCursor string
}

// fetchOne makes a call whose answer is {"data": T}.
func fetchOne[T any](ctx context.Context, c *Client, call request) (T, error) {
	var answer struct {
		Data *T `json:"data"`
	}
	if err := c.send(ctx, call, &answer); err != nil {
		var zero T
		return zero, err
	}
	if answer.Data == nil {
		var zero T
		return zero, &FetchError{Sent: true, cause: errors.New("the answer has no data")}
	}
	return *answer.Data, nil
}

// fetchPage makes a call whose answer is {"data": [T…], "pagination"?: {…}}.
func fetchPage[T any](ctx context.Context, c *Client, call request) (Page[T], error) {
	var answer struct {
		Data       *[]T `json:"data"`
		Pagination struct {
			NextCursor *string `json:"nextCursor"`
			HasMore    bool    `json:"hasMore"`
		} `json:"pagination"`
	}
	if err := c.send(ctx, call, &answer); err != nil {
		return Page[T]{}, err
	}
	if answer.Data == nil {
		return Page[T]{}, &FetchError{Sent: true, cause: errors.New("the answer has no data")}
	}
	page := Page[T]{Items: *answer.Data}
	if page.Items == nil {
		page.Items = []T{}
	}
	if next := answer.Pagination.NextCursor; next != nil && answer.Pagination.HasMore {
		page.NextCursor = *next
	}
	return page, nil
}
