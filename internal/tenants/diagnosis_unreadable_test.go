package tenants_test

import (
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// refuses checks that nothing is sent for a connection whose tokens that store can't open,
// and that it says so.
func (l *leased) refuses(t *testing.T, store *tenants.Store, e *tokenEndpoint) {
	t.Helper()
	_, err := newRefresher(t, e).AccessToken(t.Context(), store.PrismaConnection(l.owner, l.id))
	wantKind(t, "AccessToken()", err, fault.PrismaUnavailable)
	if asked, _ := e.counts(); asked != 0 {
		t.Errorf("%d token requests", asked)
	}
	c, err := store.Connection(t.Context(), l.owner, l.id)
	ok(t, err)
	got := store.Diagnose(c, time.Time{})
	if got.Code != tenants.DiagnosisUnreadable || got.Action != tenants.ActionOperator || got.Since.IsZero() {
		t.Errorf("Diagnose() = %+v, want %s", got, tenants.DiagnosisUnreadable)
	}
}

// renews checks that the connection is well and gets a new pair.
func (l *leased) renews(t *testing.T, e *tokenEndpoint) {
	t.Helper()
	if got, _ := l.diagnose(t, time.Time{}); got.Code != tenants.DiagnosisHealthy {
		t.Errorf("Diagnose() = %+v, want it healthy", got)
	}
	_, err := newRefresher(t, e).AccessToken(t.Context(), l.PrismaConnection(l.owner, l.id))
	ok(t, err)
	if asked, _ := e.counts(); asked != 1 {
		t.Errorf("%d token requests, want 1", asked)
	}
}

// A process without the key that a pair was sealed with sends nothing and says what is
// wrong; with the key everything is as before.
func TestAPairWhoseKeyIsMissing(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	text, err := sealing.Generate()
	ok(t, err)
	another, err := sealing.Parse(text, "test")
	ok(t, err)
	keyless, err := tenants.NewStore(tenants.Config{Pool: l.db.Pool, Keyset: another})
	ok(t, err)
	e := startTokenEndpoint(t, "refresh-1")
	l.db.Advance(t, 2*time.Hour)
	l.refuses(t, keyless, e)
	l.wantState(t, "refused", state{Status: "active", Generation: 1})
	l.renews(t, e)
}

// A pair of which a half lies in another row is not used at all, not even the half that
// can be opened. It is well when it is back, or when the user has connected again.
func TestAPairThatWasMoved(t *testing.T) {
	t.Parallel()
	for name, mend := range map[string]func(t *testing.T, l *leased, kept []byte) string{
		"put back": func(t *testing.T, l *leased, kept []byte) string {
			t.Helper()
			l.sql(t, `UPDATE connections SET refresh_token_sealed = $2 WHERE id = $1`, l.id, kept)
			l.db.Advance(t, 2*time.Hour)
			return "refresh-1"
		},
		"connected again": func(t *testing.T, l *leased, _ []byte) string {
			t.Helper()
			l.connect(t, l.owner, "user", l.pair(t, "3", "wksp_1"))
			l.db.Advance(t, 2*time.Hour)
			return "refresh-3"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := openLeased(t)
			other := l.connect(t, l.owner, "other", l.pair(t, "2", "wksp_2"))
			kept := one[[]byte](t, l.service, `SELECT refresh_token_sealed FROM connections WHERE user_id = 'user'`)
			l.sql(t, `UPDATE connections a SET refresh_token_sealed = b.refresh_token_sealed FROM connections b
				WHERE a.id = $1 AND b.id = $2`, l.id, other.ID)
			l.refuses(t, l.Store, startTokenEndpoint(t, "refresh-1"))
			live := mend(t, l, kept)
			l.renews(t, startTokenEndpoint(t, live))
		})
	}
}
