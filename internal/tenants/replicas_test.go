package tenants_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

const leeway = time.Minute

// replica is one process with a leeway.
type replica struct {
	*tenants.Store

	id      uuid.UUID
	storage *tenants.TokenStorage
}

func (l *leased) replica(t *testing.T, leeway time.Duration) *replica {
	t.Helper()
	r := &replica{id: uuid.New()}
	r.Store = l.store(t, tenants.Config{Pool: l.db.Pool, Leeway: leeway, Replica: r.id})
	r.storage = r.TokensOf(l.owner, l.id)
	r.beat(t)
	return r
}

func (r *replica) beat(t *testing.T) {
	t.Helper()
	ok(t, r.Beat(t.Context()))
}

func (r *replica) claim(t *testing.T, l *leased) prisma.Claim {
	t.Helper()
	claim, err := r.storage.Claim(t.Context(), l.stored(t))
	ok(t, err)
	return claim
}

func TestLeeway(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		leeway  time.Duration // of the replica that looks
		elapsed time.Duration // since the owner's last beat and its claim
		alive   bool          // the owner goes on beating
		ended   bool          // the owner said good-bye
		due     bool
		held    bool
	}{
		"the owner is dead":                 {leeway: leeway, elapsed: 4 * time.Second, due: true},
		"the owner ended":                   {leeway: leeway, ended: true, due: true},
		"one beat is late":                  {leeway: leeway, elapsed: 2 * time.Second, held: true},
		"the owner lives":                   {leeway: leeway, elapsed: 20 * time.Second, alive: true, held: true},
		"just within the leeway":            {leeway: leeway, elapsed: leeway - 3*time.Second, due: true},
		"the leeway is nearly over":         {leeway: leeway, elapsed: leeway - 2*time.Second, held: true},
		"the leeway is over":                {leeway: leeway, elapsed: leeway, held: true},
		"the lease too, without a retry":    {leeway: leeway, elapsed: leaseFor},
		"no leeway: rule of the late retry": {elapsed: 4 * time.Second, held: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			owner, other := l.replica(t, leeway), l.replica(t, tc.leeway)
			if !owner.claim(t, l).Due {
				t.Fatal("the owner's claim is not due")
			}
			if got := one[uuid.UUID](t, l.service, `SELECT lease_owner FROM connections`); got != owner.id {
				t.Errorf("lease_owner = %s, want the replica %s", got, owner.id)
			}
			l.db.Advance(t, tc.elapsed)
			if tc.alive {
				owner.beat(t)
			}
			if tc.ended {
				ok(t, owner.EndBeats(t.Context()))
			}
			claim := other.claim(t, l)
			if claim.Due != tc.due || claim.Held != tc.held {
				t.Fatalf("Claim(): due = %t, held = %t; want %t, %t", claim.Due, claim.Held, tc.due, tc.held)
			}
			if !claim.Due {
				return
			}
			if left := leeway - 2*time.Second - tc.elapsed; claim.SendWithin <= 0 || claim.SendWithin > left {
				t.Errorf("SendWithin = %s, want at most %s", claim.SendWithin, left)
			}
			l.wantState(t, "presented again", state{Status: "suspect", Generation: 1, Leased: true, Intent: true, Retried: true, BackOff: true})
			// Once is enough: the second to come waits, dead as the first may be.
			third := l.replica(t, leeway)
			l.db.Advance(t, 4*time.Second)
			third.beat(t)
			if claim := third.claim(t, l); claim.Due || !claim.Held {
				t.Errorf("a second early retry: due = %t, held = %t", claim.Due, claim.Held)
			}
			ok(t, other.storage.Save(t.Context(), claim, next(claim, "2")))
			l.wantState(t, "saved", state{Status: "active", Generation: 2})
		})
	}
}

// Neither a replica itself nor one of the version before, which leaves no name, is
// taken for dead.
func TestLeewaySparesTheLiving(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	owner, other := l.replica(t, leeway), l.replica(t, leeway)
	owner.claim(t, l)
	l.db.Advance(t, 10*time.Second)
	if claim := owner.claim(t, l); claim.Due || !claim.Held {
		t.Errorf("the owner's own intent: due = %t, held = %t", claim.Due, claim.Held)
	}
	l.sql(t, `UPDATE connections SET lease_owner = NULL`)
	if claim := other.claim(t, l); claim.Due || !claim.Held {
		t.Errorf("an intent of nobody known: due = %t, held = %t", claim.Due, claim.Held)
	}
	// One with another setting beats more slowly.
	slow := l.replica(t, 0)
	l.sql(t, `UPDATE connections SET lease_owner = $1`, slow.id)
	l.db.Advance(t, 14*time.Second)
	if claim := other.claim(t, l); claim.Due {
		t.Error("an intent of a replica that beats every five seconds was taken over after 14")
	}
	l.db.Advance(t, 2*time.Second)
	if claim := other.claim(t, l); !claim.Due {
		t.Error("an intent of a replica that missed three slow beats is not due")
	}
}

// A retry within the leeway that was not sent gives nobody a further one: the intent's
// time is not that of the presentation any more that the leeway counts from.
func TestLeewayIsNotProlonged(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	owner, other, third := l.replica(t, leeway), l.replica(t, leeway), l.replica(t, leeway)
	owner.claim(t, l)
	l.db.Advance(t, 5*time.Second)
	other.beat(t)
	second := other.claim(t, l)
	if !second.Due || second.SendWithin == 0 {
		t.Fatalf("the intent of a silent owner: %+v", second)
	}
	ok(t, other.storage.Settle(t.Context(), second, prisma.NotSent))
	l.db.Advance(t, leeway-3*time.Second)
	third.beat(t)
	if claim := third.claim(t, l); claim.Due {
		t.Error("presented again after the leeway of its first presentation")
	}
}

// A paused owner whose intent was presented again within the leeway comes back with its
// answer: the first of the two to save is stored, the other gives way.
func TestLeewayAndAnOwnerThatComesBack(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	owner, other := l.replica(t, leeway), l.replica(t, leeway)
	first := owner.claim(t, l)
	l.db.Advance(t, 5*time.Second)
	other.beat(t)
	second := other.claim(t, l)
	if !second.Due {
		t.Fatal("the intent of a paused owner is not due")
	}
	ok(t, owner.storage.Save(t.Context(), first, next(first, "owner")))
	l.wantState(t, "the owner saved", state{Status: "suspect", Generation: 2})
	if err := other.storage.Save(t.Context(), second, next(second, "other")); err == nil {
		t.Error("both pairs were stored")
	}
	if got := l.stored(t).Access; got != "access-owner" {
		t.Errorf("stored = %s", got)
	}
}

func TestBeats(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	ctx, stop := context.WithCancel(t.Context())
	r := l.replica(t, leeway)
	dead := l.replica(t, leeway)
	l.db.Advance(t, 31*24*time.Hour)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.KeepBeating(ctx)
	}()
	const beat = `SELECT coalesce(max(beat), 0) FROM app.replicas WHERE id = $1`
	for before := one[int64](t, l.service, beat, r.id); one[int64](t, l.service, beat, r.id) < before+2; { // each look is a query
		if t.Context().Err() != nil {
			t.Fatal("no further beats")
		}
	}
	stop()
	<-done
	if n := one[int](t, l.service, `SELECT count(*) FROM app.replicas WHERE id = $1`, dead.id); n != 0 {
		t.Error("the row of a replica that is long gone is still there")
	}
	ok(t, r.EndBeats(t.Context()))
	if n := one[int](t, l.service, `SELECT count(*) FROM app.replicas`); n != 0 {
		t.Errorf("%d rows after the end, want none", n)
	}
}

// A beat that hangs takes no connection from the saves, so that a pair is stored meanwhile
// even over a pool of one.
func TestASlowBeatHoldsUpNoSave(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	saves, beats := openPool(t, l.db.AppURL, 1, nil), openPool(t, l.db.AppURL, 1, nil)
	store := l.store(t, tenants.Config{Pool: l.db.Pool, TokenPool: saves, BeatPool: beats})
	claim := l.due(t)

	blocker, err := l.admin.Begin(t.Context())
	ok(t, err)
	defer func() { _ = blocker.Rollback(context.WithoutCancel(t.Context())) }()
	_, err = blocker.Exec(t.Context(), `LOCK TABLE app.replicas IN ACCESS EXCLUSIVE MODE`)
	ok(t, err)
	beat := make(chan error, 1)
	go func() { beat <- store.Beat(t.Context()) }()
	for beats.Stat().AcquiredConns() == 0 {
		select {
		case err := <-beat:
			t.Fatalf("Beat() = %v, want it to wait on a connection of its own", err)
		case <-time.After(time.Millisecond):
		}
	}
	if n := saves.Stat().AcquiredConns(); n != 0 {
		t.Errorf("a beat holds %d connections of the saves", n)
	}
	ok(t, store.TokensOf(l.owner, l.id).Save(t.Context(), claim, next(claim, "2")))
	if err := <-beat; err == nil {
		t.Error("Beat() did not hang: the test shows nothing")
	}
	l.wantState(t, "saved", state{Status: "active", Generation: 2})
}
