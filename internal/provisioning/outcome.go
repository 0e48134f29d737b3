package provisioning

import (
	"errors"
	"maps"
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

// statusOf is the status of Prisma's answer; 0: there was none.
func statusOf(err error) int {
	if answer, ok := errors.AsType[*prisma.APIError](err); ok {
		return answer.Status
	}
	return 0
}

// gone reports whether Prisma says that there is no such thing.
func gone(err error) bool { return statusOf(err) == http.StatusNotFound }

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
	end   tenants.OperationEnd
	cause error // what the client is told
}

// Error is the cause's text.
func (e *unfinished) Error() string { return e.cause.Error() }

// Unwrap returns the cause.
func (e *unfinished) Unwrap() error { return e.cause }

// retryUnknown is the advice when to ask again for a create of unknown outcome.
const retryUnknown = 5 * time.Second

// errUnknown tells that a call may or may not have done its work. A cause that says
// something else than "Prisma failed", such as a lost grant, keeps its kind. The
// operation's id is told too: its events bear it.
func errUnknown(cause error, op tenants.Operation) error {
	kind := fault.KindOf(cause)
	if kind == fault.Internal || kind == fault.Conflict || mayPass(cause) || takenFrom(op, cause) {
		return uncertain("Prisma gave no clear answer, so it is not known whether ", cause, op)
	}
	failure, ok := errors.AsType[*fault.Error](cause)
	if !ok || kind == fault.OperationInProgress {
		return cause
	}
	what, again := adviceFor(op)
	tell := fault.New(kind, failure.Detail+" Before that Prisma gave no clear answer, so it is not known whether "+what, cause)
	tell.Fields, tell.Extra, tell.RetryAfter, tell.NoRetry = failure.Fields, maps.Clone(failure.Extra), failure.RetryAfter, failure.NoRetry
	if !again {
		tell = tell.WithoutRetry()
	}
	return tell.WithExtra("operationId", op.ID.String())
}

// errUnsaved tells that a call has done its work, and that this could not be written down.
// A cause with a kind of its own, such as that the operation is somebody else's by now, is
// told instead.
func errUnsaved(cause error, op tenants.Operation) error {
	if fault.KindOf(cause) != fault.Internal && !takenFrom(op, cause) {
		return cause
	}
	return uncertain("This service could not write down how it ended, so take it as unknown whether ", cause, op)
}

// takenFrom reports whether somebody else goes on with an operation that its client can't
// name: to tell that client to ask again would have it make another.
func takenFrom(op tenants.Operation, cause error) bool {
	return !op.Keyed && fault.KindOf(cause) == fault.OperationInProgress
}

// uncertain is the answer about an operation whose client does not learn what it did. Only
// who may repeat the request without looking is told when to: programs obey a Retry-After.
func uncertain(why string, cause error, op tenants.Operation) error {
	what, again := adviceFor(op)
	tell := fault.New(fault.PrismaUnavailable, why+what, cause).WithExtra("operationId", op.ID.String())
	if !again {
		return tell.WithoutRetry()
	}
	return tell.WithRetryAfter(retryUnknown)
}

// adviceFor says what is not known of an operation and what to do about it, and whether
// its request may be repeated just like that.
func adviceFor(op tenants.Operation) (what string, again bool) {
	switch {
	case op.Kind == tenants.OperationRotateCredentials:
		return "these credentials were rotated. Repeat the request: only the last connection string counts.", true
	case op.Kind == tenants.OperationRestoreDatabase && op.Keyed:
		return "the database is being restored. " +
			"Repeat the request with the same Idempotency-Key: it finds the restore, or begins it.", true
	case op.Kind == tenants.OperationRestoreDatabase:
		return "the database is being restored. Look at its status before you repeat the request.", false
	case op.Keyed:
		return "this was made. Repeat the request with the same Idempotency-Key: it finds what was made, or makes it.", true
	}
	return "this was made. Look at the lists before you repeat the request; with an Idempotency-Key repeating is always safe.", false
}
