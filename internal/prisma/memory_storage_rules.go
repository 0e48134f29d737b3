package prisma

import (
	"time"

	"github.com/connect-prisma/server/internal/fault"
)

// ending says why a record has no pair.
type ending string

// The endings. A record that never had a pair has the zero value.
const (
	endedCleared ending = ""
	endedRefused ending = "refused" // the token endpoint said that the refresh token is dead
	endedUnknown ending = "unknown" // no answer ever came, and by now its refresh token is too old
)

// record is what MemoryStorage and FileStorage know of their one connection, and the
// rules by which it changes. Whoever keeps one sees to locks and durability.
//
// What became of the refresh token that is stored:
//
//	suspect  intentAt
//	no       zero      it was never presented
//	no       set       an exchange runs, or was cut off: its outcome is unknown
//	yes      zero      an exchange has ended and its outcome is unknown
//	yes      set       it is being presented late, or that was cut off too
//
// A token of unknown outcome is presented again, but only late (claim), until there is an
// answer or it is too old to bring one.
type record struct {
	tokens    Tokens // Generation outlives the pair: it fences late saves
	ended     ending
	intentAt  time.Time // Claim.Taken of the exchange that was begun and has not ended
	suspect   bool
	retries   int       // late ones, begun and not known to have sent nothing
	notBefore time.Time // for the next one; zero: before the first
}

// present reports whether there is a pair.
func (r *record) present() bool { return r.tokens.Access != "" || r.tokens.Refresh != "" }

// read returns the pair as read at now.
func (r *record) read(now time.Time) (Tokens, error) {
	switch {
	case r.present():
		tokens := r.tokens
		tokens.ReadAt = now
		return tokens, nil
	case r.ended == endedCleared:
		return Tokens{}, ErrNoTokens
	}
	return Tokens{}, fault.New(fault.ReconnectRequired, "Prisma no longer accepts this connection. Connect again.", nil)
}

// set stores a pair as the next generation.
func (r *record) set(tokens Tokens) {
	tokens.Generation = r.tokens.Generation + 1
	tokens.ReadAt = time.Time{}
	*r = record{tokens: tokens}
}

// end drops the pair and keeps its generation.
func (r *record) end(why ending) {
	*r = record{tokens: Tokens{Generation: r.tokens.Generation}, ended: why}
}

// claim decides whether the refused pair may be exchanged now; if so it enters the
// intent, and the claim is Due. held asks for the lease and reports whether somebody
// else has it; it is called at most once, and only for a pair that is still refused.
// changed says that the record has to be stored, also when there is an error.
func (r *record) claim(refused Tokens, now time.Time, held func() (bool, error)) (claim Claim, changed bool, err error) {
	current, err := r.read(now)
	if err != nil {
		return Claim{}, false, err
	}
	claim = Claim{Current: current, Taken: now}
	if !current.SamePair(refused) {
		return claim, false, nil
	}
	if claim.Held, err = held(); err != nil || claim.Held {
		return claim, false, err
	}
	late := r.suspect || !r.intentAt.IsZero() // the intent was left by whoever had the lease before
	from := lateFrom(current, r.retries, r.notBefore)
	switch {
	case late && !r.tokens.IssuedAt.IsZero() && now.Sub(r.tokens.IssuedAt) >= RefreshTokenLife:
		r.end(endedUnknown)
		_, err = r.read(now)
		return Claim{}, true, err
	case late && from.After(now) && (r.retries > 0 || !useless(refused)):
		// Too early to present it again. An open intent stays as it is: whoever wrote it
		// may still come and say that nothing was sent.
		claim.TooEarly = from.Sub(now)
		return claim, false, nil
	case late && !refused.LateToo:
		claim.Late = true
		return claim, false, nil
	}
	if r.tokens.Generation == 0 { // somebody else's file: counting begins, or a late save could not be fenced
		r.tokens.Generation, claim.Current.Generation = 1, 1
	}
	r.suspect, r.intentAt = late, now
	if late {
		r.postpone(r.retries+1, now)
	}
	claim.Due, claim.Late = true, late
	return claim, true, nil
}

// postpone counts a late retry and puts the next one off. These storages serve one user,
// so they have the pauses that RefreshSettings have by default.
func (r *record) postpone(retries int, now time.Time) {
	r.retries = retries
	r.notBefore = now.Add(LatePauses{}.After(r.tokens.Refresh, retries))
}

// save stores the fresh pair if the claim's is still the stored one. changed is false
// when an earlier attempt has stored it already.
func (r *record) save(claim Claim, fresh Tokens) (changed bool, err error) {
	if r.present() && r.tokens.Access == fresh.Access && r.tokens.Refresh == fresh.Refresh {
		return false, nil
	}
	if !r.awaits(claim) {
		return false, ErrSuperseded
	}
	r.set(fresh)
	return true, nil
}

// awaits reports whether the pair that the claim's exchange brings may be stored. The
// pairs are compared as well as their generations, because the latter begin anew when
// somebody replaces the whole record. A pair that was given up for unknown is what a
// late answer brings back to life.
func (r *record) awaits(claim Claim) bool {
	if r.tokens.Generation != claim.Current.Generation {
		return false
	}
	return r.ended == endedUnknown ||
		r.present() && r.tokens.Access == claim.Current.Access && r.tokens.Refresh == claim.Current.Refresh
}

// settle ends an exchange that gave no pair and reports whether the record changed.
// Except for a dead refresh token it only ends its own intent, never that of a later
// claim.
func (r *record) settle(claim Claim, outcome Outcome, now time.Time) (changed bool) {
	if !r.present() || !r.awaits(claim) {
		return false
	}
	if outcome == InvalidGrant {
		r.end(endedRefused)
		return true
	}
	if !r.intentAt.Equal(claim.Taken) {
		return false
	}
	r.intentAt = time.Time{}
	switch {
	case outcome == Unknown && r.suspect:
		r.postpone(r.retries, now) // the pause begins with the end of what went before
	case outcome == Unknown:
		r.suspect = true
	case r.suspect: // this exchange did nothing, but one before it may have
		r.retries, r.notBefore = max(r.retries-1, 0), time.Time{}
	}
	return true
}
