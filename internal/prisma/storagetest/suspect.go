package storagetest

import (
	"fmt"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// outage is longer than any pause between late retries.
const outage = 2 * time.Hour

// suspectTests are those of a refresh token of which nobody knows whether it was used:
// it is presented again, but only when its access token has no life to lose.
func suspectTests() map[string]func(*bench) {
	unknown := func(b *bench, claim prisma.Claim) { b.settle(claim, prisma.Unknown) }
	died := func(b *bench, _ prisma.Claim) { b.Die(b.T) }
	tests := map[string]func(*bench){
		"a retry given back is not used up": func(b *bench) {
			b.settle(b.due("at first"), prisma.Unknown)
			b.Advance(b.T, late)
			b.settle(b.due("late"), prisma.NotSent)
			b.Advance(b.T, giveBack)
			b.settle(b.due("late again"), prisma.Unknown)
			b.wantClaim("before the access token's end", false, false)
		},
		"a further retry given back keeps its turn": func(b *bench) {
			b.settle(b.due("at first"), prisma.Unknown)
			b.Advance(b.T, late)
			b.settle(b.due("late"), prisma.Unknown)
			b.Advance(b.T, outage)
			b.settle(b.due("after the end"), prisma.NotSent)
			b.Advance(b.T, giveBack)
			b.wantClaim("after it was given back", true, false)
		},
		"a late retry is announced": func(b *bench) {
			b.settle(b.due("at first"), prisma.Unknown)
			b.Advance(b.T, late)
			for range 2 {
				claim, err := b.lease().Claim(b.Context(), b.stored())
				b.ok("Claim()", err)
				if !claim.Late || claim.Held || claim.Due {
					b.Fatalf("late: %t, held: %t, due: %t; want it late, and nothing changed", claim.Late, claim.Held, claim.Due)
				}
			}
			b.wantClaim("after two looks", true, false)
		},
		"a claim that was cut off and then sent nothing": func(b *bench) {
			claim := b.due("at first")
			b.Die(b.T)
			b.wantClaim("after its holder died", false, false)
			b.settle(claim, prisma.NotSent) // it did not die: it stood still
			b.Advance(b.T, giveBack)
			b.wantClaim("after it said that it sent nothing", true, false)
		},
		"an old claim does not end a newer one": func(b *bench) {
			old := b.due("at first")
			b.Die(b.T)
			b.Advance(b.T, late)
			newer := b.due("late")
			b.settle(old, prisma.NotSent)
			b.settle(old, prisma.Unknown)
			b.wantClaim("after the old claim was settled", false, true)
			b.ok("Save() of the newer claim", b.lease().Save(b.Context(), newer, b.fresh(newer, "second")))
			b.wantStored("Save()", "second")
		},
	}
	for name, leave := range map[string]func(*bench, prisma.Claim){"unknown outcome": unknown, "dead holder": died} {
		tests[name+": not while the access token lives"] = func(b *bench) {
			leave(b, b.due("at first"))
			for range 2 {
				b.wantClaim("early", false, false)
				b.wantStored("early", "first")
			}
			b.Advance(b.T, late)
			b.wantClaim("late", true, false)
		}
		tests[name+": at once when the API refused it"] = func(b *bench) {
			leave(b, b.due("at first"))
			refused := b.stored()
			refused.ReadAt = b.Now()
			refused.ExpiresAt = refused.ReadAt
			if claim := b.claimPair(b.Storage, refused); !claim.Due {
				b.Errorf("the claim is not due (held: %t)", claim.Held)
			}
		}
		tests[name+": again and again, with pauses"] = func(b *bench) {
			leave(b, b.due("at first"))
			b.Advance(b.T, late)
			leave(b, b.due("late"))
			for n := range 4 {
				b.Advance(b.T, outage)
				leave(b, b.due(fmt.Sprintf("again %d", n)))
				if name == "unknown outcome" { // a death may take longer than a pause
					b.wantClaim("at once", false, false)
				}
				b.wantStored("after an unknown outcome", "first")
			}
			b.Advance(b.T, outage)
			retry := b.due("at last")
			b.ok("Save()", b.lease().Save(b.Context(), retry, b.fresh(retry, "second")))
			b.wantStored("Save()", "second")
		}
		tests[name+": a further time only after the end"] = func(b *bench) {
			leave(b, b.due("at first"))
			refused := b.stored()
			refused.ReadAt = b.Now()
			refused.ExpiresAt = refused.ReadAt
			leave(b, b.claimPair(b.Storage, refused)) // long before
			if claim := b.claimPair(b.Storage, refused); claim.Due {
				b.Error("due once more while the access token lives")
			}
			b.Advance(b.T, b.first.ExpiresAt.Sub(b.Now())-30*time.Second)
			b.wantClaim("when the access token is about to end", false, false)
			b.Advance(b.T, time.Minute)
			b.wantClaim("after its end", true, false)
		}
		tests[name+": until the refresh token is too old"] = func(b *bench) {
			leave(b, b.due("at first"))
			b.Advance(b.T, prisma.RefreshTokenLife-life)
			leave(b, b.due("on its last day"))
			b.Advance(b.T, life)
			for range 2 {
				_, err := b.lease().Claim(b.Context(), b.first)
				b.wantKind("Claim() of a token that is too old", err, fault.ReconnectRequired)
				b.wantGone("too old", fault.ReconnectRequired)
			}
			b.set(b.Storage, b.pair("second"))
			b.wantStored("SetTokens() afterwards", "second")
			b.wantClaim("of the new login", true, false)
		}
		tests[name+": a success ends it"] = func(b *bench) {
			leave(b, b.due("at first"))
			b.Advance(b.T, late)
			retry := b.due("late")
			b.ok("Save()", b.lease().Save(b.Context(), retry, b.fresh(retry, "second")))
			b.wantStored("Save()", "second")
			b.settle(b.due("of the second pair"), prisma.Unknown) // the first time, for this one
			b.Advance(b.T, late)
			b.wantClaim("late, of the second pair", true, false)
		}
	}
	return tests
}

// giveUp lets the refresh token grow too old for a further retry.
func (b *bench) giveUp() {
	b.Helper()
	stored := b.stored()
	b.Advance(b.T, prisma.RefreshTokenLife)
	_, err := b.lease().Claim(b.Context(), stored)
	b.wantKind("Claim()", err, fault.ReconnectRequired)
	b.wantGone("given up", fault.ReconnectRequired)
}

// fenceTests are those of a save that comes late, or for nothing.
func fenceTests() map[string]func(*bench) {
	return map[string]func(*bench){
		"a save after its lease": func(b *bench) {
			claim := b.due("at first")
			b.Die(b.T)
			b.ok("Save()", b.lease().Save(b.Context(), claim, b.fresh(claim, "second")))
			b.wantStored("Save()", "second")
			b.wantClaim("after a late save", true, false)
		},
		"a save after another took over": func(b *bench) {
			claim := b.due("at first")
			b.Die(b.T)
			b.Advance(b.T, late)
			retry := b.due("late")
			b.ok("Save()", b.lease().Save(b.Context(), claim, b.fresh(claim, "second")))
			b.wantStored("Save()", "second")
			b.wantSuperseded("Save() of the retry", b.lease().Save(b.Context(), retry, b.fresh(retry, "third")))
			b.settle(retry, prisma.InvalidGrant) // it was late: the newer pair stays
			b.wantStored("Settle() of the retry", "second")
		},
		"a save after the pair was given up for unknown": func(b *bench) {
			claim := b.due("at first")
			b.Die(b.T)
			b.Advance(b.T, late)
			b.settle(b.due("late"), prisma.Unknown)
			b.giveUp()
			b.ok("Save()", b.lease().Save(b.Context(), claim, b.fresh(claim, "second")))
			b.wantStored("a save that came late", "second")
		},
		"a save from before the pair that was given up": func(b *bench) {
			claim := b.due("at first")
			b.Die(b.T)
			b.set(b.Storage, b.pair("new"))
			b.settle(b.due("of the new login"), prisma.Unknown)
			b.Advance(b.T, late)
			b.settle(b.due("late"), prisma.Unknown)
			b.giveUp()
			b.wantSuperseded("Save()", b.lease().Save(b.Context(), claim, b.fresh(claim, "second")))
			b.wantGone("given up", fault.ReconnectRequired)
		},
		"a save after a login": func(b *bench) {
			claim := b.due("at first")
			b.set(b.Other(b.T), b.pair("new"))
			b.wantSuperseded("Save()", b.lease().Save(b.Context(), claim, b.fresh(claim, "second")))
			for _, outcome := range []prisma.Outcome{prisma.NotSent, prisma.Unknown, prisma.InvalidGrant} {
				b.settle(claim, outcome)
			}
			b.wantStored("what an old exchange said", "new")
			b.wantClaim("of the new login", true, false)
		},
		"a save after a logout": func(b *bench) {
			claim := b.due("at first")
			b.ok("ClearTokens()", b.Other(b.T).ClearTokens(b.Context()))
			b.wantSuperseded("Save()", b.lease().Save(b.Context(), claim, b.fresh(claim, "second")))
			b.settle(claim, prisma.Unknown)
			b.wantGone("what an old exchange said", fault.NotFound)
			if b.Final {
				return
			}
			b.set(b.Other(b.T), b.pair("new"))
			b.wantSuperseded("Save() after the next login", b.lease().Save(b.Context(), claim, b.fresh(claim, "second")))
			b.settle(claim, prisma.InvalidGrant)
			b.wantStored("what an old exchange said", "new")
		},
	}
}
