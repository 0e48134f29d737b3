package managementapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"
)

// RetrySettings say how calls are repeated that may be: reads (GET) after 429, a 5xx
// or a failure of the network; PUT and DELETE, which do the same however often they
// arrive, only where the first one certainly did nothing (429, or not sent), so that a
// 404 is never the answer to a deletion of one's own. POST and PATCH are sent once. A
// zero field takes its default.
type RetrySettings struct {
	// Attempts is how often a call is sent at most, the first time included. Default 3;
	// 1 never repeats.
	Attempts int

	// From and To bound the pause before a repetition, which doubles and is then drawn
	// between 0 and that. Default 200 ms and 2 s.
	From, To time.Duration

	// Advice is the longest Retry-After that is waited for, in place of the pause. A
	// longer one, or one beyond the call's deadline, ends the call at once with the
	// *APIError, which carries it. Default 5 s.
	Advice time.Duration

	// Budget is how many repetitions a client has in store. Each takes one; every
	// call that succeeds at once brings back a tenth. So a sick server meets at most a
	// tenth more load, and not Attempts times as much. Default 10.
	Budget int
}

// withDefaults fills the fields left zero.
func (s RetrySettings) withDefaults() RetrySettings {
	return RetrySettings{
		Attempts: cmp.Or(s.Attempts, 3),
		From:     cmp.Or(s.From, 200*time.Millisecond),
		To:       cmp.Or(s.To, 2*time.Second),
		Advice:   cmp.Or(s.Advice, 5*time.Second),
		Budget:   cmp.Or(s.Budget, 10),
	}
}

// negative reports whether a field is below 0, which has no meaning.
func (s RetrySettings) negative() bool {
	return s.Attempts < 0 || s.From < 0 || s.To < 0 || s.Advice < 0 || s.Budget < 0
}

// repeat runs attempt until it succeeds, fails for good, or may not be repeated.
func (c *Client) repeat(ctx context.Context, call call, attempt func() error) error {
	for sent := 1; ; sent++ {
		err := attempt()
		if err == nil {
			if sent == 1 {
				c.budget.refund()
			}
			return nil
		}
		if sent >= c.retry.Attempts || !call.repeatable(err) {
			return err
		}
		pause, ok := c.retry.pause(err, sent)
		if deadline, bounded := ctx.Deadline(); bounded && time.Until(deadline) <= pause {
			ok = false // there would be no time left for the answer
		}
		if !ok || !c.budget.take() {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return abandoned(ctx, err)
		}
	}
}

// abandoned is the error of a call whose caller went away during the pause after a
// failed attempt: a FetchError with the cancellation as its cause, which is what the
// caller looks for, and the failure in its text. Sent is that of the failed attempt.
func abandoned(ctx context.Context, last error) *FetchError {
	failure := &FetchError{Sent: true, cause: fmt.Errorf("%w, before the repetition after: %s", context.Cause(ctx), last.Error())}
	if before, ok := errors.AsType[*FetchError](last); ok {
		failure.Sent = before.Sent
	}
	return failure
}

// repeatable reports whether a call that failed with err may be sent again.
func (k call) repeatable(err error) bool {
	refusal, refused := errors.AsType[*APIError](err)
	failure, failed := errors.AsType[*FetchError](err)
	switch k.method {
	case http.MethodGet:
		return refused && (refusal.Status == http.StatusTooManyRequests || refusal.Status >= 500) ||
			failed && failure.transient
	case http.MethodPut, http.MethodDelete:
		return refused && refusal.Status == http.StatusTooManyRequests ||
			failed && failure.transient && !failure.Sent
	}
	return false
}

// pause is how long to wait after the given attempt failed with err, and whether that
// is short enough to wait at all.
func (s RetrySettings) pause(err error, attempt int) (time.Duration, bool) {
	if refusal, ok := errors.AsType[*APIError](err); ok && refusal.RetryAfter > 0 {
		return refusal.RetryAfter, refusal.RetryAfter <= s.Advice
	}
	longest := s.To
	if doublings := min(attempt-1, 16); s.From <= s.To>>doublings {
		longest = s.From << doublings
	}
	return rand.N(longest), true //nolint:gosec // a pause is no secret
}

// budget counts the repetitions that may still be made, in tenths.
type budget struct {
	mu            sync.Mutex
	tenths, limit int
}

func newBudget(repetitions int) *budget {
	return &budget{tenths: 10 * repetitions, limit: 10 * repetitions}
}

// take uses up one repetition, if there is one.
func (b *budget) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tenths < 10 {
		return false
	}
	b.tenths -= 10
	return true
}

// refund brings back a tenth of a repetition.
func (b *budget) refund() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tenths = min(b.tenths+1, b.limit)
}
