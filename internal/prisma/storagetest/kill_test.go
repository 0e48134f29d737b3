package storagetest_test

import (
	"flag"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/storagetest"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

var (
	killSeed   = flag.Uint64("kill.seed", 0, "seed of the kill test; 0 takes a new one")
	killRounds = flag.Int("kill.rounds", 50, "rounds of the kill test")
)

const (
	killWorkers = 8
	killLatency = 15 * time.Millisecond // of the token endpoint, so that kills meet exchanges
	killTimeout = 30 * time.Second      // of one round; a worker's caller gives up after 15
)

// Processes that share a token file are killed at random while they refresh it. The
// file is whole at every moment, a pair that was saved stays, a refresh token is
// presented again only after its holder was killed, and a grant dies only where a process
// was killed between its claim and its save and the server had used the token up.
func TestTokenFileUnderKill(t *testing.T) {
	t.Parallel()
	k := newKillTest(t)
	for i := range k.workers {
		k.workers[i] = k.start()
	}
	stopReader := k.readAlways()
	for n := range *killRounds {
		k.round(n, true)
	}
	k.round(*killRounds, false) // what the last kill left open is decided
	stopReader()
	for _, w := range k.workers {
		k.ok("close a worker's input", w.in.Close())
		k.ok("wait for a worker", w.cmd.Wait())
	}
	k.judge()
}

// killTest is the state of the test's own process.
type killTest struct {
	*testing.T

	server *prismasimtest.Server
	path   string
	self   string // this test binary
	random *rand.Rand
	clock  *storagetest.Clock
	offset time.Duration // how far the clock was moved
	file   *prisma.FileStorage

	workers [killWorkers]*worker
	events  chan event

	kills, losses int
	reads         int           // looks at the file
	grants        []int64       // the first generation of each grant
	claims        map[int64]int // due claims of each generation
	orphans       map[int64]int // those of a process that was killed before it told their end
	saved         int64         // the last generation that a save was told of
}

func newKillTest(t *testing.T) *killTest {
	t.Helper()
	seed := *killSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("to choose the same again: -kill.seed=%d", seed)
	k := &killTest{
		T: t, server: prismasimtest.Start(t), path: filepath.Join(t.TempDir(), ".prisma", "credentials.json"),
		random: rand.New(rand.NewPCG(seed, 0)), clock: storagetest.NewClock(realTime),
		events: make(chan event, 1024), claims: map[int64]int{}, orphans: map[int64]int{},
	}
	var err error
	k.self, err = os.Executable()
	k.ok("find the test binary", err)
	k.file, err = prisma.NewFileStorage(prisma.FileStorageConfig{Path: k.path, Now: k.clock.Now})
	k.ok("NewFileStorage()", err)
	k.server.Control(t, http.MethodPut, "faults", map[string]string{"tokenLatency": killLatency.String()}, nil)
	k.login()
	return k
}

func (k *killTest) ok(what string, err error) {
	k.Helper()
	if err != nil {
		k.Fatalf("%s: %v", what, err)
	}
}

// login stores the pair of a new grant.
func (k *killTest) login() {
	k.Helper()
	granted := k.server.Connect(k.T, prismasimtest.WorkspaceA)
	now := k.clock.Now()
	k.ok("SetTokens()", k.file.SetTokens(k.Context(), prisma.Tokens{
		WorkspaceID: prismasimtest.WorkspaceA, Access: granted.Access, Refresh: granted.Refresh,
		IssuedAt: now, ExpiresAt: now.Add(time.Hour),
	}))
	k.grants = append(k.grants, k.stored().Generation)
}

func (k *killTest) stored() prisma.Tokens {
	k.Helper()
	stored, err := k.file.Tokens(k.Context())
	k.ok("Tokens()", err)
	return stored
}

// round lets all workers want a new token and kills one of them: mostly any, every
// third time the one that has just claimed the refresh, and every sixth also the next
// one to claim, which is the one that presents the same token once more. Without kills
// all of them refresh.
func (k *killTest) round(n int, kills bool) {
	k.Helper()
	k.clock.Advance(k.T, 2*time.Hour)
	k.offset += 2 * time.Hour
	for _, w := range k.workers {
		w.want(k.T, k.offset)
	}
	aims := map[bool]int{true: 1}[kills && n%3 == 0] + map[bool]int{true: 1}[kills && n%6 == 0]
	target := k.workers[k.random.IntN(killWorkers)] // of the kill to come; nil: none is to come
	kill := time.NewTimer(k.within(4 * killLatency))
	if aims > 0 || !kills {
		kill.Stop()
		target = nil
	}
	timeout := time.After(killTimeout)
	lost := false
	for target != nil || !k.over() {
		select {
		case <-kill.C:
			k.kills++
			k.ok("kill a worker", target.cmd.Process.Kill())
			target.doomed, target = true, nil
		case e := <-k.events:
			lost = k.note(e) || lost
			if e.what == "claimed" && aims > 0 && target == nil {
				aims--
				target = e.worker
				kill.Reset(k.within(2 * killLatency))
			}
		case <-timeout:
			k.Fatalf("round %d: workers have not answered", n)
		}
	}
	for i, w := range k.workers {
		if w.doomed {
			_ = w.cmd.Wait() // it was killed: that is its error
			k.workers[i] = k.start()
		}
	}
	if lost {
		k.losses++
		k.login()
	}
}

// within is a random time up to limit.
func (k *killTest) within(limit time.Duration) time.Duration {
	return time.Duration(k.random.Int64N(int64(limit)))
}

// over reports whether the round has ended: all have answered, and those that were
// killed, which need not, have ended.
func (k *killTest) over() bool {
	for _, w := range k.workers {
		if w.doomed && !w.gone || !w.doomed && !w.done {
			return false
		}
	}
	return true
}

// note takes down what a worker told and reports whether the grant is dead.
func (k *killTest) note(e event) (lost bool) {
	k.Helper()
	switch e.what {
	case "claimed":
		e.worker.open = e.generation(k.T)
		k.claims[e.worker.open]++
	case "saved":
		e.worker.open = 0
		k.saved = max(k.saved, e.generation(k.T)+1)
		if look, err := readFile(k.path); err != nil || look.Generation < k.saved {
			k.Errorf("generation %d was saved, and the file has %d (%v)", k.saved, look.Generation, err)
		}
	case "settled":
		e.worker.open = 0
	case "done":
		e.worker.done = true
		// Too early for a further retry: the next round is late enough.
		pausing := e.rest == "prisma-unavailable" && k.orphans[k.stored().Generation] > 0
		if e.rest != "ok" && e.rest != "reconnect-required" && !pausing {
			k.Errorf("a worker got %s", e.rest)
		}
		return e.rest == "reconnect-required"
	case "gone":
		e.worker.gone = true
		if e.worker.open != 0 {
			k.orphans[e.worker.open]++
		}
	default:
		k.Errorf("a worker said %q", e.what)
	}
	return false
}

// judge compares what the workers told with what the server saw.
func (k *killTest) judge() {
	k.Helper()
	ledger := k.server.Ledger(k.T)
	index := map[string]int{}     // of a grant, in order
	nth := map[string]int64{}     // how many tokens of a grant were seen
	processed := map[int64]bool{} // generations whose refresh token was used up
	exchanges, again := 0, 0
	for _, token := range ledger.RefreshTokens {
		if _, ok := index[token.Grant]; !ok {
			index[token.Grant] = len(index)
		}
		generation := k.grants[index[token.Grant]] + nth[token.Grant]
		nth[token.Grant]++
		exchanges += token.Processed
		if token.Processed > 0 {
			processed[generation] = true
		}
		if token.Received > 1 {
			again++
		}
		if token.Received > k.claims[generation] {
			k.Errorf("the token of generation %d was presented %d times after %d claims",
				generation, token.Received, k.claims[generation])
		}
	}
	if len(index) != len(k.grants) {
		k.Errorf("the server has %d grants, want %d", len(index), len(k.grants))
	}
	for generation, claims := range k.claims {
		if claims > 1+k.orphans[generation] {
			k.Errorf("generation %d was claimed %d times, and %d claimers were killed", generation, claims, k.orphans[generation])
		}
	}
	// Whenever a grant died, the last pair of it that was claimed is an orphan's, and its
	// token was used up.
	for _, next := range k.grants[1:] {
		if k.orphans[next-1] == 0 {
			k.Errorf("a grant died at generation %d, and no process was killed in its exchange", next-1)
		}
		if !processed[next-1] {
			k.Errorf("generation %d was given up, and its refresh token was good", next-1)
		}
	}
	orphans := 0
	for _, n := range k.orphans {
		orphans += n
	}
	if ledger.Counters.Replays > orphans { // each by whoever came after a claimer that was killed
		k.Errorf("%d replays, and %d claimers were killed", ledger.Counters.Replays, orphans)
	}
	if status, _ := k.server.Refresh(k.T, k.stored().Refresh); status != http.StatusOK {
		k.Errorf("the refresh token in the file is dead: status %d", status)
	}
	k.Logf("%d processes, %d rounds, %d kills (%d in an exchange): %d exchanges, %d tokens presented again, "+
		"%d grants lost, %d replays; the file was read %d times",
		killWorkers, *killRounds, k.kills, len(k.orphans), exchanges, again, k.losses, ledger.Counters.Replays, k.reads)
}
