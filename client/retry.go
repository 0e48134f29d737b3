package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"
)

// The pause before a repetition that nobody gave advice about: it doubles from firstPause
// to longestPause, and is then drawn between half of that and the whole.
const (
	firstPause   = 200 * time.Millisecond
	longestPause = 2 * time.Second
)

// repeat runs attempt until it succeeds, fails for good, or no attempt or time is left. It
// is for calls that may be sent again.
func repeat(ctx context.Context, attempts int, attempt func() (answer, error)) (answer, error) {
	reached := false // whether an attempt may have reached the server
	for sent := 1; ; sent++ {
		got, err := attempt()
		if failure, ok := errors.AsType[*UnreachableError](err); ok {
			failure.Sent = failure.Sent || reached
			reached = failure.Sent
		}
		if err == nil || sent >= attempts || !passing(err) || ctx.Err() != nil {
			return got, err
		}
		wait := pause(err, sent)
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
			return got, err // there would be no time left for the answer
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return got, errors.Join(context.Cause(ctx), err)
		}
	}
}

// passing reports whether the same call may fare better a moment later.
func passing(err error) bool {
	if problem, ok := errors.AsType[*Problem](err); ok {
		return problem.Status == http.StatusTooManyRequests || problem.Status == http.StatusServiceUnavailable ||
			problem.Kind == OperationInProgress
	}
	_, unreachable := errors.AsType[*UnreachableError](err)
	return unreachable && !errors.Is(err, errTooLarge)
}

// pause is how long to wait after the given attempt failed with err.
func pause(err error, attempt int) time.Duration {
	if problem, ok := errors.AsType[*Problem](err); ok && problem.RetryAfter > 0 {
		return problem.RetryAfter
	}
	longest := min(firstPause<<min(attempt-1, 8), longestPause)
	return longest/2 + rand.N(longest/2) //nolint:gosec // a pause is no secret
}
