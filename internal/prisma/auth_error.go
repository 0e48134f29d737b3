package prisma

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// Bounds of what an AuthError repeats of a callback URL, in characters.
const (
	maxCallbackError       = 64
	maxCallbackDescription = 300
)

// AuthError is a failure to log in or to stay logged in that a later try alone won't
// mend: somebody has to log in, or the client's registration has to be put right. Find
// it with errors.As. A failure of the network or of Prisma is a
// *FetchError instead.
type AuthError struct {
	// RefreshTokenInvalid: Prisma refused the refresh token, and the stored tokens, if
	// they were still that pair, have been cleared. The user has to log in again.
	RefreshTokenInvalid bool

	// Code is the OAuth error code, such as "access_denied" when the user said no; ""
	// when Prisma gave none.
	Code string

	message string
	cause   error
}

// Error is a sentence for people. It holds no secret. After a callback with an error in
// it, it is "error: description" in the words of whoever made the URL, cleaned of
// control characters and cut to 300: text to show, never markup.
func (e *AuthError) Error() string { return e.message }

// Unwrap returns the cause, such as a *TokenError; nil if there is none.
func (e *AuthError) Unwrap() error { return e.cause }

// newAuthError returns an AuthError without a code; cause may be nil.
func newAuthError(message string, cause error) *AuthError {
	return &AuthError{message: message, cause: cause}
}

// errNotLoggedIn says that the storage is empty.
func errNotLoggedIn(cause error) *AuthError {
	return newAuthError("No tokens stored. Please log in first.", cause)
}

// callbackError is the AuthError of a callback that brings an error. Anybody can make
// such a URL, so its words are cut and cleaned, for terminals and logs.
func callbackError(code, description string) *AuthError {
	code = plainText(code, maxCallbackError)
	message := code
	if description = plainText(description, maxCallbackDescription); description != "" {
		message += ": " + description
	}
	return &AuthError{Code: cleanCode(code), message: message}
}

// plainText returns text with white space as single spaces and without control,
// formatting and undecodable characters, at most limit characters long.
func plainText(text string, limit int) string {
	var b strings.Builder
	length, gap := 0, false
	for _, r := range text {
		switch {
		case unicode.IsSpace(r):
			gap = b.Len() > 0
			continue
		case !unicode.IsPrint(r) || r == unicode.ReplacementChar:
			continue // among them the marks that turn the direction of writing
		}
		if length >= limit {
			return b.String() + "…"
		}
		if gap {
			b.WriteByte(' ')
			length++
			gap = false
		}
		b.WriteRune(r)
		length++
	}
	return b.String()
}

// loginFailure turns the error of a code exchange into one of an SDK.
func loginFailure(err error) error {
	failure, ok := errors.AsType[*TokenError](err)
	switch {
	case !ok:
		return fmt.Errorf("exchange the authorization code: %w", err)
	case failure.Class == InvalidGrant:
		return &AuthError{
			Code:    failure.Code,
			message: failure.Code + ": Prisma did not accept the authorization code. Please log in again.",
			cause:   failure,
		}
	case refused(failure):
		return clientRefused(failure)
	}
	return managementapi.NewFetchError(failure.Class != NotSent, fmt.Errorf("exchange the authorization code: %w", failure))
}

// refreshFailure turns an error of the refresher into one of an SDK, unless the error
// means that somebody has to log in. Whatever happened to the token request, the call
// that needed a token was not sent.
func refreshFailure(err error) error {
	failure, ok := errors.AsType[*TokenError](err)
	if ok && refused(failure) {
		return clientRefused(failure)
	}
	cause := plainly(err) // a pause after an earlier failure, or a refresh that takes long
	if ok {
		cause = failure
	}
	unsent := managementapi.NewFetchError(false, fmt.Errorf("refresh the access token: %w", cause))
	if advice, ok := errors.AsType[*fault.Error](err); ok {
		unsent.RetryAfter = advice.RetryAfter
	}
	return unsent
}

// plainError is an error whose text is its sentence alone, without the kind that the
// service tells by.
type plainError struct{ failure *fault.Error }

func (e plainError) Error() string { return e.failure.Detail }

func (e plainError) Unwrap() error { return e.failure }

// plainly returns err with the sentence that it has for people as its text.
func plainly(err error) error {
	if failure, ok := errors.AsType[*fault.Error](err); ok && failure.Detail != "" {
		return plainError{failure}
	}
	return err
}

// refused reports whether the token endpoint understood the request and said no, other
// than for the moment.
func refused(failure *TokenError) bool {
	return failure.Code != "" && failure.Status >= 400 && failure.Status < 500 && failure.Status != http.StatusTooManyRequests
}

// clientRefused is the AuthError for a request that only the developer can mend.
func clientRefused(failure *TokenError) *AuthError {
	return &AuthError{
		Code:    failure.Code,
		message: failure.Code + ": Prisma refused the token request. Check the client ID, the client secret and the redirect URI.",
		cause:   failure,
	}
}

// isKind reports whether err has one of the kinds.
func isKind(err error, kinds ...fault.Kind) bool { return slices.Contains(kinds, fault.KindOf(err)) }
