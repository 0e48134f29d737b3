package tenants_test

import (
	"testing"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

// count verifies, and tells how many findings nobody knows of and how many people do.
func (s *service) count(t *testing.T) (unknown, known int64, list []tenants.LedgerFinding) {
	t.Helper()
	list, summary := s.verify(t, tenants.LedgerCheck{})
	return summary.Findings, summary.Acknowledged, list
}

// A finding that people have looked into is told apart from new ones, and stays told. Who
// holds the database alone can't make one acknowledged.
func TestAcknowledgedFindings(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	for range 4 {
		s.created(t, tenant, tenants.NewSession{})
	}
	ada := tenants.Actor{Type: tenants.ActorCommand, ID: "ada"}
	want := func(what string, unknown, known int64) []tenants.LedgerFinding {
		t.Helper()
		gotUnknown, gotKnown, list := s.count(t)
		if gotUnknown != unknown || gotKnown != known {
			t.Errorf("%s: %d findings and %d acknowledged, want %d and %d: %+v", what, gotUnknown, gotKnown, unknown, known, list)
		}
		return list
	}
	s.sql(t, `DELETE FROM audit_log WHERE tenant_id = $1 AND sequence = 2`, tenant)
	gap := want("a row is gone", 1, 0)[0]

	// What somebody writes into the table is no acknowledgement, and a finding itself later.
	s.sql(t, `INSERT INTO admin_log (actor_type, action, target, details) VALUES ('command', 'ledger.acknowledged', $1, '{"reason": "x"}')`, gap.ID())
	want("a forged row without a MAC", 1, 0)
	s.sql(t, `DELETE FROM admin_log`)

	for _, reason := range []string{"", " ", "a\nb", "a\u202eb"} {
		err := s.AcknowledgeFinding(t.Context(), ada, gap, "text", reason)
		wantKind(t, "AcknowledgeFinding()", err, fault.InvalidValue)
	}
	ok(t, s.AcknowledgeFinding(t.Context(), ada, gap, "the row is missing", "deleted by hand; incident 7"))
	again := want("acknowledged", 0, 1)[0]
	if known := again.Acknowledged; known == nil || known.By != "ada" || known.Reason != "deleted by hand; incident 7" || known.At.IsZero() || again.ID() != gap.ID() {
		t.Errorf("the finding is %+v", again)
	}
	found, summary := s.verify(t, tenants.LedgerCheck{Tenant: tenant})
	if summary.Findings != 0 || summary.Acknowledged != 1 || len(found) != 1 {
		t.Errorf("of the tenant alone: %+v, %+v", summary, found)
	}

	s.sql(t, `DELETE FROM audit_log WHERE tenant_id = $1 AND sequence = 4`, tenant)
	other := want("another row is gone", 1, 1)
	s.sql(t, `UPDATE admin_log SET target = $1`, other[1].ID())
	want("an acknowledgement that is moved to another finding", 3, 0)
	s.sql(t, `UPDATE admin_log SET target = $1`, gap.ID())
	want("and moved back", 1, 1)

	// One that follows a gap proves nothing, and can be said again.
	ok(t, s.AcknowledgeFinding(t.Context(), ada, other[1], "the row is missing", "the same"))
	want("both", 0, 2)
	s.sql(t, `DELETE FROM admin_log WHERE chained = 1`)
	_, _, list := s.count(t)
	for _, f := range list {
		if f.Acknowledged != nil {
			t.Errorf("acknowledged by a row that does not prove itself: %+v", f)
		}
	}
	for _, f := range list {
		ok(t, s.AcknowledgeFinding(t.Context(), ada, f, f.What, "an attack; incident 8"))
	}
	want("said again", 0, int64(len(list)))
}
