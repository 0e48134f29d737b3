package prisma_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
)

// now is the clock that tests inject; within a synctest bubble it is the bubble's.
func now() time.Time {
	return time.Now() //nolint:forbidigo // this is the injected clock
}

// errStorage is what a broken storage says.
var errStorage = errors.New("storage is down")

// authServer is a strict authorization server in memory: a refresh token works once,
// and a second use of one revokes everything.
type authServer struct {
	latency time.Duration

	// answer, if set, decides what the nth exchange (from 1) comes to instead; what it
	// returns is sent whether or not the token was good.
	answer func(n int) (prisma.Grant, error)

	// half, if set, says of which exchanges the answer breaks off after the refresh token.
	half func(n int) bool

	mu       sync.Mutex
	live     map[string]bool
	revoked  bool
	calls    int
	replays  int
	inFlight int
	peak     int
}

func newAuthServer(latency time.Duration, live ...string) *authServer {
	s := &authServer{latency: latency, live: map[string]bool{}}
	for _, token := range live {
		s.live[token] = true
	}
	return s
}

func (s *authServer) Refresh(ctx context.Context, _ prisma.OAuthClient, token string) (prisma.Grant, error) {
	s.mu.Lock()
	s.calls++
	n := s.calls
	s.inFlight++
	s.peak = max(s.peak, s.inFlight)
	known, used := s.live[token], false
	if live, ok := s.live[token]; ok && !live {
		used = true
	}
	if used {
		s.replays++
		s.revoked = true
	}
	s.mu.Unlock()

	select {
	case <-time.After(s.latency):
	case <-ctx.Done(): // a caller could hang up on the exchange
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.inFlight--
	if err := ctx.Err(); err != nil {
		return prisma.Grant{}, err
	}
	if s.answer != nil {
		if grant, err := s.answer(n); err != nil || grant.Access != "" {
			return grant, err
		}
	}
	if !known || used || s.revoked {
		return prisma.Grant{}, &prisma.TokenError{Class: prisma.InvalidGrant, Code: "invalid_grant", Status: 400}
	}
	s.live[token] = false
	next := fmt.Sprintf("%s.%d", strings.SplitN(token, ".", 2)[0], n)
	s.live[next] = true
	if s.half != nil && s.half(n) {
		return prisma.Grant{Refresh: next, ExpiresIn: time.Hour, Rotated: true}, nil
	}
	return prisma.Grant{
		Access: "access-" + next, Refresh: next, WorkspaceID: "wksp_1", ExpiresIn: time.Hour, Rotated: true,
	}, nil
}

// counts returns how many exchanges arrived, how many of them were replays, and how
// many were in flight at once at most.
func (s *authServer) counts() (calls, replays, peak int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls, s.replays, s.peak
}

// storage is a MemoryStorage whose methods can be made to fail.
type storage struct {
	*prisma.MemoryStorage

	beforeClaim func()
	claim       func() error
	claimed     func() error // after it
	save        func(n int, save func() error) error
	settle      func() error
	settled     []prisma.Outcome

	mu    sync.Mutex
	saves int
}

func newStorage(t *testing.T, tokens prisma.Tokens) *storage {
	t.Helper()
	s := &storage{MemoryStorage: prisma.NewMemoryStorage(now, 0)}
	if err := s.SetTokens(t.Context(), tokens); err != nil {
		t.Fatalf("SetTokens() error = %v", err)
	}
	return s
}

// taken claims the refresh of the stored pair, as another process of before would have.
func (s *storage) taken(t *testing.T) prisma.Claim {
	t.Helper()
	stored, err := s.Tokens(t.Context())
	if err != nil {
		t.Fatalf("Tokens() error = %v", err)
	}
	claim, err := s.Claim(t.Context(), stored)
	if err != nil {
		t.Fatalf("Claim() error = %v", err)
	}
	return claim
}

func (s *storage) Claim(ctx context.Context, refused prisma.Tokens) (prisma.Claim, error) {
	if s.beforeClaim != nil {
		s.beforeClaim()
	}
	if s.claim != nil {
		if err := s.claim(); err != nil {
			return prisma.Claim{}, err
		}
	}
	claim, err := s.MemoryStorage.Claim(ctx, refused)
	if s.claimed != nil && err == nil {
		err = s.claimed()
	}
	return claim, err
}

func (s *storage) Save(ctx context.Context, claim prisma.Claim, fresh prisma.Tokens) error {
	s.mu.Lock()
	s.saves++
	n := s.saves
	s.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.save == nil {
		return s.MemoryStorage.Save(ctx, claim, fresh)
	}
	return s.save(n, func() error { return s.MemoryStorage.Save(ctx, claim, fresh) })
}

func (s *storage) Settle(ctx context.Context, claim prisma.Claim, outcome prisma.Outcome) error {
	s.mu.Lock()
	s.settled = append(s.settled, outcome)
	s.mu.Unlock()
	if s.settle != nil {
		if err := s.settle(); err != nil {
			return err
		}
	}
	return s.MemoryStorage.Settle(ctx, claim, outcome)
}

// plain hides everything of a storage but the three methods.
type plain struct{ prisma.TokenStorage }

func newRefresher(t *testing.T, exchanger prisma.Exchanger, change ...func(*prisma.RefresherConfig)) *prisma.Refresher {
	t.Helper()
	cfg := prisma.RefresherConfig{Exchanger: exchanger, Now: now, Logger: slog.New(slog.DiscardHandler)}
	for _, f := range change {
		f(&cfg)
	}
	r, err := prisma.NewRefresher(cfg)
	if err != nil {
		t.Fatalf("NewRefresher() error = %v", err)
	}
	return r
}

func connection(key string, s prisma.TokenStorage) prisma.Connection {
	return prisma.Connection{Key: key, Storage: s, Client: func(context.Context) (prisma.OAuthClient, error) {
		return prisma.OAuthClient{ID: "client", Secret: "secret"}, nil
	}}
}

// pair is a token pair that was issued age ago and lives an hour.
func pair(refresh string, age time.Duration) prisma.Tokens {
	issued := now().Add(-age)
	return prisma.Tokens{
		WorkspaceID: "wksp_1", Access: "access-" + refresh, Refresh: refresh,
		IssuedAt: issued, ExpiresAt: issued.Add(time.Hour),
	}
}
