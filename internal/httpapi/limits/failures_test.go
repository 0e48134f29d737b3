package limits_test

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/httpapi/limits"
)

func address(n uint32) netip.Addr {
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], n)
	return netip.AddrFrom4(raw)
}

// noneIssued is what a guesser has to live with.
func noneIssued(string) bool { return false }

func anyKey() string { return "cpk_" + strings.ToLower(rand.Text()) }

// guess tries keys until one has to wait, and returns how many were looked up.
func guess(f *limits.Failures, from func(i int) netip.Addr, key func() string) int {
	for i := range 10_000 {
		k := key()
		if f.Wait(from(i), k) > 0 {
			return i
		}
		f.Failed(from(i), k)
	}
	return 10_000
}

func TestFailuresOfAnAddress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := limits.NewFailures(limits.FailureRate{}, noneIssued, clock)
		one := func(int) netip.Addr { return address(1) }
		if n := guess(f, one, anyKey); n != 30 {
			t.Errorf("%d guesses were looked up at once, want 30", n)
		}
		if wait := f.Wait(address(1), anyKey()); wait <= 0 || wait > time.Second {
			t.Errorf("the next waits %s, want a second at most", wait)
		}
		if wait := f.Wait(address(2), anyKey()); wait != 0 {
			t.Errorf("another address waits %s", wait)
		}
		if wait := f.Wait(address(1), ""); wait == 0 {
			t.Error("who sends no key at all does not wait")
		}
		looked := 0
		for range 600 { // a minute
			time.Sleep(100 * time.Millisecond)
			looked += guess(f, one, anyKey)
		}
		if looked < 55 || looked > 61 {
			t.Errorf("%d guesses were looked up in a minute, want 60", looked)
		}
		time.Sleep(time.Hour)
		if n := guess(f, one, anyKey); n != 30 {
			t.Errorf("%d guesses were looked up after an hour, want 30", n)
		}
	})
}

// In IPv6 everybody has a network of addresses.
func TestFailuresOfANetwork(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := limits.NewFailures(limits.FailureRate{}, noneIssued, clock)
		within := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf("2001:db8:1:2::%x", i+1)) }
		if n := guess(f, within, anyKey); n != 30 {
			t.Errorf("%d guesses from one network were looked up, want 30", n)
		}
		if f.Wait(netip.MustParseAddr("2001:db8:1:3::1"), anyKey()) != 0 {
			t.Error("the next network waits")
		}
		if f.Wait(netip.MustParseAddr("::ffff:192.0.2.1"), anyKey()) != 0 || f.Wait(netip.Addr{}, anyKey()) != 0 {
			t.Error("an address that never failed waits")
		}
	})
}

// A key that is presented from everywhere waits wherever it comes from.
func TestFailuresOfAKey(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := limits.NewFailures(limits.FailureRate{}, noneIssued, clock)
		everywhere := func(i int) netip.Addr { return address(uint32(i) + 1) }
		revoked := anyKey()
		if n := guess(f, everywhere, func() string { return revoked }); n != 30 {
			t.Errorf("one key was looked up %d times, want 30", n)
		}
		if n := guess(f, everywhere, func() string { return "not a key" }); n != 10_000 {
			t.Errorf("what is no key shares a limit with others: %d", n)
		}
	})
}

// A good key that was never seen here is looked up, whatever a neighbour does with a bad
// one, and whatever somebody elsewhere does who knows how it begins.
func TestFailuresShutOutNobodyElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := limits.NewFailures(limits.FailureRate{}, noneIssued, clock)
		good := anyKey()
		for name, key := range map[string]string{"a bad key": anyKey(), "no key": "", "what is no key": "Zm9vOmJhcg"} {
			for range 1000 {
				f.Failed(address(1), key)
			}
			if f.Wait(address(1), key) == 0 {
				t.Errorf("%s is still looked up", name)
			}
		}
		if wait := f.Wait(address(1), good); wait > 0 {
			t.Errorf("a good key waits %s for its neighbours", wait)
		}
		everywhere := func(i int) netip.Addr { return address(uint32(i) + 2) }
		if n := guess(f, everywhere, func() string { return good[:8] + anyKey()[8:] }); n != 10_000 {
			t.Errorf("%d keys that begin alike were looked up", n)
		}
		if wait := f.Wait(address(1), good); wait > 0 {
			t.Errorf("a good key waits %s for those that begin like it", wait)
		}
	})
}

// Guesses that come all at once are as many as those that come one by one, and a few.
func TestFailuresAtOnce(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		takes       time.Duration // to look one up
		from        func(i int) netip.Addr
		least, most int32 // looked up
	}{
		"from one address":        {10 * time.Millisecond, func(int) netip.Addr { return address(1) }, 30, 30 + 7},
		"from all over the world": {10 * time.Millisecond, func(i int) netip.Addr { return address(uint32(i)) }, 1000, 1000},
		// Nobody waits for a database that has no answers.
		"in an outage": {time.Minute, func(int) netip.Addr { return address(1) }, 1000, 1000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := limits.NewFailures(limits.FailureRate{}, noneIssued, clock)
				var lookups atomic.Int32
				var all sync.WaitGroup
				for i := range 1000 {
					all.Go(func() {
						key := anyKey()
						leave, wait := f.Enter(t.Context(), tc.from(i), key)
						defer leave()
						if wait > 0 {
							return
						}
						lookups.Add(1)
						time.Sleep(tc.takes) // of the bubble
						f.Failed(tc.from(i), key)
					})
				}
				all.Wait()
				if n := lookups.Load(); n < tc.least || n > tc.most {
					t.Errorf("%d keys were looked up, want %d to %d", n, tc.least, tc.most)
				}
				if f.Turns() != 0 {
					t.Error("turns are left behind")
				}
			})
		})
	}
}

// Callers that leave take no turn, and a known key needs none.
func TestTurnsOfCallersThatLeave(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := limits.NewFailures(limits.FailureRate{}, noneIssued, clock)
		var leaves []func()
		for range 8 {
			leave, _ := f.Enter(t.Context(), address(1), anyKey())
			leaves = append(leaves, leave)
		}
		began := clock()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		leave, _ := f.Enter(gone, address(1), anyKey())
		leave()
		good := anyKey()
		f.Worked(good)
		leave, wait := f.Enter(t.Context(), address(1), good)
		leave()
		if wait > 0 || clock().After(began) {
			t.Errorf("they waited for %s, and are to wait %s", clock().Sub(began), wait)
		}
		for _, leave := range leaves {
			leave()
		}
		if f.Turns() != 0 {
			t.Error("turns are left behind")
		}
	})
}

// Neighbours of a guesser that are known go on, and stop being known when they fail.
func TestKnownKeysGoOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		f := limits.NewFailures(limits.FailureRate{}, noneIssued, clock)
		good := anyKey()
		f.Worked(good)
		one := func(int) netip.Addr { return address(1) }
		guess(f, one, anyKey)
		if f.Wait(address(1), good) != 0 {
			t.Error("a key that worked waits for a neighbour's guesses")
		}
		f.Failed(address(1), good) // revoked
		if f.Wait(address(1), good) == 0 {
			t.Error("a key that was revoked goes on")
		}
		f.Worked(good)
		time.Sleep(time.Hour)
		guess(f, one, anyKey)
		if f.Wait(address(1), good) == 0 {
			t.Error("a key that was not seen for an hour is known")
		}
	})
}

// A key that was issued here is nobody's guess: it waits for its own failures and for
// nobody else's, and its failures are held against nobody else.
func TestIssuedKeysAreNoGuesses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		issued := func(key string) bool { return strings.HasPrefix(key, "cpk_issued") }
		f := limits.NewFailures(limits.FailureRate{}, issued, clock)
		one := func(int) netip.Addr { return address(1) }
		var leaves []func()
		for range 8 { // look-ups under way from there
			leave, _ := f.Enter(t.Context(), address(1), anyKey())
			leaves = append(leaves, leave)
		}
		guess(f, one, anyKey)
		began := clock()
		leave, wait := f.Enter(t.Context(), address(1), "cpk_issued")
		leave()
		if wait > 0 || clock().After(began) {
			t.Errorf("it waited for %s, and is to wait %s", clock().Sub(began), wait)
		}
		for _, leave := range leaves {
			leave()
		}
		if n := guess(f, one, func() string { return "cpk_issued and revoked" }); n != 30 {
			t.Errorf("it was looked up %d times once it had ended, want 30", n)
		}
		for i := range 100 {
			f.Failed(address(2), fmt.Sprint("cpk_issued", i))
		}
		if n := guess(f, func(int) netip.Addr { return address(2) }, anyKey); n != 30 {
			t.Errorf("beside keys that have ended, %d guesses were looked up, want 30", n)
		}
		// A partner can have any number of keys made and end them.
		made := 0
		if n := guess(f, func(int) netip.Addr { return address(3) }, func() string { made++; return fmt.Sprint("cpk_issued and ended ", made) }); n != 300 {
			t.Errorf("%d keys that have ended were looked up from one address, want 300", n)
		}
	})
}

// Guessers can fill the memory and not more.
func TestFailuresAreBounded(t *testing.T) {
	t.Parallel()
	f := limits.NewFailures(limits.FailureRate{}, noneIssued, clock)
	for i := range uint32(5 * limits.Remembered) {
		key := anyKey()
		f.Failed(address(i), key)
		f.Worked(anyKey())
	}
	addresses, keys, known := f.Size()
	if addresses != limits.Remembered || keys != limits.Remembered || known != limits.Remembered {
		t.Errorf("%d addresses, %d bad and %d good keys are remembered, want %d each", addresses, keys, known, limits.Remembered)
	}
	for range 30 {
		f.Failed(address(1), anyKey())
	}
	if f.Wait(address(1), anyKey()) == 0 {
		t.Error("a full memory takes no new address")
	}
}
