package prisma_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

// model is one connection, its storage, the authorization server and some processes,
// in a schedule drawn from a seed. What it checks after every step:
//
//	I1  a refresh token is never in two requests at once
//	I2  it is presented again only after an unknown outcome: for the first time when its
//	    access token is about to end, further times only once that has ended and the
//	    lease of the time before is over
//	I3  a pair is stored before its access token is handed out
//	I4  the generation moves by exactly 1
//	I5  what is stored is the user's grant, or the storage says that there is none
//	I6  a grant is lost only if the server used a token up and no process that lived
//	    on heard the answer and stored it within its lease
type model struct {
	seed    uint64
	storage modelStorage

	mu         sync.Mutex
	rand       *rand.Rand
	user       *modelGrant // what the user has granted; nil after a logout
	grants     int
	tokens     map[string]*modelToken
	durable    map[string]time.Time // every refresh token that was ever stored, and when its access token ends
	generation int64
	spool      []spooled
	processes  int
	downUntil  time.Time
	healed     bool // from here on nothing goes wrong any more
	began      time.Time
	steps      []step
	violations []string
	seen       map[string]int // how often what happened
}

// step is a line of a schedule's history.
type step struct {
	at     time.Duration
	format string
	args   []any
}

func newModel(seed uint64, wrap func(*prisma.MemoryStorage) modelStorage, seen map[string]int) *model {
	m := &model{
		seen: seen,
		seed: seed, rand: rand.New(rand.NewPCG(seed, 1)), tokens: map[string]*modelToken{},
		durable: map[string]time.Time{}, began: now(),
	}
	m.storage = wrap(prisma.NewMemoryStorage(now, 0))
	m.login()
	return m
}

// log adds to the history; mu is held.
func (m *model) log(format string, args ...any) {
	m.steps = append(m.steps, step{now().Sub(m.began), format, args})
}

// violation notes a broken invariant; mu is held.
func (m *model) violation(format string, args ...any) {
	m.log(format, args...)
	m.violations = append(m.violations, fmt.Sprintf(format, args...))
}

// report is the seed, what was broken and the history.
func (m *model) report() string {
	var text strings.Builder
	fmt.Fprintf(&text, "seed %d: %s\n", m.seed, strings.Join(m.violations, "; "))
	for _, s := range m.steps {
		fmt.Fprintf(&text, "%12s  %s\n", s.at, fmt.Sprintf(s.format, s.args...))
	}
	return text.String()
}

// observe checks what is stored; mu is held.
func (m *model) observe(ctx context.Context) {
	stored, err := m.storage.Tokens(ctx)
	if err != nil {
		switch kind := fault.KindOf(err); {
		case m.user != nil && kind == fault.NotFound:
			m.violation("I5: the user's grant %d was forgotten", m.user.id)
		case m.user != nil && kind == fault.ReconnectRequired:
			m.checkLoss()
		}
		return
	}
	t := m.tokens[stored.Refresh]
	if m.user != t.grant {
		m.violation("I5: %s is stored, which is not what the user granted", t.name)
	}
	if stored.Generation != m.generation && stored.Generation != m.generation+1 {
		m.violation("I4: the generation moves from %d to %d", m.generation, stored.Generation)
	}
	m.generation = stored.Generation
	m.durable[t.name] = stored.ExpiresAt
}

// checkLoss checks that the user's grant had to be lost; mu is held.
func (m *model) checkLoss() {
	for _, t := range m.user.tokens {
		if t.processed && (!t.delivered || t.tooLate) {
			return
		}
	}
	m.violation("I6: grant %d was lost without need", m.user.id)
}

// handedOut checks a pair that a caller gets.
func (m *model) handedOut(p *modelProcess, tokens prisma.Tokens) {
	m.mu.Lock()
	defer m.mu.Unlock()
	expires, durable := m.durable[tokens.Refresh]
	if !durable {
		m.violation("I3: %s hands out the access token of %s, which is not stored", p, tokens.Refresh)
	}
	if !p.dead.Load() && p.resume.Load() == 0 && !now().Before(expires) {
		m.violation("%s hands out an access token that has expired", p)
	}
}

// login and logout are the user's.
func (m *model) login() {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.grant()
	m.log("the user grants %s", t.name)
	m.user = t.grant
	if err := m.storage.SetTokens(context.Background(), t.pair()); err != nil {
		m.violation("SetTokens(): %v", err)
	}
	m.observe(context.Background())
}

func (m *model) logout() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.log("the user logs out")
	m.user = nil
	if err := m.storage.ClearTokens(context.Background()); err != nil {
		m.violation("ClearTokens(): %v", err)
	}
	m.observe(context.Background())
}

// run plays the schedule to its end. It runs in a bubble.
func (m *model) run() {
	processes := make([]*modelProcess, 2+m.draw(3))
	for i := range processes {
		processes[i] = m.start()
	}
	var calls sync.WaitGroup
	for range 6 + m.draw(14) {
		time.Sleep(m.gap())
		i := m.draw(len(processes))
		switch p := processes[i]; m.draw(16) {
		case 0: // dies now, or somewhere in what it does next
			p.dieIn.Store(int64(1 + m.draw(6)))
		case 1:
			p.kill()
		case 2: // stands still, likewise
			p.resume.Store(now().Add(m.pause()).UnixNano())
		case 3:
			p.stall.Store(int64(m.pause()))
			p.stallIn.Store(int64(1 + m.draw(8)))
		case 4:
			m.mu.Lock()
			m.downUntil = now().Add(m.pauseFor())
			m.mu.Unlock()
		case 5:
			if m.draw(3) == 0 {
				m.logout()
			}
			m.login()
		case 6: // an orderly end
			calls.Go(func() {
				ctx, cancel := context.WithTimeout(context.Background(), 170*time.Second)
				defer cancel()
				_ = p.r.Wait(ctx)
				p.kill()
			})
		default:
			if p.dead.Load() {
				p = m.start()
				processes[i] = p
			}
			for range 1 + m.draw(3) {
				calls.Go(func() { _ = p.call() })
			}
		}
		if m.broken() {
			break
		}
	}
	calls.Wait()
	m.end(processes)
}

// end heals everything and sees what a new process makes of the connection: it works,
// or somebody is told.
func (m *model) end(processes []*modelProcess) {
	m.mu.Lock()
	m.healed = true
	m.log("everything is well again")
	m.mu.Unlock()
	time.Sleep(10 * time.Minute) // pauses and leases end, late saves come
	p := m.start()
	var err error
	for range 6 {
		if err = p.call(); err == nil {
			break
		}
		var wait time.Duration // of an hour and a quarter at most
		if e, ok := errors.AsType[*fault.Error](err); ok {
			wait = e.RetryAfter
		}
		time.Sleep(2*time.Minute + wait)
	}
	for _, q := range append(processes, p) {
		q.kill()
	}
	time.Sleep(10 * time.Minute)
	m.mu.Lock()
	defer m.mu.Unlock()
	switch kind := fault.KindOf(err); {
	case err == nil && m.user != nil:
	case kind == fault.NotFound && m.user == nil:
	case kind == fault.ReconnectRequired && m.user != nil:
		m.seen["a lost grant"]++
		m.checkLoss()
	default:
		m.violation("I5: the connection is silently dead: %v", err)
	}
}

func (m *model) note(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen[what]++
}

func (m *model) broken() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.violations) > 0
}

func (m *model) draw(n int) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rand.IntN(n)
}

// gap is the time between two steps: often none, mostly some seconds or minutes.
func (m *model) gap() time.Duration {
	switch m.draw(4) {
	case 0:
		return time.Duration(m.draw(400)) * time.Millisecond
	case 1:
		return time.Duration(m.draw(70_000)) * time.Millisecond
	default:
		return time.Duration(m.draw(240_000)) * time.Millisecond
	}
}

// pause is how long a process stands still, at times longer than a lease lasts.
func (m *model) pause() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pauseFor()
}

func (m *model) pauseFor() time.Duration {
	return time.Duration(1+m.rand.IntN([]int{8_000, 60_000, 600_000}[m.rand.IntN(3)])) * time.Millisecond
}

// play runs the schedules of some seeds, one after the other in one bubble, until one
// breaks an invariant, and returns that and how often what happened.
func play(
	t *testing.T, first, count uint64, wrap func(*prisma.MemoryStorage) modelStorage,
) (broken *model, seen map[string]int) {
	t.Helper()
	seen = make(map[string]int)
	synctest.Test(t, func(*testing.T) {
		for seed := first; seed < first+count && broken == nil; seed++ {
			m := newModel(seed, wrap, seen)
			m.run()
			if m.broken() {
				broken = m
			}
		}
	})
	return broken, seen
}

// TestModel plays random schedules of processes that die, stand still, and lose
// answers, against the real rules and the real refresher.
func TestModel(t *testing.T) {
	t.Parallel()
	const parts = 2
	for part := range uint64(parts) {
		t.Run(fmt.Sprintf("part %d", part), func(t *testing.T) {
			t.Parallel()
			const count = modelSchedules / parts
			m, seen := play(t, 1+part*count, count, func(s *prisma.MemoryStorage) modelStorage { return s })
			if m != nil {
				t.Fatal(m.report())
			}
			t.Log(seen)
			for _, what := range []string{
				"a late retry", "a further late retry", "a pair that healed late", "a probe", "a replay", "a lost grant", "a save after its lease", "a superseded save", "an answer that breaks off",
				"an entry of the spool", "a lease that another process holds",
			} {
				if seen[what] == 0 {
					t.Errorf("%d schedules without %s", count, what)
				}
			}
		})
	}
}
