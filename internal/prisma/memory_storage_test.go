package prisma_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// claimed is a storage whose lease was just taken, and the claim.
func claimed(t *testing.T, tokens prisma.Tokens) (*prisma.MemoryStorage, prisma.Claim) {
	t.Helper()
	s := prisma.NewMemoryStorage(now, time.Minute)
	if err := s.SetTokens(t.Context(), tokens); err != nil {
		t.Fatal(err)
	}
	return s, claim(t, s)
}

// claim claims whatever is stored.
func claim(t *testing.T, s *prisma.MemoryStorage) prisma.Claim {
	t.Helper()
	stored, err := s.Tokens(t.Context())
	if err != nil {
		t.Fatalf("Tokens() error = %v", err)
	}
	stored.LateToo = true
	c, err := s.Claim(t.Context(), stored)
	if err != nil {
		t.Fatalf("Claim() error = %v", err)
	}
	return c
}

func TestMemoryStorageLease(t *testing.T) {
	t.Parallel()

	const valid, ended = 50 * time.Minute, 2 * time.Hour
	tests := map[string]struct {
		age  time.Duration
		then func(*testing.T, *prisma.MemoryStorage, prisma.Claim)
		due  bool // what a second claim finds
		held bool
	}{
		"taken":                       {ended, func(*testing.T, *prisma.MemoryStorage, prisma.Claim) {}, false, true},
		"not sent":                    {valid, settle(prisma.NotSent), true, false},
		"misconfigured":               {valid, settle(prisma.Misconfigured), true, false},
		"unknown, access token valid": {valid, settle(prisma.Unknown), false, false},
		"unknown, access token ended": {ended, settle(prisma.Unknown), true, false},
		"holder gone, access token valid": {valid, func(*testing.T, *prisma.MemoryStorage, prisma.Claim) {
			time.Sleep(time.Minute)
		}, false, false},
		"holder gone, access token ended": {ended, func(*testing.T, *prisma.MemoryStorage, prisma.Claim) {
			time.Sleep(time.Minute)
		}, true, false},
		"saved": {ended, func(t *testing.T, s *prisma.MemoryStorage, c prisma.Claim) {
			t.Helper()
			for range 2 { // the second time as after an unknown commit
				if err := s.Save(t.Context(), c, pair("fresh", 0)); err != nil {
					t.Errorf("Save() error = %v", err)
				}
			}
		}, true, false},
		"settled after a reconnect": {ended, func(t *testing.T, s *prisma.MemoryStorage, c prisma.Claim) {
			t.Helper()
			if err := s.SetTokens(t.Context(), pair("new", 0)); err != nil {
				t.Error(err)
			}
			settle(prisma.InvalidGrant)(t, s, c)
		}, true, false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s, first := claimed(t, pair("r", tc.age))
				if !first.Due || first.Held || first.Current.Refresh != "r" || !first.Taken.Equal(now()) {
					t.Fatalf("first claim = %+v", first)
				}
				tc.then(t, s, first)
				if c := claim(t, s); c.Due != tc.due || c.Held != tc.held {
					t.Errorf("second claim: due %t, held %t; want %t, %t", c.Due, c.Held, tc.due, tc.held)
				}
			})
		})
	}
}

func settle(outcome prisma.Outcome) func(*testing.T, *prisma.MemoryStorage, prisma.Claim) {
	return func(t *testing.T, s *prisma.MemoryStorage, c prisma.Claim) {
		t.Helper()
		if err := s.Settle(t.Context(), c, outcome); err != nil {
			t.Errorf("Settle() error = %v", err)
		}
	}
}

// TestMemoryStorageKeepsSuspicion: an exchange that was not sent does not clear one
// before it that may have been. The clock is set back to see it.
func TestMemoryStorageKeepsSuspicion(t *testing.T) {
	t.Parallel()

	issued := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	clock := issued.Add(50 * time.Minute)
	s := prisma.NewMemoryStorage(func() time.Time { return clock }, time.Minute)
	tokens := prisma.Tokens{Access: "a", Refresh: "r", IssuedAt: issued, ExpiresAt: issued.Add(time.Hour)}
	if err := s.SetTokens(t.Context(), tokens); err != nil {
		t.Fatal(err)
	}
	settle(prisma.Unknown)(t, s, claim(t, s))
	clock = issued.Add(59*time.Minute + 30*time.Second)
	second := claim(t, s)
	settle(prisma.NotSent)(t, s, second)
	clock = issued.Add(55 * time.Minute)
	if third := claim(t, s); !second.Due || third.Due || third.Held {
		t.Errorf("due near the end: %t, after that earlier: %t; want only the first", second.Due, third.Due)
	}
}

func TestMemoryStorageFences(t *testing.T) {
	t.Parallel()

	s, c := claimed(t, pair("r", 2*time.Hour))
	if err := s.ClearTokens(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(t.Context(), c, pair("fresh", 0)); !errors.Is(err, prisma.ErrSuperseded) {
		t.Errorf("Save() after ClearTokens: error = %v, want ErrSuperseded", err)
	}
	if _, err := s.Claim(t.Context(), c.Current); fault.KindOf(err) != fault.NotFound {
		t.Errorf("Claim() error = %v, want kind %q", err, fault.NotFound)
	}
	if err := s.SetTokens(t.Context(), pair("again", 0)); err != nil {
		t.Fatal(err)
	}
	if err := s.Save(t.Context(), c, pair("fresh", 0)); !errors.Is(err, prisma.ErrSuperseded) {
		t.Errorf("Save() after a new login: error = %v, want ErrSuperseded", err)
	}
	if err := s.ClearTokensIfCurrent(t.Context(), c.Current); err != nil {
		t.Fatal(err)
	}
	got, err := s.Tokens(t.Context())
	if err != nil || got.Refresh != "again" || got.Generation != 2 {
		t.Errorf("stored = %v, %v; want the new login as generation 2", got, err)
	}
	if err := s.ClearTokensIfCurrent(t.Context(), got); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Tokens(t.Context()); fault.KindOf(err) != fault.NotFound {
		t.Errorf("Tokens() error = %v, want kind %q", err, fault.NotFound)
	}
}
