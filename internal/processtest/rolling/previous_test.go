package rolling_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/processtest"
)

// firstOfThisVersion is the oldest migration that the version before this one lacks.
// It moves on with each release.
const firstOfThisVersion = "migrations/00007_fence.sql"

// previousVersion builds the version before this one from the repository's history:
// the state before firstOfThisVersion came.
func previousVersion(t *testing.T) string {
	t.Helper()
	root, err := git(t.Context(), ".", "rev-parse", "--show-toplevel")
	if err != nil {
		t.Fatalf("no repository to build the previous version from: %v", err)
	}
	added, err := git(t.Context(), root, "log", "--diff-filter=A", "--format=%H", "--", firstOfThisVersion)
	if err != nil || added == "" {
		t.Fatalf("no commit that adds %s (%v): fetch the whole history", firstOfThisVersion, err)
	}
	lines := strings.Split(added, "\n")
	commit, err := git(t.Context(), root, "rev-parse", "--verify", "--quiet", lines[len(lines)-1]+"^")
	if err != nil {
		t.Fatalf("the history begins with this version (%v): `git fetch --unshallow` gets the rest", err)
	}
	dir := unpacked(t, root, commit)
	program := filepath.Join(dir, "server-before")
	if err := processtest.Build(filepath.Join(dir, "cmd", "server"), program); err != nil {
		t.Fatalf("build the previous version: %v", err)
	}
	t.Logf("the previous version is %s", commit[:12])
	return program
}

// unpacked returns the directory of a commit's files. It is the same one each time, below
// bin/ where `make clean` removes it: what is compiled elsewhere is compiled anew.
func unpacked(t *testing.T, root, commit string) string {
	t.Helper()
	dir := filepath.Join(root, "bin", "processtest", "before-"+commit[:12])
	if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
		return dir
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	half, err := os.MkdirTemp(filepath.Dir(dir), "half-") //nolint:usetesting // it becomes the directory
	if err != nil {
		t.Fatal(err)
	}
	archive := exec.CommandContext(t.Context(), "git", "-C", root, "archive", "--format=tar", commit)
	unpack := exec.CommandContext(t.Context(), "tar", "-x", "-C", half)
	var packed, stderr bytes.Buffer
	archive.Stdout, archive.Stderr, unpack.Stdin, unpack.Stderr = &packed, &stderr, &packed, &stderr
	for _, cmd := range []*exec.Cmd{archive, unpack} {
		if err := cmd.Run(); err != nil {
			t.Fatalf("unpack the previous version: %v\n%s", err, stderr.String())
		}
	}
	if err := os.Rename(half, dir); err != nil {
		t.Fatalf("unpack the previous version: %v", err)
	}
	return dir
}

// git runs git in a directory and returns what it prints, without the last line break.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...).Output()
	return strings.TrimSpace(string(out)), err
}
