package managementapi

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/connect-prisma/server/internal/prisma/wire"
)

// maxAnswer is the largest API response that is read, in bytes after decompression.
const maxAnswer = 10 << 20

// maxSegment is the longest id that is put into a path, in bytes.
const maxSegment = 256

// call is one operation with its arguments, as the generated methods describe it.
type call struct {
	method string
	path   string   // the document's path; each {…} is one of ids, in order
	ids    []string // unescaped
	query  []param
	header []param
	body   any    // encoded as JSON; nil sends none
	accept string // the media types to ask for; "" is JSON

	success []int                // documented statuses of success
	failure []int                // documented statuses of failure
	special func(status int) any // the body's type where it is not ErrorResponse; may be nil

	encoded []byte // the body, once the call is ready
}

// param is a query or header parameter. One whose value is "" is left out.
type param struct {
	name, value string
	required    bool
}

// number is the value of a numeric parameter, "" for 0.
func number(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// fetchNothing makes a call that answers without a body.
func fetchNothing(ctx context.Context, c *Client, call call) error {
	return c.send(ctx, call, nil)
}

// fetchWhole makes a call whose answer is T itself.
func fetchWhole[T any](ctx context.Context, c *Client, call call) (T, error) {
	var answer documented[T]
	if err := c.send(ctx, call, &answer); err != nil {
		var none T
		return none, err
	}
	return answer.value, nil
}

// fetchData makes a call whose answer is {"data": T}.
func fetchData[T any](ctx context.Context, c *Client, call call) (T, error) {
	answer, err := fetchWhole[struct {
		Data *T `json:"data"`
	}](ctx, c, call)
	if err == nil && answer.Data == nil {
		err = &FetchError{Sent: true, cause: errNoData}
	}
	if err != nil {
		var none T
		return none, err
	}
	return *answer.Data, nil
}

// documented decodes a T of the interface document. It takes what it does not know, as
// the next version of the interface may have more, but not what is something else.
type documented[T any] struct{ value T }

// UnmarshalJSON decodes the value.
func (d *documented[T]) UnmarshalJSON(text []byte) error {
	if !resembles(text, reflect.TypeFor[T]()) {
		return errNoData
	}
	if err := json.Unmarshal(text, &d.value); err != nil {
		return fmt.Errorf("read the documented type: %w", err)
	}
	return nil
}

// resembles reports whether JSON may be of a documented type: an object with at least
// one of its fields, with its id and all of "data" if it has those; a list and not a
// null. The decoder alone would make a struct of zeros from anything, and a thing that
// was made but can't be named would count as made.
func resembles(text []byte, kind reflect.Type) bool {
	if kind.Kind() == reflect.Pointer {
		kind = kind.Elem()
	}
	if kind.Kind() == reflect.Slice {
		return kind == reflect.TypeFor[json.RawMessage]() || !bytes.Equal(text, []byte("null"))
	}
	if kind.Kind() != reflect.Struct {
		return true
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(text, &members) != nil {
		return false
	}
	known := false
	for field := range kind.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		member, there := members[name]
		switch {
		case name == "data":
			return there && resembles(member, field.Type)
		case name == "id" && field.Type.Kind() == reflect.String && (!there || string(member) == `""` || string(member) == "null"):
			return false
		}
		known = known || there
	}
	return known
}

// send makes one call, repeated as RetrySettings allow, and decodes the answer's body
// into out, which may be nil when the answer has none. An answer of another status
// than the documented success is an *APIError, everything else that goes wrong a
// *FetchError or what the Authorizer returned.
func (c *Client) send(ctx context.Context, call call, out any) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	call, err := call.ready() // before a token is asked for
	if err != nil {
		return &FetchError{cause: err}
	}
	return c.authorize(ctx, func(ctx context.Context, authorization string) error {
		return c.repeat(ctx, call, func() error { return c.attempt(ctx, call, authorization, out) })
	})
}

// authorize calls send with the Authorization header to use: the configured one, else
// the authorizer's, else the token's.
func (c *Client) authorize(ctx context.Context, send func(ctx context.Context, authorization string) error) error {
	if fixed := c.header.Get("Authorization"); fixed != "" {
		return send(ctx, fixed)
	}
	bearer := func(ctx context.Context, token string) error {
		if token == "" {
			return send(ctx, "")
		}
		if !sendable(token) {
			return &FetchError{cause: errors.New("the token can't be sent in a header")}
		}
		return send(ctx, "Bearer "+token)
	}
	if c.authorizer == nil {
		return bearer(ctx, c.token.Reveal())
	}
	return c.authorizer.Authorize(ctx, bearer)
}

// ready returns the call with its body encoded, and an error for arguments that can't
// be sent.
func (k call) ready() (call, error) {
	for _, id := range k.ids {
		if id == "" || id == "." || id == ".." || len(id) > maxSegment {
			return k, ErrRefusedID
		}
	}
	for _, p := range slices.Concat(k.query, k.header) {
		if p.required && p.value == "" {
			return k, fmt.Errorf("the parameter %s is required", p.name)
		}
	}
	for _, p := range k.header {
		if !sendable(p.value) {
			return k, fmt.Errorf("the parameter %s can't be sent in a header", p.name)
		}
	}
	if k.body != nil {
		encoded, err := json.Marshal(k.body)
		if err != nil {
			return k, errors.New("the request can't be encoded as JSON") // the encoder's text may quote it
		}
		k.encoded = encoded
	}
	return k, nil
}

// attempt sends one request and reads its answer.
func (c *Client) attempt(ctx context.Context, call call, authorization string, out any) error {
	resp, err := c.open(ctx, call, authorization)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case !call.succeeds(resp.StatusCode):
		return call.refusal(resp, body)
	case err != nil:
		return &FetchError{Sent: true, cause: wire.Cause(ctx, err, true), transient: ctx.Err() == nil}
	case len(body) > maxAnswer:
		return &FetchError{Sent: true, cause: errors.New("the answer is larger than 10 MiB")}
	case out == nil:
		return nil
	case !wire.IsJSON(resp.Header) || json.Unmarshal(body, out) != nil:
		// Not the decoder's error, which may quote the body.
		return &FetchError{Sent: true, cause: fmt.Errorf("the answer with status %d is not the documented JSON", resp.StatusCode)}
	}
	return nil
}

// succeeds reports whether status says that the call was done. Prisma documents 200
// for some creations and 201 for others; neither is refused for the other, since that
// would throw away what was made.
func (k call) succeeds(status int) bool {
	if slices.Contains(k.success, status) {
		return true
	}
	made := []int{http.StatusOK, http.StatusCreated}
	return slices.Contains(made, status) && slices.ContainsFunc(k.success, func(documented int) bool {
		return slices.Contains(made, documented)
	})
}

// open sends the request of a call and returns the answer, whose body its caller closes.
// Every error is a *FetchError.
func (c *Client) open(ctx context.Context, call call, authorization string) (*http.Response, error) {
	return c.sendOnce(ctx, func(ctx context.Context) (*http.Request, error) { return c.newRequest(ctx, call, authorization) })
}

// sendOnce sends the request that build makes and returns the answer, whose body its
// caller closes. Every error is a *FetchError.
//
// Go's transport repeats some requests on its own when a connection fails, those without
// a body above all, and over HTTP/2 without a limit. So the request ends as soon as it
// would be written a second time: whether to repeat it is decided in repeat alone.
func (c *Client) sendOnce(ctx context.Context, build func(ctx context.Context) (*http.Request, error)) (*http.Response, error) {
	if ctx.Err() != nil {
		return nil, &FetchError{cause: context.Cause(ctx)}
	}
	once, end := context.WithCancelCause(ctx)
	var wanted, connected, wrote atomic.Bool // once connected, bytes may have left
	req, err := build(httptrace.WithClientTrace(once, &httptrace.ClientTrace{
		GetConn: func(string) { wanted.Store(true) },
		GotConn: func(httptrace.GotConnInfo) {
			connected.Store(true)
			if wrote.Load() {
				end(errWrittenTwice)
			}
		},
		WroteHeaders: func() { wrote.Store(true) },
	}))
	if err != nil {
		end(nil)
		return nil, &FetchError{cause: err}
	}
	resp, err := c.http.Do(req)
	if err != nil {
		// A transport that does not tell of its connections may have sent it.
		sent := connected.Load() || !wanted.Load() && !neverDialled(err)
		err = &FetchError{Sent: sent, cause: wire.Cause(once, err, sent), transient: ctx.Err() == nil}
		end(nil)
		return nil, err
	}
	resp.Body = endOnClose{resp.Body, end}
	if resp.StatusCode == http.StatusSwitchingProtocols {
		_ = resp.Body.Close() // it is the connection: reading it would take as long as the server likes
		return nil, &FetchError{Sent: true, cause: errors.New("the server switched to another protocol, unasked")}
	}
	return resp, nil
}

// endOnClose is a body that ends its request's context when it is closed.
type endOnClose struct {
	io.ReadCloser

	end context.CancelCauseFunc
}

// Close closes the body.
func (b endOnClose) Close() error {
	defer b.end(nil)
	return b.ReadCloser.Close()
}

// neverDialled reports whether err says that no connection came about.
func neverDialled(err error) bool {
	failed, network := errors.AsType[*net.OpError](err)
	return network && failed.Op == "dial"
}

// newRequest builds the HTTP request of a call.
func (c *Client) newRequest(ctx context.Context, call call, authorization string) (*http.Request, error) {
	u := c.locate(call)
	var body io.Reader
	if call.body != nil {
		body = bytes.NewReader(call.encoded)
	}
	req, err := http.NewRequestWithContext(ctx, call.method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("build the request: %w", err)
	}
	req.GetBody = nil // a create that may have arrived is not sent again
	req.Header = c.header.Clone()
	req.Header.Set("Accept", cmp.Or(call.accept, "application/json"))
	if call.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, p := range call.header {
		if p.value != "" {
			req.Header.Set(p.name, p.value)
		}
	}
	req.Header.Del("Authorization")
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	return req, nil
}

// locate returns the URL of a call: the base, the path with each id escaped, and the
// query.
func (c *Client) locate(call call) *url.URL {
	path, escaped := strings.TrimSuffix(c.base.Path, "/"), strings.TrimSuffix(c.base.EscapedPath(), "/")
	ids := call.ids
	for segment := range strings.SplitSeq(strings.TrimPrefix(call.path, "/"), "/") {
		if strings.HasPrefix(segment, "{") {
			segment, ids = ids[0], ids[1:]
		}
		path += "/" + segment
		escaped += "/" + url.PathEscape(segment)
	}
	query := url.Values{}
	for _, p := range call.query {
		if p.value != "" {
			query.Set(p.name, p.value)
		}
	}
	u := *c.base
	u.Path, u.RawPath, u.RawQuery = path, escaped, query.Encode()
	return &u
}

// sendable reports whether text may be the value of a header: visible ASCII.
func sendable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < '!' || r > '~' })
}
