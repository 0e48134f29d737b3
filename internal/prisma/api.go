package prisma

import (
	"cmp"
	"errors"
	"net/http"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// What calls of the Management API are made with, and how they fail.
type (
	// Client makes typed calls with one bearer token, or with those of an Authorizer.
	Client = managementapi.Client

	// APIError is an answer of the API with another status than success.
	APIError = managementapi.APIError

	// FetchError is a request to Prisma that brought no usable answer.
	FetchError = managementapi.FetchError
)

// ErrNoTokens is what a TokenStorage returns, possibly wrapped, when nobody is logged in.
var ErrNoTokens error = fault.New(fault.NotFound, "There is no connection to Prisma. Connect first.", nil)

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
		return faultOfAnswer(answer, err)
	}
	if _, ok := errors.AsType[*FetchError](err); !ok {
		return err
	}
	if errors.Is(err, managementapi.ErrRefusedID) {
		return fault.New(fault.NotFound, "Prisma has no such resource.", err)
	}
	return fault.New(fault.PrismaUnavailable, "Prisma could not be reached. Try again later.", err).
		WithRetryAfter(defaultRetryAfter)
}

// defaultRetryAfter is the advice given when Prisma gave none.
const defaultRetryAfter = 5 * time.Second

// faultOfAnswer turns an answer into an error with a kind; err is what to keep as its
// cause.
func faultOfAnswer(answer *APIError, err error) *fault.Error {
	retryAfter := cmp.Or(answer.RetryAfter, defaultRetryAfter)
	switch answer.Status {
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
