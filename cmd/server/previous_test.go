package main_test

import (
	"bytes"
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// firstOfThisVersion is the oldest migration that the version before this one lacks.
// It moves on with each release.
const firstOfThisVersion = "migrations/00007_fence.sql"

// previousVersion builds the version before this one from the repository's history:
// the state before firstOfThisVersion came. It returns "" where there is no history to
// build from, such as in a shallow clone.
func previousVersion(t *testing.T) string {
	t.Helper()
	root, err := git(t.Context(), ".", "rev-parse", "--show-toplevel")
	if err != nil {
		t.Logf("no history: %v", err)
		return ""
	}
	added, err := git(t.Context(), root, "log", "--diff-filter=A", "--format=%H", "--", firstOfThisVersion)
	if err != nil || added == "" {
		t.Logf("no commit that adds %s: %v", firstOfThisVersion, err)
		return ""
	}
	lines := strings.Split(added, "\n")
	commit, err := git(t.Context(), root, "rev-parse", "--verify", "--quiet", lines[len(lines)-1]+"^")
	if err != nil {
		t.Logf("the history begins with this version: %v", err)
		return ""
	}
	dir := t.TempDir()
	archive := exec.CommandContext(t.Context(), "git", "-C", root, "archive", "--format=tar", commit)
	unpack := exec.CommandContext(t.Context(), "tar", "-x", "-C", dir)
	var packed, stderr bytes.Buffer
	archive.Stdout, archive.Stderr, unpack.Stdin, unpack.Stderr = &packed, &stderr, &packed, &stderr
	for _, cmd := range []*exec.Cmd{archive, unpack} {
		if err := cmd.Run(); err != nil {
			t.Fatalf("unpack the previous version: %v\n%s", err, stderr.String())
		}
	}
	program := filepath.Join(dir, "server-before")
	if err := goBuild(filepath.Join(dir, "cmd", "server"), program); err != nil {
		t.Fatalf("build the previous version: %v", err)
	}
	t.Logf("the previous version is %s", commit[:12])
	return program
}

// git runs git in a directory and returns what it prints, without the last line break.
func git(ctx context.Context, dir string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", append([]string{"-C", dir}, args...)...).Output()
	return strings.TrimSpace(string(out)), err
}
