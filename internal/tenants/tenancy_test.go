package tenants_test

import (
	"context"
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// furnished is a tenant with a row in every table.
type furnished struct {
	tenant     tenants.TenantID
	key        tenants.Key
	secret     string
	link       string
	session    tenants.Session // created
	returned   tenants.Session
	completion string
	completing tenants.Session
	connection tenants.Connection
	operation  tenants.Operation
}

func (s *service) furnish(t *testing.T, name string) furnished {
	t.Helper()
	ctx, by := t.Context(), tenants.System()
	f := furnished{tenant: s.tenant(t, name).ID}
	var err error
	f.key, f.secret, err = s.CreateKey(ctx, by, f.tenant, "backend", tenants.AllScopes(), time.Time{})
	ok(t, err)
	f.session, f.link, err = s.CreateSession(ctx, by, f.tenant, tenants.NewSession{UserID: "user", ReturnURL: returnURL})
	ok(t, err)
	f.returned, f.completion = s.returned(t, f.tenant, tenants.NewSession{})
	f.completing = s.completing(t, f.tenant, tenants.NewSession{})
	f.connection = s.connect(t, f.tenant, "user", s.pair(t, name, "wksp_1"))
	f.operation, err = s.BeginOperation(ctx, f.tenant, tenants.NewOperation{
		Connection: f.connection.ID, Kind: tenants.OperationCreateProject, Key: "key", Lease: time.Minute,
	})
	ok(t, err)
	_, err = s.BeginCall(ctx, by, f.tenant, tenants.OutgoingCall{Connection: f.connection.ID, Operation: "updateDatabase", Uses: []string{"db_old"}})
	ok(t, err)
	for _, id := range []string{"db_gone", "db_old"} {
		_, err = s.BeginDeletion(ctx, tenants.ResourceChange{Tenant: f.tenant, Connection: f.connection.ID, DatabaseID: id})
		ok(t, err)
	}
	_, err = s.FinishDeletion(ctx, by, tenants.ResourceChange{Tenant: f.tenant, Connection: f.connection.ID, DatabaseID: "db_gone"})
	ok(t, err)
	_, err = s.BorrowBudget(ctx, f.tenant, tenants.BudgetRequests, tenants.Rate{PerSecond: 50, Burst: 100}, 1)
	ok(t, err)
	_, err = s.CheckpointLedger(ctx, time.Hour)
	ok(t, err)
	_, err = s.FoldLedger(ctx, 0)
	ok(t, err)
	return f
}

// tenantTables are the tables with rows of tenants, and the column that says whose.
func (s *service) tenantTables(t *testing.T) map[string]string {
	t.Helper()
	tables := map[string]string{"tenants": "id"}
	for _, table := range list[string](t, s, `SELECT c.relname::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
		WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND a.attname = 'tenant_id'`) {
		tables[table] = "tenant_id"
	}
	if len(tables) < 9 {
		t.Fatalf("found %d tables of tenants, want at least 9", len(tables))
	}
	return tables
}

// Whatever the service's role runs, without any WHERE clause, it sees and changes
// rows of the tenant in whose scope it is, and nothing without one.
func TestRowLevelSecurity(t *testing.T) {
	t.Parallel()
	s := openService(t)
	a, b := s.furnish(t, "Acme"), s.furnish(t, "Bolt")
	for _, f := range []furnished{a, b} { // whose ledgers are folded
		s.connect(t, f.tenant, "another user", s.pair(t, f.tenant.String(), "wksp_1"))
	}
	before := s.rows(t, b.tenant)
	for table, column := range s.tenantTables(t) {
		mine := one[int](t, s, fmt.Sprintf(`SELECT count(*) FROM %s WHERE %s = $1`, table, column), a.tenant)
		theirs := one[int](t, s, fmt.Sprintf(`SELECT count(*) FROM %s WHERE %s = $1`, table, column), b.tenant)
		if mine == 0 || theirs == 0 {
			t.Errorf("%s has %d and %d rows: furnish has to fill it", table, mine, theirs)
			continue
		}
		for name, tc := range map[string]struct {
			scope postgres.Scope
			want  int
		}{
			"a tenant's scope":             {postgres.Scope{Tenant: a.tenant.UUID}, mine},
			"the operator's":               {postgres.Scope{Operator: true}, mine + theirs},
			"the operator's with a tenant": {postgres.Scope{Operator: true, Tenant: a.tenant.UUID}, mine + theirs},
		} {
			var got int
			ok(t, postgres.InTx(t.Context(), s.db.Pool, tc.scope, func(tx pgx.Tx) error {
				return tx.QueryRow(t.Context(), `SELECT count(*) FROM `+table).Scan(&got)
			}))
			if got != tc.want {
				t.Errorf("%s in %s: %d rows, want %d", table, name, got, tc.want)
			}
		}
		s.attack(t, table, column, a, b)
	}
	s.unchanged(t, "writing in another tenant's scope", b.tenant, before)
}

// attack writes to another tenant's rows of one table, in a's scope.
func (s *service) attack(t *testing.T, table, column string, a, b furnished) {
	t.Helper()
	updatable := one[string](t, s, `SELECT coalesce(min(attname::text), '') FROM pg_attribute
		WHERE attrelid = $1::text::regclass AND attnum > 0 AND has_column_privilege('connect_app', attrelid, attnum, 'UPDATE')`, table)
	statements := map[string]string{
		"delete all": fmt.Sprintf(`DELETE FROM %s WHERE %s = $1`, table, column),
		"insert":     fmt.Sprintf(`INSERT INTO %[1]s SELECT (jsonb_populate_record(x, jsonb_build_object('%[2]s', $1::uuid))).* FROM %[1]s x LIMIT 1`, table, column),
		"move":       fmt.Sprintf(`UPDATE %s SET %s = $1`, table, column),
	}
	if updatable != "" {
		statements["update"] = fmt.Sprintf(`UPDATE %s SET %[2]s = %[2]s WHERE %[3]s = $1`, table, updatable, column)
	}
	for name, sql := range statements {
		err := postgres.InTx(t.Context(), s.db.Pool, postgres.Scope{Tenant: a.tenant.UUID}, func(tx pgx.Tx) error {
			tag, err := tx.Exec(t.Context(), sql, b.tenant)
			if err == nil && (tag.RowsAffected() != 0 || name == "insert" || name == "move") {
				t.Errorf("%s: %s of another tenant's rows touches %d", table, name, tag.RowsAffected())
			}
			return err
		})
		if code := postgres.SQLSTATE(err); err != nil && code != "42501" {
			t.Errorf("%s: %s of another tenant's rows: %v, want it forbidden", table, name, err)
		}
	}
}

// A query in nobody's scope fails loudly: an empty answer would look like success.
func TestNoTenantNoRows(t *testing.T) {
	t.Parallel()
	s := openService(t)
	s.furnish(t, "Acme")
	tests := map[string]struct {
		prepare string
		want    string // SQLSTATE
	}{
		"never set":                  {``, "42704"},
		"left empty by a SET LOCAL":  {`BEGIN; SET LOCAL app.tenant = '01890000-0000-7000-8000-000000000000'; COMMIT`, "22P02"},
		"set to nothing":             {`SET app.tenant = ''`, "22P02"},
		"set to something else":      {`SET app.tenant = 'Acme'' OR true'`, "22P02"},
		"set to a tenant of no rows": {`SET app.tenant = '01890000-0000-7000-8000-000000000000'`, ""},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := pgx.Connect(t.Context(), s.db.AppURL) // one that has never had a scope
			ok(t, err)
			defer conn.Close(context.WithoutCancel(t.Context()))
			_, err = conn.Exec(t.Context(), tc.prepare, pgx.QueryExecModeSimpleProtocol)
			ok(t, err)
			for table, column := range s.tenantTables(t) {
				for _, sql := range []string{
					`SELECT count(*) FROM ` + table, `SELECT count(*) FROM ` + table + ` WHERE ` + column + ` IS NOT NULL`,
				} {
					n := -1
					err := conn.QueryRow(t.Context(), sql).Scan(&n)
					if postgres.SQLSTATE(err) != tc.want || err == nil && n != 0 {
						t.Errorf("%s: %d rows, %v; want SQLSTATE %q", sql, n, err, tc.want)
					}
				}
			}
		})
	}
}

// The people who run the service, and what happened, are out of reach for what
// serves tenants.
func TestForbiddenToTheApp(t *testing.T) {
	t.Parallel()
	s := openService(t)
	a := s.furnish(t, "Acme")
	_, err := s.SetAdmin(t.Context(), tenants.System(), "root@example.com", "$argon2id$hash")
	ok(t, err)
	both := map[string]postgres.Scope{"connect_app": {Tenant: a.tenant.UUID}, "connect_operator": {Operator: true}}
	tests := map[string]struct {
		sql string
		who []string
	}{
		"read admins":         {`SELECT count(*) FROM admins`, []string{"connect_app"}},
		"read admin sessions": {`SELECT count(*) FROM admin_sessions`, []string{"connect_app"}},
		"read the admin log":  {`SELECT count(*) FROM admin_log`, []string{"connect_app"}},
		"make an admin":       {`INSERT INTO admins (id, email, password_hash) VALUES (gen_random_uuid(), 'a@b', '$argon2id$')`, []string{"connect_app"}},
		"change events":       {`UPDATE events SET type = 'a.b'`, []string{"connect_app", "connect_operator"}},
		"delete events":       {`DELETE FROM events`, []string{"connect_app", "connect_operator"}},
		"empty events":        {`TRUNCATE events`, []string{"connect_app", "connect_operator"}},
		"change the audit":    {`UPDATE audit_log SET action = 'a.b'`, []string{"connect_app", "connect_operator"}},
		"delete the audit":    {`DELETE FROM audit_log`, []string{"connect_app", "connect_operator"}},
		"delete the log":      {`DELETE FROM admin_log`, []string{"connect_app", "connect_operator"}},
		"move the clock":      {`UPDATE app.deployment SET clock_offset = interval '1 day'`, []string{"connect_app", "connect_operator"}},
		"make a key":          {`UPDATE api_keys SET scopes = '{read,write}'`, []string{"connect_app"}},
		"revive a key":        {`UPDATE api_keys SET revoked_at = NULL`, []string{"connect_app"}},
		"change its tenant":   {`UPDATE tenants SET name = 'x'`, []string{"connect_app"}},
		"add a return URL":    {`INSERT INTO tenant_return_urls SELECT tenant_id, 'https://evil.example' FROM tenant_return_urls`, []string{"connect_app"}},
		"switch security off": {`ALTER TABLE connections DISABLE ROW LEVEL SECURITY`, []string{"connect_app", "connect_operator"}},
		"add a policy":        {`CREATE POLICY all_rows ON connections USING (true)`, []string{"connect_app", "connect_operator"}},
		"become the owner":    {`SET ROLE connect_owner`, []string{"connect_app", "connect_operator"}},
		"delete a connection": {`DELETE FROM connections`, []string{"connect_app", "connect_operator"}},
		"read the versions":   {`SELECT count(*) FROM goose_db_version`, []string{"connect_app", "connect_operator"}},
	}
	before := s.rows(t, a.tenant)
	for name, tc := range tests {
		for _, who := range tc.who {
			err := postgres.InTx(t.Context(), s.db.Pool, both[who], func(tx pgx.Tx) error {
				_, err := tx.Exec(t.Context(), tc.sql)
				return err
			})
			if postgres.SQLSTATE(err) != "42501" {
				t.Errorf("%s may %s: %v", who, name, err)
			}
		}
	}
	s.unchanged(t, "what is forbidden", a.tenant, before)
}

// interleaved is how many requests two tenants mix on a small pool; 10,000 take a while.
var interleaved = flag.Int("interleaved", 2000, "requests of TestInterleavedRequestsOnASmallPool")

// Two tenants' requests, mixed on two connections, with some that fail, panic or
// are given up: no connection carries anything of one tenant over to the other.
func TestInterleavedRequestsOnASmallPool(t *testing.T) {
	t.Parallel()
	const callers = 16
	s := openService(t)
	pool := openPool(t, s.db.AppURL, 2, nil)
	store := s.store(t, tenants.Config{Pool: pool})
	both := []furnished{s.furnish(t, "Acme"), s.furnish(t, "Bolt")}
	var all sync.WaitGroup
	for caller := range callers {
		all.Go(func() {
			for i := range *interleaved / callers {
				n := caller + i
				mine, theirs := both[n%2], both[(n+1)%2]
				request(t, pool, store, n, mine, theirs)
			}
		})
	}
	all.Wait()
	for range 2 { // both connections came back
		conn, err := pool.Acquire(t.Context())
		ok(t, err)
		defer conn.Release()
	}
}

func request(t *testing.T, pool *pgxpool.Pool, store *tenants.Store, n int, mine, theirs furnished) {
	t.Helper()
	ctx := t.Context()
	scope := postgres.Scope{Tenant: mine.tenant.UUID}
	switch n % 8 {
	case 0: // every row that a query without WHERE sees
		var own, foreign int
		err := postgres.InTx(ctx, pool, scope, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, `SELECT count(*) FILTER (WHERE tenant_id = $1), count(*) FILTER (WHERE tenant_id <> $1)
				FROM connections`, mine.tenant).Scan(&own, &foreign)
		})
		if err != nil || own != 1 || foreign != 0 {
			t.Errorf("sees %d own and %d foreign connections: %v", own, foreign, err)
		}
	case 1:
		connections, _, err := store.Connections(ctx, mine.tenant, tenants.ConnectionFilter{Limit: 100})
		if err != nil || len(connections) != 1 || connections[0].ID != mine.connection.ID {
			t.Errorf("Connections() = %v, %v", connections, err)
		}
	case 2:
		if _, err := store.Connection(ctx, mine.tenant, theirs.connection.ID); fault.KindOf(err) != fault.NotFound {
			t.Errorf("another tenant's connection: %v", err)
		}
	case 3:
		tokens, err := store.TokensOf(mine.tenant, mine.connection.ID).Tokens(ctx)
		if err != nil || tokens.Access != map[bool]string{true: "access-Acme", false: "access-Bolt"}[n%2 == 0] {
			t.Errorf("another tenant's tokens, or %v", err)
		}
	case 4: // fails after its scope is set
		_ = postgres.InTx(ctx, pool, scope, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, `SELECT 1/0`)
			return err
		})
	case 5: // as the operator, and then panics
		func() {
			defer func() { _ = recover() }()
			_ = postgres.InTx(ctx, pool, postgres.Scope{Operator: true}, func(pgx.Tx) error { panic("a bug") })
		}()
	case 6: // its caller leaves
		gone, cancel := context.WithTimeout(ctx, time.Duration(n%5)*200*time.Microsecond)
		defer cancel()
		_, _ = store.Session(gone, mine.tenant, mine.session.ID)
	case 7:
		caller, err := store.Authenticate(ctx, mine.secret)
		if err != nil || caller.Tenant.ID != mine.tenant {
			t.Errorf("Authenticate() = %s, %v", caller.Tenant.ID, err)
		}
	}
}

// Every method of the store that takes an id, with an id of another tenant.
func TestForeignIDs(t *testing.T) {
	t.Parallel()
	s := openService(t)
	a, b := s.furnish(t, "Acme"), s.furnish(t, "Bolt")
	ctx, by := t.Context(), tenants.System()
	storage := s.TokensOf(a.tenant, b.connection.ID)
	tokens, err := s.TokensOf(b.tenant, b.connection.ID).Tokens(ctx)
	ok(t, err)
	claim := prisma.Claim{Due: true, Current: tokens, Taken: tokens.ReadAt}
	forged := func(x tenants.Session) tenants.Session { x.Tenant = a.tenant; return x }
	operation := b.operation
	operation.Tenant = a.tenant
	cursor, err := s.Cursor(b.tenant, "connections", b.connection.ID)
	ok(t, err)
	second := func(_ any, err error) error { return err }

	tests := map[string]struct {
		call func() error
		want fault.Kind
	}{
		"Connection": {func() error { return second(s.Connection(ctx, a.tenant, b.connection.ID)) }, fault.NotFound},
		"Session":    {func() error { return second(s.Session(ctx, a.tenant, b.session.ID)) }, fault.NotFound},
		"RevokeKey":  {func() error { return second(s.RevokeKey(ctx, by, a.tenant, b.key.ID)) }, fault.NotFound},
		"RevokeKeyAndSuccessors": {func() error {
			return second(s.RevokeKeyAndSuccessors(ctx, by, a.tenant, b.key.ID))
		}, fault.NotFound},
		"Disconnect":  {func() error { return second(s.Disconnect(ctx, by, a.tenant, b.connection.ID)) }, fault.NotFound},
		"ParseCursor": {func() error { return second(s.ParseCursor(a.tenant, "connections", cursor)) }, fault.InvalidRequest},
		"NameWorkspace": {func() error {
			return s.NameWorkspace(ctx, a.tenant, b.connection.ID, "mine")
		}, fault.Internal},
		"ClaimCompletion": {func() error {
			return second(s.ClaimCompletion(ctx, by, a.tenant, b.returned.ID, b.completion, "user"))
		}, fault.NotFound},
		"StartSession": {func() error {
			return s.StartSession(ctx, by, forged(b.session), tenants.Start{State: "s", ClientID: clientID, RedirectURI: redirectURI})
		}, fault.NotFound},
		"ReturnSession": {func() error {
			return second(s.ReturnSession(ctx, by, forged(b.session), tenants.Return{State: "state", Code: "c", Verifier: "v"}))
		}, fault.NotFound},
		"EndSession": {func() error {
			ended, err := s.EndSession(ctx, by, forged(b.session), tenants.Ending{Status: tenants.SessionDenied}, tenants.SessionCreated)
			if ended {
				t.Error("EndSession ended another tenant's session")
			}
			return err
		}, fault.Internal},
		"FinishSession": {func() error {
			return second(s.FinishSession(ctx, by, forged(b.completing), clientID, tokens))
		}, fault.NotFound},
		"CreateSession to reconnect": {func() error {
			_, _, err := s.CreateSession(ctx, by, a.tenant, tenants.NewSession{
				UserID: "user", ReturnURL: returnURL, ConnectionID: b.connection.ID,
			})
			return err
		}, fault.NotFound},
		"BeginOperation": {func() error {
			return second(s.BeginOperation(ctx, a.tenant, tenants.NewOperation{
				Connection: b.connection.ID, Kind: tenants.OperationCreateProject, Lease: time.Minute,
			}))
		}, fault.NotFound},
		"RenewOperation": {func() error { return s.RenewOperation(ctx, operation, time.Hour) }, fault.OperationInProgress},
		"EndOperation": {func() error {
			return s.EndOperation(ctx, operation, tenants.OperationEnd{As: tenants.OperationFailed})
		}, fault.OperationInProgress},
		"NoteOperation": {func() error { return s.NoteOperation(ctx, operation, []byte(`{}`)) }, fault.OperationInProgress},
		"BeginLook": {func() error {
			_, due, err := s.BeginLook(ctx, tenants.Landing{Tenant: a.tenant, Operation: operation.ID}, time.Minute)
			if due {
				t.Error("BeginLook took another tenant's operation")
			}
			return err
		}, fault.Internal},
		"EndLook": {func() error { return s.EndLook(ctx, tenants.Look{Operation: operation}, true) }, fault.OperationInProgress},
		"Landed": {func() error {
			return s.Landed(ctx, by, tenants.Look{Operation: operation}, tenants.Made{Answer: []byte(`{}`)})
		}, fault.OperationInProgress},
		"ProjectUpdated": {func() error {
			return s.ProjectUpdated(ctx, by, tenants.ResourceChange{Tenant: a.tenant, Connection: b.connection.ID, ProjectID: "proj_1"})
		}, fault.NotFound},
		"BeginDeletion": {func() error {
			return second(s.BeginDeletion(ctx, tenants.ResourceChange{Tenant: a.tenant, Connection: b.connection.ID, ProjectID: "proj_1"}))
		}, fault.NotFound},
		"FinishDeletion": {func() error {
			told, err := s.FinishDeletion(ctx, by, tenants.ResourceChange{Tenant: a.tenant, Connection: b.connection.ID, DatabaseID: "db_old"})
			if told {
				t.Error("FinishDeletion told another tenant's deletion")
			}
			return err
		}, fault.Internal},
		"FinishOperation":      {func() error { return second(s.FinishOperation(ctx, by, operation, tenants.Made{ResourceID: "x"})) }, fault.NotFound},
		"Tokens":               {func() error { return second(storage.Tokens(ctx)) }, fault.NotFound},
		"Claim":                {func() error { return second(storage.Claim(ctx, tokens)) }, fault.NotFound},
		"SetTokens":            {func() error { return storage.SetTokens(ctx, tokens) }, fault.NotFound},
		"ClearTokens":          {func() error { return storage.ClearTokens(ctx) }, fault.Internal},
		"ClearTokensIfCurrent": {func() error { return storage.ClearTokensIfCurrent(ctx, tokens) }, fault.Internal},
		"Settle":               {func() error { return storage.Settle(ctx, claim, prisma.InvalidGrant) }, fault.Internal},
	}
	before, own := s.rows(t, b.tenant), s.rows(t, a.tenant)
	for name, tc := range tests {
		if err := tc.call(); fault.KindOf(err) != tc.want || err != nil && tc.want == fault.Internal {
			t.Errorf("%s: error = %v, want kind %q", name, err, tc.want)
		}
	}
	if err := storage.Save(ctx, claim, next(claim, "mine")); err == nil {
		t.Error("Save() stored a pair in another tenant's connection")
	}
	s.unchanged(t, "calls with its ids", b.tenant, before)
	s.unchanged(t, "calls with foreign ids", a.tenant, own)

	// What an absent id answers is what a foreign one does, to the letter.
	absent := tenants.ConnectionID{UUID: a.connection.ID.UUID}
	absent.UUID[15] ^= 1
	_, foreign := s.Connection(ctx, a.tenant, b.connection.ID)
	_, unknown := s.Connection(ctx, a.tenant, absent)
	if foreign.Error() != unknown.Error() {
		t.Errorf("a foreign id says %q, an unknown one %q", foreign, unknown)
	}
}

// Lists that take no id hold only the tenant's own, also with another's filter.
func TestListsHoldOwnRowsOnly(t *testing.T) {
	t.Parallel()
	s := openService(t)
	a, b := s.furnish(t, "Acme"), s.furnish(t, "Bolt")
	s.connect(t, b.tenant, "only at Bolt", s.pair(t, "2", "wksp_only_at_bolt"))
	for _, filter := range []tenants.ConnectionFilter{
		{}, {UserID: "only at Bolt"}, {WorkspaceID: "wksp_only_at_bolt"}, {Status: tenants.ConnectionActive}, {UserID: "user' OR true --"},
	} {
		filter.Limit = 100
		found, more, err := s.Connections(t.Context(), a.tenant, filter)
		ok(t, err)
		for _, c := range found {
			if c.Tenant != a.tenant {
				t.Errorf("%+v finds a connection of another tenant", filter)
			}
		}
		if more || len(found) > 1 {
			t.Errorf("%+v finds %d connections", filter, len(found))
		}
	}
	keys, err := s.Keys(t.Context(), a.tenant)
	ok(t, err)
	if len(keys) != 1 || keys[0].ID != a.key.ID {
		t.Errorf("Keys() = %v", keys)
	}
	// A shared grant is told as a yes or no, across tenants.
	for user, want := range map[string]bool{"user": true, "only at Bolt": false} {
		found, _, err := s.Connections(t.Context(), b.tenant, tenants.ConnectionFilter{UserID: user, Limit: 1})
		ok(t, err)
		if shared, err := s.GrantIsShared(t.Context(), found[0]); err != nil || shared != want {
			t.Errorf("GrantIsShared() of %q = %t, %v; want %t", user, shared, err, want)
		}
	}
}
