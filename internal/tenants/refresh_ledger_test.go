package tenants_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/audittest"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// retention keeps everything in a test that folds nothing.
const retention = 90 * 24 * time.Hour

// ledger lists the entries of the connection's chain, each with the attempt that it
// ends, once all of them are written.
func (l *leased) ledger(t *testing.T) []string {
	t.Helper()
	ok(t, l.Wait(t.Context()))
	return list[string](t, l.service, `
		SELECT entry || CASE WHEN attempt > 0 THEN ' ' || attempt ELSE '' END || CASE WHEN late_retry THEN ' late' ELSE '' END
			|| ' g' || generation
		FROM refresh_ledger WHERE connection_id = $1 ORDER BY sequence`, l.id)
}

func (l *leased) wantLedger(t *testing.T, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, l.ledger(t)); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}
}

// exchange makes one refresh that goes well.
func (l *leased) exchange(t *testing.T, name string) {
	t.Helper()
	claim := l.due(t)
	ok(t, l.Save(t.Context(), claim, next(claim, name)))
	ok(t, l.Wait(t.Context()))
}

// verify returns the findings, as "row: what" or "checkpoint n: what".
func (s *service) verify(t *testing.T, check tenants.LedgerCheck) ([]tenants.LedgerFinding, tenants.LedgerSummary) {
	t.Helper()
	var found []tenants.LedgerFinding
	summary, err := s.VerifyLedger(t.Context(), check, func(f tenants.LedgerFinding) { found = append(found, f) })
	ok(t, err)
	if int(summary.Findings+summary.Acknowledged) != len(found) {
		t.Errorf("%d findings were counted and %d reported", summary.Findings, len(found))
	}
	return found, summary
}

// proven fails the test if there is a finding.
func (s *service) proven(t *testing.T) tenants.LedgerSummary {
	t.Helper()
	found, summary := s.verify(t, tenants.LedgerCheck{})
	for _, f := range found {
		t.Errorf("found at row %d (checkpoint %d): %s", f.Sequence, f.Checkpoint, f.What)
	}
	_, wrong, err := audittest.Check(t.Context(), s.admin)
	ok(t, err)
	for _, what := range wrong {
		t.Error(what)
	}
	return summary
}

// found fails the test unless there is a finding with that text.
func (s *service) found(t *testing.T, want string) {
	t.Helper()
	list, _ := s.verify(t, tenants.LedgerCheck{})
	texts := make([]string, 0, len(list))
	for _, f := range list {
		if strings.Contains(f.What, want) {
			return
		}
		texts = append(texts, f.What)
	}
	t.Errorf("not found: %q; only %q", want, texts)
}

func (s *service) checkpoint(t *testing.T) []tenants.LedgerCheckpoint {
	t.Helper()
	made, err := s.CheckpointLedger(t.Context(), retention)
	ok(t, err)
	return made
}

func TestLedgerOfEveryOutcome(t *testing.T) {
	t.Parallel()
	settle := func(outcome prisma.Outcome) func(t *testing.T, l *leased) {
		return func(t *testing.T, l *leased) {
			t.Helper()
			claim := l.due(t)
			for range 2 { // a settlement whose COMMIT nobody answered is repeated
				ok(t, l.Settle(t.Context(), claim, outcome))
			}
		}
	}
	tests := map[string]struct {
		do   func(t *testing.T, l *leased)
		want []string
	}{
		"saved": {func(t *testing.T, l *leased) {
			t.Helper()
			l.exchange(t, "2")
			l.exchange(t, "3")
		}, []string{"begun g1", "saved 2 g2", "begun g2", "saved 4 g3"}},
		"saved and saved again": {func(t *testing.T, l *leased) {
			t.Helper()
			claim := l.due(t)
			for range 3 {
				ok(t, l.Save(t.Context(), claim, next(claim, "2")))
				ok(t, l.Wait(t.Context()))
			}
		}, []string{"begun g1", "saved 2 g2"}},
		"not sent":      {settle(prisma.NotSent), []string{"begun g1", "not_sent 2 g1"}},
		"misconfigured": {settle(prisma.Misconfigured), []string{"begun g1", "misconfigured 2 g1"}},
		"invalid grant": {settle(prisma.InvalidGrant), []string{"begun g1", "invalid_grant 2 g1"}},
		"unknown":       {settle(prisma.Unknown), []string{"begun g1", "unknown 2 g1"}},
		"not sent, then saved": {func(t *testing.T, l *leased) {
			t.Helper()
			settle(prisma.NotSent)(t, l)
			l.db.Advance(t, 10*time.Second)
			l.exchange(t, "2")
		}, []string{"begun g1", "not_sent 2 g1", "begun g1", "saved 4 g2"}},
		"unknown, then its late retry saved": {func(t *testing.T, l *leased) {
			t.Helper()
			settle(prisma.Unknown)(t, l)
			l.db.Advance(t, late)
			l.exchange(t, "2")
		}, []string{"begun g1", "unknown 2 g1", "begun late g1", "saved 4 g2"}},
		"left open, its late retry left open, and then the first is saved": {func(t *testing.T, l *leased) {
			t.Helper()
			first := l.due(t)
			l.db.Advance(t, late)
			second := l.due(t)
			ok(t, l.Save(t.Context(), first, next(first, "2")))
			ok(t, l.Wait(t.Context()))
			ok(t, l.Settle(t.Context(), second, prisma.InvalidGrant))
		}, []string{"begun g1", "begun late g1", "saved 2 g2", "invalid_grant 3 g1"}},
		"left open, its late retry refused, and then the first is saved": {func(t *testing.T, l *leased) {
			t.Helper()
			first := l.due(t)
			l.db.Advance(t, late)
			ok(t, l.Settle(t.Context(), l.due(t), prisma.InvalidGrant))
			ok(t, l.Save(t.Context(), first, next(first, "2")))
			ok(t, l.Wait(t.Context()))
		}, []string{"begun g1", "begun late g1", "invalid_grant 3 g1", "saved 2 g2"}},
		"reconnected while it ran": {func(t *testing.T, l *leased) {
			t.Helper()
			claim := l.due(t)
			l.connect(t, l.owner, "user", l.pair(t, "again", "wksp_1"))
			if err := l.Save(t.Context(), claim, next(claim, "2")); !errors.Is(err, prisma.ErrSuperseded) {
				t.Errorf("Save() = %v", err)
			}
		}, []string{"begun g1", "stored g2", "superseded 2 g1"}},
		"set": {func(t *testing.T, l *leased) {
			t.Helper()
			ok(t, l.SetTokens(t.Context(), l.pair(t, "set", "wksp_1")))
		}, []string{"stored g2"}},
		"a refresh token that stays": {func(t *testing.T, l *leased) {
			t.Helper()
			l.exchange(t, "1")
			l.exchange(t, "1")
		}, []string{"begun g1", "saved 2 g2", "begun g2", "saved 4 g3"}},
		"disconnected": {func(t *testing.T, l *leased) {
			t.Helper()
			claim := l.due(t)
			ok(t, l.ClearTokens(t.Context()))
			if err := l.Save(t.Context(), claim, next(claim, "2")); !errors.Is(err, prisma.ErrSuperseded) {
				t.Errorf("Save() = %v", err)
			}
		}, []string{"begun g1", "superseded 2 g1"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			tc.do(t, l)
			l.wantLedger(t, append([]string{"stored g1"}, tc.want...)...)
			l.proven(t)
			l.checkpoint(t)
			l.proven(t)
		})
	}
}

// Whose replica wrote a row, and when, by the database's clock.
func TestLedgerRow(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	l.db.Advance(t, 30*time.Minute)
	replica := uuid.New()
	store := l.store(t, tenants.Config{Pool: l.db.Pool, Replica: replica})
	storage := store.TokensOf(l.owner, l.id)
	claim, err := storage.Claim(t.Context(), l.stored(t))
	ok(t, err)
	ok(t, storage.Save(t.Context(), claim, next(claim, "2")))
	ok(t, store.Wait(t.Context()))
	if n := one[int](t, l.service, `SELECT count(*) FROM refresh_ledger WHERE replica = $1`, replica); n != 2 {
		t.Errorf("%d rows are the replica's, want 2", n)
	}
	if at := one[time.Time](t, l.service, `SELECT at FROM refresh_ledger WHERE entry = 'begun'`); !at.Equal(claim.Taken) {
		t.Errorf("begun at %s, claimed at %s", at, claim.Taken)
	}
	for _, text := range list[string](t, l.service, `SELECT l::text FROM refresh_ledger l`) {
		if strings.Contains(text, "refresh-") || strings.Contains(text, "access-") {
			t.Error("the ledger shows a token")
		}
	}
	if n := one[int](t, l.service, `SELECT count(DISTINCT fingerprint) FROM refresh_ledger WHERE sequence IN (1, 2)`); n != 1 {
		t.Error("the token that was presented is not the one that was stored")
	}
}

// The service's role can add rows, and nothing else.
func TestLedgerIsAppendOnly(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	l.exchange(t, "2")
	l.checkpoint(t)
	for _, table := range []string{"refresh_ledger", "refresh_ledger_folds", "ledger_checkpoints", "ledger_checkpoint_entries"} {
		for _, scope := range []postgres.Scope{{Tenant: l.owner.UUID}, {Operator: true}} {
			statements := []string{`DELETE FROM ` + table, `TRUNCATE ` + table}
			if table != "refresh_ledger_folds" {
				statements = append(statements, `UPDATE `+table+` SET mac = mac`, `UPDATE `+table+` SET head = head`)
			}
			for _, sql := range statements {
				err := postgres.InTx(t.Context(), l.db.Pool, scope, func(tx pgx.Tx) error {
					_, err := tx.Exec(t.Context(), sql)
					return err
				})
				if code := postgres.SQLSTATE(err); code != "42501" && code != "42703" { // forbidden; no such column
					t.Errorf("%s (operator %t) = %v, want it forbidden", sql, scope.Operator, err)
				}
			}
		}
	}
	// The functions that delete don't take what is not folded or carried over.
	ok(t, postgres.InTx(t.Context(), l.db.Pool, postgres.Scope{Operator: true}, func(tx pgx.Tx) error {
		for _, sql := range []string{`SELECT app.delete_folded_rows($1, $2)`, `SELECT app.prune_checkpoint_entries() WHERE $1::uuid <> $2::uuid`} {
			var n int
			if err := tx.QueryRow(t.Context(), sql, l.owner, l.id).Scan(&n); err != nil || n != 0 {
				t.Errorf("%s deletes %d rows, %v", sql, n, err)
			}
		}
		return nil
	}))
}

// Without its row in the ledger nothing is exchanged.
func TestNoLedgerNoExchange(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	before := l.stored(t)
	l.sql(t, `REVOKE INSERT ON refresh_ledger FROM connect_app`)
	if claim, err := l.Claim(t.Context(), before); err == nil || claim.Due {
		t.Fatalf("Claim() without a ledger: due = %t, %v", claim.Due, err)
	}
	l.wantState(t, "not claimed", state{Status: "active", Generation: 1})
	l.sql(t, `GRANT INSERT ON refresh_ledger TO connect_app`)
	l.exchange(t, "2")
	l.proven(t)
}

// The row of a saved pair is lost, as by a crash between the two transactions. The
// save is not harmed, and the row is rebuilt.
func TestLostSavedIsRebuilt(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		do   func(t *testing.T, l *leased)
		want []string
	}{
		"by the next claim": {func(t *testing.T, l *leased) {
			t.Helper()
			l.exchange(t, "3")
		}, []string{"found_saved 2 g2", "begun g2", "saved 4 g3"}},
		"by a reconnect": {func(t *testing.T, l *leased) {
			t.Helper()
			l.connect(t, l.owner, "user", l.pair(t, "again", "wksp_1"))
		}, []string{"found_saved 2 g2", "stored g3"}},
		"by setting tokens": {func(t *testing.T, l *leased) {
			t.Helper()
			ok(t, l.SetTokens(t.Context(), l.pair(t, "set", "wksp_1")))
		}, []string{"found_saved 2 g2", "stored g3"}},
		"by the sweep": {func(t *testing.T, l *leased) {
			t.Helper()
			l.db.Advance(t, 2*time.Minute)
			l.checkpoint(t)
		}, []string{"found_saved 2 g2"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			claim := l.due(t)
			l.saveUnwritten(t, claim)
			l.wantState(t, "saved", state{Status: "active", Generation: 2})
			l.wantLedger(t, "stored g1", "begun g1")
			if summary := l.proven(t); summary.Pending != 1 {
				t.Errorf("%d pairs are said to wait for their row, want 1", summary.Pending)
			}
			tc.do(t, l)
			l.wantLedger(t, append([]string{"stored g1", "begun g1"}, tc.want...)...)
			if summary := l.proven(t); summary.Pending != 0 {
				t.Error("a pair still waits for its row")
			}
		})
	}
}

// saveUnwritten saves a claim's pair, and the row of it is lost.
func (l *leased) saveUnwritten(t *testing.T, claim prisma.Claim) {
	t.Helper()
	l.sql(t, `REVOKE INSERT ON refresh_ledger FROM connect_app`)
	ok(t, l.Save(t.Context(), claim, next(claim, "2")))
	ok(t, l.Wait(t.Context()))
	l.sql(t, `GRANT INSERT ON refresh_ledger TO connect_app`)
}

// A process that stood still for hours saves its pair after a late retry was refused, and
// the row of it is lost. Nobody claims a refresh there again, and its attempt lies far
// before the last checkpoint.
func TestLostSavedOfARefusedConnectionIsRebuilt(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	claim := l.due(t)
	l.db.Advance(t, late)
	ok(t, l.Settle(t.Context(), l.due(t), prisma.InvalidGrant))
	l.db.Advance(t, 3*time.Hour)
	l.checkpoint(t)
	l.saveUnwritten(t, claim)
	l.wantState(t, "saved", state{Status: "needs_reconnect", Generation: 2})
	if summary := l.proven(t); summary.Pending != 1 || summary.Open != 1 {
		t.Errorf("%d pairs wait for their row and %d attempts have no end, want 1 each", summary.Pending, summary.Open)
	}
	l.db.Advance(t, 2*time.Minute)
	l.checkpoint(t)
	l.wantLedger(t, "stored g1", "begun g1", "begun late g1", "invalid_grant 3 g1", "found_saved 2 g2")
	if summary := l.proven(t); summary.Pending != 0 || summary.Open != 0 {
		t.Errorf("%d pairs still wait for their row and %d attempts have no end", summary.Pending, summary.Open)
	}
	l.wantState(t, "swept", state{Status: "needs_reconnect", Generation: 2})
}

// A ledger that stands still, here behind a lock, holds up neither the save nor the
// token that it brought.
func TestSaveDoesNotWaitForTheLedger(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	claim := l.due(t)
	lock, err := l.admin.Begin(t.Context())
	ok(t, err)
	_, err = lock.Exec(t.Context(), `LOCK TABLE refresh_ledger IN ACCESS EXCLUSIVE MODE`)
	ok(t, err)
	ok(t, l.Save(t.Context(), claim, next(claim, "2")))
	if got := l.stored(t); got.Access != "access-2" {
		t.Errorf("stored %q", got.Access)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait() while a row is being written = %v", err)
	}
	ok(t, lock.Rollback(t.Context()))
	ok(t, l.Wait(t.Context()))
	l.proven(t)
}

// A connection whose row was set back presents no token that the ledger knows as spent.
func TestRowSetBackIsNotPresented(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	l.sql(t, `CREATE TABLE old AS TABLE connections`)
	l.exchange(t, "2")
	l.sql(t, `UPDATE connections c SET generation = o.generation, access_token_sealed = o.access_token_sealed,
		refresh_token_sealed = o.refresh_token_sealed FROM old o WHERE o.id = c.id`)
	if claim, err := l.Claim(t.Context(), l.stored(t)); err == nil || claim.Due {
		t.Errorf("Claim() with the ledger's columns left = %t, %v", claim.Due, err)
	}
	if d, _ := l.diagnose(t, time.Time{}); d.Code != tenants.DiagnosisStopped || !strings.Contains(d.Message, "newer tokens") {
		t.Errorf("the connection says %+v", d)
	}
	l.sql(t, `UPDATE connections c SET ledger_count = o.ledger_count, ledger_head = o.ledger_head,
		ledger_generation = o.ledger_generation FROM old o WHERE o.id = c.id`)
	if claim, err := l.Claim(t.Context(), l.stored(t)); err == nil || claim.Due {
		t.Errorf("Claim() of a row that was set back whole = %t, %v", claim.Due, err)
	}
	l.found(t, "the chain ends at 3")
}

// Several processes at one connection, as after a storm: the chain is whole, and one
// process at a time presents.
func TestRacersKeepTheChainWhole(t *testing.T) {
	t.Parallel()
	const replicas, rounds = 2, 12
	l := openLeased(t)
	var all sync.WaitGroup
	for range replicas {
		store := l.store(t, tenants.Config{Pool: openPool(t, l.db.AppURL, 3, nil)})
		storage := store.TokensOf(l.owner, l.id)
		all.Go(func() {
			for round := range rounds {
				tokens, err := storage.Tokens(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				claim, err := storage.Claim(t.Context(), tokens)
				if err != nil || !claim.Due {
					continue // the other one has it, or has just moved it on
				}
				if round%4 == 3 {
					err = storage.Settle(t.Context(), claim, prisma.NotSent)
				} else {
					err = storage.Save(t.Context(), claim, next(claim, uuid.NewString()))
				}
				if err != nil {
					t.Error(err)
				}
			}
			if err := store.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		})
		all.Go(func() {
			if _, err := store.CheckpointLedger(t.Context(), retention); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if summary := l.proven(t); summary.Attempts == 0 {
		t.Error("nobody tried")
	}
}

// What is written after the clock was set back is in the next checkpoint, though the last
// one was made on a later day.
func TestCheckpointAfterTheClockWasSetBack(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{10 * time.Minute, time.Hour, 24 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			l.db.Advance(t, by)
			renew := func(name string) {
				t.Helper()
				claim := l.due(t)
				ok(t, l.Save(t.Context(), claim, next(claim, name)))
				ok(t, l.Wait(t.Context())) // for the ledger's row
			}
			renew("2")
			if made := l.checkpoint(t); len(made) != 1 {
				t.Fatalf("CheckpointLedger() = %+v", made)
			}
			l.db.Advance(t, -by)
			renew("3")
			l.db.Advance(t, 10*time.Minute)
			if made := l.checkpoint(t); len(made) != 1 || made[0].Entries == 0 {
				t.Errorf("CheckpointLedger() = %+v after the clock was set back, want one", made)
			}
			if made := l.checkpoint(t); len(made) != 0 {
				t.Errorf("CheckpointLedger() = %+v with nothing new", made)
			}
			if found, _ := l.verify(t, tenants.LedgerCheck{}); len(found) != 0 {
				t.Errorf("findings: %+v", found)
			}
		})
	}
}
