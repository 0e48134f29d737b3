package prisma

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// BreakerState says whether refresh tokens are sent to the token endpoint.
type BreakerState string

// The states of the breaker.
const (
	// BreakerClosed: exchanges run.
	BreakerClosed BreakerState = "closed"

	// BreakerOpen: the endpoint is in trouble, and nothing is claimed or sent.
	BreakerOpen BreakerState = "open"

	// BreakerHalfOpen: one exchange may be sent, or is under way, to see whether the
	// endpoint is well again.
	BreakerHalfOpen BreakerState = "half-open"
)

// A verdict is what an exchange has to say of the token endpoint.
type verdict int

const (
	unused   verdict = iota // nothing was sent
	answered                // whatever the answer was, it was one
	failed                  // no usable answer
)

// breaker keeps refresh tokens away from a token endpoint that is in trouble: one that
// takes a token and does not answer has used it up. A refresher talks to one endpoint,
// so it has one breaker.
//
//	closed ── some exchanges in a row without a prompt, usable answer ──> open
//	open ── after a pause, which doubles ──> half-open: one probe
//	half-open ── an answer ──> closed
//	half-open ── none, or not soon ──> open
//
// An exchange that takes long counts as failed as soon as it does, not when it ends:
// it may go on for a minute, in which others would follow it. If its answer comes after
// all, the next probe goes at once.
//
// Who probes: a refresh that a caller waits for, because its connection does not work
// anyway. Only if none came for a while does one that is ahead of need, whose access
// token is still good, put its refresh token at risk.
type breaker struct {
	after    int           // failures in a row until it opens
	slow     time.Duration // an exchange that takes longer has failed
	from, to time.Duration // bounds of the pause
	now      func() time.Time
	jitter   func(turn int) float64
	logger   *slog.Logger

	mu         sync.Mutex
	failures   int // in a row, while closed
	open       bool
	since      time.Time     // when open last changed
	until      time.Time     // while open: no probe before
	turn       int           // pauses in a row
	answered   time.Time     // when the endpoint last gave a usable answer
	probe      *pass         // in flight
	probeUntil time.Time     // when the probe will have failed
	trip       chan struct{} // closed and replaced when it opens
}

// pass is the leave to make one exchange.
type pass struct {
	breaker *breaker
	judged  bool // under breaker.mu
}

func newBreaker(s RefreshSettings, now func() time.Time, jitter func(int) float64, logger *slog.Logger) *breaker {
	return &breaker{
		after: s.BreakerAfter, slow: s.BreakerSlow, from: s.BreakerFrom, to: s.BreakerTo,
		now: now, jitter: jitter, logger: logger, trip: make(chan struct{}),
	}
}

// tripped is closed when the breaker opens the next time.
func (b *breaker) tripped() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.trip
}

// refuses is for how long a refresh should wait before it asks again, 0 if it may go.
func (b *breaker) refuses(wanted bool) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refusal(wanted)
}

func (b *breaker) refusal(wanted bool) time.Duration {
	const least = time.Second // of advice to callers
	now := b.now()
	switch {
	case !b.open:
		return 0
	case b.probe != nil:
		return max(b.probeUntil.Sub(now), least)
	}
	start := b.until
	if !wanted {
		start = start.Add(b.from)
	}
	if now.Before(start) {
		return max(start.Sub(now), least)
	}
	return 0
}

// enter asks for one exchange. Without leave the pass is nil, and refused is for how
// long. With it end must follow.
func (b *breaker) enter(wanted bool) (leave *pass, refused time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if refused := b.refusal(wanted); refused > 0 {
		return nil, refused
	}
	p := &pass{breaker: b}
	if b.open {
		// The claim has yet to be made; from the request on send sets its own limit.
		b.probe, b.probeUntil = p, b.now().Add(b.slow)
	}
	return p, 0
}

// send runs one exchange and judges the endpoint by it. A panic counts as a failure.
func (p *pass) send(ctx context.Context, exchange func() (Grant, error)) (Grant, error) {
	b := p.breaker
	b.mu.Lock()
	if b.probe == p {
		b.probeUntil = b.now().Add(b.slow)
	}
	b.mu.Unlock()
	late := time.AfterFunc(b.slow, func() { p.end(ctx, failed) })
	said := failed
	defer func() {
		late.Stop()
		p.end(ctx, said)
	}()
	grant, err := exchange()
	if outcome, _ := outcomeOf(err); err == nil || outcome == InvalidGrant || outcome == Misconfigured {
		said = answered
	}
	return grant, err
}

// end gives a verdict. The first counts, save that an answer which came late is still a
// sign of life; after another one, unused says nothing.
func (p *pass) end(ctx context.Context, v verdict) {
	b := p.breaker
	b.mu.Lock()
	defer b.mu.Unlock()
	if p.judged {
		if v == answered {
			b.answered = b.now()
		}
		if v == answered && b.open {
			b.until, b.turn = b.now(), 0
		}
		return
	}
	p.judged = true
	if v == answered {
		b.answered = b.now()
	}
	probe := b.probe == p
	if probe {
		b.probe = nil
	}
	switch v {
	case unused: // a probe that was not made may be made by somebody else
	case answered:
		b.failures, b.turn = 0, 0
		if b.open {
			b.open, b.since = false, b.now()
			b.logger.InfoContext(ctx, "the token endpoint answers again")
		}
	case failed:
		if b.failures++; probe || !b.open && b.failures >= b.after {
			b.leaveAlone(ctx, min(b.from<<min(b.turn, 16), b.to))
			b.turn++
		}
	}
}

// wellSince reports whether the endpoint is in no trouble and has given a usable answer
// since then.
func (b *breaker) wellSince(then time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.open && b.answered.After(then)
}

// seenWell notes that the endpoint has answered something other than an exchange. That
// does not close an open breaker: only an exchange does.
func (b *breaker) seenWell() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answered = b.now()
}

// pause opens the breaker because the endpoint asked for it.
func (b *breaker) pause(ctx context.Context, d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.leaveAlone(ctx, min(max(d, b.from), b.to))
}

// leaveAlone opens the breaker for that long, and up to a quarter more so that replicas
// do not probe together. Its caller holds mu.
func (b *breaker) leaveAlone(ctx context.Context, d time.Duration) {
	now := b.now()
	d = withJitter(d, b.jitter(b.turn))
	if !b.open {
		b.open, b.since = true, now
		b.logger.ErrorContext(ctx, "the token endpoint is in trouble and is left alone",
			slog.Int("failures", b.failures), slog.Duration("pause", d))
	}
	b.until = now.Add(d)
	close(b.trip)
	b.trip = make(chan struct{})
}

// state is the breaker's state and since when it is not closed, or is closed again;
// zero if it always was.
func (b *breaker) state() (BreakerState, time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case !b.open:
		return BreakerClosed, b.since
	case b.probe != nil || !b.now().Before(b.until):
		return BreakerHalfOpen, b.since
	}
	return BreakerOpen, b.since
}
