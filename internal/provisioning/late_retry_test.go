package provisioning_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/tenants"
)

// silence lets Prisma do what it is asked to make and answer nothing.
func (w *world) silence() {
	w.wire.harms(func(r *http.Request) harm {
		if r.Method == http.MethodPost {
			return lose
		}
		return refuse
	})
}

// A creating call that is repeated late, when its partner has found or been told what came
// of it: a string that is in use by then stays good, and one that nobody had is made.
func TestLateRetryOfCredentials(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		look bool // they are found by a look, and told
		take func(t *testing.T, w *world, database, id string) (inUse string)
		want bool // the retry has a connection string
	}{
		"told":  {true, nil, true},
		"found": {false, nil, true},
		"told and rotated": {true, func(t *testing.T, w *world, database, id string) string {
			t.Helper()
			return w.rotates(t, database, id)
		}, false},
		"found and rotated": {false, func(t *testing.T, w *world, database, id string) string {
			t.Helper()
			return w.rotates(t, database, id)
		}, false},
		"told and rotated past us": {true, func(t *testing.T, w *world, _, id string) string {
			t.Helper()
			_, err := w.store.BeginCall(t.Context(), tenants.System(), w.tenant, tenants.OutgoingCall{
				Operation: "rotateConnection", Connection: w.connection, Target: id, Uses: []string{id},
			})
			check(t, err)
			status, body := w.sim.Do(t, http.MethodPost, "/v1/connections/"+id+"/rotate", w.tokens.Access, nil)
			if status != http.StatusOK {
				t.Fatalf("rotate = %d", status)
			}
			return field(t, body, "endpoints.direct.connectionString")
		}, false},
		"told and deleted": {true, func(t *testing.T, w *world, database, id string) string {
			t.Helper()
			check(t, w.DeleteCredentials(t.Context(), tenants.System(), w.tenant, w.connection, database, id))
			return ""
		}, false},
		"told and deleted past us": {true, func(t *testing.T, w *world, _, id string) string {
			t.Helper()
			w.sim.Do(t, http.MethodDelete, "/v1/connections/"+id, w.tokens.Access, nil)
			return ""
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			ctx, by := t.Context(), tenants.System()
			database := w.database(t, "shop").ID
			ask := func() (provisioning.Created[provisioning.Credentials], error) {
				return w.CreateCredentials(ctx, by, w.tenant, w.connection, database, provisioning.NewCredentials{Name: "app", IdempotencyKey: "k1"})
			}
			w.silence()
			_, err := ask()
			wantKind(t, err, fault.PrismaUnavailable)
			w.wire.harms(nil)
			if tc.look {
				w.advance(t, time.Minute)
				if result, err := w.LookForLandings(ctx); err != nil || result.Adopted != 1 {
					t.Fatalf("the look: %+v, %v", result, err)
				}
			}
			list, err := w.ListCredentials(ctx, w.tenant, w.connection, database, provisioning.Page{})
			check(t, err)
			var id string
			for _, c := range list.Items {
				if c.Name == "app" {
					id = c.ID
				}
			}
			inUse := ""
			if tc.take != nil {
				inUse = tc.take(t, w, database, id)
			}
			for range 2 { // the second one is a replay
				late, err := ask()
				check(t, err)
				if got := late.Resource.ConnectionString != ""; got != tc.want || late.SecretExpired == tc.want || late.Resource.ID != id {
					t.Errorf("the late retry has a string: %t, expired: %t, of %q; want %t of %q", got, late.SecretExpired, late.Resource.ID, tc.want, id)
				}
				if tc.want && !opens(t, late.Resource.ConnectionString) {
					t.Error("its connection string opens nothing")
				}
				if inUse != "" && !opens(t, inUse) {
					t.Error("a connection string that is in use opens nothing any more")
				}
			}
			if strings.HasSuffix(name, "and rotated") && w.rotates(t, database, id) != inUse {
				t.Error("the rotation's replay tells another string")
			}
		})
	}
}

// rotates gives credentials another string; its replay tells the same.
func (w *world) rotates(t *testing.T, database, id string) string {
	t.Helper()
	made, err := w.RotateCredentials(t.Context(), tenants.System(), w.tenant, w.connection, database, id, "k2")
	check(t, err)
	return made.Resource.ConnectionString
}

// looksGiveUp lets nine days pass, after which nothing is looked for any more.
func (w *world) looksGiveUp(t *testing.T) {
	t.Helper()
	for range 9 {
		w.advance(t, 24*time.Hour)
		_, err := w.LookForLandings(t.Context())
		check(t, err)
	}
}

// renewed has the tests' own calls bear the access token that the service has by now.
func (w *world) renewed(t *testing.T) {
	t.Helper()
	stored, err := w.store.TokensOf(w.tenant, w.connection).Tokens(t.Context())
	check(t, err)
	w.tokens.Access = stored.Access
}

// What landed late and was deleted by then is no reason to ask the user to connect again:
// its key tells what was made, without a string.
func TestLateRetryOfADeletedDatabase(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	ask := func() (provisioning.Created[provisioning.Database], error) {
		return w.CreateDatabase(ctx, by, w.tenant, w.connection, provisioning.NewDatabase{Name: "shop", Region: "us-east-1", IdempotencyKey: "k"})
	}
	w.silence()
	_, err := ask()
	wantKind(t, err, fault.PrismaUnavailable)
	w.wire.harms(nil)
	w.advance(t, time.Minute)
	_, err = w.LookForLandings(ctx)
	check(t, err)
	list, err := w.ListDatabases(ctx, w.tenant, w.connection, "", provisioning.Page{})
	check(t, err)
	if len(list.Items) != 1 {
		t.Fatalf("%d databases", len(list.Items))
	}
	check(t, w.DeleteProject(ctx, by, w.tenant, w.connection, list.Items[0].ProjectID))
	for range 2 {
		late, err := ask()
		check(t, err)
		if late.Resource.ID != list.Items[0].ID || late.Resource.Credentials != nil || !late.SecretExpired {
			t.Errorf("the late retry is told %v, expired: %t", late.Resource, late.SecretExpired)
		}
	}
	if n := w.count(t, "/v1/projects"); n != 0 {
		t.Errorf("%d projects were made anew", n)
	}
}

// However late a key comes, while nobody knows what became of its request it makes nothing
// anew; and once it has ended it names its answer for as long as ever.
func TestAKeyStaysWithItsUnknownOutcome(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.silence()
	wantKind(t, w.project(t, "shop", "us-east-1", "k")(), fault.PrismaUnavailable)
	w.looksGiveUp(t)
	if got := w.row(t, `concat(status, ' ', sweep_at IS NULL)`); got != "unknown t" {
		t.Errorf("after nine days the operation is %q", got)
	}
	wantKind(t, w.project(t, "another", "us-east-1", "k")(), fault.IdempotencyConflict)
	w.wire.harms(nil)
	for range 2 {
		check(t, w.project(t, "shop", "us-east-1", "k")())
	}
	w.renewed(t)
	if n := w.count(t, "/v1/projects"); n != 1 {
		t.Errorf("%d projects, want 1", n)
	}
	w.advance(t, tenants.KeyLife+time.Minute)
	check(t, w.project(t, "shop", "us-east-1", "k")())
	w.renewed(t)
	if n := w.count(t, "/v1/projects"); n != 2 {
		t.Errorf("a week after its end the key made %d projects, want a second", n)
	}
}

// A request of the last moment is looked for as long as the first one.
func TestALateRequestIsLookedForAsLong(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.silence()
	wantKind(t, w.project(t, "shop", "us-east-1", "k")(), fault.PrismaUnavailable)
	w.advance(t, tenants.KeyLife-time.Hour)
	wantKind(t, w.project(t, "shop", "us-east-1", "k")(), fault.PrismaUnavailable)
	w.advance(t, 2*time.Hour)
	for range 3 {
		if result, err := w.LookForLandings(t.Context()); err != nil || result.Failed != 1 {
			t.Errorf("a look: %+v, %v", result, err)
		}
		w.advance(t, time.Hour)
	}
}

// When its user has connected again, what a connection made before is looked for at once.
func TestReconnectingLooksAgain(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.silence()
	wantKind(t, w.project(t, "shop", "us-east-1", "")(), fault.PrismaUnavailable)
	w.looksGiveUp(t)
	w.wire.harms(nil)
	if result, err := w.LookForLandings(t.Context()); err != nil || result.Looked != 0 {
		t.Errorf("a look before that: %+v, %v", result, err)
	}
	w.tokens = w.sim.Connect(t, prismasimtest.WorkspaceA)
	if again := w.connect(t, w.tenant, w.tokens); again != w.connection {
		t.Fatal("another connection was made")
	}
	if result, err := w.LookForLandings(t.Context()); err != nil || result.Adopted != 1 {
		t.Errorf("a look after that: %+v, %v", result, err)
	}
}
