package tenants_test

import (
	"testing"

	"github.com/connect-prisma/server/internal/tenants"
)

// openSealed is a tenant with four audit rows and an admin log with three, which no
// checkpoint has seen.
func openSealed(t *testing.T) (*service, tenants.TenantID) {
	t.Helper()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	s.tenant(t, "Bolt")
	for range 3 {
		s.session(t, tenants.System(), tenant)
		ok(t, s.NoteFailedSignIn(t.Context(), tenants.Actor{Type: tenants.ActorAdmin}))
	}
	s.proven(t)
	return s, tenant
}

// The newest rows, which no checkpoint has seen, can't be cut off: what the row with the
// head said before them can be read from the chain, but for its seal.
//
//nolint:tparallel // in one database
func TestCutAuditTailIsFound(t *testing.T) {
	t.Parallel()
	const (
		tables = `audit_log tenant_sequences admin_log admin_log_head`
		cut    = `WITH gone AS (DELETE FROM audit_log WHERE tenant_id = $1 AND sequence > 3)
			UPDATE tenant_sequences q SET audit = 3, audit_chained = 3, audit_head = l.mac `
		from      = ` FROM audit_log l WHERE q.tenant_id = $1 AND l.tenant_id = $1 AND l.sequence = 3`
		cutAdmins = `WITH gone AS (DELETE FROM admin_log WHERE chained > 2 AND $1::uuid IS NOT NULL)
			UPDATE admin_log_head h SET chained = 2, head = l.mac, covered = l.at - interval '1 minute' `
		fromAdmins = ` FROM admin_log l WHERE l.chained = 2`
		setBack    = "the tenant's sequence row was set back"
	)
	s, tenant := openSealed(t)
	s.expose(t, tables)
	s.sql(t, `ALTER TABLE admin_log ALTER id DROP IDENTITY`)
	tests := []struct{ name, sql, want string }{
		{"without a seal", cut + from, setBack + ": it has no seal"},
		{"with the later seal", cut + `, audit_seal = q.audit_seal || ''::bytea` + from, setBack + ": it has no seal"},
		{"with another tenant's", cut + `, audit_seal = (SELECT o.audit_seal FROM tenant_sequences o WHERE o.tenant_id <> q.tenant_id)` +
			from, setBack + ", or its seal"},
		{"admins', without a seal", cutAdmins + fromAdmins, "the row with the head was set back: it has no seal"},
		{"past the trigger", cut + from, setBack + ", or its seal"},
		{"admins', past the trigger", cutAdmins + fromAdmins, "the row with the head was set back, or its seal"},
	}
	for _, tc := range tests { //nolint:paralleltest // in one database
		t.Run(tc.name, func(t *testing.T) {
			if tc.name == "past the trigger" {
				s.sql(t, `ALTER TABLE tenant_sequences DISABLE TRIGGER unseal_audit`)
				s.sql(t, `ALTER TABLE admin_log_head DISABLE TRIGGER unseal_admin_log`)
			}
			s.sql(t, tc.sql, tenant)
			s.found(t, tc.want)
			if list, _ := s.verify(t, tenants.LedgerCheck{}); len(list) != 1 {
				t.Errorf("found %+v, want nothing but the seal", list)
			}
			s.restore(t, tables)
			s.proven(t)
		})
	}
}

// While both versions run, the one before moves the end of a chain and does not seal it.
// That is no finding, it is said, and this version's next row is followed by a seal again.
func TestVersionBeforeSealsNoAuditLog(t *testing.T) {
	t.Parallel()
	s, tenant := openSealed(t)
	want := func(sealed bool, unsealed int64) {
		t.Helper()
		if got := list[bool](t, s, `SELECT audit_seal IS NOT NULL FROM tenant_sequences WHERE tenant_id = $1
			UNION ALL SELECT seal IS NOT NULL FROM admin_log_head`, tenant); got[0] != sealed || got[1] != sealed {
			t.Errorf("the ends are sealed: %t, want %t", got, sealed)
		}
		if got := s.proven(t).Audit.Unsealed; got != unsealed {
			t.Errorf("%d ends are said not to be sealed, want %d", got, unsealed)
		}
	}
	want(true, 0)
	ok(t, s.RecordUnsealed(t.Context(), tenant))
	want(false, 2)
	s.session(t, tenants.System(), tenant)
	ok(t, s.NoteFailedSignIn(t.Context(), tenants.Actor{Type: tenants.ActorAdmin}))
	want(true, 0)
	s.oldRow(t, tenant) // one from before the chain leaves the end where it is, and its seal
	want(true, 0)
}

// So many rows without a MAC that the next one has none either leave the seal as it is.
func TestASealStaysWhereItsChainEnds(t *testing.T) {
	t.Parallel()
	s, tenant := openSealed(t)
	s.sql(t, `UPDATE tenant_sequences SET audit = audit + 1500 WHERE tenant_id = $1`, tenant)
	s.sql(t, `INSERT INTO audit_log (tenant_id, sequence, actor_type, action, target)
		SELECT tenant_id, n, 'user', 'connect_session.start', 'cs' FROM tenant_sequences, generate_series(audit - 1499, audit) n
		WHERE tenant_id = $1`, tenant)
	s.session(t, tenants.System(), tenant)
	if got := s.proven(t).Audit; got.Uncovered != 1501 || got.Unsealed != 0 {
		t.Errorf("verified %+v, want 1501 rows that are not covered, behind a sealed end", got)
	}
}
