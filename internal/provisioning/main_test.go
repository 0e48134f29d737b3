package provisioning_test

import (
	"testing"

	"github.com/connect-prisma/server/internal/pgtest"
)

func TestMain(m *testing.M) {
	pgtest.Overlap(m)
	m.Run()
}
