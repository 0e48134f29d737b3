package prismasim

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Faults is what goes wrong, all of it off at first. PUT /_control/faults
// changes the keys it is given and leaves the others.
type Faults struct {
	// TokenLatency is how long /token waits after its work before it answers.
	TokenLatency Duration `json:"tokenLatency"`
	// TokenFailBefore is the rate, 0 to 1, of token requests refused with 503
	// before anything is done.
	TokenFailBefore float64 `json:"tokenFailBefore"`
	// TokenFailAfter is the rate of those answered 500 after all was done.
	TokenFailAfter float64 `json:"tokenFailAfter"`
	// TokenDropAfter is the rate of those whose connection is cut after all was
	// done.
	TokenDropAfter float64 `json:"tokenDropAfter"`
	// APILatency is how long /v1 waits after its work before it answers.
	APILatency Duration `json:"apiLatency"`
	// APIFailBefore, APIFailAfter and APIDropAfter are the same rates for /v1.
	APIFailBefore float64 `json:"apiFailBefore"`
	APIFailAfter  float64 `json:"apiFailAfter"`
	APIDropAfter  float64 `json:"apiDropAfter"`
	// API429 is the rate of /v1 requests refused with 429 and Retry-After: 1.
	API429 float64 `json:"api429"`
	// ListLag is how long a new thing stays out of lists; looking it up by its id
	// works at once.
	ListLag Duration `json:"listLag"`
	// LandLate makes creations of projects, databases and connections fail first
	// and happen this much later, by the simulator's clock. With APIFailAfter and
	// APIDropAfter at 0 it strikes every creation (answered 500); otherwise those
	// that one of them strikes.
	LandLate Duration `json:"landLate"`
	// Leeway, if not 0, is the forgiving reading of the rotation rule: a used
	// refresh token gives another pair for this long, is merely refused after, and
	// never revokes its family.
	Leeway Duration `json:"leeway"`
	// CodeLifetime is how long an authorization code lives, default 60 s.
	CodeLifetime Duration `json:"codeLifetime"`
	// LogicalIDMode is "strict" (default: a second create with the same logicalId
	// answers 409) or "ignored": it is stored and shown, but neither kept unique
	// nor filtered by.
	LogicalIDMode string `json:"logicalIdMode"`

	struck bool // whether APIFailAfter or APIDropAfter strikes the request at hand
}

// Values of Faults.LogicalIDMode.
const (
	logicalIDStrict  = "strict"
	logicalIDIgnored = "ignored"
)

// noFaults is how the simulator starts.
func noFaults() Faults {
	return Faults{CodeLifetime: Duration(time.Minute), LogicalIDMode: logicalIDStrict}
}

// validate refuses rates outside 0 to 1, negative durations and unknown modes.
func (f Faults) validate() error {
	rates := map[string]float64{
		"tokenFailBefore": f.TokenFailBefore, "tokenFailAfter": f.TokenFailAfter, "tokenDropAfter": f.TokenDropAfter,
		"apiFailBefore": f.APIFailBefore, "apiFailAfter": f.APIFailAfter, "apiDropAfter": f.APIDropAfter, "api429": f.API429,
	}
	for name, rate := range rates {
		if rate < 0 || rate > 1 {
			return fmt.Errorf("%s must be a rate from 0 to 1, not %v", name, rate)
		}
	}
	durations := map[string]Duration{
		"tokenLatency": f.TokenLatency, "apiLatency": f.APILatency, "listLag": f.ListLag,
		"landLate": f.LandLate, "leeway": f.Leeway, "codeLifetime": f.CodeLifetime,
	}
	for name, d := range durations {
		if d < 0 {
			return fmt.Errorf("%s must not be negative", name)
		}
	}
	if f.LogicalIDMode != logicalIDStrict && f.LogicalIDMode != logicalIDIgnored {
		return fmt.Errorf("logicalIdMode must be %q or %q, not %q", logicalIDStrict, logicalIDIgnored, f.LogicalIDMode)
	}
	return nil
}

// Duration is a time.Duration that JSON writes as Go does: "1m30s".
type Duration time.Duration

// MarshalJSON writes d as a string that time.ParseDuration reads.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).String())
}

// UnmarshalJSON reads a string such as "250ms", "1h" or "0".
func (d *Duration) UnmarshalJSON(raw []byte) error {
	var text string
	if err := json.Unmarshal(raw, &text); err != nil || text == "" {
		return errors.New(`a duration is a string such as "250ms" or "1h"`)
	}
	parsed, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("%q is no duration: write it like \"250ms\" or \"1h\"", text)
	}
	*d = Duration(parsed)
	return nil
}

// cut ends the connection of w without an answer, as a broken network would.
func cut(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		// Not a connection of its own (HTTP/2, a recorder): the server's own way
		// to abandon an answer does the same.
		panic(http.ErrAbortHandler)
	}
	_ = conn.Close() // it is being broken: how is of no interest
}

// pause waits for d of real time, or until r's client is gone or the simulator
// closes.
func (s *Simulator) pause(r *http.Request, d Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(time.Duration(d))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-r.Context().Done():
	case <-s.closing:
	}
}
