package postgres_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/connect-prisma/server/internal/postgres"
)

// now stands still while anybody works: it is of a synctest bubble.
func now() time.Time {
	return time.Now() //nolint:forbidigo // this is the injected clock
}

// A tenant whose queries all hang has its places and no more; others don't notice, and
// who waits for one of its own comes in, or is told in time.
func TestShares(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, slow, other := postgres.NewShares(), uuid.New(), uuid.New()
		const most = 3
		enter := func(of uuid.UUID) (leave func()) {
			t.Helper()
			leave, err := s.Enter(t.Context(), of, most)
			if err != nil {
				t.Fatal(err)
			}
			return leave
		}
		var leaves []func()
		for range most {
			leaves = append(leaves, enter(slow))
		}
		began := now()
		if _, err := s.Enter(t.Context(), slow, most); !errors.Is(err, postgres.ErrBusy) || time.Since(began) != 2*time.Second {
			t.Errorf("one more: %v after %s, want ErrBusy after 2 s", err, time.Since(began))
		}
		began = now()
		enter(other)()
		if time.Since(began) > 0 {
			t.Error("another tenant waits")
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.Enter(gone, slow, most); !errors.Is(err, context.Canceled) || errors.Is(err, postgres.ErrBusy) {
			t.Errorf("a caller that has left: %v", err)
		}
		go func() {
			time.Sleep(time.Second) // of the bubble
			leaves[0]()
		}()
		leave := enter(slow)
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("who waits comes in after %s, want a second", waited)
		}
		leave()
		for _, leave := range leaves[1:] {
			leave()
		}
		if s.Members() != 0 {
			t.Error("something is kept of tenants that came and went")
		}
	})
}
