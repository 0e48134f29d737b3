package tenants_test

import (
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
)

// A 401 is no reason to ask the token endpoint more than once a minute, whichever
// replicas it reaches, also when nothing came of asking.
func TestForcedRefreshesAreAMinuteApart(t *testing.T) {
	t.Parallel()
	for _, outcome := range []prisma.Outcome{prisma.NotSent, prisma.Misconfigured} {
		t.Run(outcome.String(), func(t *testing.T) {
			t.Parallel()
			s := openService(t)
			ctx := t.Context()
			tenant := s.tenant(t, "Acme").ID
			id := s.connect(t, tenant, "user", s.pair(t, "1", "wksp_1")).ID
			s.db.Advance(t, 2*time.Minute)
			claim := func() prisma.Claim {
				t.Helper()
				replica := s.TokensOf(tenant, id)
				refused, err := replica.Tokens(ctx)
				ok(t, err)
				refused.ExpiresAt = refused.ReadAt // as after a 401
				claim, err := replica.Claim(ctx, refused)
				ok(t, err)
				return claim
			}
			first := claim()
			if !first.Due || !first.Forced {
				t.Fatalf("the first claim is due: %t, forced: %t", first.Due, first.Forced)
			}
			ok(t, s.TokensOf(tenant, id).Settle(ctx, first, outcome))
			for _, wait := range []time.Duration{0, 10 * time.Second, 45 * time.Second} {
				s.db.Advance(t, wait)
				if again := claim(); again.Due || again.Held {
					t.Errorf("%s later a claim is due: %t, held: %t", wait, again.Due, again.Held)
				}
			}
			s.db.Advance(t, 10*time.Second)
			if again := claim(); !again.Due {
				t.Error("no claim is due a minute later")
			}
		})
	}
}
