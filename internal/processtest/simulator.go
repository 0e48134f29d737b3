package processtest

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"
)

// Control calls the simulator's control interface and decodes its answer into
// answer, unless that is nil.
func (d *Dev) Control(tb testing.TB, method, name string, body, answer any) {
	tb.Helper()
	status, raw := SendJSON(tb, method, d.SimulatorURL+"/_control/"+name, "", body)
	if status != http.StatusOK {
		tb.Fatalf("%s /_control/%s: status %d: %s", method, name, status, raw)
	}
	if answer != nil {
		if err := json.Unmarshal(raw, answer); err != nil {
			tb.Fatalf("%s /_control/%s: %v", method, name, err)
		}
	}
}

// Advance moves the clocks of the simulator and of the service's database.
func (d *Dev) Advance(tb testing.TB, by time.Duration) {
	tb.Helper()
	d.Control(tb, http.MethodPost, "clock", map[string]string{"advance": by.String()}, nil)
}

// Ledger is what the simulator counted.
type Ledger struct {
	Counters struct {
		CodeExchanges, Refreshes, Replays, Revocations, APIRequests int
	}
	RefreshTokens []struct {
		ID, Grant, State              string
		Received, Processed, Answered int
	}
}

// Ledger asks the simulator what it counted.
func (d *Dev) Ledger(tb testing.TB) Ledger {
	tb.Helper()
	var l Ledger
	d.Control(tb, http.MethodGet, "ledger", nil, &l)
	return l
}

// Received is how often any refresh token was presented.
func (l Ledger) Received() (n int) {
	for _, token := range l.RefreshTokens {
		n += token.Received
	}
	return n
}
