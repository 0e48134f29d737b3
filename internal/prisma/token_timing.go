package prisma

import (
	"context"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// resumeGrace is what a request gets on top when its time ran out while this process
// stood still: the answer may lie in the socket, and is the only copy of a pair. A timer
// that is stoodStill late shows it.
const (
	resumeGrace = 2 * time.Second
	stoodStill  = 100 * time.Millisecond
)

// The phases of a request.
const (
	phaseDialing   int32 = iota // nothing can have left
	phaseConnected              // bytes may have left
	phaseTooLate                // nothing can leave any more
)

// timing bounds one token request: the time to connect, and from then on the time to
// answer. Whichever comes first, the connection or the end of its time, decides for good
// whether anything was sent.
type timing struct {
	timeouts ExchangeTimeouts
	cancel   context.CancelCauseFunc
	begun    time.Time
	phase    atomic.Int32

	connect *time.Timer
	answer  atomic.Pointer[time.Timer]
}

// startTiming returns the context to make the request with. stop must follow.
func startTiming(ctx context.Context, timeouts ExchangeTimeouts) (context.Context, *timing) {
	ctx, cancel := context.WithCancelCause(ctx)
	t := &timing{
		timeouts: timeouts, cancel: cancel,
		begun: time.Now(), //nolint:forbidigo // elapsed time only, beside timers, which no injected clock drives
	}
	t.connect = time.AfterFunc(timeouts.Dial+timeouts.TLS, func() {
		if t.phase.CompareAndSwap(phaseDialing, phaseTooLate) {
			cancel(errConnectTimedOut)
		}
	})
	// From here on bytes may leave. Nothing later tells "sent" from "not sent" as
	// surely: a request that failed while it was written may have arrived all the same.
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: t.connected}), t
}

// connected takes the connection, or closes it when its time is over: after a pause of
// the process somebody else may think that this exchange has ended.
func (t *timing) connected(info httptrace.GotConnInfo) {
	inTime := time.Since(t.begun) <= t.timeouts.Dial+t.timeouts.TLS
	if !inTime || !t.phase.CompareAndSwap(phaseDialing, phaseConnected) {
		t.phase.Store(phaseTooLate)
		_ = info.Conn.Close() // nothing was written to it
		t.cancel(errConnectTimedOut)
		return
	}
	t.connect.Stop()
	t.await(time.Now().Add(t.timeouts.Answer), true) //nolint:forbidigo // as above
}

// await gives the answer until then, and once more if this process can't have looked.
func (t *timing) await(until time.Time, again bool) {
	t.answer.Store(time.AfterFunc(time.Until(until), func() {
		if again && time.Since(until) > stoodStill {
			t.await(time.Now().Add(resumeGrace), false) //nolint:forbidigo // as above
			return
		}
		t.cancel(errAnswerTimedOut)
	}))
}

// sent reports whether anything of the request may have left.
func (t *timing) sent() bool { return t.phase.Load() == phaseConnected }

// stop ends the timing.
func (t *timing) stop() {
	t.connect.Stop()
	if answer := t.answer.Load(); answer != nil {
		answer.Stop()
	}
	t.cancel(nil)
}
