package prisma

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Names beside the token file. The two locks are never removed, since two processes
// that lock different files of one name would not exclude each other.
const (
	lockSuffix  = ".lock"         // held for a moment, around each change of the file
	leaseSuffix = ".refresh.lock" // held from the claim of a refresh to its end
	tempSuffix  = ".tmp"          // the next version of the file while it is written
)

// FileStorageConfig says where a FileStorage is.
type FileStorageConfig struct {
	// Path is the token file. "" takes ~/.prisma/credentials.json. If it is a symbolic
	// link, the file that it points to is the token file, and the link stays. Must be on
	// a local file system: locks of network file systems can't be relied on.
	Path string

	// Now is the storage's clock. Default time.Now. All processes that share the file
	// must agree on the time, as those of one machine do.
	Now func() time.Time

	// Lease is after how long a refresh is given up that was claimed through this value
	// and that nobody has saved, tried to save or settled since, as when the code that
	// did it panicked. 0 takes the default of RefreshSettings. When the process itself
	// ends, its refresh ends at once.
	Lease time.Duration
}

// FileStorage keeps one connection's tokens in a JSON file that programs of one user
// share, such as the runs of a command line tool. It offers everything a storage can:
// counted generations, compare-and-clear, and a refresh lease between processes.
// Any number of values and processes may use one file. Printing it shows no token.
//
// The file is what the TypeScript SDK's storage for command line tools writes,
// {"workspaceId", "accessToken", "refreshToken"}, and beside them some members of our
// own: "issuedAt", "expiresAt", "generation", "intent", "suspect", "retries", "notBefore"
// and "ended". Members that are neither are kept. A file with only those three is read as a pair of unknown
// age. After ClearTokens it holds no tokens but
// still exists, because its generation fences saves that come late.
//
// The file is for its owner alone (0600), also if it was looser before: reading it
// mends that where it may, writing always. A missing directory is made (0700); one that
// exists is left as it is. Reading needs no lock, as the file is only ever replaced
// whole, by a rename after an fsync. So whatever is killed when, the file is either
// the old one or the new one, and what Save or SetTokens said was stored is.
//
// A refresh holds a file lock from its claim to its end, which the kernel frees when
// the process dies; what stays is the intent in the file. The next process then knows
// that the refresh token may have been sent, and presents it again, but only when its
// access token is about to end or was refused (see MemoryStorage.Claim). A process
// that is stopped while it refreshes keeps the others waiting until it goes on or is
// killed: it may hold the only live pair.
//
// A file that can't be understood gives an error that wraps ErrTokenFile, and nothing
// but SetTokens, a new login, ever overwrites it.
type FileStorage struct {
	path  string
	now   func() time.Time
	lease time.Duration

	mu   sync.Mutex
	held *heldLease // the refresh claimed through this value, if one is under way
}

// heldLease is a refresh under way: its file lock, by the time of its claim.
type heldLease struct {
	taken  time.Time
	lock   *os.File
	expiry *time.Timer
}

var (
	_ TokenStorage    = (*FileStorage)(nil)
	_ CompareAndClear = (*FileStorage)(nil)
	_ RefreshLease    = (*FileStorage)(nil)
)

// NewFileStorage returns the storage in that file; it touches nothing yet. It fails
// for a user without a home directory when Path is "".
func NewFileStorage(cfg FileStorageConfig) (*FileStorage, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now //nolint:forbidigo // the default of the injected clock
	}
	if cfg.Lease < 0 {
		return nil, fmt.Errorf("token file: the lease must be positive, is %s", cfg.Lease)
	}
	if cfg.Path == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return nil, fmt.Errorf("token file: find the home directory: %w", err)
		}
		cfg.Path = filepath.Join(home, ".prisma", "credentials.json")
	}
	path, err := filepath.Abs(cfg.Path) // the program may change its directory later
	if err != nil {
		return nil, fmt.Errorf("token file: %w", err)
	}
	return &FileStorage{
		path: path, now: cfg.Now, lease: cmp.Or(cfg.Lease, RefreshSettings{}.WithDefaults().Lease),
	}, nil
}

// Path is where the token file is: absolute, links not followed.
func (s *FileStorage) Path() string { return s.path }

// String names the file without what is in it.
func (s *FileStorage) String() string { return "tokens in " + s.path }

// GoString is String, so that %#v shows no secret either.
func (s *FileStorage) GoString() string { return s.String() }

// Tokens returns the stored pair. It takes no lock and waits for nobody.
func (s *FileStorage) Tokens(ctx context.Context) (Tokens, error) {
	if err := ctx.Err(); err != nil {
		return Tokens{}, fmt.Errorf("read the token file: %w", err)
	}
	path, err := followLink(s.path)
	if err != nil {
		return Tokens{}, err
	}
	file, err := readTokenFile(path)
	if err != nil {
		return Tokens{}, err
	}
	return file.record.read(s.time())
}

// SetTokens replaces the pair, whatever the file held before: a new login is also how
// a user gets over a file that can't be understood. A refresh that is under way will
// find that it was superseded.
func (s *FileStorage) SetTokens(ctx context.Context, tokens Tokens) error {
	return s.change(ctx, true, func(_ string, file *tokenFile) (bool, error) {
		file.record.set(tokens)
		return true, nil
	})
}

// ClearTokens forgets the pair. Without one it does nothing.
func (s *FileStorage) ClearTokens(ctx context.Context) error {
	return s.change(ctx, false, func(_ string, file *tokenFile) (bool, error) {
		changed := file.record.present() || file.record.ended != endedCleared
		file.record.end(endedCleared)
		return changed, nil
	})
}

// ClearTokensIfCurrent forgets the pair if it is still the stored one.
func (s *FileStorage) ClearTokensIfCurrent(ctx context.Context, tokens Tokens) error {
	return s.change(ctx, false, func(_ string, file *tokenFile) (bool, error) {
		if !file.record.present() || !file.record.tokens.SamePair(tokens) {
			return false, nil
		}
		file.record.end(endedCleared)
		return true, nil
	})
}

// Claim takes the lease and writes the intent, as MemoryStorage.Claim does. While
// another value or process refreshes, the claim is Held. An error means that the
// intent is not known to be on the disk, so nothing may be sent: the directory can't be
// written, the disk is full, or ctx ended.
func (s *FileStorage) Claim(ctx context.Context, refused Tokens) (Claim, error) {
	var claim Claim
	var lock *os.File
	err := s.change(ctx, false, func(path string, file *tokenFile) (changed bool, err error) {
		claim, changed, err = file.record.claim(refused, s.time(), func() (bool, error) {
			var err error
			lock, err = tryLock(path + leaseSuffix)
			return lock == nil, err
		})
		return changed, err
	})
	if err == nil && claim.Due {
		s.hold(lock, claim.Taken)
		return claim, nil
	}
	unlock(lock)
	if err != nil {
		return Claim{}, err
	}
	return claim, nil
}

// Save stores the fresh pair if the claimed one is still stored, and ends the lease.
// When it fails the lease goes on, so that it can be repeated in peace.
func (s *FileStorage) Save(ctx context.Context, claim Claim, fresh Tokens) error {
	err := s.change(ctx, false, func(_ string, file *tokenFile) (bool, error) {
		return file.record.save(claim, fresh)
	})
	if err != nil && !errors.Is(err, ErrSuperseded) {
		s.prolong(claim.Taken)
		return err
	}
	s.release(claim.Taken)
	return err
}

// Settle ends the lease of an exchange that gave no pair. The lease ends even if the
// outcome can't be written: then the intent stays open, which is the careful reading.
func (s *FileStorage) Settle(ctx context.Context, claim Claim, outcome Outcome) error {
	defer s.release(claim.Taken)
	return s.change(ctx, false, func(_ string, file *tokenFile) (bool, error) {
		return file.record.settle(claim, outcome, s.time()), nil
	})
}

// Close gives up a refresh that was claimed through this value and has not ended, as
// the end of the process would: for a program that stops waiting for it and lives on.
// Its pair may still be saved later. The storage can be used further.
func (s *FileStorage) Close() error {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held != nil {
		s.release(held.taken)
	}
	return nil
}

// time is the storage's time as it is kept in the file, without a monotonic reading.
func (s *FileStorage) time() time.Time { return s.now().UTC().Round(0) }

// change reads the file, lets fn change it, and if fn says so replaces it, while
// nobody else can. path is the file itself, without links. A login makes what is
// missing and does not mind what was there.
func (s *FileStorage) change(
	ctx context.Context, login bool, fn func(path string, file *tokenFile) (changed bool, err error),
) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("change the token file: %w", err)
	}
	path, err := followLink(s.path)
	if err != nil {
		return err
	}
	if login {
		if err := makeDir(filepath.Dir(path)); err != nil {
			return fmt.Errorf("make the directory of the token file: %w", err)
		}
	}
	lock, err := waitLock(ctx, path+lockSuffix)
	if errors.Is(err, os.ErrNotExist) { // no directory: no file to lock, and nothing that fn could change
		_, err = fn(path, &tokenFile{})
		return err
	}
	if err != nil {
		return err
	}
	defer unlock(lock)
	file, err := readTokenFile(path)
	if err != nil && (!login || !errors.Is(err, ErrTokenFile)) {
		return err
	}
	changed, err := fn(path, &file)
	if !changed {
		return err
	}
	if writeErr := writeTokenFile(path, file); writeErr != nil {
		return writeErr
	}
	return err
}

// hold keeps the lock of a refresh until release, or for the length of a lease.
func (s *FileStorage) hold(lock *os.File, taken time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil { // somebody removed its lock file, so its lock excludes nobody any more
		s.held.expiry.Stop()
		unlock(s.held.lock)
	}
	s.held = &heldLease{taken: taken, lock: lock, expiry: time.AfterFunc(s.lease, func() { s.release(taken) })}
}

// prolong lets the lease begin anew, if it is still held: its holder is at work.
func (s *FileStorage) prolong(taken time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil && s.held.taken.Equal(taken) {
		s.held.expiry.Reset(s.lease)
	}
}

// release lets go of the lock of the refresh that was claimed then, if it is held.
func (s *FileStorage) release(taken time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil || !s.held.taken.Equal(taken) {
		return
	}
	s.held.expiry.Stop()
	unlock(s.held.lock)
	s.held = nil
}
