package prisma_test

import (
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/storagetest"
)

func TestMemoryStorageConformance(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(*testing.T) storagetest.Setup {
		const leaseFor = 3 * time.Minute
		clock := storagetest.NewClock(now)
		s := prisma.NewMemoryStorage(clock.Now, leaseFor)
		return storagetest.Setup{
			Storage: s,
			Other:   func(*testing.T) prisma.TokenStorage { return s },
			Now:     clock.Now,
			Advance: clock.Advance,
			Die:     func(t *testing.T) { t.Helper(); clock.Advance(t, leaseFor) },
		}
	})
}
