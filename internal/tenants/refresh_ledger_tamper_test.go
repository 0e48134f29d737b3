package tenants_test

import (
	"errors"
	"flag"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// ledgered is a tenant with two connections that were refreshed thrice, checkpointed
// after the first two times.
func openLedgered(t *testing.T) (l *leased, other tenants.ConnectionID) {
	t.Helper()
	l = openLeased(t)
	other = l.connect(t, l.owner, "other", l.pair(t, "other-1", "wksp_1")).ID
	second := &leased{service: l.service, TokenStorage: l.TokensOf(l.owner, other), owner: l.owner, id: other}
	for _, name := range []string{"2", "3"} {
		l.exchange(t, name)
		second.exchange(t, "other-"+name)
		l.checkpoint(t)
	}
	l.exchange(t, "4")
	second.exchange(t, "other-4")
	l.proven(t)
	return l, other
}

// Whoever can write to the database, past every right and constraint, is found out.
func TestTamperingIsFound(t *testing.T) { //nolint:tparallel // its tries are made in one database
	t.Parallel()
	const ofIt = ` WHERE connection_id = $1 AND sequence = 4`
	altered := map[string]string{
		"entry":       `UPDATE refresh_ledger SET entry = 'stored', attempt = 0 WHERE connection_id = $1 AND sequence = 5`,
		"generation":  `UPDATE refresh_ledger SET generation = generation + 1` + ofIt,
		"attempt":     `UPDATE refresh_ledger SET attempt = 2 WHERE connection_id = $1 AND sequence = 5`,
		"lease_until": `UPDATE refresh_ledger SET lease_until = lease_until - interval '1 s'` + ofIt,
		"no lease":    `UPDATE refresh_ledger SET lease_until = NULL` + ofIt,
		"late_retry":  `UPDATE refresh_ledger SET late_retry = NOT late_retry` + ofIt,
		"replica":     `UPDATE refresh_ledger SET replica = gen_random_uuid()` + ofIt,
		"at":          `UPDATE refresh_ledger SET at = at + interval '1 microsecond'` + ofIt,
		"fingerprint": `UPDATE refresh_ledger SET fingerprint = set_byte(fingerprint, 3, get_byte(fingerprint, 3) # 1)` + ofIt,
		"no print":    `UPDATE refresh_ledger SET fingerprint = NULL` + ofIt,
		"key_id":      `UPDATE refresh_ledger SET key_id = key_id # 1` + ofIt,
		"head_sealed": `UPDATE refresh_ledger SET head_sealed = NOT head_sealed` + ofIt,
		"mac":         `UPDATE refresh_ledger SET mac = set_byte(mac, 31, get_byte(mac, 31) # 1)` + ofIt,
	}
	tests := map[string]struct{ sql, want string }{
		"the first row is dropped": {`DELETE FROM refresh_ledger WHERE connection_id = $1 AND sequence = 1`, "the row is missing"},
		"one is dropped":           {`DELETE FROM refresh_ledger` + ofIt, "the row is missing"},
		"several are dropped":      {`DELETE FROM refresh_ledger WHERE connection_id = $1 AND sequence IN (3, 4)`, "the rows until 4 are missing"},
		"the last is dropped":      {`DELETE FROM refresh_ledger WHERE connection_id = $1 AND sequence = 7`, "counts 7 rows, and the chain ends at 6"},
		"all are dropped":          {`DELETE FROM refresh_ledger WHERE connection_id = $1`, "a checkpoint saw the chain until here, and it ends before"},
		"two are swapped": {`UPDATE refresh_ledger SET sequence = 6 - sequence
			WHERE connection_id = $1 AND sequence IN (2, 4)`, "the row was altered"},
		"an attempt and its end are dropped, and the rest moves up": {`
			WITH gone AS (DELETE FROM refresh_ledger WHERE connection_id = $1 AND sequence IN (2, 3))
			UPDATE refresh_ledger SET sequence = sequence + 100 WHERE connection_id = $1 AND sequence > 3`, "are missing"},
		"the head is another":       {`UPDATE connections SET ledger_head = sha256('x') WHERE id = $1`, "another head than the chain"},
		"the count is another":      {`UPDATE connections SET ledger_count = 6 WHERE id = $1`, "counts 6 rows"},
		"the generation is another": {`UPDATE connections SET ledger_generation = 3 WHERE id = $1`, "accounts for generation 3"},
		"the stored generation is":  {`UPDATE connections SET generation = 5 WHERE id = $1`, "generation 5 is stored"},
		"the tail is cut, with head and count, to before a checkpoint": {`
			WITH gone AS (DELETE FROM refresh_ledger WHERE connection_id = $1 AND sequence > 3)
			UPDATE connections c SET ledger_count = 3, ledger_generation = 2, generation = 2, ledger_head = l.mac
			FROM refresh_ledger l WHERE c.id = $1 AND l.connection_id = c.id AND l.sequence = 3`, "a checkpoint saw the chain until here"},
		"the newest rows are cut, with head and count, and the tokens are newer": {`
			WITH gone AS (DELETE FROM refresh_ledger WHERE connection_id = $1 AND sequence > 5)
			UPDATE connections c SET ledger_count = 5, ledger_generation = 3, ledger_head = l.mac
			FROM refresh_ledger l WHERE c.id = $1 AND l.connection_id = c.id AND l.sequence = 5`, "generation 4 is stored"},
		"the seal is gone":    {`UPDATE connections SET ledger_seal = NULL WHERE id = $1`, "has no seal"},
		"the seal is altered": {`UPDATE connections SET ledger_seal = set_byte(ledger_seal, 35, get_byte(ledger_seal, 35) # 1) WHERE id = $1`, "its seal of where the chain ends was altered"},
		"the seal is of another chain": {`UPDATE connections c SET ledger_seal = o.ledger_seal FROM connections o
			WHERE c.id = $1 AND o.id <> c.id`, "its seal of where the chain ends was altered"},
		"no ledger at all": {`
			WITH gone AS (DELETE FROM refresh_ledger WHERE connection_id = $1), too AS (DELETE FROM ledger_checkpoint_entries)
			UPDATE connections SET ledger_count = 0, ledger_head = NULL, ledger_generation = 0 WHERE id = $1`, "has no ledger"},
		"a checkpoint is altered":           {`UPDATE ledger_checkpoints SET entries = entries + 1 WHERE sequence = 1 AND $1::uuid IS NOT NULL`, "the checkpoint was altered"},
		"a checkpoint covers less":          {`UPDATE ledger_checkpoints SET upto = upto - interval '1 s' WHERE sequence = 2 AND $1::uuid IS NOT NULL`, "the checkpoint was altered"},
		"a checkpoint's entries are let go": {`UPDATE ledger_checkpoints SET entries_from = 2 WHERE sequence = 2 AND $1::uuid IS NOT NULL`, "the checkpoint was altered"},
		"the first checkpoint is dropped":   {`DELETE FROM ledger_checkpoints WHERE sequence = 1 AND $1::uuid IS NOT NULL`, "the checkpoints until 1 are missing"},
		"the last checkpoint is dropped":    {`DELETE FROM ledger_checkpoints WHERE sequence = 2 AND $1::uuid IS NOT NULL`, "its entries are not those that were signed"},
		"a checkpoint's entry is dropped":   {`DELETE FROM ledger_checkpoint_entries WHERE connection_id = $1 AND checkpoint = 1`, "its entries are not those that were signed"},
		"a checkpoint's entry is altered":   {`UPDATE ledger_checkpoint_entries SET count = 2 WHERE connection_id = $1 AND checkpoint = 1`, "its entries are not those that were signed"},
		"a checkpoint is forged": {`INSERT INTO ledger_checkpoints SELECT 3, at, upto, entries_from, entries, digest, key_id, mac
			FROM ledger_checkpoints WHERE sequence = 2 AND $1::uuid IS NOT NULL`, "the checkpoint was altered"},
	}
	for column, sql := range altered {
		tests["altered: "+column] = struct{ sql, want string }{sql, "the row was altered"}
	}
	l, _ := openLedgered(t)
	l.expose(t, ledgerTables)
	for name, tc := range tests { //nolint:paralleltest // in one database
		t.Run(name, func(t *testing.T) {
			l.sql(t, tc.sql, l.id)
			l.found(t, tc.want)
			if strings.HasPrefix(name, "altered") {
				list, _ := l.verify(t, tenants.LedgerCheck{Tenant: l.owner, Connection: l.id})
				if len(list) == 0 || list[0].Connection != l.id || list[0].Tenant != l.owner || list[0].Sequence == 0 {
					t.Errorf("findings %+v, want the row and its connection", list)
				}
			}
			l.restore(t, ledgerTables)
			l.proven(t)
		})
	}
}

// ledgerTables are what the ledger is made of.
const ledgerTables = `refresh_ledger refresh_ledger_folds connections ledger_checkpoints ledger_checkpoint_entries`

// The newest rows, which no checkpoint has seen, can't be cut off either: what the
// connection's row said before them can be read from the chain, but for its seal.
func TestCutTailIsFound(t *testing.T) {
	t.Parallel()
	const cut = `
		WITH gone AS (DELETE FROM refresh_ledger WHERE connection_id = $1 AND sequence > 7)
		UPDATE connections c SET ledger_count = 7, ledger_head = l.mac `
	const from = ` FROM refresh_ledger l WHERE c.id = $1 AND l.connection_id = c.id AND l.sequence = 7`
	for name, tc := range map[string]struct{ sql, want string }{
		"without a seal":           {cut + from, "was set back: it has no seal"},
		"with the later seal":      {cut + `, ledger_seal = c.ledger_seal || ''::bytea` + from, "was set back: it has no seal"},
		"with that of another row": {cut + `, ledger_seal = (SELECT o.ledger_seal FROM connections o WHERE o.id <> c.id)` + from, "was set back, or its seal"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, _ := openLedgered(t)
			l.due(t) // an attempt that does not end
			l.proven(t)
			l.sql(t, tc.sql, l.id)
			l.found(t, tc.want)
		})
	}
	t.Run("past the trigger", func(t *testing.T) {
		t.Parallel()
		l, _ := openLedgered(t)
		l.due(t)
		l.sql(t, `ALTER TABLE connections DISABLE TRIGGER unseal_ledger`)
		l.sql(t, cut+from, l.id)
		l.found(t, "was set back, or its seal")
	})
}

// While both versions run, the one before moves the end of a chain and does not seal it.
// That is no finding, and this version's next row is followed by a seal again.
func TestVersionBeforeSealsNothing(t *testing.T) {
	t.Parallel()
	l, _ := openLedgered(t)
	sealed := func() bool {
		return one[bool](t, l.service, `SELECT ledger_seal IS NOT NULL FROM connections WHERE id = $1`, l.id)
	}
	if !sealed() {
		t.Fatal("the chain's end has no seal")
	}
	ok(t, l.AppendUnsealed(t.Context(), l.owner, l.id))
	if sealed() {
		t.Error("the seal outlived a write that did not know it")
	}
	l.proven(t)
	l.exchange(t, "5")
	if !sealed() {
		t.Error("the next row came without a seal")
	}
	l.proven(t)
}

// A row or a whole chain is good in its own place alone.
func TestForeignRowsAreFound(t *testing.T) {
	t.Parallel()
	const columns = `entry, generation, attempt, late_retry, lease_until, replica, at, fingerprint, key_id, mac`
	tests := map[string]func(t *testing.T, l *leased, other tenants.ConnectionID){
		"a row of another connection": func(t *testing.T, l *leased, other tenants.ConnectionID) {
			t.Helper()
			l.sql(t, `UPDATE refresh_ledger l SET (`+columns+`) = (SELECT `+columns+` FROM refresh_ledger o
				WHERE o.connection_id = $2 AND o.sequence = l.sequence) WHERE connection_id = $1 AND sequence = 4`, l.id, other)
		},
		"a whole chain, with head and count": func(t *testing.T, l *leased, other tenants.ConnectionID) {
			t.Helper()
			l.sql(t, `UPDATE refresh_ledger l SET (`+columns+`) = (SELECT `+columns+` FROM refresh_ledger o
				WHERE o.connection_id = $2 AND o.sequence = l.sequence) WHERE connection_id = $1`, l.id, other)
			l.sql(t, `UPDATE connections SET ledger_head = (SELECT ledger_head FROM connections WHERE id = $2) WHERE id = $1`, l.id, other)
		},
		"a whole chain of another tenant": func(t *testing.T, l *leased, other tenants.ConnectionID) {
			t.Helper()
			thief := l.tenant(t, "Bolt").ID
			l.sql(t, `ALTER TABLE refresh_ledger DROP CONSTRAINT refresh_ledger_tenant_id_connection_id_fkey`)
			l.sql(t, `DELETE FROM operations`)
			l.sql(t, `DELETE FROM connect_sessions`)
			l.sql(t, `UPDATE refresh_ledger SET tenant_id = $2 WHERE connection_id = $1`, other, thief)
			l.sql(t, `UPDATE connections SET tenant_id = $2 WHERE id = $1`, other, thief)
		},
	}
	for name, do := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, other := openLedgered(t)
			do(t, l, other)
			l.found(t, "the row was altered, or is not of this connection")
		})
	}
	t.Run("a row without a connection", func(t *testing.T) {
		t.Parallel()
		l, other := openLedgered(t)
		l.sql(t, `ALTER TABLE refresh_ledger DROP CONSTRAINT refresh_ledger_tenant_id_connection_id_fkey`)
		l.sql(t, `DELETE FROM connect_sessions`)
		l.sql(t, `DELETE FROM connections WHERE id = $1`, other)
		l.found(t, "the chain's connection does not exist")
		l.found(t, "a checkpoint knows the connection, which is gone")
	})
}

// The newest checkpoints, and what only they covered, can be cut off together. No look
// at the database alone can tell; whoever kept one of their heads can.
func TestWitness(t *testing.T) {
	t.Parallel()
	l, _ := openLedgered(t)
	made := l.checkpoint(t)
	if len(made) != 1 || made[0].Number != 3 || made[0].Entries != 2 || len(made[0].Head) != 32 {
		t.Fatalf("CheckpointLedger() = %+v", made)
	}
	if again := l.checkpoint(t); len(again) != 0 {
		t.Errorf("a checkpoint of nothing: %+v", again)
	}
	witness := tenants.LedgerCheck{WitnessNumber: made[0].Number, WitnessHead: made[0].Head}
	if found, _ := l.verify(t, witness); len(found) != 0 {
		t.Errorf("found %+v", found)
	}
	l.sql(t, `DELETE FROM ledger_checkpoint_entries WHERE checkpoint = 3`)
	l.sql(t, `DELETE FROM ledger_checkpoints WHERE sequence = 3`)
	l.proven(t) // as was said
	found, _ := l.verify(t, witness)
	if len(found) != 1 || found[0].What != "the checkpoint was witnessed, and is gone" {
		t.Errorf("found %+v", found)
	}
	l.checkpoint(t)
	if found, _ := l.verify(t, witness); len(found) != 1 || found[0].What != "the checkpoint is not the one that was witnessed" {
		t.Errorf("found %+v", found)
	}
}

// putBack makes the connection's tokens those of a copy that was made before, as a
// careless restore does, and lets the ledger's columns follow: the store itself then
// signs what must not be.
func (l *leased) putBack(t *testing.T, table string) {
	t.Helper()
	l.sql(t, `UPDATE connections c SET generation = o.generation, access_token_sealed = o.access_token_sealed,
		refresh_token_sealed = o.refresh_token_sealed, ledger_generation = o.generation FROM `+table+` o WHERE o.id = c.id`)
}

// A second presentation is found although every row of it is signed.
func TestSecondPresentationIsFound(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		do   func(t *testing.T, l *leased)
		want string
	}{
		"of an older generation": {func(t *testing.T, l *leased) {
			t.Helper()
			l.sql(t, `CREATE TABLE old AS TABLE connections`)
			l.exchange(t, "2")
			l.putBack(t, "old")
			l.exchange(t, "again")
		}, "the refresh token of generation 1 was presented while 2 was the stored one"},
		"of the stored one, without a late retry": {func(t *testing.T, l *leased) {
			t.Helper()
			l.due(t)
			l.sql(t, `UPDATE connections SET lease_id = NULL, lease_until = NULL, intent_generation = NULL, intent_at = NULL`)
			l.exchange(t, "2")
		}, "not as a late retry of a suspect connection"},
		"again, before the lease of a late retry has ended": {func(t *testing.T, l *leased) {
			t.Helper()
			l.due(t)
			l.db.Advance(t, late)
			l.due(t)
			l.db.Advance(t, 2*time.Minute) // the pause, and less than a lease
			l.sql(t, `UPDATE connections SET lease_id = NULL, lease_until = NULL, refresh_not_before = NULL`)
			l.due(t)
		}, "the lease of an earlier attempt had not ended"},
		"of one that is known to be dead": {func(t *testing.T, l *leased) {
			t.Helper()
			l.sql(t, `CREATE TABLE old AS TABLE connections`)
			ok(t, l.Settle(t.Context(), l.due(t), prisma.InvalidGrant))
			l.sql(t, `UPDATE connections SET status = 'active', status_reason = NULL`)
			l.putBack(t, "old")
			l.due(t)
		}, "although its outcome was known"},
		"of one that was set again": {func(t *testing.T, l *leased) {
			t.Helper()
			first := l.stored(t)
			l.exchange(t, "2")
			ok(t, l.SetTokens(t.Context(), first))
			l.due(t)
		}, "the refresh token was presented before, as that of generation 1"},
		"of another connection": {func(t *testing.T, l *leased) {
			t.Helper()
			l.exchange(t, "2")
			c := l.connect(t, l.owner, "other", l.pair(t, "1", "wksp_1"))
			storage := l.TokensOf(l.owner, c.ID)
			tokens, err := storage.Tokens(t.Context())
			ok(t, err)
			_, err = storage.Claim(t.Context(), tokens)
			ok(t, err)
		}, "the same refresh token was presented for 2 connections"},
		"of a pair that nobody stored": {func(t *testing.T, l *leased) {
			t.Helper()
			l.exchange(t, "2")
			l.sql(t, `UPDATE connections SET ledger_generation = 1`)
			l.due(t)
		}, "generation 2 was stored and the ledger was not told"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			tc.do(t, l)
			ok(t, l.Wait(t.Context()))
			l.found(t, tc.want)
			// It stays to be found until the token has long been dead.
			l.checkpoint(t)
			_, err := l.FoldLedger(t.Context(), retention)
			ok(t, err)
			l.found(t, tc.want)
		})
	}
}

// Each of them is dozens of transactions, on a ledger that grows.
var randomDays = flag.Int("random-days", 12, "days of TestLedgerOfRandomDays, and more until something was saved and folded")

// Whatever happens to a connection, in whatever order, its ledger proves itself.
func TestLedgerOfRandomDays(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	var claims, answered []prisma.Claim // the exchanges under way, and those with a pair
	saved, folded := 0, int64(0)
	prove := func(r *rapid.T) {
		found, _ := l.verify(t, tenants.LedgerCheck{})
		for _, f := range found {
			r.Errorf("row %d (checkpoint %d): %s", f.Sequence, f.Checkpoint, f.What)
		}
	}
	hours := func(r *rapid.T) time.Duration {
		return time.Duration(rapid.IntRange(1, 5).Draw(r, "hours")) * time.Hour
	}
	runs := 0
	rapid.Check(t, func(r *rapid.T) {
		if runs++; runs > *randomDays && saved > 0 && folded > 0 {
			return
		}
		r.Repeat(map[string]func(*rapid.T){
			"claim": func(*rapid.T) {
				tokens, err := l.Tokens(t.Context())
				if err != nil {
					return // it needs a reconnect
				}
				claim, err := l.Claim(t.Context(), tokens)
				if err == nil && claim.Due {
					claims = append(claims, claim)
				}
			},
			"save": func(r *rapid.T) {
				if len(claims) == 0 {
					return
				}
				// An exchange has one outcome: who saves doesn't settle. It may save again.
				i := rapid.IntRange(0, len(claims)-1).Draw(r, "claim")
				claim := claims[i]
				claims, answered = slices.Delete(claims, i, i+1), append(answered, claim)
				if rapid.Bool().Draw(r, "again") {
					claim = rapid.SampledFrom(answered).Draw(r, "which")
				}
				if err := l.Save(t.Context(), claim, next(claim, uuid.NewString())); err == nil {
					saved++
				} else if !errors.Is(err, prisma.ErrSuperseded) {
					t.Error(err)
				}
			},
			"settle": func(r *rapid.T) {
				if len(claims) == 0 {
					return
				}
				outcome := rapid.SampledFrom([]prisma.Outcome{
					prisma.NotSent, prisma.Misconfigured, prisma.InvalidGrant, prisma.Unknown,
				}).Draw(r, "outcome")
				i := rapid.IntRange(0, len(claims)-1).Draw(r, "claim")
				ok(t, l.Settle(t.Context(), claims[i], outcome))
				claims = slices.Delete(claims, i, i+1)
			},
			"connect": func(*rapid.T) { l.connect(t, l.owner, "user", l.pair(t, uuid.NewString(), "wksp_1")) },
			"time": func(r *rapid.T) {
				l.sql(t, `UPDATE app.deployment SET clock_offset = clock_offset + $1::interval`,
					time.Duration(rapid.IntRange(1, 90).Draw(r, "minutes"))*time.Minute)
			},
			"checkpoint": func(r *rapid.T) {
				_, err := l.CheckpointLedger(t.Context(), hours(r))
				ok(t, err)
			},
			"fold": func(r *rapid.T) {
				n, err := l.FoldLedger(t.Context(), hours(r))
				ok(t, err)
				folded += n
			},
			"wait":  func(*rapid.T) { ok(t, l.Wait(t.Context())) },
			"prove": prove,
		})
		prove(r)
	})
	if saved == 0 || one[int](t, l.service, `SELECT count(*) FROM refresh_ledger_folds`) == 0 {
		t.Errorf("%d pairs were saved, or nothing was folded", saved)
	}
}
