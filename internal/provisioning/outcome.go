package provisioning

import (
	"errors"
	"net/http"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// outcome says what became of a call that changes something.
type outcome int

const (
	happened  outcome = iota
	conflicts         // 409: something bears the same marker already
	refused           // Prisma answered, and did nothing
	notSent           // nothing reached Prisma
	unknown           // it may have happened
)

// outcomeOf reads the error of a changing call, as call returns it.
func outcomeOf(err error) outcome {
	if err == nil {
		return happened
	}
	if answer, ok := errors.AsType[*prisma.APIError](err); ok {
		switch status := answer.Status; {
		case status == http.StatusConflict:
			return conflicts
		case status == http.StatusRequestTimeout, status < 400, status >= 500:
			return unknown
		}
		return refused
	}
	if failed, ok := errors.AsType[*prisma.FetchError](err); ok && failed.Sent {
		return unknown
	}
	return notSent // also when no token could be had
}

// mayPass reports whether a look-up that failed like that is worth another try.
func mayPass(err error) bool {
	switch fault.KindOf(err) { //nolint:exhaustive // the others won't pass by waiting
	case fault.PrismaUnavailable, fault.QuotaExceeded, fault.RefreshInProgress:
		return true
	}
	return false
}

// unfinished is why an attempt brought no answer, and how its operation ends.
type unfinished struct {
	as    tenants.OperationStatus
	cause error // what the client is told
}

// Error is the cause's text.
func (e *unfinished) Error() string { return e.cause.Error() }

// Unwrap returns the cause.
func (e *unfinished) Unwrap() error { return e.cause }

// retryUnknown is the advice when to ask again for a create of unknown outcome.
const retryUnknown = 5 * time.Second

// errUnknown tells that a create may or may not have happened. A cause that says
// something else than "Prisma failed", such as a lost grant, is told instead.
func errUnknown(cause error, keyed bool) error {
	if kind := fault.KindOf(cause); kind != fault.Internal && kind != fault.Conflict && !mayPass(cause) {
		return cause
	}
	detail := "Prisma gave no clear answer, so it is not known whether this was made. " +
		"Look before you repeat the request; with an Idempotency-Key repeating is always safe."
	if keyed {
		detail = "Prisma gave no clear answer, so it is not known whether this was made. " +
			"Repeat the request with the same Idempotency-Key: it finds what was made, or makes it."
	}
	return fault.New(fault.PrismaUnavailable, detail, cause).WithRetryAfter(retryUnknown)
}
