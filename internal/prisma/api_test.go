package prisma_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

func TestFaultOf(t *testing.T) {
	t.Parallel()

	for status, want := range map[int]fault.Kind{
		401: fault.PrismaRefused, 403: fault.OperationNotAllowed, 404: fault.NotFound, 409: fault.Conflict,
		429: fault.QuotaExceeded, 400: fault.InvalidValue, 413: fault.InvalidValue, 422: fault.InvalidValue,
		302: fault.PrismaUnavailable, 500: fault.PrismaUnavailable, 503: fault.PrismaUnavailable,
	} {
		cause := &prisma.APIError{Status: status, Code: "code", Message: "canary-message", Hint: "canary-hint"}
		mapped := prisma.FaultOf(fmt.Errorf("wrapped: %w", cause))
		if fault.KindOf(mapped) != want || strings.Contains(mapped.Error(), "canary") || !errors.Is(mapped, cause) {
			t.Errorf("FaultOf(status %d) = %v, want kind %q, no upstream text and its cause", status, mapped, want)
		}
		if again := prisma.FaultOf(mapped); again.Error() != mapped.Error() || fault.KindOf(again) != want {
			t.Errorf("FaultOf() twice = %v", again)
		}
	}
	for err, want := range map[error]fault.Kind{
		managementapi.NewFetchError(true, errors.New("cut")):                 fault.PrismaUnavailable,
		managementapi.NewFetchError(false, errors.New("refused")):            fault.PrismaUnavailable,
		managementapi.NewFetchError(false, managementapi.ErrRefusedID):       fault.NotFound,
		fault.New(fault.ReconnectRequired, "Connect again.", nil):            fault.ReconnectRequired,
		errors.New("not a client's"):                                         fault.Internal,
		fmt.Errorf("wrapped: %w", &prisma.APIError{Status: 404, Code: "no"}): fault.NotFound,
	} {
		if got := fault.KindOf(prisma.FaultOf(err)); got != want {
			t.Errorf("FaultOf(%v) has kind %q, want %q", err, got, want)
		}
	}
	if prisma.FaultOf(nil) != nil {
		t.Error("FaultOf(nil) is not nil")
	}
}

func TestFaultOfPassesAdviceOn(t *testing.T) {
	t.Parallel()

	for _, status := range []int{429, 503} {
		for advice, want := range map[time.Duration]time.Duration{0: 5 * time.Second, time.Minute: time.Minute} {
			mapped, ok := errors.AsType[*fault.Error](prisma.FaultOf(&prisma.APIError{Status: status, RetryAfter: advice}))
			if !ok || mapped.RetryAfter != want {
				t.Errorf("FaultOf(status %d, advice %s) = %v, want advice %s", status, advice, mapped, want)
			}
		}
	}
}
