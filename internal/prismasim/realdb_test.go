package prismasim_test

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/devpg"
	"github.com/connect-prisma/server/internal/prismasim"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

func TestDatabaseIsRealAndItsOwn(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	token := prismasimtest.ServiceToken
	shop, other := newProject(t, sim, token, "shop"), newProject(t, sim, token, "other")
	conn := open(t, shop.url)
	if name := one[string](t, conn, "SELECT current_database()"); name != shop.database {
		t.Errorf("database = %s, want %s", name, shop.database)
	}
	if tables := one[int](t, conn, "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"); tables != 0 {
		t.Errorf("%d tables in a new database", tables)
	}
	exec(t, conn, "CREATE TABLE t (id int)", "CREATE SCHEMA s", "CREATE EXTENSION IF NOT EXISTS pgcrypto")
	refused(t, into(t, shop.url, other.database))
	for query, want := range map[string]bool{
		"SELECT rolsuper OR rolcreatedb OR rolcreaterole OR rolbypassrls FROM pg_roles WHERE rolname = session_user": false,
		"SELECT has_database_privilege('public', current_database(), 'CONNECT')":                                     false,
		"SELECT pg_has_role(session_user, '" + other.database + "', 'MEMBER')":                                       false,
	} {
		if got := one[bool](t, conn, query); got != want {
			t.Errorf("%s = %v", query, got)
		}
	}
}

func TestCommonDatabasesAreClosedWhereTheRoleMay(t *testing.T) {
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
	// As superuser here: the other tests run as a role that is none.
	sim := prismasimtest.Start(t, func(c *prismasim.Config) { c.DatabaseURL = server.URL("postgres") })
	shop := newProject(t, sim, prismasimtest.ServiceToken, "shop")
	exec(t, open(t, shop.url), "CREATE TABLE t (id int)")
	for _, foreign := range []string{"postgres", "template1"} {
		refused(t, into(t, shop.url, foreign))
	}
	body := api(t, sim, http.MethodPost, "/v1/projects/"+shop.project+"/databases", prismasimtest.ServiceToken,
		map[string]any{"source": map[string]string{"type": "database", "databaseId": shop.database}}, http.StatusCreated)
	exec(t, open(t, text(t, body, "data.connectionString")), "DROP TABLE t")
	exec(t, open(t, shop.url), "DROP TABLE t")
}

func TestConnectionsShareWhatTheyMake(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	token := prismasimtest.ServiceToken
	shop := newProject(t, sim, token, "shop")
	body := api(t, sim, http.MethodPost, "/v1/connections", token, map[string]string{"databaseId": shop.database, "name": "second"}, http.StatusCreated)
	second := text(t, body, "data.endpoints.direct.connectionString")

	first := open(t, shop.url)
	exec(t, first, "CREATE TABLE made_by_first (id int)")
	exec(t, open(t, second), "ALTER TABLE made_by_first ADD COLUMN name text", "CREATE TABLE made_by_second (id int)")
	exec(t, first, "SET ROLE NONE", "CREATE SCHEMA stepped_out AUTHORIZATION SESSION_USER")

	api(t, sim, http.MethodDelete, "/v1/connections/"+shop.connection, token, nil, http.StatusNoContent)
	if err := first.Ping(t.Context()); err == nil {
		t.Error("the session of a deleted connection lives")
	}
	refused(t, shop.url)
	exec(t, open(t, second), "DROP TABLE made_by_first", "CREATE TABLE stepped_out.t (id int)")
	body = api(t, sim, http.MethodGet, "/v1/databases/"+shop.database, token, nil, http.StatusOK)
	if dig(t, body, "data.defaultConnectionId") != nil || count(t, body, "data.connections") != 1 {
		t.Error("the deleted connection is still shown")
	}
	api(t, sim, http.MethodGet, "/v1/connections/"+shop.connection, token, nil, http.StatusNotFound)
}

func TestRotateKillsTheOldPasswordAndItsSessions(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	token := prismasimtest.ServiceToken
	shop := newProject(t, sim, token, "shop")
	session := open(t, shop.url)
	exec(t, session, "CREATE TABLE kept (id int)")
	body := api(t, sim, http.MethodPost, "/v1/connections/"+shop.connection+"/rotate", token, nil, http.StatusOK)
	if text(t, body, "data.id") != shop.connection {
		t.Error("the id changed")
	}
	if err := session.Ping(t.Context()); err == nil {
		t.Error("a session of the old password lives")
	}
	refused(t, shop.url)
	exec(t, open(t, text(t, body, "data.connectionString")), "DROP TABLE kept")
}

func TestDeleteProjectDropsItsDatabases(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	token := prismasimtest.ServiceToken
	shop := newProject(t, sim, token, "shop")
	body := api(t, sim, http.MethodPost, "/v1/projects/"+shop.project+"/databases", token, map[string]any{"name": "second"}, http.StatusCreated)
	second := text(t, body, "data.connectionString")
	session := open(t, shop.url)

	api(t, sim, http.MethodDelete, "/v1/databases/"+shop.database, token, nil, http.StatusForbidden)
	open(t, shop.url)
	api(t, sim, http.MethodDelete, "/v1/projects/"+shop.project, token, nil, http.StatusNoContent)
	if err := session.Ping(t.Context()); err == nil {
		t.Error("a session of a deleted database lives")
	}
	refused(t, shop.url)
	refused(t, second)
	for _, path := range []string{"/v1/projects/" + shop.project, "/v1/databases/" + shop.database, "/v1/connections/" + shop.connection} {
		api(t, sim, http.MethodGet, path, token, nil, http.StatusNotFound)
	}
	api(t, sim, http.MethodDelete, "/v1/projects/"+shop.project, token, nil, http.StatusNotFound)
}

func TestDeleteDatabase(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	token := prismasimtest.ServiceToken
	shop := newProject(t, sim, token, "shop")
	body := api(t, sim, http.MethodPost, "/v1/databases", token, map[string]any{"projectId": shop.project}, http.StatusCreated)
	id, second := text(t, body, "data.id"), text(t, body, "data.connections.0.endpoints.direct.connectionString")
	open(t, second)
	api(t, sim, http.MethodDelete, "/v1/databases/"+id, token, nil, http.StatusNoContent)
	refused(t, second)
	open(t, shop.url)
	api(t, sim, http.MethodDelete, "/v1/databases/"+id, token, nil, http.StatusNotFound)
}

func TestCloneCopiesTheRealDatabase(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	token := prismasimtest.ServiceToken
	shop := newProject(t, sim, token, "shop")
	session := open(t, shop.url) // an open connection is in the way of a copy
	exec(t, session, "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1), (2)",
		"SET ROLE NONE", "CREATE SCHEMA out AUTHORIZATION SESSION_USER", "CREATE TABLE out.u (id int)")

	body := api(t, sim, http.MethodPost, "/v1/projects/"+shop.project+"/databases", token, map[string]any{
		"name": "copy", "source": map[string]string{"type": "database", "databaseId": strings.TrimPrefix(shop.database, "db_")},
	}, http.StatusCreated)
	if text(t, body, "data.source.databaseId") != shop.database {
		t.Error("the source is not told")
	}
	copied := open(t, text(t, body, "data.connectionString"))
	if rows := one[int](t, copied, "SELECT count(*) FROM t"); rows != 2 {
		t.Errorf("%d rows in the copy", rows)
	}
	exec(t, copied, "INSERT INTO t VALUES (3)", "ALTER TABLE t ADD COLUMN x int", "DROP TABLE out.u", "DROP SCHEMA out")

	again := open(t, shop.url) // the source's own is untouched
	if rows := one[int](t, again, "SELECT count(*) FROM t"); rows != 2 {
		t.Errorf("%d rows in the source", rows)
	}
	exec(t, again, "CREATE TABLE mine (id int)", "SET ROLE NONE", "DROP SCHEMA out CASCADE")
	if owner := one[string](t, again, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"); owner != shop.database {
		t.Errorf("the source's owner is %s", owner)
	}
	refused(t, into(t, shop.url, text(t, body, "data.id")))
	api(t, sim, http.MethodDelete, "/v1/projects/"+shop.project, token, nil, http.StatusNoContent)
}

func TestBackupAndRestore(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	token := prismasimtest.ServiceToken
	shop := newProject(t, sim, token, "shop")
	exec(t, open(t, shop.url), "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")
	sim.Control(t, http.MethodPost, "backup", map[string]string{"databaseId": shop.database}, nil)
	session := open(t, shop.url)
	exec(t, session, "INSERT INTO t VALUES (2)", "CREATE TABLE later (id int)")

	path := "/v1/databases/" + shop.database
	list := api(t, sim, http.MethodGet, path+"/backups", token, nil, http.StatusOK)
	if count(t, list, "data") != 2 || dig(t, list, "pagination.hasMore") != false {
		t.Fatalf("backups: %s", list)
	}
	api(t, sim, http.MethodGet, path+"/backups?limit=0", token, nil, http.StatusUnprocessableEntity)
	short := api(t, sim, http.MethodGet, path+"/backups?limit=1", token, nil, http.StatusOK)
	if count(t, short, "data") != 1 || dig(t, short, "pagination.hasMore") != true || dig(t, short, "pagination.limit") != 1.0 {
		t.Errorf("one backup: %s", short)
	}
	restore := func(target, backup string) []byte {
		t.Helper()
		body := api(t, sim, http.MethodPost, "/v1/databases/"+target+"/restore", token, map[string]any{
			"source": map[string]string{"type": "backup", "databaseId": shop.database, "backupId": backup},
		}, http.StatusOK)
		eventually(t, func() bool {
			body := api(t, sim, http.MethodGet, "/v1/databases/"+target, token, nil, http.StatusOK)
			return text(t, body, "data.status") == "ready"
		})
		return body
	}
	body := restore(shop.database, text(t, list, "data.0.id"))
	if text(t, body, "data.status") != "recovering" || count(t, body, "data.connections") != 1 {
		t.Errorf("answer: %s", body)
	}
	if err := session.Ping(t.Context()); err == nil {
		t.Error("a session outlived the restore")
	}
	restored := open(t, shop.url) // the same credentials
	if rows := one[int](t, restored, "SELECT count(*) FROM t"); rows != 1 {
		t.Errorf("%d rows after the restore", rows)
	}
	exec(t, restored, "CREATE TABLE later (id int)") // was not in the backup

	other := newProject(t, sim, token, "other") // a backup of one into another
	restore(other.database, text(t, list, "data.0.id"))
	conn := open(t, other.url)
	exec(t, conn, "INSERT INTO t VALUES (5)", "DROP TABLE t")

	restore(shop.database, text(t, list, "data.1.id")) // of the empty beginning
	if tables := one[int](t, open(t, shop.url), "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"); tables != 0 {
		t.Errorf("%d tables after the restore of nothing", tables)
	}
	api(t, sim, http.MethodPost, path+"/restore", token, map[string]any{
		"source": map[string]string{"type": "backup", "databaseId": shop.database, "backupId": "bak_none"},
	}, http.StatusNotFound)
	api(t, sim, http.MethodPost, path+"/restore", token, map[string]any{"source": map[string]string{"type": "empty"}}, http.StatusUnprocessableEntity)

	body = api(t, sim, http.MethodPost, "/v1/databases", token, map[string]any{ // a new database from a backup
		"projectId": other.project, "source": map[string]string{"type": "backup", "databaseId": shop.database, "backupId": text(t, list, "data.0.id")},
	}, http.StatusCreated)
	exec(t, open(t, text(t, body, "data.connections.0.endpoints.direct.connectionString")), "DROP TABLE t")
	api(t, sim, http.MethodDelete, "/v1/projects/"+shop.project, token, nil, http.StatusNoContent)
}

func TestUsage(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	token := prismasimtest.ServiceToken
	shop := newProject(t, sim, token, "shop")
	path := "/v1/databases/" + shop.database + "/usage"
	body := api(t, sim, http.MethodGet, path, token, nil, http.StatusOK)
	if used, ok := dig(t, body, "metrics.storage.used").(float64); !ok || used <= 0 || used > 1 {
		t.Errorf("storage used = %v GiB", used)
	}
	body = api(t, sim, http.MethodGet, path+"?startDate=2026-01-01T00:00:00Z&endDate=2026-02-01T00:00:00%2B01:00", token, nil, http.StatusOK)
	if text(t, body, "period.end") != "2026-01-31T23:00:00Z" {
		t.Errorf("period end = %s", text(t, body, "period.end"))
	}
	api(t, sim, http.MethodGet, path+"?startDate=yesterday", token, nil, http.StatusBadRequest)
	api(t, sim, http.MethodGet, path+"?startDate=2026-02-01T00:00:00Z&endDate=2026-01-01T00:00:00Z", token, nil, http.StatusBadRequest)
}

func TestConnectionStringsAreShownOnce(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	token := prismasimtest.ServiceToken
	shop := newProject(t, sim, token, "shop")
	config, err := pgx.ParseConfig(shop.url)
	if err != nil {
		t.Fatal("the connection string cannot be parsed")
	}
	if config.Host != "127.0.0.1" || config.User != shop.connection || len(config.Password) < 40 {
		t.Errorf("host %s, user %s", config.Host, config.User)
	}
	for _, path := range []string{
		"/v1/projects", "/v1/projects/" + shop.project, "/v1/databases", "/v1/databases/" + shop.database,
		"/v1/connections", "/v1/connections/" + shop.connection, "/v1/databases/" + shop.database + "/connections",
	} {
		if body := api(t, sim, http.MethodGet, path, token, nil, http.StatusOK); strings.Contains(string(body), config.Password) {
			t.Errorf("%s shows the password", path)
		}
	}
}
