package connect

import (
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"path"
	"strconv"
	"time"
)

// Kind ends the type URI of a problem: what a program decides on. The titles and
// details are for people and may be reworded.
type Kind string

// The kinds that this app acts on; the server's /problems page explains them all.
const (
	Unauthorized         Kind = "unauthorized"           // the API key is missing, wrong or revoked
	ForbiddenScope       Kind = "forbidden-scope"        // the API key lacks a scope
	InvalidRequest       Kind = "invalid-request"        // the request breaks the schema
	InvalidValue         Kind = "invalid-value"          // a value is refused; Fields say which
	NotFound             Kind = "not-found"              // absent, or somebody else's
	Conflict             Kind = "conflict"               // the state forbids it
	Expired              Kind = "expired"                // too late
	RestartConnect       Kind = "restart-connect"        // the connect session is spent
	CompletionInProgress Kind = "completion-in-progress" // the same completion is running
	WorkspaceChanged     Kind = "workspace-changed"      // a reconnect chose another workspace
	ReconnectRequired    Kind = "reconnect-required"     // Prisma no longer accepts the connection
	RefreshInProgress    Kind = "refresh-in-progress"    // a token refresh takes long
	OperationInProgress  Kind = "operation-in-progress"  // the same creation is running
	DefaultDatabase      Kind = "default-database"       // it goes only with its project
	QuotaExceeded        Kind = "quota-exceeded"         // a limit is reached
	PrismaUnavailable    Kind = "prisma-unavailable"     // Prisma does not answer
)

// Error is a problem that the server answered with (RFC 9457,
// application/problem+json).
type Error struct {
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
	// Fields name the parts of the request that were refused; often empty.
	Fields []FieldError `json:"errors"`

	// Expected and Chosen are the two workspaces of a WorkspaceChanged problem,
	// URL a fresh link for the same user, and SessionID the session behind it.
	Expected  Workspace `json:"expected"`
	Chosen    Workspace `json:"chosen"`
	URL       string    `json:"url"`
	SessionID string    `json:"sessionId"`

	// RetryAfter is the Retry-After header; 0: the server gave no advice.
	RetryAfter time.Duration `json:"-"`
}

// FieldError is one refused part of a request.
type FieldError struct {
	Pointer string `json:"pointer"` // RFC 6901, such as /name
	Detail  string `json:"detail"`
}

// newError reads a problem. An answer that is no problem document, from a proxy
// in between for example, keeps its status and nothing else.
func newError(resp *http.Response, body []byte) *Error {
	problem := &Error{}
	media, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if media != "application/problem+json" || json.Unmarshal(body, problem) != nil {
		problem = &Error{Title: http.StatusText(resp.StatusCode)}
	}
	problem.Status = resp.StatusCode
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		problem.RetryAfter = time.Duration(seconds) * time.Second
	}
	return problem
}

// Kind returns the last segment of the type, "" for an answer that is no problem
// document.
func (e *Error) Kind() Kind {
	if e.Type == "" || e.Type == "about:blank" {
		return ""
	}
	return Kind(path.Base(e.Type))
}

// Error is for the log. It leaves Detail out, which may name the user's things.
func (e *Error) Error() string {
	return fmt.Sprintf("connect: %d %s (request %q)", e.Status, e.Kind(), e.RequestID)
}

// UnreachableError means that no usable answer came: whether the server did what
// was asked is unknown.
type UnreachableError struct{ cause error }

// Error is for the log.
func (e *UnreachableError) Error() string { return "connect: no usable answer: " + e.cause.Error() }

// Unwrap returns the network's or the decoder's error.
func (e *UnreachableError) Unwrap() error { return e.cause }
