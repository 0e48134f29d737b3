package devpg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// site is where a cluster lives and as whom its server runs.
type site struct {
	home      string              // absolute, without symbolic links
	as        *syscall.Credential // nil: as this process
	of        string              // the directory that the cluster belongs to, if it lies apart from it
	ephemeral bool
}

func (s site) path(name string) string { return filepath.Join(s.home, name) }

func (s site) data() string { return s.path("data") }

// name tells this cluster's processes from those of others: Postgres puts it into
// the title of every one of them.
func (s site) name() string { return "connect-prisma-" + shortHash(s.home) }

// give hands a file or directory that this process made to the server's account.
func (s site) give(name string) error {
	if s.as == nil {
		return nil
	}
	if err := os.Chown(name, int(s.as.Uid), int(s.as.Gid)); err != nil {
		return fmt.Errorf("give %s to the server's account: %w", name, err)
	}
	return nil
}

// attr returns the attributes of a child of this site: its own process group, so
// that Ctrl-C in a terminal reaches this process alone, the server's account, and
// death as the signal that it gets when this process dies.
func (s site) attr(death syscall.Signal) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true, Credential: s.as}
	setDeathSignal(attr, death)
	return attr
}

// locate makes the directory of a cluster, choosing fallback's when this process
// is root and the server's account cannot enter dir.
func locate(ctx context.Context, dir, fallback string) (site, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return site{}, fmt.Errorf("resolve %s: %w", dir, err)
	}
	if os.Geteuid() != 0 {
		home, err := makeHome(dir, nil)
		return site{home: home}, err
	}

	as, err := accountFor(dir)
	if err != nil {
		return site{}, err
	}
	second := filepath.Join(fallback, shortHash(dir))
	if !hasCluster(dir) && hasCluster(second) {
		// Made when dir could not be entered: its data matters more than the place.
		if as, err = accountFor(second); err != nil {
			return site{}, err
		}
		home, err := makeHome(second, as)
		return site{home: home, as: as, of: dir}, err
	}

	_, missing := os.Lstat(dir)
	home, err := makeHome(dir, as)
	if err == nil {
		err = canEnter(ctx, home, as)
	}
	if err == nil {
		return site{home: home, as: as}, nil
	}
	if !errors.Is(err, fs.ErrPermission) || hasCluster(dir) {
		return site{}, err
	}
	if missing != nil {
		_ = os.Remove(dir) // ours and empty; if it stays, it does no harm
	}
	home, err = makeHome(second, as)
	if err == nil {
		err = canEnter(ctx, home, as)
	}
	return site{home: home, as: as, of: dir}, err
}

// makeHome makes dir, private to the server's account unless it was there before,
// and returns its path without symbolic links.
func makeHome(dir string, as *syscall.Credential) (string, error) {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // G301: the server's account must pass here
		return "", fmt.Errorf("make directory: %w", err)
	}
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		err = site{as: as}.give(dir)
	} else if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	home, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", dir, err)
	}
	return home, nil
}

// accountFor picks whom root runs the server as, which Postgres refuses to do as
// root: the owner of the cluster that is there, else postgres, else nobody.
func accountFor(dir string) (*syscall.Credential, error) {
	if info, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 {
			return &syscall.Credential{Uid: st.Uid, Gid: st.Gid}, nil
		}
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(u.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(u.Gid, 10, 32)
		if err := errors.Join(errUID, errGID); err != nil {
			return nil, fmt.Errorf("account %s: %w", name, err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("there is neither an account postgres nor nobody, and the server refuses to run as root")
}

// canEnter asks the kernel, by way of a child in dir, because mode bits alone do
// not tell (access lists, user namespaces). fs.ErrPermission: the account cannot.
func canEnter(ctx context.Context, dir string, as *syscall.Credential) error {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", ":")
	cmd.Dir, cmd.Env = dir, []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("enter %s as uid %d: %w", dir, as.Uid, err)
	}
	return nil
}

// hasCluster reports whether a finished cluster lies in dir.
func hasCluster(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "data", "PG_VERSION"))
	return err == nil
}

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:8])
}
