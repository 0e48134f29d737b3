package tenants_test

import (
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

// A database that takes no writes, as after a failover, must not shut readers out:
// the use of a key is worth noting, and no more.
func TestAKeyWorksOnAReadOnlyDatabase(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	_, secret, err := s.CreateKey(t.Context(), tenants.System(), tenant, "key", tenants.AllScopes(), time.Time{})
	ok(t, err)
	readOnly := s.store(t, tenants.Config{Pool: openPool(t, s.db.AppURL+"&default_transaction_read_only=on", 2, nil)})
	caller, err := readOnly.Authenticate(t.Context(), secret)
	if err != nil || caller.Tenant.ID != tenant {
		t.Errorf("Authenticate() = %s, %v", caller.Tenant.ID, err)
	}
	if keys, err := s.Keys(t.Context(), tenant); err != nil || !keys[0].LastUsedAt.IsZero() {
		t.Errorf("the database was not read-only: last used %v, %v", keys, err)
	}
}

// A refresh token is never for another client. The connection says so once its
// access token is over, and not before.
func TestAReplacedClientEndsAConnectionWithItsAccessToken(t *testing.T) {
	t.Parallel()
	s := openService(t)
	ctx := t.Context()
	tenant := s.tenant(t, "Acme").ID
	c := s.connect(t, tenant, "user", s.pair(t, "1", "wksp_1"))
	_, err := s.UpdateTenant(ctx, tenants.System(), tenant, tenants.TenantChange{Client: &tenants.OAuthClient{ID: "another"}})
	ok(t, err)

	_, err = s.PrismaConnection(tenant, c.ID).Client(ctx)
	wantKind(t, "the client of a refresh", err, fault.ReconnectRequired)
	if got, err := s.Connection(ctx, tenant, c.ID); err != nil || got.Status != tenants.ConnectionActive {
		t.Errorf("while its access token lives it is %s, %v", got.Status, err)
	}
	s.db.Advance(t, 61*time.Minute)
	for range 2 {
		_, err = s.PrismaConnection(tenant, c.ID).Client(ctx)
		wantKind(t, "the client of a refresh", err, fault.ReconnectRequired)
	}
	got, err := s.Connection(ctx, tenant, c.ID)
	if err != nil || got.Status != tenants.ConnectionNeedsReconnect || got.Reason != tenants.ReasonClientReplaced {
		t.Errorf("after it the connection is %s (%s), %v", got.Status, got.Reason, err)
	}
	var events int
	ok(t, s.admin.QueryRow(ctx, `SELECT count(*) FROM events WHERE type = $1`, tenants.EventNeedsReconnect).Scan(&events))
	if events != 1 {
		t.Errorf("%d events, want 1", events)
	}
}
