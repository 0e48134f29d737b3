package prisma

import (
	"cmp"
	"time"
)

// RefreshTokenLife is how long an unused refresh token lives. After that there is
// nothing that a retry could save.
//
// Source: https://www.prisma.io/docs/management-api/authentication, 90 days.
const RefreshTokenLife = 90 * 24 * time.Hour

// lateMargin is how long before the end of its access token a refresh token of unknown
// fate is presented late for the first time: enough for the calls in between not to fail.
const lateMargin = time.Minute

// LatePauses are the pauses between two late retries of one refresh token: they double
// from From to To, and up to a quarter is added.
type LatePauses struct {
	From time.Duration // default 1 min
	To   time.Duration // default 1 h
}

// WithDefaults returns p with its zero fields filled.
func (p LatePauses) WithDefaults() LatePauses {
	return LatePauses{From: cmp.Or(p.From, time.Minute), To: cmp.Or(p.To, time.Hour)}
}

// After is how long after the nth late retry, from 1, the next one has to wait. What is
// added depends on key and n alone, so that many connections that met one outage do not
// come back together and every process says the same.
func (p LatePauses) After(key string, n int) time.Duration {
	p = p.WithDefaults()
	pause := p.To
	if n < 16 { // beyond that the shift would overflow, and To was reached long ago
		pause = min(p.From<<max(n-1, 0), p.To)
	}
	return withJitter(pause, spread(key, int64(n)))
}

// lateFrom is when a pair's refresh token may be presented late: for the first time when
// its access token is about to end, and again only once that has ended, and not before
// the pause after the last time. Of unknown life: as if it had ended.
func lateFrom(pair Tokens, retries int, notBefore time.Time) time.Time {
	switch {
	case retries == 0 && pair.ExpiresAt.IsZero():
		return time.Time{}
	case retries == 0:
		return pair.ExpiresAt.Add(-lateMargin)
	case pair.ExpiresAt.After(notBefore):
		return pair.ExpiresAt
	}
	return notBefore
}

// useless reports whether the API has refused a pair that is to be replaced, or would:
// the convention of RefreshLease.Claim.
func useless(refused Tokens) bool {
	return refused.ExpiresAt.IsZero() || !refused.ExpiresAt.After(refused.ReadAt)
}
