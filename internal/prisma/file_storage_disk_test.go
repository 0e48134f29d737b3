package prisma_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

func TestFileStorageLeavesADamagedFileAlone(t *testing.T) {
	t.Parallel()

	const canary = "canary-7f3a"
	for name, content := range map[string]string{
		"empty":             "",
		"cut off":           `{"accessToken":"` + canary,
		"no object":         `["` + canary + `"]`,
		"a page":            `<html>` + canary + `</html>`,
		"trailing":          `{"accessToken":"` + canary + `"} x`,
		"two objects":       `{"accessToken":"` + canary + `"}{}`,
		"doubled":           `{"accessToken":"` + canary + `","accessToken":"b"}`,
		"wrong type":        `{"accessToken":["` + canary + `"]}`,
		"line break":        `{"accessToken":"` + canary + `\n"}`,
		"too long a token":  `{"accessToken":"` + canary + strings.Repeat("x", 20_000) + `"}`,
		"bad time":          `{"accessToken":"` + canary + `","expiresAt":"` + canary + `"}`,
		"bad generation":    `{"accessToken":"` + canary + `","generation":-1}`,
		"vast generation":   `{"accessToken":"` + canary + `","generation":9223372036854775807}`,
		"bad ending":        `{"ended":"` + canary + `"}`,
		"not UTF-8":         `{"accessToken":"` + canary + "\xff\"}",
		"larger than a MiB": `{"x":"` + canary + strings.Repeat("x", 1<<20) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := written(t, content, 0o600)
			s := newFileStorage(t, path)
			_, readErr := s.Tokens(t.Context())
			_, claimErr := s.Claim(t.Context(), pair("r", 0))
			for what, err := range map[string]error{
				"Tokens":               readErr,
				"Claim":                claimErr,
				"ClearTokens":          s.ClearTokens(t.Context()),
				"ClearTokensIfCurrent": s.ClearTokensIfCurrent(t.Context(), pair("r", 0)),
				"Save":                 s.Save(t.Context(), prisma.Claim{}, pair("r", 0)),
				"Settle":               s.Settle(t.Context(), prisma.Claim{}, prisma.InvalidGrant),
			} {
				if !errors.Is(err, prisma.ErrTokenFile) || fault.KindOf(err) != fault.Internal {
					t.Errorf("%s() error = %v, want ErrTokenFile", what, err)
				}
				if err != nil && (strings.Contains(err.Error(), canary) || !strings.Contains(err.Error(), path)) {
					t.Errorf("%s(): the error echoes the file or does not name it", what)
				}
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != content {
				t.Errorf("the file was changed (%v)", err)
			}
			mustSet(t, s, pair("new", 0))
			if got, err := s.Tokens(t.Context()); err != nil || got.Refresh != "new" || got.Generation != 1 {
				t.Errorf("Tokens() after a login = %v, %v", got, err)
			}
		})
	}
}

func TestFileStorageWantsARegularFile(t *testing.T) {
	t.Parallel()

	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink("loop", loop); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"directory": dir, "pipe": pipe, "loop": loop, "below a file": filepath.Join(written(t, "{}", 0o600), "x"),
	} {
		s := newFileStorage(t, path)
		if _, err := s.Tokens(t.Context()); err == nil || fault.KindOf(err) == fault.NotFound {
			t.Errorf("%s: Tokens() error = %v", name, err)
		}
		if err := s.SetTokens(t.Context(), pair("r", 0)); err == nil {
			t.Errorf("%s: SetTokens() stored something", name)
		}
	}
}

// TestFileStorageFollowsALink: the link stays, and whoever comes by the link or
// directly shares one lock.
func TestFileStorageFollowsALink(t *testing.T) {
	t.Parallel()

	for name, there := range map[string]bool{"existing file": true, "dangling": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			target := filepath.Join(dir, "dotfiles", "prisma.json")
			if err := os.Mkdir(filepath.Dir(target), 0o700); err != nil {
				t.Fatal(err)
			}
			direct := newFileStorage(t, target)
			if there {
				mustSet(t, direct, pair("old", 2*time.Hour))
			}
			link := filepath.Join(dir, "credentials.json")
			if err := os.Symlink(filepath.Join("dotfiles", "prisma.json"), link); err != nil {
				t.Fatal(err)
			}
			s := newFileStorage(t, link)
			mustSet(t, s, pair("new", 2*time.Hour))
			if got := mode(t, link); got&os.ModeSymlink == 0 {
				t.Errorf("the link became %v", got)
			}
			stored, err := direct.Tokens(t.Context())
			if err != nil || stored.Refresh != "new" {
				t.Errorf("the file behind the link has %v, %v", stored, err)
			}
			first, err := s.Claim(t.Context(), stored)
			if err != nil || !first.Due {
				t.Fatalf("Claim() due = %t, %v", first.Due, err)
			}
			if second, err := direct.Claim(t.Context(), stored); err != nil || !second.Held {
				t.Errorf("Claim() past the link: held = %t, %v", second.Held, err)
			}
		})
	}
}

// TestFileStorageReplacesStaleTemporaryFile: what a killed process left is never taken
// for the file, and does not stay.
func TestFileStorageReplacesStaleTemporaryFile(t *testing.T) {
	t.Parallel()

	path := filepath.Join(t.TempDir(), "credentials.json")
	if err := os.WriteFile(path+".tmp", []byte(`{"accessToken":"ha`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newFileStorage(t, path)
	if _, err := s.Tokens(t.Context()); fault.KindOf(err) != fault.NotFound {
		t.Errorf("Tokens() error = %v, want kind %q", err, fault.NotFound)
	}
	mustSet(t, s, pair("r", 0))
	if got, err := s.Tokens(t.Context()); err != nil || got.Refresh != "r" {
		t.Errorf("Tokens() = %v, %v", got, err)
	}
	if _, err := os.Lstat(path + ".tmp"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary file is still there: %v", err)
	}
}

// FuzzTokenFile reads any file as a token file.
func FuzzTokenFile(f *testing.F) {
	for _, seed := range []string{
		"", "{}", `{"workspaceId":"w","accessToken":"a","refreshToken":"r"}`,
		`{"accessToken":"a","generation":3,"intent":"2026-11-22T00:00:00.000000001Z","suspect":true,"x":{"y":[1e400]}}`,
		`{"ended":"unknown","generation":9007199254740991}`, `{"accessToken":null}`, "\xef\xbb\xbf{}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		path := filepath.Join(t.TempDir(), "credentials.json")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s := newFileStorage(t, path)
		defer s.Close() // or the lock of every claim stays open for a while
		got, err := s.Tokens(t.Context())
		if kind := fault.KindOf(err); err != nil && kind == fault.Internal && !errors.Is(err, prisma.ErrTokenFile) {
			t.Fatalf("Tokens() error = %v", err)
		}
		if strings.ContainsAny(got.Access+got.Refresh, "\r\n\x00") {
			t.Fatal("a token could break a header")
		}
		if err != nil {
			return
		}
		claim, err := s.Claim(t.Context(), got)
		if err != nil && fault.KindOf(err) != fault.ReconnectRequired {
			t.Fatalf("Claim() error = %v", err)
		}
		again, err := s.Tokens(t.Context())
		if claim.Due && (err != nil || again.Access != got.Access || again.Refresh != got.Refresh || !again.ExpiresAt.Equal(got.ExpiresAt)) {
			t.Fatal("a claim changed the pair")
		}
	})
}
