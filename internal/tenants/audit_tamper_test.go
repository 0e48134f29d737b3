package tenants_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/tenants"
)

// audited is an installation whose audit logs have rows of every kind: signed ones,
// some with an address, ones of a version before the chain that are covered and ones that
// are not yet, and checkpoints in between.
type audited struct {
	*service

	owner, other tenants.TenantID
}

// oldRow writes an audit row as the version before the chain does.
func (s *service) oldRow(t *testing.T, tenant tenants.TenantID) {
	t.Helper()
	s.sql(t, `WITH n AS (UPDATE tenant_sequences SET audit = audit + 1 WHERE tenant_id = $1 RETURNING audit)
		INSERT INTO audit_log (tenant_id, sequence, actor_type, actor_id, action, target, request_id, ip, details)
		SELECT $1, audit, 'user', 'u-1', 'connect_session.start', 'cs_1', 'req_1', '192.0.2.1', '{"b": 1.50, "a": "x"}' FROM n`, tenant)
}

func openAudited(t *testing.T) *audited {
	t.Helper()
	a := &audited{service: openService(t)}
	by := tenants.Actor{Type: tenants.ActorUser, ID: "user", RequestID: "req_7", IP: netip.MustParseAddr("::ffff:192.0.2.7")}
	session := func(tenant tenants.TenantID) {
		t.Helper()
		_, _, err := a.CreateSession(t.Context(), by, tenant, tenants.NewSession{UserID: "user", ReturnURL: returnURL})
		ok(t, err)
	}
	a.sql(t, `INSERT INTO admin_log (action, request_id, ip) VALUES ('admin.sign_in_failed', 'req_0', '192.0.2.1'), ('admin.sign_in_failed', '', NULL)`)
	a.db.Advance(t, 2*time.Minute)
	a.owner, a.other = a.tenant(t, "Acme").ID, a.tenant(t, "Bolt").ID
	admin, err := a.SetAdmin(t.Context(), tenants.Actor{Type: tenants.ActorCommand, ID: "root"}, "root@example.com", "$argon2id$hash")
	ok(t, err)
	by.Type = tenants.ActorAdmin
	ok(t, a.NoteFailedSignIn(t.Context(), by))
	_, err = a.BeginAdminSession(t.Context(), by, admin.ID)
	ok(t, err)
	by.Type = tenants.ActorUser
	for _, tenant := range []tenants.TenantID{a.owner, a.other} {
		session(tenant)
		a.oldRow(t, tenant)
		a.oldRow(t, tenant)
		session(tenant)
		a.checkpoint(t)
		a.connect(t, tenant, "user", a.pair(t, tenant.String(), "wksp_1"))
	}
	a.sql(t, `INSERT INTO admin_log (action) VALUES ('admin.sign_in_failed')`)
	a.oldRow(t, a.owner)
	return a
}

const auditTables = `audit_log tenant_sequences admin_log admin_log_head ledger_checkpoints ledger_checkpoint_entries`

// exposed takes away all that the database itself would refuse, and keeps a copy.
func (a *audited) exposed(t *testing.T) {
	t.Helper()
	a.expose(t, auditTables)
	a.sql(t, `ALTER TABLE admin_log ALTER id DROP IDENTITY`)
}

func (a *audited) restored(t *testing.T) {
	t.Helper()
	a.restore(t, auditTables)
}

// expose takes away all that the database itself would refuse in tables, and keeps a copy
// of them.
func (s *service) expose(t *testing.T, tables string) {
	t.Helper()
	for table := range strings.FieldsSeq(tables) {
		for _, name := range list[string](t, s, `SELECT conname::text FROM pg_constraint WHERE conrelid = $1::text::regclass
			ORDER BY contype = 'p', conname`, table) {
			s.sql(t, fmt.Sprintf(`ALTER TABLE %s DROP CONSTRAINT %q CASCADE`, table, name))
		}
		for _, name := range list[string](t, s, `SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = $1::text::regclass`, table) {
			s.sql(t, `DROP INDEX `+name)
		}
		s.sql(t, fmt.Sprintf(`CREATE TABLE saved_%s AS TABLE %[1]s`, table))
	}
}

// restore puts back what expose has kept.
func (s *service) restore(t *testing.T, tables string) {
	t.Helper()
	for table := range strings.FieldsSeq(tables) {
		s.sql(t, `DELETE FROM `+table)
		s.sql(t, `INSERT INTO `+table+` TABLE saved_`+table)
	}
}

// changed is how a value of each type becomes another one.
func changed(column, kind string) string {
	switch kind {
	case "uuid":
		return "gen_random_uuid()"
	case "text":
		return fmt.Sprintf(`coalesce(%s, '') || 'x'`, column)
	case "int8":
		return fmt.Sprintf(`coalesce(%s, 0) + 1`, column)
	case "int4":
		return column + ` + 1`
	case "timestamptz":
		return column + ` + interval '1 microsecond'`
	case "inet":
		return fmt.Sprintf(`CASE WHEN %s IS NULL THEN inet '192.0.2.99' ELSE set_masklen(%[1]s, 24) END`, column)
	case "jsonb":
		return column + ` || '{"x": 1}'`
	case "bool":
		return "NOT " + column
	case "bytea":
		return fmt.Sprintf(`CASE WHEN %s IS NULL THEN sha256('x') ELSE set_byte(%[1]s, 31, get_byte(%[1]s, 31) # 1) END`, column)
	}
	return "a type that the test does not know: " + kind
}

// Whoever can write to the database, past every right and constraint, is found out:
// every column of every kind of row.
func TestAuditTampering(t *testing.T) {
	t.Parallel()
	a := openAudited(t)
	if got := a.proven(t).Audit; got.Chains != 3 || got.Covered != 6 || got.Uncovered != 2 {
		t.Fatalf("verified %+v, want 3 chains with 6 covered rows and 2 that are not yet", got)
	}
	a.exposed(t)
	rows := map[string]map[string]string{
		"audit_log": {
			"the first":           `tenant_id = $1 AND sequence = 1`,
			"one with an address": `tenant_id = $1 AND sequence = 2`,
			"a covered one":       `tenant_id = $1 AND sequence = 3`,
			"one that covers":     `tenant_id = $1 AND sequence = 5`,
			"one of later":        `tenant_id = $1 AND sequence = 7`,
			"the last":            `tenant_id = $1 AND sequence = (SELECT audit_chained FROM tenant_sequences WHERE tenant_id = $1)`,
		},
		"admin_log": {
			"a covered one":                    `id = 1 AND $1::uuid IS NOT NULL`,
			"another covered one":              `id = 2 AND $1::uuid IS NOT NULL`,
			"one that covers":                  `chained = 1 AND $1::uuid IS NOT NULL`,
			"one with an address and no admin": `chained = 2 AND $1::uuid IS NOT NULL`,
			"the last":                         `chained = 3 AND $1::uuid IS NOT NULL`,
		},
		"tenant_sequences": {"it": `tenant_id = $1`},
		"admin_log_head":   {"it": `$1::uuid IS NOT NULL`},
		"ledger_checkpoint_entries": {
			"the tenant's":       `tenant_id = $1 AND connection_id = '00000000-0000-0000-0000-000000000000'`,
			"the installation's": `tenant_id = '00000000-0000-0000-0000-000000000000' AND $1::uuid IS NOT NULL`,
		},
	}
	free := map[string]bool{
		"tenant_sequences.events": true, // counts the events, which are not signed
		"admin_log.id":            true, // of a signed row: its place in the chain is what counts
		"admin_log_head.one":      true, // says nothing
	}
	tampered := 0
	for table, which := range rows {
		for what, where := range which {
			for _, column := range list[string](t, a.service, `SELECT attname || ' ' || format_type(atttypid, NULL) || ' ' || t.typname
				FROM pg_attribute JOIN pg_type t ON t.oid = atttypid
				WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped`, table) {
				name, kind := strings.Fields(column)[0], column[strings.LastIndex(column, " ")+1:]
				if free[table+"."+name] && !strings.Contains(what, "covered one") {
					continue
				}
				a.sql(t, fmt.Sprintf(`UPDATE %s SET %s = %s WHERE %s`, table, name, changed(name, kind), where), a.owner)
				if found, _ := a.verify(t, tenants.LedgerCheck{}); len(found) == 0 {
					t.Errorf("%s of %s in %s was altered, and nothing was found", name, what, table)
				}
				tampered++
				a.restored(t)
			}
		}
	}
	if tampered < 150 {
		t.Errorf("only %d columns were tampered with", tampered)
	}
	a.proven(t)
}

// Rows that were dropped, cut off, put elsewhere, swapped or added are found, and said to
// be just that.
func TestAuditRowsElsewhere(t *testing.T) {
	t.Parallel()
	a := openAudited(t)
	a.exposed(t)
	const columns = `at, actor_type, actor_id, action, target, request_id, ip, details, key_id, mac`
	tests := map[string]struct{ sql, want string }{
		"the first is dropped":       {`DELETE FROM audit_log WHERE tenant_id = $1 AND sequence = 1`, "the row is missing"},
		"one is dropped":             {`DELETE FROM audit_log WHERE tenant_id = $1 AND sequence = 6`, "the row is missing"},
		"a covered one is dropped":   {`DELETE FROM audit_log WHERE tenant_id = $1 AND sequence = 3`, "the row is missing"},
		"several are dropped":        {`DELETE FROM audit_log WHERE tenant_id = $1 AND sequence IN (5, 6)`, "the rows until 6 are missing"},
		"the last is dropped":        {`DELETE FROM audit_log WHERE tenant_id = $1 AND sequence = (SELECT audit FROM tenant_sequences WHERE tenant_id = $1)`, "its log ends at"},
		"all are dropped":            {`DELETE FROM audit_log WHERE tenant_id = $1`, "its log ends at 0"},
		"all, and the sequence row":  {`WITH gone AS (DELETE FROM audit_log WHERE tenant_id = $1) DELETE FROM tenant_sequences WHERE tenant_id = $1`, "its rows are gone"},
		"the sequence row":           {`DELETE FROM tenant_sequences WHERE tenant_id = $1`, "the tenant's sequence row is gone"},
		"one is there twice":         {`INSERT INTO audit_log SELECT * FROM audit_log WHERE tenant_id = $1 AND sequence = 6`, "the row is there twice"},
		"two are swapped":            {`UPDATE audit_log SET sequence = 13 - sequence WHERE tenant_id = $1 AND sequence IN (6, 7)`, "the row was altered"},
		"two covered are swapped":    {`UPDATE audit_log SET sequence = 7 - sequence WHERE tenant_id = $1 AND sequence IN (3, 4)`, "those without a MAC before it"},
		"a signed one loses its MAC": {`UPDATE audit_log SET mac = NULL, key_id = NULL WHERE tenant_id = $1 AND sequence = 6`, "was altered"},
		"one is dropped, and the rest moves up": {`WITH gone AS (DELETE FROM audit_log WHERE tenant_id = $1 AND sequence = 6),
			less AS (UPDATE tenant_sequences SET audit = audit - 1, audit_chained = audit_chained - 1 WHERE tenant_id = $1)
			UPDATE audit_log SET sequence = sequence - 1 WHERE tenant_id = $1 AND sequence > 6`, "the row was altered"},
		"the tail is cut, with head and count, to before a checkpoint": {`
			WITH gone AS (DELETE FROM audit_log WHERE tenant_id = $1 AND sequence > 2)
			UPDATE tenant_sequences q SET audit = 2, audit_chained = 2, audit_head = l.mac
			FROM audit_log l WHERE q.tenant_id = $1 AND l.tenant_id = $1 AND l.sequence = 2`, "a checkpoint saw the log until here"},
		"all, as if nothing had been": {`WITH gone AS (DELETE FROM audit_log WHERE tenant_id = $1), too AS (DELETE FROM ledger_checkpoint_entries)
			UPDATE tenant_sequences SET audit = 0, audit_chained = 0, audit_head = NULL, audit_seal = NULL WHERE tenant_id = $1`, "the tenant's log is empty"},
		"the seal is gone":                                  {`UPDATE tenant_sequences SET audit_seal = NULL WHERE tenant_id = $1`, "the tenant's sequence row was set back: it has no seal"},
		"the seal is another tenant's":                      {`UPDATE tenant_sequences q SET audit_seal = o.audit_seal FROM tenant_sequences o WHERE q.tenant_id = $1 AND o.tenant_id <> $1`, "its seal of where the chain ends was altered"},
		"the admins' seal is gone":                          {`UPDATE admin_log_head SET seal = NULL WHERE $1::uuid IS NOT NULL`, "the row with the head was set back: it has no seal"},
		"a row without a MAC says that it came with a seal": {`UPDATE audit_log SET head_sealed = true WHERE tenant_id = $1 AND sequence = 3`, "it has what belongs to a MAC"},
		"one of another tenant": {`UPDATE audit_log l SET (` + columns + `) = (SELECT ` + columns + ` FROM audit_log o
			WHERE o.tenant_id <> l.tenant_id AND o.sequence = l.sequence) WHERE tenant_id = $1 AND sequence = 2`, "does not belong here"},
		"a covered one of another tenant, of its own time": {`UPDATE audit_log l SET at = (SELECT at FROM audit_log o
			WHERE o.tenant_id <> l.tenant_id AND o.sequence = l.sequence) WHERE tenant_id = $1 AND sequence = 3`, "was altered"},
		"a whole log of another tenant": {`
			WITH gone AS (DELETE FROM audit_log WHERE tenant_id = $1), head AS (DELETE FROM tenant_sequences WHERE tenant_id = $1),
			moved AS (UPDATE audit_log SET tenant_id = $1 WHERE tenant_id <> $1)
			UPDATE tenant_sequences SET tenant_id = $1 WHERE tenant_id <> $1`, "does not belong here"},
		"one is added, as an old version would, long after": {`
			WITH n AS (UPDATE tenant_sequences SET audit = audit + 1 WHERE tenant_id = $1 RETURNING audit)
			INSERT INTO audit_log (tenant_id, sequence, at, actor_type, action, target)
			SELECT $1, audit, app.now() + interval '8 days', 'user', 'a.b', '' FROM n`, "long after the upgrade"},
		"one is added, and set back": {`
			WITH n AS (UPDATE tenant_sequences SET audit = audit + 1 WHERE tenant_id = $1 RETURNING audit)
			INSERT INTO audit_log (tenant_id, sequence, at, actor_type, action, target)
			SELECT $1, audit, app.now() - interval '2 hours', 'user', 'a.b', '' FROM n`, "an earlier time than the row before it"},
		"an admin's is dropped":         {`DELETE FROM admin_log WHERE chained = 2 AND $1::uuid IS NOT NULL`, "the row is missing"},
		"an admin's last is dropped":    {`DELETE FROM admin_log WHERE chained = 3 AND $1::uuid IS NOT NULL`, "should end with another MAC"},
		"an admin's covered is dropped": {`DELETE FROM admin_log WHERE id = 1 AND $1::uuid IS NOT NULL`, "those without a MAC before it"},
		"an admin's are swapped":        {`UPDATE admin_log SET chained = 5 - chained WHERE chained IN (2, 3) AND $1::uuid IS NOT NULL`, "the row was altered"},
		"an admin's loses its MAC":      {`UPDATE admin_log SET chained = NULL, mac = NULL, key_id = NULL WHERE chained = 2 AND $1::uuid IS NOT NULL`, "the row is missing"},
		"an admin's is added before":    {`INSERT INTO admin_log (id, at, action) SELECT 99, min(at), 'a.b' FROM admin_log WHERE $1::uuid IS NOT NULL`, "those without a MAC before it"},
		"an admin's is added long after": {`INSERT INTO admin_log (id, at, action) SELECT 99, max(at) + interval '8 days', 'a.b'
			FROM admin_log WHERE $1::uuid IS NOT NULL`, "long after the upgrade"},
		"the admins' tail is cut, with head and count": {`
			WITH gone AS (DELETE FROM admin_log WHERE chained > 1 AND $1::uuid IS NOT NULL)
			UPDATE admin_log_head SET chained = 1, head = (SELECT mac FROM admin_log WHERE chained = 1)`, "a checkpoint saw the log until here"},
		"the admins' head": {`DELETE FROM admin_log_head WHERE $1::uuid IS NOT NULL`, "the head of the chain is gone"},
	}
	for name, tc := range tests {
		a.sql(t, tc.sql, a.owner)
		found, _ := a.verify(t, tenants.LedgerCheck{})
		what := make([]string, 0, len(found))
		for _, f := range found {
			what = append(what, f.What)
			if f.Log != "" && (f.Tenant == tenants.TenantID{}) != (f.Log == tenants.AdminLog) {
				t.Errorf("%s: the finding %+v is of no log", name, f)
			}
		}
		if !strings.Contains(strings.Join(what, "\n"), tc.want) {
			t.Errorf("%s: not found: %q; only %q", name, tc.want, what)
		}
		a.restored(t)
	}
	a.proven(t)
}

// A run over one tenant finds what is its own, and nothing of others.
func TestAuditOfOneTenant(t *testing.T) {
	t.Parallel()
	a := openAudited(t)
	a.sql(t, `UPDATE audit_log SET target = 'x' WHERE tenant_id = $1 AND sequence = 2`, a.owner)
	if found, _ := a.verify(t, tenants.LedgerCheck{Tenant: a.owner}); len(found) != 1 || found[0].Sequence != 2 || found[0].Tenant != a.owner {
		t.Errorf("findings %+v, want row 2", found)
	}
	if found, summary := a.verify(t, tenants.LedgerCheck{Tenant: a.other}); len(found) != 0 || summary.Audit.Chains != 1 {
		t.Errorf("another tenant's: %+v of %+v", found, summary.Audit)
	}
}

// added puts a row in as the version before the chain would, with that time.
func (s *service) added(t *testing.T, tenant tenants.TenantID, at time.Time) {
	t.Helper()
	s.sql(t, `WITH n AS (UPDATE tenant_sequences SET audit = audit + 1 WHERE tenant_id = $1 RETURNING audit)
		INSERT INTO audit_log (tenant_id, sequence, at, actor_type, action, target) SELECT $1, audit, $2, 'user', 'a.b', '' FROM n`, tenant, at)
}

// Whoever has the service's password and no key can add rows, and choose their time: one of
// the days of an upgrade. They are found all the same, before and after a row with a MAC
// covers them.
func TestAuditRowsOfAChosenTime(t *testing.T) {
	t.Parallel()
	a := openAudited(t)
	a.checkpoint(t)
	a.proven(t)
	upgraded := a.now(t)
	a.db.Advance(t, 30*24*time.Hour)
	a.proven(t)
	a.added(t, a.other, upgraded.Add(24*time.Hour))
	for _, when := range []string{"before", "after"} {
		found, _ := a.verify(t, tenants.LedgerCheck{})
		if len(found) != 1 || found[0].Tenant != a.other || !strings.Contains(found[0].What, "long after the upgrade") {
			t.Errorf("%s a row covers it: findings %+v, want that it was long after the upgrade", when, found)
		}
		a.checkpoint(t)
	}
}
