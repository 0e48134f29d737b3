package tenants_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/connect-prisma/server/internal/tenants"
)

// A mark is closed to others, holds no secret, is replaced by newer ones, and one that
// can't be read is not taken for none.
func TestFenceMarks(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	dir := t.TempDir()
	marks := func() []string {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		ok(t, err)
		return files
	}
	for range 3 {
		store := l.store(t, tenants.Config{Pool: l.db.Pool, FenceDir: dir})
		storage := store.TokensOf(l.owner, l.id)
		claim, err := storage.Claim(t.Context(), l.stored(t))
		ok(t, err)
		ok(t, storage.Save(t.Context(), claim, next(claim, "later")))
		ok(t, store.Beat(t.Context()))
		ok(t, store.Beat(t.Context()))
	}
	files := marks()
	if len(files) != 1 {
		t.Fatalf("three processes leave %q, want the last one's mark", files)
	}
	info, err := os.Stat(files[0])
	ok(t, err)
	content, err := os.ReadFile(files[0])
	ok(t, err)
	if info.Mode().Perm() != 0o600 || !strings.Contains(string(content), `"generation":4`) ||
		strings.Contains(string(content), "later") || strings.Contains(string(content), "refresh-") {
		t.Errorf("the mark has the mode %s and says:\n%s", info.Mode(), content)
	}

	ok(t, os.WriteFile(files[0], content[:len(content)/2], 0o600))
	if _, err := tenants.NewStore(tenants.Config{Pool: l.db.Pool, Keyset: l.keyset, FenceDir: dir}); err == nil || !strings.Contains(err.Error(), files[0]) {
		t.Errorf("NewStore() with half a mark: %v", err)
	}
}
