package prisma_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// A late retry is claimed, and before it is sent the user connects again, or leaves: the
// old token stays where it is.
func TestALateRetryThatIsOvertaken(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		meanwhile func(t *testing.T, s *storage)
		want      string // the access token that the caller gets; "": none
		kind      fault.Kind
	}{
		"the user connects again": {func(t *testing.T, s *storage) {
			t.Helper()
			if err := s.SetTokens(t.Context(), pair("new", 0)); err != nil {
				t.Error(err)
			}
		}, "access-new", ""},
		"the user leaves": {func(t *testing.T, s *storage) {
			t.Helper()
			if err := s.ClearTokens(t.Context()); err != nil {
				t.Error(err)
			}
		}, "", fault.NotFound},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := newAuthServer(0, "r", "new")
				s := newStorage(t, pair("r", 2*time.Hour))
				stored, err := s.Tokens(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				claim, err := s.MemoryStorage.Claim(t.Context(), stored)
				if err != nil || !claim.Due {
					t.Fatalf("Claim() = due %t, %v", claim.Due, err)
				}
				if err := s.MemoryStorage.Settle(t.Context(), claim, prisma.Unknown); err != nil {
					t.Fatal(err)
				}
				claims := 0
				s.claimed = func() error {
					if claims++; claims == 2 { // the first one only asks
						tc.meanwhile(t, s)
					}
					return nil
				}
				got, err := newRefresher(t, server).AccessToken(t.Context(), connection("c", s))
				if got.Access != tc.want || tc.want == "" && fault.KindOf(err) != tc.kind || tc.want != "" && err != nil {
					t.Errorf("AccessToken() = %q, %v; want %q, kind %q", got.Access, err, tc.want, tc.kind)
				}
				if calls, _, _ := server.counts(); calls != 0 || claims != 2 {
					t.Errorf("%d exchanges after %d claims; want none after 2", calls, claims)
				}
			})
		})
	}
}

// That the pair can't be read before it is sent is no reason to send it, and the token is
// not suspected any further for it.
func TestALateRetryThatCannotLookAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		server := newAuthServer(0, "r")
		s := newStorage(t, pair("r", 2*time.Hour))
		blind := &blindStorage{storage: s}
		stored, err := s.Tokens(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		claim, err := s.MemoryStorage.Claim(t.Context(), stored)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.MemoryStorage.Settle(t.Context(), claim, prisma.Unknown); err != nil {
			t.Fatal(err)
		}
		r := newRefresher(t, server)
		_, err = r.AccessToken(t.Context(), connection("c", blind))
		if calls, _, _ := server.counts(); !errors.Is(err, errStorage) || calls != 0 {
			t.Errorf("AccessToken() = %v after %d exchanges; want the storage's error and none", err, calls)
		}
		time.Sleep(2 * time.Minute)
		if got, err := r.AccessToken(t.Context(), connection("c", s)); err != nil || got.Access != "access-r.1" {
			t.Errorf("AccessToken() = %q, %v; want the late retry's", got.Access, err)
		}
	})
}

// blindStorage can be read once.
type blindStorage struct {
	*storage

	reads int
}

func (s *blindStorage) Tokens(ctx context.Context) (prisma.Tokens, error) {
	if s.reads++; s.reads > 1 {
		return prisma.Tokens{}, errStorage
	}
	return s.storage.Tokens(ctx)
}
