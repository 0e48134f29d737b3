package jobs_test

import (
	"context"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/jobs"
	"github.com/connect-prisma/server/internal/provisioning"
)

// looker tells when it is asked to look.
type looker chan struct{}

func (l looker) LookForLandings(context.Context) (provisioning.Landings, error) {
	select {
	case l <- struct{}{}:
	default:
	}
	return provisioning.Landings{Looked: 1}, nil
}

func TestLandingsAreLookedForAgainAndAgain(t *testing.T) {
	t.Parallel()
	s := openService(t)
	looks := make(looker, 2)
	runner := s.runner(t, jobs.Config{Landings: looks, LandingsEvery: time.Second})
	ok(t, runner.Start(t.Context()))
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for n := range 2 {
		select {
		case <-looks:
		case <-limit.C:
			t.Fatalf("%d looks in %s, want 2", n, patience)
		}
	}
}

// stuck is a look that ends with its channel.
type stuck chan struct{}

func (s stuck) LookForLandings(context.Context) (provisioning.Landings, error) {
	<-s
	return provisioning.Landings{}, nil
}

// While Prisma hangs, looks that hang with it take no other job's place.
func TestLandingsTakeNobodysPlace(t *testing.T) {
	t.Parallel()
	s := openService(t)
	hangs := make(stuck)
	defer close(hangs)
	runner := s.runner(t, jobs.Config{Landings: hangs, LandingsEvery: 100 * time.Millisecond, SweepEvery: 100 * time.Millisecond})
	ok(t, runner.Start(t.Context()))
	limit := time.NewTimer(patience)
	defer limit.Stop()
	for one[int](t, s, `SELECT count(*)::int FROM river.river_job WHERE kind = 'late_landings'`) < 15 {
		select {
		case <-s.swept: // as often as a job is stored
		case <-limit.C:
			t.Fatal("no job runs any more")
		}
	}
	s.session(t, "user")
	s.db.Advance(t, time.Hour)
	for ended := 0; ended != 1; {
		ended = receive(t, "a sweep beside looks that hang", s.swept)
	}
}
