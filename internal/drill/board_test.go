package drill_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/drill"
)

func clock() time.Time {
	return time.Now() //nolint:forbidigo // this is the injected clock
}

func TestBoard(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		add  func(b *drill.Board)
		kept bool
	}{
		"nothing":          {func(*drill.Board) {}, true},
		"at its limit":     {func(b *drill.Board) { b.Count("a loss", 2, 2) }, true},
		"above it":         {func(b *drill.Board) { b.Count("a loss", 1, 0) }, false},
		"too few":          {func(b *drill.Board) { b.Exactly("exchanges", 1, 2) }, false},
		"in time":          {func(b *drill.Board) { b.Within("ready", time.Second, time.Second) }, true},
		"late":             {func(b *drill.Board) { b.Within("ready", 2*time.Second, time.Second) }, false},
		"no limit at all":  {func(b *drill.Board) { b.Within("ready", time.Hour, 0) }, true},
		"one of several":   {func(b *drill.Board) { b.Count("a loss", 1, 0); b.Count("another", 0, 0) }, false},
		"the last of them": {func(b *drill.Board) { b.Count("another", 0, 0); b.Count("a loss", 1, 0) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			b := drill.NewBoard(&out, clock)
			tc.add(b)
			if got := b.Print(); got != tc.kept {
				t.Errorf("print() = %t, want %t", got, tc.kept)
			}
			if got := strings.Contains(out.String(), "MISSED"); got == tc.kept {
				t.Errorf("the board says MISSED: %t\n%s", got, out.String())
			}
		})
	}
}

// On a machine that is shared, what depends on its load is told with its goal, and what was
// lost has its limit all the same.
func TestSharedBoard(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	b := drill.NewSharedBoard(&out, clock)
	b.Within("ready", 2*time.Second, time.Second)
	if !b.Print() || !strings.Contains(out.String(), "2s; goal at most 1s") {
		t.Errorf("a figure that depends on the load:\n%s", out.String())
	}
	b.Count("a loss", 1, 0)
	if b.Print() {
		t.Errorf("a loss is no miss:\n%s", out.String())
	}
}

func TestPercentile(t *testing.T) {
	t.Parallel()
	took := []time.Duration{5, 1, 4, 2, 3}
	for share, want := range map[float64]time.Duration{0: 1, 0.5: 3, 0.99: 5, 1: 5} {
		if got := drill.Percentile(took, share); got != want {
			t.Errorf("percentile(%g) = %d, want %d", share, got, want)
		}
	}
	if got := drill.Percentile(nil, 0.5); got != 0 {
		t.Errorf("percentile of nothing = %d", got)
	}
}

// The pauses of 3 s and 20 s have to fit into the time that an answer is waited for: a
// process that stood still finds its own timer run out.
func TestNumbersStandTheirPauses(t *testing.T) {
	t.Parallel()
	for name, longest := range map[string]time.Duration{"brisk": 3 * time.Second, "steady": 20 * time.Second} {
		if got := drill.LeaseOf()[name]; got[1] <= longest+time.Second || got[0] >= 90*time.Second {
			t.Errorf("%s: lease %s, answer %s, for pauses of %s", name, got[0], got[1], longest)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	good := drill.Config{Server: "server", Counts: drill.Quick(), Out: io.Discard, Now: clock}
	for name, spoil := range map[string]func(c *drill.Config){
		"no server":        func(c *drill.Config) { c.Server = "" },
		"one replica":      func(c *drill.Config) { c.Counts.Replicas = 1 },
		"few connections":  func(c *drill.Config) { c.Counts.Connections = 10 },
		"more refused":     func(c *drill.Config) { c.Counts.Refused = c.Counts.Connections + 1 },
		"no load":          func(c *drill.Config) { c.Counts.Rate = 0 },
		"unknown scenario": func(c *drill.Config) { c.Only = []string{"earthquake"} },
	} {
		c := good
		spoil(&c)
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // nothing is to be started
		if err := drill.Run(ctx, c); err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("%s: Run() = %v", name, err)
		}
	}
}
