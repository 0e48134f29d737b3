package limits

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Fields returns the values of the fields RateLimit-Policy and RateLimit, as
// draft-ietf-httpapi-ratelimit-headers-10 has them: of each budget that a call counts
// in, the quota q and the window w in seconds that gives it back, and what remains of
// it for the next t seconds.
//
// The window is that of a full bucket: 100 calls in 2 seconds are 50 a second, and 100
// at once after a pause.
func Fields(standings []Standing) (policy, limit string) {
	policies, limits := make([]string, 0, len(standings)), make([]string, 0, len(standings))
	for _, s := range standings {
		window := (s.Rate.Burst + s.Rate.PerSecond - 1) / s.Rate.PerSecond
		policies = append(policies, fmt.Sprintf(`"%s";q=%d;w=%d`, s.Budget, s.Rate.Burst, window))
		limits = append(limits, fmt.Sprintf(`"%s";r=%d;t=%d`, s.Budget, s.Remaining, wholeSeconds(s.Reset)))
	}
	return strings.Join(policies, ", "), strings.Join(limits, ", ")
}

// wholeSeconds rounds up: who comes back after it is not too early.
func wholeSeconds(d time.Duration) int { return max(1, int(math.Ceil(d.Seconds()))) }
