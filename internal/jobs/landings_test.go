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
