package tenants_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

func TestTenant(t *testing.T) {
	t.Parallel()
	s := openService(t)
	ctx, by := t.Context(), tenants.Actor{Type: tenants.ActorCommand}
	made := s.tenant(t, "Acme")
	if made.Name != "Acme" || made.Paused || made.Completion != tenants.CompletionCode || made.SharedClient ||
		made.OAuthClientID != clientID || !slices.Equal(made.ReturnURLs, []string{returnURL}) {
		t.Errorf("CreateTenant() = %+v", made)
	}
	client, err := s.OAuthClientOf(ctx, made.ID)
	ok(t, err)
	service, err := s.ServiceToken(ctx, made.ID)
	ok(t, err)
	if client != (tenants.OAuthClient{ID: clientID, Secret: "client-secret-Acme"}) || service != "service-token-Acme" {
		t.Errorf("client %s, with the right secret: %t, service token right: %t", client.ID,
			client.Secret == "client-secret-Acme", service == "service-token-Acme")
	}

	name, automatic, none := "Acme & Co.", tenants.CompletionAutomatic, ""
	urls := []string{"https://a.example/x", "https://b.example/y"}
	changed, err := s.UpdateTenant(ctx, by, made.ID, tenants.TenantChange{
		Name: &name, Completion: &automatic, ServiceToken: &none, ReturnURLs: urls,
	})
	ok(t, err)
	stored, err := s.Tenant(ctx, made.ID)
	ok(t, err)
	if diff := cmp.Diff(changed, stored); diff != "" {
		t.Errorf("UpdateTenant() and Tenant() differ (-update +stored):\n%s", diff)
	}
	if stored.Name != name || stored.Completion != automatic || !slices.Equal(stored.ReturnURLs, urls) {
		t.Errorf("Tenant() = %+v", stored)
	}
	client, err = s.OAuthClientOf(ctx, made.ID)
	ok(t, err)
	service, err = s.ServiceToken(ctx, made.ID)
	ok(t, err)
	if client.Secret != "client-secret-Acme" || service != "" {
		t.Errorf("the client's secret stayed: %t, the service token went: %t", client.Secret != "", service == "")
	}
	_, err = s.UpdateTenant(ctx, by, made.ID, tenants.TenantChange{Client: &tenants.OAuthClient{ID: "public"}})
	ok(t, err)
	client, err = s.OAuthClientOf(ctx, made.ID)
	ok(t, err)
	if client != (tenants.OAuthClient{ID: "public"}) {
		t.Error("the secret of the client before was kept for another one")
	}

	unknown := tenants.TenantID{UUID: uuid.Must(uuid.NewV7())}
	_, err = s.Tenant(ctx, unknown)
	wantKind(t, "Tenant()", err, fault.NotFound)
	_, err = s.UpdateTenant(ctx, by, unknown, tenants.TenantChange{Name: &name})
	wantKind(t, "UpdateTenant()", err, fault.NotFound)
}

func TestSharedClient(t *testing.T) {
	t.Parallel()
	s := openService(t)
	made, err := s.CreateTenant(t.Context(), tenants.System(), tenants.TenantInput{Name: "Acme", SharedClient: true})
	ok(t, err)
	if _, err := s.OAuthClientOf(t.Context(), made.ID); err == nil {
		t.Error("there is no shared client, and OAuthClientOf() finds one")
	}
	shared := tenants.OAuthClient{ID: "shared", Secret: "secret"}
	store := s.store(t, tenants.Config{Pool: s.db.Pool, SharedClient: &shared})
	if got, err := store.OAuthClientOf(t.Context(), made.ID); err != nil || got != shared {
		t.Errorf("OAuthClientOf() = %s, %v", got.ID, err)
	}
}

func TestCreateTenantRefuses(t *testing.T) {
	t.Parallel()
	s := openService(t)
	long := "https://a.example/" + strings.Repeat("x", 2048)
	tests := map[string]struct {
		change func(in *tenants.TenantInput)
		field  string
	}{
		"no name":               {func(in *tenants.TenantInput) { in.Name = "" }, "/name"},
		"a padded name":         {func(in *tenants.TenantInput) { in.Name = " Acme" }, "/name"},
		"a name in disguise":    {func(in *tenants.TenantInput) { in.Name = "Acme\u2066" }, "/name"},
		"no client":             {func(in *tenants.TenantInput) { in.Client.ID = "" }, "/clientId"},
		"two clients":           {func(in *tenants.TenantInput) { in.SharedClient = true }, "/clientId"},
		"an odd completion":     {func(in *tenants.TenantInput) { in.Completion = "later" }, "/completion"},
		"a bad restart URL":     {func(in *tenants.TenantInput) { in.RestartURL = "javascript:alert(1)" }, "/restartUrl"},
		"a bad return URL":      {func(in *tenants.TenantInput) { in.ReturnURLs = []string{returnURL, "http://a.example"} }, "/returnUrls/1"},
		"an endless return URL": {func(in *tenants.TenantInput) { in.ReturnURLs = []string{long} }, "/returnUrls/0"},
	}
	for name, tc := range tests {
		in := tenants.TenantInput{Name: "Acme", Client: tenants.OAuthClient{ID: "client"}}
		tc.change(&in)
		_, err := s.CreateTenant(t.Context(), tenants.System(), in)
		if fault.KindOf(err) != fault.InvalidValue || !slices.Contains(fields(err), tc.field) {
			t.Errorf("%s: error = %v at %v, want it at %s", name, err, fields(err), tc.field)
		}
	}
	if n := one[int](t, s, `SELECT count(*) FROM tenants`); n != 0 {
		t.Errorf("%d tenants were made", n)
	}
}

func TestCheckRegisteredURL(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]bool{
		"https://a.example/callback": true, "https://a.example": true, "https://a.example:8443/x?y=z": true,
		"http://localhost:3000/cb": true, "http://127.0.0.1/cb": true, "http://[::1]:8080/cb": true,
		"":                           false,
		"/callback":                  false,
		"//a.example/callback":       false,
		"https:a.example":            false,
		"https://":                   false,
		"https://:443/":              false,
		"http://a.example/":          false,
		"http://localhost.evil.test": false,
		"http://127.0.0.1.evil.test": false,
		"ftp://a.example/":           false,
		"javascript:alert(1)":        false,
		"data:text/html,x":           false,
		"https://user@a.example/":    false,
		"https://user:pw@a.example/": false,
		"https://a.example/#x":       false,
		"https://a.example/#":        false,
		`https://a.example\@evil`:    false,
		"https://a.example/\t":       false,
		"https://a.example/\r\nX: y": false,
		" https://a.example/":        false,
		"https://bücher.example/":    false,
		"https://a.example/%zz":      false,
	} {
		if got := tenants.CheckRegisteredURL(raw) == nil; got != want {
			t.Errorf("CheckRegisteredURL(%q) takes it = %t, want %t", raw, got, want)
		}
	}
}

// A change of a tenant and what its traffic writes down lock the same two rows, and
// must do it in an order that can't end in a deadlock.
func TestUpdateTenantUnderTraffic(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	// A transaction of the tenant's traffic, between numbering its event and writing it.
	traffic, err := s.admin.Begin(t.Context())
	ok(t, err)
	defer func() { _ = traffic.Rollback(t.Context()) }()
	_, err = traffic.Exec(t.Context(), `UPDATE tenant_sequences SET events = events + 1`)
	ok(t, err)
	updated := make(chan error, 1)
	go func() {
		yes := true
		_, err := s.UpdateTenant(t.Context(), tenants.System(), tenant, tenants.TenantChange{Paused: &yes})
		updated <- err
	}()
	s.waiting(t, 1)
	_, err = traffic.Exec(t.Context(), `SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '1s'`)
	ok(t, err)
	_, err = traffic.Exec(t.Context(), `INSERT INTO events (tenant_id, sequence, id, type, data)
		VALUES ($1, 1, gen_random_uuid(), 'a.b', '{}')`, tenant)
	if err != nil {
		t.Errorf("the event waits for the change of its tenant, which waits for the event: %v", err)
	}
	ok(t, traffic.Commit(t.Context()))
	if err := <-updated; err != nil {
		t.Errorf("UpdateTenant() = %v", err)
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	for range 100 {
		id := tenants.ConnectionID{UUID: uuid.Must(uuid.NewV7())}
		text := id.String()
		got, err := tenants.ParseConnectionID(text)
		if err != nil || got != id || len(text) != 30 {
			t.Errorf("ParseConnectionID(%s) = %s, %v", text, got, err)
		}
		for _, bad := range []string{
			"", "cnx_", text + "a", text[:29], strings.ToUpper(text), "cs_" + text[4:], text[4:], text[:29] + "1", text[:29] + "z", "cnx_" + id.UUID.String(),
		} {
			if got, err := tenants.ParseConnectionID(bad); err == nil && got.String() != bad {
				t.Errorf("ParseConnectionID(%q) takes a second spelling", bad)
			}
		}
		if _, err := tenants.ParseSessionID(text); err == nil {
			t.Error("a connection's id passes for a session's")
		}
	}
	tenant, key, session := tenants.TenantID{UUID: uuid.New()}, tenants.KeyID{UUID: uuid.New()}, tenants.SessionID{UUID: uuid.New()}
	if got, err := tenants.ParseTenantID(tenant.String()); err != nil || got != tenant {
		t.Errorf("ParseTenantID() = %s, %v", got, err)
	}
	if got, err := tenants.ParseKeyID(key.String()); err != nil || got != key {
		t.Errorf("ParseKeyID() = %s, %v", got, err)
	}
	if got, err := tenants.ParseSessionID(session.String()); err != nil || got != session {
		t.Errorf("ParseSessionID() = %s, %v", got, err)
	}
}

// Pages follow each other without a gap or a repeat, and a cursor holds for its own
// tenant and list alone.
func TestConnectionPages(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant, other := s.tenant(t, "Acme").ID, s.tenant(t, "Bolt").ID
	var want []string
	for _, workspace := range []string{"wksp_1", "wksp_2", "wksp_3", "wksp_4", "wksp_5"} {
		want = append(want, s.connect(t, tenant, "user", s.pair(t, workspace, workspace)).WorkspaceID)
	}
	var got []string
	filter := tenants.ConnectionFilter{Limit: 2}
	for more := true; more; {
		var page []tenants.Connection
		var err error
		page, more, err = s.Connections(t.Context(), tenant, filter)
		ok(t, err)
		for _, c := range page {
			got = append(got, c.WorkspaceID)
		}
		cursor, err := s.Cursor(tenant, "connections", page[len(page)-1].ID)
		ok(t, err)
		filter.After, err = s.ParseCursor(tenant, "connections", cursor)
		ok(t, err)
		for _, bad := range []string{cursor + "A", cursor[1:], "A" + cursor[1:], "!", strings.Repeat("A", 43)} {
			if _, err := s.ParseCursor(tenant, "connections", bad); bad != cursor && fault.KindOf(err) != fault.InvalidRequest {
				t.Errorf("ParseCursor() of an edited cursor: %v", err)
			}
		}
		_, err = s.ParseCursor(tenant, "connections?userId=user", cursor)
		wantKind(t, "the cursor of another list", err, fault.InvalidRequest)
		_, err = s.ParseCursor(other, "connections", cursor)
		wantKind(t, "the cursor of another tenant", err, fault.InvalidRequest)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("pages (-want +got):\n%s", diff)
	}
	if first, err := s.ParseCursor(tenant, "connections", ""); err != nil || first != (tenants.ConnectionID{}) {
		t.Errorf("ParseCursor of the first page = %s, %v", first, err)
	}
}
