package tenants_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// diagnose reads the connection and diagnoses it.
func (l *leased) diagnose(t *testing.T, endpointDown time.Time) (tenants.Diagnosis, tenants.Connection) {
	t.Helper()
	c, err := l.Connection(t.Context(), l.owner, l.id)
	ok(t, err)
	return l.Diagnose(c, endpointDown), c
}

func TestDiagnosis(t *testing.T) {
	t.Parallel()
	type setup = func(t *testing.T, l *leased)
	settle := func(outcome prisma.Outcome) setup {
		return func(t *testing.T, l *leased) {
			t.Helper()
			ok(t, l.Settle(t.Context(), l.due(t), outcome))
		}
	}
	check := func(found tenants.Finding) setup {
		return func(t *testing.T, l *leased) {
			t.Helper()
			c, begun, err := l.BeginCheck(t.Context(), l.owner, l.id)
			if ok(t, err); !begun {
				t.Fatal("the check is refused")
			}
			_, err = l.EndCheck(t.Context(), tenants.System(), c, found)
			ok(t, err)
		}
	}
	tests := map[string]struct {
		setup setup
		later time.Duration // how long after that it is asked
		code  tenants.DiagnosisCode
	}{
		"new":                              {func(*testing.T, *leased) {}, 0, tenants.DiagnosisHealthy},
		"unused for days":                  {func(*testing.T, *leased) {}, 72 * time.Hour, tenants.DiagnosisHealthy},
		"being refreshed":                  {func(t *testing.T, l *leased) { t.Helper(); l.due(t) }, 0, tenants.DiagnosisHealthy},
		"whoever refreshed it is gone":     {func(t *testing.T, l *leased) { t.Helper(); l.due(t) }, leaseFor + time.Second, tenants.DiagnosisUnconfirmed},
		"not sent":                         {settle(prisma.NotSent), 0, tenants.DiagnosisFailing},
		"not sent, and not tried for long": {settle(prisma.NotSent), 3 * time.Hour, tenants.DiagnosisHealthy},
		"misconfigured":                    {settle(prisma.Misconfigured), 0, tenants.DiagnosisClientRefused},
		"unknown":                          {settle(prisma.Unknown), 0, tenants.DiagnosisUnconfirmed},
		"refused":                          {settle(prisma.InvalidGrant), 0, tenants.DiagnosisRefused},
		"failing, then renewed": {func(t *testing.T, l *leased) {
			t.Helper()
			settle(prisma.NotSent)(t, l)
			l.db.Advance(t, 6*time.Second)
			claim := l.due(t)
			ok(t, l.Save(t.Context(), claim, next(claim, "2")))
		}, 0, tenants.DiagnosisHealthy},
		"unknown twice": {func(t *testing.T, l *leased) {
			t.Helper()
			settle(prisma.Unknown)(t, l)
			l.db.Advance(t, late)
			settle(prisma.Unknown)(t, l)
		}, 0, tenants.DiagnosisUnconfirmed},
		"unknown until it is too old": {func(t *testing.T, l *leased) {
			t.Helper()
			settle(prisma.Unknown)(t, l)
			stored := l.stored(t)
			l.db.Advance(t, prisma.RefreshTokenLife)
			_, err := l.Claim(t.Context(), stored)
			wantKind(t, "Claim()", err, fault.ReconnectRequired)
		}, 0, tenants.DiagnosisUnknown},
		"no refresh token": {func(t *testing.T, l *leased) {
			t.Helper()
			pair := l.pair(t, "2", "wksp_1")
			pair.Refresh = ""
			ok(t, l.SetTokens(t.Context(), pair))
		}, 0, tenants.DiagnosisNoRefreshToken},
		"client replaced": {func(t *testing.T, l *leased) {
			t.Helper()
			_, err := l.UpdateTenant(t.Context(), tenants.System(), l.owner, tenants.TenantChange{Client: &tenants.OAuthClient{ID: "new"}})
			ok(t, err)
		}, 0, tenants.DiagnosisClientReplaced},
		"checked: works":                 {check(tenants.FindingWorks), 0, tenants.DiagnosisHealthy},
		"checked: refused":               {check(tenants.FindingRefused), 0, tenants.DiagnosisAccessRefused},
		"checked: unreachable":           {check(tenants.FindingUnreachable), 0, tenants.DiagnosisUnreachable},
		"checked: not renewed":           {check(tenants.FindingNotRenewed), 0, tenants.DiagnosisFailing},
		"checked: unreachable, long ago": {check(tenants.FindingUnreachable), 6 * time.Minute, tenants.DiagnosisHealthy},
		"checked: refused, then renewed": {func(t *testing.T, l *leased) {
			t.Helper()
			check(tenants.FindingRefused)(t, l)
			claim := l.due(t)
			ok(t, l.Save(t.Context(), claim, next(claim, "2")))
		}, 0, tenants.DiagnosisHealthy},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			before := l.now(t)
			tc.setup(t, l)
			l.db.Advance(t, tc.later)
			got, c := l.diagnose(t, time.Time{})
			if got.Code != tc.code || got.Action != tc.code.Action() {
				t.Errorf("Diagnose() = %+v, want %s", got, tc.code)
			}
			if got.Since.Before(before.Add(-time.Minute)) || got.Since.After(l.now(t)) {
				t.Errorf("since %s, the test began at %s", got.Since, before)
			}
			if until := c.UsableUntil(); got.Action == tenants.ActionReconnect && c.Status == tenants.ConnectionNeedsReconnect && until.After(c.StatusSince) {
				t.Errorf("a broken connection is usable until %s", until)
			}
		})
	}
}

// While this process leaves the token endpoint alone, what is due for a renewal won't
// get one; what isn't is well.
func TestDiagnosisWhileTheEndpointIsDown(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	down := l.now(t).Add(-time.Hour)
	if got, _ := l.diagnose(t, down); got.Code != tenants.DiagnosisHealthy {
		t.Errorf("with a fresh access token: %+v", got)
	}
	for _, later := range []time.Duration{50 * time.Minute, 20 * time.Minute} {
		l.db.Advance(t, later)
		got, c := l.diagnose(t, down)
		if got.Code != tenants.DiagnosisFailing || !got.Since.Equal(down) {
			t.Errorf("%s later: %+v", later, got)
		}
		if says := strings.Contains(got.Message, "works until"); says != c.Usable() {
			t.Errorf("usable = %t, and the message is %q", c.Usable(), got.Message)
		}
	}
}

// Every code has words of its own, for people.
func TestEveryDiagnosisHasWords(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	_, c := l.diagnose(t, time.Time{})
	seen := map[string]bool{}
	for status, reasons := range map[tenants.ConnectionStatus][]string{
		tenants.ConnectionActive: {""}, tenants.ConnectionSuspect: {""}, tenants.ConnectionDisconnected: {""},
		tenants.ConnectionNeedsReconnect: {tenants.ReasonRefused, tenants.ReasonUnknown, tenants.ReasonNoRefreshToken, tenants.ReasonClientReplaced},
	} {
		for _, reason := range reasons {
			c.Status, c.Reason = status, reason
			got := l.Diagnose(c, time.Time{})
			if seen[got.Message] || !strings.HasSuffix(got.Message, ".") || strings.Contains(got.Message, "_") {
				t.Errorf("%s, %s says %q", status, reason, got.Message)
			}
			seen[got.Message] = true
		}
	}
}

// A fenced database says so on every connection, and that its operator must act.
func TestDiagnosisOfAFencedDatabase(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	elsewhere := l.store(t, tenants.Config{Pool: l.db.Pool, Environment: "another", Now: clock})
	_, err := elsewhere.TokensOf(l.owner, l.id).Claim(t.Context(), l.stored(t))
	wantKind(t, "Claim() for another environment", err, fault.PrismaUnavailable)
	_, c := l.diagnose(t, time.Time{})
	got := elsewhere.Diagnose(c, time.Time{})
	if got.Code != tenants.DiagnosisStopped || got.Action != tenants.ActionOperator || got.Since.IsZero() {
		t.Errorf("Diagnose() = %+v", got)
	}
}

// Four replicas, each with many callers, find the refresh token dead: one exchange,
// one event, one audit row.
func TestReplicasFindTheGrantDeadOnce(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	e := startTokenEndpoint(t, "another token")
	l.db.Advance(t, 2*time.Hour)
	var all sync.WaitGroup
	for range 4 {
		store := l.store(t, tenants.Config{Pool: openPool(t, l.db.AppURL, 4, nil)})
		refresher, connection := newRefresher(t, e), store.PrismaConnection(l.owner, l.id)
		for range 8 {
			all.Go(func() {
				_, err := refresher.AccessToken(t.Context(), connection)
				wantKind(t, "AccessToken()", err, fault.ReconnectRequired)
			})
		}
	}
	all.Wait()
	if asked, _ := e.counts(); asked != 1 {
		t.Errorf("%d exchanges", asked)
	}
	if n := l.reconnects(t); n != [2]int{1, 1} {
		t.Errorf("events and audit rows = %v, want one each", n)
	}
}

// Two replicas hold a claim each of the same pair, since the first one's lease ran out,
// and both are told that it is dead.
func TestTwoReplicasAreToldInvalidGrant(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	first := l.due(t)
	l.db.Advance(t, late)
	second := l.due(t)
	var all sync.WaitGroup
	for _, claim := range []prisma.Claim{first, second, first, second} {
		all.Go(func() {
			if err := l.Settle(t.Context(), claim, prisma.InvalidGrant); err != nil {
				t.Errorf("Settle() = %v", err)
			}
		})
	}
	all.Wait()
	if n := l.reconnects(t); n != [2]int{1, 1} {
		t.Errorf("events and audit rows = %v, want one each", n)
	}
	l.connect(t, l.owner, "user", l.pair(t, "2", "wksp_1"))
	for _, claim := range []prisma.Claim{first, second} { // they say it again, too late
		ok(t, l.Settle(t.Context(), claim, prisma.InvalidGrant))
	}
	if got := l.state(t); got.Status != "active" || got.Generation != 2 {
		t.Errorf("after the reconnect the state is %+v", got)
	}
	if got, _ := l.diagnose(t, time.Time{}); got.Code != tenants.DiagnosisHealthy {
		t.Errorf("Diagnose() = %+v", got)
	}
}

// A backlog of one tenant does not keep the others waiting, and the ids spread the
// renewals evenly over the ten days.
func TestUnusedConnectionsTakeTurns(t *testing.T) {
	t.Parallel()
	const backlog = 400
	l := openLeased(t)
	other := l.tenant(t, "Other").ID
	l.connect(t, other, "user", l.pair(t, "2", "wksp_2"))
	l.sql(t, `INSERT INTO connections (tenant_id, id, user_id, workspace_id, oauth_client_id, status, generation,
			access_token_sealed, refresh_token_sealed, access_issued_at, access_expires_at)
		SELECT tenant_id, gen_random_uuid(), 'user' || n, workspace_id, oauth_client_id, status, generation,
			access_token_sealed, refresh_token_sealed, access_issued_at, access_expires_at
		FROM connections, generate_series(1, $2) n WHERE id = $1`, l.id, backlog)
	const day = 24 * time.Hour
	found := func() (mine, theirs int) {
		list, err := l.UnusedConnections(t.Context(), 60*day, nil)
		ok(t, err)
		for i, d := range list {
			if d.Needs != tenants.TendRenew {
				t.Errorf("an idle connection needs %s", d.Needs)
			}
			if d.Tenant == other {
				theirs++
				if i > 1 {
					t.Errorf("the other tenant's connection is number %d", i+1)
				}
				continue
			}
			mine++
		}
		return mine, theirs
	}
	l.db.Advance(t, 55*day-time.Hour)
	if mine, theirs := found(); mine+theirs != 0 {
		t.Errorf("%d are due before the 55th day", mine+theirs)
	}
	l.db.Advance(t, day+time.Hour) // a tenth of the spread
	if mine, _ := found(); mine < backlog/20 || mine > backlog/5 {
		t.Errorf("after a tenth of the spread %d of %d are due", mine, backlog)
	}
	l.db.Advance(t, 9*day)
	if mine, theirs := found(); mine != 99 || theirs != 1 {
		t.Errorf("a batch has %d and %d, want 99 and 1", mine, theirs)
	}
	list, err := l.UnusedConnections(t.Context(), 60*day, []tenants.TenantID{l.owner})
	if ok(t, err); len(list) != 1 || list[0].Tenant != other {
		t.Errorf("without the first tenant: %d", len(list))
	}
	for i, want := range []bool{true, false} {
		begun, err := l.BeginTending(t.Context(), list[0], time.Hour)
		if ok(t, err); begun != want {
			t.Errorf("BeginTending() number %d = %t", i+1, begun)
		}
	}
	if _, theirs := found(); theirs != 0 {
		t.Error("what was put off is found at once")
	}
}
