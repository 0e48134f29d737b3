// Package provisioning_test kills replicas in the middle of creating calls.
package provisioning_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/processtest"
)

// rounds is how often each step is killed; the long run has 20.
var rounds = flag.Int("rounds", 1, "kills at each step of a creating call")

// world is two replicas in front of a Prisma with a gate.
type world struct {
	*processtest.World

	gate     *gate
	settings []string
	survivor *processtest.Replica
	base     string // path of a connection
}

func open(t *testing.T) *world {
	t.Helper()
	w := &world{}
	w.World = processtest.NewWorld(t, func(in *processtest.Installation) {
		w.gate = newGate(t, in.Values["PRISMA_API_URL"])
		in.Values["PRISMA_API_URL"] = w.gate.url
	})
	w.settings = w.Installation.With(nil)
	w.survivor = processtest.StartServeAt(t, w.settings, w.Installation.Public)
	w.base = "/v1/connections/" + w.Connect(t, "ada").ID
	return w
}

// answer is what a partner got; a zero status: nothing.
type answer struct {
	status   int
	replayed bool
	body     string
	problem  string
	database processtest.Database
}

// post sends a creating call under a key; "": without one.
func (w *world) post(ctx context.Context, r *processtest.Replica, path, key string, body any) answer {
	content, err := json.Marshal(body)
	if err != nil {
		return answer{}
	}
	if body == nil {
		content = nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, r.Origin+w.base+path, bytes.NewReader(content))
	if err != nil {
		return answer{}
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set("Authorization", "Bearer "+w.APIKey)
	if key != "" {
		request.Header.Set("Idempotency-Key", key)
	}
	response, err := processtest.PlainClient().Do(request)
	if err != nil {
		return answer{}
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}
	}
	a := answer{status: response.StatusCode, replayed: response.Header.Get("Idempotent-Replayed") == "true", body: string(text)}
	var said struct {
		Type string
		Data processtest.Database
	}
	if json.Unmarshal(text, &said) == nil {
		a.problem, a.database = said.Type[strings.LastIndexByte(said.Type, '/')+1:], said.Data
	}
	return a
}

// step is a moment of a creating call at which its replica is killed.
type step struct {
	name string
	plan []stop
	// unsaved: the answer has arrived, and is kept from being stored.
	unsaved bool
	// twice: the replica that takes the call up is killed there too.
	twice bool
}

func steps() []step {
	create := stop{method: http.MethodPost, suffix: "/v1/projects", processed: true}
	lost := create
	lost.cut = true
	look := stop{method: http.MethodGet, suffix: "/v1/projects"}
	credentials := stop{method: http.MethodPost, suffix: "/connections", processed: true}
	lostCredentials := credentials
	lostCredentials.cut = true
	return []step{
		{name: "the intent is stored, nothing was done", plan: []stop{{method: http.MethodPost, suffix: "/v1/projects"}}},
		{name: "it is done, no answer yet", plan: []stop{create}},
		{name: "the answer is there, not stored yet", plan: []stop{create}, unsaved: true},
		{name: "the answer was lost, looking it up", plan: []stop{lost, look}},
		{name: "adopted, its credentials are made", plan: []stop{lost, credentials}},
		{name: "their answer was lost, they are rotated", plan: []stop{lost, lostCredentials, {
			method: http.MethodPost, suffix: "/rotate", processed: true,
		}}},
		{name: "taken up by another, which is killed too", plan: []stop{create}, twice: true},
	}
}

// A replica is killed at each step of a creating call. The call is made again at another
// one, and in the end there is one project, one answer, and a connection string that
// opens. The calls that take up what the dead left wait for lists that may lag, all of
// them at the same time.
func TestKilledAtEachStep(t *testing.T) { //nolint:tparallel // rounds come one after the other, each with all of its calls at once
	t.Parallel()
	w := open(t)
	kills := 0
	for round := range *rounds {
		t.Run(fmt.Sprint("round ", round), func(t *testing.T) {
			for i, s := range steps() {
				name := fmt.Sprintf("shop-%d-%d", round, i)
				kills += w.killIn(t, s, name)
				t.Run(s.name, func(t *testing.T) {
					t.Parallel() // begins when all the killing of the round is done
					w.wantOneAnswer(t, s.name, name)
				})
			}
		})
		t.Logf("round %d: %d kills so far", round+1, kills)
	}
	w.wantNothingElse(t, *rounds*len(steps()))
	t.Logf("%d kills at %d steps: one project and one answer each", kills, len(steps()))
}

// killIn kills the replicas of one step, and lets their lease pass. It returns how many
// were killed.
func (w *world) killIn(t *testing.T, s step, name string) (kills int) {
	t.Helper()
	w.killAt(t, s.plan, s.unsaved, name)
	kills++
	if s.twice {
		w.leaseOver(t)
		w.killAt(t, []stop{{method: http.MethodGet, suffix: "/v1/projects"}}, false, name)
		kills++
	}
	if busy := w.create(t.Context(), w.survivor, name); busy.status != http.StatusConflict || busy.problem != "operation-in-progress" {
		t.Errorf("%s: asked again at once: %d %s", s.name, busy.status, busy.problem)
	}
	w.leaseOver(t)
	return kills
}

func (w *world) create(ctx context.Context, r *processtest.Replica, name string) answer {
	return w.post(ctx, r, "/databases", name, map[string]string{"name": name, "region": "us-east-1"})
}

// killAt starts a replica, lets it create something, and kills it when it has reached
// the end of the plan.
func (w *world) killAt(t *testing.T, plan []stop, unsaved bool, name string) {
	t.Helper()
	victim := processtest.StartServe(t, w.settings)
	held, leave := w.gate.set(plan...)
	defer leave()
	called := make(chan answer, 1)
	go func() { called <- w.create(t.Context(), victim, name) }()
	select {
	case <-held:
	case a := <-called:
		t.Fatalf("%s was answered before its step was reached: %d %s", name, a.status, a.problem)
	}
	if unsaved {
		defer w.keepUnsaved(t, leave)()
	}
	victim.Signal(t, syscall.SIGKILL)
	victim.Wait(t)
	if a := <-called; a.status != 0 {
		t.Errorf("a killed replica answered %d", a.status)
	}
}

// keepUnsaved locks the operation under way, lets the held answer go, and waits until
// it has arrived: the next thing that the replica does is to store it. The returned
// function takes the lock away.
func (w *world) keepUnsaved(t *testing.T, leave func()) (release func()) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.Installation.DB.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	release = func() { _ = conn.Close(context.WithoutCancel(t.Context())) } // and with it goes the lock
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SELECT FROM operations WHERE status = 'running' FOR UPDATE`); err != nil {
		t.Fatal(err)
	}
	const arrived = `SELECT count(*) FROM audit_log WHERE action = 'prisma_call.ended'`
	before := w.Count(t, arrived)
	leave()
	processtest.Eventually(t, "the answer has arrived", func() bool { return w.Count(t, arrived) > before })
	return release
}

// leaseOver lets the time pass that a dead replica's operation stays its own, and puts
// off the look of the job: here it is the client that asks again.
func (w *world) leaseOver(t *testing.T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.Installation.DB.AdminURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), `
		UPDATE operations SET lease_until = app.wall_clock() - interval '1 ms',
			sweep_at = CASE WHEN sweep_at IS NOT NULL THEN app.now() + interval '10 min' END
		WHERE status = 'running'`); err != nil {
		t.Fatal(err)
	}
}

// wantOneAnswer makes the call again, twice, and looks at what it gets.
func (w *world) wantOneAnswer(t *testing.T, step, name string) {
	t.Helper()
	first := w.create(t.Context(), w.survivor, name)
	if first.status != http.StatusCreated {
		t.Errorf("%s: asked again: %d %s", step, first.status, first.body)
		return
	}
	if again := w.create(t.Context(), w.survivor, name); again.status != http.StatusCreated || !again.replayed || again.body != first.body {
		t.Errorf("%s: the second answer differs from the first", step)
	}
	if tables := processtest.Tables(t, first.database.Credentials.ConnectionString); len(tables) != 0 {
		t.Errorf("%s: a new database has tables: %v", step, tables)
	}
	if n := w.names(t, "/projects")[name]; n != 1 {
		t.Errorf("%s: %d projects, want 1", step, n)
	}
	if credentials := w.names(t, "/databases/"+first.database.ID+"/credentials"); len(credentials) != 1 || credentials[name] > 2 {
		t.Errorf("%s: credentials %v, want those that came with it and one more at most", step, credentials)
	}
}

// names counts what a list of the partner's holds by its name.
func (w *world) names(t *testing.T, path string) map[string]int {
	t.Helper()
	count := map[string]int{}
	for cursor := ""; ; {
		status, body := processtest.SendJSON(t, http.MethodGet, w.survivor.Origin+w.base+path+"?limit=100"+cursor, w.APIKey, nil)
		if status != http.StatusOK {
			t.Fatalf("GET %s = %d %s", path, status, body)
		}
		var page struct {
			Data       []struct{ Name string }
			Pagination struct{ NextCursor string }
		}
		if err := json.Unmarshal(body, &page); err != nil {
			t.Fatal(err)
		}
		for _, one := range page.Data {
			count[one.Name]++
		}
		if page.Pagination.NextCursor == "" {
			return count
		}
		cursor = "&cursor=" + page.Pagination.NextCursor
	}
}

// wantNothingElse checks that nothing was made or told beside what was asked for.
func (w *world) wantNothingElse(t *testing.T, asked int) {
	t.Helper()
	if projects, databases := w.names(t, "/projects"), w.names(t, "/databases"); len(projects) != asked || len(databases) != asked {
		t.Errorf("%d projects and %d databases, want %d of each", len(projects), len(databases), asked)
	}
	for _, event := range []string{"project.created", "database.created"} {
		if n := w.Count(t, `SELECT count(*) FROM events WHERE type = '`+event+`'`); n != asked {
			t.Errorf("%d events %s, want %d", n, event, asked)
		}
	}
	if n := w.Count(t, `SELECT count(*) FROM operations WHERE status <> 'done'`); n != 0 {
		t.Errorf("%d operations are not done", n)
	}
}

// A replica is killed in the middle of a call without a key, so that no client can take
// it up: the next one that starts finds what was made, and tells.
func TestNobodyAsksAgain(t *testing.T) {
	t.Parallel()
	w := open(t)
	victim := processtest.StartServe(t, w.settings)
	held, leave := w.gate.set(stop{method: http.MethodPost, suffix: "/v1/projects", processed: true})
	called := make(chan answer, 1)
	go func() {
		called <- w.post(t.Context(), victim, "/databases", "", map[string]string{"name": "shop", "region": "us-east-1"})
	}()
	<-held
	victim.Signal(t, syscall.SIGKILL)
	victim.Wait(t)
	leave()
	<-called
	w.survivor.Stop(t, syscall.SIGTERM)
	w.leaseOver(t)
	w.Advance(t, 11*time.Minute)
	w.survivor = processtest.StartServeAt(t, w.settings, w.Installation.Public)
	processtest.AwaitRecord(t, w.survivor, "INFO", "looked for late landings")
	if n := w.names(t, "/projects")["shop"]; n != 1 {
		t.Errorf("%d projects, want 1", n)
	}
	w.wantNothingElse(t, 1)
}

// A replica is killed while it rotates: the same key rotates again, and what it gives
// opens the database.
func TestKilledWhileRotating(t *testing.T) {
	t.Parallel()
	w := open(t)
	made := w.create(t.Context(), w.survivor, "shop")
	path := "/databases/" + made.database.ID + "/credentials/" + made.database.Credentials.ID + "/rotate"
	for round := range *rounds {
		key := fmt.Sprintf("rotate-%d", round)
		victim := processtest.StartServe(t, w.settings)
		held, leave := w.gate.set(stop{method: http.MethodPost, suffix: "/rotate", processed: true})
		called := make(chan answer, 1)
		go func() { called <- w.post(t.Context(), victim, path, key, nil) }()
		<-held
		victim.Signal(t, syscall.SIGKILL)
		victim.Wait(t)
		leave()
		<-called
		w.leaseOver(t)
		first := w.post(t.Context(), w.survivor, path, key, nil)
		again := w.post(t.Context(), w.survivor, path, key, nil)
		if first.status != http.StatusOK || first.body != again.body || !again.replayed {
			t.Errorf("asked again: %d, then %d, replayed: %t", first.status, again.status, again.replayed)
		}
		var rotated struct {
			Data struct{ ConnectionString string }
		}
		if err := json.Unmarshal([]byte(first.body), &rotated); err != nil {
			t.Fatal(err)
		}
		processtest.Tables(t, rotated.Data.ConnectionString)
	}
}

// A replica is killed when Prisma has deleted a project and nobody was told: the call that
// is made again finds it gone, and tells, once.
func TestKilledWhileDeleting(t *testing.T) {
	t.Parallel()
	w := open(t)
	for round := range *rounds {
		made := w.create(t.Context(), w.survivor, fmt.Sprint("shop-", round))
		path := "/projects/" + made.database.ProjectID
		victim := processtest.StartServe(t, w.settings)
		held, leave := w.gate.set(stop{method: http.MethodDelete, suffix: path, processed: true})
		called := make(chan int, 1)
		go func() { called <- w.delete(t.Context(), victim, path) }()
		<-held
		victim.Signal(t, syscall.SIGKILL)
		victim.Wait(t)
		leave()
		<-called
		if n := w.Count(t, `SELECT count(*) FROM events WHERE type LIKE '%.deleted'`); n != 2*round {
			t.Errorf("%d events of deletions before anybody could tell, want %d", n, 2*round)
		}
		for _, want := range []int{http.StatusNoContent, http.StatusNotFound} {
			if got := w.delete(t.Context(), w.survivor, path); got != want {
				t.Errorf("deleted again: %d, want %d", got, want)
			}
		}
		if n := w.Count(t, `SELECT count(*) FROM events WHERE type IN ('database.deleted', 'project.deleted')`); n != 2*(round+1) {
			t.Errorf("%d events of deletions, want %d", n, 2*(round+1))
		}
		if n := w.Count(t, `SELECT count(*) FROM operations WHERE secret_sealed IS NOT NULL`) + w.Count(t, `SELECT count(*) FROM deletions`); n != 0 {
			t.Errorf("%d connection strings or intents outlive the project", n)
		}
	}
}

// delete deletes something and returns the status; 0: there was no answer.
func (w *world) delete(ctx context.Context, r *processtest.Replica, path string) int {
	request, err := http.NewRequestWithContext(ctx, http.MethodDelete, r.Origin+w.base+path, nil)
	if err != nil {
		return 0
	}
	request.Header.Set("Authorization", "Bearer "+w.APIKey)
	response, err := processtest.PlainClient().Do(request)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	return response.StatusCode
}

// A hundred calls with one key at two replicas make one thing.
func TestOneKeyAtTwoReplicas(t *testing.T) {
	t.Parallel()
	const callers = 100
	w := open(t)
	replicas := []*processtest.Replica{w.survivor, processtest.StartServe(t, w.settings)}
	answers := make([]answer, callers)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() { answers[i] = w.create(t.Context(), replicas[i%2], "shop") })
	}
	all.Wait()
	bodies, fresh := map[string]bool{}, 0
	for _, a := range answers {
		switch {
		case a.status == http.StatusCreated:
			bodies[a.body] = true
			if !a.replayed {
				fresh++
			}
		case a.status != http.StatusConflict || a.problem != "operation-in-progress":
			t.Errorf("an answer is %d %s", a.status, a.problem)
		}
	}
	if fresh != 1 || len(bodies) != 1 {
		t.Errorf("%d fresh answers of %d different ones, want 1 of 1", fresh, len(bodies))
	}
	w.wantOneAnswer(t, "a hundred at once", "shop")
	w.wantNothingElse(t, 1)
}
