package replicas_test

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/connect-prisma/server/internal/prismasim"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
	"github.com/connect-prisma/server/internal/processtest"
)

var rotations = flag.Int("rotations", 8, "times that TestClientSecretIsRotatedUnderLoad replaces the secret")

// TestClientSecretIsRotatedUnderLoad replaces the secret of a partner's OAuth client at
// Prisma, again and again, while both replicas renew the partner's connections: no call
// fails, no connection is lost, and no refresh token is used twice. Every other time Prisma
// takes the old and the new secret for a while, and else the new one alone from one
// moment to the next.
func TestClientSecretIsRotatedUnderLoad(t *testing.T) {
	t.Parallel()
	const connections = 8
	w := processtest.NewWorld(t, func(*processtest.Installation) {})
	env := w.Installation.With(nil)
	replicas := []*processtest.Replica{processtest.StartServeAt(t, env, w.Installation.Public), processtest.StartServe(t, env)}
	load := beginLoad(t, w, replicas, w.Connected(t, "rotating", connections))

	secret := prismasimtest.ClientSecret
	for i := range *rotations {
		next := fmt.Sprintf("rotated-secret-%02d-0123456789", i)
		w.Installation.Command(t, next+"\n", "tenant", "set", w.Tenant, "--next-client-secret-stdin")
		if i%2 == 0 {
			seedSecret(t, w, secret, next)
			load.renewAll(t)
		}
		seedSecret(t, w, next)
		load.renewAll(t)
		secret = next
	}
	calls := load.end()
	if list := w.Installation.Command(t, "", "tenant", "list"); strings.Contains(list, "next secret") {
		t.Errorf("the last secret was not adopted:\n%s", list)
	}
	if n := w.Count(t, `SELECT count(*)::int FROM audit_log WHERE action = 'tenant.adopt_secret'`); n != *rotations {
		t.Errorf("%d secrets were adopted, want %d", n, *rotations)
	}
	if n := w.Count(t, `SELECT count(*)::int FROM connections WHERE status = 'active'`); n != connections {
		t.Errorf("%d connections of %d live", n, connections)
	}
	saw := w.Ledger(t)
	if saw.Counters.Replays != 0 || saw.Counters.Revocations != 0 {
		t.Errorf("Prisma saw %+v, want no replay and no revocation", saw.Counters)
	}
	for _, token := range saw.RefreshTokens {
		if token.Processed > 1 || token.Received > 2 {
			t.Errorf("a refresh token was received %d times and used %d times", token.Received, token.Processed)
		}
	}
	w.Installation.Command(t, "", "ledger", "verify")
	t.Logf("%d secrets in %d calls and %d refreshes: %d calls failed", *rotations, calls, saw.Counters.Refreshes, load.failed.Load())
	for _, r := range replicas {
		if strings.Contains(r.Stderr.String(), "secret-") {
			t.Error("a secret is in the log")
		}
	}
}

// seedSecret makes Prisma take those secrets of the partner's client and no other.
func seedSecret(t *testing.T, w *processtest.World, secret string, others ...string) {
	t.Helper()
	client := prismasimtest.Seed().Clients[0]
	client.Secret, client.OtherSecrets = secret, others
	w.Control(t, http.MethodPut, "seed", prismasim.Seed{Clients: []prismasim.Client{client}}, nil)
}

// load is callers that use connections without a pause, through all replicas.
type load struct {
	w           *processtest.World
	connections int
	stop        context.CancelFunc
	callers     sync.WaitGroup
	clock       sync.RWMutex // no call is under way while an hour passes in a moment
	calls       atomic.Int64
	failed      atomic.Int64
}

func beginLoad(t *testing.T, w *processtest.World, replicas []*processtest.Replica, connections []processtest.Connection) *load {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	l := &load{w: w, connections: len(connections), stop: stop}
	t.Cleanup(func() { l.end() })
	for i, c := range connections {
		l.callers.Go(func() {
			for turn := i; ctx.Err() == nil; turn++ {
				l.clock.RLock()
				err := processtest.ListProjects(ctx, replicas[turn%len(replicas)], w.APIKey, c)
				l.clock.RUnlock()
				if ctx.Err() != nil {
					return
				}
				if l.calls.Add(1); err != nil {
					l.failed.Add(1)
					t.Error(err)
				}
			}
		})
	}
	return l
}

// renewAll ends all access tokens and waits until the callers have had each renewed.
func (l *load) renewAll(t *testing.T) {
	t.Helper()
	before := l.generations(t)
	l.clock.Lock()
	l.w.Advance(t, processtest.PastAccessTokens)
	l.clock.Unlock()
	processtest.Eventually(t, "every connection is renewed", func() bool {
		return l.generations(t) >= before+l.connections || t.Failed()
	})
}

func (l *load) generations(t *testing.T) int {
	t.Helper()
	return l.w.Count(t, `SELECT coalesce(sum(generation), 0)::int FROM connections`)
}

// end stops the callers and returns how many calls they made.
func (l *load) end() int64 {
	l.stop()
	l.callers.Wait()
	return l.calls.Load()
}
