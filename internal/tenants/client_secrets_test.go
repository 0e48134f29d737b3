package tenants_test

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

// storeNext stores the tenant's next client secret.
func (s *service) storeNext(t *testing.T, id tenants.TenantID, secret string) {
	t.Helper()
	changed, err := s.UpdateTenant(t.Context(), tenants.System(), id, tenants.TenantChange{NextSecret: &secret})
	ok(t, err)
	if stored, err := s.Tenant(t.Context(), id); err != nil || stored.NextSecret != (secret != "") || changed.NextSecret != stored.NextSecret {
		t.Errorf("NextSecret = %t, stored %t, %v", changed.NextSecret, stored.NextSecret, err)
	}
}

func (s *service) wantClient(t *testing.T, when string, id tenants.TenantID, want tenants.OAuthClient) {
	t.Helper()
	if got, err := s.OAuthClientOf(t.Context(), id); err != nil || got != want {
		t.Errorf("%s: the client is %q with %q and %q, %v; want %q with %q and %q", when,
			got.ID, got.Secret, got.NextSecret, err, want.ID, want.Secret, want.NextSecret)
	}
}

// The next secret becomes the current one by its own success alone.
func TestAdoptClientSecret(t *testing.T) {
	t.Parallel()
	s := openService(t)
	ctx, id := t.Context(), s.tenant(t, "Acme").ID
	adopt := func(client tenants.OAuthClient) bool {
		t.Helper()
		adopted, err := s.AdoptClientSecret(ctx, tenants.System(), id, client)
		ok(t, err)
		return adopted
	}
	old := tenants.OAuthClient{ID: clientID, Secret: "client-secret-Acme"}
	s.storeNext(t, id, "next")
	both := old
	both.NextSecret = "next"
	s.wantClient(t, "stored", id, both)
	for name, wrong := range map[string]tenants.OAuthClient{
		"the current one": old, "another": {ID: clientID, Secret: "n"}, "none": {ID: clientID}, "another client's": {ID: "x", Secret: "next"},
	} {
		if adopt(wrong) {
			t.Errorf("%s was adopted", name)
		}
	}
	s.wantClient(t, "after wrong ones", id, both)
	if !adopt(tenants.OAuthClient{ID: clientID, Secret: "next"}) || adopt(tenants.OAuthClient{ID: clientID, Secret: "next"}) {
		t.Error("the next secret was not adopted once")
	}
	s.wantClient(t, "adopted", id, tenants.OAuthClient{ID: clientID, Secret: "next"})
	if n := one[int](t, s, `SELECT count(*)::int FROM audit_log WHERE action = 'tenant.adopt_secret' AND tenant_id = $1`, id); n != 1 {
		t.Errorf("%d audit rows, want one", n)
	}

	s.storeNext(t, id, "third")
	s.storeNext(t, id, "")
	s.wantClient(t, "taken away", id, tenants.OAuthClient{ID: clientID, Secret: "next"})
	s.storeNext(t, id, "third")
	_, err := s.UpdateTenant(ctx, tenants.System(), id, tenants.TenantChange{Client: &tenants.OAuthClient{ID: "b", Secret: "b"}})
	ok(t, err)
	s.wantClient(t, "another client", id, tenants.OAuthClient{ID: "b", Secret: "b"})
}

// Replicas that adopt one secret, while an operator stores other ones: each step is taken
// once, and never back.
func TestAdoptClientSecretRaces(t *testing.T) {
	t.Parallel()
	s := openService(t)
	id := s.tenant(t, "Acme").ID
	for range 5 {
		s.storeNext(t, id, "a")
		var all sync.WaitGroup
		var adopted atomic.Int32
		for range 6 {
			all.Go(func() {
				yes, err := s.AdoptClientSecret(t.Context(), tenants.System(), id, tenants.OAuthClient{ID: clientID, Secret: "a"})
				if err != nil {
					t.Error(err)
				}
				if yes {
					adopted.Add(1)
				}
			})
		}
		b := "b"
		all.Go(func() {
			if _, err := s.UpdateTenant(t.Context(), tenants.System(), id, tenants.TenantChange{NextSecret: &b}); err != nil {
				t.Error(err)
			}
		})
		all.Wait()
		got, err := s.OAuthClientOf(t.Context(), id)
		ok(t, err)
		if got.NextSecret != "b" || (adopted.Load() == 1) != (got.Secret == "a") || adopted.Load() > 1 {
			t.Errorf("adopted %d times; the secrets are %q and %q", adopted.Load(), got.Secret, got.NextSecret)
		}
		reset := tenants.OAuthClient{ID: clientID, Secret: "s"}
		_, err = s.UpdateTenant(t.Context(), tenants.System(), id, tenants.TenantChange{Client: &reset})
		ok(t, err)
	}
}

func TestNextSecretIsRefused(t *testing.T) {
	t.Parallel()
	s := openService(t)
	shared, err := s.CreateTenant(t.Context(), tenants.System(), tenants.TenantInput{Name: "Shared", SharedClient: true})
	ok(t, err)
	public, err := s.CreateTenant(t.Context(), tenants.System(), tenants.TenantInput{Name: "Public", Client: tenants.OAuthClient{ID: "p"}})
	ok(t, err)
	own := s.tenant(t, "Acme")
	next, current := "next", "client-secret-Acme"
	for name, tc := range map[string]struct {
		id     tenants.TenantID
		change tenants.TenantChange
	}{
		"the installation's client": {shared.ID, tenants.TenantChange{NextSecret: &next}},
		"a public client":           {public.ID, tenants.TenantChange{NextSecret: &next}},
		"the current one":           {own.ID, tenants.TenantChange{NextSecret: &current}},
		"that of the same change":   {own.ID, tenants.TenantChange{Client: &tenants.OAuthClient{ID: "b", Secret: next}, NextSecret: &next}},
		"of a client made public":   {own.ID, tenants.TenantChange{Client: &tenants.OAuthClient{ID: "b"}, NextSecret: &next}},
	} {
		_, err := s.UpdateTenant(t.Context(), tenants.System(), tc.id, tc.change)
		wantKind(t, name, err, fault.InvalidValue)
	}
	s.wantClient(t, "after all", own.ID, tenants.OAuthClient{ID: clientID, Secret: current})
}

// The secrets of the shared client are settings: each process finds out for itself.
func TestAdoptSharedClientSecret(t *testing.T) {
	t.Parallel()
	s := openService(t)
	made, err := s.CreateTenant(t.Context(), tenants.System(), tenants.TenantInput{Name: "Acme", SharedClient: true})
	ok(t, err)
	shared := tenants.OAuthClient{ID: "shared", Secret: "old", NextSecret: "next"}
	store := s.store(t, tenants.Config{Pool: s.db.Pool, SharedClient: &shared})
	adopt := func(secret string) bool {
		adopted, err := store.AdoptClientSecret(t.Context(), tenants.System(), made.ID, tenants.OAuthClient{ID: "shared", Secret: secret})
		ok(t, err)
		return adopted
	}
	if adopt("old") || !adopt("next") || adopt("next") {
		t.Error("the next secret was not adopted, or not once")
	}
	if got, err := store.OAuthClientOf(t.Context(), made.ID); err != nil || got != (tenants.OAuthClient{ID: "shared", Secret: "next"}) {
		t.Errorf("OAuthClientOf() = %s with %q, %v", got.ID, got.Secret, err)
	}
}
