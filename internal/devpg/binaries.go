package devpg

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

const (
	// minMajor is the oldest major that is tried: Debian 12's.
	minMajor     = 15
	minMajorText = "15"
)

// binaries are the programs of one installation.
type binaries struct {
	dir   string
	major int
}

func (b binaries) path(name string) string { return filepath.Join(b.dir, name) }

// installedIn returns the directories that may hold programs of Postgres: the one
// on PATH, and where the packagers put it off PATH.
func installedIn() []string {
	var dirs []string
	if initdb, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(initdb))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", // Debian, Ubuntu
		"/usr/pgsql-*/bin",          // the project's own RPMs
		"/usr/libexec/postgresql*",  // Alpine
		"/opt/homebrew/opt/postgresql*/bin",
		"/usr/local/opt/postgresql*/bin",
		"/home/linuxbrew/.linuxbrew/opt/postgresql*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
		"/Library/PostgreSQL/*/bin",
		"/usr/local/pgsql/bin", // built from source
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			continue // only a malformed pattern, which these are not
		}
		dirs = append(dirs, found...)
	}
	return dirs
}

// findBinaries returns the newest installation in dirs, or, with want not 0, one
// of exactly that major, since a cluster opens with its own only. Errors:
// ErrNotInstalled; ctx's, when it ended the search.
func findBinaries(ctx context.Context, dirs []string, want int) (binaries, error) {
	var best binaries
	for _, dir := range dirs {
		major, ok := majorOf(ctx, dir)
		if ok && major > best.major && (want == 0 || major == want) {
			best = binaries{dir: dir, major: major}
		}
	}
	switch {
	case best.major == 0 && ctx.Err() != nil: // nobody was asked
		return binaries{}, fmt.Errorf("look for PostgreSQL: %w", ctx.Err())
	case want != 0 && best.major == 0:
		return binaries{}, fmt.Errorf("the cluster was made by PostgreSQL %d, which is not here; "+
			"install that one, or remove the directory to start with an empty cluster: %w", want, ErrNotInstalled)
	case best.major < minMajor:
		return binaries{}, ErrNotInstalled
	}
	return best, nil
}

// majorOf returns the major version of the installation in dir; false unless
// everything that a server needs is there.
func majorOf(ctx context.Context, dir string) (int, bool) {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return 0, false
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version") //nolint:gosec // G204: a program of the list above
	cmd.Env = cleanEnv()
	out, err := cmd.Output()
	if err != nil {
		return 0, false
	}
	// "postgres (PostgreSQL) 15.14 (Debian …)", "… 18beta1"
	m := regexp.MustCompile(`\(PostgreSQL\) (\d+)`).FindSubmatch(out)
	if m == nil {
		return 0, false
	}
	major, err := strconv.Atoi(string(m[1]))
	return major, err == nil
}

// cleanEnv is the whole environment of every child: PG* variables would change
// what it does, and a locale what it says.
func cleanEnv() []string {
	return []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/", "LC_ALL=C", "TZ=UTC"}
}
