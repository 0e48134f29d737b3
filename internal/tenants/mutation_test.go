package tenants_test

import (
	"context"
	"fmt"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/tenants"
)

// mutant is a tracer that repeats each statement of a tenant without what it says of
// the tenant, just before it runs and where it runs: in its transaction, on what it
// would see. Beside the tenant there is a second one by then, with the same rows under
// the same ids. What comes back must be what came back before that was there.
//
// Its sessions belong to a superuser who has become connect_app, so that it can make
// the second tenant, and look what would happen without row-level security.
type mutant struct {
	t      *testing.T
	tables []string

	mu     sync.Mutex
	scopes map[*pgx.Conn]string // "tenant", "operator" or "" of the transaction under way
	sites  map[string]bool      // "file:line" of this package that ran a statement
	found  map[string]*mutation // by the original statement
	free   map[string]bool      // statements of a tenant that say nothing of it
}

// mutation is what became of one statement.
type mutation struct {
	runs  int
	leaks []string
	teeth bool // without row-level security it shows or changes rows of the second tenant
}

type probing struct{}

// enough is how often a statement is tried, if it would leak without row-level security
// by then. Two of them run with every change.
const enough = 5

// other is the second tenant.
const other = "0199ffff-ffff-7fff-8fff-ffffffffffff"

func newMutant(t *testing.T, s *service) *mutant {
	t.Helper()
	m := &mutant{
		t: t, scopes: map[*pgx.Conn]string{}, sites: map[string]bool{}, found: map[string]*mutation{}, free: map[string]bool{},
	}
	for table := range s.tenantTables(t) {
		m.tables = append(m.tables, table)
	}
	slices.Sort(m.tables)
	return m
}

// store returns a store whose statements m mutates.
func (m *mutant) store(s *service) *tenants.Store {
	m.t.Helper()
	cfg, err := pgxpool.ParseConfig(s.db.AdminURL)
	if err != nil {
		m.t.Fatal("the test database's URL can't be parsed")
	}
	cfg.ConnConfig.Tracer = m
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(context.WithValue(ctx, probing{}, true), `SET ROLE connect_app`)
		return err
	}
	pool, err := pgxpool.NewWithConfig(m.t.Context(), cfg)
	ok(m.t, err)
	m.t.Cleanup(pool.Close)
	return s.store(m.t, tenants.Config{Pool: pool, Now: clock})
}

// ofTenant are the ways to say whose rows are meant.
var ofTenant = []struct {
	form   *regexp.Regexp
	always string
}{
	{regexp.MustCompile(`(\w+\.)?\btenant_id = \$(\d+)`), `$$$2::uuid IS NOT NULL`},
	{regexp.MustCompile(`(\w+\.)?\btenant_id = app\.tenant\(\)`), `true`},
	{regexp.MustCompile(`(\w+\.)?\btenant_id = (\w+\.)?tenant_id\b`), `true`},
	{regexp.MustCompile(`\bt\.id = (\w+\.)?tenant_id\b`), `true`},
}

// ofTenants is the same where the row is the tenant's own.
var ofTenants = regexp.MustCompile(`(FROM|UPDATE) tenants( t)?\b`)

var itsID = regexp.MustCompile(`\b(t\.)?id = \$1`)

// mutate takes out of a statement what it says of the tenant.
func mutate(sql string) string {
	for _, one := range ofTenant {
		sql = one.form.ReplaceAllString(sql, one.always)
	}
	if ofTenants.MatchString(sql) && !strings.Contains(sql, "FROM connections") {
		sql = itsID.ReplaceAllString(sql, `$$1::uuid IS NOT NULL`)
	}
	return sql
}

func (m *mutant) TraceQueryStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if ctx.Value(probing{}) != nil {
		return ctx
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note()
	if strings.HasPrefix(data.SQL, "BEGIN;") {
		m.scopes[conn] = ""
		for scope, sign := range map[string]string{"tenant": "app.tenant", "operator": "connect_operator"} {
			if strings.Contains(data.SQL, sign) {
				m.scopes[conn] = scope
			}
		}
		return ctx
	}
	if m.scopes[conn] == "tenant" && conn.PgConn().TxStatus() == 'T' {
		m.judge(context.WithValue(ctx, probing{}, true), conn, data.SQL, data.Args)
	}
	return ctx
}

func (*mutant) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TraceBatchStart gets reads, which are their settings and the query.
func (m *mutant) TraceBatchStart(ctx context.Context, conn *pgx.Conn, data pgx.TraceBatchStartData) context.Context {
	if ctx.Value(probing{}) != nil {
		return ctx
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note()
	ctx = context.WithValue(ctx, probing{}, true)
	if conn.PgConn().TxStatus() == 'T' { // several statements of a transaction
		for _, query := range data.Batch.QueuedQueries {
			if m.scopes[conn] == "tenant" {
				m.judge(ctx, conn, query.SQL, query.Arguments)
			}
		}
		return ctx
	}
	if len(data.Batch.QueuedQueries) != 2 {
		m.t.Errorf("a batch of %d is not a read", len(data.Batch.QueuedQueries))
		return ctx
	}
	settings, query := data.Batch.QueuedQueries[0], data.Batch.QueuedQueries[1]
	m.script(ctx, conn, `BEGIN`)
	if _, err := conn.Exec(ctx, settings.SQL, settings.Arguments...); err != nil {
		m.t.Errorf("settings: %v", err)
	}
	m.judge(ctx, conn, query.SQL, query.Arguments)
	m.script(ctx, conn, `ROLLBACK`)
	return ctx
}

func (*mutant) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (*mutant) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}

// note keeps the lines of this package that lead to the statement.
func (m *mutant) note() {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		frame, more := frames.Next()
		if strings.Contains(frame.Function, "/internal/tenants.") && !strings.HasSuffix(frame.File, "_test.go") {
			m.sites[fmt.Sprintf("%s:%d", frame.File[strings.LastIndex(frame.File, "/")+1:], frame.Line)] = true
		}
		if !more {
			return
		}
	}
}

// judge runs a statement without its tenant and notes what came of it.
func (m *mutant) judge(ctx context.Context, conn *pgx.Conn, sql string, args []any) {
	mutated := mutate(sql)
	if mutated == sql {
		m.free[strings.Join(strings.Fields(sql), " ")] = true
		return
	}
	found := m.found[sql]
	if found == nil {
		found = &mutation{}
		m.found[sql] = found
	}
	if found.runs >= enough && found.teeth {
		return
	}
	found.runs++
	m.script(ctx, conn, `SAVEPOINT probe`)
	alone := m.run(ctx, conn, mutated, args)
	m.script(ctx, conn, `ROLLBACK TO probe; SET LOCAL ROLE none; `+m.twin()+`; SAVEPOINT twins; SET LOCAL ROLE connect_app`)
	both := m.run(ctx, conn, mutated, args)
	if !slices.Equal(alone, both) {
		found.leaks = append(found.leaks, fmt.Sprintf("it comes to %d lines alone and %d beside another tenant", len(alone), len(both)))
	}
	before, after := m.untouched(ctx, conn)
	if before != after {
		found.leaks = append(found.leaks, "it changes the other tenant's rows")
	}
	// And once more past row-level security.
	open := m.run(ctx, conn, mutated, args)
	before, after = m.untouched(ctx, conn)
	found.teeth = found.teeth || !slices.Equal(alone, open) || before != after
	m.script(ctx, conn, `ROLLBACK TO probe; RELEASE probe`)
}

// untouched compares the other tenant's rows before and after the statement that ran
// since the savepoint, and goes back to it, as the superuser.
func (m *mutant) untouched(ctx context.Context, conn *pgx.Conn) (before, after string) {
	after = "as before" // a statement that failed has changed nothing
	failed := conn.PgConn().TxStatus() == 'E'
	if !failed {
		after = m.script(ctx, conn, `SET LOCAL ROLE none; `+m.digest())
	}
	before = m.script(ctx, conn, `ROLLBACK TO twins; SET LOCAL ROLE none; `+m.digest())
	if failed {
		after = before
	}
	return before, after
}

// run returns the rows of a statement, sorted, and how many it touched; or how it failed.
func (m *mutant) run(ctx context.Context, conn *pgx.Conn, sql string, args []any) []string {
	rows, err := conn.Query(ctx, sql, append([]any{pgx.QueryExecModeDescribeExec}, args...)...)
	var lines []string
	if err == nil {
		for rows.Next() {
			values, err := rows.Values()
			if err != nil {
				m.t.Errorf("%s: %v", sql, err)
			}
			values = slices.DeleteFunc(values, moves)
			lines = append(lines, fmt.Sprint(values...))
		}
		rows.Close()
		err = rows.Err()
	}
	if err != nil {
		return []string{err.Error()}
	}
	slices.Sort(lines)
	return append(lines, fmt.Sprintf("%d rows", rows.CommandTag().RowsAffected()))
}

// moves tells values that are others each time.
func moves(v any) bool {
	switch v.(type) {
	case time.Time, time.Duration, float64:
		return true
	}
	return fmt.Sprintf("%T", v) == "pgtype.Interval"
}

// script runs statements that are the test's own, and returns the last value.
func (m *mutant) script(ctx context.Context, conn *pgx.Conn, sql string) (last string) {
	results, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil && ctx.Err() == nil {
		m.t.Errorf("%.200s: %v", sql, err)
	}
	for _, r := range results {
		if len(r.Rows) == 1 {
			last = string(r.Rows[0][0])
		}
	}
	return last
}

// twin makes the other tenant out of the one in whose scope the transaction is.
func (m *mutant) twin() string {
	var sql strings.Builder
	sql.WriteString(`SET LOCAL session_replication_role = replica`)
	for _, table := range m.tables {
		column := "tenant_id"
		if table == "tenants" {
			column = "id"
		}
		fmt.Fprintf(&sql, `; INSERT INTO %[1]s SELECT (jsonb_populate_record(x, '{"%[2]s": "`+other+`"}')).* FROM %[1]s x WHERE %[2]s = app.tenant()`, table, column)
	}
	return sql.String() + `; SET LOCAL session_replication_role = origin`
}

// digest sums up the other tenant's rows.
func (m *mutant) digest() string {
	parts := make([]string, 0, len(m.tables))
	for _, table := range m.tables {
		column := "tenant_id"
		if table == "tenants" {
			column = "id"
		}
		parts = append(parts, fmt.Sprintf(`SELECT '%[1]s' || x::text AS r FROM %[1]s x WHERE %[2]s = '`+other+`'`, table, column))
	}
	return `SELECT md5(string_agg(r, '|' ORDER BY r)) FROM (` + strings.Join(parts, ` UNION ALL `) + `) AS all_rows`
}

// leaks lists what statements showed or changed.
func (m *mutant) leaks() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []string
	for sql, found := range m.found {
		for _, leak := range found.leaks {
			list = append(list, leak+": "+strings.Join(strings.Fields(sql), " "))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// Each query of a tenant, with its WHERE clause on the tenant taken out, shows and
// changes no row of another tenant, on a database where the other one has the same ids
// everywhere. Every line of this package that runs a statement takes part.
func TestQueriesWithoutTheirTenant(t *testing.T) {
	t.Parallel()
	s := openService(t)
	m := newMutant(t, s)
	s.Store = m.store(s)
	everything(t, s)
	for _, leak := range m.leaks() {
		t.Error(leak)
	}
	runs, sharp := 0, 0
	for sql, found := range m.found {
		runs += found.runs
		if found.teeth {
			sharp++
		} else if !strings.Contains(sql, "SELECT candidate FROM") { // two tenants' same operations are told as one's
			t.Errorf("would not even leak without row-level security: %s", strings.Join(strings.Fields(sql), " "))
		}
	}
	for sql := range m.free {
		if !m.saysNothing(sql) {
			t.Errorf("a tenant's query does not name the tenant: %s", sql)
		}
	}
	t.Logf("%d statements mutated, run %d times; %d of them would leak without row-level security", len(m.found), runs, sharp)
	m.coverage(t)
}

// saysNothing tells the statements of a tenant that need not name it.
func (m *mutant) saysNothing(sql string) bool {
	readsTenants := slices.ContainsFunc(m.tables, func(table string) bool {
		return regexp.MustCompile(`(FROM|JOIN|UPDATE) ` + table + `\b`).MatchString(sql)
	})
	return !readsTenants || strings.HasPrefix(sql, "INSERT INTO ") && !strings.Contains(sql, " FROM ")
}

// The test above must be able to fail: without row-level security on one table it does.
func TestQueriesWithoutTheirTenantAndWithoutSecurity(t *testing.T) {
	t.Parallel()
	for _, table := range []string{"connections", "api_keys", "tenants", "connect_sessions", "tenant_sequences"} {
		t.Run(table, func(t *testing.T) {
			t.Parallel()
			s := openService(t)
			s.sql(t, `ALTER TABLE `+table+` DISABLE ROW LEVEL SECURITY`)
			m := newMutant(t, s)
			s.Store = m.store(s)
			f := s.furnish(t, "Acme")
			_, err := s.Keys(t.Context(), f.tenant)
			ok(t, err)
			if leaks := m.leaks(); len(leaks) == 0 {
				t.Errorf("without row-level security on %s nothing leaks", table)
			}
		})
	}
}

func TestMutate(t *testing.T) {
	t.Parallel()
	for sql, want := range map[string]string{
		`SELECT a FROM b WHERE tenant_id = $1 AND id = $2`:                              `SELECT a FROM b WHERE $1::uuid IS NOT NULL AND id = $2`,
		`SELECT t.id FROM tenants t WHERE t.id = $1 FOR UPDATE`:                         `SELECT t.id FROM tenants t WHERE $1::uuid IS NOT NULL FOR UPDATE`,
		`SELECT a FROM k JOIN t ON t.id = k.tenant_id WHERE k.tenant_id = app.tenant()`: `SELECT a FROM k JOIN t ON true WHERE true`,
		`UPDATE tenants SET a = $2 WHERE id = $1`:                                       `UPDATE tenants SET a = $2 WHERE $1::uuid IS NOT NULL`,
		`SELECT 1 FROM a JOIN b ON a.tenant_id = b.tenant_id AND a.tenant_id = $12`:     `SELECT 1 FROM a JOIN b ON true AND $12::uuid IS NOT NULL`,
	} {
		if got := mutate(sql); got != want {
			t.Errorf("mutate(%q) = %q, want %q", sql, got, want)
		}
	}
	if _, err := uuid.Parse(other); err != nil {
		t.Error(err)
	}
}
