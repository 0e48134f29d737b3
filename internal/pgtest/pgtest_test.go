package pgtest_test

import (
	"context"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/migrations"
)

// queryOne returns the one value of a query, on a connection of its own.
func queryOne[T any](t *testing.T, url, sql string, args ...any) T {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // clean-ups ask too
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	defer conn.Close(ctx)
	var got T
	if err := conn.QueryRow(ctx, sql, args...).Scan(&got); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return got
}

func TestOpenIsMigratedAndRunsAsTheApp(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	if err := migrations.Check(t.Context(), db.Pool); err != nil {
		t.Errorf("migrations.Check() = %v", err)
	}
	var who, environment string
	err := db.Pool.QueryRow(t.Context(), `SELECT current_user, environment FROM app.deployment`).Scan(&who, &environment)
	if err != nil {
		t.Fatal(err)
	}
	if who != "connect_app" || environment != "test" {
		t.Errorf("role = %s, environment = %s; want connect_app, test", who, environment)
	}

	const attributes = `SELECT concat_ws(' ', rolname, rolsuper, rolbypassrls, rolcreatedb, rolcreaterole) FROM pg_roles WHERE rolname = current_user`
	for url, want := range map[string]string{
		db.AppURL:   "connect_app f f f f",
		db.OwnerURL: "connect_owner f f t t",
	} {
		if got := queryOne[string](t, url, attributes); got != want {
			t.Errorf("role (super, bypass RLS, create databases, create roles) = %s, want %s", got, want)
		}
	}
	if !queryOne[bool](t, db.AdminURL, `SELECT rolsuper FROM pg_roles WHERE rolname = current_user`) {
		t.Error("AdminURL is no superuser's")
	}
	if got := queryOne[int](t, db.AdminURL, `SELECT count(*)::int FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE r.rolname = 'connect_app'`); got != 0 {
		t.Errorf("connect_app owns %d relations, want 0", got)
	}
}

func TestDatabasesAreApart(t *testing.T) {
	t.Parallel()
	one, two := pgtest.Open(t), pgtest.Open(t)
	one.Advance(t, 36*time.Hour)
	one.Advance(t, -12*time.Hour)
	const offset = `SELECT round(extract(epoch FROM app.now() - now()))::int`
	if got := queryOne[int](t, one.AppURL, offset); got != 24*60*60 {
		t.Errorf("moved clock is %d s ahead, want a day", got)
	}
	if got := queryOne[int](t, two.AppURL, offset); got != 0 {
		t.Errorf("another database's clock is %d s ahead, want 0", got)
	}
}

func TestOpenEmpty(t *testing.T) {
	t.Parallel()
	db := pgtest.OpenEmpty(t)
	if db.Pool != nil {
		t.Error("Pool is not nil")
	}
	if queryOne[bool](t, db.OwnerURL, `SELECT to_regnamespace('app') IS NOT NULL`) {
		t.Error("the database is not empty")
	}
	if err := migrations.Up(t.Context(), db.OwnerURL, migrations.Options{Environment: "test"}); err != nil {
		t.Errorf("migrations.Up() = %v", err)
	}
	if got := queryOne[string](t, db.AppURL, `SELECT current_user::text`); got != "connect_app" {
		t.Errorf("AppURL's role = %s", got)
	}
}

func TestDatabaseIsDroppedWithItsTest(t *testing.T) {
	t.Parallel()
	other := pgtest.Open(t)
	var name string
	t.Cleanup(func() { // runs after the clean-up of the database below, and before that of the one above
		if queryOne[bool](t, other.AdminURL, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name) {
			t.Errorf("%s is still there", name)
		}
	})
	db := pgtest.Open(t)
	name = queryOne[string](t, db.AppURL, `SELECT current_database()::text`)
	stray, err := pgx.Connect(t.Context(), db.OwnerURL) // never closed by the test
	if err != nil {
		t.Fatal(err)
	}
	if err := stray.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestNobodyConnectsToTheTemplate(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	template, err := pgtest.Template()
	if err != nil {
		t.Fatal(err)
	}
	if queryOne[bool](t, db.AdminURL, `SELECT datallowconn FROM pg_database WHERE datname = $1`, template) {
		t.Error("the template takes connections")
	}
}

// BenchmarkOpen tells what a test pays for its database, up to its first query.
func BenchmarkOpen(b *testing.B) {
	pgtest.Open(b) // starts the server and makes the template
	for b.Loop() {
		if err := pgtest.Open(b).Pool.Ping(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// Connecting takes the password, all the same, and next to no hashing.
func TestConnectingIsFastAndTakesThePassword(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	for _, role := range []string{"connect_app", "connect_owner"} {
		got := queryOne[string](t, db.AdminURL, `SELECT split_part(rolpassword, ':', 1) FROM pg_authid WHERE rolname = $1`, role)
		if got != "SCRAM-SHA-256$1" {
			t.Errorf("the password of %s is kept as %s…", role, got)
		}
	}
	for _, address := range []string{db.AppURL, db.OwnerURL} {
		wrong, err := url.Parse(address)
		if err != nil {
			t.Fatal("the database's URL can't be parsed")
		}
		wrong.User = url.UserPassword(wrong.User.Username(), "wrong")
		if conn, err := pgx.Connect(t.Context(), wrong.String()); err == nil {
			_ = conn.Close(t.Context())
			t.Errorf("%s gets in with a wrong password", wrong.User.Username())
		}
	}
}
