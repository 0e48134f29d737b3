package tenants_test

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// failoverHold is how long the processes below watch a failover. The servers of these
// tests are older by their own clock, or it is the test's subject.
const failoverHold = time.Millisecond

// moving is a connection in a cluster that its processes can be led away from.
type moving struct {
	*leased

	at  *server
	now *testClock
	dir string // of the marks; "": none are kept
}

// openMoving returns a connection whose late retry would be due.
func openMoving(t *testing.T, c *cluster) *moving {
	t.Helper()
	text, err := sealing.Generate()
	ok(t, err)
	m := &moving{at: &server{}, now: newClock()}
	m.at.is(c)
	s := &service{db: &pgtest.Database{AppURL: c.url("connect_app", "connect"), AdminURL: c.url("postgres", "connect")}}
	s.keyset, err = sealing.Parse(text, "test")
	ok(t, err)
	s.db.Pool = openMovable(t, s.db.AppURL, m.at)
	s.admin = openMovable(t, s.db.AdminURL, m.at)
	s.Store = m.process(t, s)
	l := &leased{service: s, owner: s.tenant(t, "Acme").ID}
	l.id = s.connect(t, l.owner, "user", s.pair(t, "1", "wksp_1")).ID
	l.TokenStorage = s.TokensOf(l.owner, l.id)
	m.leased = l
	return m
}

// process returns the store of a process that is started now.
func (m *moving) process(t *testing.T, s *service) *tenants.Store {
	t.Helper()
	return s.store(t, tenants.Config{
		Pool: openMovable(t, s.db.AppURL, m.at), Hold: failoverHold, Now: m.now.Now, Environment: "test", FenceDir: m.dir,
	})
}

// move leads every process to another server.
func (m *moving) move(to *cluster) {
	m.at.is(to)
	m.admin.Reset()
	m.db.Pool.Reset()
}

// beat beats until the process has a connection to where the server is now: those to
// the old one are found dead one by one.
func (m *moving) beat(t *testing.T, store *tenants.Store) {
	t.Helper()
	var err error
	for range 10 {
		if err = store.Beat(t.Context()); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// may reports whether a process may send the stored refresh token, and gives it back.
func (m *moving) may(t *testing.T, store *tenants.Store) bool {
	t.Helper()
	storage := store.TokensOf(m.owner, m.id)
	var stored prisma.Tokens
	var err error
	for range 10 { // as in beat
		if stored, err = storage.Tokens(t.Context()); err == nil {
			break
		}
	}
	ok(t, err)
	claim, err := storage.Claim(t.Context(), stored)
	if err != nil {
		wantFenced(t, "Claim()", err)
		return false
	}
	if !claim.Due {
		t.Fatal("the claim is neither refused nor due")
	}
	ok(t, storage.Settle(t.Context(), claim, prisma.NotSent))
	m.sql(t, `UPDATE connections SET refresh_not_before = NULL`)
	return true
}

// save moves the connection to its next generation.
func (m *moving) save(t *testing.T, store *tenants.Store, name string) {
	t.Helper()
	storage := store.TokensOf(m.owner, m.id)
	stored, err := storage.Tokens(t.Context())
	ok(t, err)
	claim, err := storage.Claim(t.Context(), stored)
	ok(t, err)
	ok(t, storage.Save(t.Context(), claim, next(claim, name)))
}

func (m *moving) decisions(t *testing.T) string {
	t.Helper()
	return one[string](t, m.service, `SELECT string_agg(decision, ' ' ORDER BY id) FROM app.fence`)
}

// A standby that has everything takes over: the processes that lived through it go on
// after the hold, without an operator, and then so may those that did not.
func TestFailover(t *testing.T) {
	t.Parallel()
	c := primary(t)
	m := openMoving(t, c)
	living := m.process(t, m.service)
	m.beat(t, living)
	standby := c.copy("standby.signal")
	standby.start()
	m.save(t, living, "2")
	m.beat(t, living)
	c.stop(syscall.SIGINT) // which sends everything to the standby first
	m.move(standby)
	for range 5 { // a standby may lack what it is about to be sent: nothing is concluded
		if err := living.Beat(t.Context()); err == nil {
			t.Error("a beat was written to a standby")
		}
	}
	standby.promote()

	fresh := m.process(t, m.service)
	m.beat(t, fresh)
	if m.may(t, fresh) {
		t.Error("a process that was started on the new timeline may send tokens")
	}
	if m.may(t, living) {
		t.Error("token requests go on before the failover settled")
	}
	m.beat(t, living)
	if got := m.decisions(t); got != "first_use" {
		t.Errorf("decisions before the hold is over = %q", got)
	}
	m.now.advance(failoverHold)
	m.beat(t, fresh)
	m.beat(t, living)
	if got := m.decisions(t); got != "first_use failover" {
		t.Errorf("decisions = %q, want that of the process that lived through it", got)
	}
	for what, store := range map[string]*tenants.Store{"lived through it": living, "was started since": fresh} {
		if !m.may(t, store) {
			t.Errorf("the process that %s may not send tokens", what)
		}
	}
}

// A standby without the last writes takes over: what it has are spent tokens.
func TestFailoverThatLostWrites(t *testing.T) {
	t.Parallel()
	for name, evidence := range map[string]func(t *testing.T, m *moving, living *tenants.Store){
		"a token pair": func(t *testing.T, m *moving, living *tenants.Store) { t.Helper(); m.save(t, living, "2") },
		"a beat":       func(t *testing.T, m *moving, living *tenants.Store) { t.Helper(); m.beat(t, living) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := primary(t)
			m := openMoving(t, c)
			living, other := m.process(t, m.service), m.process(t, m.service)
			m.beat(t, living)
			m.beat(t, other)
			restored := c.copy("recovery.signal") // it ends where the copy was made
			evidence(t, m, living)
			c.stop(syscall.SIGINT)
			restored.start()
			m.move(restored)

			m.beat(t, living)
			if got := m.decisions(t); got != "first_use writes_lost" {
				t.Errorf("decisions = %q, want it to be said that writes are lost", got)
			}
			// The other lost nothing itself, and would have accepted.
			m.now.advance(failoverHold)
			m.beat(t, other)
			m.now.advance(failoverHold)
			m.beat(t, other)
			fresh := m.process(t, m.service)
			for what, store := range map[string]*tenants.Store{"lost writes": living, "lost none": other, "was started since": fresh} {
				if m.may(t, store) {
					t.Errorf("the process that %s may send tokens", what)
				}
			}

			seen, err := fresh.Fence(t.Context())
			ok(t, err)
			ok(t, fresh.AcceptFence(t.Context(), tenants.System(), seen))
			for what, store := range map[string]*tenants.Store{"lost writes": living, "lost none": other, "was started since": fresh} {
				m.beat(t, store)
				if !m.may(t, store) {
					t.Errorf("accepted, and the process that %s may still not send tokens", what)
				}
			}
			if got := m.decisions(t); got != "first_use writes_lost command" {
				t.Errorf("decisions = %q", got)
			}
		})
	}
}

// A backup that is restored beside the running original, for processes of its own: not
// one token is sent. The original notices nothing.
func TestRestoredBackup(t *testing.T) {
	t.Parallel()
	c := primary(t)
	m := openMoving(t, c)
	restored := c.copy("recovery.signal")
	restored.start()
	m.wantNothingSent(t, restored, "connect")
	if !m.may(t, m.Store) {
		t.Error("the original may not send tokens any more")
	}
}

// A crash and restart of the same server loses nothing and needs no decision.
func TestRestartedServer(t *testing.T) {
	t.Parallel()
	c := primary(t)
	m := openMoving(t, c)
	living := m.process(t, m.service)
	m.beat(t, living)
	m.save(t, living, "2")
	m.beat(t, living)
	c.stop(syscall.SIGQUIT)
	c.start()
	m.move(c) // the same place, by new connections
	for _, store := range []*tenants.Store{living, m.process(t, m.service)} {
		m.beat(t, store)
		if !m.may(t, store) {
			t.Error("token requests are stopped after a crash that lost nothing")
		}
	}
	if got := m.decisions(t); got != "first_use" {
		t.Errorf("decisions = %q", got)
	}
}

// A dump in another cluster, a copy in the same one, and a database that was renamed.
func TestCopiedDatabase(t *testing.T) {
	t.Parallel()
	c := primary(t)
	m := openMoving(t, c)
	dump := filepath.Join(c.home, "dump")
	c.run("pg_dump", "-Fc", "-f", dump, c.url("postgres", "connect"))
	other := another(t)
	other.sql("postgres", `CREATE DATABASE restored OWNER connect_owner`)
	if c.as != nil {
		c.run("chmod", "a+r", dump)
	}
	other.run("pg_restore", "-d", other.url("postgres", "restored"), dump)
	m.wantNothingSent(t, other, "restored")

	m.db.Pool.Close()
	m.admin.Close()
	c.sql("postgres", `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'connect'`,
		`CREATE DATABASE copy TEMPLATE connect`, `ALTER DATABASE connect RENAME TO renamed`)
	m.wantNothingSent(t, c, "copy")
	m.wantNothingSent(t, c, "renamed")
}

// wantNothingSent starts a process on a database and lets it refresh: nothing is sent,
// what is stored is served, and an operator can allow it.
func (m *moving) wantNothingSent(t *testing.T, c *cluster, database string) {
	t.Helper()
	at := &server{}
	at.is(c)
	s := &service{db: &pgtest.Database{AppURL: c.url("connect_app", database)}, keyset: m.keyset}
	s.admin = openMovable(t, c.url("postgres", database), at)
	s.db.Pool = openMovable(t, s.db.AppURL, at)
	s.Store = s.store(t, tenants.Config{Pool: s.db.Pool, Hold: failoverHold, Now: m.now.Now, Environment: "test"})
	ok(t, s.Beat(t.Context()))
	m.now.advance(failoverHold)
	ok(t, s.Beat(t.Context()))
	e := startTokenEndpoint(t, "refresh-1")
	connection := s.PrismaConnection(m.owner, m.id)
	tokens, err := newRefresher(t, e).AccessToken(t.Context(), connection)
	ok(t, err)
	if tokens.Access != "access-1" {
		t.Errorf("%s: AccessToken() = %v, want the stored one", database, tokens)
	}
	s.sql(t, `UPDATE app.deployment SET clock_offset = clock_offset + interval '2 hours'`)
	_, err = newRefresher(t, e).AccessToken(t.Context(), connection)
	wantFenced(t, database+": AccessToken()", err)
	if asked, _ := e.counts(); asked != 0 {
		t.Errorf("%s: %d token requests, want none", database, asked)
	}
	if got := one[string](t, s, `SELECT status FROM connections`); got != "active" {
		t.Errorf("%s: the connection is %s", database, got)
	}

	seen, err := s.Fence(t.Context())
	ok(t, err)
	ok(t, s.AcceptFence(t.Context(), tenants.System(), seen))
	tokens, err = newRefresher(t, e).AccessToken(t.Context(), connection)
	ok(t, err)
	if tokens.Access != "access-of-exchange-1" {
		t.Errorf("%s: accepted, AccessToken() = %v", database, tokens)
	}
}

// The database's disk is put back to an earlier state while no replica runs: the same
// cluster on the same timeline, with tokens that were all used since. What earlier
// processes left on their own disk tells.
func TestDiskPutBack(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]func(t *testing.T, m *moving, c *cluster){
		"started at once": func(*testing.T, *moving, *cluster) {},
		"the log is longer than it was, by others' work": func(t *testing.T, m *moving, c *cluster) {
			t.Helper()
			position := func() int64 { return one[int64](t, m.service, `SELECT app.wal_position()`) }
			for at := position(); position() < at+4<<20; {
				c.sql("postgres", `DROP TABLE IF EXISTS work`, `CREATE TABLE work AS SELECT generate_series(1, 50000) AS n`)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := primary(t)
			m := openMoving(t, c)
			m.dir = t.TempDir()
			earlier := m.process(t, m.service)
			m.beat(t, earlier)
			restart := func(how syscall.Signal, between func()) {
				c.stop(how)
				between()
				c.start()
				m.move(c)
			}
			snapshot := filepath.Join(c.home, "snapshot")
			restart(syscall.SIGINT, func() { c.run("cp", "-a", c.data(), snapshot) })
			m.beat(t, earlier)
			m.save(t, earlier, "2")
			m.beat(t, earlier)
			restart(syscall.SIGQUIT, func() {}) // a crash loses nothing
			goesOn := m.process(t, m.service)
			m.beat(t, goesOn)
			if !m.may(t, goesOn) {
				t.Fatal("token requests are stopped after a crash that lost nothing")
			}
			m.beat(t, goesOn) // its mark stands for the earlier ones

			restart(syscall.SIGINT, func() {
				c.run("rm", "-r", c.data())
				c.run("mv", snapshot, c.data())
			})
			after(t, m, c)
			started := []*tenants.Store{m.process(t, m.service), m.process(t, m.service)}
			for range 3 {
				for _, store := range started {
					if m.may(t, store) {
						t.Error("a spent token may be sent")
					}
					m.beat(t, store)
					m.now.advance(failoverHold)
				}
			}
			if got := m.decisions(t); got != "first_use writes_lost" {
				t.Errorf("decisions = %q", got)
			}
			again := m.process(t, m.service)
			if m.may(t, again) {
				t.Error("a spent token may be sent by one that was started later")
			}

			seen, err := again.Fence(t.Context())
			ok(t, err)
			ok(t, again.AcceptFence(t.Context(), tenants.System(), seen))
			for _, store := range append(started, again, m.process(t, m.service)) {
				m.beat(t, store)
				if !m.may(t, store) {
					t.Error("accepted, and token requests are still stopped")
				}
			}
			if got := m.decisions(t); got != "first_use writes_lost command" {
				t.Errorf("decisions = %q", got)
			}
		})
	}
}
