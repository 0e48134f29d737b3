package tenants_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// Whether the COMMIT of a save happened or not, saving again is right.
func TestSaveAgainAfterAnUnknownCommit(t *testing.T) {
	t.Parallel()
	for _, after := range []bool{false, true} {
		l := openLeased(t)
		wire := &cutter{}
		pool := openPool(t, l.db.AppURL, 1, wire)
		storage := l.store(t, tenants.Config{Pool: l.db.Pool, TokenPool: pool}).TokensOf(l.owner, l.id)
		claim := l.due(t)
		fresh := next(claim, "2")
		// A save does not wait long for a new connection, which on a busy machine takes its time.
		connected := func() { ok(t, pool.Ping(t.Context())) }
		connected()
		wire.arm(1, after, false)
		if err := storage.Save(t.Context(), claim, fresh); !postgres.CommitUnknown(err) {
			t.Fatalf("COMMIT cut, after = %t: Save() = %v, want an unknown commit", after, err)
		}
		wire.disarm()
		generation := int64(1)
		if after {
			generation = 2
		}
		if got := l.state(t).Generation; got != generation {
			t.Fatalf("COMMIT cut, after = %t: generation = %d", after, got)
		}
		connected()
		for range 2 {
			if err := storage.Save(t.Context(), claim, fresh); err != nil {
				t.Errorf("COMMIT cut, after = %t: saving again = %v", after, err)
			}
		}
		l.wantState(t, "saved", state{Status: "active", Generation: 2})
		if got := l.stored(t); got.Access != "access-2" || got.Refresh != "refresh-2" {
			t.Errorf("stored %q", got.Access)
		}
	}
}

func TestSaveIsFencedByTheGeneration(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		move func(t *testing.T, l *leased, claim prisma.Claim)
		want string // the access token that stays; "": none
	}{
		"the user connected again": {func(t *testing.T, l *leased, _ prisma.Claim) {
			t.Helper()
			c := l.connect(t, l.owner, "user", l.pair(t, "consented", "wksp_1"))
			if c.ID != l.id || c.Generation != 2 || c.Status != tenants.ConnectionActive {
				t.Errorf("reconnected as %+v", c)
			}
		}, "access-consented"},
		"another exchange was saved first": {func(t *testing.T, l *leased, claim prisma.Claim) {
			t.Helper()
			ok(t, l.Save(t.Context(), claim, next(claim, "other")))
		}, "access-other"},
		"two generations have passed": {func(t *testing.T, l *leased, claim prisma.Claim) {
			t.Helper()
			ok(t, l.Save(t.Context(), claim, next(claim, "late")))
			newer := l.due(t)
			ok(t, l.Save(t.Context(), newer, next(newer, "newest")))
		}, "access-newest"},
		"disconnected": {func(t *testing.T, l *leased, _ prisma.Claim) {
			t.Helper()
			_, err := l.Disconnect(t.Context(), tenants.System(), l.owner, l.id)
			ok(t, err)
		}, ""},
		"disconnected and connected again": {func(t *testing.T, l *leased, _ prisma.Claim) {
			t.Helper()
			_, err := l.Disconnect(t.Context(), tenants.System(), l.owner, l.id)
			ok(t, err)
			if c := l.connect(t, l.owner, "user", l.pair(t, "again", "wksp_1")); c.ID == l.id {
				t.Error("a disconnected connection came back to life")
			}
		}, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			claim := l.due(t)
			tc.move(t, l, claim)
			_ = l.Save(t.Context(), claim, next(claim, "late")) // the ledger notes the end of the attempt, once
			before := l.rows(t, l.owner)
			for range 2 {
				if err := l.Save(t.Context(), claim, next(claim, "late")); !errors.Is(err, prisma.ErrSuperseded) {
					t.Errorf("Save() = %v, want ErrSuperseded", err)
				}
			}
			l.unchanged(t, "a late save", l.owner, before)
			got, err := l.Tokens(t.Context())
			if tc.want == "" {
				wantKind(t, "Tokens()", err, fault.NotFound)
				return
			}
			ok(t, err)
			if got.Access != tc.want {
				t.Errorf("stored %q, want %q", got.Access, tc.want)
			}
		})
	}
}

// The owner of the lease doesn't matter: a process that stood still may hold the
// only live pair.
func TestSaveAfterTheLeaseIsOver(t *testing.T) {
	t.Parallel()
	t.Run("nobody noticed", func(t *testing.T) {
		t.Parallel()
		l := openLeased(t)
		claim := l.due(t)
		l.db.Advance(t, leaseFor+time.Second)
		ok(t, l.Save(t.Context(), claim, next(claim, "2")))
		l.wantState(t, "saved", state{Status: "active", Generation: 2})
	})
	t.Run("it is suspect by now", func(t *testing.T) {
		t.Parallel()
		l := openLeased(t)
		claim := l.due(t)
		l.db.Advance(t, leaseFor+time.Second)
		l.claim(t)
		l.wantState(t, "noticed", state{Status: "suspect", Generation: 1, Intent: true})
		ok(t, l.Save(t.Context(), claim, next(claim, "2")))
		l.wantState(t, "saved", state{Status: "active", Generation: 2})
	})
	// Both tokens were presented, so that the authorization server may have revoked
	// what it gave: only a call can tell, or the next refresh.
	t.Run("its late retry runs", func(t *testing.T) {
		t.Parallel()
		l := openLeased(t)
		claim := l.due(t)
		l.db.Advance(t, late)
		retry := l.due(t)
		ok(t, l.Save(t.Context(), claim, next(claim, "2")))
		l.wantState(t, "saved", state{Status: "suspect", Generation: 2})
		if err := l.Save(t.Context(), retry, next(retry, "3")); !errors.Is(err, prisma.ErrSuperseded) {
			t.Errorf("the retry's Save() = %v, want ErrSuperseded", err)
		}
		ok(t, l.Settle(t.Context(), retry, prisma.InvalidGrant)) // the first exchange has spent the token
		l.wantState(t, "the retry settled", state{Status: "suspect", Generation: 2})
		if got := l.stored(t).Access; got != "access-2" {
			t.Errorf("stored %q", got)
		}
		newer := l.due(t)
		ok(t, l.Save(t.Context(), newer, next(newer, "3")))
		l.wantState(t, "refreshed", state{Status: "active", Generation: 3})
	})
	t.Run("its late retry was lost too", func(t *testing.T) {
		t.Parallel()
		l := openLeased(t)
		claim := l.due(t)
		l.db.Advance(t, late)
		ok(t, l.Settle(t.Context(), l.due(t), prisma.Unknown))
		l.wantState(t, "open", state{Status: "suspect", Generation: 1, Intent: true, Retried: true, BackOff: true})
		ok(t, l.Save(t.Context(), claim, next(claim, "2")))
		l.wantState(t, "saved", state{Status: "suspect", Generation: 2})
	})
	// Given up for its age: here is its outcome after all, and a call will tell.
	t.Run("it was given up", func(t *testing.T) {
		t.Parallel()
		l := openLeased(t)
		claim := l.due(t)
		stored := l.stored(t)
		l.db.Advance(t, prisma.RefreshTokenLife)
		_, err := l.Claim(t.Context(), stored)
		wantKind(t, "Claim()", err, fault.ReconnectRequired)
		l.wantState(t, "given up", state{Status: "needs_reconnect", Generation: 1})
		for range 2 { // the second time as after a commit that nobody heard of
			ok(t, l.Save(t.Context(), claim, next(claim, "2")))
		}
		l.wantState(t, "saved", state{Status: "suspect", Generation: 2})
		ok(t, l.Wait(t.Context()))
		for _, sql := range []string{
			`SELECT count(*) FROM events WHERE type = 'connection.recovered'`,
			`SELECT count(*) FROM audit_log WHERE action = 'connection.recovered'`,
		} {
			if n := one[int](t, l.service, sql); n != 1 {
				t.Errorf("%s = %d, want 1", sql, n)
			}
		}
		if got := l.stored(t).Access; got != "access-2" {
			t.Errorf("stored %q", got)
		}
		l.proven(t)
	})
	for name, again := range map[string]func(t *testing.T, l *leased, save func() error){
		"the save is repeated": func(t *testing.T, l *leased, save func() error) {
			t.Helper()
			ok(t, save())
			ok(t, l.Wait(t.Context()))
		},
		"the sweep comes": func(t *testing.T, l *leased, _ func() error) {
			t.Helper()
			l.db.Advance(t, 2*time.Minute)
			l.checkpoint(t)
		},
		"the next refresh comes": func(t *testing.T, l *leased, _ func() error) {
			t.Helper()
			l.exchange(t, uuid.NewString())
		},
	} {
		t.Run("it was given up, and whoever saved died before it was told: "+name, func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			claim := l.due(t)
			stored := l.stored(t)
			l.db.Advance(t, prisma.RefreshTokenLife)
			_, err := l.Claim(t.Context(), stored)
			wantKind(t, "Claim()", err, fault.ReconnectRequired)
			save := func() error { return l.Save(t.Context(), claim, next(claim, "2")) }
			l.sql(t, `REVOKE INSERT ON refresh_ledger, audit_log FROM connect_app`)
			ok(t, save())
			ok(t, l.Wait(t.Context()))
			l.sql(t, `GRANT INSERT ON refresh_ledger, audit_log TO connect_app`)
			for range 2 {
				again(t, l, save)
			}
			for _, table := range []string{`events WHERE type`, `audit_log WHERE action`} {
				if n := one[int](t, l.service, `SELECT count(*) FROM `+table+` = 'connection.recovered'`); n != 1 {
					t.Errorf("%d %s, want 1", n, table)
				}
			}
			l.proven(t)
		})
	}
	// Prisma has said that the grant is dead: a pair of it is of no use.
	t.Run("its late retry was refused", func(t *testing.T) {
		t.Parallel()
		l := openLeased(t)
		claim := l.due(t)
		l.db.Advance(t, late)
		ok(t, l.Settle(t.Context(), l.due(t), prisma.InvalidGrant))
		ok(t, l.Save(t.Context(), claim, next(claim, "2")))
		l.wantState(t, "saved", state{Status: "needs_reconnect", Generation: 2})
		_, err := l.Tokens(t.Context())
		wantKind(t, "Tokens()", err, fault.ReconnectRequired)
	})
	t.Run("nothing was sent after all", func(t *testing.T) {
		t.Parallel()
		l := openLeased(t)
		claim := l.due(t)
		l.db.Advance(t, leaseFor+time.Second)
		l.claim(t)
		ok(t, l.Settle(t.Context(), claim, prisma.NotSent))
		l.wantState(t, "settled", state{Status: "suspect", Generation: 1, BackOff: true})
		l.db.Advance(t, 5*time.Second)
		again := l.due(t)
		ok(t, l.Save(t.Context(), again, next(again, "2")))
		l.wantState(t, "refreshed", state{Status: "active", Generation: 2})
	})
}

// A token pool of its own saves while everything else is stuck.
func TestSaveWhileTheOtherPoolIsExhausted(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	busy := openPool(t, l.db.AppURL, 1, nil)
	storage := l.store(t, tenants.Config{Pool: busy, TokenPool: openPool(t, l.db.AppURL, 1, nil)}).TokensOf(l.owner, l.id)
	claim := l.due(t)
	taken, err := busy.Acquire(t.Context())
	ok(t, err)
	defer taken.Release()
	ok(t, storage.Save(t.Context(), claim, next(claim, "2")))
	l.wantState(t, "saved", state{Status: "active", Generation: 2})
}

// Of an answer that broke off only the refresh token is new: it is stored with the access
// token that there is, and told from another one that came with the same.
func TestSaveOfARefreshTokenAlone(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	claim := l.due(t)
	half := claim.Current
	half.Refresh = "refresh-2"
	for range 2 {
		ok(t, l.Save(t.Context(), claim, half))
	}
	stored := l.stored(t)
	if stored.Generation != 2 || stored.Access != "access-1" || stored.Refresh != "refresh-2" || !stored.ExpiresAt.Equal(claim.Current.ExpiresAt) {
		t.Errorf("stored = %v, want the new refresh token with the old access token and its end", stored)
	}
	half.Refresh = "refresh-of-somebody-else"
	if err := l.Save(t.Context(), claim, half); !errors.Is(err, prisma.ErrSuperseded) {
		t.Errorf("Save() of another refresh token: error = %v, want ErrSuperseded", err)
	}
}
