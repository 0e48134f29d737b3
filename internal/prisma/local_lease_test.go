package prisma_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// lockStorage is a plain storage with a refresh lock that counts. Its methods fail
// where a test says so, and check that they are called under the lock.
type lockStorage struct {
	*prisma.MemoryStorage

	lockErr error
	read    func() error
	write   func() error

	lock  chan struct{}
	mu    sync.Mutex
	locks int
}

func newLockStorage(t *testing.T, tokens prisma.Tokens) *lockStorage {
	t.Helper()
	s := &lockStorage{MemoryStorage: prisma.NewMemoryStorage(now, 0), lock: make(chan struct{}, 1)}
	mustSet(t, s.MemoryStorage, tokens)
	return s
}

// asUser hides all but what a user's storage would have.
func (s *lockStorage) asUser() prisma.TokenStorage {
	return struct {
		prisma.TokenStorage
		prisma.RefreshLock
	}{plain{s}, s}
}

func (s *lockStorage) LockRefresh(ctx context.Context) (func(), error) {
	if s.lockErr != nil {
		return nil, s.lockErr
	}
	select {
	case s.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.locks++
	return func() { <-s.lock }, nil
}

func (s *lockStorage) Tokens(ctx context.Context) (prisma.Tokens, error) {
	if s.read != nil && s.held() {
		if err := s.read(); err != nil {
			return prisma.Tokens{}, err
		}
	}
	return s.MemoryStorage.Tokens(ctx)
}

func (s *lockStorage) SetTokens(ctx context.Context, tokens prisma.Tokens) error {
	if s.write != nil {
		if err := s.write(); err != nil {
			return err
		}
	}
	return s.MemoryStorage.SetTokens(ctx, tokens)
}

func (s *lockStorage) held() bool { return len(s.lock) > 0 }

// TestRefreshLockIsReleased follows a refresh along each of its paths: the lock is held
// while the token is exchanged and written, and free at the end.
func TestRefreshLockIsReleased(t *testing.T) {
	t.Parallel()

	outcome := func(class prisma.Outcome) func(*lockStorage) (prisma.Grant, error) {
		return func(*lockStorage) (prisma.Grant, error) { return prisma.Grant{}, &prisma.TokenError{Class: class} }
	}
	failures := 0
	tests := map[string]struct {
		prepare func(*lockStorage)
		answer  func(*lockStorage) (prisma.Grant, error)
		calls   int
		locks   int
	}{
		"saved":         {calls: 1, locks: 1},
		"not sent":      {answer: outcome(prisma.NotSent), calls: 1, locks: 1},
		"misconfigured": {answer: outcome(prisma.Misconfigured), calls: 1, locks: 1},
		"invalid grant": {answer: outcome(prisma.InvalidGrant), calls: 1, locks: 1},
		"unknown":       {answer: outcome(prisma.Unknown), calls: 1, locks: 1},
		"superseded": {answer: func(s *lockStorage) (prisma.Grant, error) {
			return prisma.Grant{}, s.MemoryStorage.SetTokens(context.Background(), pair("new", 0))
		}, calls: 1, locks: 1},
		"logged out": {answer: func(s *lockStorage) (prisma.Grant, error) {
			return prisma.Grant{}, s.ClearTokens(context.Background())
		}, calls: 1, locks: 1},
		"save repeated": {prepare: func(s *lockStorage) {
			s.write = func() error {
				failures++
				if !s.held() {
					return errors.New("written without the lock")
				}
				if failures < 4 {
					return errStorage
				}
				return nil
			}
		}, calls: 1, locks: 1},
		"replaced before the claim": {prepare: func(s *lockStorage) {
			s.read = func() error { return s.MemoryStorage.SetTokens(context.Background(), pair("new", 0)) }
		}, locks: 1},
		"can't be read":  {prepare: func(s *lockStorage) { s.read = func() error { return errStorage } }, locks: 1},
		"reading panics": {prepare: func(s *lockStorage) { s.read = func() error { panic("canary") } }, locks: 1},
		"no refresh token": {prepare: func(s *lockStorage) {
			_ = s.MemoryStorage.SetTokens(context.Background(), pair("", 2*time.Hour))
		}, locks: 1},
		"too late to send": {prepare: func(s *lockStorage) {
			s.read = func() error { time.Sleep(6 * time.Second); return nil }
		}, locks: 1},
		"can't be locked": {prepare: func(s *lockStorage) { s.lockErr = errStorage }},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				s := newLockStorage(t, pair("r", 2*time.Hour))
				if tc.prepare != nil {
					tc.prepare(s)
				}
				server := newAuthServer(time.Second, "r")
				server.answer = func(int) (prisma.Grant, error) {
					if !s.held() {
						t.Error("the token is exchanged without the lock")
					}
					if tc.answer == nil {
						return prisma.Grant{}, nil
					}
					return tc.answer(s)
				}
				r := newRefresher(t, server)
				_, _ = r.AccessToken(t.Context(), connection("c", s.asUser()))
				if err := r.Wait(t.Context()); err != nil {
					t.Errorf("Wait() error = %v", err)
				}
				if calls, _, _ := server.counts(); calls != tc.calls || s.locks != tc.locks || s.held() {
					t.Errorf("%d exchanges under %d locks, held at the end: %t; want %d under %d, free",
						calls, s.locks, s.held(), tc.calls, tc.locks)
				}
			})
		})
	}
}

// TestRefreshLockOfAnotherProcess: callers wait for the refresh of another process as
// long as they would for their own, and then use what it stored.
func TestRefreshLockOfAnotherProcess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLockStorage(t, pair("r", 2*time.Hour))
		server := newAuthServer(0, "r")
		release, err := s.LockRefresh(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(9*time.Second, func() {
			_ = s.MemoryStorage.SetTokens(context.Background(), pair("theirs", 0))
			release()
		})
		start := now()
		got, err := newRefresher(t, server).AccessToken(t.Context(), connection("c", s.asUser()))
		if took := time.Since(start); err != nil || got.Access != "access-theirs" || took > 10*time.Second {
			t.Errorf("after %s AccessToken() = %v, %v; want the other's pair", took, got, err)
		}

		// One that never lets go makes them come back later.
		if _, err := s.LockRefresh(t.Context()); err != nil {
			t.Fatal(err)
		}
		mustSet(t, s.MemoryStorage, pair("r", 2*time.Hour))
		_, err = newRefresher(t, server).AccessToken(t.Context(), connection("c", s.asUser()))
		if fault.KindOf(err) != fault.RefreshInProgress {
			t.Errorf("AccessToken() error = %v, want kind %q", err, fault.RefreshInProgress)
		}
		time.Sleep(10 * time.Second) // the flight gives up too
		if calls, _, _ := server.counts(); calls != 0 {
			t.Errorf("%d exchanges, want 0", calls)
		}
	})
}

// TestPanicFreesTheRefreshLock: an exchange that panics has an unknown outcome, which is
// settled like any other, so the lock is free at once.
func TestPanicFreesTheRefreshLock(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newLockStorage(t, pair("r", 2*time.Hour))
		server := newAuthServer(0, "r")
		server.answer = func(int) (prisma.Grant, error) { panic("canary") }
		if _, err := newRefresher(t, server).AccessToken(t.Context(), connection("c", s.asUser())); err == nil {
			t.Error("AccessToken() error = nil")
		}
		synctest.Wait()
		if s.held() {
			t.Error("the lock is still held")
		}
	})
}
