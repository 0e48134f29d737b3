package tenants_test

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

func (s *service) key(t *testing.T, tenant tenants.TenantID, expires time.Time, scopes ...tenants.Scope) (tenants.Key, string) {
	t.Helper()
	if scopes == nil {
		scopes = tenants.AllScopes()
	}
	key, secret, err := s.CreateKey(t.Context(), tenants.System(), tenant, "backend", scopes, expires)
	ok(t, err)
	return key, secret
}

func TestKeyForm(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	form := regexp.MustCompile(`^cpk_[a-z2-7]{52}_[a-z2-7]{7}$`)
	seen := map[string]bool{}
	for range 20 {
		key, secret := s.key(t, tenant, time.Time{})
		if !form.MatchString(secret) || seen[secret] || !strings.HasPrefix(secret, key.Hint) || len(key.Hint) > 8 {
			t.Fatal("a key is not of the form that leak scanners look for, or its hint says too much")
		}
		seen[secret] = true
	}
}

// queries counts what a pool asks the database.
type queries struct{ n atomic.Int64 }

func (q *queries) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	q.n.Add(1)
	return ctx
}

func (*queries) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A mistyped key is refused by its checksum, before anybody is asked.
func TestMistypedKeyCostsNoQuery(t *testing.T) {
	t.Parallel()
	s := openService(t)
	_, secret := s.key(t, s.tenant(t, "Acme").ID, time.Time{})
	cfg, err := pgxpool.ParseConfig(s.db.AppURL)
	if err != nil {
		t.Fatal("the test database's URL can't be parsed")
	}
	count := &queries{}
	cfg.ConnConfig.Tracer = count
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	ok(t, err)
	t.Cleanup(pool.Close)
	store := s.store(t, tenants.Config{Pool: pool})

	_, right := store.Authenticate(t.Context(), secret)
	ok(t, right)
	if count.n.Load() == 0 {
		t.Fatal("the tracer counts nothing")
	}
	mistyped := []string{
		"", "cpk_", secret + "a", secret[1:], secret[:len(secret)-1], strings.ToUpper(secret), " " + secret, secret + "\n",
		strings.Replace(secret, "cpk_", "cpx_", 1), strings.Repeat("a", 1<<20), "Bearer " + secret,
		secret[:len(secret)-8] + "-" + secret[len(secret)-7:],
	}
	for i := range secret { // each of its characters, mistyped
		other := byte('a')
		if secret[i] == other {
			other = 'b'
		}
		mistyped = append(mistyped, secret[:i]+string(other)+secret[i+1:])
	}
	for i := range len(secret) - 1 { // two neighbours, swapped
		if secret[i] != secret[i+1] {
			mistyped = append(mistyped, secret[:i]+secret[i+1:i+2]+secret[i:i+1]+secret[i+2:])
		}
	}
	before := count.n.Load()
	for i, key := range mistyped {
		_, err := store.Authenticate(t.Context(), key)
		if fault.KindOf(err) != fault.Unauthorized {
			t.Errorf("mistyped key %d: error = %v, want unauthorized", i, err)
		}
	}
	if n := count.n.Load() - before; n != 0 {
		t.Errorf("%d mistyped keys cost %d queries, want 0", len(mistyped), n)
	}
}

func TestAuthenticate(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	paused := s.tenant(t, "Bolt").ID
	ctx, by := t.Context(), tenants.System()

	key, secret := s.key(t, tenant, time.Time{}, tenants.ScopeRead, tenants.ScopeConnect)
	caller, err := s.Authenticate(ctx, secret)
	ok(t, err)
	if caller.Tenant.ID != tenant || caller.Tenant.Name != "Acme" || caller.Key != key.ID ||
		!slices.Equal(caller.Tenant.ReturnURLs, []string{returnURL}) {
		t.Errorf("Authenticate() = %+v", caller)
	}
	for _, scope := range tenants.AllScopes() {
		if want := scope == tenants.ScopeRead || scope == tenants.ScopeConnect; caller.May(scope) != want {
			t.Errorf("May(%s) = %t, want %t", scope, caller.May(scope), want)
		}
	}

	_, unknown := s.key(t, tenant, time.Time{})
	s.sql(t, `UPDATE api_keys SET key_hash = sha256('other') WHERE id <> $1`, key.ID)
	revokedKey, revoked := s.key(t, tenant, time.Time{})
	for range 2 {
		s.mustRevoke(t, tenant, revokedKey.ID)
	}
	_, expired := s.key(t, tenant, s.now(t).Add(time.Minute))
	_, err = s.Authenticate(ctx, expired)
	ok(t, err)
	s.db.Advance(t, time.Minute)
	_, asleep := s.key(t, paused, time.Time{})
	yes := true
	_, err = s.UpdateTenant(ctx, by, paused, tenants.TenantChange{Paused: &yes})
	ok(t, err)

	_, malformed := s.Authenticate(ctx, "cpk_malformed")
	for name, secret := range map[string]string{"unknown": unknown, "revoked": revoked, "expired": expired, "paused": asleep} {
		got, err := s.Authenticate(ctx, secret)
		if fault.KindOf(err) != fault.Unauthorized || err.Error() != malformed.Error() {
			t.Errorf("%s key: error = %v, want the one of a malformed key: %v", name, err, malformed)
		}
		if got.Tenant.ID != (tenants.TenantID{}) && got.Tenant.Name != "" {
			t.Errorf("%s key: the refusal names the tenant", name)
		}
	}
	_, err = s.Authenticate(ctx, secret)
	ok(t, err) // another key of the same tenant goes on
	no := false
	_, err = s.UpdateTenant(ctx, by, paused, tenants.TenantChange{Paused: &no})
	ok(t, err)
	_, err = s.Authenticate(ctx, asleep)
	ok(t, err)
	_, err = s.RevokeKey(ctx, by, paused, key.ID)
	wantKind(t, "RevokeKey() of an unknown key", err, fault.NotFound)
}

// Uses are noted, but not with a write per request.
func TestLastUse(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	key, secret := s.key(t, tenant, time.Time{})
	used := func() time.Time {
		keys, err := s.Keys(t.Context(), tenant)
		ok(t, err)
		if len(keys) != 1 || keys[0].ID != key.ID || keys[0].Name != "backend" || keys[0].Hint != key.Hint ||
			len(keys[0].Scopes) != 4 || !keys[0].ExpiresAt.IsZero() || !keys[0].RevokedAt.IsZero() {
			t.Fatalf("Keys() = %+v", keys)
		}
		return keys[0].LastUsedAt
	}
	use := func() {
		_, err := s.Authenticate(t.Context(), secret)
		ok(t, err)
	}
	if !used().IsZero() {
		t.Error("a new key has been used")
	}
	use()
	first := used()
	if first.IsZero() {
		t.Fatal("a use is not noted")
	}
	version := one[string](t, s, `SELECT xmin::text FROM api_keys`)
	for range 10 {
		use()
	}
	if got := one[string](t, s, `SELECT xmin::text FROM api_keys`); got != version || !used().Equal(first) {
		t.Error("uses within the same minute write the row again")
	}
	s.db.Advance(t, 61*time.Second)
	var all sync.WaitGroup
	for range 20 {
		all.Go(use)
	}
	all.Wait()
	if got := used().Sub(first); got < time.Minute || got > 2*time.Minute {
		t.Errorf("the later use is noted %s after the first", got)
	}
	// One that writes the same row at the moment holds nobody up.
	tx, err := s.admin.Begin(t.Context())
	ok(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	_, err = tx.Exec(t.Context(), `SELECT FROM api_keys FOR UPDATE`)
	ok(t, err)
	s.db.Advance(t, 61*time.Second)
	use()
}

func TestCreateKeyRefuses(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	all := tenants.AllScopes()
	tests := map[string]struct {
		tenant tenants.TenantID
		name   string
		scopes []tenants.Scope
		want   fault.Kind
	}{
		"no name":         {tenant, "", all, fault.InvalidValue},
		"a long name":     {tenant, strings.Repeat("a", 121), all, fault.InvalidValue},
		"a hidden name":   {tenant, "back\u202eend", all, fault.InvalidValue},
		"no scope":        {tenant, "backend", nil, fault.InvalidValue},
		"another scope":   {tenant, "backend", []tenants.Scope{"read", "root"}, fault.InvalidValue},
		"another tenant":  {tenants.TenantID{}, "backend", all, fault.NotFound},
		"everything fits": {tenant, strings.Repeat("é", 120), all, fault.Internal},
	}
	for name, tc := range tests {
		_, _, err := s.CreateKey(t.Context(), tenants.System(), tc.tenant, tc.name, tc.scopes, time.Time{})
		wantKind(t, name, err, tc.want)
	}
	if n := one[int](t, s, `SELECT count(*) FROM api_keys`); n != 1 {
		t.Errorf("%d keys were made, want 1", n)
	}
}
