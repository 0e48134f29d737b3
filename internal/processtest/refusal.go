package processtest

import (
	"strings"
	"testing"
)

// CheckRefusal wants exit status 1 and one line that has the words.
func CheckRefusal(tb testing.TB, code int, stderr string, words ...string) {
	tb.Helper()
	line, rest, ended := strings.Cut(stderr, "\n")
	if code != 1 || !strings.HasPrefix(line, "server: ") || rest != "" || !ended {
		tb.Errorf("exit status %d and this on standard error, want 1 and one line:\n%s", code, stderr)
	}
	for _, word := range words {
		if !strings.Contains(line, word) {
			tb.Errorf("the refusal does not say %q:\n%s", word, stderr)
		}
	}
}
