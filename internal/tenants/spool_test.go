package tenants_test

import (
	"bytes"
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// logged collects what is logged.
type logged struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Write implements io.Writer.
func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) count(what string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), what)
}

// spooler is a spool on a directory, as of one process.
type spooler struct {
	*tenants.Spool

	log *logged
}

func openSpool(t *testing.T, dir string, store *tenants.Store) *spooler {
	t.Helper()
	s := &spooler{log: &logged{}}
	var err error
	s.Spool, err = tenants.OpenSpool(tenants.SpoolConfig{
		Dir: dir, Store: store, Now: clock, Logger: slog.New(slog.NewJSONHandler(s.log, nil)),
	})
	ok(t, err)
	t.Cleanup(s.Close)
	return s
}

// die does to the spool what the end of its process does: the locks are free, and
// everything else stays as it is.
func (s *spooler) die() { s.Close() }

func (s *spooler) replay(t *testing.T, want tenants.Replayed) {
	t.Helper()
	if diff := cmp.Diff(want, s.Replay(t.Context())); diff != "" {
		t.Errorf("Replay() (-want +got):\n%s", diff)
	}
}

// keep spools the pair of that name for the claim and returns what removes it.
func (s *spooler) keep(t *testing.T, l *leased, claim prisma.Claim, name string) (done func()) {
	t.Helper()
	done, err := s.Keep(t.Context(), l.PrismaConnection(l.owner, l.id), claim, next(claim, name))
	ok(t, err)
	return done
}

// files lists everything in the spool but locks, with the directories' names cut off.
func files(t *testing.T, dir string) []string {
	t.Helper()
	var names []string
	for _, path := range paths(t, dir) {
		names = append(names, filepath.Base(path))
	}
	return names
}

func paths(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	ok(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && entry.Name() != "lock" {
			found = append(found, path)
		}
		return err
	}))
	return found
}

// replicas lists the directories in the spool.
func replicas(t *testing.T, dir string) int {
	t.Helper()
	found, err := os.ReadDir(dir)
	ok(t, err)
	return len(found)
}

// signalling tells when a pair was kept, for tests that wait for it.
type signalling struct {
	prisma.Spool

	kept chan struct{}
}

// Keep implements prisma.Spool.
func (s signalling) Keep(ctx context.Context, conn prisma.Connection, claim prisma.Claim, fresh prisma.Tokens) (func(), error) {
	done, err := s.Spool.Keep(ctx, conn, claim, fresh)
	if err == nil {
		s.kept <- struct{}{}
	}
	return done, err
}

// The database takes no pair any more, and then the process dies as well: the next one
// finds the pair and stores it, and the refresh token is presented once.
func TestSpoolOutlivesItsProcess(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	e := startTokenEndpoint(t, "refresh-1")
	l.db.Advance(t, 2*time.Hour)
	dir := filepath.Join(t.TempDir(), "spool")
	broken := openPool(t, l.db.AppURL, 1, nil)
	broken.Close() // the pool for saving pairs; claims are still made
	store := l.store(t, tenants.Config{Pool: l.db.Pool, TokenPool: broken})
	dying := openSpool(t, dir, store)
	oauth, err := prisma.NewOAuth(prisma.OAuthConfig{AuthURL: e.URL})
	ok(t, err)
	kept := make(chan struct{}, 1)
	refresher, err := prisma.NewRefresher(prisma.RefresherConfig{
		Exchanger: oauth, Now: clock, Spool: signalling{Spool: dying, kept: kept},
	})
	ok(t, err)
	caller, leave := context.WithCancel(t.Context())
	asked := make(chan error, 1)
	go func() {
		_, err := refresher.AccessToken(caller, store.PrismaConnection(l.owner, l.id))
		asked <- err
	}()
	<-kept
	leave()
	if err := <-asked; err == nil {
		t.Error("an access token was handed out whose pair is not stored")
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := refresher.Wait(gone); err == nil {
		t.Error("the refresher says that it has lost nothing")
	}
	dying.die()
	if got := files(t, dir); len(got) != 1 {
		t.Fatalf("the spool has %v, want one entry", got)
	}

	next := openSpool(t, dir, l.Store)
	next.replay(t, tenants.Replayed{Stored: 1})
	l.wantState(t, "replayed", state{Status: "active", Generation: 2})
	tokens, err := newRefresher(t, e).AccessToken(t.Context(), l.PrismaConnection(l.owner, l.id))
	if err != nil || tokens.Access != "access-of-exchange-1" || tokens.Refresh != "refresh-of-exchange-1" {
		t.Errorf("AccessToken() = %v, %v", tokens, err)
	}
	if asked, replays := e.counts(); asked != 1 || replays != 0 {
		t.Errorf("%d exchanges, %d replays; want 1 and 0", asked, replays)
	}
	next.replay(t, tenants.Replayed{})
	if n := replicas(t, dir); n != 1 {
		t.Errorf("the spool has %d directories, want that of the living process", n)
	}
	next.Close()
	if n := replicas(t, dir); n != 0 {
		t.Errorf("the spool has %d directories after everybody's end", n)
	}
}

// What is stored in the end is not replayed.
func TestSpoolIsEmptyAfterASaveAtLast(t *testing.T) {
	t.Parallel()
	l := openLeased(t)
	e := startTokenEndpoint(t, "refresh-1")
	l.db.Advance(t, 2*time.Hour)
	dir := t.TempDir()
	spool := openSpool(t, dir, l.Store)
	wire := &cutter{}
	store := l.store(t, tenants.Config{Pool: l.db.Pool, TokenPool: openPool(t, l.db.AppURL, 1, wire)})
	wire.arm(1, false, false)
	wire.atMost(2)
	oauth, err := prisma.NewOAuth(prisma.OAuthConfig{AuthURL: e.URL})
	ok(t, err)
	refresher, err := prisma.NewRefresher(prisma.RefresherConfig{Exchanger: oauth, Now: clock, Spool: spool})
	ok(t, err)
	_, err = refresher.AccessToken(t.Context(), store.PrismaConnection(l.owner, l.id))
	ok(t, err)
	ok(t, refresher.Wait(t.Context()))
	l.wantState(t, "saved", state{Status: "active", Generation: 2})
	for range 1000 { // the entry is removed behind everybody's back
		if len(files(t, dir)) == 0 {
			break
		}
		<-time.After(time.Millisecond)
	}
	spool.replay(t, tenants.Replayed{})
}

// An entry is for the generation that it was exchanged for, and for no other.
func TestSpoolOverwritesNothing(t *testing.T) {
	t.Parallel()
	tests := map[string]func(t *testing.T, l *leased, claim prisma.Claim){
		"it was stored by its own process": func(t *testing.T, l *leased, claim prisma.Claim) {
			t.Helper()
			ok(t, l.Save(t.Context(), claim, next(claim, "other")))
		},
		"the user connected again": func(t *testing.T, l *leased, _ prisma.Claim) {
			t.Helper()
			l.connect(t, l.owner, "user", l.pair(t, "again", "wksp_1"))
		},
		"disconnected": func(t *testing.T, l *leased, _ prisma.Claim) {
			t.Helper()
			_, err := l.Disconnect(t.Context(), tenants.System(), l.owner, l.id)
			ok(t, err)
		},
	}
	for name, move := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, dir := openLeased(t), t.TempDir()
			claim := l.due(t)
			spool := openSpool(t, dir, l.Store)
			spool.keep(t, l, claim, "spooled")
			move(t, l, claim)
			before := l.state(t)
			spool.replay(t, tenants.Replayed{Superseded: 1})
			l.wantState(t, "replayed", before)
			if tokens, err := l.Tokens(t.Context()); err == nil && tokens.Access == "access-spooled" {
				t.Error("the entry has overwritten another pair")
			}
			if got := files(t, dir); len(got) != 0 {
				t.Errorf("the spool still has %v", got)
			}
			spool.replay(t, tenants.Replayed{})
		})
	}
}

// Two exchanges of one generation, the second as a late retry: neither overwrites the
// other in the spool, and the first is stored.
func TestSpoolOfALateRetry(t *testing.T) {
	t.Parallel()
	l, dir := openLeased(t), t.TempDir()
	first := l.due(t)
	l.db.Advance(t, late)
	retry := l.due(t)
	dead := openSpool(t, dir, l.Store)
	dead.keep(t, l, first, "first")
	dead.keep(t, l, retry, "retry")
	dead.die()
	got := openSpool(t, dir, l.Store).Replay(t.Context())
	if got.Stored+got.Superseded != 2 || got.Stored == 0 {
		t.Errorf("Replay() = %+v", got)
	}
	if s := l.state(t); s.Generation != 2 {
		t.Errorf("state = %+v", s)
	}
}

// A database that was restored from a backup is behind its spool: the entry may be all
// that is left of the connection, so it stays.
func TestSpoolIsAheadOfTheDatabase(t *testing.T) {
	t.Parallel()
	l, dir := openLeased(t), t.TempDir()
	claim := l.due(t)
	claim.Current.Generation = 5
	spool := openSpool(t, dir, l.Store)
	spool.keep(t, l, claim, "ahead")
	for range 2 {
		spool.replay(t, tenants.Replayed{Waiting: 1})
	}
	if n := spool.log.count("the database is behind"); n != 1 {
		t.Errorf("said %d times, want once", n)
	}
	l.wantState(t, "replayed", state{Status: "active", Generation: 1, Leased: true, Intent: true})
}

// Nobody touches the directory of a process that lives, and only one takes over that of
// a dead one.
func TestSpoolsShareADirectory(t *testing.T) {
	t.Parallel()
	l, dir := openLeased(t), t.TempDir()
	claim := l.due(t)
	living, other, third := openSpool(t, dir, l.Store), openSpool(t, dir, l.Store), openSpool(t, dir, l.Store)
	living.keep(t, l, claim, "2")
	other.replay(t, tenants.Replayed{})
	if got := files(t, dir); len(got) != 1 {
		t.Errorf("the spool has %v, want one entry", got)
	}
	l.wantState(t, "a neighbour's replay", state{Status: "active", Generation: 1, Leased: true, Intent: true})

	living.die()
	results := make(chan tenants.Replayed, 2)
	for _, s := range []*spooler{other, third} {
		go func() { results <- s.Replay(t.Context()) }()
	}
	one, two := <-results, <-results
	if one.Stored+two.Stored != 1 || one.Superseded+two.Superseded+one.Waiting+two.Waiting != 0 {
		t.Errorf("Replay() = %+v and %+v, want it stored once", one, two)
	}
	l.wantState(t, "taken over", state{Status: "active", Generation: 2})
	if n := replicas(t, dir); n != 2 {
		t.Errorf("the spool has %d directories, want those of the living", n)
	}
}

// The answer to a COMMIT is lost, before it or after: the entry is stored once, and
// goes when that is certain.
func TestSpoolOverACutWire(t *testing.T) {
	t.Parallel()
	for name, after := range map[string]bool{"before the commit": false, "after the commit": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, dir := openLeased(t), t.TempDir()
			claim := l.due(t)
			wire := &cutter{}
			store := l.store(t, tenants.Config{Pool: l.db.Pool, TokenPool: openPool(t, l.db.AppURL, 1, wire)})
			spool := openSpool(t, dir, store)
			spool.keep(t, l, claim, "2")
			wire.arm(1, after, false)
			wire.atMost(1)
			spool.replay(t, tenants.Replayed{Waiting: 1})
			if got := files(t, dir); len(got) != 1 {
				t.Fatalf("the spool has %v, want the entry", got)
			}
			spool.replay(t, tenants.Replayed{Stored: 1})
			l.wantState(t, "replayed", state{Status: "active", Generation: 2})
			if got := l.stored(t).Refresh; got != "refresh-2" {
				t.Error("another refresh token is stored")
			}
		})
	}
}

// Run goes on while the database is away, and stores when it is back.
func TestSpoolRun(t *testing.T) {
	t.Parallel()
	l, dir := openLeased(t), t.TempDir()
	claim := l.due(t)
	wire := &cutter{}
	store := l.store(t, tenants.Config{Pool: l.db.Pool, TokenPool: openPool(t, l.db.AppURL, 1, wire)})
	spool := openSpool(t, dir, store)
	spool.keep(t, l, claim, "2")
	wire.arm(1, false, false)
	wire.atMost(1)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		spool.Run(ctx)
	}()
	for l.state(t).Generation != 2 {
		select {
		case <-t.Context().Done():
			t.Fatal("not stored")
		case <-time.After(10 * time.Millisecond):
		}
	}
	stop()
	<-ended
}

// keysetOf is a keyset of that environment and the text it was made of.
func keysetOf(t *testing.T, environment string) *sealing.Keyset {
	t.Helper()
	text, err := sealing.Generate()
	ok(t, err)
	keyset, err := sealing.Parse(text, environment)
	ok(t, err)
	return keyset
}

// A spool shows who waits and nothing else, to its owner only.
func TestSpoolShowsNoToken(t *testing.T) {
	t.Parallel()
	l, dir := openLeased(t), filepath.Join(t.TempDir(), "a", "spool")
	claim := l.due(t)
	spool := openSpool(t, dir, l.Store)
	done := spool.keep(t, l, claim, "canary")
	found := paths(t, dir)
	if len(found) != 1 || !strings.HasPrefix(filepath.Base(found[0]), l.owner.String()+"."+l.id.String()+".1.") {
		t.Fatalf("the spool has %v", found)
	}
	content, err := os.ReadFile(found[0])
	ok(t, err)
	for _, secret := range []string{"canary", "access", "refresh", "wksp_1"} {
		if bytes.Contains(content, []byte(secret)) {
			t.Errorf("the file shows %q", secret)
		}
	}
	for path, want := range map[string]fs.FileMode{dir: 0o700, filepath.Dir(found[0]): 0o700, found[0]: 0o600} {
		info, err := os.Stat(path)
		ok(t, err)
		if got := info.Mode().Perm(); got != want {
			t.Errorf("mode of %s = %o, want %o", filepath.Base(path), got, want)
		}
	}
	done()
	done()
	if got := files(t, dir); len(got) != 0 {
		t.Errorf("done() leaves %v", got)
	}
	if _, err := spool.Keep(t.Context(), prisma.Connection{Key: "x", Storage: prisma.NewMemoryStorage(clock, 0)}, claim, next(claim, "canary")); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("Keep() of another storage = %v", err)
	}
	if spool.log.count("canary") != 0 {
		t.Error("the log shows a token")
	}
}

// OpenSpool refuses a directory that can never be used, or that others could tamper with.
func TestOpenSpoolRefuses(t *testing.T) {
	t.Parallel()
	s := openService(t)
	file := filepath.Join(t.TempDir(), "file")
	ok(t, os.WriteFile(file, nil, 0o600))
	open := filepath.Join(t.TempDir(), "open")
	ok(t, os.Mkdir(open, 0o700))
	ok(t, os.Chmod(open, 0o777))
	for name, cfg := range map[string]tenants.SpoolConfig{
		"no directory": {Store: s.Store, Now: clock},
		"no store":     {Dir: t.TempDir(), Now: clock},
		"no clock":     {Dir: t.TempDir(), Store: s.Store},
		"a file":       {Dir: file, Store: s.Store, Now: clock},
		"below a file": {Dir: filepath.Join(file, "spool"), Store: s.Store, Now: clock},
		"anybody's":    {Dir: open, Store: s.Store, Now: clock},
	} {
		if spool, err := tenants.OpenSpool(cfg); err == nil {
			spool.Close()
			t.Errorf("%s: no error", name)
		}
	}
}

// A pair that has waited for too long is reported, and stored all the same.
func TestSpoolOfLastYear(t *testing.T) {
	t.Parallel()
	l, dir := openLeased(t), t.TempDir()
	claim := l.due(t)
	log := &logged{}
	spool, err := tenants.OpenSpool(tenants.SpoolConfig{
		Dir: dir, Store: l.Store, Now: func() time.Time { return clock().Add(91 * 24 * time.Hour) },
		Logger: slog.New(slog.NewJSONHandler(log, nil)),
	})
	ok(t, err)
	t.Cleanup(spool.Close)
	_, err = spool.Keep(t.Context(), l.PrismaConnection(l.owner, l.id), claim, next(claim, "2"))
	ok(t, err)
	if got := spool.Replay(t.Context()); got.Stored != 1 {
		t.Errorf("Replay() = %+v", got)
	}
	if n := log.count("older than a refresh token lives"); n != 1 {
		t.Errorf("said %d times, want once", n)
	}
	l.wantState(t, "replayed", state{Status: "active", Generation: 2})
	if !slices.Equal(files(t, dir), nil) {
		t.Error("the entry stays")
	}
}

// Entries are replayed however far the clocks of the process and of the database were set
// since they were spooled.
func TestSpoolAfterAClockWasSet(t *testing.T) {
	t.Parallel()
	for _, by := range []time.Duration{-24 * time.Hour, -10 * time.Minute, 10 * time.Minute, 24 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			t.Parallel()
			l, dir := openLeased(t), t.TempDir()
			dying := openSpool(t, dir, l.Store)
			dying.keep(t, l, l.due(t), "2")
			dying.die()
			l.db.Advance(t, by)
			next, err := tenants.OpenSpool(tenants.SpoolConfig{
				Dir: dir, Store: l.Store, Now: func() time.Time { return clock().Add(-by) },
			})
			ok(t, err)
			t.Cleanup(next.Close)
			if diff := cmp.Diff(tenants.Replayed{Stored: 1}, next.Replay(t.Context())); diff != "" {
				t.Errorf("Replay() (-want +got):\n%s", diff)
			}
			l.wantState(t, "replayed", state{Status: "active", Generation: 2})
		})
	}
}
