package provisioning_test

import (
	"context"
	"errors"
	"net/http"
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
