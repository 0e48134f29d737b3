package managementapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/connect-prisma/server/internal/prisma/wire"
)

// ErrRefusedID is the cause of a FetchError for an id that can't be one of Prisma's: an
// empty one, a dot segment, or one longer than 256 bytes. Nothing was sent.
var ErrRefusedID = errors.New("the id can't be part of a path")

// Further causes of a FetchError.
var (
	errNoData       = errors.New("the answer has no data")
	errNoCursor     = errors.New("the answer says that there is more, but not where")
	errWrittenTwice = errors.New("the connection failed after the request was written")
	errSameCursor   = errors.New("the next page's cursor is that of a page before")
)

// maxErrorText is the most that is kept of an error's message and hint, in bytes.
const maxErrorText = 1 << 10

// APIError is an answer of the Management API with another status than the documented
// success, redirects included.
type APIError struct {
	// Status is the HTTP status.
	Status int

	// Code is Prisma's error code, such as "resource-not-found"; "" when the answer
	// has none that looks like a code.
	Code string

	// Message and Hint are Prisma's own words, at most 1 KiB each. They may repeat
	// what was sent: never log them or show them to somebody else's users.
	Message, Hint string

	// RetryAfter is the server's advice, at most an hour; 0 when it gave none.
	RetryAfter time.Duration

	// Body is the documented body of this status, decoded: a pointer to ErrorResponse,
	// or to ServiceConflictResponse or GithubActionsTokenError where the operation
	// says so. It is nil when the status is not documented for the operation or the
	// body is not the documented JSON. What holds for Message holds for it.
	Body any

	undocumented bool
}

// Error names the status and the code, and nothing that the server chose freely.
func (e *APIError) Error() string {
	text := "prisma: status " + strconv.Itoa(e.Status)
	if e.Code != "" {
		text += ": " + e.Code
	}
	if e.undocumented {
		text += " (not documented for this call)"
	}
	return text
}

// refusal reads the answer to a call that did not succeed. A body that is not the
// documented JSON leaves only the status.
func (k call) refusal(resp *http.Response, body []byte) *APIError {
	failure := &APIError{
		Status:       resp.StatusCode,
		RetryAfter:   wire.RetryAfter(resp.Header),
		undocumented: !slices.Contains(k.failure, resp.StatusCode),
	}
	if !wire.IsJSON(resp.Header) || len(body) > maxAnswer {
		return failure
	}
	// Read loosely: what is there of the usual body helps even where another one is
	// documented, or none.
	var usual struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"errorDescription"`
	}
	var detail ErrorDetail
	if json.Unmarshal(body, &usual) == nil && json.Unmarshal(usual.Error, &detail) != nil &&
		json.Unmarshal(usual.Error, &detail.Code) == nil {
		detail.Message = usual.Description // {"error": code}, in the manner of OAuth
	}
	failure.Code = wire.Code(detail.Code)
	failure.Message = truncate(detail.Message, maxErrorText)
	if detail.Hint != nil {
		failure.Hint = truncate(*detail.Hint, maxErrorText)
	}
	if failure.undocumented {
		return failure
	}
	var documented any
	if k.special != nil {
		documented = k.special(resp.StatusCode)
	}
	if documented == nil {
		documented = new(ErrorResponse)
	}
	if len(usual.Error) > 0 && string(usual.Error) != "null" && json.Unmarshal(body, documented) == nil {
		failure.Body = documented
	}
	return failure
}

// FetchError is a call that brought no usable answer.
type FetchError struct {
	// Sent is false only when the last attempt certainly did not reach Prisma, and then
	// nothing was changed. If it is true, a call that changes something may have done so.
	Sent bool

	// RetryAfter is when a repetition makes sense, if that is known; else 0.
	RetryAfter time.Duration

	cause     error
	transient bool // the network's fault: a repetition may help
}

// NewFetchError returns a FetchError, for code that talks to Prisma beside a Client.
func NewFetchError(sent bool, cause error) *FetchError { return &FetchError{Sent: sent, cause: cause} }

// Error says whether the call was sent, and what went wrong.
func (e *FetchError) Error() string {
	if !e.Sent {
		return fmt.Sprintf("prisma: not sent: %v", e.cause)
	}
	return fmt.Sprintf("prisma: no usable answer: %v", e.cause)
}

// Unwrap returns the cause.
func (e *FetchError) Unwrap() error { return e.cause }

// truncate returns the first limit bytes of text at most, without half a character.
func truncate(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "")
}
