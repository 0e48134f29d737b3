// Package wire has what requests to both of Prisma's hosts, the API and the
// authorization server, have in common: URLs that may be configured, redirects, causes
// of failure without secrets, and headers that a server chose.
package wire

import (
	"context"
	"errors"
	"io"
	"math"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxRetryAfter bounds what a server may ask us to wait.
const maxRetryAfter = time.Hour

// maxCode is the longest error code that is believed, in bytes.
const maxCode = 64

// brokenAnswerError is an error of Go's HTTP parser or of somebody's own transport, without
// its text, which may quote the answer. errors.Is and errors.As see what it was.
type brokenAnswerError struct{ error }

func (brokenAnswerError) Error() string { return "the answer is not valid HTTP" }

func (e brokenAnswerError) Unwrap() error { return e.error }

// BaseURL accepts an absolute https URL without credentials, query or fragment. Plain
// http is for this machine (Loopback), and elsewhere only if plainHTTP says so: tokens
// would cross the network in the clear. The error repeats nothing of the URL.
func BaseURL(raw string, plainHTTP bool) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("not a URL") // the parser's text would repeat it, password and all
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, errors.New("must be an absolute http or https URL")
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, errors.New("must have no credentials, query or fragment")
	}
	if u.Scheme == "http" && !plainHTTP && !Loopback(u.Hostname()) {
		return nil, errors.New("must be https")
	}
	return u, nil
}

// Loopback reports whether a host is this machine by its name or address.
func Loopback(host string) bool {
	host = strings.ToLower(host)
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// KeepRedirect is the CheckRedirect of an http.Client that stops at the first redirect
// and hands out that answer: a token must never follow a Location header.
func KeepRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// Cause returns why a request failed, nil for a nil err: our own deadline or the
// caller's cancellation by its name, otherwise the transport's error without the URL
// around it. Once the request was sent only errors of the network itself show their
// text, since those of Go's HTTP parser quote what the server sent.
func Cause(ctx context.Context, err error, sent bool) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	if _, network := errors.AsType[*net.OpError](err); network || !sent {
		return err
	}
	for _, plain := range []error{io.ErrUnexpectedEOF, io.EOF} {
		if errors.Is(err, plain) {
			return plain
		}
	}
	return brokenAnswerError{err}
}

// IsJSON reports whether an answer declares JSON that is not compressed any more.
func IsJSON(header http.Header) bool {
	media, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil || header.Get("Content-Encoding") != "" {
		return false
	}
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// RetryAfter reads the header of that name: seconds, or a date that is measured
// against the answer's own Date, so that no clock of ours matters. It is 0 when there
// is none that can be read, and at most an hour.
//
// Source: RFC 9110 section 10.2.3.
func RetryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.ParseFloat(value, 64); err == nil {
		if math.IsNaN(seconds) || seconds <= 0 {
			return 0
		}
		return time.Duration(min(seconds, maxRetryAfter.Seconds()) * float64(time.Second))
	}
	until, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	from, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return 0
	}
	return min(max(until.Sub(from), 0), maxRetryAfter)
}

// Code returns code if it is short and made of letters, digits, '_', '-', '.' and ':',
// so that it may go into logs, and "" otherwise.
func Code(code string) string {
	if len(code) > maxCode || strings.ContainsFunc(code, func(c rune) bool {
		return (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && c != '_' && c != '-' && c != '.' && c != ':'
	}) {
		return ""
	}
	return code
}
