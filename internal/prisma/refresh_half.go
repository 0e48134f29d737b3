package prisma

import "errors"

// errHalfAnswers says that an endpoint's answers break off one after the other.
var errHalfAnswers = errors.New("prisma: answers to token requests break off")

// withAccessOf is the pair of an answer that broke off after its refresh token: the new
// refresh token with the access token that there is, which lasts as long as it did. One
// that the API refused does not.
//
// The old refresh token is used up, and the new one may be in no other place: it is stored
// like any other, fenced and under the next generation, and then exchanged at once or, if
// the access token has life left, at the next call.
func withAccessOf(claim Claim, refresh string) Tokens {
	fresh := claim.Current
	fresh.Refresh, fresh.ReadAt = refresh, claim.Taken
	if claim.Forced {
		fresh.ExpiresAt = claim.Taken
	}
	return fresh
}

// isHalf reports whether current replaced stale's refresh token and not its access token.
func isHalf(stale, current Tokens) bool {
	return !current.SamePair(stale) && current.Access == stale.Access
}
