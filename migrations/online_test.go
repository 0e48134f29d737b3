package migrations_test

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/migrations"
)

// shape is the schema in words to the letter: with the order of columns and what is
// valid.
func shape(t *testing.T, url string) []string {
	t.Helper()
	conn := connect(t, url)
	type line struct{ Text string }
	var lines []string
	for _, l := range all[line](t, conn, `
		SELECT format('%s.%s %s %s %s %s default %s', a.attrelid::regclass, a.attname,
			row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum), format_type(a.atttypid, a.atttypmod), a.attnotnull,
			a.attidentity, pg_get_expr(d.adbin, d.adrelid))
		FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
		WHERE c.relnamespace IN ('public'::regnamespace, 'app'::regnamespace) AND a.attnum > 0 AND NOT a.attisdropped
		UNION ALL SELECT format('%s %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid), convalidated) FROM pg_constraint
		WHERE connamespace IN ('public'::regnamespace, 'app'::regnamespace)
		UNION ALL SELECT format('%s %s %s', pg_get_indexdef(indexrelid), indisvalid, indisready) FROM pg_index JOIN pg_class c ON c.oid = indrelid
		WHERE c.relnamespace IN ('public'::regnamespace, 'app'::regnamespace)
		UNION ALL SELECT format('%s %s %s %s', tablename, policyname, roles, qual) FROM pg_policies
		UNION ALL SELECT format('%s %s %s %s', oid::regclass, relrowsecurity, relforcerowsecurity, relacl) FROM pg_class
		WHERE relnamespace IN ('public'::regnamespace, 'app'::regnamespace) AND relkind = 'r'
		UNION ALL SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
		UNION ALL SELECT format('%s %s', pg_get_functiondef(oid), proacl) FROM pg_proc
		WHERE pronamespace IN ('public'::regnamespace, 'app'::regnamespace)
		ORDER BY 1`) {
		lines = append(lines, l.Text)
	}
	return lines
}

// What the migrations lead to is what they led to when each was one transaction, under
// locks that kept everybody out: databases of that time are the same.
func TestUpComesToTheSame(t *testing.T) {
	t.Parallel()
	before := fstest.MapFS{}
	for name := range files(t) {
		text, err := fs.ReadFile(migrations.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		old, err := os.ReadFile(filepath.Join("testdata", "at_once", name))
		switch {
		case err == nil:
			text = old
		case !os.IsNotExist(err):
			t.Fatal(err)
		}
		before[name] = &fstest.MapFile{Data: text}
	}
	target, err := migrations.Target()
	if err != nil {
		t.Fatal(err)
	}
	one, two := pgtest.OpenEmpty(t), pgtest.OpenEmpty(t)
	if err := migrations.UpTo(t.Context(), one.OwnerURL, before, target); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Up(t.Context(), two.OwnerURL, forTest); err != nil {
		t.Fatal(err)
	}
	want := shape(t, one.AdminURL)
	if len(want) < 200 {
		t.Fatalf("the schema has %d lines, want more", len(want))
	}
	if diff := cmp.Diff(want, shape(t, two.AdminURL)); diff != "" {
		t.Errorf("the schema (-at once +beside the service):\n%s", diff)
	}
}

// A migration that is not one transaction may be killed at its end, before it is noted.
func TestMigrationsWithoutATransactionRunAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.OpenEmpty(t)
	if err := migrations.Up(t.Context(), db.OwnerURL, forTest); err != nil {
		t.Fatal(err)
	}
	admin := connect(t, db.AdminURL)
	want, looked := shape(t, db.AdminURL), 0
	for name, version := range files(t) {
		text, err := fs.ReadFile(migrations.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "-- +goose NO TRANSACTION") {
			continue
		}
		looked++
		exec(t, admin, `DELETE FROM goose_db_version WHERE version_id = $1`, version)
		if err := migrations.Again(t.Context(), db.OwnerURL, version); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if looked < 5 {
		t.Errorf("%d migrations without a transaction were found", looked)
	}
	if diff := cmp.Diff(want, shape(t, db.AdminURL)); diff != "" {
		t.Errorf("the schema after each ran twice (-want +got):\n%s", diff)
	}
}

// before is the version that serves while the newer migrations run.
const before = firstOnline - 1

// openServed is a database of an earlier version with a tenant, a connection, a key and a
// row of each log.
func openServed(t *testing.T) (db *pgtest.Database, admin *pgx.Conn) {
	t.Helper()
	db = pgtest.OpenEmpty(t)
	if err := migrations.UpTo(t.Context(), db.OwnerURL, migrations.FS, before); err != nil {
		t.Fatal(err)
	}
	admin = connect(t, db.AdminURL)
	exec(t, admin, `INSERT INTO app.deployment (environment) VALUES ('test')`)
	tenants, connections, _ := two(t, admin)
	for i, tenant := range tenants {
		exec(t, admin, `INSERT INTO tenant_sequences (tenant_id, audit) VALUES ($1, 1)`, tenant)
		exec(t, admin, `INSERT INTO audit_log (tenant_id, sequence, actor_type, action, target) VALUES ($1, 1, 'system', 'a.b', '')`, tenant)
		exec(t, admin, `INSERT INTO operations (tenant_id, id, connection_id, kind, request_hash, lease_until)
			VALUES ($1, $2, $3, 'create_project', sha256('x'), now())`, tenant, uuid.New(), connections[i])
	}
	return db, admin
}

// served are tables that the newer migrations change, each with a statement that writes a
// row of it.
var served = map[string]string{
	"connections":      `UPDATE connections SET workspace_name = 'x'`,
	"operations":       `UPDATE operations SET lease_until = now()`,
	"api_keys":         `UPDATE api_keys SET last_used_at = now()`,
	"tenant_sequences": `UPDATE tenant_sequences SET events = 0`,
	"tenants":          `UPDATE tenants SET updated_at = now()`,
	"audit_log":        `UPDATE audit_log SET request_id = ''`,
}

// load reads and writes a table again and again until stop is called, which returns the
// longest that a statement took.
func load(t *testing.T, url, table, write string, tenant uuid.UUID) (stop func() time.Duration) {
	t.Helper()
	conn := connect(t, url)
	ctx, cancel := context.WithCancel(t.Context())
	column := "tenant_id"
	if table == "tenants" {
		column = "id"
	}
	var worker sync.WaitGroup
	var longest time.Duration
	worker.Go(func() {
		for ctx.Err() == nil {
			for _, sql := range []string{`SELECT count(*) FROM ` + table, write} {
				began := time.Now() //nolint:forbidigo // it measures
				_, err := conn.Exec(context.WithoutCancel(ctx), sql+` WHERE `+column+` = $1`, tenant)
				if err != nil {
					t.Errorf("%s: %v", sql, err)
				}
				longest = max(longest, time.Since(began))
			}
		}
	})
	return func() time.Duration {
		cancel()
		worker.Wait()
		return longest
	}
}

// The service is upgraded while it runs, beside a transaction that keeps rows of every
// table locked for long. Nobody waits behind a migration for longer than a lock may take.
func TestUpLetsOthersPass(t *testing.T) {
	t.Parallel()
	const lockTimeout = 300 * time.Millisecond
	const heldFor = 4 * time.Second
	const most = 2 * time.Second // a busy machine adds its share
	db, admin := openServed(t)
	mine := one[uuid.UUID](t, admin, `SELECT id FROM tenants ORDER BY id LIMIT 1`)
	theirs := one[uuid.UUID](t, admin, `SELECT id FROM tenants ORDER BY id DESC LIMIT 1`)

	long := connect(t, db.AdminURL)
	exec(t, long, `BEGIN`)
	for table, write := range served {
		column := "tenant_id"
		if table == "tenants" {
			column = "id"
		}
		exec(t, long, write+` WHERE `+column+` = $1`, theirs)
	}
	var stops []func() time.Duration
	for table, write := range served {
		stops = append(stops, load(t, db.AdminURL, table, write, mine))
	}
	busy := make(chan int, 100)
	done := make(chan error, 1)
	go func() {
		done <- migrations.Up(t.Context(), db.OwnerURL, migrations.Options{
			Environment: "test", LockTimeout: lockTimeout, OnBusy: func(tries int) { busy <- tries },
		})
	}()
	select {
	case err := <-done:
		t.Fatalf("Up() = %v beside a transaction that holds a lock", err)
	case <-time.After(heldFor):
	}
	exec(t, long, `COMMIT`)
	if err := <-done; err != nil {
		t.Errorf("Up() = %v", err)
	}
	for _, stop := range stops {
		if longest := stop(); longest > most {
			t.Errorf("a statement of the service took %s, want %s at most", longest, most)
		} else {
			t.Logf("the longest statement took %s", longest)
		}
	}
	if len(busy) < 2 {
		t.Errorf("a lock was refused %d times in %s", len(busy), heldFor)
	}
	if err := migrations.Check(t.Context(), connect(t, db.AppURL)); err != nil {
		t.Errorf("Check() = %v", err)
	}
}

// An index is built for as long as it takes, also if that is to wait for a transaction
// that began before. If that run is killed, the next one builds it anew.
func TestUpBuildsAnIndexAnew(t *testing.T) {
	t.Parallel()
	const lockTimeout = 100 * time.Millisecond
	db, admin := openServed(t)
	old := connect(t, db.AdminURL)
	exec(t, old, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
	exec(t, old, `SELECT FROM events`) // a snapshot, and a lock that is in no migration's way
	up := func() chan error {
		done := make(chan error, 1)
		go func() {
			done <- migrations.Up(t.Context(), db.OwnerURL, migrations.Options{Environment: "test", LockTimeout: lockTimeout})
		}()
		return done
	}
	const building = `SELECT count(*)::int FROM pg_stat_activity
		WHERE datname = current_database() AND query LIKE 'CREATE%INDEX CONCURRENTLY%' AND wait_event = 'virtualxid'`
	done := up()
	eventually(t, done, "an index is being built", func() bool { return one[int](t, admin, building) == 1 })
	if !one[bool](t, admin, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE datname = current_database() AND query LIKE 'CREATE%INDEX CONCURRENTLY%' AND state = 'active'`) {
		t.Fatal("the migration could not be ended")
	}
	if err := <-done; err == nil {
		t.Fatal("Up() succeeded without its connection")
	}
	const broken = `SELECT count(*)::int FROM pg_index WHERE NOT indisvalid`
	if one[int](t, admin, broken) != 1 {
		t.Fatal("no index is half built")
	}

	done = up() // it waits again, until the old transaction has ended
	select {
	case err := <-done:
		t.Fatalf("Up() = %v before the old transaction has ended", err)
	case <-time.After(5 * lockTimeout):
	}
	exec(t, old, `COMMIT`)
	if err := <-done; err != nil {
		t.Errorf("Up() = %v", err)
	}
	if n := one[int](t, admin, broken); n != 0 {
		t.Errorf("%d indexes are half built", n)
	}
	if err := migrations.Check(t.Context(), connect(t, db.AppURL)); err != nil {
		t.Errorf("Check() = %v", err)
	}
}

// eventually waits for a condition, and fails when done comes first.
func eventually(t *testing.T, done <-chan error, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case err := <-done:
			t.Fatalf("%v before %s", err, what)
		case <-tick.C:
		}
	}
}
