package tenants_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// jwt is an access token with those claims.
func jwt(claims string) string {
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".c2ln"
}

func importLine(number int64, tenant tenants.TenantID, user string) tenants.ImportLine {
	return tenants.ImportLine{
		Number: number, Tenant: tenant, UserID: user, WorkspaceID: "wksp_1", Access: "access-" + user, Refresh: "refresh-" + user,
	}
}

func (s *service) imported(t *testing.T, lines ...tenants.ImportLine) []tenants.Imported {
	t.Helper()
	done, err := s.Import(t.Context(), tenants.Actor{Type: tenants.ActorCommand, ID: "root"}, lines)
	ok(t, err)
	if len(done) != len(lines) {
		t.Fatalf("%d answers to %d lines", len(done), len(lines))
	}
	return done
}

// A pair that is imported is a connection like any other, with its ledger, event and
// audit row; the same line again is that connection.
func TestImport(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant, other := s.tenant(t, "Acme").ID, s.tenant(t, "Bolt").ID
	lines := []tenants.ImportLine{importLine(1, tenant, "ada"), importLine(2, other, "ada-of-bolt"), importLine(3, tenant, "bob")}
	now := s.now(t)
	lines[0].ExpiresAt, lines[2].ExpiresAt = now.Add(30*time.Minute), now.Add(1000*time.Hour)
	first := s.imported(t, lines...)
	again := s.imported(t, lines...)
	for i := range first {
		want := first[i]
		if want.Already = true; again[i] != want || first[i].Already || first[i].Refused != "" {
			t.Errorf("line %d: %+v, then %+v", i+1, first[i], again[i])
		}
	}
	c, err := s.Connection(t.Context(), tenant, first[0].Connection)
	ok(t, err)
	if c.UserID != "ada" || c.WorkspaceID != "wksp_1" || c.ClientID != clientID || c.Status != tenants.ConnectionActive || c.Generation != 1 {
		t.Errorf("the connection is %+v", c)
	}
	if n := one[int](t, s, `SELECT count(*) FROM river.river_job`); n != 0 {
		t.Errorf("%d jobs would call Prisma", n)
	}
	tokens, err := s.TokensOf(tenant, c.ID).Tokens(t.Context())
	ok(t, err)
	if tokens.Access != "access-ada" || tokens.Refresh != "refresh-ada" || !tokens.ExpiresAt.Equal(lines[0].ExpiresAt.Truncate(time.Microsecond)) {
		t.Error("the stored pair is another one")
	}
	// Of unknown end: it has ended, and counts as a month old. Of an impossible one: a day.
	got := list[string](t, s, `SELECT concat_ws(' ', date_trunc('hour', access_expires_at - created_at + interval '1 minute'),
		justify_hours(date_trunc('hour', created_at - access_issued_at + interval '1 minute'))) FROM connections ORDER BY user_id`)
	if diff := cmp.Diff([]string{"00:00:00 00:00:00", "00:00:00 30 days", "1 day 00:00:00"}, got); diff != "" {
		t.Errorf("lives and ages (-want +got):\n%s", diff)
	}
	if events := s.events(t, tenant); len(events) != 2 || events[0] != tenants.EventConnected {
		t.Errorf("events %q", events)
	}
	if got := one[int](t, s, `SELECT count(*) FROM audit_log a JOIN events e ON e.tenant_id = a.tenant_id AND e.data = a.details
		WHERE a.action = 'connection.connected' AND a.actor_type = 'command' AND a.actor_id = 'root'
		  AND (a.details->>'imported')::boolean AND a.target = a.details->>'connectionId'`); got != 3 {
		t.Errorf("%d audit rows with their events, want 3", got)
	}
	s.gapless(t, tenant)
	if summary := s.proven(t); summary.Connections != 3 || summary.Rows != 3 {
		t.Errorf("%+v", summary)
	}
}

// Whose token is stored already, or whose place is taken, is refused, and nothing that is
// there changes. Keys may be rotated in between.
func TestImportRefuses(t *testing.T) {
	t.Parallel()
	text, err := sealing.Generate()
	ok(t, err)
	another, err := sealing.Generate()
	ok(t, err)
	newer, _ := withKey(t, text, another)
	s := openService(t)
	open := func(text string) {
		s.keyset, err = sealing.Parse(text, "test")
		ok(t, err)
		s.Store = s.store(t, tenants.Config{Pool: s.db.Pool})
	}
	open(text)
	tenant, other := s.tenant(t, "Acme").ID, s.tenant(t, "Bolt").ID
	shared, err := s.CreateTenant(t.Context(), tenants.System(), tenants.TenantInput{Name: "Shared", SharedClient: true, ReturnURLs: []string{returnURL}})
	ok(t, err)
	first := s.imported(t, importLine(1, tenant, "ada"), importLine(2, tenant, "gone"))
	ended := first[1].Connection
	_, err = s.Disconnect(t.Context(), tenants.System(), tenant, ended)
	ok(t, err)
	live := s.connect(t, tenant, "live", s.pair(t, "live", "wksp_1"))
	// Ada's pair was renewed since, and the rows of the old one are folded.
	l := &leased{service: s, TokenStorage: s.TokensOf(tenant, first[0].Connection), owner: tenant, id: first[0].Connection}
	l.exchange(t, "ada-2")
	open(newer)
	before := s.rows(t, tenant)
	with := func(number int64, tenant tenants.TenantID, user, workspace, refresh string) tenants.ImportLine {
		line := importLine(number, tenant, user)
		line.WorkspaceID, line.Refresh = workspace, refresh
		return line
	}
	tests := []struct {
		line tenants.ImportLine
		want string
	}{
		{with(1, other, "ada", "wksp_1", "refresh-ada"), "stored already, for another"},
		{with(2, tenant, "bob", "wksp_1", "refresh-ada"), "stored already, for another"},
		{with(3, tenant, "ada", "wksp_2", "refresh-ada"), "stored already, for another"},
		{with(4, other, "ada", "wksp_1", "refresh-ada-2"), "stored already, for another"},
		{with(5, other, "eve", "wksp_1", "refresh-live"), "stored already, for another"},
		{with(6, tenant, "ada", "wksp_1", "refresh-new"), "a live connection"},
		{with(7, tenant, live.UserID, "wksp_1", "refresh-new"), "a live connection"},
		{with(8, tenant, "gone", "wksp_1", "refresh-gone"), "was ended since"},
		{with(9, tenants.TenantID{UUID: live.ID.UUID}, "x", "wksp_1", "refresh-x"), "no such tenant"},
		{with(10, shared.ID, "x", "wksp_1", "refresh-x"), "PRISMA_CLIENT_ID is not set"},
		{with(11, tenant, "ada", "wksp_1", "refresh-ada"), ""},
	}
	lines := make([]tenants.ImportLine, 0, len(tests))
	for _, tc := range tests {
		lines = append(lines, tc.line)
	}
	for i, got := range s.imported(t, lines...) {
		if got.Number != int64(i+1) || !strings.Contains(got.Refused, tests[i].want) || (got.Refused == "") != (tests[i].want == "") {
			t.Errorf("line %d: %+v, want %q", i+1, got, tests[i].want)
		}
		if strings.Contains(got.Refused, "refresh-") || strings.Contains(fmt.Sprintf("%v %+v %#v", lines[i], lines[i], lines[i]), "refresh-") {
			t.Errorf("line %d shows a token", i+1)
		}
	}
	s.unchanged(t, "a refused import", tenant, before)
	// After its end the place is free for other tokens, and under the new key.
	if got := s.imported(t, with(1, tenant, "gone", "wksp_1", "refresh-fresh")); got[0].Refused != "" || got[0].Connection == ended {
		t.Errorf("%+v", got)
	}
	// Within one batch, too.
	got := s.imported(t, with(1, tenant, "twin", "wksp_1", "refresh-twin"), with(2, tenant, "twin", "wksp_1", "refresh-twin"),
		with(3, other, "twin", "wksp_1", "refresh-twin"), with(4, tenant, "twin", "wksp_1", "refresh-twin-2"))
	if got[0].Refused != "" || !got[1].Already || got[1].Connection != got[0].Connection ||
		!strings.Contains(got[2].Refused, "stored already") || !strings.Contains(got[3].Refused, "a live connection") {
		t.Errorf("%+v", got)
	}
	s.proven(t)
}

// Whoever first uses an imported connection has its workspace's name asked for: one of
// them, on whatever replica, and for no other connection.
func TestImportedWorkspaceIsNamedWithTheFirstUse(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	stored := s.imported(t, importLine(1, tenant, "ada"), importLine(2, tenant, "bob"))
	id := stored[0].Connection
	replicas := []*tenants.Store{s.Store, s.store(t, tenants.Config{Pool: s.db.Pool}), s.store(t, tenants.Config{Pool: s.db.Pool})}
	for range 2 { // at once, and later
		var all sync.WaitGroup
		for _, replica := range replicas {
			for range 5 {
				all.Go(func() {
					if _, err := replica.TokensOf(tenant, id).Tokens(t.Context()); err != nil {
						t.Error(err)
					}
				})
			}
		}
		all.Wait()
		for _, replica := range replicas {
			ok(t, replica.Wait(t.Context()))
		}
	}
	jobs := list[string](t, s, `SELECT args->>'connection' FROM river.river_job WHERE kind = 'name_workspace'`)
	if diff := cmp.Diff([]string{id.UUID.String()}, jobs); diff != "" {
		t.Errorf("jobs that ask for a name (-want +got):\n%s", diff)
	}
}

// Several imports of the same lines at once, and commits that are cut, store each once.
func TestImportsAtOnce(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	lines := make([]tenants.ImportLine, 0, 40)
	for i := range int64(40) {
		lines = append(lines, importLine(i+1, tenant, fmt.Sprintf("user-%d", i)))
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			wire := &cutter{}
			store := s.store(t, tenants.Config{Pool: openPool(t, s.db.AppURL, 1, wire)})
			wire.arm(2, true, true)
			for batch := range 4 {
				for tries := 0; ; tries++ {
					_, err := store.Import(t.Context(), tenants.System(), lines[batch*10:batch*10+10])
					if err == nil {
						break
					}
					if tries == 20 {
						t.Errorf("import: %v", err)
						break
					}
				}
			}
		})
	}
	all.Wait()
	if n := one[int](t, s, `SELECT count(*) FROM connections`); n != 40 {
		t.Errorf("%d connections of 40 lines", n)
	}
	for _, d := range s.imported(t, lines...) {
		if !d.Already {
			t.Errorf("%+v", d)
		}
	}
	s.gapless(t, tenant)
	s.proven(t)
}

func TestParseImportLine(t *testing.T) {
	t.Parallel()
	tenant := tenants.TenantID{UUID: tenants.ConnectionID{}.UUID}
	tenant.UUID[0] = 1
	const at = `"userId":"u","workspaceId":"wksp_1","refreshToken":"r-canary"`
	owner := `{"tenant":"` + tenant.String() + `",` + at
	expiring := jwt(`{"workspace_id":"wksp_1","iat":1750000000,"exp":1750003600}`)
	good := map[string]string{
		"opaque":        owner + `,"accessToken":"a"}`,
		"with a time":   owner + `,"accessToken":"a","accessTokenExpiresAt":"2026-03-01T12:00:00+01:00"}`,
		"of claims":     owner + `,"accessToken":"` + expiring + `"}`,
		"time and both": owner + `,"accessToken":"` + expiring + `","accessTokenExpiresAt":"2026-03-01T11:00:00Z"}`,
		"no tenant":     `{` + at + `,"accessToken":"a"}`,
	}
	at2026 := time.Date(2026, 3, 1, 11, 0, 0, 0, time.UTC)
	times := map[string][2]time.Time{
		"with a time": {{}, at2026}, "of claims": {time.Unix(1750000000, 0), time.Unix(1750003600, 0)},
		"time and both": {time.Unix(1750000000, 0), at2026},
	}
	for name, raw := range good {
		l, err := tenants.ParseImportLine([]byte(raw), tenant)
		if err != nil || l.Tenant != tenant || l.UserID != "u" || l.WorkspaceID != "wksp_1" || l.Refresh != "r-canary" {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
		if !l.IssuedAt.Equal(times[name][0]) || !l.ExpiresAt.Equal(times[name][1]) {
			t.Errorf("%s: issued %s, ends %s", name, l.IssuedAt, l.ExpiresAt)
		}
	}
	bad := map[string]string{
		"empty": ``, "a text": `"r-canary"`, "a list": `[]`, "half": owner + `,"accessToken":"a"`, "two": owner + `,"accessToken":"a"} {}`,
		"rubbish behind": owner + `,"accessToken":"a"}r-canary`, "a brace too many": owner + `,"accessToken":"a"}}`, "twice": owner + `,"accessToken":"a","accessToken":"a"}`,
		"unknown": owner + `,"accessToken":"a","r-canary":"x"}`, "a number": owner + `,"accessToken":1}`, "null": owner + `,"accessToken":null}`,
		"nested": owner + `,"accessToken":{"r-canary":"x"}}`, "no access token": owner + `}`, "the same": owner + `,"accessToken":"r-canary"}`,
		"control": owner + `,"accessToken":"a\u0000"}`, "a space": owner + `,"accessToken":"a b"}`, "too long": owner + `,"accessToken":"` + strings.Repeat("a", 17<<10) + `"}`,
		"far too long":   owner + `,"accessToken":"` + strings.Repeat("a", 70<<10) + `"}`,
		"no tenant id":   `{"tenant":"r-canary",` + at + `,"accessToken":"a"}`,
		"another's":      owner + `,"accessToken":"` + jwt(`{"workspace_id":"wksp_2"}`) + `"}`,
		"no time":        owner + `,"accessToken":"a","accessTokenExpiresAt":"r-canary"}`,
		"a time of old":  owner + `,"accessToken":"a","accessTokenExpiresAt":"0001-01-01T00:00:00Z"}`,
		"bidi user":      strings.Replace(owner, `"u"`, `"\u202eu"`, 1) + `,"accessToken":"a"}`,
		"path workspace": strings.Replace(owner, `"wksp_1"`, `"../x"`, 1) + `,"accessToken":"a"}`,
	}
	for name, raw := range bad {
		_, err := tenants.ParseImportLine([]byte(raw), tenant)
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := tenants.ParseImportLine([]byte(good["no tenant"]), tenants.TenantID{}); err == nil {
		t.Error("a line of no tenant is taken")
	}
}

func FuzzParseImportLine(f *testing.F) {
	f.Add([]byte(`{"tenant":"ten_x","userId":"u","workspaceId":"w","accessToken":"a","refreshToken":"r"}`))
	f.Add([]byte(`{"a":`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := tenants.ParseImportLine(raw, tenants.TenantID{})
		if err == nil && (l.Access == "" || l.Refresh == "" || l.UserID == "" || l.Tenant == tenants.TenantID{}) {
			t.Errorf("taken: %q", raw)
		}
	})
}
