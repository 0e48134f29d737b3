package prisma

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/connect-prisma/server/internal/fault"
)

// maxErrorText is the most that is kept of an error's message and hint, in bytes.
const maxErrorText = 1 << 10

// APIError is an answer of the Management API outside 2xx, redirects included.
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
}

// Error names the status and the code, and nothing that the server chose freely.
func (e *APIError) Error() string {
	text := "prisma: status " + strconv.Itoa(e.Status)
	if e.Code != "" {
		text += ": " + e.Code
	}
	return text
}

// newAPIError reads an error answer. A body that is not the documented JSON leaves
// only the status.
func newAPIError(resp *http.Response, body []byte) *APIError {
	failure := &APIError{Status: resp.StatusCode, RetryAfter: parseRetryAfter(resp.Header)}
	if !isJSON(resp.Header) || len(body) > maxAnswer {
		return failure
	}
	var answer struct {
		Error struct {
			Code    string `json:"code"`
			Message string `json:"message"`
			Hint    string `json:"hint"`
		} `json:"error"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return failure // what could not be read is left out; the status says enough
	}
	failure.Code = cleanCode(answer.Error.Code)
	failure.Message = truncate(answer.Error.Message, maxErrorText)
	failure.Hint = truncate(answer.Error.Hint, maxErrorText)
	return failure
}

// truncate returns the first limit bytes of text at most, without half a character.
func truncate(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "")
}

// FetchError is a call that brought no usable answer.
type FetchError struct {
	// Sent is false only when certainly nothing reached Prisma. If it is true, a call
	// that changes something may have done so.
	Sent bool

	cause error
}

// Error says whether the call was sent, and what went wrong.
func (e *FetchError) Error() string {
	if !e.Sent {
		return fmt.Sprintf("prisma: not sent: %v", e.cause)
	}
	return fmt.Sprintf("prisma: no usable answer: %v", e.cause)
}

// Unwrap returns the cause.
func (e *FetchError) Unwrap() error { return e.cause }

// FaultOf turns an error of a Client into one with a kind and a sentence that may be
// shown to anybody; the original stays its cause. Errors that have a kind already, and
// those that are not a Client's, come back as they are.
//
//	401               fault.PrismaRefused
//	403               fault.OperationNotAllowed
//	404               fault.NotFound
//	409               fault.Conflict
//	429               fault.QuotaExceeded, with RetryAfter
//	400, 413, 422     fault.InvalidValue
//	everything else   fault.PrismaUnavailable, with RetryAfter
//
// An id that can't be one of Prisma's is fault.NotFound as well.
func FaultOf(err error) error {
	if _, ok := errors.AsType[*fault.Error](err); ok || err == nil {
		return err
	}
	if answer, ok := errors.AsType[*APIError](err); ok {
		return answer.fault(err)
	}
	if _, ok := errors.AsType[*FetchError](err); !ok {
		return err
	}
	if errors.Is(err, errRefusedID) {
		return fault.New(fault.NotFound, "Prisma has no such resource.", err)
	}
	return fault.New(fault.PrismaUnavailable, "Prisma could not be reached. Try again later.", err).
		WithRetryAfter(defaultRetryAfter)
}

// defaultRetryAfter is the advice given when Prisma gave none.
const defaultRetryAfter = 5 * time.Second

// fault turns the answer into an error with a kind; err is what to keep as its cause.
func (e *APIError) fault(err error) *fault.Error {
	retryAfter := e.RetryAfter
	if retryAfter == 0 {
		retryAfter = defaultRetryAfter
	}
	switch e.Status {
	case http.StatusUnauthorized:
		return fault.New(fault.PrismaRefused, "Prisma refused the access token.", err)
	case http.StatusForbidden:
		return fault.New(fault.OperationNotAllowed, "Prisma does not allow this operation here.", err)
	case http.StatusNotFound:
		return fault.New(fault.NotFound, "Prisma has no such resource.", err)
	case http.StatusConflict:
		return fault.New(fault.Conflict, "The state of the resource at Prisma does not allow this.", err)
	case http.StatusTooManyRequests:
		return fault.New(fault.QuotaExceeded, "Prisma limits the rate of calls for this workspace. Try again later.", err).
			WithRetryAfter(retryAfter)
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return fault.New(fault.InvalidValue, "Prisma does not accept a value of this request.", err)
	}
	return fault.New(fault.PrismaUnavailable, "Prisma failed to answer the call. Try again later.", err).
		WithRetryAfter(retryAfter)
}
