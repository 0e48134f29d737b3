package tenants_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

func TestClaimCompletion(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant, other := s.tenant(t, "Acme").ID, s.tenant(t, "Bolt").ID
	ctx, by := t.Context(), tenants.System()
	x, code := s.returned(t, tenant, tenants.NewSession{})
	_, another := s.returned(t, tenant, tenants.NewSession{})
	before := s.rows(t, tenant)
	for name, tc := range map[string]struct {
		tenant     tenants.TenantID
		code, user string
		want       fault.Kind
	}{
		"another code":           {tenant, tenants.RandomToken(), "user", fault.NotFound},
		"no code":                {tenant, "", "user", fault.NotFound},
		"another session's code": {tenant, another, "user", fault.NotFound},
		"another user":           {tenant, code, "user2", fault.Conflict},
		"no user":                {tenant, code, "", fault.Conflict},
		"another tenant":         {other, code, "user", fault.NotFound},
	} {
		claim, err := s.ClaimCompletion(ctx, by, tc.tenant, x.ID, tc.code, tc.user)
		wantKind(t, name, err, tc.want)
		if claim.Code != "" || claim.Verifier != "" {
			t.Errorf("%s: the refusal holds the code", name)
		}
	}
	s.unchanged(t, "refused completions", tenant, before)

	claim, err := s.ClaimCompletion(ctx, by, tenant, x.ID, code, "user")
	ok(t, err)
	if claim.Code != "code-"+x.ID.String() || claim.Verifier != "verifier-"+x.ID.String() || claim.ClientID != clientID ||
		claim.RedirectURI != redirectURI || claim.Done {
		t.Error("the claim does not hold what was parked")
	}
	connection, err := s.FinishSession(ctx, by, claim.Session, clientID, s.pair(t, "1", "wksp_1"))
	ok(t, err)

	// The same call again, for ten minutes.
	for range 2 {
		again, err := s.ClaimCompletion(ctx, by, tenant, x.ID, code, "user")
		ok(t, err)
		if !again.Done || again.Code != "" || again.Connection.ID != connection.ID {
			t.Errorf("the same call again: done = %t, connection %s", again.Done, again.Connection.ID)
		}
		s.db.Advance(t, tenants.CompletionReplay-time.Minute)
	}
	_, err = s.ClaimCompletion(ctx, by, tenant, x.ID, code, "user2")
	wantKind(t, "another user after it was connected", err, fault.Conflict)
	_, err = s.ClaimCompletion(ctx, by, tenant, x.ID, code, "user")
	wantKind(t, "the same call much later", err, fault.Expired)
}

// With automatic completion the code is spent in the callback and never stored.
func TestAutomaticCompletion(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	x := s.started(t, tenant, tenants.NewSession{Completion: tenants.CompletionAutomatic})
	code, err := s.ReturnSession(t.Context(), tenants.System(), x, tenants.Return{State: "state", Code: "c", Verifier: "v"})
	ok(t, err)
	if code != "" || s.status(t, x) != tenants.SessionCompleting {
		t.Errorf("a completion code of %d characters, status %s", len(code), s.status(t, x))
	}
	if one[bool](t, s, `SELECT num_nonnulls(code_sealed, verifier_sealed, completion_code_hash) > 0 FROM connect_sessions`) {
		t.Error("the code is stored")
	}
	_, err = s.ClaimCompletion(t.Context(), tenants.System(), tenant, x.ID, "", "user")
	wantKind(t, "ClaimCompletion()", err, fault.Conflict)
	_, err = s.FinishSession(t.Context(), tenants.System(), x, clientID, s.pair(t, "1", "wksp_1"))
	ok(t, err)
}

func TestFinishSession(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	ctx, by := t.Context(), tenants.Actor{Type: tenants.ActorAPIKey, ID: "key_1", RequestID: "req_1"}
	x := s.completing(t, tenant, tenants.NewSession{})
	pair := s.pair(t, "1", "wksp_1")
	first, err := s.FinishSession(ctx, by, x, clientID, pair)
	ok(t, err)
	if first.UserID != "user" || first.WorkspaceID != "wksp_1" || first.ClientID != clientID || first.Generation != 1 ||
		first.Status != tenants.ConnectionActive || !first.AccessUntil.Equal(pair.ExpiresAt) {
		t.Errorf("FinishSession() = %+v", first)
	}
	before := s.rows(t, tenant)
	for range 3 {
		again, err := s.FinishSession(ctx, by, x, clientID, s.pair(t, "again", "wksp_1"))
		ok(t, err)
		again.Signs.ReadAt = first.Signs.ReadAt
		if diff := cmp.Diff(first, again, cmp.AllowUnexported(first.Signs)); diff != "" {
			t.Errorf("finishing again (-first +again):\n%s", diff)
		}
	}
	s.unchanged(t, "finishing again", tenant, before)

	// The same workspace of the same user is the same connection, another is another.
	same := s.connect(t, tenant, "user", s.pair(t, "2", "wksp_1"))
	workspace := s.connect(t, tenant, "user", s.pair(t, "3", "wksp_2"))
	user := s.connect(t, tenant, "user2", s.pair(t, "4", "wksp_1"))
	if same.ID != first.ID || same.Generation != 2 || workspace.ID == first.ID || user.ID == first.ID {
		t.Errorf("ids %s %s %s %s, generation %d", first.ID, same.ID, workspace.ID, user.ID, same.Generation)
	}
	tokens, err := s.TokensOf(tenant, first.ID).Tokens(ctx)
	ok(t, err)
	if tokens.Access != "access-2" || tokens.Refresh != "refresh-2" {
		t.Errorf("stored %q", tokens.Access)
	}
	want := []string{tenants.EventConnected, tenants.EventReconnected, tenants.EventConnected, tenants.EventConnected}
	if got := s.events(t, tenant); !slices.Equal(got, want) {
		t.Errorf("events = %v, want %v", got, want)
	}
	actor := one[string](t, s, `SELECT concat_ws(' ', actor_type, actor_id, request_id, target) FROM audit_log
		WHERE action = 'connection.connected' ORDER BY sequence LIMIT 1`)
	if actor != "api_key key_1 req_1 "+first.ID.String() {
		t.Errorf("the audit row says %s", actor)
	}
}

// The commit of a new grant is not heard of: saving it again is right either way.
func TestFinishSessionAfterAnUnknownCommit(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		s := openService(t)
		tenant := s.tenant(t, "Acme").ID
		wire := &cutter{}
		store := s.store(t, tenants.Config{Pool: openPool(t, s.db.AppURL, 1, wire)})
		x := s.completing(t, tenant, tenants.NewSession{})
		pair := s.pair(t, "1", "wksp_1")
		wire.arm(1, after, false)
		if _, err := store.FinishSession(t.Context(), tenants.System(), x, clientID, pair); !postgres.CommitUnknown(err) {
			t.Fatalf("COMMIT cut, after = %t: FinishSession() = %v", after, err)
		}
		wire.disarm()
		stored := map[bool]int{true: 1}[after]
		if c, j := one[int](t, s, `SELECT count(*) FROM connections`), one[int](t, s, `SELECT count(*) FROM river.river_job`); c != stored || j != stored {
			t.Errorf("COMMIT cut, after = %t: %d connections and %d jobs, want %d each", after, c, j, stored)
		}
		c, err := store.FinishSession(t.Context(), tenants.System(), x, clientID, pair)
		ok(t, err)
		if c.Generation != 1 || one[int](t, s, `SELECT count(*) FROM connections`) != 1 ||
			one[int](t, s, `SELECT count(*) FROM river.river_job WHERE kind = 'name_workspace'`) != 1 {
			t.Errorf("COMMIT cut, after = %t: generation %d", after, c.Generation)
		}
		if got := s.events(t, tenant); !slices.Equal(got, []string{tenants.EventConnected}) {
			t.Errorf("COMMIT cut, after = %t: events = %v", after, got)
		}
	}
}

// Two sessions of one user come back from the same workspace at once: both are
// connected, by one connection that holds the later grant.
func TestFinishTwoSessionsAtOnce(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	earlier, later := s.completing(t, tenant, tenants.NewSession{}), s.completing(t, tenant, tenants.NewSession{})
	// The first is held up before its commit, so that the second begins without
	// seeing its connection.
	hold, err := s.admin.Begin(t.Context())
	ok(t, err)
	defer func() { _ = hold.Rollback(t.Context()) }()
	_, err = hold.Exec(t.Context(), `SELECT FROM tenant_sequences FOR UPDATE`)
	ok(t, err)
	var mu sync.Mutex
	var connections []tenants.Connection
	var all sync.WaitGroup
	for i, x := range []tenants.Session{earlier, later} {
		pair := s.pair(t, x.ID.String(), "wksp_1")
		all.Go(func() {
			c, err := s.FinishSession(t.Context(), tenants.System(), x, clientID, pair)
			if err != nil {
				t.Errorf("FinishSession() = %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			connections = append(connections, c)
		})
		s.waiting(t, i+1)
	}
	ok(t, hold.Rollback(t.Context()))
	all.Wait()
	if len(connections) != 2 {
		t.FailNow()
	}
	first, second := connections[0], connections[1]
	if first.ID != second.ID || first.Generation+second.Generation != 3 {
		t.Errorf("connections %s and %s, generations %d and %d", first.ID, second.ID, first.Generation, second.Generation)
	}
	for _, x := range []tenants.Session{earlier, later} {
		if got, err := s.Session(t.Context(), tenant, x.ID); err != nil || got.Status != tenants.SessionConnected || got.Result != first.ID {
			t.Errorf("session is %s with %s, %v", got.Status, got.Result, err)
		}
	}
	if got := s.events(t, tenant); !slices.Equal(got, []string{tenants.EventConnected, tenants.EventReconnected}) {
		t.Errorf("events = %v", got)
	}
}

func TestReconnect(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	ctx, by := t.Context(), tenants.System()
	// It broke, and a refresh of its old pair is still running somewhere.
	claim := l.due(t)
	ok(t, l.Settle(ctx, claim, prisma.InvalidGrant))
	x := l.completing(t, l.owner, tenants.NewSession{ConnectionID: l.id})
	before := one[string](t, l.service, `SELECT c::text FROM connections c`)

	pinned, err := l.FinishSession(ctx, by, x, clientID, l.pair(t, "elsewhere", "wksp_2"))
	wantKind(t, "another workspace", err, fault.WorkspaceChanged)
	if pinned.ID != l.id || pinned.WorkspaceID != "wksp_1" {
		t.Errorf("FinishSession() names %s in %s, want the pinned connection", pinned.ID, pinned.WorkspaceID)
	}
	if after := one[string](t, l.service, `SELECT c::text FROM connections c`); after != before {
		t.Error("a grant for another workspace changed the connection")
	}
	got, err := l.Session(ctx, l.owner, x.ID)
	ok(t, err)
	if got.Status != tenants.SessionFailed || got.Failure != "workspace_changed" {
		t.Errorf("the session is %s: %s", got.Status, got.Failure)
	}
	_, err = l.FinishSession(ctx, by, x, clientID, l.pair(t, "elsewhere", "wksp_1"))
	wantKind(t, "the same session with the right workspace", err, fault.RestartConnect)

	y := l.completing(t, l.owner, tenants.NewSession{ConnectionID: l.id})
	connection, err := l.FinishSession(ctx, by, y, "another client", l.pair(t, "2", "wksp_1"))
	ok(t, err)
	if connection.ID != l.id || connection.Generation != 2 || connection.Status != tenants.ConnectionActive ||
		connection.Reason != "" || connection.ClientID != "another client" {
		t.Errorf("reconnected as %+v", connection)
	}
	l.wantState(t, "reconnected", state{Status: "active", Generation: 2})

	// Disconnected while its user was away: there is nothing to reconnect any more.
	z := l.completing(t, l.owner, tenants.NewSession{ConnectionID: l.id})
	_, err = l.Disconnect(ctx, by, l.owner, l.id)
	ok(t, err)
	_, err = l.FinishSession(ctx, by, z, clientID, l.pair(t, "3", "wksp_1"))
	wantKind(t, "a connection that was disconnected meanwhile", err, fault.NotFound)
	_, err = l.Connection(ctx, l.owner, l.id)
	wantKind(t, "Connection()", err, fault.NotFound)
	_, err = l.Disconnect(ctx, by, l.owner, l.id)
	wantKind(t, "disconnecting again", err, fault.NotFound)
	want := []string{tenants.EventConnected, tenants.EventNeedsReconnect, tenants.EventSessionFailed, tenants.EventReconnected, tenants.EventDisconnected}
	if got := l.events(t, l.owner); !slices.Equal(got, want) {
		t.Errorf("events = %v, want %v", got, want)
	}
}

func TestSweepSessions(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant, other := s.tenant(t, "Acme").ID, s.tenant(t, "Bolt").ID
	ctx := t.Context()
	created, started := s.created(t, tenant, tenants.NewSession{}), s.started(t, other, tenants.NewSession{})
	returned, _ := s.returned(t, tenant, tenants.NewSession{})
	completing := s.completing(t, other, tenants.NewSession{})
	connection := s.connect(t, tenant, "user", s.pair(t, "1", "wksp_1"))
	sweep := func(want int) {
		t.Helper()
		if n, err := s.SweepSessions(ctx); err != nil || n != want {
			t.Errorf("SweepSessions() = %d, %v; want %d", n, err, want)
		}
	}
	stored := func(x tenants.Session) string {
		t.Helper()
		return one[string](t, s, `SELECT concat_ws(' ', status, failure) FROM connect_sessions WHERE id = $1`, x.ID)
	}
	sweep(0)
	s.db.Advance(t, tenants.CompletionLife+time.Second)
	sweep(1)
	s.db.Advance(t, 3*time.Minute)
	sweep(1)
	s.db.Advance(t, 7*time.Minute)
	sweep(2)
	sweep(0)
	for _, tc := range []struct {
		x    tenants.Session
		want string
	}{
		{created, "expired"}, {started, "expired"}, {returned, "expired"}, {completing, "failed outcome_unknown"},
	} {
		if got := stored(tc.x); got != tc.want {
			t.Errorf("the session is %s, want %s", got, tc.want)
		}
	}
	if got := s.events(t, tenant); !slices.Equal(got, []string{tenants.EventConnected, tenants.EventSessionExpired, tenants.EventSessionExpired}) {
		t.Errorf("events = %v", got)
	}
	if got := s.events(t, other); !slices.Equal(got, []string{tenants.EventSessionFailed, tenants.EventSessionExpired}) {
		t.Errorf("events of the other tenant = %v", got)
	}
	if got, err := s.Connection(ctx, tenant, connection.ID); err != nil || got.Status != tenants.ConnectionActive {
		t.Errorf("the connection is %s, %v", got.Status, err)
	}
	// A late answer to an exchange that was given up changes nothing.
	_, err := s.FinishSession(ctx, tenants.System(), completing, clientID, s.pair(t, "late", "wksp_1"))
	wantKind(t, "FinishSession() of a swept session", err, fault.RestartConnect)
}

// A tenant whose rows are locked does not keep the sweep from the others.
func TestSweepGoesRoundABusyTenant(t *testing.T) {
	t.Parallel()
	s := openService(t)
	busy, idle := s.tenant(t, "Acme").ID, s.tenant(t, "Bolt").ID
	for range 3 {
		s.created(t, busy, tenants.NewSession{Life: time.Minute})
	}
	x := s.created(t, idle, tenants.NewSession{}) // due last
	s.db.Advance(t, time.Hour)
	hold, err := s.admin.Begin(t.Context())
	ok(t, err)
	defer func() { _ = hold.Rollback(t.Context()) }()
	_, err = hold.Exec(t.Context(), `SELECT FROM tenant_sequences WHERE tenant_id = $1 FOR UPDATE`, busy)
	ok(t, err)
	n, err := s.SweepSessions(t.Context())
	if n != 1 || !postgres.IsUnavailable(err) {
		t.Errorf("SweepSessions() = %d, %v; want 1 and what held it up", n, err)
	}
	if got := s.events(t, idle); !slices.Equal(got, []string{tenants.EventSessionExpired}) {
		t.Errorf("events of the idle tenant = %v, session %s", got, s.status(t, x))
	}
	ok(t, hold.Rollback(t.Context()))
	if n, err := s.SweepSessions(t.Context()); n != 3 || err != nil {
		t.Errorf("SweepSessions() = %d, %v; want the other 3", n, err)
	}
}

// More sessions than one sweep takes, swept by three replicas at once: one event
// each.
func TestSweepAtOnce(t *testing.T) {
	t.Parallel()
	const sessions = 120
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	for range sessions {
		s.created(t, tenant, tenants.NewSession{})
	}
	s.db.Advance(t, time.Hour)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for {
				n, err := s.SweepSessions(t.Context())
				if err != nil {
					t.Errorf("SweepSessions() = %v", err)
				}
				if n == 0 || err != nil {
					return
				}
			}
		})
	}
	all.Wait()
	if n := one[int](t, s, `SELECT count(DISTINCT data->>'sessionId') FROM events`); n != sessions {
		t.Errorf("%d sessions were told of, want %d", n, sessions)
	}
	if n := len(s.events(t, tenant)); n != sessions {
		t.Errorf("%d events, want %d", n, sessions)
	}
}
