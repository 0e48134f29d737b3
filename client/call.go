package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync/atomic"
	"time"
)

// maxAnswer bounds what is read of one answer, in bytes, since it is held in memory. A page
// of 100 databases takes about 40 KB; through the pass-through larger ones may come.
const maxAnswer = 10 << 20

// Causes of an UnreachableError; with the last two nothing was sent.
var (
	errTooLarge = fmt.Errorf("the answer is larger than %d bytes", maxAnswer)
	errNotKeyed = errors.New("this call takes no Idempotency-Key")
	errKey      = errors.New("an Idempotency-Key has 1 to 255 printable ASCII characters")
)

// placeholder is an id in a path of the contract.
var placeholder = regexp.MustCompile(`\{[^}]*\}`)

// call is one operation with its arguments, as the generated methods describe it.
type call struct {
	method string
	path   string   // the contract's path; each {…} is one of ids, in order
	ids    []string // unescaped
	query  []param
	body   any  // encoded as JSON; nil sends none
	keyed  bool // takes an Idempotency-Key
	raw    bool // an answer that is no problem is a success whatever its status
}

// param is a query parameter; an empty value is sent by raw calls alone.
type param struct{ name, value string }

// text writes the value of a parameter; "" for a zero one.
func text(value any) string {
	if reflect.ValueOf(value).IsZero() {
		return ""
	}
	if at, ok := value.(time.Time); ok {
		return at.Format(time.RFC3339Nano)
	}
	return fmt.Sprint(value)
}

// answer is a response that was read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// fetchNothing makes a call whose success has no body that anybody reads.
func fetchNothing(ctx context.Context, c *Client, call call, options []CallOption) error {
	_, err := c.do(ctx, call, options)
	return err
}

// fetchData makes a call whose answer is {"data": T}.
func fetchData[T any](ctx context.Context, c *Client, call call, options []CallOption) (T, error) {
	answer, err := fetchWhole[struct {
		Data *T `json:"data"`
	}](ctx, c, call, options)
	if err == nil && answer.Data == nil {
		err = &UnreachableError{Sent: true, cause: errNoData}
	}
	if err != nil {
		var none T
		return none, err
	}
	return *answer.Data, nil
}

// fetchWhole makes a call whose answer is T.
func fetchWhole[T any](ctx context.Context, c *Client, call call, options []CallOption) (T, error) {
	var whole T
	answer, err := c.do(ctx, call, options)
	if err != nil {
		return whole, err
	}
	if err := json.Unmarshal(answer.body, &whole); err != nil {
		// Not the decoder's own text, which may have a part of the answer.
		var none T
		return none, &UnreachableError{Sent: true, cause: errors.New("the answer is not the documented JSON")}
	}
	return whole, nil
}

// do makes a call and repeats it as far as it may be.
func (c *Client) do(ctx context.Context, call call, options []CallOption) (answer, error) {
	var chosen callOptions
	for _, option := range options {
		option(&chosen)
	}
	build, err := c.prepare(call, chosen)
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(chosen.timeout, c.timeout))
	defer cancel()

	attempts := 1
	if call.method == http.MethodGet || chosen.idempotencyKey != "" {
		attempts = c.attempts
	}
	got, err := repeat(ctx, attempts, func() (answer, error) { return c.attempt(ctx, call.raw, build) })
	if err == nil && chosen.etag != nil {
		*chosen.etag = got.header.Get("ETag")
	}
	return got, err
}

// prepare checks a call and returns what makes a fresh request of it for each attempt.
func (c *Client) prepare(call call, chosen callOptions) (func(context.Context) (*http.Request, error), error) {
	if key := chosen.idempotencyKey; key != "" {
		switch {
		case !call.keyed:
			return nil, &UnreachableError{cause: errNotKeyed}
		case len(key) > 255 || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }):
			return nil, &UnreachableError{cause: errKey}
		}
	}
	address, err := c.address(call)
	if err != nil {
		return nil, err
	}
	var body []byte
	if call.body != nil {
		if body, err = json.Marshal(call.body); err != nil {
			return nil, &UnreachableError{cause: fmt.Errorf("encode the request: %w", err)}
		}
	}
	return func(ctx context.Context) (*http.Request, error) {
		var reader io.Reader
		if body != nil {
			reader = bytes.NewReader(body)
		}
		req, err := http.NewRequestWithContext(ctx, call.method, address, reader)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Accept", "application/json, application/problem+json")
		if body != nil {
			req.Header.Set("Content-Type", "application/json")
		}
		if chosen.idempotencyKey != "" {
			req.Header.Set("Idempotency-Key", chosen.idempotencyKey)
		}
		if chosen.ifNoneMatch != "" && call.method == http.MethodGet {
			req.Header.Set("If-None-Match", chosen.ifNoneMatch)
		}
		return req, nil
	}, nil
}

// address puts the ids into their places, escaped one by one, so that none can climb out.
func (c *Client) address(call call) (string, error) {
	ids := call.ids
	for _, id := range ids {
		if id == "" || id == "." || id == ".." {
			// Escaping does not touch dots, and JoinPath would resolve them. No such thing
			// exists, and the server would say so.
			return "", &Problem{
				Kind: NotFound, Type: "/problems/" + string(NotFound), Status: http.StatusNotFound, Title: "Not found",
			}
		}
	}
	path := placeholder.ReplaceAllStringFunc(call.path, func(string) string {
		id := ids[0]
		ids = ids[1:]
		return url.PathEscape(id)
	})
	query := url.Values{}
	for _, p := range call.query {
		if p.value != "" || call.raw {
			query.Add(p.name, p.value)
		}
	}
	address := c.base.JoinPath(path)
	address.RawQuery = query.Encode()
	return address.String(), nil
}

// attempt sends the call once and reads the answer whole. Anything but a success is an
// error of the package; with raw any answer but a problem is a success.
func (c *Client) attempt(ctx context.Context, raw bool, build func(context.Context) (*http.Request, error)) (answer, error) {
	var connected atomic.Bool
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	})
	req, err := build(traced)
	if err != nil {
		return answer{}, &UnreachableError{cause: err}
	}
	req.Header.Set("Authorization", "Bearer "+c.key)
	resp, err := c.http.Do(req)
	if err != nil {
		if outer, ok := errors.AsType[*url.Error](err); ok {
			err = outer.Err // without the URL, whose query names users
		}
		return answer{}, &UnreachableError{Sent: connected.Load(), cause: err}
	}
	defer func() { _ = resp.Body.Close() }() // it was read as far as anybody wants

	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return answer{}, &UnreachableError{Sent: true, cause: err}
	case len(body) > maxAnswer:
		return answer{}, &UnreachableError{Sent: true, cause: errTooLarge}
	case resp.StatusCode == http.StatusNotModified:
		return answer{}, ErrNotModified
	case resp.StatusCode >= 200 && resp.StatusCode <= 299, raw && !isProblem(resp.Header):
		return answer{status: resp.StatusCode, header: resp.Header, body: body}, nil
	}
	return answer{}, newProblem(resp.StatusCode, resp.Header, body)
}
