package migrations_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/devpg"
	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/migrations"
)

var forTest = migrations.Options{Environment: "test"}

// dump is the whole schema in words, for comparing.
func dump(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	type line struct{ Text string }
	lines := make([]string, 0, 200)
	for _, l := range all[line](t, conn, `
		SELECT format('%s.%s %s %s %s', n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE n.nspname IN ('public', 'app', 'river') AND a.attnum > 0 AND NOT a.attisdropped
		UNION ALL SELECT format('%s %s', conname, pg_get_constraintdef(oid)) FROM pg_constraint
		WHERE connamespace IN ('public'::regnamespace, 'app'::regnamespace)
		UNION ALL SELECT format('%s %s', tablename, policyname) FROM pg_policies
		UNION ALL SELECT format('version %s', version_id) FROM public.goose_db_version
		ORDER BY 1`) {
		lines = append(lines, l.Text)
	}
	return lines
}

func TestUpTwice(t *testing.T) {
	t.Parallel()
	db := pgtest.OpenEmpty(t)
	if err := migrations.Up(t.Context(), db.OwnerURL, forTest); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, db.AdminURL)
	before := dump(t, conn)
	if err := migrations.Up(t.Context(), db.OwnerURL, forTest); err != nil {
		t.Fatalf("the second Up() = %v", err)
	}
	if diff := cmp.Diff(before, dump(t, conn)); diff != "" {
		t.Errorf("the second Up changed the schema (-before +after):\n%s", diff)
	}
	if err := migrations.Check(t.Context(), connect(t, db.AppURL)); err != nil {
		t.Errorf("Check() = %v", err)
	}
}

// Replicas that start together wait for each other.
func TestUpConcurrently(t *testing.T) {
	t.Parallel()
	db := pgtest.OpenEmpty(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if err := migrations.Up(t.Context(), db.OwnerURL, forTest); err != nil {
				t.Errorf("Up() = %v", err)
			}
		})
	}
	all.Wait()
	conn := connect(t, db.AdminURL)
	if n := one[int](t, conn, `SELECT count(*)::int - count(DISTINCT version_id)::int FROM goose_db_version`); n != 0 {
		t.Errorf("%d migrations ran twice", n)
	}
	if err := migrations.Check(t.Context(), connect(t, db.AppURL)); err != nil {
		t.Errorf("Check() = %v", err)
	}
}

// Of two that name the environment of a new database at once, the second must read
// what the first has written.
func TestUpWhileAnotherNamesTheEnvironment(t *testing.T) {
	t.Parallel()
	db := pgtest.OpenEmpty(t)
	if err := migrations.Up(t.Context(), db.OwnerURL, forTest); err != nil {
		t.Fatal(err)
	}
	admin, first := connect(t, db.AdminURL), connect(t, db.OwnerURL)
	exec(t, admin, `DELETE FROM app.deployment`)
	exec(t, first, `BEGIN`)
	exec(t, first, `INSERT INTO app.deployment (environment) VALUES ('test')`)
	second := make(chan error, 1)
	go func() { second <- migrations.Up(t.Context(), db.OwnerURL, forTest) }()
	for one[int](t, admin, `SELECT count(*)::int FROM pg_stat_activity
		WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE '%app.deployment%'`) == 0 {
		select {
		case err := <-second:
			t.Fatalf("Up() = %v before the first has committed", err)
		case <-time.After(5 * time.Millisecond):
		}
	}
	exec(t, first, `COMMIT`)
	if err := <-second; err != nil {
		t.Errorf("Up() = %v", err)
	}
}

func TestUpForAnotherEnvironment(t *testing.T) {
	t.Parallel()
	db := pgtest.OpenEmpty(t)
	if err := migrations.Up(t.Context(), db.OwnerURL, migrations.Options{Environment: "production"}); err != nil {
		t.Fatal(err)
	}
	app := connect(t, db.AppURL)
	if name, err := migrations.Environment(t.Context(), app); err != nil || name != "production" {
		t.Errorf("Environment() = %q, %v", name, err)
	}
	admin := connect(t, db.AdminURL)
	// Nothing may be migrated before the names are compared: this version would fail.
	exec(t, admin, `DELETE FROM goose_db_version WHERE version_id = (SELECT max(version_id) FROM goose_db_version)`)
	err := migrations.Up(t.Context(), db.OwnerURL, migrations.Options{Environment: "staging"})
	if !errors.Is(err, migrations.ErrOtherEnvironment) || !strings.Contains(err.Error(), "production") {
		t.Errorf("Up() = %v, want ErrOtherEnvironment that names production", err)
	}
	if _, err := admin.Exec(t.Context(), `UPDATE app.deployment SET clock_offset = interval '1 second'`); err == nil {
		t.Error("the clock of production moves")
	}
}

func TestUpRefuses(t *testing.T) {
	t.Parallel()
	db := pgtest.OpenEmpty(t)
	for _, environment := range []string{"", "Production", "a b", "x'; DROP SCHEMA app", strings.Repeat("a", 41)} {
		if err := migrations.Up(t.Context(), db.OwnerURL, migrations.Options{Environment: environment}); err == nil {
			t.Errorf("Up() takes the environment %q", environment)
		}
	}
	if one[bool](t, connect(t, db.OwnerURL), `SELECT to_regnamespace('app') IS NOT NULL`) {
		t.Error("Up() migrates before it looks at the environment's name")
	}
	if err := migrations.Up(t.Context(), db.AppURL, forTest); err == nil {
		t.Error("Up() works as connect_app")
	}
	err := migrations.Up(t.Context(), "postgres://owner:canary-5512@host:port/x", forTest)
	if err == nil || strings.Contains(err.Error(), "canary-5512") {
		t.Errorf("Up() = %v, want an error without the URL", err)
	}
	err = migrations.Up(t.Context(), "postgres://owner:canary-5512@127.0.0.1:1/x?sslmode=disable", forTest)
	if err == nil || strings.Contains(err.Error(), "canary-5512") {
		t.Errorf("Up() = %v, want an error without the password", err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	db := pgtest.OpenEmpty(t)
	app := connect(t, db.AppURL)
	if err := migrations.Check(t.Context(), app); !errors.Is(err, migrations.ErrOutdated) {
		t.Errorf("of an empty database: Check() = %v, want ErrOutdated", err)
	}
	if err := migrations.Up(t.Context(), db.OwnerURL, forTest); err != nil {
		t.Fatal(err)
	}
	target, err := migrations.Target()
	if err != nil {
		t.Fatal(err)
	}
	admin := connect(t, db.AdminURL)
	if got := one[int64](t, admin, `SELECT max(version_id) FROM goose_db_version`); got != target {
		t.Errorf("Up() led to version %d, Target() = %d", got, target)
	}
	for _, tc := range []struct {
		name, sql string
		want      error
	}{
		{"the newest", `SELECT 1`, nil},
		{"a newer one", `INSERT INTO goose_db_version (version_id, is_applied) VALUES (999, true)`, nil},
		{"an older one", `DELETE FROM goose_db_version WHERE version_id >= (SELECT max(version_id) FROM goose_db_version WHERE version_id < 999)`, migrations.ErrOutdated},
		{"one before versions could be asked for", `DROP FUNCTION app.schema_version()`, migrations.ErrOutdated},
		{"one that is not ours", `DROP SCHEMA app CASCADE`, migrations.ErrOutdated},
	} {
		exec(t, admin, tc.sql)
		if err := migrations.Check(t.Context(), app); !errors.Is(err, tc.want) {
			t.Errorf("of %s: Check() = %v, want %v", tc.name, err, tc.want)
		}
	}
	if err := app.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Check(t.Context(), app); err == nil || errors.Is(err, migrations.ErrOutdated) {
		t.Errorf("of a database that is away: Check() = %v, want another error", err)
	}
}

// On a server that has never seen the service, a plain owner with CREATEROLE makes
// the roles, and nothing that a superuser is needed for.
func TestUpOnAFreshServer(t *testing.T) {
	t.Parallel()
	server, err := devpg.Start(t.Context(), devpg.Config{Dir: filepath.Join(t.TempDir(), "pg"), Ephemeral: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	admin := connect(t, server.URL("postgres"))
	password := rand.Text()
	exec(t, admin, `CREATE ROLE keeper LOGIN CREATEROLE PASSWORD '`+password+`'`)
	exec(t, admin, `CREATE DATABASE connect OWNER keeper TEMPLATE template0`)
	exec(t, admin, `CREATE DATABASE connect_too OWNER keeper TEMPLATE template0`)
	for _, database := range []string{"connect", "connect_too"} { // the second finds the roles
		owner, err := url.Parse(server.URL(database))
		if err != nil {
			t.Fatal("the server's URL can't be parsed")
		}
		owner.User = url.UserPassword("keeper", password)
		if err := migrations.Up(t.Context(), owner.String(), forTest); err != nil {
			t.Fatalf("%s: Up() = %v", database, err)
		}
	}
	type role struct {
		Name                                           string
		Login, Inherit, Super, Bypass, Database, Roles bool
	}
	got := all[role](t, admin, `SELECT rolname::text, rolcanlogin, rolinherit, rolsuper, rolbypassrls, rolcreatedb, rolcreaterole
		FROM pg_roles WHERE rolname IN ('connect_app', 'connect_operator') ORDER BY 1`)
	want := []role{{Name: "connect_app", Login: true}, {Name: "connect_operator", Inherit: true}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("roles (-want +got):\n%s", diff)
	}
	if n := one[int](t, admin, `SELECT count(*)::int FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
		JOIN pg_roles g ON g.oid = m.roleid WHERE r.rolname = 'connect_app' AND g.rolname <> 'connect_operator'`); n != 0 {
		t.Errorf("connect_app is a member of %d other roles", n)
	}
}

func TestFingerprintIsStable(t *testing.T) {
	t.Parallel()
	if one, two := migrations.Fingerprint(), migrations.Fingerprint(); one != two || len(one) != 16 {
		t.Errorf("Fingerprint() = %q and %q, want the same 16 digits", one, two)
	}
}
