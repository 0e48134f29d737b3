package prisma_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

func newFileStorage(t *testing.T, path string) *prisma.FileStorage {
	t.Helper()
	s, err := prisma.NewFileStorage(prisma.FileStorageConfig{Path: path, Now: now, Lease: time.Minute})
	if err != nil {
		t.Fatalf("NewFileStorage() error = %v", err)
	}
	return s
}

// written is a path with a file of that content.
func written(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credentials.json")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // past the umask
		t.Fatal(err)
	}
	return path
}

func mustSet(t *testing.T, s prisma.TokenStorage, tokens prisma.Tokens) {
	t.Helper()
	if err := s.SetTokens(t.Context(), tokens); err != nil {
		t.Fatalf("SetTokens() error = %v", err)
	}
}

func mode(t *testing.T, path string) os.FileMode {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode()
}

// members is the file's object, decoded.
func members(t *testing.T, path string) map[string]any {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatalf("the file is not an object: %v", err)
	}
	return got
}

func TestFileStorageConfig(t *testing.T) {
	t.Parallel()

	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	if got, want := newFileStorage(t, "").Path(), filepath.Join(home, ".prisma", "credentials.json"); got != want {
		t.Errorf("default path = %s, want %s", got, want)
	}
	if got := newFileStorage(t, "x.json").Path(); !filepath.IsAbs(got) {
		t.Errorf("path = %s, want an absolute one", got)
	}
	if _, err := prisma.NewFileStorage(prisma.FileStorageConfig{Now: now, Lease: -1}); err == nil {
		t.Error("NewFileStorage() with a negative lease: no error")
	}
}

func TestFileStorageMakesWhatIsMissing(t *testing.T) {
	t.Parallel()

	dir := filepath.Join(t.TempDir(), "config", ".prisma")
	path := filepath.Join(dir, "credentials.json")
	s := newFileStorage(t, path)
	if _, err := s.Tokens(t.Context()); fault.KindOf(err) != fault.NotFound {
		t.Errorf("Tokens() error = %v, want kind %q", err, fault.NotFound)
	}
	if err := s.ClearTokens(t.Context()); err != nil {
		t.Errorf("ClearTokens() error = %v", err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reading and clearing made the directory: %v", err)
	}
	if _, err := s.Claim(t.Context(), pair("r", 0)); fault.KindOf(err) != fault.NotFound {
		t.Errorf("Claim() error = %v, want kind %q", err, fault.NotFound)
	}
	mustSet(t, s, pair("r", 0))
	if got := mode(t, dir); got.Perm() != 0o700 {
		t.Errorf("directory is %v, want 0700", got)
	}
	for _, name := range []string{path, path + ".lock"} {
		if got := mode(t, name); got != 0o600 {
			t.Errorf("%s is %v, want 0600", filepath.Base(name), got)
		}
	}
	if _, err := os.Lstat(path + ".tmp"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a temporary file is left: %v", err)
	}
}

// TestFileStorageReadsTheFileOfTheTypeScriptSDK: three members, looser permissions,
// and whatever else somebody keeps there.
func TestFileStorageReadsTheFileOfTheTypeScriptSDK(t *testing.T) {
	t.Parallel()

	path := written(t, `{
  "workspaceId": "wksp_1",
  "other": {"b": [1, 2.50], "a": "<&>"},
  "accessToken": "access-r",
  "refreshToken": "r",
  "Generation": "not ours"
}`, 0o644)
	s := newFileStorage(t, path)
	got, err := s.Tokens(t.Context())
	if err != nil || got.WorkspaceID != "wksp_1" || got.Access != "access-r" || got.Refresh != "r" ||
		!got.ExpiresAt.IsZero() || !got.IssuedAt.IsZero() || got.Generation != 0 || got.ReadAt.IsZero() {
		t.Errorf("Tokens() = %v, %v; want the three members and nothing else", got, err)
	}
	if got := mode(t, path); got != 0o600 {
		t.Errorf("reading left the file %v, want 0600", got)
	}

	// Of unknown age it is served until the API refuses it, and then exchanged.
	server := newAuthServer(0, "r")
	r := newRefresher(t, server)
	conn := connection("c", s)
	if got, err := r.AccessToken(t.Context(), conn); err != nil || got.Access != "access-r" {
		t.Errorf("AccessToken() = %v, %v; want the stored token", got, err)
	}
	if got, err := r.AfterRefusal(t.Context(), conn, got); err != nil || got.Access != "access-r.1" {
		t.Errorf("AfterRefusal() = %v, %v; want the new pair", got, err)
	}
	file := members(t, path)
	if file["workspaceId"] != "wksp_1" || file["accessToken"] != "access-r.1" || file["refreshToken"] != "r.1" {
		t.Error("the file does not hold the new pair in the same members")
	}
	if file["generation"] != 2.0 || file["expiresAt"] == nil || file["issuedAt"] == nil || file["intent"] != nil {
		t.Errorf("generation %v, intent %v; want the next one, and none", file["generation"], file["intent"])
	}
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), "2.50") || file["Generation"] != "not ours" || file["other"] == nil {
		t.Errorf("members of others were not kept as they are (%v)", err)
	}
	if err := s.ClearTokens(t.Context()); err != nil {
		t.Fatal(err)
	}
	cleared := members(t, path)
	for _, name := range []string{"workspaceId", "accessToken", "refreshToken", "issuedAt", "expiresAt"} {
		if cleared[name] != nil {
			t.Errorf("ClearTokens() kept %s", name)
		}
	}
	if cleared["other"] == nil || cleared["generation"] != 2.0 {
		t.Error("ClearTokens() dropped more than the pair")
	}
}

// TestFileStorageIsOverwrittenFromOutside: another program writes only its three
// members, or removes the file, while an exchange runs. What it did stays.
func TestFileStorageIsOverwrittenFromOutside(t *testing.T) {
	t.Parallel()

	path := filepath.Join(t.TempDir(), "credentials.json")
	s := newFileStorage(t, path)
	claim := func(refresh string) prisma.Claim {
		mustSet(t, s, pair(refresh, 2*time.Hour))
		stored, err := s.Tokens(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Claim(t.Context(), stored)
		if err != nil || !c.Due {
			t.Fatalf("Claim() due = %t, %v", c.Due, err)
		}
		return c
	}
	for name, outside := range map[string]struct {
		do   func() error
		want string // refresh token afterwards
	}{
		"written": {func() error {
			return os.WriteFile(path, []byte(`{"workspaceId":"wksp_1","accessToken":"a","refreshToken":"theirs"}`), 0o600)
		}, "theirs"},
		// Counting has begun anew there and may have come to the same number.
		"written and claimed": {func() error {
			return os.WriteFile(path, []byte(`{"workspaceId":"wksp_1","accessToken":"a","refreshToken":"theirs","generation":1}`), 0o600)
		}, "theirs"},
		"removed": {func() error { return os.Remove(path) }, ""},
	} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		c := claim("ours")
		if err := outside.do(); err != nil {
			t.Fatal(err)
		}
		if err := s.Save(t.Context(), c, pair("fresh", 0)); !errors.Is(err, prisma.ErrSuperseded) {
			t.Errorf("%s: Save() error = %v, want ErrSuperseded", name, err)
		}
		if got, _ := s.Tokens(t.Context()); got.Refresh != outside.want {
			t.Errorf("%s: stored = %v", name, got)
		}
	}
}

// unwritable makes every write of the file fail, also for root, until it is mended.
func unwritable(t *testing.T, path string) (mend func()) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(path+".tmp", "x"), 0o700); err != nil {
		t.Error(err)
	}
	return func() {
		if err := os.RemoveAll(path + ".tmp"); err != nil {
			t.Error(err)
		}
	}
}

// TestFileStorageNoIntentNoExchange: when the intent can't be written nothing is sent,
// the stored token still serves, and all is well once the disk is.
func TestFileStorageNoIntentNoExchange(t *testing.T) {
	t.Parallel()

	path := filepath.Join(t.TempDir(), "credentials.json")
	s := newFileStorage(t, path)
	mustSet(t, s, pair("r", 2*time.Hour))
	mend := unwritable(t, path)
	server := newAuthServer(0, "r")
	if _, err := newRefresher(t, server).AccessToken(t.Context(), connection("c", s)); err == nil {
		t.Error("AccessToken() error = nil")
	}
	if calls, _, _ := server.counts(); calls != 0 {
		t.Errorf("%d exchanges without an intent", calls)
	}
	if got, err := s.Tokens(t.Context()); err != nil || got.Refresh != "r" {
		t.Errorf("Tokens() = %v, %v", got, err)
	}
	mend()
	if got, err := newRefresher(t, server).AccessToken(t.Context(), connection("c", s)); err != nil || got.Access != "access-r.1" {
		t.Errorf("AccessToken() = %v, %v; want the new pair", got, err)
	}
}

// TestFileStorageSaveIsRepeated: the disk fills up while the exchange runs. The refresh
// stays claimed, and the pair is stored as soon as it can be.
func TestFileStorageSaveIsRepeated(t *testing.T) {
	t.Parallel()

	path := filepath.Join(t.TempDir(), "credentials.json")
	s := newFileStorage(t, path)
	mustSet(t, s, pair("r", 2*time.Hour))
	server := newAuthServer(0, "r")
	mend := func() {}
	server.answer = func(int) (prisma.Grant, error) {
		mend = unwritable(t, path)
		return prisma.Grant{}, nil // then as always
	}
	failing := &storageOfFile{FileStorage: s, failed: func() {
		stored, err := s.Tokens(context.Background())
		if err != nil || stored.Refresh != "r" {
			t.Errorf("Tokens() after a failed save = %v, %v", stored, err)
		}
		if _, err := newFileStorage(t, path).Claim(context.Background(), stored); err != nil {
			t.Errorf("Claim() of another: %v", err)
		}
		mend()
	}}
	got, err := newRefresher(t, server).AccessToken(t.Context(), connection("c", failing))
	if err != nil || got.Access != "access-r.1" || failing.failures != 1 {
		t.Errorf("AccessToken() = %v, %v after %d failed saves; want the new pair after 1", got, err, failing.failures)
	}
	if stored, err := s.Tokens(t.Context()); err != nil || stored.Refresh != "r.1" {
		t.Errorf("Tokens() = %v, %v; want the new pair", stored, err)
	}
	if calls, replays, _ := server.counts(); calls != 1 || replays != 0 {
		t.Errorf("%d exchanges with %d replays, want 1 and 0", calls, replays)
	}
}

// storageOfFile tells of each save that failed.
type storageOfFile struct {
	*prisma.FileStorage

	failed   func()
	failures int
}

func (s *storageOfFile) Save(ctx context.Context, claim prisma.Claim, fresh prisma.Tokens) error {
	err := s.FileStorage.Save(ctx, claim, fresh)
	if err != nil {
		s.failures++
		s.failed()
	}
	return err
}

// TestFileStorageWaitsForALockWithItsContext: a process that was stopped while it wrote
// holds the others up, but not for longer than they want.
func TestFileStorageWaitsForALockWithItsContext(t *testing.T) {
	t.Parallel()

	path := filepath.Join(t.TempDir(), "credentials.json")
	s := newFileStorage(t, path)
	mustSet(t, s, pair("r", 0))
	lock, err := os.OpenFile(path+".lock", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.SetTokens(ctx, pair("new", 0)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("SetTokens() error = %v, want the context's", err)
	}
	if got, err := s.Tokens(t.Context()); err != nil || got.Refresh != "r" {
		t.Errorf("Tokens() = %v, %v; reading waits for nobody", got, err)
	}
	stored := make(chan error)
	go func() { stored <- s.SetTokens(t.Context(), pair("new", 0)) }()
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-stored; err != nil {
		t.Errorf("SetTokens() after the lock was free: %v", err)
	}
}

// TestFileStorageLeaseEnds: a refresh that nobody ends, as after a panic, is given up
// after a while, but not while its save is being repeated.
func TestFileStorageLeaseEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "credentials.json")
		s, other := newFileStorage(t, path), newFileStorage(t, path)
		mustSet(t, s, pair("r", 2*time.Hour))
		stored, err := s.Tokens(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		claim, err := s.Claim(t.Context(), stored)
		if err != nil || !claim.Due {
			t.Fatalf("Claim() due = %t, %v", claim.Due, err)
		}
		mend := unwritable(t, path)
		for range 5 {
			time.Sleep(40 * time.Second) // of a minute's lease
			if err := s.Save(t.Context(), claim, pair("fresh", 0)); err == nil {
				t.Error("Save() error = nil")
			}
			if c, err := other.Claim(t.Context(), stored); err != nil || !c.Held {
				t.Errorf("Claim() of another: held = %t, %v", c.Held, err)
			}
		}
		mend()
		time.Sleep(time.Minute)
		synctest.Wait()
		stored.LateToo = true
		retry, err := other.Claim(t.Context(), stored)
		if err != nil || !retry.Due {
			t.Errorf("Claim() after the lease: due = %t, held = %t, %v", retry.Due, retry.Held, err)
		}
		// The first one was only slow, and has the live pair.
		if err := s.Save(t.Context(), claim, pair("fresh", 0)); err != nil {
			t.Errorf("Save() error = %v", err)
		}
		if err := other.Save(t.Context(), retry, pair("none", 0)); !errors.Is(err, prisma.ErrSuperseded) {
			t.Errorf("Save() of the retry: error = %v, want ErrSuperseded", err)
		}
	})
}
