package tenants_test

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// testClock is a process's clock that only moves when told to.
type testClock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *testClock { return &testClock{now: clock()} }

func (c *testClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *testClock) advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

// logbook keeps what a store logs.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logbook) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }

// count returns how many records hold all of the texts.
func (l *logbook) count(texts ...string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for line := range strings.Lines(l.buf.String()) {
		all := true
		for _, text := range texts {
			all = all && strings.Contains(line, text)
		}
		if all {
			n++
		}
	}
	return n
}

// wantFenced fails the test unless a token request was refused by the fence.
func wantFenced(t *testing.T, what string, err error) {
	t.Helper()
	if !errors.Is(err, tenants.ErrFenced) || fault.KindOf(err) != fault.PrismaUnavailable {
		t.Errorf("%s: error = %v, want ErrFenced of kind %q", what, err, fault.PrismaUnavailable)
	}
}

// A database that is not where it was accepted sends nothing, serves what is stored,
// changes no connection, says so once, and goes on after an operator's decision.
func TestFenceElsewhere(t *testing.T) {
	t.Parallel()
	tests := map[string]string{
		"another cluster":           `system_identifier = system_identifier + 1`,
		"another timeline":          `timeline = timeline + 1`,
		"a copy in the same server": `database_oid = database_oid + 1`,
		"another name":              `database_name = 'production'`,
		"another environment":       `environment = 'production'`,
		"writes were lost":          `decision = 'writes_lost'`,
	}
	for name, set := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			e := startTokenEndpoint(t, "refresh-1")
			if got := one[string](t, l.service, `SELECT string_agg(decision, ' ') FROM app.fence`); got != "first_use" {
				t.Fatalf("decisions = %q, want the first use", got)
			}
			l.sql(t, `UPDATE app.fence SET `+set)
			var book logbook
			store := l.store(t, tenants.Config{Pool: l.db.Pool, Logger: book.logger()})
			connection := store.PrismaConnection(l.owner, l.id)

			l.db.Advance(t, 55*time.Minute) // due, and still valid
			for range 3 {
				_, err := store.TokensOf(l.owner, l.id).Claim(t.Context(), l.stored(t))
				wantFenced(t, "Claim()", err)
			}
			tokens, err := newRefresher(t, e).AccessToken(t.Context(), connection)
			ok(t, err)
			if tokens.Access != "access-1" {
				t.Errorf("AccessToken() = %v, want the stored one", tokens)
			}
			l.db.Advance(t, time.Hour)
			_, err = newRefresher(t, e).AccessToken(t.Context(), connection)
			wantFenced(t, "AccessToken() after its end", err)
			if asked, _ := e.counts(); asked != 0 {
				t.Errorf("%d token requests, want none", asked)
			}
			l.wantState(t, "fenced", state{Status: "active", Generation: 1})
			if n := book.count(`"level":"ERROR"`, tenants.FenceCommand); n != 1 || book.count("level") != 1 {
				t.Errorf("the log has %d errors that name the command, want it to be the one record:\n%s", n, book.buf.String())
			}

			seen, err := store.Fence(t.Context())
			ok(t, err)
			if seen.Open() {
				t.Errorf("Fence() = %+v, want it closed", seen)
			}
			ok(t, store.AcceptFence(t.Context(), tenants.System(), seen))
			wantKind(t, "AcceptFence() of what was seen before", store.AcceptFence(t.Context(), tenants.System(), seen), fault.Conflict)
			tokens, err = newRefresher(t, e).AccessToken(t.Context(), connection)
			ok(t, err)
			if asked, _ := e.counts(); asked != 1 || tokens.Access != "access-of-exchange-1" {
				t.Errorf("accepted: %d token requests, %v", asked, tokens)
			}
			if n := one[int](t, l.service, `SELECT count(*) FROM admin_log WHERE action = 'fence.accepted'`); n != 1 {
				t.Errorf("%d rows in the installation's log, want 1", n)
			}
			if n := book.count(`"level":"INFO"`); n != 1 {
				t.Errorf("that it goes on was logged %d times, want once", n)
			}
		})
	}
}

// The process's own environment counts too.
func TestFenceOfAnotherEnvironment(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	for environment, want := range map[string]bool{"test": true, "staging": false} {
		store := l.store(t, tenants.Config{Pool: l.db.Pool, Environment: environment})
		claim, err := store.TokensOf(l.owner, l.id).Claim(t.Context(), l.stored(t))
		if claim.Due != want {
			t.Errorf("Claim() in %q: due = %t, %v", environment, claim.Due, err)
		}
		if want {
			ok(t, l.Settle(t.Context(), claim, prisma.NotSent))
			l.sql(t, `UPDATE connections SET refresh_not_before = NULL`)
			continue
		}
		wantFenced(t, "Claim()", err)
	}
}

// A code is a token too: it stays where it is until it may be sent.
func TestFenceKeepsCodes(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	x, code := s.returned(t, tenant, tenants.NewSession{})
	automatic := s.started(t, tenant, tenants.NewSession{Completion: tenants.CompletionAutomatic})
	s.sql(t, `INSERT INTO app.fence (id, decision, system_identifier, timeline, database_oid, database_name, environment)
		SELECT 1, 'first_use', c.system_identifier + 1, c.timeline, c.database_oid, c.database_name, c.environment FROM app.cluster() c`)

	_, err := s.ClaimCompletion(t.Context(), tenants.System(), tenant, x.ID, code, x.UserID)
	wantFenced(t, "ClaimCompletion()", err)
	back := tenants.Return{State: "state", Code: "code", Verifier: "verifier"}
	_, err = s.ReturnSession(t.Context(), tenants.System(), automatic, back)
	wantFenced(t, "ReturnSession() that completes", err)

	seen, err := s.Fence(t.Context())
	ok(t, err)
	ok(t, s.AcceptFence(t.Context(), tenants.System(), seen))
	claim, err := s.ClaimCompletion(t.Context(), tenants.System(), tenant, x.ID, code, x.UserID)
	ok(t, err)
	if claim.Code != "code-"+x.ID.String() {
		t.Error("the code was not kept")
	}
	_, err = s.ReturnSession(t.Context(), tenants.System(), automatic, back)
	ok(t, err)
}

// suspected leaves the connection with an intent that outlived its lease and an access
// token that has ended: its late retry is due.
func (l *leased) suspected(t *testing.T) {
	t.Helper()
	l.due(t)
	l.db.Advance(t, 2*time.Hour)
}

// A start, and the loss of the database, make refresh tokens from suspect wait, and
// nothing else.
func TestHold(t *testing.T) {
	t.Parallel()
	const hold = time.Millisecond // the server of a test is older than that
	l := openLeased(t)
	now := newClock()
	dead := openMovable(t, l.db.AppURL, &server{}) // leads nowhere
	store := l.store(t, tenants.Config{Pool: l.db.Pool, BeatPool: dead, Hold: hold, Now: now.Now})
	storage := store.TokensOf(l.owner, l.id)
	try := func(what string, want bool) prisma.Claim {
		t.Helper()
		claim, err := storage.Claim(t.Context(), l.stored(t))
		ok(t, err)
		if claim.Due != want {
			t.Fatalf("%s: due = %t, want %t", what, claim.Due, want)
		}
		return claim
	}

	first := try("an ordinary refresh right after the start", true)
	l.db.Advance(t, 2*time.Hour)
	try("a late retry right after the start", false)
	l.wantState(t, "held", state{Status: "suspect", Generation: 1, Intent: true})
	now.advance(hold)
	if err := store.Beat(t.Context()); err == nil {
		t.Fatal("Beat() reached a server that isn't there")
	}
	try("a late retry right after a loss of the database", false)
	now.advance(hold)
	second := try("a late retry after the hold", true)

	// The late retry is lost as well; during a hold that is no reason to give up.
	l.db.Advance(t, time.Hour)
	_ = store.Beat(t.Context())
	try("after a lost late retry, right after a loss of the database", false)
	l.wantState(t, "held again", state{Status: "suspect", Generation: 1, Intent: true, Retried: true})
	ok(t, l.Save(t.Context(), second, next(second, "2")))
	l.wantState(t, "the holder saved meanwhile", state{Status: "active", Generation: 2})
	_ = first
}

// A server that has only just been started binds the replicas that did not notice.
func TestHoldOfAYoungServer(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	now := newClock()
	const hold = 24 * time.Hour // the server of a test is younger
	store := l.store(t, tenants.Config{Pool: l.db.Pool, Hold: hold, Now: now.Now})
	now.advance(2 * hold)
	l.suspected(t)
	claim, err := store.TokensOf(l.owner, l.id).Claim(t.Context(), l.stored(t))
	ok(t, err)
	if claim.Due {
		t.Error("a late retry is due although the server was started a moment ago")
	}
	if !l.due(t).Due {
		t.Error("a replica without a hold waits too")
	}
}

func TestHoldNeedsAClock(t *testing.T) {
	t.Parallel()
	s := openService(t)
	for name, cfg := range map[string]tenants.Config{
		"no clock":        {Hold: time.Second},
		"negative hold":   {Hold: -1, Now: clock},
		"negative leeway": {Leeway: -1},
	} {
		cfg.Pool, cfg.Keyset = s.db.Pool, s.keyset
		if _, err := tenants.NewStore(cfg); err == nil {
			t.Errorf("%s: NewStore() takes it", name)
		}
	}
}
