package tenants_test

import (
	"net/netip"
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
	s.sql(t, `UPDATE audit_log SET mac = NULL, key_id = NULL`)
	s.sql(t, `UPDATE tenant_sequences SET audit_chained = 0, audit_head = NULL`)
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
