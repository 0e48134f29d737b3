package tenants_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// everything calls every method of the store that works in a tenant's scope, so that
// each of its statements runs at least once.
func everything(t *testing.T, s *service) {
	t.Helper()
	f := s.furnish(t, "Acme")
	s.everyKey(t, f)
	s.everySession(t, f)
	s.everyConnection(t, f)
	s.everyOperation(t, f)
	s.everyRefresh(t, f)
	s.everyLedger(t, f)
	ok(t, s.Wait(t.Context()))
}

// do returns a function that fails the test with the error of a call, whatever else
// the call returns.
func do(t *testing.T) func(results ...any) {
	t.Helper()
	return func(results ...any) {
		t.Helper()
		if err, failed := results[len(results)-1].(error); failed {
			t.Error(err)
		}
	}
}

func (s *service) everyKey(t *testing.T, f furnished) {
	t.Helper()
	ctx, by, do := t.Context(), tenants.System(), do(t)
	do(s.Authenticate(ctx, f.secret))
	do(s.RotateKey(ctx, by, f.tenant, f.key.ID, usualRotation()))
	rotated, err := s.RotateKey(ctx, by, f.tenant, f.key.ID, usualRotation())
	do(err)
	do(s.RevokeKey(ctx, by, f.tenant, f.key.ID))
	do(s.RotateKey(ctx, by, f.tenant, rotated.Key.ID, usualRotation()))
	do(s.RevokeKeyAndSuccessors(ctx, by, f.tenant, rotated.Key.ID))
	do(s.KeyUses(ctx))
	text, err := sealing.PromoteKeys(s.text)
	do(err)
	promoted, err := sealing.Parse(text, "test")
	do(err)
	token := "sealed with the other key"
	_, err = s.with(t, promoted).UpdateTenant(ctx, by, f.tenant, tenants.TenantChange{ServiceToken: &token})
	do(err)
	do(s.Rewrap(ctx, by, nil))
	do(s.Keys(ctx, f.tenant))
	do(s.Key(ctx, f.tenant, f.key.ID))
	name := "Acme Inc"
	do(s.UpdateTenant(ctx, by, f.tenant, tenants.TenantChange{Name: &name}))
	do(s.Tenants(ctx))
	do(s.OAuthClientOf(ctx, f.tenant))
	do(s.ServiceToken(ctx, f.tenant))
	do(s.BorrowBudget(ctx, f.tenant, tenants.BudgetRequests, tenants.Rate{PerSecond: 1, Burst: 2}, 1))
}

func (s *service) everySession(t *testing.T, f furnished) {
	t.Helper()
	ctx, by, do := t.Context(), tenants.System(), do(t)
	do(s.SessionByLink(ctx, f.link))
	do(s.SessionByID(ctx, f.session.ID))
	do(s.EndSession(ctx, by, f.session, tenants.Ending{Status: tenants.SessionDenied}, tenants.SessionCreated))
	do(s.ClaimCompletion(ctx, by, f.tenant, f.returned.ID, f.completion, f.returned.UserID))
	s.created(t, f.tenant, tenants.NewSession{ConnectionID: f.connection.ID})
	s.db.Advance(t, time.Hour)
	do(s.SweepSessions(ctx))
}

func (s *service) everyConnection(t *testing.T, f furnished) {
	t.Helper()
	ctx, by, do := t.Context(), tenants.System(), do(t)
	do(s.Connection(ctx, f.tenant, f.connection.ID))
	do(s.Connections(ctx, f.tenant, tenants.ConnectionFilter{UserID: "user", Limit: 10}))
	do(s.TenantConnections(ctx, f.tenant, 10))
	do(s.CountConnections(ctx))
	do(s.GrantIsShared(ctx, f.connection))
	do(s.NameWorkspace(ctx, f.tenant, f.connection.ID, "Main"))
	do(s.ChangeMetadata(ctx, by, f.tenant, f.connection.ID, pairs("plan", "pro")))
	c, _, err := s.BeginCheck(ctx, f.tenant, f.connection.ID)
	do(err)
	s.sql(t, `UPDATE connections SET status = 'suspect', updated_at = app.now() - interval '1 day' WHERE id = $1`, c.ID)
	do(s.EndCheck(ctx, by, c, tenants.FindingWorks))
	do(s.UnusedConnections(ctx, time.Hour, nil))
	do(s.BeginTending(ctx, tenants.Tended{Tenant: f.tenant, Connection: c.ID}, time.Hour))
	call, err := s.BeginCall(ctx, by, f.tenant, tenants.OutgoingCall{Connection: c.ID, Operation: "createProject"})
	do(err)
	do(s.EndCall(ctx, by, call, tenants.CallResult{Outcome: "done", Status: 201}))
	s.connect(t, f.tenant, "user", s.pair(t, "again", "wksp_1")) // a reconnect
	gone := s.connect(t, f.tenant, "gone", s.pair(t, "gone", "wksp_1"))
	do(s.Disconnect(ctx, by, f.tenant, gone.ID))
	done, err := s.Import(ctx, by, []tenants.ImportLine{importLine(1, f.tenant, "imported")})
	do(err)
	do(s.TokensOf(f.tenant, done[0].Connection).Tokens(ctx)) // its workspace gets its name
	do(s.Wait(ctx))
}

func (s *service) everyOperation(t *testing.T, f furnished) {
	t.Helper()
	ctx, by, do := t.Context(), tenants.System(), do(t)
	begin := func(key string) tenants.Operation {
		op, err := s.BeginOperation(ctx, f.tenant, tenants.NewOperation{
			Connection: f.connection.ID, Kind: tenants.OperationCreateDatabase, Key: key, Lease: time.Minute,
		})
		do(err)
		return op
	}
	op := begin("first")
	do(s.HasOperation(ctx, f.tenant, op.Kind, "first", [32]byte{}))
	do(s.RenewOperation(ctx, op, time.Minute))
	do(s.NoteOperation(ctx, op, []byte(`{}`)))
	s.everyUse(t, f, op)
	made := tenants.Made{
		ResourceID: "db_1", Answer: []byte(`{}`), Secret: "postgres://", DatabaseID: "db_1", ProjectID: "proj_1", CredentialsID: "con_1",
	}
	do(s.FinishOperation(ctx, by, op, made))
	begin("first")
	changed := tenants.ResourceChange{Tenant: f.tenant, Connection: f.connection.ID, DatabaseID: "db_1"}
	do(s.DatabaseUpdated(ctx, by, changed))
	s.everyDeletion(t, f, changed)
	for _, gone := range []tenants.ResourceChange{
		{CredentialsID: "con_1"}, {ProjectID: "proj_1", DatabaseIDs: []string{"db_0"}},
	} {
		do(s.FinishOperation(ctx, by, begin(uuid.NewString()), made))
		s.everyDeletion(t, f, gone)
	}
	do(s.ProjectUpdated(ctx, by, changed))
	s.everyLook(t, begin("lost"))
	made.ResourceID, made.DatabaseID = "db_2", "db_2"
	do(s.FinishOperation(ctx, by, begin("later"), made))
	s.db.Advance(t, 61*time.Minute)
	begin("later") // without its secret
	do(s.EraseSecrets(ctx))
	do(s.ForgetString(ctx, f.tenant, "con_1"))
	do(s.ForgetStringsOf(ctx, f.tenant, []string{"db_1"}))
	op = begin("second")
	do(s.EndOperation(ctx, op, tenants.OperationEnd{As: tenants.OperationUnknown}))
	s.connect(t, f.tenant, f.connection.UserID, prisma.Tokens{WorkspaceID: f.connection.WorkspaceID, Access: "again", Refresh: "again"})
	op = begin("second")
	do(s.UsedElsewhere(ctx, op, "con_1"))
	do(s.FinishOperation(ctx, by, op, made))
	s.db.Advance(t, 8*24*time.Hour)
	begin("second") // a new one by its name
}

// everyUse uses something, condemns something else, and finds each of them taken.
func (s *service) everyUse(t *testing.T, f furnished, op tenants.Operation) {
	t.Helper()
	ctx, by, do := t.Context(), tenants.System(), do(t)
	use := func(ids ...string) error {
		_, err := s.BeginCall(ctx, by, f.tenant, tenants.OutgoingCall{Connection: f.connection.ID, Operation: "updateDatabase", Uses: ids})
		return err
	}
	do(use("db_used"))
	for id, want := range map[string]bool{"db_used": false, "db_double": true} {
		if condemned, err := s.Condemn(ctx, op, []string{id}); err != nil || condemned != want {
			t.Errorf("%s is condemned: %t, %v", id, condemned, err)
		}
	}
	if err := use("db_double"); fault.KindOf(err) != fault.Conflict {
		t.Errorf("a double is used while it is deleted: %v", err)
	}
	do(s.ForgetUses(ctx))
}

// everyDeletion deletes something, after a call that did not.
func (s *service) everyDeletion(t *testing.T, f furnished, gone tenants.ResourceChange) {
	t.Helper()
	ctx, by, do := t.Context(), tenants.System(), do(t)
	gone.Tenant, gone.Connection = f.tenant, f.connection.ID
	begun, err := s.BeginDeletion(ctx, gone)
	do(err)
	do(s.CancelDeletion(ctx, begun))
	do(s.BeginDeletion(ctx, gone))
	s.db.Advance(t, time.Minute)
	do(s.DeletionsInDoubt(ctx))
	if told, err := s.FinishDeletion(ctx, by, gone); err != nil || !told {
		t.Errorf("a deletion was not told: %v", err)
	}
	do(s.ForgetDeletions(ctx))
}

// everyLook looks for what an operation made whose outcome is unknown: in vain, with
// success, and for doubles.
func (s *service) everyLook(t *testing.T, op tenants.Operation) {
	t.Helper()
	ctx, by, do := t.Context(), tenants.System(), do(t)
	do(s.EndOperation(ctx, op, tenants.OperationEnd{As: tenants.OperationUnknown}))
	made := tenants.Made{ResourceID: "db_3", Answer: []byte(`{}`), DatabaseID: "db_3", ProjectID: "proj_3", MayLand: true}
	do(s.EndLook(ctx, s.look(t, op), true))
	do(s.Landed(ctx, by, s.look(t, op), made))
	do(s.FinishOperation(ctx, by, s.look(t, op).Operation, made))
	do(s.EndLook(ctx, s.look(t, op), true))
}

// look takes the right to look for what an operation made.
func (s *service) look(t *testing.T, op tenants.Operation) tenants.Look {
	t.Helper()
	s.db.Advance(t, 10*time.Minute)
	ok(t, s.ShortenWaits(t.Context(), time.Minute))
	_, err := s.LandingsToLookFor(t.Context())
	ok(t, err)
	look, due, err := s.BeginLook(t.Context(), tenants.Landing{Tenant: op.Tenant, Operation: op.ID}, time.Minute)
	ok(t, err)
	if !due {
		t.Error("no look is due")
	}
	return look
}

func (s *service) everyRefresh(t *testing.T, f furnished) {
	t.Helper()
	ctx, do := t.Context(), do(t)
	var last tenants.ConnectionID
	fresh := func(user string) (*tenants.TokenStorage, prisma.Tokens) {
		t.Helper()
		last = s.connect(t, f.tenant, user, s.pair(t, user, "wksp_1")).ID
		storage := s.TokensOf(f.tenant, last)
		tokens, err := storage.Tokens(t.Context())
		do(err)
		return storage, tokens
	}
	claimed := func(user string) (*tenants.TokenStorage, prisma.Claim) {
		storage, tokens := fresh(user)
		claim, err := storage.Claim(ctx, tokens)
		do(err)
		if !claim.Due {
			t.Errorf("the refresh of %s is not due", user)
		}
		return storage, claim
	}
	saved, claim := claimed("saved")
	for range 2 { // the second finds that it is there
		do(saved.Save(ctx, claim, next(claim, "next")))
		do(s.Wait(ctx)) // one statement at a time: the mutant holds up what runs beside
	}
	do(saved.SetTokens(ctx, s.pair(t, "set", "wksp_1")))
	s.everySpool(t, f, last, claim)
	for user, outcome := range map[string]prisma.Outcome{
		"unknown": prisma.Unknown, "not sent": prisma.NotSent, "dead": prisma.InvalidGrant,
	} {
		storage, claim := claimed(user)
		do(storage.Settle(ctx, claim, outcome))
	}
	cleared, tokens := fresh("cleared")
	do(cleared.ClearTokensIfCurrent(ctx, tokens))
	do(cleared.ClearTokens(ctx))
	// One whose lease has ended without a word, long ago.
	storage, claim := claimed("late")
	s.db.Advance(t, 5*time.Minute)
	do(storage.Claim(ctx, claim.Current)) // suspect
	s.db.Advance(t, time.Hour)
	do(storage.Claim(ctx, claim.Current)) // once more
	secret := "next"
	do(s.UpdateTenant(ctx, tenants.System(), f.tenant, tenants.TenantChange{NextSecret: &secret}))
	if adopted, err := s.AdoptClientSecret(ctx, tenants.System(), f.tenant, tenants.OAuthClient{ID: clientID, Secret: secret}); err != nil || !adopted {
		t.Errorf("AdoptClientSecret() = %t, %v", adopted, err)
	}
	// One whose client was replaced.
	c := s.connect(t, f.tenant, "replaced", s.pair(t, "replaced", "wksp_1"))
	connection := s.PrismaConnection(f.tenant, c.ID)
	do(connection.Client(ctx))
	s.db.Advance(t, 2*time.Hour) // its access token is over
	do(s.UpdateTenant(ctx, tenants.System(), f.tenant, tenants.TenantChange{Client: &tenants.OAuthClient{ID: "another"}}))
	if _, err := connection.Client(ctx); fault.KindOf(err) != fault.ReconnectRequired {
		t.Errorf("a replaced client: %v", err)
	}
}

// everySpool leaves a pair in a spool that is stored later, and one whose generation
// has been passed.
func (s *service) everySpool(t *testing.T, f furnished, moved tenants.ConnectionID, passed prisma.Claim) {
	t.Helper()
	ctx, do := t.Context(), do(t)
	c := s.connect(t, f.tenant, "spooled", s.pair(t, "spooled", "wksp_1"))
	tokens, err := s.TokensOf(f.tenant, c.ID).Tokens(ctx)
	do(err)
	claim, err := s.TokensOf(f.tenant, c.ID).Claim(ctx, tokens)
	do(err)
	dir := t.TempDir()
	spool := openSpool(t, dir, s.Store)
	do(spool.Keep(ctx, s.PrismaConnection(f.tenant, c.ID), claim, next(claim, "spooled")))
	do(spool.Keep(ctx, s.PrismaConnection(f.tenant, moved), passed, next(passed, "passed")))
	spool.die()
	openSpool(t, dir, s.Store).replay(t, tenants.Replayed{Stored: 1, Superseded: 1})
	do(s.Wait(ctx))
}

func (s *service) everyLedger(t *testing.T, f furnished) {
	t.Helper()
	ctx, do := t.Context(), do(t)
	do(s.AuditEntries(ctx, f.tenant, tenants.AuditFilter{Limit: 10}))
	do(s.AuditEntries(ctx, f.tenant, tenants.AuditFilter{From: time.Unix(0, 0), Limit: 10}))
	do(s.CheckpointLedger(ctx, time.Hour))
	do(s.FoldLedger(ctx, 0))
	// Audit rows of an earlier version, which chained none: the next row covers them, or a job.
	unchained := func() {
		s.sql(t, `UPDATE tenant_sequences SET audit = audit + 1 WHERE tenant_id = $1`, f.tenant)
		s.sql(t, `INSERT INTO audit_log (tenant_id, sequence, actor_type, action, target)
			SELECT tenant_id, audit, 'system', 'tenant.update', '' FROM tenant_sequences WHERE tenant_id = $1`, f.tenant)
	}
	unchained()
	do(s.AdoptAudit(ctx))
	unchained()
	s.created(t, f.tenant, tenants.NewSession{})
	do(s.VerifyLedger(ctx, tenants.LedgerCheck{}, func(tenants.LedgerFinding) {}))
}

// noTenants are the files whose statements have to do with no tenant's rows, or with
// those of all.
var noTenants = map[string]string{
	"admins.go":     "people who run the service",
	"admin_log.go":  "what they did",
	"fence.go":      "which database this is",
	"fence_mark.go": "whether it is the one of before",
	"replicas.go":   "which processes run",
}

// coverage fails the test for each line of this package that runs a statement and did
// not do so: a method that is added later can't be forgotten.
func (m *mutant) coverage(t *testing.T) {
	t.Helper()
	files := token.NewFileSet()
	looked := 0
	names, err := filepath.Glob("*.go")
	ok(t, err)
	for _, name := range names {
		if _, exempt := noTenants[name]; exempt || strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, name, nil, 0)
		ok(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			call, isCall := n.(*ast.CallExpr)
			if !isCall || !runsSQL(call) {
				return true
			}
			looked++
			for line := files.Position(call.Pos()).Line; line <= files.Position(call.End()).Line; line++ {
				if m.sites[name+":"+strconv.Itoa(line)] {
					return true
				}
			}
			t.Errorf("%s never ran here: have everything call it", files.Position(call.Pos()))
			return true
		})
	}
	if looked < 90 {
		t.Errorf("found %d lines that run statements, want 90 at least", looked)
	}
	t.Logf("%d lines run statements, all took part", looked)
}

// runsSQL tells the calls that send a statement.
func runsSQL(call *ast.CallExpr) bool {
	fun, isSelector := call.Fun.(*ast.SelectorExpr)
	if !isSelector || len(call.Args) < 2 {
		return false
	}
	from, _ := fun.X.(*ast.Ident)
	switch fun.Sel.Name {
	case "Exec", "Query", "QueryRow":
		return true
	case "read": // that of the store; helpers of that name have a transaction
		tx, _ := call.Args[1].(*ast.Ident)
		return tx == nil || tx.Name != "tx"
	case "Read", "ReadFound", "SendBatch":
		return from == nil || from.Name != "rand" && from.Name != "io"
	}
	return false
}
