package connect

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"time"
)

const (
	// defaultTimeout leaves room for the slowest call, completing a session, in
	// which the server waits for Prisma's token endpoint.
	defaultTimeout = 30 * time.Second
	// maxAnswer bounds what is read of one answer, in bytes: a page of 100
	// databases takes about 40 KB.
	maxAnswer = 1 << 20
	// maxPages bounds a list, so that a broken cursor cannot loop for ever.
	maxPages = 100
)

// Config says where the server is and who calls.
type Config struct {
	// BaseURL is the server's address, such as https://connect.example.com.
	BaseURL string
	// APIKey is the partner's key, cpk_…; it is sent with every call and must
	// never reach a browser.
	APIKey string
	// HTTPClient sends the requests; nil: a plain client. Its redirect policy is
	// replaced: no call follows a redirect.
	HTTPClient *http.Client
	// Timeout bounds one call, the body included; 0: 30 s.
	Timeout time.Duration
}

// Client calls the REST API; many goroutines may share it.
type Client struct {
	base    *url.URL
	key     string
	http    *http.Client
	timeout time.Duration
}

// New returns a client. It fails if the address is not an absolute http or https
// URL or the key is missing; it sends nothing.
func New(cfg Config) (*Client, error) {
	base, err := url.Parse(cfg.BaseURL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
		return nil, fmt.Errorf("connect: %q is not an absolute http or https URL", cfg.BaseURL)
	}
	if cfg.APIKey == "" {
		return nil, errors.New("connect: the API key is missing")
	}
	httpClient := http.Client{}
	if cfg.HTTPClient != nil {
		httpClient = *cfg.HTTPClient
	}
	httpClient.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{base: base, key: cfg.APIKey, http: &httpClient, timeout: cmp.Or(cfg.Timeout, defaultTimeout)}, nil
}

// call is one request: its path comes in segments, which are escaped one by one,
// so that no id can climb out of its place.
type call struct {
	method         string
	path           []string
	query          url.Values
	body           any    // encoded as JSON; nil: no body
	idempotencyKey string // "": no header
}

// envelope is the shape of every success.
type envelope[T any] struct {
	Data       T `json:"data"`
	Pagination struct {
		NextCursor string `json:"nextCursor"`
		HasMore    bool   `json:"hasMore"`
	} `json:"pagination"`
}

// one makes a call whose answer is a single object.
func one[T any](ctx context.Context, c *Client, call call) (T, error) {
	var answer envelope[T]
	err := c.do(ctx, call, &answer)
	return answer.Data, err
}

// all makes a list call and follows its cursor to the last page.
func all[T any](ctx context.Context, c *Client, call call) ([]T, error) {
	var items []T
	for range maxPages {
		var page envelope[[]T]
		if err := c.do(ctx, call, &page); err != nil {
			return nil, err
		}
		items = append(items, page.Data...)
		if !page.Pagination.HasMore {
			return items, nil
		}
		query := maps.Clone(call.query)
		if query == nil {
			query = url.Values{}
		}
		query.Set("cursor", page.Pagination.NextCursor)
		call.query = query
	}
	return nil, fmt.Errorf("connect: a list has more than %d pages", maxPages)
}

// do sends the call and decodes a success into answer, if
// that is not nil. A problem is an *Error;
// a server that cannot be reached, or whose answer cannot be read, is an
// *UnreachableError.
func (c *Client) do(ctx context.Context, call call, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()

	req, err := c.request(ctx, call)
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return &UnreachableError{cause: err}
	}
	defer func() { _ = resp.Body.Close() }()

	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return &UnreachableError{cause: err}
	case len(body) > maxAnswer:
		return &UnreachableError{cause: fmt.Errorf("the answer is larger than %d bytes", maxAnswer)}
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return newError(resp, body)
	}
	if answer == nil { // the caller needs only the success; the body may be empty
		return nil
	}
	if err := json.Unmarshal(body, answer); err != nil {
		return &UnreachableError{cause: fmt.Errorf("decode the answer: %w", err)}
	}
	return nil
}

func (c *Client) request(ctx context.Context, call call) (*http.Request, error) {
	address, err := c.address(call)
	if err != nil {
		return nil, err
	}
	var body io.Reader
	if call.body != nil {
		encoded, err := json.Marshal(call.body)
		if err != nil {
			return nil, fmt.Errorf("connect: encode the request: %w", err)
		}
		body = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, call.method, address, body)
	if err != nil {
		return nil, fmt.Errorf("connect: build the request: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	req.Header.Set("Accept", "application/json, application/problem+json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if call.idempotencyKey != "" {
		req.Header.Set("Idempotency-Key", call.idempotencyKey)
	}
	return req, nil
}

func (c *Client) address(call call) (string, error) {
	escaped := make([]string, 0, len(call.path)+1)
	escaped = append(escaped, "v1")
	for _, segment := range call.path {
		if segment == "" || segment == "." || segment == ".." {
			// Escaping does not touch dots, and JoinPath would resolve them.
			return "", &Error{Type: "/problems/" + string(NotFound), Status: http.StatusNotFound, Title: "Not Found"}
		}
		escaped = append(escaped, url.PathEscape(segment))
	}
	address := c.base.JoinPath(escaped...)
	address.RawQuery = call.query.Encode()
	return address.String(), nil
}
