package provisioning_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/tenants"
)

// unsaved is a store that can't write how operations end.
type unsaved struct{ provisioning.Store }

func (unsaved) FinishOperation(context.Context, tenants.Actor, tenants.Operation, tenants.Made) (tenants.Operation, error) {
	return tenants.Operation{}, errors.New("the disk is full")
}

// ids are what the calls below name.
type ids struct{ key, database, backup, credentials string }

// Programs obey a Retry-After without looking. So it is given where the request may be
// sent again just like that, with its key or because it is the same twice, and nowhere else.
func TestAdviceAfterAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	by := tenants.System()
	type call func(ctx context.Context, w *world, s *provisioning.Service, in ids) error
	project := func(ctx context.Context, w *world, s *provisioning.Service, in ids) error {
		_, err := s.CreateProject(ctx, by, w.tenant, w.connection, provisioning.NewProject{Name: "a", Region: "us-east-1", IdempotencyKey: in.key})
		return err
	}
	restore := func(ctx context.Context, w *world, s *provisioning.Service, in ids) error {
		_, err := s.RestoreDatabase(ctx, by, w.tenant, w.connection, in.database, provisioning.Restore{BackupID: in.backup, IdempotencyKey: in.key})
		return err
	}
	rotate := func(ctx context.Context, w *world, s *provisioning.Service, in ids) error {
		_, err := s.RotateCredentials(ctx, by, w.tenant, w.connection, in.database, in.credentials, in.key)
		return err
	}
	for name, tc := range map[string]struct {
		do    call
		key   string
		again bool
	}{
		"a create with a key":    {project, "k", true},
		"a create without one":   {project, "", false},
		"a restore with a key":   {restore, "k", true},
		"a restore without one":  {restore, "", false},
		"a rotation with a key":  {rotate, "k", true},
		"a rotation without one": {rotate, "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, w := t.Context(), open(t)
			database, err := w.CreateDatabase(ctx, by, w.tenant, w.connection, provisioning.NewDatabase{Name: "shop", Region: "us-east-1"})
			check(t, err)
			in := ids{tc.key, database.Resource.ID, w.backup(t, database.Resource.ID), database.Resource.Credentials.ID}
			do := func(what string, s *provisioning.Service) {
				t.Helper()
				failure := faultOf(t, tc.do(ctx, w, s, in), fault.PrismaUnavailable)
				if (failure.RetryAfter > 0) != tc.again || failure.NoRetry == tc.again || failure.Extra["operationId"] == nil {
					t.Errorf("%s: Retry-After %s, none at all: %t, %v", what, failure.RetryAfter, failure.NoRetry, failure.Extra)
				}
			}
			w.wire.harms(func(r *http.Request) harm {
				if r.Method == http.MethodPost {
					return refuse
				}
				return none
			})
			do("no clear answer", w.Service)
			w.wire.harms(nil)
			in.key += in.key // another operation
			do("done, and not written down", w.service(t, func(c *provisioning.Config) {
				c.Store, c.SaveFor = unsaved{c.Store}, time.Millisecond
			}))
		})
	}
}

// A look at what became of a create may fail for a reason of its own, such as that its
// connection is gone. That is told, and also that something may have been made.
func TestAdviceWhenTheLookFailsOtherwise(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "k"} {
		w := open(t)
		ctx, by := t.Context(), tenants.System()
		w.wire.harms(func(r *http.Request) harm {
			if r.Method != http.MethodPost {
				return none
			}
			if _, err := w.store.Disconnect(ctx, by, w.tenant, w.connection); err != nil {
				t.Error(err)
			}
			return lose
		})
		_, err := w.CreateProject(ctx, by, w.tenant, w.connection, provisioning.NewProject{Name: "a", Region: "us-east-1", IdempotencyKey: key})
		failure := faultOf(t, err, fault.NotFound)
		if failure.Extra["operationId"] == nil || failure.NoRetry != (key == "") || !strings.Contains(failure.Detail, "not known whether this was made") {
			t.Errorf("with the key %q: %q, none at all: %t, %v", key, failure.Detail, failure.NoRetry, failure.Extra)
		}
		if got := w.row(t, "status"); got != "unknown" {
			t.Errorf("the operation is %s", got)
		}
	}
}

// The time for a call may end between two looks at what became of it, or of one before.
func TestAdviceWhenTimeEnds(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "k"} {
		w := open(t)
		w.wire.harms(onPost("/v1/projects", refuse, -1))
		s := w.service(t, func(c *provisioning.Config) {
			c.Patience, c.Deadline = []time.Duration{0, time.Hour}, time.Second
		})
		for range 2 {
			_, err := s.CreateProject(t.Context(), tenants.System(), w.tenant, w.connection,
				provisioning.NewProject{Name: "a", Region: "us-east-1", IdempotencyKey: key})
			failure := faultOf(t, err, fault.PrismaUnavailable)
			if again := key != ""; failure.RetryAfter > 0 != again || failure.NoRetry == again || failure.Extra["operationId"] == nil {
				t.Errorf("with the key %q: Retry-After %s, none at all: %t, %v", key, failure.RetryAfter, failure.NoRetry, failure.Extra)
			}
		}
	}
}

// A rotation is repeated here after a lost answer, and then refused: the one before may have
// been done, so nobody is told that nothing was.
func TestAdviceAfterALostRotation(t *testing.T) {
	t.Parallel()
	w := open(t)
	database := w.database(t, "shop")
	first := onPost("/rotate", lose, 1)
	w.wire.harms(func(r *http.Request) harm {
		if h := first(r); h != none {
			return h
		}
		return onPost("/rotate", throttle, -1)(r)
	})
	_, err := w.RotateCredentials(t.Context(), tenants.System(), w.tenant, w.connection, database.ID, database.Credentials.ID, "")
	if failure := faultOf(t, err, fault.PrismaUnavailable); failure.Extra["operationId"] == nil {
		t.Errorf("%v does not name the operation", failure)
	}
	if opens(t, database.Credentials.ConnectionString) {
		t.Error("nothing was rotated")
	}
}

// A process stands still until a look goes on with its operation. Whoever has no key is not
// told to ask again: that would make another.
func TestAdviceWhenTakenOver(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		harm harm // to the create
		key  string
		kind fault.Kind
	}{
		"with its answer":           {none, "", fault.PrismaUnavailable},
		"before it has credentials": {lose, "", fault.PrismaUnavailable},
		"with a key":                {none, "k", fault.OperationInProgress},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			create := onPost("/v1/projects", tc.harm, 1)
			w.wire.harms(func(r *http.Request) harm {
				if r.Method == http.MethodPost {
					w.exec(t, `UPDATE operations SET attempt = attempt + 1, lease_until = app.wall_clock() + interval '1 min'`)
					w.ahead.Add(int64(20 * time.Second))
				}
				return create(r)
			})
			err := failed(w.CreateDatabase(t.Context(), tenants.System(), w.tenant, w.connection,
				provisioning.NewDatabase{Name: "shop", Region: "us-east-1", IdempotencyKey: tc.key}))
			failure := faultOf(t, err, tc.kind)
			if again := failure.RetryAfter > 0; again != (tc.key != "") || failure.NoRetry != (tc.key == "") {
				t.Errorf("Retry-After %s, none at all: %t: %s", failure.RetryAfter, failure.NoRetry, failure.Detail)
			}
		})
	}
}
