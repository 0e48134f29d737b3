package client

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// defaultTimeout leaves room for the slowest calls: the server gives a creating call
	// 60 s at Prisma and 20 s to save what came of it. Who hangs up sooner may not learn
	// what was made.
	defaultTimeout  = 90 * time.Second
	defaultAttempts = 3
)

// Options are the settings of a Client that may be left zero.
type Options struct {
	// HTTPClient sends the requests; nil: a plain client. Its redirect policy is
	// replaced: no call follows a redirect.
	HTTPClient *http.Client

	// Timeout bounds one call with its repetitions, the pauses between them and the
	// body; 0: 90 s, more than a creating call takes. WithTimeout sets another one for a call.
	Timeout time.Duration

	// Attempts is how often a call that may be repeated is sent at most, the first time
	// included; 0: 3, and 1 never repeats.
	Attempts int
}

// Client calls the partner API; many goroutines may share it.
type Client struct {
	base     *url.URL
	key      string
	http     *http.Client
	timeout  time.Duration
	attempts int
}

// New returns a client of the server at baseURL, such as https://connect.example.com,
// that sends apiKey, cpk_…, with every call. It sends nothing itself, and fails for an
// address that is not an absolute http or https URL without user, query and fragment, for
// a key that can't be one, and for negative options.
func New(baseURL, apiKey string, options Options) (*Client, error) {
	base, err := url.Parse(baseURL)
	if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" ||
		base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		// Not shown: what stands in the wrong variable may be a secret.
		return nil, errors.New("connect prisma: the base URL is not of the form https://host")
	}
	if apiKey == "" || strings.ContainsFunc(apiKey, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return nil, errors.New("connect prisma: the API key is missing or has characters that no key has")
	}
	if options.Timeout < 0 || options.Attempts < 0 {
		return nil, errors.New("connect prisma: the timeout and the attempts must not be negative")
	}
	httpClient := http.Client{}
	if options.HTTPClient != nil {
		httpClient = *options.HTTPClient
	}
	httpClient.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{
		base: base, key: apiKey, http: &httpClient,
		timeout:  cmp.Or(options.Timeout, defaultTimeout),
		attempts: cmp.Or(options.Attempts, defaultAttempts),
	}, nil
}

// String names the server and shows no key.
func (c *Client) String() string { return "client of " + c.base.Host }

// Format is String for every verb of package fmt.
func (c *Client) Format(state fmt.State, _ rune) { _, _ = state.Write([]byte(c.String())) }

// LogValue is String, for handlers that would encode the fields.
func (c *Client) LogValue() slog.Value { return slog.StringValue(c.String()) }
