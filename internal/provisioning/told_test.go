package provisioning_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/tenants"
)

// overtaken is the store of somebody who is about to delete something when something else
// happens. With dies its process dies when Prisma has answered.
type overtaken struct {
	*tenants.Store

	by   func()
	dies bool
}

func (o *overtaken) BeginDeletion(ctx context.Context, c tenants.ResourceChange) (tenants.Deletion, error) {
	o.by()
	return o.Store.BeginDeletion(ctx, c)
}

func (o *overtaken) CancelDeletion(ctx context.Context, d tenants.Deletion) error {
	if o.dies {
		return errDied
	}
	return o.Store.CancelDeletion(ctx, d)
}

func (o *overtaken) FinishDeletion(ctx context.Context, by tenants.Actor, gone tenants.ResourceChange) (bool, error) {
	if o.dies {
		return false, errDied
	}
	return o.Store.FinishDeletion(ctx, by, gone)
}

// Somebody deletes what another has just deleted and told. It is not told again: not when
// the late one dies before it forgets what it was about to do, and not when its own answer
// got lost, so that it takes the deletion for its own.
func TestDeletedTooLate(t *testing.T) {
	t.Parallel()
	for name, late := range map[string]struct {
		dies bool
		harm harm
	}{"dies": {dies: true}, "loses an answer": {harm: refuse}} {
		for kind, kept := range map[string]string{"project": "0", "database": "1", "credentials": "0"} {
			t.Run(name+" deleting a "+kind, func(t *testing.T) {
				t.Parallel()
				w := open(t)
				d := w.deletable(t, kind)
				store := &overtaken{Store: w.store, dies: late.dies}
				store.by = func() {
					check(t, d.delete(w.Service))
					first := true
					w.wire.harms(func(r *http.Request) harm {
						if r.Method != http.MethodDelete || !first {
							return none
						}
						first = false
						return late.harm
					})
				}
				err := d.delete(w.service(t, func(cfg *provisioning.Config) { cfg.Store = store }))
				if late.dies == (err == nil) {
					t.Errorf("the late one: %v", err)
				}
				w.advance(t, time.Minute)
				if result, err := w.LookForLandings(t.Context()); err != nil || result.Deleted != 0 {
					t.Errorf("a look = %+v, %v, want nothing to tell", result, err)
				}
				w.wantToldOnce(t, d, kept)
			})
		}
	}
}

// A database is deleted while its project is about to be: each of them is told once.
func TestDeletedWithItsProject(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	d := w.deletable(t, "project")
	list, err := w.ListDatabases(ctx, w.tenant, w.connection, "", provisioning.Page{})
	check(t, err)
	store := &overtaken{Store: w.store, by: func() {
		for _, database := range list.Items {
			if !database.IsDefault {
				check(t, w.DeleteDatabase(ctx, by, w.tenant, w.connection, database.ID))
			}
		}
	}}
	check(t, d.delete(w.service(t, func(cfg *provisioning.Config) { cfg.Store = store })))
	w.wantToldOnce(t, d, "0")
}

// What was told is known for as long as another deletion of it may be open, and no longer.
func TestToldDeletionsAreForgotten(t *testing.T) {
	t.Parallel()
	w := open(t)
	check(t, w.deletable(t, "database").delete(w.Service))
	for _, want := range []string{"1", "0"} {
		_, err := w.LookForLandings(t.Context())
		check(t, err)
		if n := w.query(t, `SELECT count(*)::text FROM told_deletions`); n != want {
			t.Errorf("%s deletions are known to be told, want %s", n, want)
		}
		w.advance(t, 9*24*time.Hour)
	}
}

// The deletion of a database is open, and it is still there. Somebody deletes a project, or
// credentials, of that id, which are none: nothing is told, and nothing taken for done.
func TestDeletionOfAnotherKind(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	d := w.deletable(t, "database")
	w.wire.harms(func(r *http.Request) harm {
		if r.Method == http.MethodDelete {
			return refuse
		}
		return none
	})
	wantKind(t, d.delete(w.Service), fault.PrismaUnavailable)
	w.wire.harms(nil)
	id := w.query(t, `SELECT resource_id FROM deletions`)
	database := w.query(t, `SELECT database_id FROM deletions`)
	wantKind(t, w.DeleteProject(ctx, by, w.tenant, w.connection, id), fault.NotFound)
	wantKind(t, w.DeleteCredentials(ctx, by, w.tenant, w.connection, database, id), fault.NotFound)
	if got := w.query(t, `SELECT count(*)::text FROM events WHERE type LIKE '%.deleted'`); got != "0" {
		t.Errorf("%s deletions are told of a database that is there", got)
	}
	check(t, d.delete(w.Service))
	w.wantToldOnce(t, d, "1")
}
