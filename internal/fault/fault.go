// Package fault is the one error type of the service: a kind to act on, a
// sentence to show, a cause to log.
//
// An error that is not a *Error is internal: callers see nothing of it but a
// request id.
package fault

import (
	"errors"
	"time"
)

// Kind names a failure in terms that a caller can act on. It is part of the
// public API: it ends the problem type URI that partners switch on.
type Kind string

// The kinds. Internal, the zero value, is what KindOf gives an unmarked error.
const (
	Internal             Kind = ""
	InvalidRequest       Kind = "invalid-request"        // can't be parsed or breaks the schema
	InvalidValue         Kind = "invalid-value"          // understood, but a value is refused
	Unauthorized         Kind = "unauthorized"           // no key, or not one that is valid
	ForbiddenScope       Kind = "forbidden-scope"        // the key lacks the scope
	NotFound             Kind = "not-found"              // absent, or another tenant's
	MethodNotAllowed     Kind = "method-not-allowed"     // the path exists, the verb doesn't
	Conflict             Kind = "conflict"               // the state of the resource forbids it
	RestartConnect       Kind = "restart-connect"        // the session is spent; begin a new one
	CompletionInProgress Kind = "completion-in-progress" // the same completion is running
	WorkspaceChanged     Kind = "workspace-changed"      // a reconnect came back from another workspace
	Expired              Kind = "expired"                // too late
	ReconnectRequired    Kind = "reconnect-required"     // Prisma refused the refresh token
	RefreshInProgress    Kind = "refresh-in-progress"    // a refresh takes longer than callers wait
	IdempotencyConflict  Kind = "idempotency-conflict"   // the key was used with another request
	OperationInProgress  Kind = "operation-in-progress"  // the same operation is running
	OperationNotAllowed  Kind = "operation-not-allowed"  // never allowed through this service
	DefaultDatabase      Kind = "default-database"       // a project's default database can't be deleted alone
	QuotaExceeded        Kind = "quota-exceeded"         // a limit, ours or Prisma's
	PrismaRefused        Kind = "prisma-refused"         // Prisma refused a token that should be good
	PrismaUnavailable    Kind = "prisma-unavailable"     // Prisma failed; a later try may work
)

// Kinds returns every kind that a client may meet, "internal" aside, in the
// order of the documentation.
func Kinds() []Kind {
	return []Kind{
		InvalidRequest, InvalidValue, Unauthorized, ForbiddenScope, NotFound, MethodNotAllowed, Conflict,
		RestartConnect, CompletionInProgress, WorkspaceChanged, Expired, ReconnectRequired, RefreshInProgress,
		IdempotencyConflict, OperationInProgress, OperationNotAllowed, DefaultDatabase, QuotaExceeded,
		PrismaRefused, PrismaUnavailable,
	}
}

// Field points at one bad part of a request.
type Field struct {
	Pointer string // RFC 6901 pointer into the body, or the parameter's name
	Detail  string // a sentence that says what to change
}

// Error is a failure with a kind. Detail and Fields are shown to clients, so
// they never hold a secret, SQL, an upstream body or an echo of the input; the
// cause is only logged.
type Error struct {
	Kind       Kind
	Detail     string
	RetryAfter time.Duration  // zero: no advice, which is left to whoever answers
	NoRetry    bool           // sending the same request again may do twice what was to be done once
	Fields     []Field        // which parts of the request are meant; may be empty
	Extra      map[string]any // further members of the problem, camelCase; safe to show
	cause      error
}

// New returns a failure of that kind. detail is one sentence for the client;
// cause, for the log alone, may be nil.
func New(kind Kind, detail string, cause error) *Error {
	return &Error{Kind: kind, Detail: detail, cause: cause}
}

// WithRetryAfter sets the advice when to come back and returns e.
func (e *Error) WithRetryAfter(d time.Duration) *Error {
	e.RetryAfter = d
	return e
}

// WithoutRetry says that the request must not be sent again just like that, and returns e.
// Whoever answers gives no Retry-After then, which programs obey without looking.
func (e *Error) WithoutRetry() *Error {
	e.RetryAfter, e.NoRetry = 0, true
	return e
}

// WithField adds a pointer to a bad part of the request and returns e.
func (e *Error) WithField(pointer, detail string) *Error {
	e.Fields = append(e.Fields, Field{Pointer: pointer, Detail: detail})
	return e
}

// WithExtra adds a member to the problem and returns e. value must encode as
// JSON and must be safe to show.
func (e *Error) WithExtra(name string, value any) *Error {
	if e.Extra == nil {
		e.Extra = make(map[string]any)
	}
	e.Extra[name] = value
	return e
}

// Error is the text for the log: kind, detail and cause.
func (e *Error) Error() string {
	text := string(e.Kind)
	if text == "" {
		text = "internal"
	}
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// KindOf returns the kind of the first *Error in err's chain, Internal when
// there is none.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}
