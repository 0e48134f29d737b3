package migrations_test

import (
	"context"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/postgres"
)

// The functions that see more than their caller: what each may return.
var definers = map[string]string{
	"app.begin_fence()": "void",
	"app.cluster()":     "record",
	"app.token_writes_lost(uuid[],uuid[],bigint[])": "boolean",
	"app.delete_folded_rows(uuid,uuid)":             "bigint",
	"app.find_api_key(bytea[])":                     "TABLE(tenant_id uuid, key_id uuid)",
	"app.find_connect_link(bytea[])":                "TABLE(tenant_id uuid, session_id uuid)",
	"app.find_connect_session(uuid)":                "TABLE(tenant_id uuid)",
	"app.grant_is_shared(text,text,uuid)":           "boolean",
	"app.prune_checkpoint_entries()":                "bigint",
	"app.schema_version()":                          "bigint",
	"app.wal_position()":                            "bigint",
}

// Those that act across tenants are the operator's.
var operatorDefiners = []string{"app.delete_folded_rows(uuid,uuid)", "app.prune_checkpoint_entries()"}

func TestDefinerFunctions(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.Open(t).AdminURL)
	type function struct {
		Name, Result, Owner string
		Config              []string
		Super               bool
		Grantees            []string
	}
	found := map[string]string{}
	for _, f := range all[function](t, conn, `
		SELECT p.oid::regprocedure::text, pg_get_function_result(p.oid), r.rolname::text, coalesce(p.proconfig, '{}'), r.rolsuper,
		       ARRAY(SELECT coalesce(g.rolname::text, 'PUBLIC') FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a
		             LEFT JOIN pg_roles g ON g.oid = a.grantee WHERE a.grantee <> p.proowner ORDER BY 1)
		FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner JOIN pg_namespace n ON n.oid = p.pronamespace
		WHERE p.prosecdef AND n.nspname <> 'pg_catalog'`) {
		found[f.Name] = f.Result
		if diff := cmp.Diff([]string{`search_path=""`}, f.Config); diff != "" {
			t.Errorf("%s: settings (-want +got):\n%s", f.Name, diff)
		}
		if f.Super || f.Owner != "connect_owner" {
			t.Errorf("%s runs as %s, superuser = %t", f.Name, f.Owner, f.Super)
		}
		grantees := []string{"connect_app"}
		switch {
		case f.Name == "app.cluster()": // it tells nothing of any tenant
			grantees = []string{"connect_app", "connect_operator"}
		case slices.Contains(operatorDefiners, f.Name):
			grantees = []string{"connect_operator"}
		}
		if diff := cmp.Diff(grantees, f.Grantees); diff != "" {
			t.Errorf("%s: who may execute it (-want +got):\n%s", f.Name, diff)
		}
	}
	if diff := cmp.Diff(definers, found); diff != "" {
		t.Errorf("functions and their results (-want +got):\n%s", diff)
	}
}

// A caller that puts its own tables, operators and functions in front of the real
// ones changes nothing of what the look-ups read.
func TestLookupsIgnoreTheSearchPath(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	admin := connect(t, db.AdminURL)
	tenants, connections, keys := two(t, admin)
	foreign := uuid.New()
	// As connect_app, in a schema that somebody was careless enough to give it.
	exec(t, admin, `CREATE SCHEMA hostile AUTHORIZATION connect_app`)
	conn := connect(t, db.AppURL)
	for _, sql := range []string{
		`SET search_path = hostile, public, pg_catalog`,
		`CREATE TABLE hostile.api_keys AS SELECT '` + foreign.String() + `'::uuid AS tenant_id, '` + foreign.String() + `'::uuid AS id,
			sha256('\x00') AS key_hash`,
		`CREATE TEMP TABLE api_keys AS TABLE hostile.api_keys`,
		`CREATE TEMP TABLE connections AS SELECT 'client' AS oauth_client_id, 'nobody' AS workspace_id,
			gen_random_uuid() AS id, 'active' AS status`,
		`CREATE FUNCTION hostile.always(bytea, bytea) RETURNS boolean LANGUAGE sql AS 'SELECT true'`,
		`CREATE OPERATOR hostile.= (LEFTARG = bytea, RIGHTARG = bytea, FUNCTION = hostile.always)`,
		`CREATE FUNCTION hostile.always(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true'`,
		`CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.always)`,
	} {
		exec(t, conn, sql)
	}
	// The trap works where nothing guards against it.
	if !one[bool](t, conn, `SELECT '\x01'::bytea = '\x02'::bytea AND EXISTS (SELECT FROM api_keys)`) {
		t.Fatal("the hostile objects don't take effect")
	}

	const find = `SELECT tenant_id::text || key_id::text FROM app.find_api_key(ARRAY[$1::bytea])`
	var got string
	if err := conn.QueryRow(t.Context(), find, []byte("\x00")).Scan(&got); err == nil {
		t.Errorf("an unknown hash finds %s", got)
	}
	hash := one[[]byte](t, admin, `SELECT key_hash FROM api_keys WHERE id = $1`, keys[1])
	if got := one[string](t, conn, find, hash); got != tenants[1].String()+keys[1].String() {
		t.Errorf("a known hash finds %s", got)
	}
	const shared = `SELECT app.grant_is_shared($1, $2, $3)`
	if !one[bool](t, conn, shared, "client", "wksp", connections[0]) || one[bool](t, conn, shared, "client", "nobody", connections[0]) {
		t.Error("app.grant_is_shared does not read the real connections")
	}
}

// The look-ups tell ids, and nothing that their caller could not have guessed.
func TestLookupsNeedNoTenant(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	admin, conn := connect(t, db.AdminURL), connect(t, db.AppURL)
	tenants, _, keys := two(t, admin)
	hash := one[[]byte](t, admin, `SELECT key_hash FROM api_keys WHERE id = $1`, keys[0])
	got := one[uuid.UUID](t, conn, `SELECT tenant_id FROM app.find_api_key(ARRAY[$1::bytea])`, hash)
	if got != tenants[0] {
		t.Errorf("find_api_key() = %s, want %s", got, tenants[0])
	}
	// The operator acts for no browser: it has no use for them.
	exec(t, conn, `SET ROLE connect_operator`)
	for name := range definers {
		if slices.Contains(operatorDefiners, name) || name == "app.cluster()" {
			continue
		}
		var may bool
		err := conn.QueryRow(t.Context(), `SELECT has_function_privilege($1, 'EXECUTE')`, name).Scan(&may)
		if err != nil || may {
			t.Errorf("connect_operator may execute %s: %t, %v", name, may, err)
		}
	}
}

// The clock of a deployment moves for its owner alone, and never in production.
func TestClock(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	admin, app := connect(t, db.AdminURL), connect(t, db.AppURL)
	const move = `UPDATE app.deployment SET clock_offset = interval '1 hour'`
	for _, role := range []string{"connect_app", "connect_operator"} {
		exec(t, app, `SET ROLE `+role)
		for _, sql := range []string{
			move, `DELETE FROM app.deployment`, `TRUNCATE app.deployment`,
			`INSERT INTO app.deployment (environment) VALUES ('test')`,
			`CREATE OR REPLACE FUNCTION app.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT pg_catalog.now()'`,
		} {
			if _, err := app.Exec(t.Context(), sql); postgres.SQLSTATE(err) != "42501" {
				t.Errorf("%s as %s: %v, want it forbidden", sql, role, err)
			}
		}
	}
	const ahead = `SELECT round(extract(epoch FROM app.now() - now()))::int`
	exec(t, admin, move)
	if got := one[int](t, app, ahead); got != 3600 {
		t.Errorf("a test's clock is %d s ahead, want 3600", got)
	}
	if got := one[int](t, app, `SELECT round(extract(epoch FROM app.wall_clock() - clock_timestamp()))::int`); got != 3600 {
		t.Errorf("a test's wall clock is %d s ahead, want 3600", got)
	}
	for _, environment := range []string{"production", "staging", "dev", "testing"} {
		err := inTx(t.Context(), admin, `UPDATE app.deployment SET clock_offset = interval '0', environment = '`+environment+`'`, move)
		if postgres.SQLSTATE(err) != "23514" {
			t.Errorf("moving the clock of %s: %v, want a check violation", environment, err)
		}
		err = inTx(t.Context(), admin, `UPDATE app.deployment SET environment = '`+environment+`'`)
		if postgres.SQLSTATE(err) != "23514" {
			t.Errorf("a moved clock comes to %s: %v, want a check violation", environment, err)
		}
	}
	if _, err := admin.Exec(t.Context(), `INSERT INTO app.deployment (one, environment) VALUES (false, 'test')`); postgres.SQLSTATE(err) != "23514" {
		t.Errorf("a second deployment row: %v, want a check violation", err)
	}
}

// inTx runs statements in a transaction that is always rolled back.
func inTx(ctx context.Context, conn *pgx.Conn, statements ...string) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	for _, sql := range statements {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}
