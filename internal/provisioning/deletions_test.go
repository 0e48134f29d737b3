package provisioning_test

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/tenants"
)

// dying is the store of a process that dies when Prisma has deleted something and nobody
// has been told.
type dying struct{ *tenants.Store }

func (dying) FinishDeletion(context.Context, tenants.Actor, tenants.ResourceChange) (bool, error) {
	return false, errDied
}

func (dying) CancelDeletion(context.Context, tenants.Deletion) error { return errDied }

var errDied = fault.New(fault.PrismaUnavailable, "The process has died.", nil)

// deletable is something with a connection string that is kept for replays.
type deletable struct {
	list   string // at Prisma
	path   string // at Prisma
	events string // that tell of its deletion
	delete func(s *provisioning.Service) error
}

// deletable makes a project with a further database, or one of what is in it.
func (w *world) deletable(t *testing.T, kind string) deletable {
	t.Helper()
	ctx, by := t.Context(), tenants.System()
	made, err := w.CreateDatabase(ctx, by, w.tenant, w.connection, provisioning.NewDatabase{Name: "shop", Region: "us-east-1", IdempotencyKey: "a"})
	check(t, err)
	project, database := made.Resource.ProjectID, made.Resource
	if kind != "credentials" {
		made, err = w.CreateDatabase(ctx, by, w.tenant, w.connection, provisioning.NewDatabase{Name: "more", ProjectID: project, IdempotencyKey: "b"})
		check(t, err)
	}
	switch kind {
	case "project":
		return deletable{"/v1/projects", "/v1/projects/" + project, "database.deleted database.deleted project.deleted", func(s *provisioning.Service) error {
			return s.DeleteProject(ctx, by, w.tenant, w.connection, project)
		}}
	case "database":
		return deletable{"/v1/databases", "/v1/databases/" + made.Resource.ID, "database.deleted", func(s *provisioning.Service) error {
			return s.DeleteDatabase(ctx, by, w.tenant, w.connection, made.Resource.ID)
		}}
	}
	list, path := "/v1/databases/"+database.ID+"/connections", "/v1/connections/"+database.Credentials.ID
	return deletable{list, path, "credentials.deleted", func(s *provisioning.Service) error {
		return s.DeleteCredentials(ctx, by, w.tenant, w.connection, database.ID, database.Credentials.ID)
	}}
}

// wantToldOnce checks what is told of a deletion: the events once, each with an audit
// row, nothing left to do, and no connection string of what is gone.
func (w *world) wantToldOnce(t *testing.T, d deletable, kept string) {
	t.Helper()
	of := func(table, column string) string {
		return w.query(t, `SELECT coalesce(string_agg(`+column+`, ' ' ORDER BY sequence), '') FROM `+table+`
			WHERE tenant_id = $1 AND `+column+` LIKE '%.deleted'`, w.tenant)
	}
	if events, rows := of("events", "type"), of("audit_log", "action"); events != d.events || rows != d.events {
		t.Errorf("told %q, in the audit log %q, want %q of both", events, rows, d.events)
	}
	if n := w.query(t, `SELECT count(*)::text FROM deletions`); n != "0" {
		t.Errorf("%s deletions are still open", n)
	}
	if n := w.query(t, `SELECT count(*)::text FROM operations WHERE secret_sealed IS NOT NULL`); n != kept {
		t.Errorf("%s connection strings are kept, want %s", n, kept)
	}
}

// A process dies when Prisma has deleted something, before anybody was told. The next
// call tells, or a look does if there is none; never both.
func TestDiedBetweenDeletingAndTelling(t *testing.T) {
	t.Parallel()
	for kind, kept := range map[string]string{"project": "0", "database": "1", "credentials": "0"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			for _, called := range []bool{true, false} {
				d := w.deletable(t, kind)
				before := w.count(t, d.list)
				err := d.delete(w.service(t, func(cfg *provisioning.Config) { cfg.Store = dying{w.store} }))
				if kind := fault.KindOf(err); kind != fault.PrismaUnavailable || w.count(t, d.list) != before-1 {
					t.Fatalf("it did not die after the deletion: %v", err)
				}
				if called {
					check(t, d.delete(w.Service))
				}
				w.advance(t, time.Minute)
				result, err := w.LookForLandings(t.Context())
				check(t, err)
				if want := map[bool]int{true: 0, false: 1}[called]; result.Deleted != want || result.Failed != 0 {
					t.Errorf("the look = %+v, want %d found deleted", result, want)
				}
				wantKind(t, d.delete(w.Service), fault.NotFound)
				w.wantToldOnce(t, d, kept)
				w.exec(t, `DELETE FROM events; DELETE FROM audit_log; DELETE FROM operations`)
			}
		})
	}
}

// Without a clear answer from Prisma a deletion may land later: it is told when it has.
func TestDeletionLandsLate(t *testing.T) {
	t.Parallel()
	w := open(t)
	d := w.deletable(t, "database")
	var path string
	w.wire.harms(func(r *http.Request) harm {
		if r.Method == http.MethodDelete {
			path = r.URL.Path
			return refuse
		}
		return none
	})
	wantKind(t, d.delete(w.Service), fault.PrismaUnavailable)
	w.advance(t, time.Minute)
	if result, err := w.LookForLandings(t.Context()); err != nil || result.Deleted != 0 {
		t.Errorf("a look before it landed: %+v, %v", result, err)
	}
	if status, _ := w.sim.Do(t, http.MethodDelete, path, w.tokens.Access, nil); status != http.StatusNoContent {
		t.Fatalf("DELETE %s = %d", path, status)
	}
	w.advance(t, 2*time.Minute)
	if result, err := w.LookForLandings(t.Context()); err != nil || result.Deleted != 1 {
		t.Errorf("a look after it landed: %+v, %v", result, err)
	}
	w.wantToldOnce(t, d, "1")
}

// A deletion that was not done is forgotten: at once when Prisma refuses it, and after a
// day when nobody knew.
func TestDeletionsThatWereNotDone(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]harm{"refused": reject, "unknown": refuse} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			d := w.deletable(t, "project")
			w.wire.harms(onDelete(h))
			if d.delete(w.Service) == nil {
				t.Fatal("it was deleted")
			}
			w.wire.harms(nil)
			if h == refuse {
				for range 3 { // soon, and until its day is over
					w.advance(t, 13*time.Hour)
					result, err := w.LookForLandings(t.Context())
					check(t, err)
					if result.Deleted+result.Failed != 0 {
						t.Errorf("a look = %+v", result)
					}
				}
			}
			d.events = ""
			w.wantToldOnce(t, d, "2")
			if list, err := w.ListProjects(t.Context(), w.tenant, w.connection, provisioning.Page{}); err != nil || len(list.Items) != 1 {
				t.Errorf("the projects = %v, %v, want one", list.Items, err)
			}
		})
	}
}

// Many delete the same at once: it is told once.
func TestDeletedByMany(t *testing.T) {
	t.Parallel()
	w := open(t)
	d := w.deletable(t, "project")
	var all sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		all.Go(func() { errs[i] = d.delete(w.Service) })
	}
	all.Wait()
	done := 0
	for _, err := range errs {
		switch fault.KindOf(err) { //nolint:exhaustive // the others are failures
		case fault.NotFound:
		default:
			check(t, err)
			done++
		}
	}
	if done == 0 {
		t.Error("nobody deleted it")
	}
	w.wantToldOnce(t, d, "0")
}
