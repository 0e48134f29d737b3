package replicas_test

import (
	"flag"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/connect-prisma/server/internal/processtest"
)

var keyRotations = flag.Int("key-rotations", 1, "rotations of TestTokenKeysAreRotatedUnderLoad")

// TestTokenKeysAreRotatedUnderLoad goes through the documented steps with two replicas that
// are restarted one by one, while all connections are renewed and used: no call fails, no
// connection is lost, and nothing stays on the old key.
func TestTokenKeysAreRotatedUnderLoad(t *testing.T) {
	t.Parallel()
	const connections = 8
	w := processtest.NewWorld(t, func(*processtest.Installation) {})
	in := w.Installation
	env := in.With(nil)
	replicas := []*processtest.Replica{processtest.StartServeAt(t, env, in.Public), processtest.StartServe(t, env)}
	load := beginLoad(t, w, replicas, w.Connected(t, "sealed", connections))
	w.Connected(t, "idle", 4) // whose pairs only a rewrap seals anew
	adopt := func(args ...string) {
		t.Helper()
		keyset, found := strings.CutPrefix(in.Command(t, "", append([]string{"secrets"}, args...)...), "TOKEN_KEYSET=")
		if !found {
			t.Fatalf("secrets %s prints something else than a keyset", args)
		}
		in.Values["TOKEN_KEYSET"] = keyset
		for i, r := range replicas {
			at, err := url.Parse(r.Origin)
			if err != nil {
				t.Fatal(err)
			}
			load.clock.Lock() // a balancer would send the calls to the other one
			r.Stop(t, syscall.SIGTERM)
			replicas[i] = processtest.StartServeAt(t, in.With(nil), at.Host)
			load.clock.Unlock()
			load.renewAll(t) // by replicas at two steps
		}
	}
	for range *keyRotations {
		key := regexp.MustCompile(`(?m)^(\d+)\s+written with\s`).FindStringSubmatch(in.Command(t, "", "secrets", "status"))
		adopt("rotate", "add")
		adopt("rotate", "promote")
		said := in.Command(t, "", "secrets", "rewrap")
		adopt("retire", key[1])
		if status := in.Command(t, "", "secrets", "status"); strings.Contains(status, key[1]) || strings.Contains(status, "not in TOKEN_KEYSET") {
			t.Errorf("something is left on the old key:\n%s", status)
		}
		t.Log(said)
	}
	calls := load.end()
	if n := w.Count(t, `SELECT count(*)::int FROM connections WHERE status = 'active'`); n != connections+4 {
		t.Errorf("%d connections of %d live", n, connections+4)
	}
	saw := w.Ledger(t).Counters
	if saw.Replays != 0 || saw.Revocations != 0 {
		t.Errorf("Prisma saw %+v, want no replay and no revocation", saw)
	}
	in.Command(t, "", "ledger", "verify")
	t.Logf("%d rotations in %d calls and %d refreshes: %d calls failed", *keyRotations, calls, saw.Refreshes, load.failed.Load())
}
