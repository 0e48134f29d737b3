// Package nodetest runs programs in Node.js for tests that need Prisma's own SDK.
package nodetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// needsNode is what to do when node or npm is missing. The test fails then: one that did
// not take place proves nothing.
const needsNode = "this test runs Prisma's own SDK and needs Node.js 18 or newer with npm: " +
	"on Debian run .ci/packages node, elsewhere install it from your package manager (macOS: brew install node)"

// Installed returns a directory whose node_modules hold the packages of the
// package-lock.json in the directory from, nothing else and at those versions. It is
// kept in the user's cache, under the fingerprint of the lock file, so that only the
// first run on a machine needs the npm registry.
func Installed(tb testing.TB, from string) string {
	tb.Helper()
	if _, err := exec.LookPath("npm"); err != nil {
		tb.Fatal(needsNode)
	}
	lock := read(tb, from, "package-lock.json")
	sum := sha256.Sum256(lock)
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir() // no home directory
	}
	parent := filepath.Join(cache, "connect-prisma-sdkcompare")
	dir := filepath.Join(parent, hex.EncodeToString(sum[:8]))
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if err := os.MkdirAll(parent, 0o700); err != nil {
		tb.Fatalf("make the cache for npm packages: %v", err)
	}
	// Installed beside it and then renamed, so that one that exists is whole.
	building, err := os.MkdirTemp(parent, "building-") //nolint:usetesting // renamed below: it has to be on that disk
	if err != nil {
		tb.Fatalf("make the cache for npm packages: %v", err)
	}
	defer os.RemoveAll(building)
	for name, content := range map[string][]byte{"package.json": read(tb, from, "package.json"), "package-lock.json": lock} {
		if err := os.WriteFile(filepath.Join(building, name), content, 0o600); err != nil {
			tb.Fatalf("copy %s: %v", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(tb.Context(), 3*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline",
		"--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=5000")
	npm.Dir = building
	if out, err := npm.CombinedOutput(); err != nil {
		tb.Fatalf("install npm packages, which takes the npm registry the first time: npm ci: %v\n%s", err, out)
	}
	if err := os.Rename(building, dir); err != nil {
		if _, statErr := os.Stat(dir); statErr != nil { // another run was not quicker either
			tb.Fatalf("keep the installed packages: %v", err)
		}
	}
	return dir
}

func read(tb testing.TB, dir, name string) []byte {
	tb.Helper()
	content, err := os.ReadFile(filepath.Join(dir, name)) //nolint:gosec // a test's own file
	if err != nil {
		tb.Fatal(err)
	}
	return content
}

// Process is a program in Node.js: an ES module that finds the installed packages.
type Process struct {
	*exec.Cmd

	// Said is what it wrote to standard error, to be read when it has ended.
	Said *bytes.Buffer

	kill context.CancelFunc
}

// Start starts a module with standard input and output as change sets them up.
func Start(tb testing.TB, installed string, module []byte, change func(*exec.Cmd) error) *Process {
	tb.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		tb.Fatal(needsNode)
	}
	// As text on the command line it finds its packages below the working directory.
	ctx, kill := context.WithCancel(context.WithoutCancel(tb.Context())) // ends after the test's clean-up
	p := &Process{Said: &bytes.Buffer{}, kill: kill}
	p.Cmd = exec.CommandContext(ctx, "node", "--input-type=module", "--eval", string(module)) //nolint:gosec // a test's own program
	p.Dir, p.Stderr = installed, p.Said
	if err := errors.Join(change(p.Cmd), p.Start()); err != nil {
		kill()
		tb.Fatalf("start node: %v", err)
	}
	return p
}

// Kill ends the process at once.
func (p *Process) Kill() { p.kill() }
