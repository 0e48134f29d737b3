package tenants_test

import (
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// lost ends a claim without an answer: it is settled so, or its process dies.
func lost() map[string]func(t *testing.T, l *leased, claim prisma.Claim) {
	return map[string]func(t *testing.T, l *leased, claim prisma.Claim){
		"its outcome is unknown": func(t *testing.T, l *leased, claim prisma.Claim) {
			t.Helper()
			for range 2 { // reported twice: the first report's commit was not heard of
				ok(t, l.Settle(t.Context(), claim, prisma.Unknown))
			}
		},
		"its process dies": func(t *testing.T, l *leased, _ prisma.Claim) {
			t.Helper()
			if claim := l.claim(t); claim.Due || !claim.Held {
				t.Errorf("while its lease runs: due = %t, held = %t", claim.Due, claim.Held)
			}
			l.db.Advance(t, leaseFor+time.Second)
		},
	}
}

// A token whose late retry brought no answer is presented again, with growing pauses,
// once its access token has ended; the connection is given up for nothing but an answer.
func TestLostLateRetriesDoNotEndTheConnection(t *testing.T) {
	t.Parallel()
	for name, lose := range lost() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			lose(t, l, l.due(t))
			l.db.Advance(t, late)
			lose(t, l, l.due(t))
			if name == "its outcome is unknown" {
				if early := l.claim(t); early.Due || early.Held || early.TooEarly <= 0 || early.TooEarly > time.Minute {
					t.Errorf("while the access token lives: %+v", early)
				}
			}
			l.db.Advance(t, 2*time.Minute) // its end, and the first pause
			claim := l.due(t)
			for want := 2 * time.Minute; want < 20*time.Minute; want *= 2 {
				lose(t, l, claim)
				again := l.claim(t)
				passed := l.now(t).Sub(claim.Taken)
				pause := again.TooEarly + passed
				if again.Due && want > passed || !again.Due && (pause < want || pause > want*5/4+passed) {
					t.Errorf("the next one %s after the claim, want %s and up to a quarter more", pause, want)
				}
				if !again.Due {
					l.db.Advance(t, again.TooEarly)
					again = l.due(t)
				}
				if claim = again; !claim.Late {
					t.Error("a further retry is not called late")
				}
			}
			if got := l.state(t).Status; got != "suspect" {
				t.Errorf("status = %s", got)
			}
			ok(t, l.Save(t.Context(), claim, next(claim, "2")))
			l.wantState(t, "answered at last", state{Status: "active", Generation: 2})
			if n := l.reconnects(t); n != [2]int{} {
				t.Errorf("told %v times to reconnect", n)
			}
			ok(t, l.Wait(t.Context()))
			l.proven(t)
		})
	}
}

// The access token that a refusal made useless may still live: only its first retry goes
// by that.
func TestFurtherRetriesWaitForTheEndAlsoAfterARefusal(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	ok(t, l.Settle(t.Context(), l.due(t), prisma.Unknown))
	refused := l.stored(t)
	refused.ExpiresAt = refused.ReadAt
	claim, err := l.Claim(t.Context(), refused)
	ok(t, err)
	if !claim.Due || !claim.Late {
		t.Fatalf("the first retry of a refused pair: %+v", claim)
	}
	ok(t, l.Settle(t.Context(), claim, prisma.Unknown))
	l.db.Advance(t, 10*time.Minute)
	if claim, err = l.Claim(t.Context(), refused); err != nil || claim.Due || claim.TooEarly < 40*time.Minute {
		t.Errorf("the second one: %+v, %v", claim, err)
	}
}

// A late retry is announced before anything is written, so that nothing is left behind
// by a process that dies while it asks the endpoint how it is.
func TestLateRetryIsAnnounced(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	ok(t, l.Settle(t.Context(), l.due(t), prisma.Unknown))
	l.db.Advance(t, late)
	stored := l.stored(t)
	stored.LateToo = false
	claim, err := l.Claim(t.Context(), stored)
	if err != nil || claim.Due || claim.Held || !claim.Late {
		t.Errorf("Claim() = %+v, %v; want it late and no more", claim, err)
	}
	l.wantState(t, "announced", state{Status: "suspect", Generation: 1, Intent: true})
	l.due(t)
}

// What ends a connection of unknown fate without an answer is the age of its refresh
// token: once, and said once.
func TestUnknownFateEndsWithTheRefreshToken(t *testing.T) {
	t.Parallel()
	for name, lose := range lost() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			lose(t, l, l.due(t))
			stored := l.stored(t)
			l.db.Advance(t, prisma.RefreshTokenLife-time.Hour)
			lose(t, l, l.due(t))
			l.db.Advance(t, time.Hour)
			for range 2 {
				_, err := l.Claim(t.Context(), stored)
				wantKind(t, "Claim()", err, fault.ReconnectRequired)
			}
			if got := l.state(t); got.Status != "needs_reconnect" || got.Leased || got.Intent {
				t.Errorf("state = %+v, want needs_reconnect", got)
			}
			reason := one[string](t, l.service, `SELECT status_reason || ' ' || (SELECT data->>'reason' FROM events
				WHERE type = 'connection.needs_reconnect') FROM connections`)
			if reason != tenants.ReasonUnknown+" "+tenants.ReasonUnknown {
				t.Errorf("reasons in row and event = %q", reason)
			}
			if n := l.reconnects(t); n != [2]int{1, 1} {
				t.Errorf("events and audit rows = %v, want one each", n)
			}
			_, err := l.Tokens(t.Context())
			wantKind(t, "Tokens()", err, fault.ReconnectRequired)
			if one[bool](t, l.service, `SELECT refresh_token_sealed IS NOT NULL FROM connections`) {
				t.Error("the dead refresh token is kept")
			}
		})
	}
}

// The version before gives up after one late retry. What it writes then changes nothing,
// and what it counts is counted.
func TestThePreviousVersionGivesNothingUp(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	ok(t, l.Settle(t.Context(), l.due(t), prisma.Unknown))
	l.db.Advance(t, late)
	// As it claims a late retry, and then settles it as unknown.
	l.sql(t, `UPDATE connections SET lease_id = id, lease_until = app.wall_clock() + interval '3 min', intent_at = app.wall_clock(),
		late_retry_generation = generation`)
	l.sql(t, `UPDATE connections SET lease_id = NULL, lease_until = NULL`)
	// As needReconnect does, in the role of a replica.
	rows := one[int](t, l.service, `WITH given_up AS (UPDATE connections SET status = 'needs_reconnect',
			status_reason = 'refresh_outcome_unknown', status_since = app.now(), refresh_token_sealed = NULL
			WHERE status IN ('active', 'suspect') RETURNING 1)
		SELECT count(*) FROM given_up`)
	if rows != 0 || l.state(t).Status != "suspect" {
		t.Errorf("%d rows were given up, and the status is %s", rows, l.state(t).Status)
	}
	if claim := l.claim(t); claim.Due || claim.TooEarly == 0 {
		t.Errorf("the previous version's late retry does not count: %+v", claim)
	}
	l.db.Advance(t, time.Minute)
	ok(t, l.Settle(t.Context(), l.due(t), prisma.InvalidGrant))
	l.wantState(t, "answered", state{Status: "needs_reconnect", Generation: 1, Retried: true, BackOff: true})
}
