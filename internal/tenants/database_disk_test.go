package tenants_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// The disk of the database is full: what can't be written down is not sent. When there is
// room again, the same process goes on.
func TestDatabaseDiskFull(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var fill func(m *moving)
	if err := mountSmall(t, c.home, "size=120m,mode=755"); err == nil {
		ok(t, os.Chown(c.home, int(c.as.Uid), int(c.as.Gid)))
		fill = func(m *moving) { fillDisk(t, c, m) }
	} else {
		t.Logf("no disk of its own (%v): the database takes no writes instead", err)
		fill = func(m *moving) { m.sql(t, `ALTER ROLE connect_app SET default_transaction_read_only = on`) }
	}
	c.copyPattern()
	c.start()
	m := openMoving(t, c)
	e := startTokenEndpoint(t, "refresh-1")
	refresher, connection := newRefresher(t, e), m.PrismaConnection(m.owner, m.id)
	m.sql(t, `UPDATE app.deployment SET clock_offset = clock_offset + interval '2 hours'`)
	fill(m)
	m.db.Pool.Reset()
	for range 10 {
		if _, err := refresher.AccessToken(t.Context(), connection); err == nil {
			t.Fatal("a token was renewed, and the database takes no writes")
		} else if fault.KindOf(err) == fault.ReconnectRequired {
			t.Fatal(err)
		}
	}
	if asked, _ := e.counts(); asked != 0 {
		t.Errorf("%d token requests while claims fail, want none", asked)
	}

	_ = os.Remove(filepath.Join(c.home, "ballast"))
	m.db.Pool.Reset()
	m.admin.Reset()
	c.stop(syscall.SIGQUIT) // it may be stopped already, or try in vain
	c.start()
	m.move(c)
	m.sql(t, `ALTER ROLE connect_app RESET default_transaction_read_only`)
	m.db.Pool.Reset()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	pace := time.NewTicker(100 * time.Millisecond)
	defer pace.Stop()
	var tokens prisma.Tokens
	for err := errors.New("not asked yet"); err != nil; {
		select {
		case <-limit.C:
			t.Fatalf("there is room again, and still: %v", err)
		case <-pace.C:
			tokens, err = refresher.AccessToken(t.Context(), connection)
		}
	}
	if asked, replays := e.counts(); tokens.Access != "access-of-exchange-1" || asked != 1 || replays != 0 {
		t.Errorf("afterwards %s, with %d token requests and %d replays", tokens.Access, asked, replays)
	}
}

// fillDisk fills the disk, and the log's files that were there before, until the server
// takes no write.
func fillDisk(t *testing.T, c *cluster, m *moving) {
	t.Helper()
	ballast, err := os.Create(filepath.Join(c.home, "ballast"))
	ok(t, err)
	for full := err; full == nil; {
		_, full = ballast.Write(make([]byte, 1<<16))
	}
	ok(t, ballast.Close())
	for range 1000 {
		if _, err := m.admin.Exec(t.Context(), `SELECT pg_logical_emit_message(true, 'fill', repeat('x', 100000))`); err != nil {
			t.Logf("the server says: %v", err)
			return
		}
	}
	t.Fatal("the server takes writes on a full disk: the test shows nothing")
}
