package drill_test

import (
	"testing"

	"github.com/connect-prisma/server/internal/drill"
)

// used is a token that was exchanged as it should be, live the one that came of it.
func used() drill.Token { return drill.Token{Received: 1, Processed: 1, Answered: 1, State: "used"} }
func live() drill.Token { return drill.Token{State: "live"} }

func TestJudge(t *testing.T) {
	t.Parallel()
	replayed := drill.Token{Received: 2, Processed: 1, State: "used"}
	revoked := drill.Token{State: "revoked"}
	at := func(status string, generation int64) drill.Row {
		return drill.Row{Status: status, Generation: generation}
	}
	open := at("active", 2)
	open.Open = true
	for name, tc := range map[string]struct {
		evidence drill.Evidence
		want     drill.Verdict
	}{
		"works":                             {drill.Case(at("active", 2), true, false, false, used(), live()), drill.Works},
		"a refresh is open":                 {drill.Case(open, true, false, false, used(), live()), drill.Unsettled},
		"suspect":                           {drill.Case(at("suspect", 2), true, false, false, used(), live()), drill.Unsettled},
		"revoked behind its back":           {drill.Case(at("active", 2), false, false, false, used(), revoked), drill.Silent},
		"an old pair is stored":             {drill.Case(at("active", 1), true, true, false, used(), live()), drill.Silent},
		"the answer was never sent":         {drill.Case(at("needs_reconnect", 2), false, false, false, used(), replayed, revoked), drill.LostUnanswered},
		"the answer was sent, and not kept": {drill.Case(at("needs_reconnect", 2), false, true, false, used(), replayed, revoked), drill.Avoidable},
		"it died with the process":          {drill.Case(at("needs_reconnect", 2), false, true, true, used(), replayed, revoked), drill.LostWithProcess},
		"exposed, and Prisma never used it": {drill.Case(at("needs_reconnect", 2), true, false, true, used(), live()), drill.Avoidable},
		"given up after two requests": {
			drill.Case(at("needs_reconnect", 2), true, false, false, used(), drill.Token{Received: 2, State: "live"}), drill.Avoidable,
		},
		"its replica came back after a replay": {
			drill.Overtaken(drill.Case(at("needs_reconnect", 3), false, false, false, used(), replayed, revoked)), drill.LostWithProcess,
		},
		"its replica came back, and nothing was replayed": {
			drill.Overtaken(drill.Case(at("needs_reconnect", 3), false, false, false, used(), used(), revoked)), drill.Avoidable,
		},
		"a replay, and no replica stood still": {
			drill.Case(at("needs_reconnect", 3), false, false, false, used(), replayed, revoked), drill.Avoidable,
		},
		"it came back, and says that it works": {
			drill.Overtaken(drill.Case(at("active", 3), false, false, false, used(), replayed, revoked)), drill.Silent,
		},
		"given up after one":     {drill.Case(at("needs_reconnect", 2), true, false, false, used(), drill.Token{Received: 1, State: "live"}), drill.Avoidable},
		"given up without cause": {drill.Case(at("needs_reconnect", 2), true, false, false, used(), live()), drill.Avoidable},
		"a pair nobody issued":   {drill.Case(at("needs_reconnect", 9), true, false, false, used(), live()), drill.Avoidable},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := drill.Judge(tc.evidence); got != tc.want {
				t.Errorf("judge() = %q, want %q", got, tc.want)
			}
		})
	}
}

func TestRepeats(t *testing.T) {
	t.Parallel()
	twice := drill.Token{Received: 2, Processed: 1}
	thrice := drill.Token{Received: 3, Processed: 1}
	row := drill.Row{Status: "active", Generation: 2}
	for name, tc := range map[string]struct {
		evidence drill.Evidence
		want     int
	}{
		"once":                    {drill.Case(row, true, false, false, used(), live()), 0},
		"twice":                   {drill.Case(row, true, false, false, twice, live()), 1},
		"twice, a late retry":     {drill.WithRetries(drill.Case(row, true, false, false, twice, live()), 1, 1), 0},
		"the retry was another's": {drill.WithRetries(drill.Case(row, true, false, false, twice, live()), 2, 1), 1},
		"three times":             {drill.WithRetries(drill.Case(row, true, false, false, thrice, live()), 1, 1), 1},
		"three times, all told":   {drill.WithRetries(drill.Case(row, true, false, false, thrice, live()), 1, 2), 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := drill.Repeats(tc.evidence); got != tc.want {
				t.Errorf("repeats() = %d, want %d", got, tc.want)
			}
		})
	}
}

func TestCanaries(t *testing.T) {
	t.Parallel()
	secrets := []string{"a-secret-of-some-length-0001", "another-secret-of-length-0002", "short"}
	for text, want := range map[string]int{
		"":                                 0,
		"nothing here that is short":       0,
		"a-secret-of-som":                  0, // too little of it
		"x a-secret-of-some-length-0001 x": 1,
		"a-secret-of-some… another-secret-of-length-0002": 2,
	} {
		if got := drill.Canaries([]byte(text), secrets); got != want {
			t.Errorf("canaries(%q) = %d, want %d", text, got, want)
		}
	}
}
