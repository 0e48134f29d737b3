package prisma_test

import (
	"path/filepath"
	"testing"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/storagetest"
)

func TestFileStorageConformance(t *testing.T) {
	t.Parallel()
	storagetest.Run(t, func(t *testing.T) storagetest.Setup {
		t.Helper()
		clock := storagetest.NewClock(now)
		path := filepath.Join(t.TempDir(), "credentials.json")
		open := func(t *testing.T) *prisma.FileStorage {
			t.Helper()
			s, err := prisma.NewFileStorage(prisma.FileStorageConfig{Path: path, Now: clock.Now})
			if err != nil {
				t.Fatalf("NewFileStorage() error = %v", err)
			}
			return s
		}
		s := open(t)
		return storagetest.Setup{
			Storage: s,
			Other:   func(t *testing.T) prisma.TokenStorage { t.Helper(); return open(t) },
			Now:     clock.Now,
			Advance: clock.Advance,
			Die: func(t *testing.T) {
				t.Helper()
				if err := s.Close(); err != nil {
					t.Errorf("Close() error = %v", err)
				}
			},
		}
	})
}
