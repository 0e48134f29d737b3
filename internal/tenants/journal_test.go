package tenants_test

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// gapless fails the test if a tenant's sequences don't run 1, 2, 3 … up to what its
// counters say.
func (s *service) gapless(t *testing.T, tenant tenants.TenantID) {
	t.Helper()
	for _, table := range []string{"events", "audit_log"} {
		if gap := one[int](t, s, `SELECT count(*) FROM (SELECT sequence, row_number() OVER (ORDER BY sequence) AS n
			FROM `+table+` WHERE tenant_id = $1) x WHERE sequence <> n`, tenant); gap != 0 {
			t.Errorf("the sequence of %s is off at %d rows", table, gap)
		}
	}
	if !one[bool](t, s, `SELECT events = (SELECT count(*) FROM events e WHERE e.tenant_id = q.tenant_id)
		AND audit = (SELECT count(*) FROM audit_log a WHERE a.tenant_id = q.tenant_id)
		FROM tenant_sequences q WHERE tenant_id = $1`, tenant) {
		t.Error("the counters are not the numbers of rows")
	}
}

// Fifty changes at once on four replicas, of which some are rolled back, some are
// committed without an answer and some are given up: every change that happened has
// its rows, no other has, and the numbers have no gap.
func TestSequencesUnderFaults(t *testing.T) {
	t.Parallel()
	const changes = 50
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	var sessions []tenants.Session
	for range changes {
		sessions = append(sessions, s.created(t, tenant, tenants.NewSession{}))
	}
	var stores []*tenants.Store
	var wires []*cutter
	for range 4 {
		wire := &cutter{}
		stores = append(stores, s.store(t, tenants.Config{Pool: openPool(t, s.db.AppURL, 4, wire)}))
		wire.arm(4, false, true)
		wires = append(wires, wire)
	}
	var mu sync.Mutex
	failed := 0
	var all sync.WaitGroup
	for i, x := range sessions {
		all.Go(func() {
			_, err := stores[i%4].EndSession(t.Context(), tenants.System(), x,
				tenants.Ending{Status: tenants.SessionDenied}, tenants.SessionCreated)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
			}
		})
	}
	all.Wait()
	cuts := 0
	for _, wire := range wires {
		cuts += wire.disarm()
	}
	denied := one[int](t, s, `SELECT count(*) FROM connect_sessions WHERE status = 'denied'`)
	if cuts < 8 || failed < cuts || denied <= changes-failed || denied == changes {
		t.Errorf("%d commits were cut, %d changes failed, %d happened of %d: the faults did not bite", cuts, failed, denied, changes)
	}
	s.gapless(t, tenant)
	if got := one[int](t, s, `SELECT count(DISTINCT data->>'sessionId') FROM events e JOIN connect_sessions x
		ON x.status = 'denied' WHERE e.type = 'connect_session.denied'`); got != denied {
		t.Errorf("%d denied sessions have an event, want %d", got, denied)
	}
	if got := len(s.events(t, tenant)); got != denied {
		t.Errorf("%d events, want %d", got, denied)
	}
	s.proven(t)
}

// What the events say is what happened: replaying them gives the connections and
// sessions as they stand.
func TestEventsEqualStateChanges(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant, other := s.tenant(t, "Acme").ID, s.tenant(t, "Bolt").ID
	ctx, by := t.Context(), tenants.System()
	for i, user := range []string{"a", "b", "c", "d"} {
		c := s.connect(t, tenant, user, s.pair(t, user, "wksp_1"))
		storage := s.TokensOf(tenant, c.ID)
		if i >= 1 {
			tokens, err := storage.Tokens(ctx)
			ok(t, err)
			claim, err := storage.Claim(ctx, tokens)
			ok(t, err)
			ok(t, storage.Settle(ctx, claim, prisma.InvalidGrant))
		}
		if i >= 2 {
			s.connect(t, tenant, user, s.pair(t, user+"2", "wksp_1"))
		}
		if i >= 3 {
			_, err := s.Disconnect(ctx, by, tenant, c.ID)
			ok(t, err)
		}
	}
	s.connect(t, other, "a", s.pair(t, "other", "wksp_1"))
	x := s.started(t, tenant, tenants.NewSession{})
	_, err := s.EndSession(ctx, by, x, tenants.Ending{Status: tenants.SessionDenied}, tenants.SessionStarted)
	ok(t, err)
	y := s.completing(t, tenant, tenants.NewSession{})
	_, err = s.EndSession(ctx, by, y, tenants.Ending{Status: tenants.SessionFailed, Failure: "code_refused"}, tenants.SessionCompleting)
	ok(t, err)
	s.created(t, tenant, tenants.NewSession{})
	s.db.Advance(t, time.Hour)
	_, err = s.SweepSessions(ctx)
	ok(t, err)

	for _, owner := range []tenants.TenantID{tenant, other} {
		s.gapless(t, owner)
		for what, queries := range map[string][2]string{
			"connections": {
				`SELECT user_id || ' ' || status FROM connections WHERE tenant_id = $1 ORDER BY 1`,
				`SELECT * FROM (SELECT DISTINCT ON (data->>'connectionId') (data->>'userId') || ' ' || CASE type
					WHEN 'connection.connected' THEN 'active' WHEN 'connection.reconnected' THEN 'active'
					ELSE split_part(type, '.', 2) END
				FROM events WHERE tenant_id = $1 AND data ? 'connectionId' ORDER BY data->>'connectionId', sequence DESC) x ORDER BY 1`,
			},
			"sessions": {
				`SELECT concat_ws(' ', status, failure) FROM connect_sessions WHERE tenant_id = $1 ORDER BY 1`,
				`SELECT concat_ws(' ', CASE WHEN type LIKE 'connection.%' THEN 'connected' ELSE split_part(type, '.', 2) END, data->>'reason')
				FROM events WHERE tenant_id = $1 AND data ? 'sessionId' ORDER BY 1`,
			},
		} {
			if diff := cmp.Diff(list[string](t, s, queries[0], owner), list[string](t, s, queries[1], owner)); diff != "" {
				t.Errorf("%s as they are and as the events tell (-are +told):\n%s", what, diff)
			}
		}
	}
	// Every change of every kind is in the audit log, too.
	if n := one[int](t, s, `SELECT count(*) FROM events e WHERE NOT EXISTS (SELECT FROM audit_log a
		WHERE a.tenant_id = e.tenant_id AND a.action = e.type AND a.details = e.data)`); n != 0 {
		t.Errorf("%d events have no audit row", n)
	}
	s.proven(t)
}

func TestAuditSaysWho(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	by := tenants.Actor{Type: tenants.ActorUser, ID: "user", RequestID: "req_7", IP: netip.MustParseAddr("2001:db8::7")}
	_, _, err := s.CreateSession(t.Context(), by, tenant, tenants.NewSession{UserID: "user", ReturnURL: returnURL})
	ok(t, err)
	got := one[string](t, s, `SELECT concat_ws(' ', actor_type, actor_id, request_id, host(ip), action)
		FROM audit_log ORDER BY sequence DESC LIMIT 1`)
	if got != "user user req_7 2001:db8::7 connect_session.create" {
		t.Errorf("the audit row says %s", got)
	}
	// What can't be written down does not happen.
	by.Type = "nobody"
	if _, _, err := s.CreateSession(t.Context(), by, tenant, tenants.NewSession{UserID: "user", ReturnURL: returnURL}); err == nil {
		t.Error("an actor of no type changes something")
	}
	if n := one[int](t, s, `SELECT count(*) FROM connect_sessions`); n != 1 {
		t.Errorf("%d sessions, want 1", n)
	}
}
