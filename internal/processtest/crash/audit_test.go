package crash_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/audittest"
	"github.com/connect-prisma/server/internal/processtest"
	"github.com/connect-prisma/server/internal/tenants"
)

// auditKills is how often TestKilledWhileChanging kills; the promise is about 500.
var auditKills = flag.Int("audit.kills", 4, "kills in the middle of changes")

// changing is a partner that changes things without a pause.
type changing struct {
	*processtest.World

	live       string      // a connection that works
	spare      chan string // connections to end
	numbers    atomic.Int64
	answered   atomic.Int64
	unanswered atomic.Int64
}

// change makes one change after the other at a replica until it dies.
func (c *changing) change(ctx context.Context, r *processtest.Replica, first func()) {
	send := func(method, path string, body any) []byte {
		status, answer, err := processtest.ExchangeJSON(ctx, method, r.Origin+path, c.APIKey, body)
		switch {
		case err != nil:
			c.unanswered.Add(1)
		case status < http.StatusBadRequest:
			c.answered.Add(1)
			first()
		}
		return answer
	}
	for c.running(r) {
		n := c.numbers.Add(1)
		switch n % 6 {
		case 0:
			send(http.MethodPost, "/v1/connect-sessions", map[string]string{"userId": fmt.Sprint("user-", n), "returnUrl": processtest.Acme + "/callback"})
		case 1:
			send(http.MethodPatch, "/v1/connections/"+c.live, map[string]any{"metadata": map[string]string{"n": strconv.FormatInt(n, 10)}})
		case 2:
			send(http.MethodPost, "/v1/keys/rotate", map[string]any{})
		case 3, 4:
			var made struct{ Data struct{ ID string } }
			answer := send(http.MethodPost, "/v1/connections/"+c.live+"/projects", map[string]string{"name": fmt.Sprint("shop-", n), "region": "us-east-1"})
			if json.Unmarshal(answer, &made) == nil && made.Data.ID != "" && n%6 == 4 {
				send(http.MethodDelete, "/v1/connections/"+c.live+"/projects/"+made.Data.ID, nil)
			}
		case 5:
			select {
			case id := <-c.spare:
				send(http.MethodDelete, "/v1/connections/"+id, nil)
			default:
			}
		}
	}
}

func (*changing) running(r *processtest.Replica) bool {
	select {
	case <-r.Done:
		return false
	default:
		return true
	}
}

// TestKilledWhileChanging: a replica is killed again and again in the middle of changes of
// many kinds. No change is there without its row in the audit log, no row without its
// change, and nothing happened at Prisma that the log did not announce.
func TestKilledWhileChanging(t *testing.T) {
	t.Parallel()
	w := processtest.NewWorld(t, func(*processtest.Installation) {})
	c := &changing{World: w, spare: make(chan string, 40**auditKills)}
	settings := w.Installation.With(nil)
	first := processtest.StartServeAt(t, settings, w.Installation.Public)
	c.live = w.Connect(t, "ada").ID
	first.Stop(t, syscall.SIGTERM)
	c.importSpare(t)
	for range *auditKills {
		victim := processtest.StartServe(t, settings)
		begun := make(chan struct{})
		var all sync.WaitGroup
		var once sync.Once
		for range 6 {
			all.Go(func() { c.change(t.Context(), victim, func() { once.Do(func() { close(begun) }) }) })
		}
		<-begun
		at := time.NewTimer(rand.N(300 * time.Millisecond))
		<-at.C
		kill(t, victim)
		all.Wait()
	}
	if c.answered.Load() < int64(*auditKills) || c.unanswered.Load() < int64(*auditKills) {
		t.Errorf("%d calls were answered and %d were not: the kills hit nothing", c.answered.Load(), c.unanswered.Load())
	}
	c.wantAudited(t)
}

// importSpare makes connections to end.
func (c *changing) importSpare(t *testing.T) {
	t.Helper()
	var lines strings.Builder
	for n := range cap(c.spare) {
		_, _ = fmt.Fprintf(&lines, `{"userId":"spare-%d","workspaceId":"wksp_1","accessToken":"a-%[1]d","refreshToken":"r-%[1]d"}`+"\n", n)
	}
	for line := range strings.Lines(c.Installation.Command(t, lines.String(), "import", "--tenant", c.Tenant)) {
		var made struct{ ConnectionID string }
		if err := json.Unmarshal([]byte(line), &made); err != nil {
			t.Fatal(err)
		}
		c.spare <- made.ConnectionID
	}
}

func (c *changing) wantAudited(t *testing.T) {
	t.Helper()
	db, err := pgx.Connect(t.Context(), c.Installation.DB.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(context.WithoutCancel(t.Context()))
	replay, wrong, err := audittest.Check(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	for _, what := range wrong {
		t.Error(what)
	}
	// What has no status has a time: that of the transaction that wrote its row.
	if n := c.Count(t, `SELECT count(*) FROM connections WHERE metadata <> '{}' AND updated_at <> (
		SELECT max(at) FROM audit_log WHERE action = 'connection.update')`); n != 0 {
		t.Error("the connection's metadata is of another time than the log says")
	}
	unsaid := c.wantAnnounced(t, db)
	out := c.Installation.Command(t, "", "ledger", "verify") // fails with a finding
	t.Logf("%d kills; %d calls answered, %d not; %d rows rebuild the status of %d things; %d calls to Prisma have no end; %s",
		*auditKills, c.answered.Load(), c.unanswered.Load(), replay.Rows, replay.Things, unsaid, strings.SplitN(out, "\n", 2)[0])
}

// wantAnnounced compares what is at Prisma with what the log announced, and returns how
// many calls were under way when their replica died.
func (c *changing) wantAnnounced(t *testing.T, db *pgx.Conn) (unsaid int) {
	t.Helper()
	names, ids := c.projects(t)
	announced := map[string]bool{} // by their operations' ids, then by their own
	for _, sql := range []string{
		`SELECT details->>'operationId' FROM audit_log WHERE action = 'prisma_call.begun' AND details->>'operation' = 'createProject'`,
		`SELECT target FROM audit_log WHERE action = 'prisma_call.begun' AND details->>'operation' = 'deleteProject'`,
	} {
		for _, id := range collect[string](t, db, sql) {
			announced[id] = true
		}
	}
	made := map[string]bool{} // by their names, which no two have
	for _, o := range collect[struct {
		ID   tenants.OperationID
		Name string
	}](t, db, `SELECT id, request->>'name' FROM operations`) {
		made[o.Name] = announced[o.ID.String()]
	}
	for _, name := range names {
		if !made[name] {
			t.Errorf("the project %s was made, and the log did not announce it", name)
		}
	}
	for _, id := range collect[string](t, db, `SELECT target FROM audit_log WHERE action = 'project.created'`) {
		if !slices.Contains(ids, id) && !announced[id] {
			t.Errorf("the project %s is gone, and the log did not announce it", id)
		}
	}
	return c.Count(t, `SELECT count(*) FROM audit_log b WHERE action = 'prisma_call.begun' AND sequence NOT IN (
		SELECT (details->>'begun')::bigint FROM audit_log WHERE action = 'prisma_call.ended')`)
}

func collect[T any](t *testing.T, db *pgx.Conn, sql string) []T {
	t.Helper()
	rows, err := db.Query(t.Context(), sql)
	if err != nil {
		t.Fatal(err)
	}
	by := pgx.RowToStructByPos[T]
	if _, plain := any(*new(T)).(string); plain {
		by = pgx.RowTo[T]
	}
	list, err := pgx.CollectRows(rows, by)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// projects are those at Prisma.
func (c *changing) projects(t *testing.T) (names, ids []string) {
	t.Helper()
	last := processtest.StartServe(t, c.Installation.With(nil))
	defer last.Stop(t, syscall.SIGTERM)
	for cursor := ""; ; {
		status, body := processtest.SendJSON(t, http.MethodGet, last.Origin+"/v1/connections/"+c.live+"/projects?limit=100"+cursor, c.APIKey, nil)
		var page struct {
			Data       []struct{ ID, Name string }
			Pagination struct{ NextCursor string }
		}
		if err := json.Unmarshal(body, &page); err != nil || status != http.StatusOK {
			t.Fatalf("the list of projects: %d, %v", status, err)
		}
		for _, p := range page.Data {
			names, ids = append(names, p.Name), append(ids, p.ID)
		}
		if page.Pagination.NextCursor == "" {
			return names, ids
		}
		cursor = "&cursor=" + page.Pagination.NextCursor
	}
}
