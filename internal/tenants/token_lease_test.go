package tenants_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

const leaseFor = 3 * time.Minute // the default

// leased is one connection and its storage.
type leased struct {
	*service
	*tenants.TokenStorage

	owner tenants.TenantID
	id    tenants.ConnectionID
}

func openLeased(t *testing.T) *leased {
	t.Helper()
	s := openService(t)
	l := &leased{service: s, owner: s.tenant(t, "Acme").ID}
	l.id = s.connect(t, l.owner, "user", s.pair(t, "1", "wksp_1")).ID
	l.TokenStorage = s.TokensOf(l.owner, l.id)
	return l
}

// lateOf is when the first access token has half a minute left.
const late = time.Hour - 30*time.Second

// stored is the stored pair. A claim of it is also one of a late retry.
func (l *leased) stored(t *testing.T) prisma.Tokens {
	t.Helper()
	tokens, err := l.Tokens(t.Context())
	ok(t, err)
	tokens.LateToo = true
	return tokens
}

// claim claims a refresh of the stored pair.
func (l *leased) claim(t *testing.T) prisma.Claim {
	t.Helper()
	claim, err := l.Claim(t.Context(), l.stored(t))
	ok(t, err)
	return claim
}

// due claims a refresh that must be due.
func (l *leased) due(t *testing.T) prisma.Claim {
	t.Helper()
	claim := l.claim(t)
	if !claim.Due || claim.Held {
		t.Fatalf("Claim(): due = %t, held = %t; want it due", claim.Due, claim.Held)
	}
	return claim
}

// next is the pair that an exchange of the claim brings.
func next(claim prisma.Claim, name string) prisma.Tokens {
	return prisma.Tokens{
		WorkspaceID: claim.Current.WorkspaceID, Access: "access-" + name, Refresh: "refresh-" + name,
		IssuedAt: claim.Taken, ExpiresAt: claim.Taken.Add(time.Hour), Generation: claim.Current.Generation + 1,
	}
}

// state is what the refresh rules have written down.
type state struct {
	Status     string
	Generation int64
	Leased     bool // it has a lease, running or over
	Intent     bool
	Retried    bool // its late retry is spent
	BackOff    bool
}

func (l *leased) state(t *testing.T) state {
	t.Helper()
	var s state
	ok(t, l.admin.QueryRow(t.Context(), `
		SELECT status, generation, coalesce(lease_until > app.wall_clock(), false), intent_generation IS NOT NULL,
		       late_retries_of IS NOT DISTINCT FROM generation AND late_retries > 0, coalesce(refresh_not_before > app.now(), false)
		FROM connections WHERE id = $1`, l.id).Scan(&s.Status, &s.Generation, &s.Leased, &s.Intent, &s.Retried, &s.BackOff))
	return s
}

func (l *leased) wantState(t *testing.T, what string, want state) {
	t.Helper()
	if diff := cmp.Diff(want, l.state(t)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// reconnects counts what was told of the need to reconnect: events and audit rows.
func (l *leased) reconnects(t *testing.T) [2]int {
	t.Helper()
	return [2]int{
		one[int](t, l.service, `SELECT count(*) FROM events WHERE type = 'connection.needs_reconnect'`),
		one[int](t, l.service, `SELECT count(*) FROM audit_log WHERE action = 'connection.needs_reconnect'`),
	}
}

func TestClaimAndSave(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	before := l.stored(t)
	if before.Access != "access-1" || before.Refresh != "refresh-1" || before.Generation != 1 ||
		before.WorkspaceID != "wksp_1" || before.ReadAt.IsZero() {
		t.Fatalf("Tokens() = %v", before)
	}

	claim := l.due(t)
	if !claim.Current.SamePair(before) || claim.Current.Refresh != "refresh-1" {
		t.Errorf("Claim() has %v, want the stored pair", claim.Current)
	}
	if drift := claim.Taken.Sub(before.ReadAt); drift < 0 || drift > time.Minute {
		t.Errorf("Claim() was taken %s after the tokens were read", drift)
	}
	l.wantState(t, "claimed", state{Status: "active", Generation: 1, Leased: true, Intent: true})
	lease := one[time.Time](t, l.service, `SELECT lease_until FROM connections`).Sub(claim.Taken)
	if lease != leaseFor {
		t.Errorf("the lease lasts %s, want %s", lease, leaseFor)
	}

	held := l.claim(t)
	if held.Due || !held.Held {
		t.Errorf("Claim() while it is leased: due = %t, held = %t; want it held", held.Due, held.Held)
	}
	ok(t, l.Save(t.Context(), claim, next(claim, "2")))
	l.wantState(t, "saved", state{Status: "active", Generation: 2})
	after := l.stored(t)
	if after.Access != "access-2" || after.Refresh != "refresh-2" || after.Generation != 2 {
		t.Errorf("Tokens() = %v %q, want the saved pair", after, after.Access)
	}
	moved, err := l.Claim(t.Context(), before)
	ok(t, err)
	if moved.Due || moved.Held || moved.Current.Access != "access-2" {
		t.Errorf("Claim() of the pair before: due = %t, held = %t, %v", moved.Due, moved.Held, moved.Current)
	}
	l.wantState(t, "asked for the pair before", state{Status: "active", Generation: 2})
}

func TestOnlyOneOfManyClaimsIsDue(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	stored := l.stored(t)
	var mu sync.Mutex
	var due, held int
	var all sync.WaitGroup
	for range 4 {
		replica := l.store(t, tenants.Config{Pool: openPool(t, l.db.AppURL, 2, nil)}).TokensOf(l.owner, l.id)
		for range 2 {
			all.Go(func() {
				claim, err := replica.Claim(t.Context(), stored)
				if err != nil {
					t.Errorf("Claim() = %v", err)
				}
				mu.Lock()
				defer mu.Unlock()
				if claim.Due {
					due++
				}
				if claim.Held {
					held++
				}
			})
		}
	}
	all.Wait()
	if due != 1 || held != 7 {
		t.Errorf("of 8 claims at once %d are due and %d held, want 1 and 7", due, held)
	}
}

// The process died, or the row can't be reached: its lease ends with the intent
// open. The refresh token is presented once more, and late.
func TestOpenIntentIsRetriedOnceAndLate(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	l.due(t)
	l.db.Advance(t, leaseFor-time.Second)
	if claim := l.claim(t); claim.Due || !claim.Held {
		t.Errorf("before the lease is over: due = %t, held = %t", claim.Due, claim.Held)
	}
	l.db.Advance(t, 2*time.Second)
	for range 2 {
		if claim := l.claim(t); claim.Due || claim.Held || claim.Current.Access != "access-1" {
			t.Errorf("early: due = %t, held = %t, want the stored pair to be used on", claim.Due, claim.Held)
		}
	}
	l.wantState(t, "early", state{Status: "suspect", Generation: 1, Intent: true})
	if l.stored(t).Access != "access-1" {
		t.Error("a suspect connection does not serve its access token")
	}

	l.db.Advance(t, late-leaseFor-time.Second)
	retry := l.due(t)
	l.wantState(t, "late", state{Status: "suspect", Generation: 1, Leased: true, Intent: true, Retried: true, BackOff: true})
	if claim := l.claim(t); claim.Due || !claim.Held {
		t.Errorf("during the late retry: due = %t, held = %t", claim.Due, claim.Held)
	}
	ok(t, l.Save(t.Context(), retry, next(retry, "2")))
	l.wantState(t, "healed", state{Status: "active", Generation: 2})
	if n := l.reconnects(t); n != [2]int{} {
		t.Errorf("told %v times to reconnect", n)
	}
}

// An access token that the API refused has no life left that a replay could end.
func TestOpenIntentIsRetriedAtOnceAfterARefusal(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	l.due(t)
	l.db.Advance(t, leaseFor+time.Second)
	refused := l.stored(t)
	refused.ExpiresAt = refused.ReadAt
	claim, err := l.Claim(t.Context(), refused)
	ok(t, err)
	if !claim.Due {
		t.Error("Claim() of a refused pair is not due")
	}
	if claim.Current.ExpiresAt.Equal(refused.ExpiresAt) {
		t.Error("Claim() believes the caller instead of the row")
	}
}

func TestSettle(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		outcome    prisma.Outcome
		late       bool // it is a late retry that ends
		want       state
		reconnects int
	}{
		"not sent":                    {prisma.NotSent, false, state{Status: "active", Generation: 1, BackOff: true}, 0},
		"misconfigured":               {prisma.Misconfigured, false, state{Status: "active", Generation: 1, BackOff: true}, 0},
		"unknown":                     {prisma.Unknown, false, state{Status: "suspect", Generation: 1, Intent: true}, 0},
		"invalid grant":               {prisma.InvalidGrant, false, state{Status: "needs_reconnect", Generation: 1}, 1},
		"late retry was not sent":     {prisma.NotSent, true, state{Status: "suspect", Generation: 1, Intent: true, BackOff: true}, 0},
		"late retry: misconfigured":   {prisma.Misconfigured, true, state{Status: "suspect", Generation: 1, Intent: true, BackOff: true}, 0},
		"late retry: invalid grant":   {prisma.InvalidGrant, true, state{Status: "needs_reconnect", Generation: 1, Retried: true, BackOff: true}, 1},
		"late retry: unknown as well": {prisma.Unknown, true, state{Status: "suspect", Generation: 1, Intent: true, Retried: true, BackOff: true}, 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			claim := l.due(t)
			if tc.late {
				l.db.Advance(t, late)
				claim = l.due(t)
			}
			for range 2 { // the end of a refresh is reported again when its commit was not heard of
				ok(t, l.Settle(t.Context(), claim, tc.outcome))
				l.wantState(t, "settled", tc.want)
			}
			if n := l.reconnects(t); n != [2]int{tc.reconnects, tc.reconnects} {
				t.Errorf("events and audit rows = %v, want %d each", n, tc.reconnects)
			}
		})
	}
}

// A lease that was given back can be taken again after a pause, and a late retry
// that was not sent gets its chance again.
func TestReleasedLeaseBacksOff(t *testing.T) {
	t.Parallel()
	for _, wait := range []time.Duration{0, late} {
		l := openLeased(t)
		l.due(t)
		l.db.Advance(t, leaseFor+time.Second+wait)
		claim := l.claim(t)
		if wait == 0 {
			ok(t, l.SetTokens(t.Context(), l.pair(t, "1", "wksp_1"))) // an ordinary claim
			claim = l.due(t)
		}
		ok(t, l.Settle(t.Context(), claim, prisma.NotSent))
		if again := l.claim(t); again.Due || again.Held {
			t.Errorf("right after a release: due = %t, held = %t", again.Due, again.Held)
		}
		l.db.Advance(t, 5*time.Second)
		retry := l.due(t)
		ok(t, l.Save(t.Context(), retry, next(retry, "2")))
		if got := l.state(t).Status; got != "active" {
			t.Errorf("status = %s", got)
		}
	}
}

// Whoever settles after the row has moved on changes nothing.
func TestSettleAfterTheGenerationMoved(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	stale := l.due(t)
	l.db.Advance(t, late)
	retry := l.due(t)
	for _, outcome := range []prisma.Outcome{prisma.NotSent, prisma.Misconfigured, prisma.Unknown} {
		ok(t, l.Settle(t.Context(), stale, outcome)) // the lease is somebody else's by now
		l.wantState(t, "settled by "+outcome.String()+" of an older claim",
			state{Status: "suspect", Generation: 1, Leased: true, Intent: true, Retried: true, BackOff: true})
	}
	ok(t, l.Save(t.Context(), retry, next(retry, "2")))
	for _, outcome := range []prisma.Outcome{prisma.NotSent, prisma.Misconfigured, prisma.InvalidGrant, prisma.Unknown} {
		ok(t, l.Settle(t.Context(), stale, outcome))
		ok(t, l.Settle(t.Context(), retry, outcome))
		l.wantState(t, "settled by "+outcome.String()+" of an older generation", state{Status: "active", Generation: 2})
	}
	if n := l.reconnects(t); n != [2]int{} {
		t.Errorf("told %v times to reconnect", n)
	}
}

func TestClearTokensIfCurrent(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	old := l.stored(t)
	ok(t, l.SetTokens(t.Context(), l.pair(t, "2", "wksp_1")))
	ok(t, l.ClearTokensIfCurrent(t.Context(), old))
	l.wantState(t, "cleared an older pair", state{Status: "active", Generation: 2})
	current := l.stored(t)
	for range 2 {
		ok(t, l.ClearTokensIfCurrent(t.Context(), current))
	}
	l.wantState(t, "cleared the current pair", state{Status: "needs_reconnect", Generation: 2})
	if n := l.reconnects(t); n != [2]int{1, 1} {
		t.Errorf("events and audit rows = %v, want one each", n)
	}
	ok(t, l.SetTokens(t.Context(), l.pair(t, "3", "wksp_1"))) // a new consent
	l.wantState(t, "set again", state{Status: "active", Generation: 3})
	for range 2 {
		ok(t, l.ClearTokens(t.Context()))
	}
	_, err := l.Tokens(t.Context())
	wantKind(t, "Tokens() after ClearTokens()", err, fault.NotFound)
	_, err = l.Claim(t.Context(), current)
	wantKind(t, "Claim() after ClearTokens()", err, fault.NotFound)
	wantKind(t, "SetTokens() after ClearTokens()", l.SetTokens(t.Context(), current), fault.NotFound)
}

// A grant without a refresh token ends with its access token.
func TestGrantWithoutRefreshToken(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	pair := l.pair(t, "2", "wksp_1")
	pair.Refresh = ""
	ok(t, l.SetTokens(t.Context(), pair))
	if claim := l.claim(t); claim.Due || claim.Held || claim.Current.Refresh != "" {
		t.Errorf("early: due = %t, held = %t", claim.Due, claim.Held)
	}
	l.db.Advance(t, late)
	_, err := l.Claim(t.Context(), l.stored(t))
	wantKind(t, "Claim() at the end", err, fault.ReconnectRequired)
	if got := one[string](t, l.service, `SELECT status_reason FROM connections`); got != tenants.ReasonNoRefreshToken {
		t.Errorf("reason = %s", got)
	}
}

// A claim must not wait for long: whoever holds the row is about to say that
// there is nothing to do.
func TestClaimGivesUpOnALockedRow(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	stored := l.stored(t)
	tx, err := l.admin.Begin(t.Context())
	ok(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = tx.Exec(t.Context(), `SELECT FROM connections FOR UPDATE`)
	ok(t, err)
	begun := clock()
	_, err = l.Claim(t.Context(), stored)
	if took := clock().Sub(begun); err == nil || took > 10*time.Second || errors.Is(err, prisma.ErrSuperseded) {
		t.Errorf("Claim() = %v after %s, want an error after about a second", err, took)
	}
	ok(t, tx.Rollback(t.Context()))
	l.wantState(t, "not claimed", state{Status: "active", Generation: 1})
}
