package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// tokenTests are those of the three methods that every storage has.
func tokenTests() map[string]func(*bench) {
	return map[string]func(*bench){
		"a pair is stored whole": func(b *bench) {
			want := b.pair("second")
			b.set(b.Storage, want)
			b.wantStored("SetTokens()", "second")
			got := b.stored()
			if got.WorkspaceID != Workspace {
				b.Errorf("workspace = %q, want %q", got.WorkspaceID, Workspace)
			}
			for what, times := range map[string][2]time.Time{
				"issued": {got.IssuedAt, want.IssuedAt}, "expires": {got.ExpiresAt, want.ExpiresAt},
			} {
				if off := times[0].Sub(times[1]).Abs(); off > time.Millisecond { // databases round
					b.Errorf("%s at %s, %s off", what, times[0], off)
				}
			}
			if off := got.ReadAt.Sub(b.Now()).Abs(); !got.ReadAt.IsZero() && off > time.Minute {
				b.Errorf("read at %s, %s off the storage's clock", got.ReadAt, off)
			}
		},
		"a pair without refresh token": func(b *bench) {
			tokens := b.pair("second")
			tokens.Refresh = ""
			b.set(b.Storage, tokens)
			if got := b.stored(); got.Refresh != "" || got.Access != "access-second" {
				b.Errorf("Tokens() = %v; want the access token alone", got)
			}
		},
		"another value sees it": func(b *bench) {
			b.set(b.Other(b.T), b.pair("second"))
			b.wantStored("SetTokens() of another value", "second")
		},
		"cleared": func(b *bench) {
			for range 2 { // the second time there is nothing to clear
				b.ok("ClearTokens()", b.Storage.ClearTokens(b.Context()))
				b.wantGone("ClearTokens()", fault.NotFound)
			}
			if !b.Final {
				b.set(b.Storage, b.pair("second"))
				b.wantStored("SetTokens() after ClearTokens()", "second")
			}
		},
		"a context that has ended": func(b *bench) {
			ctx := b.canceled()
			_, err := b.Storage.Tokens(ctx)
			b.wantCanceledOrNil("Tokens()", err)
			setErr := b.Storage.SetTokens(ctx, b.pair("second"))
			b.wantCanceledOrNil("SetTokens()", setErr)
			b.wantStored("SetTokens() with a context that has ended", map[bool]string{true: "second", false: "first"}[setErr == nil])
			clearErr := b.Storage.ClearTokens(ctx)
			b.wantCanceledOrNil("ClearTokens()", clearErr)
			if _, err := b.Storage.Tokens(b.Context()); (err != nil) != (clearErr == nil) {
				b.Errorf("ClearTokens() gave %v, and then Tokens() %v", clearErr, err)
			}
		},
		"readers and writers at once": concurrentTokens,
		"printed without secrets":     printedTokens,
	}
}

// wantCanceledOrNil fails the test on any error but the context's. A storage that needs
// no time may do its work all the same.
func (b *bench) wantCanceledOrNil(what string, err error) {
	b.Helper()
	if err != nil && !errors.Is(err, context.Canceled) {
		b.Errorf("%s with a context that has ended: %v", what, err)
	}
}

// concurrentTokens reads while pairs are replaced: both tokens are always of one pair.
func concurrentTokens(b *bench) {
	const writers, rounds = 3, 8
	done := make(chan struct{})
	var writing, reading sync.WaitGroup
	for w := range writers {
		s := b.Other(b.T)
		writing.Go(func() {
			for i := range rounds {
				if err := s.SetTokens(b.Context(), b.pair(fmt.Sprintf("%d-%d", w, i))); err != nil {
					b.Errorf("SetTokens(): %v", err)
				}
			}
		})
	}
	for _, s := range []prisma.TokenStorage{b.Storage, b.Other(b.T)} {
		reading.Go(func() {
			for {
				got, err := s.Tokens(b.Context())
				name, ok := strings.CutPrefix(got.Access, "access-")
				if err != nil || !ok || got.Refresh != "refresh-"+name {
					b.Errorf("Tokens() = %v, %v; want two tokens of one pair", got, err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	writing.Wait()
	close(done)
	reading.Wait()
	if got := b.stored(); got.Generation != 0 && got.Generation != b.first.Generation+writers*rounds {
		b.Errorf("generation %d after %d more pairs, was %d", got.Generation, writers*rounds, b.first.Generation)
	}
}

// printedTokens prints a storage and what holds it in every way there is.
func printedTokens(b *bench) {
	var out bytes.Buffer
	holder := struct{ Storage prisma.TokenStorage }{b.Storage}
	connection := prisma.Connection{Key: "connection", Storage: b.Storage}
	for _, value := range []any{b.Storage, holder, &holder, connection, &connection} {
		fmt.Fprintf(&out, "%v %+v %#v\n", value, value, value)
		slog.New(slog.NewTextHandler(&out, nil)).InfoContext(b.Context(), "text", slog.Any("value", value))
		slog.New(slog.NewJSONHandler(&out, nil)).InfoContext(b.Context(), "json", slog.Any("value", value))
	}
	b.wantNoSecrets("printing it", out.String())
}

// wantNoSecrets fails the test if a text holds a token of any pair of the suite.
func (b *bench) wantNoSecrets(what, text string) {
	b.Helper()
	if strings.Contains(text, "access-") || strings.Contains(text, "refresh-") {
		b.Errorf("%s shows a token", what) // without the text: it is a secret
	}
}

// compareTests are those of prisma.CompareAndClear.
func compareTests() map[string]func(*bench) {
	return map[string]func(*bench){
		"compare and clear": func(b *bench) {
			s, ok := b.Other(b.T).(prisma.CompareAndClear)
			if !ok {
				b.Fatal("another value has no ClearTokensIfCurrent")
			}
			b.set(b.Storage, b.pair("second"))
			b.ok("ClearTokensIfCurrent() of an old pair", s.ClearTokensIfCurrent(b.Context(), b.first))
			b.wantStored("ClearTokensIfCurrent() of an old pair", "second")
			b.wantCanceledOrNil("ClearTokensIfCurrent()", s.ClearTokensIfCurrent(b.canceled(), b.first))
			b.ok("ClearTokensIfCurrent()", s.ClearTokensIfCurrent(b.Context(), b.stored()))
			b.wantGone("ClearTokensIfCurrent()", fault.NotFound, fault.ReconnectRequired)
			b.ok("ClearTokensIfCurrent() again", s.ClearTokensIfCurrent(b.Context(), b.first))
		},
	}
}

// generationTests are those of a storage that counts.
func generationTests() map[string]func(*bench) {
	return map[string]func(*bench){
		"generations move by one": func(b *bench) {
			for i := range int64(3) {
				tokens := b.pair("next")
				tokens.Generation = 1000 // none of the caller's business
				b.set(b.Storage, tokens)
				if got := b.stored().Generation; got != b.first.Generation+i+1 {
					b.Errorf("generation %d, want %d", got, b.first.Generation+i+1)
				}
			}
			if b.Final {
				return
			}
			before := b.stored().Generation
			b.ok("ClearTokens()", b.Storage.ClearTokens(b.Context()))
			b.set(b.Storage, b.pair("again"))
			if got := b.stored().Generation; got != before+1 {
				b.Errorf("generation %d after a logout and a login, want %d", got, before+1)
			}
		},
	}
}
