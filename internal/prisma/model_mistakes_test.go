package prisma_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
)

// The mistakes: each is the real storage with one rule broken.

// ownerFenced lets only the holder of the lease save.
type ownerFenced struct {
	*prisma.MemoryStorage

	taken time.Time
}

func (s *ownerFenced) Claim(ctx context.Context, refused prisma.Tokens) (prisma.Claim, error) {
	claim, err := s.MemoryStorage.Claim(ctx, refused)
	if claim.Due {
		s.taken = claim.Taken
	}
	return claim, err
}

func (s *ownerFenced) Save(ctx context.Context, claim prisma.Claim, fresh prisma.Tokens) error {
	lease := prisma.RefreshSettings{}.WithDefaults().Lease
	if !claim.Taken.Equal(s.taken) || now().Sub(claim.Taken) > lease {
		return prisma.ErrSuperseded
	}
	return s.MemoryStorage.Save(ctx, claim, fresh)
}

// impatient presents a token of unknown outcome again at once.
type impatient struct{ *prisma.MemoryStorage }

func (s impatient) Claim(ctx context.Context, refused prisma.Tokens) (prisma.Claim, error) {
	refused.ExpiresAt = refused.ReadAt
	return s.MemoryStorage.Claim(ctx, refused)
}

// hasty presents a token for a third time while the lease of the second one runs.
type hasty struct {
	*prisma.MemoryStorage

	retried map[string]bool
}

func (s hasty) Claim(ctx context.Context, refused prisma.Tokens) (prisma.Claim, error) {
	claim, err := s.MemoryStorage.Claim(ctx, refused)
	if claim.Held && s.retried[claim.Current.Refresh] && !claim.Current.ExpiresAt.After(now()) {
		claim.Taken = now()
		claim.Held, claim.Due, claim.Late = false, true, true
	}
	if claim.Due && claim.Late {
		s.retried[claim.Current.Refresh] = true
	}
	return claim, err
}

// unfenced saves whatever comes.
type unfenced struct{ *prisma.MemoryStorage }

func (s unfenced) Save(ctx context.Context, _ prisma.Claim, fresh prisma.Tokens) error {
	return s.SetTokens(ctx, fresh)
}

// lax saves also onto a later generation than the one that was exchanged.
type lax struct{ *prisma.MemoryStorage }

func (s lax) Save(ctx context.Context, claim prisma.Claim, fresh prisma.Tokens) error {
	err := s.MemoryStorage.Save(ctx, claim, fresh)
	if stored, e := s.Tokens(ctx); errors.Is(err, prisma.ErrSuperseded) && e == nil &&
		stored.Generation > claim.Current.Generation {
		return s.SetTokens(ctx, fresh)
	}
	return err
}

// forgetful clears what is stored when any token turns out to be dead.
type forgetful struct{ *prisma.MemoryStorage }

func (s forgetful) Settle(ctx context.Context, claim prisma.Claim, outcome prisma.Outcome) error {
	if outcome == prisma.InvalidGrant {
		return s.ClearTokens(ctx)
	}
	return s.MemoryStorage.Settle(ctx, claim, outcome)
}

// TestModelCatchesMistakes: the model is worth something only if it notices.
func TestModelCatchesMistakes(t *testing.T) {
	t.Parallel()

	tests := map[string]struct {
		wrap func(*prisma.MemoryStorage) modelStorage
		want []string // one of these is broken
	}{
		"lease shorter than the exchange": {
			func(*prisma.MemoryStorage) modelStorage { return prisma.NewMemoryStorage(now, 20*time.Second) }, []string{"I1", "I2"},
		},
		"fenced by owner": {
			func(s *prisma.MemoryStorage) modelStorage { return &ownerFenced{MemoryStorage: s} }, []string{"I6"},
		},
		"early replay": {
			func(s *prisma.MemoryStorage) modelStorage { return impatient{s} }, []string{"I2"},
		},
		"a second late retry before the lease of the first has ended": {
			func(s *prisma.MemoryStorage) modelStorage { return hasty{s, map[string]bool{}} }, []string{"I1", "I2"},
		},
		"save without generation": {
			func(s *prisma.MemoryStorage) modelStorage { return unfenced{s} }, []string{"I5", "I6"},
		},
		"save onto any later generation": {
			func(s *prisma.MemoryStorage) modelStorage { return lax{s} }, []string{"I5", "I6"},
		},
		"clear without compare": {
			func(s *prisma.MemoryStorage) modelStorage { return forgetful{s} }, []string{"I5", "I6"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := play(t, 1, modelSchedules, tc.wrap)
			if m == nil {
				t.Fatalf("not caught in %d schedules", modelSchedules)
			}
			caught := false
			for _, want := range tc.want {
				caught = caught || strings.HasPrefix(m.violations[0], want)
			}
			if !caught {
				t.Errorf("caught as something else:\n%s", m.report())
			}
			t.Logf("caught by schedule %d: %s", m.seed, m.violations[0])
		})
	}
}
