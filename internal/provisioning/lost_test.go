package provisioning_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/tenants"
)

// A create that Prisma processed and whose answer was lost is found again, once,
// and its connection string opens.
func TestLostAnswerIsAdopted(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]harm{"connection cut": lose, "500 after the work": fail} {
		for _, mode := range []string{"strict", "ignored"} {
			t.Run(name+", logical ids "+mode, func(t *testing.T) {
				t.Parallel()
				w := open(t)
				w.sim.Control(t, http.MethodPut, "faults", map[string]any{"logicalIdMode": mode}, nil)
				ctx, by := t.Context(), tenants.System()
				noise, err := w.CreateDatabase(ctx, by, w.tenant, w.connection, provisioning.NewDatabase{Name: "noise", Region: "us-east-1"})
				check(t, err)

				w.wire.harms(onPost("", h, 1))
				empty, err := w.CreateProject(ctx, by, w.tenant, w.connection, provisioning.NewProject{Name: "empty", Region: "us-east-1"})
				check(t, err)
				w.wire.harms(onPost("", h, 1))
				first, err := w.CreateDatabase(ctx, by, w.tenant, w.connection, provisioning.NewDatabase{Name: "shop", Region: "us-east-1"})
				check(t, err)
				w.wire.harms(onPost("", h, 1))
				second, err := w.CreateDatabase(ctx, by, w.tenant, w.connection,
					provisioning.NewDatabase{Name: "more", ProjectID: noise.Resource.ProjectID})
				check(t, err)

				projects, databases := w.count(t, "/v1/projects"), w.count(t, "/v1/databases")
				if projects != 3 || databases != 3 {
					t.Errorf("%d projects and %d databases, want 3 and 3", projects, databases)
				}
				if w.wire.posts("/v1/projects") != 3 || w.wire.posts("/v1/databases") != 1 {
					t.Error("a create was sent twice")
				}
				for _, created := range []provisioning.Created[provisioning.Database]{noise, first, second} {
					if !opens(t, created.Resource.Credentials.ConnectionString) {
						t.Errorf("%s does not open", created.Resource)
					}
				}
				ids := map[string]bool{
					noise.Resource.ID: true, first.Resource.ID: true, second.Resource.ID: true, empty.Resource.ID: true,
					noise.Resource.ProjectID: true, first.Resource.ProjectID: true,
				}
				if len(ids) != 6 || empty.Resource.Name != "empty" {
					t.Errorf("something of another's was adopted: %v", ids)
				}
				if first.Resource.ProjectID == "" || !first.Resource.IsDefault || second.Resource.ProjectID != noise.Resource.ProjectID {
					t.Errorf("adopted = %+v and %+v", first.Resource, second.Resource)
				}
			})
		}
	}
}

// The fresh credentials of an adopted database can get lost as well.
func TestLostAnswersInARow(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.wire.harms(onPost("", lose, 3)) // the project, its credentials, their rotation
	created, err := w.CreateDatabase(t.Context(), tenants.System(), w.tenant, w.connection,
		provisioning.NewDatabase{Name: "shop", Region: "us-east-1"})
	check(t, err)
	if !opens(t, created.Resource.Credentials.ConnectionString) {
		t.Error("the connection string does not open")
	}
	if n := w.count(t, "/v1/databases/"+created.Resource.ID+"/connections"); n != 2 {
		t.Errorf("%d credentials, want the unseen default and one adopted", n)
	}
}

func TestLostCredentialsAreAdopted(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	database, err := w.CreateDatabase(ctx, by, w.tenant, w.connection, provisioning.NewDatabase{Name: "shop", Region: "us-east-1"})
	check(t, err)
	app := func() string {
		t.Helper()
		made, err := w.CreateCredentials(ctx, by, w.tenant, w.connection, database.Resource.ID, provisioning.NewCredentials{Name: "app"})
		check(t, err)
		return made.Resource.ConnectionString
	}
	before := app()
	w.wire.harms(onPost("/connections", lose, 1))
	after := app()
	if !opens(t, before) || !opens(t, after) || before == after {
		t.Error("credentials of the same name were taken from another operation")
	}
	if n := w.count(t, "/v1/databases/"+database.Resource.ID+"/connections"); n != 3 {
		t.Errorf("%d credentials, want 3", n)
	}

	// Those that are older than the operation belong to somebody else.
	status, body := w.sim.Do(t, http.MethodPost, "/v1/databases/"+database.Resource.ID+"/connections", w.tokens.Access,
		map[string]string{"name": "app"})
	if status != http.StatusOK {
		t.Fatalf("make credentials = %d", status)
	}
	w.sim.Control(t, http.MethodPost, "clock", map[string]string{"advance": "1m"}, nil)
	w.db.Advance(t, time.Minute)
	w.wire.harms(onPost("/connections", lose, 1))
	app()
	var theirs struct {
		Data managementapi.CreatedConnection `json:"data"`
	}
	check(t, json.Unmarshal(body, &theirs))
	if !opens(t, theirs.Data.DatabaseURL().Reveal()) {
		t.Error("older credentials of the same name were rotated")
	}

	// The same request may be unfinished elsewhere: each finds its own.
	w.exec(t, `UPDATE operations SET status = 'unknown', finished_at = NULL, answer = NULL, resource_id = NULL,
		secret_sealed = NULL, secret_until = NULL WHERE kind = 'create_credentials' AND created_at =
		(SELECT min(created_at) FROM operations WHERE kind = 'create_credentials')`)
	w.wire.harms(onPost("/connections", lose, 1))
	if !opens(t, app()) || !opens(t, before) {
		t.Error("credentials of another operation were rotated")
	}
	list, err := w.ListCredentials(ctx, w.tenant, w.connection, database.Resource.ID, provisioning.Page{})
	check(t, err)
	for _, c := range list.Items[1:] {
		if c.Name != "app" {
			t.Errorf("credentials are shown as %q, want the name that was asked for", c.Name)
		}
	}
}

// While Prisma gives no answer at all the outcome stays unknown, and the same key
// finds out later: once after the work was done, once when it was not.
func TestUnknownIsResumed(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]harm{"processed": lose, "not processed": refuse} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			// Without help from Prisma a create that was not looked up would be a second one.
			w.sim.Control(t, http.MethodPut, "faults", map[string]any{"logicalIdMode": "ignored"}, nil)
			in := provisioning.NewDatabase{Name: "shop", Region: "us-east-1", IdempotencyKey: "k"}
			w.wire.harms(func(*http.Request) harm { return h })
			_, err := w.CreateDatabase(t.Context(), tenants.System(), w.tenant, w.connection, in)
			if failure := faultOf(t, err, fault.PrismaUnavailable); failure.RetryAfter == 0 {
				t.Error("no advice when to come back")
			}
			if got := w.row(t, "status"); got != "unknown" {
				t.Errorf("status = %s, want unknown", got)
			}
			w.wire.harms(nil)
			created, err := w.CreateDatabase(t.Context(), tenants.System(), w.tenant, w.connection, in)
			check(t, err)
			if created.Replayed || !opens(t, created.Resource.Credentials.ConnectionString) {
				t.Errorf("resumed = %+v", created)
			}
			if n := w.count(t, "/v1/projects"); n != 1 {
				t.Errorf("%d projects, want 1", n)
			}
			if got := w.events(t); got != "project.created database.created" {
				t.Errorf("events = %q", got)
			}
		})
	}
}

// A process that died leaves a running row; when its lease is over the same key
// takes the operation up.
func TestCrashIsResumed(t *testing.T) {
	t.Parallel()
	for name, h := range map[string]harm{"before the create": refuse, "after the create": lose} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			w.sim.Control(t, http.MethodPut, "faults", map[string]any{"logicalIdMode": "ignored"}, nil)
			create := func(s *provisioning.Service) error {
				_, err := s.CreateProject(t.Context(), tenants.System(), w.tenant, w.connection,
					provisioning.NewProject{Name: "shop", Region: "us-east-1", IdempotencyKey: "k"})
				return err
			}
			w.wire.harms(func(*http.Request) harm { return h })
			wantKind(t, create(w.Service), fault.PrismaUnavailable)
			w.wire.harms(nil)
			w.exec(t, `UPDATE operations SET status = 'running', lease_until = app.wall_clock() + interval '30 s'`)
			if failure := faultOf(t, create(w.service(t)), fault.OperationInProgress); failure.RetryAfter == 0 {
				t.Error("no advice when to come back")
			}
			w.exec(t, `UPDATE operations SET lease_until = app.wall_clock() - interval '1 ms'`)
			check(t, create(w.service(t)))
			if n := w.count(t, "/v1/projects"); n != 1 {
				t.Errorf("%d projects, want 1", n)
			}
		})
	}
}

// A holder that stood still for a whole lease finds its operation done by another
// and gives the same answer.
func TestStalledHolder(t *testing.T) {
	t.Parallel()
	w := open(t)
	in := provisioning.NewDatabase{Name: "shop", Region: "us-east-1", IdempotencyKey: "k"}
	reached, goOn := make(chan struct{}), make(chan struct{})
	first := onPost("/v1/projects", reject, 1)
	w.wire.harms(func(r *http.Request) harm {
		if first(r) != none {
			close(reached)
			<-goOn
		}
		return none
	})
	type result struct {
		created provisioning.Created[provisioning.Database]
		err     error
	}
	stalled := make(chan result, 1)
	go func() {
		created, err := w.CreateDatabase(t.Context(), tenants.System(), w.tenant, w.connection, in)
		stalled <- result{created, err}
	}()
	<-reached
	w.exec(t, `UPDATE operations SET lease_until = app.wall_clock() - interval '1 ms'`)
	taken, err := w.service(t).CreateDatabase(t.Context(), tenants.System(), w.tenant, w.connection, in)
	close(goOn)
	late := <-stalled
	check(t, err)
	check(t, late.err)
	if late.created.Resource.Credentials.ConnectionString != taken.Resource.Credentials.ConnectionString {
		t.Error("the two holders gave different answers")
	}
	if !opens(t, taken.Resource.Credentials.ConnectionString) {
		t.Error("the connection string does not open")
	}
	if n := w.count(t, "/v1/projects"); n != 1 {
		t.Errorf("%d projects, want 1", n)
	}
	if got := w.events(t); got != "project.created database.created" {
		t.Errorf("events = %q", got)
	}
}

func TestRefusedCreatesEnd(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		harm harm
		kind fault.Kind
	}{
		"400": {reject, fault.InvalidValue},
		"429": {throttle, fault.QuotaExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			w.wire.harms(onPost("", tc.harm, 1))
			wantKind(t, w.project(t, "shop", "us-east-1", "k")(), tc.kind)
			if got := w.row(t, "status"); got != "failed" {
				t.Errorf("status = %s, want failed", got)
			}
			check(t, w.project(t, "shop", "us-east-1", "k")())
			if n := w.count(t, "/v1/projects"); n != 1 {
				t.Errorf("%d projects, want 1", n)
			}
		})
	}
}

func TestNotSent(t *testing.T) {
	t.Parallel()
	w := open(t)
	away := httptest.NewServer(http.NotFoundHandler())
	away.Close()
	client, err := managementapi.New(managementapi.Config{BaseURL: away.URL, Transport: transport(t)})
	check(t, err)
	s := w.service(t, func(cfg *provisioning.Config) { cfg.Caller = through{w, client} })
	_, err = s.CreateProject(t.Context(), tenants.System(), w.tenant, w.connection,
		provisioning.NewProject{Name: "shop", Region: "us-east-1"})
	wantKind(t, err, fault.PrismaUnavailable)
	if got := w.row(t, "status"); got != "failed" {
		t.Errorf("status = %s, want failed", got)
	}
}

// through calls with a client of its own.
type through struct {
	w      *world
	client *prisma.Client
}

func (c through) Call(ctx context.Context, _ prisma.Connection, do func(context.Context, *prisma.Client) error) error {
	return prisma.FaultOf(do(ctx, c.client.WithToken(c.w.tokens.Access)))
}

// The client may hang up at any moment: what was begun is finished.
func TestCallerLeaves(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, leave := context.WithCancel(t.Context())
	w.wire.harms(func(r *http.Request) harm {
		if r.Method == http.MethodPost {
			leave()
		}
		return none
	})
	created, err := w.CreateDatabase(ctx, tenants.System(), w.tenant, w.connection,
		provisioning.NewDatabase{Name: "shop", Region: "us-east-1"})
	check(t, err)
	if ctx.Err() == nil || !opens(t, created.Resource.Credentials.ConnectionString) || w.row(t, "status") != "done" {
		t.Error("the create was cut half way")
	}
}

func TestLostDeletion(t *testing.T) {
	t.Parallel()
	w := open(t)
	ctx, by := t.Context(), tenants.System()
	first, err := w.CreateDatabase(ctx, by, w.tenant, w.connection, provisioning.NewDatabase{Name: "shop", Region: "us-east-1"})
	check(t, err)
	second, err := w.CreateDatabase(ctx, by, w.tenant, w.connection,
		provisioning.NewDatabase{Name: "more", ProjectID: first.Resource.ProjectID})
	check(t, err)
	deletes := 0
	w.wire.harms(func(r *http.Request) harm {
		if r.Method == http.MethodDelete {
			if deletes++; deletes == 1 {
				return lose
			}
		}
		return none
	})
	check(t, w.DeleteDatabase(ctx, by, w.tenant, w.connection, second.Resource.ID))
	if n := w.count(t, "/v1/databases"); n != 1 || deletes != 2 {
		t.Errorf("%d databases after %d deletions, want 1 after 2", n, deletes)
	}
	if got := w.events(t); !strings.HasSuffix(got, "database.deleted") {
		t.Errorf("events = %q", got)
	}
	if got := w.query(t, `SELECT (secret_sealed IS NULL)::text FROM operations WHERE resource_id = $1`, second.Resource.ID); got != "true" {
		t.Error("the connection string of a deleted database is still kept")
	}
}

// With the simulator's own faults: every answer is lost or failed after the work.
func TestSimulatorFaults(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"apiFailAfter", "apiDropAfter", "apiFailBefore", "api429"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := open(t)
			in := provisioning.NewDatabase{Name: "shop", Region: "us-east-1", IdempotencyKey: "k"}
			w.sim.Control(t, http.MethodPut, "faults", map[string]any{name: 1}, nil)
			_, err := w.CreateDatabase(t.Context(), tenants.System(), w.tenant, w.connection, in)
			if err == nil {
				t.Fatal("CreateDatabase() succeeded")
			}
			w.sim.Control(t, http.MethodPut, "faults", map[string]any{name: 0}, nil)
			created, err := w.CreateDatabase(t.Context(), tenants.System(), w.tenant, w.connection, in)
			check(t, err)
			if n := w.count(t, "/v1/projects"); n != 1 || !opens(t, created.Resource.Credentials.ConnectionString) {
				t.Errorf("%d projects, want 1 that opens", n)
			}
		})
	}
}

// Lists may lag behind: the marker that is taken but not shown is never made twice.
func TestListLag(t *testing.T) {
	t.Parallel()
	w := open(t)
	w.sim.Control(t, http.MethodPut, "faults", map[string]any{"listLag": "1h"}, nil)
	w.wire.harms(onPost("/v1/projects", lose, 1))
	for range 2 {
		wantKind(t, w.project(t, "shop", "us-east-1", "k")(), fault.PrismaUnavailable)
		if got := w.row(t, "status"); got != "unknown" {
			t.Errorf("status = %s, want unknown", got)
		}
	}
	stored, err := w.store.TokensOf(w.tenant, w.connection).Tokens(t.Context())
	check(t, err)
	w.sim.Control(t, http.MethodPost, "clock", map[string]string{"advance": "2h"}, nil)
	status, body := w.sim.Refresh(t, stored.Refresh) // the simulator's clock ended the access token
	if status != http.StatusOK {
		t.Fatalf("refresh = %d %s", status, body)
	}
	w.tokens = readTokens(t, body)
	stored.Access, stored.Refresh = w.tokens.Access, w.tokens.Refresh
	check(t, w.store.TokensOf(w.tenant, w.connection).SetTokens(t.Context(), stored))
	check(t, w.project(t, "shop", "us-east-1", "k")())
	if n := w.count(t, "/v1/projects"); n != 1 {
		t.Errorf("%d projects, want 1", n)
	}
}

// Many creates with half of the answers lost: nothing twice, nothing left.
func TestManyLostAnswers(t *testing.T) {
	t.Parallel()
	const creates = 40
	w := open(t)
	for i := range creates {
		h := []harm{lose, none, fail, refuse}[i%4]
		w.wire.harms(onPost("/v1/projects", h, 1))
		key := fmt.Sprintf("k%d", i)
		err := w.project(t, "shop", "us-east-1", key)()
		if h == refuse {
			wantKind(t, err, fault.PrismaUnavailable)
			err = w.project(t, "shop", "us-east-1", key)()
		}
		check(t, err)
	}
	if n := w.count(t, "/v1/projects"); n != creates {
		t.Errorf("%d projects for %d creates", n, creates)
	}
	if n := w.query(t, `SELECT count(DISTINCT resource_id)::text FROM operations WHERE status = 'done'`); n != strconv.Itoa(creates) {
		t.Errorf("%s resources are known, want %d", n, creates)
	}
}
