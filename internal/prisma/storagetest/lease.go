package storagetest

import (
	"sync"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// lease is the lease of the storage itself.
func (b *bench) lease() prisma.RefreshLease {
	b.Helper()
	return b.leaseOf(b.Storage)
}

func (b *bench) leaseOf(s prisma.TokenStorage) prisma.RefreshLease {
	b.Helper()
	lease, ok := s.(prisma.RefreshLease)
	if !ok {
		b.Fatal("this value has no lease")
	}
	return lease
}

// claim claims the stored pair through a value, as a refresher does: a storage that says
// that it would be a late retry is asked once more.
func (b *bench) claim(s prisma.TokenStorage) prisma.Claim {
	b.Helper()
	return b.claimPair(s, b.stored())
}

func (b *bench) claimPair(s prisma.TokenStorage, pair prisma.Tokens) prisma.Claim {
	b.Helper()
	claim, err := b.leaseOf(s).Claim(b.Context(), pair)
	b.ok("Claim()", err)
	if claim.Late && !claim.Due {
		pair.LateToo = true
		claim, err = b.leaseOf(s).Claim(b.Context(), pair)
		b.ok("Claim() of a late retry", err)
		if !claim.Late || !claim.Due {
			b.Errorf("a late retry: late: %t, due: %t", claim.Late, claim.Due)
		}
	}
	if claim.Due && claim.Held {
		b.Error("a claim is both due and held")
	}
	return claim
}

// due claims the stored pair, which must be due.
func (b *bench) due(what string) prisma.Claim {
	b.Helper()
	claim := b.claim(b.Storage)
	if !claim.Due {
		b.Fatalf("%s: the claim is not due (held: %t)", what, claim.Held)
	}
	return claim
}

// wantClaim claims the stored pair through another value and checks what comes of it.
func (b *bench) wantClaim(what string, due, held bool) {
	b.Helper()
	if claim := b.claim(b.Other(b.T)); claim.Due != due || claim.Held != held {
		b.Errorf("%s: the next claim is due: %t, held: %t; want %t, %t", what, claim.Due, claim.Held, due, held)
	}
}

// settle ends a claim.
func (b *bench) settle(claim prisma.Claim, outcome prisma.Outcome) {
	b.Helper()
	b.ok("Settle()", b.lease().Settle(b.Context(), claim, outcome))
}

// fresh is the pair of that name as the exchange of a claim brings it.
func (b *bench) fresh(claim prisma.Claim, name string) prisma.Tokens {
	tokens := b.pair(name)
	tokens.IssuedAt, tokens.ExpiresAt = claim.Taken, claim.Taken.Add(life)
	tokens.Generation = claim.Current.Generation + 1
	return tokens
}

// leaseTests are those of a lease that goes well.
func leaseTests() map[string]func(*bench) {
	return map[string]func(*bench){
		"claimed, held, saved": func(b *bench) {
			claim := b.due("at first")
			if !claim.Current.SamePair(b.first) || claim.Current.Refresh != "refresh-first" {
				b.Errorf("the claim has %v, want the stored pair", claim.Current)
			}
			if claim.Taken.Before(b.first.ReadAt) || claim.Taken.After(b.Now().Add(giveBack)) {
				b.Errorf("taken at %s, read at %s", claim.Taken, b.first.ReadAt)
			}
			b.wantClaim("while it is claimed", false, true)
			for range 2 { // the second time as after a commit that nobody heard of
				b.ok("Save()", b.lease().Save(b.Context(), claim, b.fresh(claim, "second")))
			}
			b.wantStored("Save()", "second")
			if got := b.stored(); got.Generation != claim.Current.Generation+1 || got.WorkspaceID != Workspace {
				b.Errorf("saved as %v, generation was %d", got, claim.Current.Generation)
			}
			old, err := b.lease().Claim(b.Context(), b.first)
			b.ok("Claim() of the old pair", err)
			if old.Due || old.Held || old.Current.Access != "access-second" {
				b.Errorf("Claim() of the old pair: due: %t, held: %t, %v", old.Due, old.Held, old.Current)
			}
			b.wantClaim("after Save()", true, false)
		},
		"without tokens": func(b *bench) {
			b.ok("ClearTokens()", b.Storage.ClearTokens(b.Context()))
			_, err := b.lease().Claim(b.Context(), b.first)
			b.wantKind("Claim()", err, fault.NotFound)
		},
		"one of many claims is due": func(b *bench) {
			const claims = 16
			var wg sync.WaitGroup
			results := make([]prisma.Claim, claims)
			for i := range claims {
				lease := b.leaseOf(b.Other(b.T))
				wg.Go(func() {
					var err error
					if results[i], err = lease.Claim(b.Context(), b.first); err != nil {
						b.Errorf("Claim(): %v", err)
					}
				})
			}
			wg.Wait()
			due, held := 0, 0
			for _, claim := range results {
				due += map[bool]int{true: 1}[claim.Due]
				held += map[bool]int{true: 1}[claim.Held]
			}
			if due != 1 || held != claims-1 {
				b.Errorf("%d claims are due and %d held, want 1 and %d", due, held, claims-1)
			}
		},
		"a context that has ended claims nothing": func(b *bench) {
			claim, err := b.lease().Claim(b.canceled(), b.first)
			b.wantCanceledOrNil("Claim()", err)
			if err != nil {
				b.wantClaim("after a claim that failed", true, false)
				return
			}
			err = b.lease().Save(b.canceled(), claim, b.fresh(claim, "second"))
			b.wantCanceledOrNil("Save()", err)
		},
		"a save that fails can be repeated": func(b *bench) {
			claim := b.due("at first")
			if err := b.lease().Save(b.canceled(), claim, b.fresh(claim, "second")); err != nil {
				b.wantCanceledOrNil("Save()", err)
				b.wantClaim("between two saves", false, true)
				b.ok("Save() again", b.lease().Save(b.Context(), claim, b.fresh(claim, "second")))
			}
			b.wantStored("Save()", "second")
		},
		"given back": func(b *bench) {
			for _, outcome := range []prisma.Outcome{prisma.NotSent, prisma.Misconfigured} {
				claim := b.due("before " + outcome.String())
				for range 2 {
					b.settle(claim, outcome)
				}
				b.wantStored("after "+outcome.String(), "first")
				b.Advance(b.T, giveBack)
			}
			b.wantClaim("after both", true, false)
		},
		"given back to be made again at once": func(b *bench) {
			claim := b.due("at first")
			claim.Again = true
			b.settle(claim, prisma.Misconfigured)
			b.wantStored("after it", "first")
			b.wantClaim("right after it", true, false)
		},
		"a dead refresh token": func(b *bench) {
			claim := b.due("at first")
			for range 2 {
				b.settle(claim, prisma.InvalidGrant)
				b.wantGone("after invalid_grant", fault.ReconnectRequired)
			}
			_, err := b.lease().Claim(b.Context(), b.first)
			b.wantKind("Claim()", err, fault.ReconnectRequired)
			b.set(b.Storage, b.pair("second"))
			b.wantStored("SetTokens() after invalid_grant", "second")
		},
	}
}
