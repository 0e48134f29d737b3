// Package storagetest is what every prisma.TokenStorage must do, as a suite of tests.
//
//	func TestMyStorage(t *testing.T) {
//		t.Parallel()
//		storagetest.Run(t, func(t *testing.T) storagetest.Setup { … })
//	}
//
// A storage is held to what it offers. Its three methods are always tested, alone and
// under a real Refresher that exchanges tokens with a strict endpoint; compare-and-clear,
// the refresh lock and the refresh lease where the storage has them.
package storagetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// Workspace is the workspace of every pair that the suite stores.
const Workspace = "wksp_1"

// life is how long the access tokens of the suite live; late is when one of them has
// so little left that a refresh token of unknown outcome may be presented again.
const (
	life = time.Hour
	late = life - 30*time.Second
)

// giveBack is longer than a storage may pause after a refresh that sent nothing.
const giveBack = 10 * time.Second

// Setup is one storage for one test.
type Setup struct {
	// Storage is the storage under test. It may hold a pair already, which the suite
	// replaces.
	Storage prisma.TokenStorage

	// Other returns another value on the same tokens, as another process would open it.
	// For a storage that lives in one value, it returns Storage.
	Other func(t *testing.T) prisma.TokenStorage

	// Now is the clock of the storage, or of the process if the storage has none. It
	// has to go on by itself, as refreshers wait by it.
	Now func() time.Time

	// Advance moves that clock forward.
	Advance func(t *testing.T, by time.Duration)

	// Die ends the refresh lease that is held through Storage as the death of its
	// process would: at once, or by moving the clock past the lease. Required for a
	// storage with a RefreshLease.
	Die func(t *testing.T)

	// Final says that ClearTokens is for good: no pair can be stored after it.
	Final bool
}

// Run tests the storages that open makes, each of them for one test.
func Run(t *testing.T, open func(t *testing.T) Setup) {
	t.Helper()
	probe := begin(t, open)
	groups := []map[string]func(*bench){tokenTests(), refresherTests()}
	if _, ok := probe.Storage.(prisma.CompareAndClear); ok {
		groups = append(groups, compareTests())
	}
	if _, ok := probe.Storage.(prisma.RefreshLock); ok {
		groups = append(groups, lockTests())
	}
	if _, ok := probe.Storage.(prisma.RefreshLease); ok {
		if probe.Die == nil {
			t.Fatal("a storage with a lease needs Setup.Die")
		}
		groups = append(groups, leaseTests(), suspectTests(), fenceTests(), leasedRefresherTests())
	}
	if probe.stored().Generation != 0 {
		groups = append(groups, generationTests())
	}
	for _, group := range groups {
		for name, test := range group {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(begin(t, open))
			})
		}
	}
}

// bench is a storage with the pair "first" in it, and the helpers of a test.
type bench struct {
	Setup
	*testing.T

	first prisma.Tokens
}

// begin opens a storage and stores the pair "first", issued now.
func begin(t *testing.T, open func(t *testing.T) Setup) *bench {
	t.Helper()
	b := &bench{Setup: open(t), T: t}
	b.set(b.Storage, b.pair("first"))
	b.first = b.stored()
	return b
}

// pair is a pair of that name, issued now. A test finds its tokens by their name.
func (b *bench) pair(name string) prisma.Tokens {
	now := b.Now()
	return prisma.Tokens{
		WorkspaceID: Workspace, Access: "access-" + name, Refresh: "refresh-" + name,
		IssuedAt: now, ExpiresAt: now.Add(life),
	}
}

// ok ends the test if there is an error.
func (b *bench) ok(what string, err error) {
	b.Helper()
	if err != nil {
		b.Fatalf("%s: %v", what, err)
	}
}

// set stores a pair.
func (b *bench) set(s prisma.TokenStorage, tokens prisma.Tokens) {
	b.Helper()
	b.ok("SetTokens()", s.SetTokens(b.Context(), tokens))
}

// stored is the pair that is stored.
func (b *bench) stored() prisma.Tokens {
	b.Helper()
	tokens, err := b.Storage.Tokens(b.Context())
	b.ok("Tokens()", err)
	return tokens
}

// wantStored fails the test unless the pair of that name is stored, for every value.
func (b *bench) wantStored(what, name string) {
	b.Helper()
	for _, s := range []prisma.TokenStorage{b.Storage, b.Other(b.T)} {
		tokens, err := s.Tokens(b.Context())
		if err != nil || tokens.Access != "access-"+name || tokens.Refresh != "refresh-"+name {
			b.Errorf("%s: Tokens() = %v, %v; want the pair %q", what, tokens, err, name)
		}
	}
}

// wantGone fails the test unless there is no pair, for one of these reasons.
func (b *bench) wantGone(what string, kinds ...fault.Kind) {
	b.Helper()
	for _, s := range []prisma.TokenStorage{b.Storage, b.Other(b.T)} {
		_, err := s.Tokens(b.Context())
		b.wantKind(what+": Tokens()", err, kinds...)
	}
}

// wantKind fails the test unless the error is of one of these kinds.
func (b *bench) wantKind(what string, err error, kinds ...fault.Kind) {
	b.Helper()
	got := fault.KindOf(err)
	for _, kind := range kinds {
		if err != nil && got == kind {
			return
		}
	}
	b.Errorf("%s: error = %v, want one of kind %q", what, err, kinds)
}

// wantSuperseded fails the test unless the error is prisma.ErrSuperseded.
func (b *bench) wantSuperseded(what string, err error) {
	b.Helper()
	if !errors.Is(err, prisma.ErrSuperseded) {
		b.Errorf("%s: error = %v, want prisma.ErrSuperseded", what, err)
	}
}

// canceled is a context that has ended.
func (b *bench) canceled() context.Context {
	ctx, cancel := context.WithCancel(b.Context())
	cancel()
	return ctx
}
