package tenants_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// spooled is the one entry that a dead process has left.
type spooled struct {
	*leased

	dir     string // of the spool
	path    string // of the entry
	content []byte
}

func leaveSpooled(t *testing.T) *spooled {
	t.Helper()
	s := &spooled{leased: openLeased(t), dir: t.TempDir()}
	dead := openSpool(t, s.dir, s.Store)
	dead.keep(t, s.leased, s.due(t), "2")
	dead.die()
	s.path = paths(t, s.dir)[0]
	var err error
	s.content, err = os.ReadFile(s.path)
	ok(t, err)
	return s
}

// wantWaiting checks the state while the entry is not stored.
func (s *spooled) wantWaiting(t *testing.T, what string) {
	t.Helper()
	s.wantState(t, what, state{Status: "active", Generation: 1, Leased: true, Intent: true})
}

// A file of which a single bit was changed, or that lacks some bytes, is not believed,
// is kept, and stops nobody.
func TestSpoolRefusesDamage(t *testing.T) {
	t.Parallel()
	s := leaveSpooled(t)
	damaged := [][]byte{nil, append(bytes.Clone(s.content), 0)}
	for i := range s.content {
		flipped := bytes.Clone(s.content)
		flipped[i] ^= 0x10
		damaged = append(damaged, flipped, s.content[:i])
	}
	home := t.TempDir() // of a process that lives on
	spool := openSpool(t, home, s.Store)
	spool.keep(t, s.leased, prisma.Claim{Current: prisma.Tokens{Generation: 1}}, "2")
	path := paths(t, home)[0]
	for _, content := range damaged {
		ok(t, os.WriteFile(path, content, 0o600))
		spool.replay(t, tenants.Replayed{Unreadable: 1})
		aside, err := os.ReadFile(path + ".unreadable")
		if err != nil || !bytes.Equal(aside, content) {
			t.Fatalf("what was put aside is not what was there: %v", err)
		}
		ok(t, os.Remove(path+".unreadable"))
	}
	if n := spool.log.count(`"level":"ERROR"`); n != 1 {
		t.Errorf("%d errors are logged of one entry, want 1", n)
	}
	s.wantWaiting(t, "after all that")
	openSpool(t, s.dir, s.Store).replay(t, tenants.Replayed{Stored: 1}) // the undamaged one
}

// A whole file under another's name does not open either.
func TestSpoolRefusesAMovedEntry(t *testing.T) {
	t.Parallel()
	s := leaveSpooled(t)
	name := filepath.Base(s.path)
	parts := strings.Split(name, ".")
	other := s.connect(t, s.owner, "other user", s.pair(t, "other", "wksp_1")).ID
	stranger := s.tenant(t, "Other").ID
	moved := map[string]string{
		"another connection": parts[0] + "." + other.String() + "." + parts[2] + "." + parts[3] + ".pair",
		"another tenant":     stranger.String() + "." + parts[1] + "." + parts[2] + "." + parts[3] + ".pair",
		"another generation": parts[0] + "." + parts[1] + ".2." + parts[3] + ".pair",
		"another time":       parts[0] + "." + parts[1] + "." + parts[2] + ".1.pair",
		"another spelling":   parts[0] + "." + parts[1] + ".0" + parts[2] + "." + parts[3] + ".pair",
		"no entry's name":    "x.pair",
	}
	ok(t, os.Remove(s.path))
	for _, name := range moved {
		ok(t, os.WriteFile(filepath.Join(filepath.Dir(s.path), name), s.content, 0o600))
	}
	before := s.rows(t, s.owner)
	spool := openSpool(t, s.dir, s.Store)
	spool.replay(t, tenants.Replayed{Unreadable: len(moved)})
	s.unchanged(t, "a replay of moved entries", s.owner, before)
	if n := spool.log.count("sealed under another"); n != len(moved) {
		t.Errorf("said %d times, want %d", n, len(moved))
	}
}

// A process with another keyset leaves the entry to one with the right keyset, even
// when it came first.
func TestSpoolUnderAnotherKeyset(t *testing.T) {
	t.Parallel()
	s := leaveSpooled(t)
	foreign, err := tenants.NewStore(tenants.Config{Pool: s.db.Pool, Keyset: keysetOf(t, "test")})
	ok(t, err)
	wrong := openSpool(t, s.dir, foreign)
	wrong.replay(t, tenants.Replayed{Unreadable: 1})
	wrong.replay(t, tenants.Replayed{}) // it has let go of the directory
	s.wantWaiting(t, "replayed under another keyset")

	right := openSpool(t, s.dir, s.Store)
	right.replay(t, tenants.Replayed{Stored: 1})
	s.wantState(t, "replayed", state{Status: "active", Generation: 2})
	if got := files(t, s.dir); len(got) != 0 {
		t.Errorf("the spool still has %v", got)
	}
}

// A process that was killed while it wrote: what is whole counts, what was cut goes,
// and what another keyset has sealed is kept.
func TestSpoolOfAnInterruptedWrite(t *testing.T) {
	t.Parallel()
	t.Run("whole", func(t *testing.T) {
		t.Parallel()
		s := leaveSpooled(t)
		ok(t, os.Rename(s.path, s.path+".tmp"))
		openSpool(t, s.dir, s.Store).replay(t, tenants.Replayed{Stored: 1})
		s.wantState(t, "replayed", state{Status: "active", Generation: 2})
	})
	t.Run("cut", func(t *testing.T) {
		t.Parallel()
		s := leaveSpooled(t)
		ok(t, os.WriteFile(s.path+".tmp", s.content[:len(s.content)-1], 0o600))
		ok(t, os.Remove(s.path))
		spool := openSpool(t, s.dir, s.Store)
		spool.replay(t, tenants.Replayed{})
		s.wantWaiting(t, "replayed")
		if n := replicas(t, s.dir); n != 1 {
			t.Errorf("the spool has %d directories, want one", n)
		}
	})
	t.Run("foreign", func(t *testing.T) {
		t.Parallel()
		s := leaveSpooled(t)
		ok(t, os.Rename(s.path, s.path+".tmp"))
		foreign, err := tenants.NewStore(tenants.Config{Pool: s.db.Pool, Keyset: keysetOf(t, "test")})
		ok(t, err)
		openSpool(t, s.dir, foreign).replay(t, tenants.Replayed{Unreadable: 1})
		openSpool(t, s.dir, s.Store).replay(t, tenants.Replayed{Stored: 1})
	})
}

// Files that are no entries neither stop nor mislead a replay.
func TestSpoolWithOddFiles(t *testing.T) {
	t.Parallel()
	s := leaveSpooled(t)
	home := filepath.Dir(s.path)
	ok(t, os.WriteFile(filepath.Join(home, "README"), nil, 0o600))
	ok(t, os.WriteFile(filepath.Join(s.dir, "replica-file"), nil, 0o600))
	ok(t, os.Mkdir(filepath.Join(s.dir, "lost+found"), 0o700))
	ok(t, os.Mkdir(filepath.Join(s.dir, "replica-empty"), 0o700))
	ok(t, syscall.Mkfifo(filepath.Join(home, "pipe.pair"), 0o600))
	ok(t, os.Symlink(s.path, filepath.Join(home, "link.pair")))
	ok(t, os.Symlink("/", filepath.Join(s.dir, "replica-link")))
	spool := openSpool(t, s.dir, s.Store)
	spool.replay(t, tenants.Replayed{Stored: 1, Unreadable: 2})
	s.wantState(t, "replayed", state{Status: "active", Generation: 2})
}
