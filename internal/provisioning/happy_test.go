package provisioning_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/tenants"
)

func TestCreateProject(t *testing.T) {
	t.Parallel()
	w := open(t)
	created, err := w.CreateProject(t.Context(), tenants.System(), w.tenant, w.connection,
		provisioning.NewProject{Name: "Shop", Region: "eu-west-3"})
	check(t, err)
	project := created.Resource
	if !strings.HasPrefix(project.ID, "proj_") || project.Name != "Shop" || project.Region != "eu-west-3" || created.Replayed {
		t.Errorf("CreateProject() = %+v", created)
	}
	if n := w.count(t, "/v1/databases"); n != 0 {
		t.Errorf("%d databases, want none", n)
	}
	list, err := w.ListProjects(t.Context(), w.tenant, w.connection, provisioning.Page{})
	check(t, err)
	if diff := cmp.Diff([]provisioning.Project{project}, list.Items); diff != "" {
		t.Errorf("ListProjects() (-want +got):\n%s", diff)
	}
	if got := w.events(t); got != "project.created" {
		t.Errorf("events = %q", got)
	}
}

func TestDatabases(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	first, err := w.CreateDatabase(ctx, by, w.tenant, w.connection, provisioning.NewDatabase{Name: "shop", Region: "us-east-1"})
	check(t, err)
	if first.Resource.Credentials == nil || !opens(t, first.Resource.Credentials.ConnectionString) {
		t.Fatal("the connection string does not open the new project's database")
	}
	if !first.Resource.IsDefault || first.Resource.Region != "us-east-1" || first.Resource.ProjectID == "" {
		t.Errorf("CreateDatabase() = %+v", first)
	}
	second, err := w.CreateDatabase(ctx, by, w.tenant, w.connection,
		provisioning.NewDatabase{Name: "extra", ProjectID: first.Resource.ProjectID})
	check(t, err)
	if second.Resource.IsDefault || second.Resource.Name != "extra" || second.Resource.Region != "us-east-1" ||
		!opens(t, second.Resource.Credentials.ConnectionString) {
		t.Errorf("CreateDatabase() in a project = %+v", second)
	}
	more, err := w.CreateCredentials(ctx, by, w.tenant, w.connection, second.Resource.ID, provisioning.NewCredentials{Name: "app"})
	check(t, err)
	if more.Resource.Name != "app" || !opens(t, more.Resource.ConnectionString) {
		t.Errorf("CreateCredentials() = %+v", more)
	}
	list, err := w.ListDatabases(ctx, w.tenant, w.connection, first.Resource.ProjectID, provisioning.Page{Limit: 1})
	check(t, err)
	if len(list.Items) != 1 || list.NextCursor == "" {
		t.Fatalf("ListDatabases() = %+v, want one of two", list)
	}
	rest, err := w.ListDatabases(ctx, w.tenant, w.connection, "", provisioning.Page{Limit: 1000, Cursor: list.NextCursor})
	check(t, err)
	if len(rest.Items) != 1 || rest.NextCursor != "" || rest.Items[0].ID == list.Items[0].ID {
		t.Errorf("second page = %+v", rest)
	}

	failure := faultOf(t, w.DeleteDatabase(ctx, by, w.tenant, w.connection, first.Resource.ID), fault.DefaultDatabase)
	if failure.Extra["projectId"] != first.Resource.ProjectID {
		t.Errorf("Extra = %v, want the project", failure.Extra)
	}
	check(t, w.DeleteDatabase(ctx, by, w.tenant, w.connection, strings.TrimPrefix(second.Resource.ID, "db_")))
	if opens(t, second.Resource.Credentials.ConnectionString) {
		t.Error("the deleted database still opens")
	}
	_, err = w.GetDatabase(ctx, w.tenant, w.connection, second.Resource.ID)
	wantKind(t, err, fault.NotFound)
	wantKind(t, w.DeleteDatabase(ctx, by, w.tenant, w.connection, second.Resource.ID), fault.NotFound)
	if got := w.events(t); got != "project.created database.created database.created credentials.created database.deleted" {
		t.Errorf("events = %q", got)
	}
	if n := w.query(t, `SELECT count(*)::text FROM audit_log WHERE action LIKE 'database.%'`); n != "3" {
		t.Errorf("%s audit rows of databases, want 3", n)
	}
}

func TestForeignConnections(t *testing.T) {
	t.Parallel()
	w := open(t)
	other := w.newTenant(t, "Other")
	gone := w.connect(t, other, w.tokens)
	_, err := w.store.Disconnect(t.Context(), tenants.System(), other, gone)
	check(t, err)

	texts := map[string]bool{}
	for name, id := range map[string]tenants.ConnectionID{"foreign": w.connection, "absent": {}, "disconnected": gone} {
		for call, err := range everyCall(t, w, other, id) {
			failure := faultOf(t, err, fault.NotFound)
			texts[failure.Detail] = true
			if len(texts) > 1 {
				t.Fatalf("%s of a %s connection says %q", call, name, failure.Detail)
			}
		}
	}
	if n := w.count(t, "/v1/projects"); n != 0 {
		t.Errorf("%d projects were made", n)
	}
}

func TestReconnectRequired(t *testing.T) {
	t.Parallel()
	w := open(t)
	stored, err := w.store.TokensOf(w.tenant, w.connection).Tokens(t.Context())
	check(t, err)
	check(t, w.store.TokensOf(w.tenant, w.connection).ClearTokensIfCurrent(t.Context(), stored))
	for call, err := range everyCall(t, w, w.tenant, w.connection) {
		if fault.KindOf(err) != fault.ReconnectRequired {
			t.Errorf("%s: %v, want reconnect-required", call, err)
		}
	}
	if n := w.query(t, "SELECT count(*)::text FROM operations"); n != "0" {
		t.Errorf("%s operations were stored", n)
	}
}

func everyCall(t *testing.T, w *world, tenant tenants.TenantID, id tenants.ConnectionID) map[string]error {
	t.Helper()
	ctx, by := t.Context(), tenants.System()
	errs := make(map[string]error)
	_, errs["ListProjects"] = w.ListProjects(ctx, tenant, id, provisioning.Page{})
	_, errs["ListDatabases"] = w.ListDatabases(ctx, tenant, id, "", provisioning.Page{})
	_, errs["GetDatabase"] = w.GetDatabase(ctx, tenant, id, "db_a1")
	_, errs["CreateProject"] = w.CreateProject(ctx, by, tenant, id, provisioning.NewProject{Name: "a", Region: "us-east-1"})
	_, errs["CreateDatabase"] = w.CreateDatabase(ctx, by, tenant, id, provisioning.NewDatabase{Name: "a", Region: "us-east-1"})
	_, errs["CreateCredentials"] = w.CreateCredentials(ctx, by, tenant, id, "db_a1", provisioning.NewCredentials{Name: "a"})
	errs["DeleteDatabase"] = w.DeleteDatabase(ctx, by, tenant, id, "db_a1")
	_, errs["GetProject"] = w.GetProject(ctx, tenant, id, "proj_a1")
	_, errs["UpdateProject"] = w.UpdateProject(ctx, by, tenant, id, "proj_a1", "a")
	errs["DeleteProject"] = w.DeleteProject(ctx, by, tenant, id, "proj_a1")
	_, errs["UpdateDatabase"] = w.UpdateDatabase(ctx, by, tenant, id, "db_a1", "a")
	_, errs["ListCredentials"] = w.ListCredentials(ctx, tenant, id, "db_a1", provisioning.Page{})
	_, errs["RotateCredentials"] = w.RotateCredentials(ctx, by, tenant, id, "db_a1", "con_a1", "")
	errs["DeleteCredentials"] = w.DeleteCredentials(ctx, by, tenant, id, "db_a1", "con_a1")
	_, errs["ListBackups"] = w.ListBackups(ctx, tenant, id, "db_a1", 0)
	_, errs["RestoreDatabase"] = w.RestoreDatabase(ctx, by, tenant, id, "db_a1", provisioning.Restore{BackupID: "b"})
	_, errs["Usage"] = w.Usage(ctx, tenant, id, "db_a1", provisioning.Period{})
	return errs
}

func TestRefusedValues(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	long := strings.Repeat("x", 256)
	tests := map[string]struct {
		do      func() error
		kind    fault.Kind
		pointer string
	}{
		"empty name":   {do: w.project(t, "", "us-east-1", ""), kind: fault.InvalidValue, pointer: "/name"},
		"long name":    {do: w.project(t, long, "us-east-1", ""), kind: fault.InvalidValue, pointer: "/name"},
		"control text": {do: w.project(t, "a\u0007b", "us-east-1", ""), kind: fault.InvalidValue, pointer: "/name"},
		"direction":    {do: w.project(t, "a\u202eb", "us-east-1", ""), kind: fault.InvalidValue, pointer: "/name"},
		"no region":    {do: w.project(t, "a", "", ""), kind: fault.InvalidValue, pointer: "/region"},
		"region":       {do: w.project(t, "a", "mars-1", ""), kind: fault.InvalidValue, pointer: "/region"},
		"long key":     {do: w.project(t, "a", "us-east-1", long), kind: fault.InvalidRequest, pointer: "Idempotency-Key"},
		"control key":  {do: w.project(t, "a", "us-east-1", "a\nb"), kind: fault.InvalidRequest, pointer: "Idempotency-Key"},
		"no region, no project": {do: func() error {
			_, err := w.CreateDatabase(ctx, by, w.tenant, w.connection, provisioning.NewDatabase{Name: "a"})
			return err
		}, kind: fault.InvalidValue, pointer: "/region"},
		"project id": {do: func() error {
			_, err := w.CreateDatabase(ctx, by, w.tenant, w.connection, provisioning.NewDatabase{Name: "a", ProjectID: "../x"})
			return err
		}, kind: fault.InvalidValue, pointer: "/projectId"},
		"credentials": {do: func() error {
			_, err := w.CreateCredentials(ctx, by, w.tenant, w.connection, "db_a", provisioning.NewCredentials{})
			return err
		}, kind: fault.InvalidValue, pointer: "/name"},
		"database id": {do: func() error {
			_, err := w.GetDatabase(ctx, w.tenant, w.connection, "db_/../projects")
			return err
		}, kind: fault.NotFound},
		"filter": {do: func() error {
			_, err := w.ListDatabases(ctx, w.tenant, w.connection, "x&y", provisioning.Page{})
			return err
		}, kind: fault.InvalidRequest, pointer: "projectId"},
		"limit": {do: func() error {
			_, err := w.ListProjects(ctx, w.tenant, w.connection, provisioning.Page{Limit: -1})
			return err
		}, kind: fault.InvalidRequest, pointer: "limit"},
		"cursor": {do: func() error {
			_, err := w.ListProjects(ctx, w.tenant, w.connection, provisioning.Page{Cursor: "a b"})
			return err
		}, kind: fault.InvalidRequest, pointer: "cursor"},
	}
	for name, tc := range tests {
		failure := faultOf(t, tc.do(), tc.kind)
		if tc.pointer != "" && (len(failure.Fields) != 1 || failure.Fields[0].Pointer != tc.pointer) {
			t.Errorf("%s: fields = %v, want %s", name, failure.Fields, tc.pointer)
		}
	}
	if n := w.query(t, "SELECT count(*)::text FROM operations"); n != "0" || w.wire.posts("") != 0 {
		t.Errorf("%s operations and %d requests for refused values", n, w.wire.posts(""))
	}
}

// project returns a call that makes a project.
func (w *world) project(t *testing.T, name, region, key string) func() error {
	t.Helper()
	return func() error {
		_, err := w.CreateProject(t.Context(), tenants.System(), w.tenant, w.connection,
			provisioning.NewProject{Name: name, Region: region, IdempotencyKey: key})
		return err
	}
}

func TestRegions(t *testing.T) {
	t.Parallel()
	w := open(t)
	regions, err := w.Regions(t.Context(), w.tenant)
	check(t, err)
	if len(regions) != 6 || regions[0] != (provisioning.Region{ID: "us-east-1", Name: "US East (N. Virginia)"}) {
		t.Errorf("Regions() = %v", regions)
	}
	again, err := w.Regions(t.Context(), w.tenant)
	check(t, err)
	if diff := cmp.Diff(regions, again); diff != "" {
		t.Errorf("cached regions differ:\n%s", diff)
	}
	if n := w.wire.seen["GET /v1/regions/postgres"]; n != 1 {
		t.Errorf("%d requests for regions, want 1", n)
	}
	w.wire.harms(func(*http.Request) harm { return refuse })
	fresh, err := w.service(t).Regions(t.Context(), w.tenant)
	check(t, err)
	if diff := cmp.Diff(regions, fresh); diff != "" {
		t.Errorf("documented regions differ:\n%s", diff)
	}
}

// A region that is no longer offered takes no answer away that was given once.
func TestRegionsThatGo(t *testing.T) {
	t.Parallel()
	w := open(t)
	ask := func(s *provisioning.Service, name, key string) (provisioning.Created[provisioning.Database], error) {
		return s.CreateDatabase(t.Context(), tenants.System(), w.tenant, w.connection,
			provisioning.NewDatabase{Name: name, Region: "us-east-1", IdempotencyKey: key})
	}
	made, err := ask(w.Service, "shop", "k")
	check(t, err)
	w.wire.harms(onPost("", refuse, -1))
	wantKind(t, failed(ask(w.Service, "later", "k2")), fault.PrismaUnavailable)
	w.wire.harms(func(r *http.Request) harm {
		if strings.Contains(r.URL.Path, "/regions/") {
			return move
		}
		return none
	})
	later := w.service(t)
	again, err := ask(later, "shop", "k")
	if err != nil || !again.Replayed || again.Resource.Credentials.ConnectionString != made.Resource.Credentials.ConnectionString {
		t.Errorf("the replay = %t, %v", again.Replayed, err)
	}
	check(t, failed(ask(later, "later", "k2"))) // what may exist is looked for, and made if need be
	for _, key := range []string{"", "k", "k3"} {
		wantKind(t, failed(ask(later, "other", key)), fault.InvalidValue)
	}
}

func TestNothingPrintsConnectionStrings(t *testing.T) {
	t.Parallel()
	secret := "postgres://u:canary@h/d"
	credentials := provisioning.Credentials{ID: "con_1", ConnectionString: secret}
	database := provisioning.Database{ID: "db_1", Credentials: &credentials}
	var text strings.Builder
	logger := slog.New(slog.NewTextHandler(&text, nil))
	logger.InfoContext(t.Context(), "x", slog.Any("credentials", credentials), slog.Any("database", database),
		slog.Any("created", provisioning.Created[provisioning.Database]{Resource: database}))
	for _, value := range []any{
		credentials, database, &credentials, &database,
		provisioning.Created[provisioning.Database]{Resource: database},
		tenants.Operation{Secret: secret},
	} {
		fmt.Fprintf(&text, "%v %+v %#v %s\n", value, value, value, value)
	}
	if strings.Contains(text.String(), "canary") {
		t.Errorf("a connection string was printed: %s", text.String())
	}
}
