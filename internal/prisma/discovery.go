package prisma

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/connect-prisma/server/internal/prisma/wire"
)

const (
	// maxMetadata is the largest metadata document that is read, in bytes.
	maxMetadata = 64 << 10

	// defaultDiscoveryTimeout bounds one whole attempt to read the document.
	defaultDiscoveryTimeout = 5 * time.Second

	wellKnownPath = "/.well-known/oauth-authorization-server"
)

// Metadata is what is known of the authorization server. All URLs are absolute and on
// the issuer's origin.
//
// Source: RFC 8414 section 2, RFC 9207 section 3.
type Metadata struct {
	// Issuer is the configured issuer, which the document has to repeat exactly.
	Issuer string

	// AuthorizationEndpoint is where users are sent, TokenEndpoint where codes and
	// refresh tokens are. Either may have a query.
	AuthorizationEndpoint, TokenEndpoint string

	// IssInResponse says that every authorization response carries iss, so that one
	// without it is not this server's.
	IssInResponse bool
}

// MetadataError says that the authorization server's metadata was read and must not be
// used: it names another issuer, leads to another origin, or lacks something that we
// need. Its text is ours alone and repeats nothing of the document.
type MetadataError struct {
	reason string
}

// Error says what is wrong with the document.
func (e *MetadataError) Error() string {
	return "the authorization server's metadata is not acceptable: " + e.reason
}

// DiscoveryError says that the authorization server's metadata could not be fetched: no
// connection, no answer in time, or an answer that is no such document. Nothing follows
// from it about the server; a later attempt may work.
type DiscoveryError struct {
	// Status is the HTTP status, 0 when no answer arrived.
	Status int

	cause error
}

// Error names the status or why there was none.
func (e *DiscoveryError) Error() string {
	text := "the authorization server's metadata could not be fetched"
	if e.Status != 0 && e.Status != http.StatusOK {
		text += ": status " + strconv.Itoa(e.Status)
	}
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

// Unwrap returns the cause, such as a network error or context.Canceled; nil when the
// status says all.
func (e *DiscoveryError) Unwrap() error { return e.cause }

var (
	errDiscoveryTimedOut = errors.New("no complete answer in time")
	errNotJSON           = errors.New("the answer is not JSON")
)

// endpoints is what requests go by: the conventional addresses at first, then what the
// metadata says. It is never changed, only replaced.
type endpoints struct {
	Metadata

	authorizeURL *url.URL
	basicAuth    bool // clients with a secret send it in the Authorization header
	discovered   bool
}

// conventional are the endpoints that are used until the metadata is known.
func conventional(issuer string, base *url.URL) *endpoints {
	authorize := base.JoinPath("authorize")
	return &endpoints{
		Metadata: Metadata{
			Issuer:                issuer,
			AuthorizationEndpoint: authorize.String(),
			TokenEndpoint:         base.JoinPath("token").String(),
		},
		authorizeURL: authorize,
	}
}

// Metadata returns what requests go by now, and whether the server has said so itself;
// if not, the endpoints are /authorize and /token below the issuer.
func (o *OAuth) Metadata() (Metadata, bool) {
	now := o.endpoints.Load()
	return now.Metadata, now.discovered
}

// Discover fetches the authorization server's metadata, checks it and uses it from then
// on, for requests that begin later. After an error nothing has changed: the last
// acceptable metadata stays in use, or the conventional endpoints. Only if none was ever
// acceptable, AuthorizationURL refuses from then on: the first thing that the server
// said of itself was wrong, so no new user is sent there. Refreshes go on.
//
//	GET /.well-known/oauth-authorization-server[/path of the issuer]
//	200 application/json {"issuer", "authorization_endpoint", "token_endpoint",
//	    "response_types_supported", "code_challenge_methods_supported",
//	    "grant_types_supported"?, "token_endpoint_auth_methods_supported"?,
//	    "authorization_response_iss_parameter_supported"?}
//
// The document is refused, with a *MetadataError, unless its issuer is the configured
// one to the letter, both endpoints are on the issuer's origin and it offers PKCE with
// S256, the response type "code" and, if it lists grant types, "authorization_code" and
// "refresh_token". A *DiscoveryError means that there was no document to look at; it
// wraps ctx's error when ctx ended first. No redirect is followed.
//
// Source: RFC 8414 sections 3 and 3.3, RFC 9207 section 3.
func (o *OAuth) Discover(ctx context.Context) (Metadata, error) {
	body, err := o.fetchMetadata(ctx)
	if err != nil {
		return Metadata{}, err
	}
	found, err := o.readMetadata(body)
	if err != nil {
		if !o.endpoints.Load().discovered {
			o.refused.Store(true) // the only document ever read: send nobody there
		}
		return Metadata{}, err
	}
	o.endpoints.Store(found)
	o.refused.Store(false)
	return found.Metadata, nil
}

// fetchMetadata returns the document's bytes.
func (o *OAuth) fetchMetadata(ctx context.Context) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.timeouts.Discovery, errDiscoveryTimedOut)
	defer cancel()
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, o.metadataURL, http.NoBody)
	if err != nil {
		return nil, &DiscoveryError{cause: errors.New("the issuer can't be requested")}
	}
	req.Header.Set("Accept", "application/json")
	resp, err := o.http.Do(req)
	if err != nil {
		return nil, &DiscoveryError{cause: wire.Cause(ctx, err, connected.Load())}
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, &DiscoveryError{Status: resp.StatusCode}
	}
	// A page of HTML is what many servers answer to an address that they don't know: it
	// says nothing about OAuth, and so it must not stop anybody.
	if !wire.IsJSON(resp.Header) {
		return nil, &DiscoveryError{Status: resp.StatusCode, cause: errNotJSON}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxMetadata+1))
	if err != nil {
		return nil, &DiscoveryError{Status: resp.StatusCode, cause: wire.Cause(ctx, err, true)}
	}
	if len(body) > maxMetadata {
		return nil, &MetadataError{reason: fmt.Sprintf("it is larger than %d KiB", maxMetadata>>10)}
	}
	return body, nil
}

// metadataURLOf puts the well-known path between the issuer's host and its path.
//
// Source: RFC 8414 section 3.1.
func metadataURLOf(issuer *url.URL) string {
	return issuer.Scheme + "://" + issuer.Host + wellKnownPath + strings.TrimSuffix(issuer.EscapedPath(), "/")
}
