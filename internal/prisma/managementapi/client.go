package managementapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/connect-prisma/server/internal/prisma/wire"
)

// DefaultBaseURL is Prisma's production API.
const DefaultBaseURL = "https://api.prisma.io"

// Config is what a Client needs. Its zero value is usable.
type Config struct {
	// BaseURL is the API's origin, without the /v1; a path below which the API lies is
	// kept. Default DefaultBaseURL.
	BaseURL string

	// Token is the bearer token: a service token or an access token. "" sends none.
	Token string

	// Authorizer supplies bearer tokens instead of Token, and new ones for those that
	// the API refuses. Nil: Token is sent as it is.
	Authorizer Authorizer

	// PlainHTTP accepts a BaseURL by plain http elsewhere than on loopback, where it is
	// accepted anyway. For development.
	PlainHTTP bool

	// Header is added to every request, whatever the case of its names. An
	// Authorization in it wins over Token and Authorizer. Accept, Accept-Encoding,
	// Content-Type and Idempotency-Key are ignored: the client bounds what it
	// decompresses, and a transport takes an idempotency key as leave to send a request
	// twice.
	Header http.Header

	// Timeout bounds a call: all attempts, the pauses between them, and reading the
	// body. Of a stream it bounds the time to its first byte. Default 30 s.
	Timeout time.Duration

	// Transport sends the requests. Nil takes a pooled one of the client's own, which
	// uses a proxy only if the environment names one (http.ProxyFromEnvironment).
	Transport http.RoundTripper

	// Retry says how reads are repeated.
	Retry RetrySettings
}

// Authorizer supplies the bearer token of each call.
type Authorizer interface {
	// Authorize calls send with a token. send returns an *APIError of status 401 when
	// the API refused it; Authorize may then call it once more, with another token,
	// because with a 401 Prisma has done nothing. What send returns last, or why there
	// is no token, is the result of the call.
	Authorize(ctx context.Context, send func(ctx context.Context, bearer string) error) error
}

// Client makes typed Management API calls. It is immutable and safe for concurrent
// use. It follows no redirect.
type Client struct {
	base       *url.URL
	header     http.Header
	token      Secret
	authorizer Authorizer
	timeout    time.Duration
	retry      RetrySettings
	budget     *budget // shared by the clients derived from one
	http       *http.Client
}

// New checks the configuration and returns a Client; it sends nothing. Its errors repeat
// neither the URL nor a header's value.
func New(cfg Config) (*Client, error) {
	base, err := wire.BaseURL(cmp.Or(cfg.BaseURL, DefaultBaseURL), cfg.PlainHTTP)
	if err != nil {
		return nil, fmt.Errorf("management API URL: %w", err)
	}
	header, err := ownHeader(cfg.Header)
	if err != nil {
		return nil, err
	}
	if cfg.Timeout < 0 || cfg.Retry.negative() {
		return nil, errors.New("the timeout and the retry settings must not be negative")
	}
	transport := cfg.Transport
	if transport == nil {
		transport = newTransport()
	}
	retry := cfg.Retry.withDefaults()
	return &Client{
		base:       base,
		header:     header,
		token:      NewSecret(cfg.Token),
		authorizer: cfg.Authorizer,
		timeout:    cmp.Or(cfg.Timeout, 30*time.Second),
		retry:      retry,
		budget:     newBudget(retry.Budget),
		http:       &http.Client{Transport: transport, CheckRedirect: wire.KeepRedirect},
	}, nil
}

// ownHeader returns the configured headers under their canonical names, without those
// that the client sets itself.
func ownHeader(configured http.Header) (http.Header, error) {
	header := make(http.Header, len(configured))
	for name, values := range configured {
		if !httpguts.ValidHeaderFieldName(name) {
			return nil, errors.New("a header has a name that can't be sent")
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return nil, fmt.Errorf("the header %s has a value that can't be sent", name)
			}
			header.Add(name, value)
		}
	}
	for _, name := range []string{"Accept", "Accept-Encoding", "Content-Type", "Idempotency-Key", "X-Idempotency-Key"} {
		header.Del(name)
	}
	return header, nil
}

// WithToken returns a client that sends token, unless Config.Header has an
// Authorization, and shares everything else, connections
// and retry budget included, with c.
func (c *Client) WithToken(token string) *Client {
	other := *c
	other.token, other.authorizer = NewSecret(token), nil
	return &other
}

// WithAuthorizer returns a client that takes its tokens from authorizer, unless
// Config.Header has an Authorization, and shares
// everything else, connections and retry budget included, with c.
func (c *Client) WithAuthorizer(authorizer Authorizer) *Client {
	other := *c
	other.authorizer = authorizer
	return &other
}

// String names the API and shows no token.
func (c *Client) String() string { return "client of " + c.base.Host }

// GoString is String, so that %#v shows no token either.
func (c *Client) GoString() string { return c.String() }

// Format is String for every verb of package fmt.
func (c *Client) Format(state fmt.State, verb rune) { formatAs(state, verb, c.String()) }

// LogValue is String, for handlers that would encode the fields.
func (c *Client) LogValue() slog.Value { return slog.StringValue(c.String()) }

// newTransport is a pool that fits many callers of one host.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout:    5 * time.Second,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 << 10,
	}
}
