package tenants_test

import (
	"testing"

	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/tenants"
)

// TestAClaimWhoseCommitNobodyAnswered: the code has left its row, so the claim that
// holds it must find out that it happened; one that did not happen leaves the code
// for the next.
func TestAClaimWhoseCommitNobodyAnswered(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	for _, after := range []bool{true, false} {
		x, code := s.returned(t, tenant, tenants.NewSession{})
		wire := &cutter{}
		cut := s.store(t, tenants.Config{Pool: openPool(t, s.db.AppURL, 1, wire)})
		wire.arm(1, after, false)
		wire.atMost(1)
		claim, err := cut.ClaimCompletion(t.Context(), tenants.System(), tenant, x.ID, code, x.UserID)
		if n := wire.disarm(); n != 1 {
			t.Fatalf("%d commits were cut, want 1", n)
		}
		if after {
			if err != nil || claim.Code != "code-"+x.ID.String() {
				t.Errorf("cut after the COMMIT: the claim is lost: %v", err)
			}
			continue
		}
		if !postgres.CommitUnknown(err) || claim.Code != "" {
			t.Errorf("cut before the COMMIT: %v", err)
		}
		again, err := s.ClaimCompletion(t.Context(), tenants.System(), tenant, x.ID, code, x.UserID)
		if err != nil || again.Code != "code-"+x.ID.String() {
			t.Errorf("the next claim: %v", err)
		}
	}
}
