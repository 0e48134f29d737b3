package storagetest_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/storagetest"
)

// browser is what a user's storage may be built on: strings by their names.
type browser struct {
	mu    sync.Mutex
	items map[string]string
	lock  chan struct{} // holds one value while somebody refreshes
}

func newBrowser() *browser {
	return &browser{items: map[string]string{}, lock: make(chan struct{}, 1)}
}

// userStorage is a storage as the documentation's examples have it: three values, and
// no idea of clocks, generations or leases.
type userStorage struct{ browser *browser }

// userTokens is the form in which it keeps them.
type userTokens struct {
	WorkspaceID  string `json:"workspaceId"`
	AccessToken  string `json:"accessToken"`
	RefreshToken string `json:"refreshToken,omitempty"`

	IssuedAt  time.Time `json:"issuedAt"`
	ExpiresAt time.Time `json:"expiresAt"`
}

func (s userStorage) Tokens(context.Context) (prisma.Tokens, error) {
	s.browser.mu.Lock()
	defer s.browser.mu.Unlock()
	text, ok := s.browser.items["prisma-tokens"]
	if !ok {
		return prisma.Tokens{}, fault.New(fault.NotFound, "Log in first.", nil)
	}
	var stored userTokens
	if err := json.Unmarshal([]byte(text), &stored); err != nil {
		return prisma.Tokens{}, err
	}
	return prisma.Tokens{
		WorkspaceID: stored.WorkspaceID, Access: stored.AccessToken, Refresh: stored.RefreshToken,
		IssuedAt: stored.IssuedAt, ExpiresAt: stored.ExpiresAt,
	}, nil
}

func (s userStorage) SetTokens(_ context.Context, tokens prisma.Tokens) error {
	text, err := json.Marshal(userTokens{
		WorkspaceID: tokens.WorkspaceID, AccessToken: tokens.Access, RefreshToken: tokens.Refresh,
		IssuedAt: tokens.IssuedAt, ExpiresAt: tokens.ExpiresAt,
	})
	if err != nil {
		return err
	}
	s.browser.mu.Lock()
	defer s.browser.mu.Unlock()
	s.browser.items["prisma-tokens"] = string(text)
	return nil
}

func (s userStorage) ClearTokens(context.Context) error {
	s.browser.mu.Lock()
	defer s.browser.mu.Unlock()
	delete(s.browser.items, "prisma-tokens")
	return nil
}

// lockingStorage is one whose author also keeps processes apart. Its lock is bound to
// the context that it was taken with, as one of a database session is.
type lockingStorage struct{ userStorage }

func (s lockingStorage) LockRefresh(ctx context.Context) (release func(), err error) {
	select {
	case s.browser.lock <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	var once sync.Once
	release = func() { once.Do(func() { <-s.browser.lock }) }
	context.AfterFunc(ctx, release)
	return release, nil
}

// comparingStorage is one whose author also thought of a logout that comes too late.
type comparingStorage struct{ userStorage }

func (s comparingStorage) ClearTokensIfCurrent(_ context.Context, tokens prisma.Tokens) error {
	s.browser.mu.Lock()
	defer s.browser.mu.Unlock()
	var stored userTokens
	if text, ok := s.browser.items["prisma-tokens"]; !ok || json.Unmarshal([]byte(text), &stored) != nil {
		return nil
	}
	if stored.AccessToken == tokens.Access && stored.RefreshToken == tokens.Refresh {
		delete(s.browser.items, "prisma-tokens")
	}
	return nil
}

// realTime drives the clocks of these tests.
func realTime() time.Time {
	return time.Now() //nolint:forbidigo // this is the injected clock
}

func TestStoragesOfUsers(t *testing.T) {
	t.Parallel()

	for name, open := range map[string]func(*browser) prisma.TokenStorage{
		"plain":             func(b *browser) prisma.TokenStorage { return userStorage{b} },
		"with a lock":       func(b *browser) prisma.TokenStorage { return lockingStorage{userStorage{b}} },
		"compare and clear": func(b *browser) prisma.TokenStorage { return comparingStorage{userStorage{b}} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storagetest.Run(t, func(*testing.T) storagetest.Setup {
				clock, b := storagetest.NewClock(realTime), newBrowser()
				return storagetest.Setup{
					Storage: open(b),
					Other:   func(*testing.T) prisma.TokenStorage { return open(b) },
					Now:     clock.Now,
					Advance: clock.Advance,
				}
			})
		})
	}
}
