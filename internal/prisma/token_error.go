package prisma

import (
	"errors"
	"strconv"
	"time"
)

// The causes of a TokenError that do not come from elsewhere. None repeats anything
// from the answer.
var (
	errNoWorkspace     = errors.New("the access token names no workspace")
	errAnswerTooLarge  = errors.New("the answer is larger than 64 KiB")
	errUnusableAnswer  = errors.New("the answer is not a usable token response")
	errConnectTimedOut = errors.New("no connection in time")
	errAnswerTimedOut  = errors.New("no complete answer in time")
)

// TokenError is a token request that gave no token pair. Its text holds no token and
// nothing that the server chose freely.
type TokenError struct {
	// Class says what became of the code or refresh token that was sent.
	Class Outcome

	// Code is the OAuth error code ("invalid_grant"), "" when the answer had none.
	Code string

	// Status is the HTTP status, 0 when no answer arrived.
	Status int

	// RetryAfter is the server's advice, at most an hour; 0 when it gave none.
	RetryAfter time.Duration

	cause error
}

// Error names the class, the status and the OAuth code.
func (e *TokenError) Error() string {
	text := "prisma: token request: " + e.Class.String()
	if e.Status != 0 {
		text += ": status " + strconv.Itoa(e.Status)
	}
	if e.Code != "" {
		text += ": " + e.Code
	}
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

// SecretRefused reports whether a token request failed because the server did not take the
// client's secret. It has not looked at the code or refresh token then, which may be
// presented with another secret.
//
// Source: RFC 6749 section 5.2, invalid_client.
func SecretRefused(err error) bool {
	e, ok := errors.AsType[*TokenError](err)
	return ok && e.Class == Misconfigured && e.Code == "invalid_client"
}

// Unwrap returns the cause: a network error, or why the answer could not be used.
func (e *TokenError) Unwrap() error { return e.cause }
