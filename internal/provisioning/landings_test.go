package provisioning_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/tenants"
)

// unknowns is how many creates have an unknown outcome in TestUnknownOutcomes; the long
// run has 200.
var unknowns = flag.Int("unknowns", 32, "creates of unknown outcome")

// fate is what becomes of a create whose answer is lost.
type fate int

const (
	processed fate = iota // done at once
	late                  // done five minutes later
	never
)

// gamble is one create of unknown outcome and its client.
type gamble struct {
	name  string
	what  string // of kinds
	fate  fate
	key   string        // "": the client can't ask again
	again time.Duration // when it does

	id, secret string // what it was told in the end
}

const (
	soon   = time.Minute
	late20 = 20 * time.Minute
)

// kinds are what can be created, and the lists at Prisma in which it is counted.
func kinds() []string { return []string{"project", "database", "database in a project", "credentials"} }

// casino is a world with a project and a database to create things in.
type casino struct {
	*world

	base    provisioning.Database
	gambles []*gamble
	foreign []string // paths of things that the service did not make
}

func openCasino(t *testing.T, mode string) *casino {
	t.Helper()
	c := &casino{world: open(t)}
	made, err := c.CreateDatabase(t.Context(), tenants.System(), c.tenant, c.connection,
		provisioning.NewDatabase{Name: "base", Region: "us-east-1"})
	check(t, err)
	c.base = made.Resource
	c.faults(t, map[string]any{"logicalIdMode": mode, "listLag": "30s"})
	for i := range *unknowns {
		g := &gamble{name: fmt.Sprintf("g-%d", i), what: kinds()[i%4]}
		g.fate = []fate{processed, never, late, never}[i/4%4] // one half is processed
		g.again = []time.Duration{soon, soon, soon, 0, 0, late20, 0, late20}[i/4%8]
		if i/32%2 == 1 && g.again != 0 {
			g.again = soon + late20 - g.again
		}
		if g.again != 0 {
			g.key = g.name
		}
		c.gambles = append(c.gambles, g)
	}
	return c
}

func (c *casino) faults(t *testing.T, faults map[string]any) {
	t.Helper()
	c.sim.Control(t, http.MethodPut, "faults", faults, nil)
}

// token is an access token that works now.
func (c *casino) token(t *testing.T) string {
	t.Helper()
	_, err := c.ListProjects(t.Context(), c.tenant, c.connection, provisioning.Page{Limit: 1}) // renews it
	check(t, err)
	stored, err := c.store.TokensOf(c.tenant, c.connection).Tokens(t.Context())
	check(t, err)
	return stored.Access
}

// ask makes the client's call.
func (c *casino) ask(ctx context.Context, g *gamble) (provisioning.Created[provisioning.Credentials], error) {
	by := tenants.System()
	switch g.what {
	case "project":
		made, err := c.CreateProject(ctx, by, c.tenant, c.connection,
			provisioning.NewProject{Name: g.name, Region: "us-east-1", IdempotencyKey: g.key})
		return provisioning.Created[provisioning.Credentials]{
			Resource: provisioning.Credentials{ID: made.Resource.ID}, Replayed: made.Replayed, SecretExpired: made.SecretExpired,
		}, err
	case "credentials":
		return c.CreateCredentials(ctx, by, c.tenant, c.connection, c.base.ID,
			provisioning.NewCredentials{Name: g.name, IdempotencyKey: g.key})
	}
	in := provisioning.NewDatabase{Name: g.name, Region: "us-east-1", IdempotencyKey: g.key}
	if g.what == "database in a project" {
		in.ProjectID = c.base.ProjectID
	}
	made, err := c.CreateDatabase(ctx, by, c.tenant, c.connection, in)
	answer := provisioning.Created[provisioning.Credentials]{Replayed: made.Replayed, SecretExpired: made.SecretExpired}
	answer.Resource.ID = made.Resource.ID
	if made.Resource.Credentials != nil {
		answer.Resource.ConnectionString = made.Resource.Credentials.ConnectionString
	}
	return answer, err
}

// play makes every call, and has Prisma process it as its fate wants and lose the
// answer. Beside each, somebody else makes things of the same name.
func (c *casino) play(t *testing.T) {
	t.Helper()
	for i, g := range c.gambles {
		if i%4 == 0 {
			c.foreign = append(c.foreign,
				c.direct(t, "/v1/projects", map[string]any{"name": g.name, "createDatabase": false}),
				c.direct(t, "/v1/connections", map[string]any{"name": c.gambles[i+3].name, "databaseId": c.base.ID}))
		}
		switch g.fate {
		case processed:
			c.wire.harms(onPost("", lose, 1))
		case late:
			c.faults(t, map[string]any{"landLate": "5m"})
		case never:
			c.wire.harms(onPost("", refuse, 1))
		}
		if _, err := c.ask(t.Context(), g); err == nil {
			t.Fatalf("%s (%s) has a clear outcome", g.name, g.what)
		}
		c.wire.harms(nil)
		c.faults(t, map[string]any{"landLate": "0s"})
	}
}

// direct makes something past the service and returns its path.
func (c *casino) direct(t *testing.T, path string, body any) string {
	t.Helper()
	status, answer := c.sim.Do(t, http.MethodPost, path, c.token(t), body)
	if status != http.StatusCreated {
		t.Fatalf("POST %s = %d", path, status)
	}
	var made struct{ Data struct{ ID string } }
	check(t, json.Unmarshal(answer, &made))
	return path + "/" + made.Data.ID
}

// retry lets the clients ask again whose time has come, and keeps what they are told.
func (c *casino) retry(t *testing.T, now time.Duration) {
	t.Helper()
	for _, g := range c.gambles {
		if g.key == "" || g.again != now {
			continue
		}
		answer, err := c.ask(t.Context(), g)
		if err != nil {
			t.Errorf("%s (%s, fate %d) asked again: %v", g.name, g.what, g.fate, err)
		}
		g.id, g.secret = answer.Resource.ID, answer.Resource.ConnectionString
		if g.what != "project" && !opens(t, g.secret) {
			t.Errorf("the connection string of %s (%s, fate %d) does not open", g.name, g.what, g.fate)
		}
	}
}

func (c *casino) look(t *testing.T) provisioning.Landings {
	t.Helper()
	result, err := c.LookForLandings(t.Context())
	check(t, err)
	if result.Failed > 0 {
		t.Errorf("%d looks failed", result.Failed)
	}
	return result
}

// things counts what Prisma holds of a gamble's name, less what others made: its lists
// are read as a whole.
func (c *casino) things(t *testing.T) map[string]int {
	t.Helper()
	count := map[string]int{}
	for list, path := range map[string]string{
		"project": "/v1/projects", "database": "/v1/databases", "credentials": "/v1/databases/" + c.base.ID + "/connections",
	} {
		for cursor := ""; ; {
			status, body := c.sim.Do(t, http.MethodGet, path+"?limit=100&cursor="+url.QueryEscape(cursor), c.token(t), nil)
			if status != http.StatusOK {
				t.Fatalf("GET %s = %d", path, status)
			}
			var page struct {
				Data       []struct{ ID, Name string }
				Pagination struct{ NextCursor string }
			}
			check(t, json.Unmarshal(body, &page))
			for _, thing := range page.Data {
				name, _, marked := strings.Cut(thing.Name, " op_")
				if list != "credentials" || marked {
					count[list+" "+name]++
				}
			}
			if cursor = page.Pagination.NextCursor; cursor == "" {
				break
			}
		}
	}
	for i, g := range c.gambles {
		if i%4 == 0 {
			count["project "+g.name]-- // somebody else's
		}
	}
	return count
}

// of is how often Prisma has what a gamble asked for.
func (g *gamble) of(count map[string]int) int {
	list, _, _ := strings.Cut(g.what, " ")
	return count[list+" "+g.name]
}

// Creates of unknown outcome, half of them processed at once or minutes later, by
// clients that ask again soon, late or never: in the end there is one of what was
// processed or asked for again, all of it is known, and nothing of anybody else's is
// gone.
func TestUnknownOutcomes(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"strict", "ignored"} {
		t.Run("logical ids "+mode, func(t *testing.T) {
			t.Parallel()
			c := openCasino(t, mode)
			c.play(t)
			var sum provisioning.Landings
			for minute := range 20 {
				if minute == 4 {
					c.awaitLandings(t, mode)
				} else {
					c.advance(t, time.Minute)
				}
				result := c.look(t)
				sum.Looked += result.Looked
				sum.Adopted += result.Adopted
				sum.Removed += result.Removed
				c.retry(t, time.Duration(minute+1)*time.Minute)
			}
			c.advance(t, 10*time.Minute)
			last := c.look(t)
			t.Logf("%d creates: %d looks, %d found without their client, %d doubles removed",
				len(c.gambles), sum.Looked+last.Looked, sum.Adopted+last.Adopted, sum.Removed+last.Removed)
			if sum.Adopted == 0 || sum.Removed == 0 {
				t.Error("the looks had nothing to do")
			}
			c.wantOneEach(t)
			c.wantNoSecretsLater(t)
			c.wantQuiet(t)
		})
	}
}

// awaitLandings lets the minute pass in which everything lands that lands late.
func (c *casino) awaitLandings(t *testing.T, mode string) {
	t.Helper()
	c.faults(t, map[string]any{"listLag": "0s"}) // otherwise nobody could see when it is done
	c.advance(t, time.Minute)
	defer c.faults(t, map[string]any{"listLag": "30s"})
	eventually(t, "everything has landed", func() bool {
		count := c.things(t)
		for _, g := range c.gambles {
			want := 1
			switch again := g.key != "" && g.again == soon; {
			case g.fate != late:
				continue
			case again && (mode == "ignored" || g.what == "credentials"):
				want = 2
			}
			if g.of(count) != want {
				return false
			}
		}
		return true
	})
}

// wantOneEach checks that there are no doubles, no orphans and no foreign victims.
func (c *casino) wantOneEach(t *testing.T) {
	t.Helper()
	count := c.things(t)
	for _, g := range c.gambles {
		want := 1
		if g.fate == never && g.key == "" {
			want = 0
		}
		if got := g.of(count); got != want {
			t.Errorf("Prisma has %d of %s (%s, fate %d, key %q), want %d", got, g.name, g.what, g.fate, g.key, want)
		}
	}
	for _, path := range c.foreign {
		if status, _ := c.sim.Do(t, http.MethodGet, path, c.token(t), nil); status != http.StatusOK {
			t.Errorf("GET %s = %d: somebody else's was deleted", path, status)
		}
	}
	told := c.query(t, `SELECT count(*)::text FROM events e WHERE tenant_id = $1 AND type IN
		('project.created', 'database.created', 'credentials.created') AND EXISTS (SELECT FROM events o
		WHERE o.tenant_id = e.tenant_id AND o.type = e.type AND o.sequence <> e.sequence AND o.data = e.data)`, c.tenant)
	if told != "0" {
		t.Errorf("%s events were told twice", told)
	}
	// What was processed is known, whether or not its client asked again.
	unknown := c.query(t, `SELECT count(*)::text FROM operations o WHERE tenant_id = $1 AND NOT EXISTS (
		SELECT FROM events e WHERE e.tenant_id = o.tenant_id AND e.data->>'operationId' LIKE 'op_%'
		AND coalesce(o.credentials_id, o.database_id, o.project_id) IN (e.data->>'projectId', e.data->>'databaseId', e.data->>'credentialsId'))`,
		c.tenant)
	want := 0
	for _, g := range c.gambles {
		if g.fate == never && g.key == "" {
			want++
		}
	}
	if unknown != strconv.Itoa(want) {
		t.Errorf("%s operations have told nothing, want the %d that made nothing", unknown, want)
	}
}

// wantNoSecretsLater checks replays within the hour and after it.
func (c *casino) wantNoSecretsLater(t *testing.T) {
	t.Helper()
	for _, g := range c.gambles {
		if g.key == "" {
			continue
		}
		answer, err := c.ask(t.Context(), g)
		check(t, err)
		if answer.Resource.ID != g.id || answer.Resource.ConnectionString != g.secret || !answer.Replayed {
			t.Errorf("the replay of %s differs", g.name)
		}
	}
	c.advance(t, 61*time.Minute)
	if _, err := c.store.EraseSecrets(t.Context()); err != nil {
		t.Error(err)
	}
	if kept := c.query(t, `SELECT count(*)::text FROM operations WHERE secret_sealed IS NOT NULL`); kept != "0" {
		t.Errorf("%s sealed secrets outlive their hour", kept)
	}
	for _, g := range c.gambles {
		if g.key == "" {
			continue
		}
		answer, err := c.ask(t.Context(), g)
		check(t, err)
		if answer.Resource.ID != g.id || answer.Resource.ConnectionString != "" || answer.SecretExpired != (g.what != "project") {
			t.Errorf("after 61 minutes the replay of %s = %+v", g.name, answer)
		}
	}
}

// wantQuiet checks that the looking ends.
func (c *casino) wantQuiet(t *testing.T) {
	t.Helper()
	c.advance(t, 25*time.Hour)
	if result := c.look(t); result.Adopted+result.Removed > 0 {
		t.Errorf("a day later there was still something to do: %+v", result)
	}
	if n := c.query(t, `SELECT count(*)::text FROM operations WHERE sweep_at IS NOT NULL OR status IN ('running', 'unknown')`); n != "0" {
		t.Errorf("%s operations are still in doubt", n)
	}
	c.wantOneEach(t)
}
