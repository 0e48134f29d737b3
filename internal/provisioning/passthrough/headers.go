package passthrough

import (
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/connect-prisma/server/internal/fault"
)

// requestHeaders are passed to Prisma; of the others only those that the operation
// documents. A list of what to leave out could never be complete: proxies and frameworks
// know dozens of headers that change the path, the method or the caller.
func requestHeaders() []string {
	return []string{
		"Accept", "Accept-Encoding", "Accept-Language", "Content-Encoding", "Content-Language", "Content-Type",
		"If-Match", "If-Modified-Since", "If-None-Match", "If-Unmodified-Since", "User-Agent",
	}
}

// answerHeaders are passed to the client. Content-Length comes from the transport, and
// Prisma's own request id goes by another name.
func answerHeaders() []string {
	return []string{
		"Content-Disposition", "Content-Encoding", "Content-Language", "Content-Type", "Deprecation", "Etag",
		"Last-Modified", "Retry-After", "Sunset", "Vary",
	}
}

// requestHeader returns the headers to send.
func requestHeader(given http.Header, op *operation) (http.Header, error) {
	if len(given["Content-Type"]) > 1 || len(given["Content-Encoding"]) > 1 {
		return nil, fault.New(fault.InvalidRequest, "Send one Content-Type and one Content-Encoding header at most.", nil)
	}
	return pick(given, slices.Concat(requestHeaders(), op.header)), nil
}

// pick copies the named headers, less those that Connection makes hop-by-hop (RFC 9110
// section 7.6.1).
func pick(from http.Header, names []string) http.Header {
	hop := make(map[string]bool)
	for _, value := range from["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			hop[http.CanonicalHeaderKey(strings.TrimSpace(name))] = true
		}
	}
	picked := make(http.Header, len(names))
	for _, name := range names {
		if values := from[name]; len(values) > 0 && !hop[name] {
			picked[name] = slices.Clone(values)
		}
	}
	return picked
}

// setAnswerHeader puts Prisma's headers beside our own, which win.
func setAnswerHeader(ours, theirs http.Header) {
	maps.Copy(ours, pick(theirs, answerHeaders()))
	if theirs.Get("Content-Type") == "" {
		ours["Content-Type"] = nil // or net/http would guess one from the body
	}
	if id := theirs.Get("X-Request-Id"); id != "" {
		ours.Set("Prisma-Request-Id", id)
	}
}
