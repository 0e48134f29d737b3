package provisioning_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/tenants"
)

// database makes one in a project of its own.
func (w *world) database(t *testing.T, name string) provisioning.Database {
	t.Helper()
	made, err := w.CreateDatabase(t.Context(), tenants.System(), w.tenant, w.connection,
		provisioning.NewDatabase{Name: name, Region: "us-east-1"})
	check(t, err)
	return made.Resource
}

// calls lists what the audit log says of calls to Prisma since the last time.
func (w *world) calls(t *testing.T) string {
	t.Helper()
	text := w.query(t, `SELECT coalesce(string_agg(concat_ws(' ', replace(action, 'prisma_call.', ''), details->>'operation',
		details->>'outcome', details->>'status'), ', ' ORDER BY sequence), '')
		FROM audit_log WHERE action LIKE 'prisma_call.%' AND sequence > coalesce((SELECT seen FROM audit_seen), 0)`)
	w.exec(t, `UPDATE audit_seen SET seen = (SELECT max(sequence) FROM audit_log)`)
	return text
}

func (w *world) watchCalls(t *testing.T) {
	t.Helper()
	w.exec(t, `CREATE TABLE audit_seen (seen bigint)`)
	w.exec(t, `INSERT INTO audit_seen SELECT max(sequence) FROM audit_log`)
}

// Each call that changes something is in the audit log before it is sent, and its end
// after it.
func (w *world) wantCalls(t *testing.T, want string) {
	t.Helper()
	if got := w.calls(t); got != want {
		t.Errorf("calls to Prisma = %q, want %q", got, want)
	}
}

func TestProjects(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	database := w.database(t, "shop")
	second, err := w.CreateDatabase(ctx, by, w.tenant, w.connection,
		provisioning.NewDatabase{Name: "more", ProjectID: database.ProjectID, IdempotencyKey: "k"})
	check(t, err)
	w.watchCalls(t)

	got, err := w.GetProject(ctx, w.tenant, w.connection, database.ProjectID)
	check(t, err)
	renamed, err := w.UpdateProject(ctx, by, w.tenant, w.connection, database.ProjectID, "store")
	check(t, err)
	w.wantCalls(t, "begun updateProject, ended updateProject done")
	if got.Name != "shop" || renamed.Name != "store" || renamed.ID != got.ID {
		t.Errorf("renamed %+v to %+v", got, renamed)
	}
	check(t, w.DeleteProject(ctx, by, w.tenant, w.connection, bare(database.ProjectID)))
	w.wantCalls(t, "begun deleteProject, ended deleteProject done")
	if n := w.count(t, "/v1/projects") + w.count(t, "/v1/databases"); n != 0 {
		t.Errorf("%d things outlive their project", n)
	}
	if events := w.events(t); !strings.HasSuffix(events, "project.updated database.deleted database.deleted project.deleted") {
		t.Errorf("events = %q", events)
	}
	if kept := w.query(t, `SELECT count(*)::text FROM operations WHERE secret_sealed IS NOT NULL`); kept != "0" {
		t.Error("a connection string outlives its project")
	}
	for name, err := range map[string]error{
		"get": failed(w.GetProject(ctx, w.tenant, w.connection, database.ProjectID)), "delete": w.DeleteProject(ctx, by, w.tenant, w.connection, database.ProjectID),
		"rename":      failed(w.UpdateProject(ctx, by, w.tenant, w.connection, database.ProjectID, "x")),
		"its secrets": failed(w.ListCredentials(ctx, w.tenant, w.connection, second.Resource.ID, provisioning.Page{})),
	} {
		if fault.KindOf(err) != fault.NotFound {
			t.Errorf("%s of a deleted project: %v", name, err)
		}
	}
}

func bare(id string) string { return id[strings.IndexByte(id, '_')+1:] }

func failed[T any](_ T, err error) error { return err }

func TestCredentials(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	first, other := w.database(t, "shop"), w.database(t, "other")
	made, err := w.CreateCredentials(ctx, by, w.tenant, w.connection, first.ID, provisioning.NewCredentials{Name: "app", IdempotencyKey: "k"})
	check(t, err)
	id := made.Resource.ID
	w.watchCalls(t)

	list, err := w.ListCredentials(ctx, w.tenant, w.connection, first.ID, provisioning.Page{})
	check(t, err)
	if len(list.Items) != 2 || list.Items[1].ID != id || list.Items[1].Name != "app" || list.Items[1].ConnectionString != "" {
		t.Errorf("list = %v", list.Items)
	}
	// Credentials are named together with their database.
	wantKind(t, failed(w.RotateCredentials(ctx, by, w.tenant, w.connection, other.ID, id, "")), fault.NotFound)
	wantKind(t, w.DeleteCredentials(ctx, by, w.tenant, w.connection, other.ID, id), fault.NotFound)
	for _, odd := range []string{"", "../" + id, id + "/rotate", "con_%2e", strings.Repeat("a", 81), "con_A"} {
		wantKind(t, failed(w.RotateCredentials(ctx, by, w.tenant, w.connection, first.ID, odd, "")), fault.NotFound)
		wantKind(t, w.DeleteCredentials(ctx, by, w.tenant, w.connection, first.ID, odd), fault.NotFound)
	}
	w.wantCalls(t, "")

	rotate := func(key string) provisioning.Created[provisioning.Credentials] {
		t.Helper()
		rotated, err := w.RotateCredentials(ctx, by, w.tenant, w.connection, first.ID, id, key)
		check(t, err)
		return rotated
	}
	one := rotate("r1")
	w.wantCalls(t, "begun rotateConnection, ended rotateConnection done")
	if one.Resource.ID != id || one.Resource.Name != "app" || opens(t, made.Resource.ConnectionString) || !opens(t, one.Resource.ConnectionString) {
		t.Error("rotating does not replace the connection string")
	}
	if again := rotate("r1"); !again.Replayed || again.Resource.ConnectionString != one.Resource.ConnectionString {
		t.Errorf("the replay = %+v", again)
	}
	if again, err := w.RotateCredentials(ctx, by, w.tenant, w.connection, first.ID, bare(id), "r1"); err != nil || !again.Replayed {
		t.Errorf("the same credentials by their plain id: %v", err)
	}
	// A connection string that opens nothing is not replayed.
	replayed, err := w.CreateCredentials(ctx, by, w.tenant, w.connection, first.ID, provisioning.NewCredentials{Name: "app", IdempotencyKey: "k"})
	check(t, err)
	if !replayed.SecretExpired || replayed.Resource.ConnectionString != "" {
		t.Errorf("a rotated connection string is replayed: %+v", replayed)
	}
	if two := rotate(""); two.Replayed || !opens(t, two.Resource.ConnectionString) || opens(t, one.Resource.ConnectionString) {
		t.Error("rotating again does nothing")
	}
	w.wantCalls(t, "begun rotateConnection, ended rotateConnection done")

	check(t, w.DeleteCredentials(ctx, by, w.tenant, w.connection, first.ID, id))
	w.wantCalls(t, "begun deleteConnection, ended deleteConnection done")
	wantKind(t, w.DeleteCredentials(ctx, by, w.tenant, w.connection, first.ID, id), fault.NotFound)
	if events := w.events(t); !strings.HasSuffix(events, "credentials.created credentials.rotated credentials.rotated credentials.deleted") {
		t.Errorf("events = %q", events)
	}
	if kept := w.query(t, `SELECT count(*)::text FROM operations WHERE secret_sealed IS NOT NULL`); kept != "0" {
		t.Error("the connection string of deleted credentials is kept")
	}
}

// A rotation whose answers are all lost is repeated by the same key, and what it gives
// then works.
func TestLostRotation(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	database := w.database(t, "shop")
	rotate := func() (provisioning.Created[provisioning.Credentials], error) {
		return w.RotateCredentials(ctx, by, w.tenant, w.connection, database.ID, database.Credentials.ID, "r")
	}
	w.wire.harms(onPost("/rotate", lose, -1))
	_, err := rotate()
	failure := faultOf(t, err, fault.PrismaUnavailable)
	if failure.Extra["operationId"] == nil || !strings.Contains(failure.Detail, "rotated") {
		t.Errorf("%q with %v does not help", failure.Detail, failure.Extra)
	}
	w.wire.harms(onPost("/rotate", lose, 1))
	rotated, err := rotate()
	check(t, err)
	if !opens(t, rotated.Resource.ConnectionString) || opens(t, database.Credentials.ConnectionString) {
		t.Error("the connection string does not open, or the old one does")
	}
	if result, err := w.LookForLandings(ctx); err != nil || result.Looked > 0 {
		t.Errorf("a rotation leaves something to look for: %+v %v", result, err)
	}
}

func TestUpdateDatabase(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	database := w.database(t, "shop")
	renamed, err := w.UpdateDatabase(ctx, by, w.tenant, w.connection, database.ID, "store")
	check(t, err)
	if renamed.Name != "store" || renamed.ProjectID != database.ProjectID {
		t.Errorf("renamed to %+v", renamed)
	}
	wantKind(t, failed(w.UpdateDatabase(ctx, by, w.tenant, w.connection, database.ID, " x")), fault.InvalidValue)
	wantKind(t, failed(w.UpdateDatabase(ctx, by, w.tenant, w.connection, "db_../x", "x")), fault.NotFound)
	if events := w.events(t); !strings.HasSuffix(events, "database.created database.updated") {
		t.Errorf("events = %q", events)
	}
	// A change whose answer is lost is sent once.
	var patches atomic.Int64
	w.wire.harms(func(r *http.Request) harm {
		if r.Method == http.MethodPatch {
			patches.Add(1)
			return lose
		}
		return none
	})
	wantKind(t, failed(w.UpdateDatabase(ctx, by, w.tenant, w.connection, database.ID, "again")), fault.PrismaUnavailable)
	if n := patches.Load(); n != 1 {
		t.Errorf("the change was sent %d times", n)
	}
}

// backup takes a backup of a database as it is now.
func (w *world) backup(t *testing.T, databaseID string) string {
	t.Helper()
	var taken struct{ ID string }
	w.sim.Control(t, http.MethodPost, "backup", map[string]string{"databaseId": databaseID}, &taken)
	return taken.ID
}

// sql runs a statement in a provisioned database.
func sql(t *testing.T, connectionString, statement string) error {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), connectionString)
	check(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), statement)
	return err
}

func (w *world) awaitReady(t *testing.T, id string) {
	t.Helper()
	eventually(t, "the database is ready", func() bool {
		database, err := w.GetDatabase(t.Context(), w.tenant, w.connection, id)
		check(t, err)
		return database.Status == "ready"
	})
}

func TestBackupsAndRestore(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	database := w.database(t, "shop")
	open := database.Credentials.ConnectionString
	check(t, sql(t, open, `CREATE TABLE kept ()`))
	id := w.backup(t, database.ID)
	check(t, sql(t, open, `CREATE TABLE lost ()`))
	w.watchCalls(t)

	backups, err := w.ListBackups(ctx, w.tenant, w.connection, database.ID, 1)
	check(t, err)
	if len(backups.Items) != 1 || backups.Items[0].ID != id || backups.Items[0].Size == nil || !backups.More ||
		backups.RetentionDays != 7 || backups.Items[0].CreatedAt.IsZero() {
		t.Errorf("backups = %+v", backups)
	}
	restore := func(key string) (provisioning.Created[provisioning.Database], error) {
		return w.RestoreDatabase(ctx, by, w.tenant, w.connection, database.ID, provisioning.Restore{BackupID: id, IdempotencyKey: key})
	}
	restored, err := restore("k")
	check(t, err)
	w.wantCalls(t, "begun restoreDatabase, ended restoreDatabase done")
	if restored.Resource.Status != "recovering" || restored.Resource.ID != database.ID {
		t.Errorf("restored = %+v", restored.Resource)
	}
	w.awaitReady(t, database.ID)
	if sql(t, open, `SELECT FROM kept`) != nil || sql(t, open, `SELECT FROM lost`) == nil {
		t.Error("the database does not hold the backup's content")
	}
	if replayed, err := restore("k"); err != nil || !replayed.Replayed {
		t.Errorf("the replay = %+v, %v", replayed, err)
	}
	w.wantCalls(t, "")
	if events := w.events(t); !strings.HasSuffix(events, "database.created database.restored") {
		t.Errorf("events = %q", events)
	}
	wantKind(t, failed(w.RestoreDatabase(ctx, by, w.tenant, w.connection, database.ID, provisioning.Restore{BackupID: "bak_none"})), fault.NotFound)
	wantKind(t, failed(w.RestoreDatabase(ctx, by, w.tenant, w.connection, database.ID, provisioning.Restore{})), fault.InvalidValue)
}

// A restore is sent once: after a lost answer the database tells whether it began. While
// it runs, another is refused.
func TestLostRestore(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	database := w.database(t, "shop")
	id := w.backup(t, database.ID)
	restore := func(key string) error {
		return failed(w.RestoreDatabase(ctx, by, w.tenant, w.connection, database.ID, provisioning.Restore{BackupID: id, IdempotencyKey: key}))
	}
	// Not processed: unknown to us, and the same key sends it again.
	w.wire.harms(onPost("/restore", refuse, 1))
	wantKind(t, restore("k"), fault.PrismaUnavailable)
	// Processed: the database says so.
	w.wire.harms(onPost("/restore", lose, 1))
	check(t, restore("k"))
	if n := w.wire.posts("/restore"); n != 2 {
		t.Errorf("%d restores were sent, want 2", n)
	}
	w.awaitReady(t, database.ID)
	// It holds that content now, so being ready says nothing about a second restore.
	w.wire.harms(onPost("/restore", refuse, 1))
	wantKind(t, restore("k2"), fault.PrismaUnavailable)
	check(t, restore("k2"))
	if n := w.wire.posts("/restore"); n != 4 {
		t.Errorf("%d restores were sent, want 4", n)
	}
	w.awaitReady(t, database.ID)
	// A process died before it had looked at the database, so it had sent nothing.
	w.wire.harms(func(*http.Request) harm { return refuse })
	wantKind(t, restore("k4"), fault.PrismaUnavailable)
	w.exec(t, `UPDATE operations SET status = 'running', finished_at = NULL, lease_until = app.wall_clock() - interval '1 ms'
		WHERE idempotency_key = 'k4'`)
	w.wire.harms(nil)
	check(t, restore("k4"))
	if n := w.wire.posts("/restore"); n != 5 {
		t.Errorf("%d restores were sent, want 5", n)
	}
	w.awaitReady(t, database.ID)
	w.wire.harms(func(r *http.Request) harm {
		if strings.HasSuffix(r.URL.Path, "/restore") {
			return conflict
		}
		return none
	})
	if failure := faultOf(t, restore("k3"), fault.Conflict); !strings.Contains(failure.Detail, "ready") {
		t.Errorf("%q does not say what to wait for", failure.Detail)
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx := t.Context()
	database := w.database(t, "shop")
	from := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	usage, err := w.Usage(ctx, w.tenant, w.connection, database.ID, provisioning.Period{From: from, To: from.Add(time.Hour)})
	check(t, err)
	if !usage.From.Equal(from) || !usage.To.Equal(from.Add(time.Hour)) || usage.StorageGiB <= 0 {
		t.Errorf("usage = %+v", usage)
	}
	usage, err = w.Usage(ctx, w.tenant, w.connection, database.ID, provisioning.Period{})
	check(t, err)
	if usage.From.IsZero() || usage.GeneratedAt.IsZero() {
		t.Errorf("usage of no period = %+v", usage)
	}
	wantKind(t, failed(w.Usage(ctx, w.tenant, w.connection, database.ID, provisioning.Period{From: from, To: from.Add(-1)})), fault.InvalidRequest)
}

// A double that somebody uses already stays, and so does one that an operation knows.
func TestDoublesInUseStay(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	w.sim.Control(t, http.MethodPut, "faults", map[string]any{"logicalIdMode": "ignored"}, nil)
	w.wire.harms(onPost("", lose, 1))
	_, err := w.CreateDatabase(ctx, by, w.tenant, w.connection, provisioning.NewDatabase{Name: "shop", Region: "us-east-1"})
	check(t, err)
	status, body := w.sim.Do(t, http.MethodGet, "/v1/projects", w.tokens.Access, nil)
	if status != http.StatusOK {
		t.Fatalf("GET /v1/projects = %d", status)
	}
	logical := field(t, body, "logicalId")
	double := func() (project, database string) {
		t.Helper()
		status, body := w.sim.Do(t, http.MethodPost, "/v1/projects", w.tokens.Access, map[string]string{"name": "double", "logicalId": logical})
		if status != http.StatusCreated {
			t.Fatalf("POST /v1/projects = %d", status)
		}
		return field(t, body, "id"), field(t, body, "database.id")
	}
	_, used := double()
	_, known := double()
	free, _ := double()
	if status, _ := w.sim.Do(t, http.MethodPost, "/v1/connections", w.tokens.Access, map[string]string{"databaseId": used, "name": "x"}); status != http.StatusCreated {
		t.Fatalf("POST /v1/connections = %d", status)
	}
	credentials, err := w.CreateCredentials(ctx, by, w.tenant, w.connection, known, provisioning.NewCredentials{Name: "app"})
	check(t, err)
	w.advance(t, time.Minute)
	result, err := w.LookForLandings(ctx)
	check(t, err)
	if result.Removed != 1 || w.count(t, "/v1/projects") != 3 {
		t.Errorf("%+v, and %d projects are left, want 3", result, w.count(t, "/v1/projects"))
	}
	if status, _ := w.sim.Do(t, http.MethodGet, "/v1/projects/"+free, w.tokens.Access, nil); status != http.StatusNotFound {
		t.Error("the double that nobody uses is still there")
	}
	if !opens(t, credentials.Resource.ConnectionString) {
		t.Error("credentials in a double were lost")
	}
}

// A connection that needs its user is looked through later; nothing is given up before.
func TestLooksThatFailAreRepeated(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.silence()
	wantKind(t, w.project(t, "shop", "us-east-1", "")(), fault.PrismaUnavailable)
	for range 3 {
		w.advance(t, 25*time.Hour)
		if result, err := w.LookForLandings(t.Context()); err != nil || result.Failed != 1 || w.row(t, "status") != "unknown" {
			t.Fatalf("a look without lists: %+v %v, status %s", result, err, w.row(t, "status"))
		}
	}
	w.wire.harms(nil)
	w.advance(t, 10*time.Minute)
	if result, err := w.LookForLandings(t.Context()); err != nil || result.Adopted != 1 || w.row(t, "status") != "done" {
		t.Errorf("the look that succeeds: %+v %v, status %s", result, err, w.row(t, "status"))
	}
	if got := w.events(t); got != "project.created" {
		t.Errorf("events = %q", got)
	}
}

// A look that the database's clock puts hours ahead, because it was set back, comes soon.
func TestLooksAfterTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.silence()
	wantKind(t, w.project(t, "shop", "us-east-1", "")(), fault.PrismaUnavailable)
	w.wire.harms(nil)
	w.db.Advance(t, -2*time.Hour)
	for _, want := range []provisioning.Landings{{}, {Looked: 1, Adopted: 1}} {
		if result, err := w.LookForLandings(t.Context()); err != nil || result != want {
			t.Errorf("the look: %+v %v, want %+v", result, err, want)
		}
		w.db.Advance(t, time.Minute)
	}
}
