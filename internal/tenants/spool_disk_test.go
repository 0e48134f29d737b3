package tenants_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/tenants"
)

// smallDisk is a directory on a disk that can be filled and emptied.
type smallDisk struct {
	dir  string
	fill func()
	free func()
}

// openSmallDisk mounts a disk of 64 KiB. Where that is not allowed, a
// full disk is one on which the directory is gone and can't be made anew.
func openSmallDisk(t *testing.T) smallDisk {
	t.Helper()
	mount := t.TempDir()
	dir := filepath.Join(mount, "spool")
	if err := mountSmall(t, mount, "size=64k"); err != nil {
		t.Logf("no disk of its own (%v): the directory goes and comes instead", err)
		return smallDisk{dir: dir, fill: func() {
			ok(t, os.RemoveAll(dir))
			ok(t, os.WriteFile(dir, nil, 0o600))
		}, free: func() { ok(t, os.Remove(dir)) }}
	}
	ballast := filepath.Join(mount, "ballast")
	return smallDisk{dir: dir, fill: func() {
		f, err := os.Create(ballast)
		ok(t, err)
		for full := err; full == nil; {
			_, full = f.Write(make([]byte, 4096))
		}
		info, err := f.Stat()
		ok(t, err)
		ok(t, f.Truncate(info.Size()-4096)) // so that a part of an entry still fits
		ok(t, f.Close())
	}, free: func() { ok(t, os.Remove(ballast)) }}
}

// A full disk costs the spool and nothing else, and heals without a restart.
func TestSpoolOnAFullDisk(t *testing.T) {
	t.Parallel()
	l, disk := openLeased(t), openSmallDisk(t)
	claim := l.due(t)
	large := next(claim, strings.Repeat("x", 16<<10-20))
	conn := l.PrismaConnection(l.owner, l.id)
	spool := openSpool(t, disk.dir, l.Store)
	disk.fill()
	done, err := spool.Keep(t.Context(), conn, claim, large)
	if err == nil || strings.Contains(err.Error(), "xxx") {
		t.Fatalf("Keep() on a full disk = %v", err)
	}
	t.Logf("Keep() on a full disk: %v", err)
	l.wantState(t, "not spooled", state{Status: "active", Generation: 1, Leased: true, Intent: true})
	if spool.Replay(t.Context()).Waiting == 0 {
		t.Error("nothing waits")
	}
	for _, path := range paths(t, filepath.Dir(disk.dir)) {
		if strings.Contains(path, l.id.String()) {
			t.Errorf("the failure leaves %s", path)
		}
	}
	disk.free()
	spool.replay(t, tenants.Replayed{Stored: 1})
	l.wantState(t, "spooled and stored", state{Status: "active", Generation: 2})
	done()

	// The refresher may have stored it by itself, before there was any space.
	claim = l.due(t)
	disk.fill()
	if done, err = spool.Keep(t.Context(), conn, claim, large); err == nil {
		t.Fatal("the disk is not full")
	}
	done()
	disk.free()
	spool.replay(t, tenants.Replayed{})
	// And what comes later is kept as ever.
	done, err = spool.Keep(t.Context(), conn, claim, large)
	ok(t, err)
	if got := files(t, disk.dir); len(got) != 1 {
		t.Errorf("the spool has %v, want one entry", got)
	}
	done()
}

// A start on a full disk is a start, and the spool works once there is space. Nothing
// else that is wrong with the directory is let pass.
func TestSpoolStartsOnAFullDisk(t *testing.T) {
	t.Parallel()
	l, mount := openLeased(t), t.TempDir()
	cfg := tenants.SpoolConfig{Dir: filepath.Join(mount, "spool"), Store: l.Store, Now: clock}
	err := mountSmall(t, mount, "nr_inodes=1") // its own root takes that
	if err != nil {
		t.Logf("no disk of its own: %v", err)
		ok(t, os.WriteFile(cfg.Dir, nil, 0o600))
		if _, err := tenants.OpenSpool(cfg); err == nil {
			t.Error("OpenSpool() takes a file for a directory")
		}
		return
	}
	spool, err := tenants.OpenSpool(cfg)
	ok(t, err)
	t.Cleanup(spool.Close)
	claim := l.due(t)
	conn := l.PrismaConnection(l.owner, l.id)
	if _, err := spool.Keep(t.Context(), conn, claim, next(claim, "2")); err == nil {
		t.Fatal("the disk is not full")
	}
	ok(t, remountSmall(mount, "nr_inodes=100"))
	if got := spool.Replay(t.Context()); got.Stored != 1 {
		t.Errorf("Replay() = %+v", got)
	}
	l.wantState(t, "spooled and stored", state{Status: "active", Generation: 2})
}
