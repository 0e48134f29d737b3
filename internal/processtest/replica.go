package processtest

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// AwaitRecord waits for a log record of that level whose message has those words.
func AwaitRecord(tb testing.TB, r *Replica, level, words string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), CallLimit)
	defer cancel()
	_, err := r.Stderr.Await(ctx, func(line string) bool {
		var record struct{ Level, Msg string }
		return json.Unmarshal([]byte(line), &record) == nil && record.Level == level && strings.Contains(record.Msg, words)
	})
	if err != nil {
		tb.Fatalf("no record %s %q: %v\n%s", level, words, err, r.Stderr.Tail())
	}
}

// Replica is a running `serve`.
type Replica struct {
	*Process
	Origin string // http://127.0.0.1:port
}

// StartServe runs `serve` on a port of its own, with the settings given, and waits
// until it takes requests.
func StartServe(tb testing.TB, settings []string) *Replica {
	tb.Helper()
	return StartServeAt(tb, settings, "127.0.0.1:0")
}

// StartServeAt is StartServe at an address of the test's choice.
func StartServeAt(tb testing.TB, settings []string, address string) *Replica {
	tb.Helper()
	return StartVersion(tb, "", settings, address)
}

// StartVersion is StartServeAt with another program than this tree's.
func StartVersion(tb testing.TB, program string, settings []string, address string) *Replica {
	tb.Helper()
	// The last of two equal names counts.
	p := Start(tb, Launch{Program: program, Args: []string{"serve"}, Env: append(slices.Clone(settings), "LISTEN_ADDR="+address)})
	ctx, cancel := context.WithTimeout(tb.Context(), StartLimit)
	defer cancel()
	var record struct{ Msg, Listen string }
	_, err := p.Stderr.Await(ctx, func(line string) bool {
		return json.Unmarshal([]byte(line), &record) == nil && record.Msg == "serving"
	})
	if err != nil {
		tb.Fatalf("serve does not start: %v\n%s", err, p.Stderr.Tail())
	}
	return &Replica{Process: p, Origin: "http://" + record.Listen}
}

// Eventually looks until ok, where another process has to get somewhere.
func Eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	limit := time.NewTimer(CallLimit)
	defer limit.Stop()
	pace := time.NewTicker(lookEvery)
	defer pace.Stop()
	for !ok() {
		select {
		case <-limit.C:
			tb.Fatalf("not in %s: %s", CallLimit, what)
		case <-pace.C:
		}
	}
}

// KeyEnds fails the test unless each replica refuses a key, with which it is asked all the
// time, within that time.
func KeyEnds(tb testing.TB, replicas []*Replica, key string, within time.Duration) {
	tb.Helper()
	limit := time.NewTimer(within)
	defer limit.Stop()
	pace := time.NewTicker(lookEvery)
	defer pace.Stop()
	for live := slices.Clone(replicas); ; {
		live = slices.DeleteFunc(live, func(r *Replica) bool {
			status, _ := SendJSON(tb, http.MethodGet, r.Origin+"/v1/tenant", key, nil)
			return status == http.StatusUnauthorized
		})
		if len(live) == 0 {
			return
		}
		select {
		case <-limit.C:
			tb.Errorf("%d of %d replicas let a key in %s after its end", len(live), len(replicas), within)
			return
		case <-pace.C:
		}
	}
}
