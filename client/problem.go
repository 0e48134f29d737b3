package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"
)

// Kind ends the type URI of a problem: what a program decides on. Titles and details are
// for people and may be reworded. More kinds may come.
type Kind string

// The kinds; the page at Problem.Type explains each.
const (
	InvalidRequest       Kind = "invalid-request"        // the request's form is wrong; Errors say where
	InvalidValue         Kind = "invalid-value"          // a value is refused; Errors say which
	Unauthorized         Kind = "unauthorized"           // the API key is missing, wrong or revoked
	ForbiddenScope       Kind = "forbidden-scope"        // the API key lacks a scope
	NotFound             Kind = "not-found"              // absent, or somebody else's
	MethodNotAllowed     Kind = "method-not-allowed"     // not with this path
	Conflict             Kind = "conflict"               // the state forbids it
	RestartConnect       Kind = "restart-connect"        // the connect session is spent
	CompletionInProgress Kind = "completion-in-progress" // the same completion is running
	WorkspaceChanged     Kind = "workspace-changed"      // a reconnect chose another workspace
	Expired              Kind = "expired"                // too late
	ReconnectRequired    Kind = "reconnect-required"     // Prisma no longer accepts the connection
	RefreshInProgress    Kind = "refresh-in-progress"    // a token refresh takes long
	IdempotencyConflict  Kind = "idempotency-conflict"   // the key belongs to another request
	OperationInProgress  Kind = "operation-in-progress"  // the same creation is running
	OperationNotAllowed  Kind = "operation-not-allowed"  // never done through this service
	DefaultDatabase      Kind = "default-database"       // it goes only with its project
	QuotaExceeded        Kind = "quota-exceeded"         // a limit is reached
	PrismaRefused        Kind = "prisma-refused"         // Prisma refused a token that should be good
	PrismaUnavailable    Kind = "prisma-unavailable"     // Prisma does not answer
	Internal             Kind = "internal"               // the server's own fault
)

// maxRetryAfter is the longest advice that is believed.
const maxRetryAfter = time.Hour

// Problem is an answer other than a success (RFC 9457, application/problem+json).
type Problem struct { //nolint:errname // the word that RFC 9457 and the contract have for it
	// Kind is the last segment of Type; "" for an answer that is no problem document,
	// from a proxy in between for example.
	Kind Kind `json:"-"`
	// Type is a URI that ends in /problems/<kind> and opens a page about it.
	Type string `json:"type"`
	// Title is the kind in a few words.
	Title string `json:"title"`
	// Status is the HTTP status.
	Status int `json:"status"`
	// Detail is a sentence about this very failure, safe to show to a user.
	Detail string `json:"detail"`
	// RequestID finds the request in the server's log.
	RequestID string `json:"requestId"`
	// Errors name the parts of the request that were refused; often empty.
	Errors []FieldError `json:"errors"`

	// Expected and Chosen are the two workspaces of a WorkspaceChanged problem, URL a
	// fresh link for the same user, and SessionID the session behind it.
	Expected  Workspace `json:"expected"`
	Chosen    Workspace `json:"chosen"`
	URL       string    `json:"url"`
	SessionID string    `json:"sessionId"`

	// ProjectID is, with DefaultDatabase, the project that the database goes with.
	ProjectID string `json:"projectId"`

	// OperationID is, with PrismaUnavailable, what the events bear that tell whether
	// something was made after all; "" when it is known that nothing was.
	OperationID string `json:"operationId"`
	// Outcome is, with PrismaUnavailable in the pass-through, whether a call that changes
	// something may have happened: "not_sent" or "unknown".
	Outcome string `json:"outcome"`

	// RetryAfter is the server's advice, at most an hour; 0: it gave none.
	RetryAfter time.Duration `json:"-"`
}

// FieldError is one refused part of a request.
type FieldError struct {
	// Pointer is a JSON pointer into the body (RFC 6901), such as /name, or the name of
	// a parameter or header; "" means the body as a whole.
	Pointer string `json:"pointer"`
	// Detail says what to change.
	Detail string `json:"detail"`
}

// Error is for the log. It leaves Detail out, which may name the user's things, but says
// what to change: Errors repeat nothing of the request but the names of its fields.
func (p *Problem) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "connect prisma: %d %s (request %q)", p.Status, p.Kind, p.RequestID)
	for i, one := range p.Errors {
		separator := "; "
		if i == 0 {
			separator = ": "
		}
		text.WriteString(separator + strings.TrimSpace(one.Pointer+" "+one.Detail))
	}
	return text.String()
}

// newProblem reads a problem. An answer that is no problem document keeps its status and
// advice and nothing else.
func newProblem(status int, header http.Header, body []byte) *Problem {
	problem := &Problem{}
	if !isProblem(header) || json.Unmarshal(body, problem) != nil {
		problem = &Problem{Title: http.StatusText(status)}
	}
	if problem.Type != "" && problem.Type != "about:blank" {
		problem.Kind = Kind(path.Base(problem.Type))
	}
	problem.Status = status
	if seconds, err := strconv.Atoi(header.Get("Retry-After")); err == nil && seconds > 0 {
		problem.RetryAfter = time.Duration(min(seconds, int(maxRetryAfter/time.Second))) * time.Second
	}
	return problem
}

func isProblem(header http.Header) bool {
	media, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	return media == "application/problem+json"
}

// ErrNotModified is what a read with WithIfNoneMatch returns while nothing changed.
var ErrNotModified = errors.New("connect prisma: not modified")

// UnreachableError is a call that brought no usable answer.
type UnreachableError struct {
	// Sent is false only when the call certainly never reached the server. If it is true,
	// a call that changes something may have done so.
	Sent bool

	cause error
}

// Error is for the log.
func (e *UnreachableError) Error() string {
	if !e.Sent {
		return "connect prisma: not sent: " + e.cause.Error()
	}
	return "connect prisma: no usable answer: " + e.cause.Error()
}

// Unwrap returns the network's or the decoder's error.
func (e *UnreachableError) Unwrap() error { return e.cause }
