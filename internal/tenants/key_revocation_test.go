package tenants_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

// mustRevoke ends a key alone.
func (s *service) mustRevoke(t *testing.T, tenant tenants.TenantID, id tenants.KeyID) {
	t.Helper()
	_, err := s.RevokeKey(t.Context(), tenants.System(), tenant, id)
	ok(t, err)
}

// stolen is a key, and what somebody made out of it who found it: each key made the next,
// and only the last is live.
func (s *service) stolen(t *testing.T, tenant tenants.TenantID, rotations int) (key tenants.Key, chain []tenants.Rotation) {
	t.Helper()
	key, _ = s.key(t, tenant, time.Time{})
	last := key.ID
	for range rotations {
		made := s.rotate(t, tenant, last)
		if !s.live(t, made.Secret) {
			t.Error("the successor does not let its holder in")
		}
		chain, last = append(chain, made), made.Key.ID
		s.db.Advance(t, tenants.KeyOverlap)
	}
	return key, chain
}

func idsOf(keys []tenants.Key) []tenants.KeyID {
	ids := make([]tenants.KeyID, 0, len(keys))
	for _, k := range keys {
		ids = append(ids, k.ID)
	}
	return ids
}

// Whoever revokes a key learns which keys come from it and go on, however many that have
// ended lie in between.
func TestRevokeKeyTellsItsSuccessors(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	by := tenants.System()
	key, chain := s.stolen(t, tenant, 3)
	s.mustRevoke(t, tenant, chain[1].Key.ID)
	live, err := s.RevokeKey(t.Context(), by, tenant, key.ID)
	ok(t, err)
	if want := []tenants.KeyID{chain[2].Key.ID}; !slices.Equal(idsOf(live), want) {
		t.Errorf("RevokeKey() tells of %v, want %v", idsOf(live), want)
	}
	if !s.live(t, chain[2].Secret) {
		t.Error("revoking one key ended its successor as well")
	}
	alone, _ := s.key(t, tenant, time.Time{})
	if live, err = s.RevokeKey(t.Context(), by, tenant, alone.ID); err != nil || len(live) != 0 {
		t.Errorf("of a key that made none: %v, %v", live, err)
	}
	if live, err = s.RevokeKey(t.Context(), by, tenant, chain[2].Key.ID); err != nil || len(live) != 0 {
		t.Errorf("of the last of a chain: %v, %v", live, err)
	}
}

// A key that leaked ends with all that was made out of it, and with nothing else.
func TestRevokeKeyAndSuccessors(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant, other := s.tenant(t, "Acme").ID, s.tenant(t, "Bolt").ID
	by := tenants.System()
	key, chain := s.stolen(t, tenant, 2)
	third := s.rotate(t, tenant, chain[1].Key.ID) // beside the second, which goes on for a day
	_, own := s.key(t, tenant, time.Time{})
	_, err := s.RevokeKeyAndSuccessors(t.Context(), by, other, key.ID)
	wantKind(t, "another tenant's key", err, fault.NotFound)
	if !s.live(t, third.Secret) {
		t.Fatal("another tenant ended a key")
	}

	ended, err := s.RevokeKeyAndSuccessors(t.Context(), by, tenant, key.ID)
	ok(t, err)
	if want := []tenants.KeyID{chain[1].Key.ID, third.Key.ID}; !slices.Equal(idsOf(ended), want) {
		t.Errorf("ended %v, want %v", idsOf(ended), want)
	}
	if s.live(t, chain[1].Secret) || s.live(t, third.Secret) || !s.live(t, own) {
		t.Error("what came from the key goes on, or what did not has ended")
	}
	rows := list[string](t, s, `SELECT target || coalesce(' of ' || (details->>'successorOf'), '') FROM audit_log
		WHERE tenant_id = $1 AND action = 'api_key.revoke' ORDER BY sequence`, tenant)
	of := " of " + key.ID.String()
	if want := []string{key.ID.String(), chain[0].Key.ID.String() + of, chain[1].Key.ID.String() + of, third.Key.ID.String() + of}; !slices.Equal(rows, want) {
		t.Errorf("the audit log has %v, want %v", rows, want)
	}
	if ended, err = s.RevokeKeyAndSuccessors(t.Context(), by, tenant, key.ID); err != nil || len(ended) != 0 {
		t.Errorf("a second time: %v, %v", ended, err)
	}
	s.gapless(t, tenant)
}

// A rotation at the same moment, of any key of the chain, does not get away.
func TestRevokeKeyAndSuccessorsWhileTheyRotate(t *testing.T) {
	t.Parallel()
	s := openService(t)
	tenant := s.tenant(t, "Acme").ID
	for range 10 {
		key, chain := s.stolen(t, tenant, 1)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				last := chain[0].Key.ID
				for range 3 {
					made, err := s.RotateKey(t.Context(), tenants.System(), tenant, last, tenants.NewRotation{})
					if err != nil {
						if fault.KindOf(err) != fault.Unauthorized && fault.KindOf(err) != fault.Conflict {
							t.Error(err)
						}
						return
					}
					last = made.Key.ID
				}
			})
		}
		all.Go(func() {
			if _, err := s.RevokeKeyAndSuccessors(t.Context(), tenants.System(), tenant, key.ID); err != nil {
				t.Error(err)
			}
		})
		all.Wait()
		if n := one[int](t, s, `SELECT count(*) FROM api_keys
			WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > app.now())`); n != 0 {
			t.Fatalf("%d keys of the chain go on", n)
		}
	}
}
