package tenants_test

import (
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/tenants"
)

// session makes a session, and with it an audit row.
func (s *service) session(t *testing.T, by tenants.Actor, tenant tenants.TenantID) {
	t.Helper()
	_, _, err := s.CreateSession(t.Context(), by, tenant, tenants.NewSession{UserID: "user", ReturnURL: returnURL})
	ok(t, err)
}

// What a version before the chain has written, and goes on to write while both run, is
// bound in by the next row, however much it is.
func TestRowsOfAnOldVersion(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	// As the migration finds it.
	s.sql(t, `UPDATE audit_log SET mac = NULL, key_id = NULL, head_sealed = false`)
	s.sql(t, `UPDATE tenant_sequences SET audit_chained = 0, audit_head = NULL, audit_seal = NULL`)
	want := func(covered, uncovered int64) {
		t.Helper()
		if got := s.proven(t).Audit; got.Covered != covered || got.Uncovered != uncovered {
			t.Errorf("%d rows are covered and %d are not, want %d and %d", got.Covered, got.Uncovered, covered, uncovered)
		}
	}
	want(0, 1)
	s.session(t, tenants.System(), tenant)
	want(1, 0)
	s.oldRow(t, tenant)
	want(1, 1)
	s.session(t, tenants.System(), tenant)
	want(2, 0)
	// More than one row covers in passing: the checkpoint's job does it.
	s.sql(t, `UPDATE tenant_sequences SET audit = audit + 1500`)
	s.sql(t, `INSERT INTO audit_log (tenant_id, sequence, actor_type, action, target)
		SELECT tenant_id, n, 'user', 'connect_session.start', 'cs' FROM tenant_sequences, generate_series(audit - 1499, audit) n`)
	s.session(t, tenants.System(), tenant)
	want(2, 1501)
	s.checkpoint(t)
	want(1503, 0)
	if got := one[string](t, s, `SELECT concat_ws(' ', actor_type, action, details->>'from', details->>'until') FROM audit_log ORDER BY sequence DESC LIMIT 1`); got != "system audit.adopted 5 1505" {
		t.Errorf("the last row says %s", got)
	}
	s.checkpoint(t)
	s.session(t, tenants.System(), tenant)
	want(1503, 0)
	s.gapless(t, tenant)
}

// A row of a version before the chain that was taken away before anything covered it does
// not end the signing: what is left is covered, the chain says how many are missing and
// goes on, and verifying says which. Taken away later, the MAC does not fit any more.
func TestAMissingRowEndsNoChain(t *testing.T) {
	t.Parallel()
	by := tenants.System()
	tests := map[string]struct {
		old  int   // rows without a MAC
		gone int64 // the first of them that is taken away
		last int64
		goOn func(t *testing.T, s *service, tenant tenants.TenantID)
		want string // what the adopting row says
		what string
	}{
		"found by the next change": {
			old: 3, gone: 3, last: 3, goOn: func(t *testing.T, s *service, tenant tenants.TenantID) { t.Helper(); s.session(t, by, tenant) },
			want: "2 4 1", what: "the row is missing: they were already when row 5 was signed over what there was",
		},
		"all of them": {
			old: 2, gone: 2, last: 3, goOn: func(t *testing.T, s *service, tenant tenants.TenantID) { t.Helper(); s.session(t, by, tenant) },
			want: "2 3 2", what: "the rows until 3 are missing: they were already when row 4 was signed over what there was",
		},
		"of so many that the checkpoint's job covers them": {
			old: 1100, gone: 10, last: 19, goOn: func(t *testing.T, s *service, tenant tenants.TenantID) {
				t.Helper()
				s.session(t, by, tenant)
				s.checkpoint(t)
				s.checkpoint(t) // adopts nothing twice
			},
			want: "2 1102 10", what: "the rows until 19 are missing: they were already when row 1103 was signed over what there was",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := openService(t)
			tenant := s.tenant(t, "Acme").ID
			s.sql(t, `UPDATE tenant_sequences SET audit = audit + $1`, tc.old)
			s.sql(t, `INSERT INTO audit_log (tenant_id, sequence, actor_type, action, target)
				SELECT tenant_id, n, 'user', 'connect_session.start', 'cs' FROM tenant_sequences, generate_series(2, audit) n`)
			s.sql(t, `DELETE FROM audit_log WHERE sequence BETWEEN $1 AND $2`, tc.gone, tc.last)
			tc.goOn(t, s, tenant)
			s.session(t, by, tenant)
			if got := list[string](t, s, `SELECT concat_ws(' ', details->>'from', details->>'until', details->>'missing')
				FROM audit_log WHERE action = 'audit.adopted'`); len(got) != 1 || got[0] != tc.want {
				t.Errorf("adopted %q, want %q, once", got, tc.want)
			}
			if !one[bool](t, s, `SELECT audit = audit_chained FROM tenant_sequences`) {
				t.Error("the last row has no MAC")
			}
			found, summary := s.verify(t, tenants.LedgerCheck{})
			if len(found) != 1 || found[0].Sequence != tc.gone || found[0].What != tc.what {
				t.Errorf("found %+v, want %q of row %d and nothing else", found, tc.what, tc.gone)
			}
			if summary.Audit.Uncovered != 0 {
				t.Errorf("%d rows are not covered", summary.Audit.Uncovered)
			}
			if gone := int(tc.last - tc.gone + 1); gone == tc.old {
				return
			}
			s.sql(t, `DELETE FROM audit_log WHERE mac IS NULL`)
			found, _ = s.verify(t, tenants.LedgerCheck{})
			for _, f := range found {
				if strings.Contains(f.What, "already") {
					t.Errorf("found %+v: the MAC rests on them", f)
				}
			}
			if len(found) != 1 || !strings.HasSuffix(found[0].What, "are missing") {
				t.Errorf("found %+v, want all that were covered", found)
			}
		})
	}
}

// An old and a new replica write at once: the chain holds, whoever comes first.
func TestOldAndNewReplicasAtOnce(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() { s.session(t, tenants.System(), tenant) })
		all.Go(func() { s.oldRow(t, tenant) })
		all.Go(func() { ok(t, s.NoteFailedSignIn(t.Context(), tenants.Actor{Type: tenants.ActorAdmin})) })
		all.Go(func() { s.sql(t, `INSERT INTO admin_log (action) VALUES ('admin.sign_in_failed')`) })
	}
	all.Wait()
	s.proven(t)
	s.checkpoint(t)
	s.db.Advance(t, 2*time.Minute)
	ok(t, s.NoteFailedSignIn(t.Context(), tenants.Actor{Type: tenants.ActorAdmin}))
	if got := s.proven(t).Audit; got.Covered != 40 || got.Uncovered != 0 {
		t.Errorf("%+v, want 40 covered rows", got)
	}
	s.gapless(t, tenant)
}

// Every way to write an address, and every text, is signed as the database gives it back.
func TestAuditRowsOfAllShapes(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	for _, ip := range []string{"192.0.2.7", "::ffff:192.0.2.7", "2001:db8::7", "fe80::1%eth0", "::1", "0.0.0.0"} {
		by := tenants.Actor{Type: tenants.ActorAPIKey, ID: "käy <&>", RequestID: "req\u2028", IP: netip.MustParseAddr(ip)}
		s.session(t, by, tenant)
		_, err := s.BeginCall(t.Context(), by, tenant, tenants.OutgoingCall{Operation: "DELETE /v1/x/{y}?<>&\u2029\u0001 \xff", Target: "é"})
		ok(t, err)
		ok(t, s.NoteFailedSignIn(t.Context(), tenants.Actor{Type: tenants.ActorAdmin, IP: by.IP, RequestID: by.RequestID}))
	}
	s.proven(t)
	if got := list[string](t, s, `SELECT DISTINCT host(ip) FROM audit_log WHERE ip IS NOT NULL ORDER BY 1`); len(got) != 5 {
		t.Errorf("addresses %q: one address in two forms is one", got)
	}
}
