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
		kind, kept string
		dies       bool
	}{
		"dies": {"project", "0", true}, "loses an answer": {"database", "1", false}, "loses the answer about credentials": {"credentials", "0", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			d := w.deletable(t, late.kind)
			store := &overtaken{Store: w.store, dies: late.dies}
			store.by = func() {
				check(t, d.delete(w.Service))
				first := true
				w.wire.harms(func(r *http.Request) harm {
					if r.Method != http.MethodDelete || !first {
						return none
					}
					first = false
					return refuse
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
			w.wantToldOnce(t, d, late.kept)
		})
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

// A deletion through the pass-through is told like one of ours: at once, by whoever asks
// again through either door, or by a look when its answer got lost or its process died.
func TestPassedThroughDeletions(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		kind, kept string
		harm       harm
		dies       bool
		then       func(t *testing.T, w *world, d deletable)
	}{
		"a project":   {kind: "project", kept: "0"},
		"credentials": {kind: "credentials", kept: "0"},
		"a database": {kind: "database", kept: "1", then: func(t *testing.T, w *world, d deletable) {
			t.Helper()
			wantKind(t, d.delete(w.Service), fault.NotFound)
		}},
		"its answer is lost, and a look finds out": {kind: "project", kept: "0", harm: lose},
		"its answer is lost, and it is sent again": {kind: "database", kept: "1", harm: lose, then: func(t *testing.T, w *world, d deletable) {
			t.Helper()
			if status, err := w.passTo(t, w.store, http.MethodDelete, d.path, ""); err != nil || status != http.StatusNotFound {
				t.Errorf("sent again: %d, %v", status, err)
			}
		}},
		"Prisma fails after it, and another door is tried": {kind: "credentials", kept: "0", harm: fail, then: func(t *testing.T, w *world, d deletable) {
			t.Helper()
			check(t, d.delete(w.Service))
		}},
		"its process dies": {kind: "project", kept: "0", dies: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			d := w.deletable(t, tc.kind)
			w.wire.harms(func(r *http.Request) harm {
				if r.Method == http.MethodDelete {
					return tc.harm
				}
				return none
			})
			status, err := w.passTo(t, &overtaken{Store: w.store, by: func() {}, dies: tc.dies}, http.MethodDelete, d.path, "")
			w.wire.harms(nil)
			if tc.harm == lose {
				if faultOf(t, err, fault.PrismaUnavailable).Extra["outcome"] != tenants.CallUnknown {
					t.Errorf("a lost answer: %v", err)
				}
			} else if want := map[harm]int{none: http.StatusNoContent, fail: http.StatusInternalServerError}[tc.harm]; err != nil || status != want {
				t.Fatalf("DELETE %s = %d, %v", d.path, status, err)
			}
			if tc.then != nil {
				tc.then(t, w, d)
			}
			w.advance(t, time.Minute)
			_, err = w.LookForLandings(t.Context())
			check(t, err)
			w.wantToldOnce(t, d, tc.kept)
		})
	}
}

// A deletion through the pass-through that was not done is not told, and nothing is erased.
func TestPassedThroughDeletionsNotDone(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]harm{"refused": reject, "unknown": refuse} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			d := w.deletable(t, "project")
			w.wire.harms(onDelete(h))
			if status, err := w.passTo(t, w.store, http.MethodDelete, d.path, ""); err == nil && status < 400 {
				t.Fatalf("answered %d", status)
			}
			w.wire.harms(nil)
			for range 3 { // soon, and until its day is over
				w.advance(t, 13*time.Hour)
				_, err := w.LookForLandings(t.Context())
				check(t, err)
			}
			d.events = ""
			w.wantToldOnce(t, d, "2")
		})
	}
}

// Many delete the same at once, through both doors: it is told once.
func TestDeletedThroughBothDoors(t *testing.T) {
	t.Parallel()
	w := open(t)
	d := w.deletable(t, "project")
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if i%2 == 0 {
				if status, err := w.passTo(t, w.store, http.MethodDelete, d.path, ""); err != nil || status != http.StatusNoContent && status != http.StatusNotFound {
					t.Errorf("passed through: %d, %v", status, err)
				}
				return
			}
			if err := d.delete(w.Service); err != nil && fault.KindOf(err) != fault.NotFound {
				t.Error(err)
			}
		})
	}
	all.Wait()
	w.wantToldOnce(t, d, "0")
}

// Credentials are rotated through the pass-through, or by a process that dies: the call that
// made them is not answered with a connection string that opens nothing.
func TestNoDeadStringIsReplayed(t *testing.T) {
	t.Parallel()
	for name, rotate := range map[string]func(t *testing.T, w *world, database, id string){
		"passed through": func(t *testing.T, w *world, _, id string) {
			t.Helper()
			check(t, w.pass(t, http.MethodPost, "/v1/connections/"+tenants.PlainID(id)+"/rotate", ""))
		},
		"passed through, the answer is lost": func(t *testing.T, w *world, _, id string) {
			t.Helper()
			w.wire.harms(onPost("/rotate", lose, -1))
			wantKind(t, w.pass(t, http.MethodPost, "/v1/connections/"+id+"/rotate", ""), fault.PrismaUnavailable)
		},
		"no clear answer": func(t *testing.T, w *world, database, id string) {
			t.Helper()
			w.wire.harms(onPost("/rotate", lose, -1))
			wantKind(t, failed(w.RotateCredentials(t.Context(), tenants.System(), w.tenant, w.connection, database, id, "r")), fault.PrismaUnavailable)
		},
		"the process dies": func(t *testing.T, w *world, database, id string) {
			t.Helper()
			s := w.service(t, func(cfg *provisioning.Config) { cfg.Store = &unfinishing{w.store} })
			wantKind(t, failed(s.RotateCredentials(t.Context(), tenants.System(), w.tenant, w.connection, database, id, "r")), fault.PrismaUnavailable)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			create := func() provisioning.Created[provisioning.Database] {
				made, err := w.CreateDatabase(t.Context(), tenants.System(), w.tenant, w.connection,
					provisioning.NewDatabase{Name: "shop", Region: "us-east-1", IdempotencyKey: "k"})
				check(t, err)
				return made
			}
			first := create().Resource
			rotate(t, w, first.ID, first.Credentials.ID)
			if opens(t, first.Credentials.ConnectionString) {
				t.Fatal("nothing was rotated")
			}
			if again := create(); !again.SecretExpired || again.Resource.Credentials != nil {
				t.Error("the dead connection string is given out again")
			}
		})
	}
}

// unfinishing is the store of a process that dies before it stores what an operation did.
type unfinishing struct{ *tenants.Store }

func (unfinishing) FinishOperation(context.Context, tenants.Actor, tenants.Operation, tenants.Made) (tenants.Operation, error) {
	return tenants.Operation{}, errDied
}
