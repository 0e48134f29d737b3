package postgres_test

import (
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/postgres"
)

// What must survive a crash is committed so whatever the database's default is, and the
// default holds for everything else.
func TestDurable(t *testing.T) {
	t.Parallel()
	db := pgtest.Open(t)
	for _, tc := range []struct {
		set     string
		durable bool
		want    string
	}{
		{"off", true, "on"},
		{"off", false, "off"},
		{"local", true, "local"},
		{"remote_apply", true, "remote_apply"},
	} {
		got := ""
		address, err := url.Parse(db.AppURL)
		if err != nil {
			t.Fatal(err)
		}
		query := address.Query()
		query.Set("synchronous_commit", tc.set)
		address.RawQuery = query.Encode()
		pool := openPool(t, postgres.PoolConfig{URL: address.String()})
		for range 2 { // the second time on a session that was in such a scope before
			err := postgres.InTx(t.Context(), pool, postgres.Scope{Durable: tc.durable}, func(tx pgx.Tx) error {
				return tx.QueryRow(t.Context(), `SELECT current_setting('synchronous_commit')`).Scan(&got)
			})
			if err != nil || got != tc.want {
				t.Errorf("synchronous_commit = %s, durable %t: %q, %v; want %q", tc.set, tc.durable, got, err, tc.want)
			}
		}
		err = postgres.InTx(t.Context(), pool, postgres.Scope{}, func(tx pgx.Tx) error {
			return tx.QueryRow(t.Context(), `SELECT current_setting('synchronous_commit')`).Scan(&got)
		})
		if err != nil || got != tc.set {
			t.Errorf("after it: %q, %v; want %q", got, err, tc.set)
		}
	}
}
