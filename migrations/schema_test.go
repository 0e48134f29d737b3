package migrations_test

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/postgres"
)

// The tables of schema public that don't lead with tenant_id, and why.
var noTenant = map[string]string{
	"tenants":            "its id is the tenant",
	"admins":             "belongs to the installation",
	"admin_sessions":     "belongs to the installation",
	"admin_log":          "belongs to the installation",
	"admin_log_head":     "belongs to the installation",
	"ledger_checkpoints": "one chain over all tenants' ledgers",
	"goose_db_version":   "the migrations' own, closed to the service",
}

// The tables whose rows nobody but their owner may change or delete.
var appendOnly = []string{
	"events", "audit_log", "admin_log", "refresh_ledger", "ledger_checkpoints", "ledger_checkpoint_entries",
	"app.fence",
}

// Every table that is ever added to the schema must keep the rules of tenancy.
func TestEveryTableKeepsTenantsApart(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.Open(t).AdminURL)
	type table struct {
		Name            string
		Enabled, Forced bool
		Owner           string
		KeyColumns      []string
		Policies        []string // role: USING
	}
	tables := all[table](t, conn, `
		SELECT c.relname::text, c.relrowsecurity, c.relforcerowsecurity, r.rolname::text,
		       ARRAY(SELECT a.attname::text FROM pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
		             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
		             WHERE i.indrelid = c.oid AND i.indisprimary AND i.indrelid = a.attrelid ORDER BY k.place),
		       ARRAY(SELECT role::text || ': ' || p.qual FROM pg_policies p, unnest(p.roles) AS role
		             WHERE p.schemaname = 'public' AND p.tablename = c.relname AND role <> 'connect_owner' ORDER BY 1)
		FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
		WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY c.relname`)
	if len(tables) < 12 {
		t.Fatalf("found %d tables, want at least 12", len(tables))
	}
	for _, table := range tables {
		t.Run(table.Name, func(t *testing.T) {
			t.Parallel()
			if table.Owner != "connect_owner" {
				t.Errorf("its owner is %s", table.Owner)
			}
			if table.Name == "goose_db_version" {
				return // TestServiceSeesNoOtherTable
			}
			if !table.Enabled || !table.Forced {
				t.Errorf("row-level security: enabled = %t, forced = %t", table.Enabled, table.Forced)
			}
			want := []string{"connect_app: (tenant_id = app.tenant())", "connect_operator: true"}
			switch _, exempt := noTenant[table.Name]; {
			case table.Name == "tenants":
				want[0] = "connect_app: (id = app.tenant())"
			case exempt:
				want = want[1:]
			case len(table.KeyColumns) == 0 || table.KeyColumns[0] != "tenant_id":
				t.Errorf("its primary key is %v, want tenant_id first", table.KeyColumns)
			}
			if diff := cmp.Diff(want, table.Policies); diff != "" {
				t.Errorf("policies (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUniqueIndexesLeadWithTheTenant(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.Open(t).AdminURL)
	type index struct{ Table, Name, First string }
	indexes := all[index](t, conn, `
		SELECT c.relname::text, i.indexrelid::regclass::text, pg_get_indexdef(i.indexrelid, 1, true)
		FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
		WHERE c.relnamespace = 'public'::regnamespace AND i.indisunique`)
	if len(indexes) < 12 {
		t.Fatalf("found %d unique indexes, want at least 12", len(indexes))
	}
	for _, index := range indexes {
		if _, exempt := noTenant[index.Table]; !exempt && index.First != "tenant_id" {
			t.Errorf("%s of %s begins with %s: one tenant could see that another has a value", index.Name, index.Table, index.First)
		}
	}
}

func TestForeignKeysStayWithinTheTenant(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.Open(t).AdminURL)
	type key struct{ Name, From, To, FromColumn, ToColumn string }
	keys := all[key](t, conn, `
		SELECT k.conname::text, k.conrelid::regclass::text, k.confrelid::regclass::text, a.attname::text, b.attname::text
		FROM pg_constraint k
		JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1]
		JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = k.confkey[1]
		WHERE k.contype = 'f' AND k.connamespace = 'public'::regnamespace`)
	if len(keys) < 9 {
		t.Fatalf("found %d foreign keys, want at least 9", len(keys))
	}
	for _, k := range keys {
		if _, exempt := noTenant[k.From]; exempt {
			continue
		}
		if k.FromColumn != "tenant_id" || (k.ToColumn != "tenant_id" && k.To != "tenants") {
			t.Errorf("%s leads from %s.%s to %s.%s, want both tenants first", k.Name, k.From, k.FromColumn, k.To, k.ToColumn)
		}
	}
}

// two puts two tenants into a database, with a connection and a key each, by SQL
// that row-level security does not hold.
func two(t *testing.T, conn *pgx.Conn) (tenants, connections, keys [2]uuid.UUID) {
	t.Helper()
	for i := range 2 {
		tenants[i], connections[i], keys[i] = uuid.New(), uuid.New(), uuid.New()
		exec(t, conn, `INSERT INTO tenants (id, name, shared_client) VALUES ($1, 'Acme', true)`, tenants[i])
		exec(t, conn, `INSERT INTO connections (tenant_id, id, user_id, workspace_id, oauth_client_id, status, generation,
			access_token_sealed, access_issued_at, access_expires_at)
			VALUES ($1, $2, 'user', 'wksp', 'client', 'active', 1, '\x01', now(), now())`, tenants[i], connections[i])
		exec(t, conn, `INSERT INTO api_keys (tenant_id, id, name, hint, key_hash, scopes)
			VALUES ($1, $2, 'key', 'cpk_', sha256($3), '{read}')`, tenants[i], keys[i], keys[i][:])
	}
	return tenants, connections, keys
}

func TestForeignKeysRefuseAnotherTenantsRow(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.Open(t).AdminURL)
	tenants, connections, keys := two(t, conn)
	const session = `INSERT INTO connect_sessions (tenant_id, id, link_hash, user_id, user_label, completion, return_url,
		expires_at, status, connection_id, result_connection_id)
		VALUES ($1, gen_random_uuid(), sha256('x'), 'user', 'user', 'code', 'https://a.example', now(), `
	tests := map[string]string{
		"the pinned connection":     session + `'created', $2, NULL)`,
		"the resulting connection":  session + `'connected', NULL, $2)`,
		"a deletion's connection":   `INSERT INTO deletions (tenant_id, id, connection_id, resource_id, project_id, database_ids, look_at) VALUES ($1, gen_random_uuid(), $2, 'x', 'x', '{}', now())`,
		"an operation's connection": `INSERT INTO operations (tenant_id, id, connection_id, kind, request_hash, lease_until) VALUES ($1, gen_random_uuid(), $2, 'create_project', sha256('x'), now())`,
	}
	for name, sql := range tests { // one connection: not in parallel
		if _, err := conn.Exec(t.Context(), sql, tenants[0], connections[1]); postgres.SQLSTATE(err) != "23503" {
			t.Errorf("%s is another tenant's: %v, want a foreign key violation", name, err)
		}
		exec(t, conn, sql, tenants[0], connections[0])
	}
	const key = `INSERT INTO api_keys (tenant_id, id, name, hint, key_hash, scopes, succeeds)
		VALUES ($1, gen_random_uuid(), 'key', 'cpk_', sha256('x'), '{read}', $2)`
	if _, err := conn.Exec(t.Context(), key, tenants[0], keys[1]); postgres.SQLSTATE(err) != "23503" {
		t.Errorf("a key succeeds another tenant's: %v, want a foreign key violation", err)
	}
	exec(t, conn, key, tenants[0], keys[0])
}

// A tenant's rows are where the rules above look for them: in schema public, with a
// tenant that can't be missing, and read through no view.
func TestTenantsRowsAreInPublicTables(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.Open(t).AdminURL)
	type column struct {
		Table    string
		Public   bool
		Kind     string
		Type     string
		Required bool
	}
	columns := all[column](t, conn, `
		SELECT c.oid::regclass::text, c.relnamespace = 'public'::regnamespace, c.relkind::text, a.atttypid::regtype::text, a.attnotnull
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE a.attname ~ 'tenant' AND a.attnum > 0 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
		  AND n.nspname NOT IN ('pg_catalog', 'information_schema')`)
	if len(columns) < 12 {
		t.Fatalf("found %d tables with a tenant, want at least 12", len(columns))
	}
	for _, c := range columns {
		if !c.Public || c.Kind != "r" || c.Type != "uuid" || !c.Required {
			t.Errorf("%s: in public = %t, kind %s, type %s, required = %t", c.Table, c.Public, c.Kind, c.Type, c.Required)
		}
	}
	// And each policy holds for what is written too: USING stands for both if it stands alone.
	for _, policy := range all[struct{ Name string }](t, conn, `
		SELECT tablename || '.' || policyname FROM pg_policies WHERE schemaname = 'public' AND roles && '{connect_app,connect_operator,public}'
		  AND (cmd <> 'ALL' OR permissive <> 'PERMISSIVE' OR with_check IS NOT NULL OR roles && '{public}')`) {
		t.Errorf("policy %s is of another kind than the rest", policy.Name)
	}
}

// What the service's two roles may touch outside of schema public, and what not at
// all.
func TestServiceSeesNoOtherTable(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.Open(t).AdminURL)
	type grant struct{ Role, Relation, Privilege string }
	grants := all[grant](t, conn, `
		SELECT r.role, c.oid::regclass::text, p.privilege
		FROM (VALUES ('connect_app'), ('connect_operator')) AS r (role),
		     (VALUES ('SELECT'), ('INSERT'), ('UPDATE'), ('DELETE'), ('TRUNCATE'), ('REFERENCES'), ('TRIGGER')) AS p (privilege),
		     pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'river')
		  AND (has_table_privilege(r.role, c.oid, p.privilege)
		       OR p.privilege IN ('SELECT', 'INSERT', 'UPDATE') AND has_any_column_privilege(r.role, c.oid, p.privilege))`)
	for _, g := range grants {
		switch {
		case g.Relation == "app.deployment" && g.Privilege == "SELECT":
		case g.Relation == "app.deployment", g.Relation == "goose_db_version":
			t.Errorf("%s may %s %s", g.Role, g.Privilege, g.Relation)
		case slices.Contains([]string{"TRUNCATE", "REFERENCES", "TRIGGER"}, g.Privilege):
			t.Errorf("%s may %s %s", g.Role, g.Privilege, g.Relation)
		case slices.Contains(appendOnly, g.Relation) && g.Privilege != "SELECT" && g.Privilege != "INSERT":
			t.Errorf("%s may %s %s, which is append-only", g.Role, g.Privilege, g.Relation)
		case slices.Contains([]string{"admins", "admin_sessions", "admin_log", "ledger_checkpoints"}, g.Relation) && g.Role == "connect_app":
			t.Errorf("connect_app may %s %s", g.Privilege, g.Relation)
		}
	}
	type schema struct {
		Role, Name string
	}
	for _, s := range all[schema](t, conn, `
		SELECT r.role, n.nspname::text FROM (VALUES ('connect_app'), ('connect_operator')) AS r (role), pg_namespace n
		WHERE has_schema_privilege(r.role, n.oid, 'CREATE') AND n.nspname !~ '^pg_(toast_)?temp_'`) {
		t.Errorf("%s may create objects in schema %s", s.Role, s.Name)
	}
}
