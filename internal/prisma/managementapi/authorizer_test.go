package managementapi_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
)

// tokens is an Authorizer: it gives out tokens in turn, the next one after a 401.
type tokens struct {
	values []string
	err    error // why there is none

	mu    sync.Mutex
	asked int
}

func (a *tokens) Authorize(ctx context.Context, send func(context.Context, string) error) error {
	a.mu.Lock()
	a.asked++
	a.mu.Unlock()
	if a.err != nil {
		return a.err
	}
	var err error
	for _, value := range a.values {
		err = send(ctx, value)
		refusal, ok := errors.AsType[*managementapi.APIError](err)
		if !ok || refusal.Status != http.StatusUnauthorized {
			return err
		}
	}
	return err
}

func (a *tokens) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked
}

// asFetch returns the *FetchError that err is.
func asFetch(tb testing.TB, err error) *managementapi.FetchError {
	tb.Helper()
	failure, ok := errors.AsType[*managementapi.FetchError](err)
	if !ok {
		tb.Fatalf("error = %T %v, want a *FetchError", err, err)
	}
	if refusal, both := errors.AsType[*managementapi.APIError](err); both {
		tb.Fatalf("error is a *FetchError and an *APIError: %v", refusal)
	}
	return failure
}

// asAPI returns the *APIError that err is.
func asAPI(tb testing.TB, err error) *managementapi.APIError {
	tb.Helper()
	refusal, ok := errors.AsType[*managementapi.APIError](err)
	if !ok {
		tb.Fatalf("error = %T %v, want an *APIError", err, err)
	}
	return refusal
}
