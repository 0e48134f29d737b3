package tenants_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// openFolded is a connection with a fold of six rows and five more after it: a late
// retry that was saved and an attempt without an end.
func openFolded(t *testing.T) *leased {
	t.Helper()
	l := openLeased(t)
	l.exchange(t, "2")
	claim := l.due(t)
	ok(t, l.Settle(t.Context(), claim, prisma.NotSent))
	l.db.Advance(t, 10*time.Second)
	l.exchange(t, "3")
	l.checkpoint(t)
	if n, err := l.FoldLedger(t.Context(), retention); n != 0 || err != nil {
		t.Fatalf("FoldLedger() of new rows = %d, %v", n, err)
	}
	l.db.Advance(t, 100*24*time.Hour)
	l.young(t)
	ok(t, l.Settle(t.Context(), l.due(t), prisma.Unknown))
	l.exchange(t, "4")
	l.checkpoint(t)
	if n, err := l.FoldLedger(t.Context(), retention); n != 7 || err != nil {
		t.Fatalf("FoldLedger() = %d, %v; want 7 rows", n, err)
	}
	l.due(t)
	l.wantLedger(t, "begun g3", "unknown 8 g3", "begun late g3", "saved 10 g4", "begun g4")
	return l
}

// young makes the stored refresh token a younger one: folding takes longer than one lives.
func (l *leased) young(t *testing.T) {
	t.Helper()
	l.sql(t, `UPDATE connections SET access_issued_at = app.now() - interval '2 days'`)
}

func TestFold(t *testing.T) {
	t.Parallel()
	l := openFolded(t)
	summary := l.proven(t)
	if summary.Rows != 5 || summary.Folds != 1 || summary.Attempts != 6 || summary.LateRetries != 1 || summary.Open != 1 {
		t.Errorf("summary %+v", summary)
	}
	counts := one[[]int64](t, l.service, `SELECT counts FROM refresh_ledger_folds`)
	if diff := cmp.Diff([]int64{1, 0, 3, 2, 0, 1, 0, 0, 0, 0}, counts); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	if n, err := l.FoldLedger(t.Context(), retention); n != 0 || err != nil {
		t.Errorf("FoldLedger() again = %d, %v", n, err)
	}
	l.db.Advance(t, 100*24*time.Hour) // the attempt without an end gets its late retry
	l.young(t)
	l.exchange(t, "5")
	l.checkpoint(t)
	if n, err := l.FoldLedger(t.Context(), retention); n != 4 || err != nil {
		t.Errorf("FoldLedger() later = %d, %v; want 4", n, err)
	}
	l.wantLedger(t, "begun g4", "begun late g4", "saved 13 g5")
	l.proven(t)
	list := one[string](t, l.service, `SELECT f::text FROM refresh_ledger_folds f`)
	l.sql(t, `DELETE FROM refresh_ledger WHERE sequence = 12`)
	l.checkpoint(t)
	l.db.Advance(t, 100*24*time.Hour)
	if n, err := l.FoldLedger(t.Context(), retention); n != 0 || err == nil {
		t.Errorf("FoldLedger() of a broken chain = %d, %v", n, err)
	}
	if got := one[string](t, l.service, `SELECT f::text FROM refresh_ledger_folds f`); got != list {
		t.Error("a broken chain was folded")
	}
	l.found(t, "the row is missing")
}

// What no checkpoint has seen stays.
func TestFoldWaitsForTheCheckpoint(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	l.exchange(t, "2")
	l.db.Advance(t, 100*24*time.Hour)
	if n, err := l.FoldLedger(t.Context(), retention); n != 0 || err != nil {
		t.Errorf("FoldLedger() = %d, %v", n, err)
	}
	l.checkpoint(t)
	if n, err := l.FoldLedger(t.Context(), retention); n != 3 || err != nil {
		t.Errorf("FoldLedger() = %d, %v; want 3", n, err)
	}
	l.proven(t)
	l.exchange(t, "3")
	l.proven(t)
}

func TestTamperingWithFoldsIsFound(t *testing.T) {
	t.Parallel()
	const altered = "the fold was altered"
	tests := map[string]struct{ sql, want string }{
		"sequence":     {`UPDATE refresh_ledger_folds SET sequence = 6`, altered},
		"head":         {`UPDATE refresh_ledger_folds SET head = sha256('x')`, altered},
		"generation":   {`UPDATE refresh_ledger_folds SET generation = 2`, altered},
		"fingerprint":  {`UPDATE refresh_ledger_folds SET fingerprint = sha256('x')`, altered},
		"its key":      {`UPDATE refresh_ledger_folds SET fingerprint_key_id = 7`, altered},
		"counts":       {`UPDATE refresh_ledger_folds SET counts[3] = counts[3] - 1`, altered},
		"late retries": {`UPDATE refresh_ledger_folds SET late_retries = 1`, altered},
		"time":         {`UPDATE refresh_ledger_folds SET at = at + interval '1 s'`, altered},
		"mac":          {`UPDATE refresh_ledger_folds SET mac = sha256('x')`, altered},
		"dropped":      {`DELETE FROM refresh_ledger_folds`, "the rows until 7 are missing"},
		"dropped with the rows": {`WITH gone AS (DELETE FROM refresh_ledger_folds), too AS (DELETE FROM refresh_ledger)
			UPDATE connections SET ledger_count = 0, ledger_head = NULL, ledger_generation = 0`, "a checkpoint saw the chain until here"},
		"the first row after it": {`DELETE FROM refresh_ledger WHERE sequence = 8`, "the row is missing"},
		"all rows after it": {`WITH gone AS (DELETE FROM refresh_ledger)
			UPDATE connections c SET ledger_count = f.sequence, ledger_head = f.head, ledger_generation = f.generation
			FROM refresh_ledger_folds f`, "a checkpoint saw the chain until here"},
	}
	l := openFolded(t)
	l.expose(t, ledgerTables)
	for name, tc := range tests { //nolint:paralleltest // in one database
		t.Run(name, func(t *testing.T) {
			l.sql(t, tc.sql)
			l.found(t, tc.want)
			l.restore(t, ledgerTables)
			l.proven(t)
		})
	}
	t.Run("another connection's", func(t *testing.T) {
		t.Parallel()
		l := openFolded(t)
		c := l.connect(t, l.owner, "other", l.pair(t, "other", "wksp_1"))
		l.sql(t, `UPDATE refresh_ledger_folds SET connection_id = $1`, c.ID)
		l.found(t, altered)
	})
}

// The entries of checkpoints are carried over when they get old, so that a chain that
// stands still for ever is still in one, and no more than needed is kept.
func TestCheckpointsCarryOver(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	l.checkpoint(t)
	for i := range 3 {
		l.db.Advance(t, 50*24*time.Hour)
		l.connect(t, l.owner, fmt.Sprintf("user-%d", i), l.pair(t, fmt.Sprintf("new-%d", i), "wksp_1"))
		l.checkpoint(t)
		l.proven(t)
	}
	if from := one[int](t, l.service, `SELECT min(checkpoint) FROM ledger_checkpoint_entries`); from < 2 {
		t.Errorf("entries are kept from checkpoint %d on", from)
	}
	if n := one[int](t, l.service, `SELECT count(DISTINCT connection_id) FROM ledger_checkpoint_entries`); n != 5 { // one is the audit log
		t.Errorf("%d chains are in a checkpoint, want 5", n)
	}
	l.sql(t, `DELETE FROM ledger_checkpoint_entries WHERE connection_id = $1`, l.id)
	l.found(t, "its entries are not those that were signed")
}

// A new key signs from then on, and what the old one signed is still proven, as long as
// the keyset has it.
func TestLedgerOverAKeyRotation(t *testing.T) {
	t.Parallel()
	text, err := sealing.Generate()
	ok(t, err)
	l := openLeased(t)
	another, err := sealing.Generate()
	ok(t, err)
	newer, alone := withKey(t, text, another)
	s := &leased{service: &service{db: l.db, admin: l.admin}, owner: l.owner}
	open := func(text string) {
		s.keyset, err = sealing.Parse(text, "test")
		ok(t, err)
		s.Store = s.store(t, tenants.Config{Pool: l.db.Pool})
	}
	open(text)
	s.owner = s.tenant(t, "Bolt").ID
	s.id = s.connect(t, s.owner, "user", s.pair(t, "r1", "wksp_1")).ID
	s.TokenStorage = s.TokensOf(s.owner, s.id)
	s.exchange(t, "r2")
	check := tenants.LedgerCheck{Tenant: s.owner}
	open(newer)
	s.TokenStorage = s.TokensOf(s.owner, s.id)
	s.exchange(t, "r3")
	s.session(t, tenants.System(), s.owner)
	if found, _ := s.verify(t, check); len(found) != 0 {
		t.Errorf("after a rotation: %+v", found)
	}
	if n := one[int](t, s.service, `SELECT count(DISTINCT key_id) FROM refresh_ledger WHERE connection_id = $1`, s.id); n != 2 {
		t.Errorf("%d keys signed, want 2", n)
	}
	if n := one[int](t, s.service, `SELECT count(DISTINCT key_id) FROM audit_log WHERE tenant_id = $1`, s.owner); n != 2 {
		t.Errorf("%d keys signed the audit log, want 2", n)
	}
	open(alone)
	found, _ := s.verify(t, check)
	for _, log := range []string{"", tenants.AuditLog} {
		if !slices.ContainsFunc(found, func(f tenants.LedgerFinding) bool { return f.Log == log }) {
			t.Errorf("without the old key its rows are proven all the same (log %q)", log)
		}
	}
}

// withKey returns the keyset with another one's fingerprint key as its newest, and with
// that one alone.
func withKey(t *testing.T, text, other string) (both, alone string) {
	t.Helper()
	type keys struct {
		Primary uint32            `json:"primaryKeyId"`
		Key     []json.RawMessage `json:"key"`
	}
	open := func(text string) (map[string]json.RawMessage, keys) {
		raw, err := base64.StdEncoding.DecodeString(text)
		ok(t, err)
		var parts map[string]json.RawMessage
		var fingerprint keys
		ok(t, errors.Join(json.Unmarshal(raw, &parts), json.Unmarshal(parts["fingerprint"], &fingerprint)))
		return parts, fingerprint
	}
	write := func(parts map[string]json.RawMessage, fingerprint keys) string {
		raw, err := json.Marshal(fingerprint)
		ok(t, err)
		parts["fingerprint"] = raw
		raw, err = json.Marshal(parts)
		ok(t, err)
		return base64.StdEncoding.EncodeToString(raw)
	}
	parts, old := open(text)
	_, newest := open(other)
	alone = write(parts, newest)
	newest.Key = append(newest.Key, old.Key...)
	return write(parts, newest), alone
}

// A connection that is older than the ledger gets one with its next refresh.
func TestOlderConnectionIsAdopted(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	l.sql(t, `DELETE FROM refresh_ledger`)
	l.sql(t, `UPDATE connections SET ledger_count = 0, ledger_head = NULL, ledger_generation = 0`)
	l.exchange(t, "2")
	l.wantLedger(t, "adopted g1", "begun g1", "saved 2 g2")
	if summary := l.proven(t); summary.Adopted != 1 {
		t.Errorf("%d chains are said to be adopted", summary.Adopted)
	}
}
