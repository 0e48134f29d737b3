package tenants_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/tenants"
)

// listed remembers the last query of a table that a pool sent.
type listed struct {
	queries // of a tracer's methods, those that a batch does not need

	table string // what such a query has in it
	sql   string
	args  []any
}

func (*listed) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

func (l *listed) TraceBatchQuery(_ context.Context, _ *pgx.Conn, q pgx.TraceBatchQueryData) {
	if strings.Contains(q.SQL, l.table) {
		l.sql, l.args = q.SQL, q.Args
	}
}

func (*listed) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// listing opens a store whose queries of a table are remembered.
func (s *service) listing(t *testing.T, table string) (*tenants.Store, *listed) {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(s.db.AppURL)
	if err != nil {
		t.Fatal("the test database's URL can't be parsed")
	}
	last := &listed{table: table}
	cfg.ConnConfig.Tracer = last
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	ok(t, err)
	t.Cleanup(pool.Close)
	return s.store(t, tenants.Config{Pool: pool}), last
}

// TestAuditFilters: each filter shows what it says and nothing else, and is answered from
// an index: a partner who looks for one id among millions of rows does not wait for all.
func TestAuditFilters(t *testing.T) {
	t.Parallel()
	s := openService(t)
	store, last := s.listing(t, "FROM audit_log")

	tenant, other := s.tenant(t, "Acme").ID, s.tenant(t, "Bolt").ID
	begin := time.Date(2031, 5, 1, 12, 0, 0, 0, time.UTC)
	s.sql(t, `DELETE FROM audit_log`)
	// A row a minute. Of each kind three, far apart, among the many.
	s.sql(t, `
		INSERT INTO audit_log (tenant_id, sequence, at, actor_type, actor_id, action, target)
		SELECT tenant, n, $3::timestamptz + n * interval '1 minute', 'api_key',
		       CASE WHEN n % 10000 = 1 THEN 'key_rare' ELSE 'key_' || n % 5 END,
		       CASE WHEN n % 10000 = 2 THEN 'key.rare' ELSE 'connection.checked' END,
		       CASE WHEN n % 10000 = 3 THEN 'cnx_rare' ELSE 'cnx_' || n % 900 END
		FROM unnest(ARRAY[$1, $2]::uuid[]) AS tenant, generate_series(1, 30000) AS n`, tenant.UUID, other.UUID, begin)
	s.sql(t, `ANALYZE audit_log`)

	minute := func(n int) time.Time { return begin.Add(time.Duration(n) * time.Minute) }
	for name, tc := range map[string]struct {
		filter tenants.AuditFilter
		want   []int64
		index  string
	}{
		"actor":  {tenants.AuditFilter{Actor: "key_rare"}, []int64{1, 10001, 20001}, "audit_log_actor"},
		"action": {tenants.AuditFilter{Action: "key.rare"}, []int64{2, 10002, 20002}, "audit_log_action"},
		"target": {tenants.AuditFilter{Target: "cnx_rare"}, []int64{3, 10003, 20003}, "audit_log_target"},
		"time":   {tenants.AuditFilter{From: minute(25000), To: minute(25003)}, []int64{25000, 25001, 25002}, "audit_log_at"},
		"all of them": {
			tenants.AuditFilter{Target: "cnx_rare", Action: "connection.checked", Actor: "key_3", From: minute(9), To: minute(10004), After: 3},
			[]int64{10003},
			"audit_log_target",
		},
		"since":   {tenants.AuditFilter{From: minute(28000), Actor: "key_rare"}, nil, "audit_log_"},
		"until":   {tenants.AuditFilter{To: minute(3), Action: "connection.checked"}, []int64{1}, "audit_log_"},
		"nothing": {tenants.AuditFilter{Target: "cnx_rare", Action: "key.rare"}, nil, "audit_log_"},
	} {
		tc.filter.Limit = 10
		entries, more, err := store.AuditEntries(t.Context(), tenant, tc.filter)
		ok(t, err)
		var got []int64
		for _, e := range entries {
			got = append(got, e.Sequence)
		}
		if !slices.Equal(got, tc.want) || more {
			t.Errorf("%s: %v, more: %t; want %v and no more", name, got, more, tc.want)
		}
		if plan := s.plan(t, last.sql, last.args); !strings.Contains(plan, tc.index) {
			t.Errorf("%s is not found by an index %s:\n%s", name, tc.index, plan)
		}
	}
	// Half of the log is of this period: enough to walk along the numbers instead.
	for name, f := range map[string]tenants.AuditFilter{
		"since": {From: minute(15000), Limit: 100}, "until": {To: minute(15000), After: 14990, Limit: 100},
	} {
		entries, _, err := store.AuditEntries(t.Context(), tenant, f)
		ok(t, err)
		if len(entries) != map[string]int{"since": 100, "until": 9}[name] {
			t.Errorf("%s: %d entries", name, len(entries))
		}
		for line := range strings.Lines(s.plan(t, last.sql, last.args)) {
			var passed int
			if _, err := fmt.Sscanf(strings.TrimSpace(line), "Rows Removed by Filter: %d", &passed); err == nil && passed > 2*24*60 {
				t.Errorf("%s: %d rows were read in vain", name, passed)
			}
		}
	}
}

// A tenant reads that an operator's command did something, and not whose it was: neither
// in the list nor by asking for a name.
func TestAuditShowsTenantsNoOperator(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	ada := tenants.Actor{Type: tenants.ActorCommand, ID: "ada"}
	_, _, err := s.CreateKey(t.Context(), ada, tenant, "backend", tenants.AllScopes(), time.Time{})
	ok(t, err)
	entries, _, err := s.AuditEntries(t.Context(), tenant, tenants.AuditFilter{Action: "api_key.create", Limit: 10})
	ok(t, err)
	if len(entries) != 1 || entries[0].ActorType != tenants.ActorCommand || entries[0].ActorID != "" {
		t.Errorf("the tenant reads %+v", entries)
	}
	entries, _, err = s.AuditEntries(t.Context(), tenant, tenants.AuditFilter{Actor: "ada", Limit: 10})
	if ok(t, err); len(entries) != 0 {
		t.Errorf("asked for a name: %+v", entries)
	}
	if who := one[string](t, s, `SELECT actor_id FROM audit_log WHERE action = 'api_key.create'`); who != "ada" {
		t.Errorf("the log says %q", who)
	}
}

// plan returns how Postgres would answer a query.
func (s *service) plan(t *testing.T, sql string, args []any) string {
	t.Helper()
	rows, err := s.admin.Query(t.Context(), "EXPLAIN (ANALYZE, TIMING OFF) "+sql, args...)
	ok(t, err)
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	ok(t, err)
	return strings.Join(lines, "\n")
}
