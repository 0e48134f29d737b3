package tenants_test

import (
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/storagetest"
	"github.com/connect-prisma/server/internal/tenants"
)

// The storage of a connection does what every token storage must, with each value a
// store of its own, as of another replica.
func TestTokenStorageConformance(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(t *testing.T) storagetest.Setup {
		t.Helper()
		l := openLeased(t)
		process := storagetest.NewClock(clock)
		advance := func(t *testing.T, by time.Duration) {
			t.Helper()
			l.db.Advance(t, by)
			process.Advance(t, by)
		}
		return storagetest.Setup{
			Storage: l.TokenStorage,
			Other: func(t *testing.T) prisma.TokenStorage {
				t.Helper()
				return l.store(t, tenants.Config{Pool: l.db.Pool}).TokensOf(l.owner, l.id)
			},
			Now:     process.Now,
			Advance: advance,
			Die:     func(t *testing.T) { t.Helper(); advance(t, leaseFor) },
			Final:   true, // a user who disconnected makes a new connection
		}
	})
}
