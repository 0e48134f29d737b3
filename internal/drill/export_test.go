package drill

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prismasim"
)

// What tests of the parts look at.
type (
	Evidence = evidence
	Row      = row
	Token    = token
	Verdict  = verdict
	Wire     = wire
	Board    = board
)

// The verdicts.
const (
	Works           = works
	Unsettled       = unsettled
	LostUnanswered  = lostUnanswered
	LostWithProcess = lostWithProcess
	Avoidable       = avoidable
	Silent          = silent
)

// Case builds the evidence of one connection whose grant began with generation 1.
func Case(r Row, live, sent, exposed bool, tokens ...Token) Evidence {
	return evidence{row: r, base: 1, live: live, sent: sent, exposed: exposed, tokens: tokens}
}

// WithRetries notes how often the service says that it presented a generation late.
func WithRetries(e Evidence, generation int64, times int) Evidence {
	e.retried = map[int64]int{generation: times}
	return e
}

// Overtaken says that a replica stood still with the generation before in hand.
func Overtaken(e Evidence) Evidence {
	e.late = true
	return e
}

// Judge and Repeats are the rules of the comparison.
func Judge(e Evidence) Verdict { return judge(e) }

// Repeats counts tokens that were presented too often.
func Repeats(e Evidence) int { return repeats(e) }

// Canaries counts secrets in a text.
func Canaries(text []byte, secrets []string) int { return canaries(text, secrets) }

// OpenWire opens a wire to an address.
func OpenWire(ctx context.Context, target string) (*Wire, error) { return openWire(ctx, target) }

// Address, CutEvery, Cuts and Close are a wire's.
func (w *Wire) Address() string { return w.address() }

// CutEvery cuts each so many COMMITs.
func (w *Wire) CutEvery(n int) { w.cutEvery(n) }

// Cuts is how many there were.
func (w *Wire) Cuts() int { return w.count() }

// Close ends it.
func (w *Wire) Close() error { return w.close() }

// NewBoard returns a scoreboard.
func NewBoard(out io.Writer, now func() time.Time) *Board {
	return newBoard(Config{Out: out, Now: now, Timed: true})
}

// NewSharedBoard returns one of a run that shares its machine.
func NewSharedBoard(out io.Writer, now func() time.Time) *Board {
	return newBoard(Config{Out: out, Now: now})
}

// Count, Exactly, Within and Print are a board's.
func (b *Board) Count(name string, n, limit int) { b.count(name, n, limit, "") }

// Exactly adds a figure that must be a number.
func (b *Board) Exactly(name string, n, want int) { b.exactly(name, n, want, "") }

// Within adds a time.
func (b *Board) Within(name string, took, limit time.Duration) { b.within(name, took, limit) }

// Print prints.
func (b *Board) Print() bool { return b.print() }

// Percentile is the share's value.
func Percentile(took []time.Duration, share float64) time.Duration { return percentile(took, share) }

// LeaseOf returns the lease of each set of numbers, with its longest pause.
func LeaseOf() map[string][2]time.Duration {
	sets := map[string][2]time.Duration{}
	for name, n := range map[string]numbers{"brisk": brisk(), "steady": steady(), "patient": patient(), "forgiving": forgiving()} {
		sets[name] = [2]time.Duration{n.lease(), n.answer}
	}
	return sets
}

// Platform is a simulator with weather.
type Platform struct{ p *platform }

// OpenPlatform starts one until the test ends.
func OpenPlatform(t *testing.T, adminURL string) Platform {
	t.Helper()
	p, err := openPlatform(t.Context(), adminURL, prismasim.Seed{}, newDice(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return Platform{p}
}

// URL is its origin.
func (p Platform) URL() string { return p.p.url }

// Hang lets every answer come late.
func (p Platform) Hang(d time.Duration) { p.p.set(weather{hang: d}) }

// Cut lets it hang up.
func (p Platform) Cut() { p.p.set(weather{cut: true}) }

// Refreshes counts token requests.
func (p Platform) Refreshes() int { return int(p.p.refreshes.Load()) }
