package prisma_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
)

var (
	errModelDead = errors.New("model: this process is dead")
	errModelDown = errors.New("model: the storage is down, or its answer was lost")
)

// modelStorage is what a process needs of a storage; the mistakes are variants of it.
type modelStorage interface {
	prisma.TokenStorage
	prisma.CompareAndClear
	prisma.RefreshLease
}

// modelProcess is one process of the model: a real refresher whose storage and token
// endpoint are the model's. It may die or stand still wherever it waits for either.
type modelProcess struct {
	model *model
	name  string
	r     *prisma.Refresher
	end   func() // lets the goroutines of r end

	dead    atomic.Bool
	dieIn   atomic.Int64 // seams until it dies; 0: it does not
	stallIn atomic.Int64 // seams until it stands still for stall
	stall   atomic.Int64 // nanoseconds
	resume  atomic.Int64 // until when it stands still, in Unix nanoseconds
}

var (
	_ modelStorage     = (*modelProcess)(nil)
	_ prisma.Exchanger = (*modelProcess)(nil)
	_ prisma.Prober    = (*modelProcess)(nil)
	_ prisma.Spool     = (*modelProcess)(nil)
)

// start makes a new process; what an earlier one left in the spool is stored first.
func (m *model) start() *modelProcess {
	m.processes++
	p := &modelProcess{model: m, name: fmt.Sprintf("P%d", m.processes)}
	r, err := prisma.NewRefresher(prisma.RefresherConfig{
		Exchanger: p, Now: now, Spool: p,
		Settings: prisma.RefreshSettings{ // fewer looks, or most of the time goes into them
			PollFrom: 2 * time.Second, PollTo: 5 * time.Second, SaveRetryFrom: time.Second, SaveRetryTo: 20 * time.Second,
		},
	})
	if err != nil {
		m.violation("NewRefresher(): %v", err)
	}
	p.r = r
	p.end = func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = r.Wait(ctx)
	}
	m.mu.Lock()
	entries := m.spool
	m.spool = nil
	m.mu.Unlock()
	for _, e := range entries {
		m.note("an entry of the spool")
		if err := p.Save(context.Background(), e.claim, e.fresh); err != nil && !errors.Is(err, prisma.ErrSuperseded) {
			m.mu.Lock()
			m.spool = append(m.spool, e)
			m.mu.Unlock()
		}
	}
	return p
}

func (p *modelProcess) String() string { return p.name }

// kill ends the process: nothing it does from here on has an effect.
func (p *modelProcess) kill() {
	if p.dead.Swap(true) {
		return
	}
	p.model.mu.Lock()
	p.model.log("%s dies", p)
	p.model.mu.Unlock()
	go p.end()
}

// seam is a moment at which the process may die or stand still. It reports whether it
// lives.
func (p *modelProcess) seam() bool {
	if p.dieIn.Load() > 0 && p.dieIn.Add(-1) == 0 {
		p.kill()
	}
	if p.stallIn.Load() > 0 && p.stallIn.Add(-1) == 0 {
		p.resume.Store(now().UnixNano() + p.stall.Load())
	}
	for !p.dead.Load() {
		pause := time.Duration(p.resume.Load() - now().UnixNano())
		if pause <= 0 {
			break
		}
		time.Sleep(pause)
	}
	return !p.dead.Load()
}

// store runs one operation on the storage: not at all, with its answer lost, or well.
func (p *modelProcess) store(ctx context.Context, what string, do func() error) error {
	m := p.model
	if !p.seam() {
		return errModelDead
	}
	err := m.inStorage(ctx, what, p, do)
	if !p.seam() {
		return errModelDead
	}
	return err
}

// inStorage is store without the process.
func (m *model) inStorage(ctx context.Context, what string, p *modelProcess, do func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	draw := m.rand.IntN(30)
	if !m.healed && (now().Before(m.downUntil) || draw == 0) {
		m.log("%s %s: the storage is down", p, what)
		return errModelDown
	}
	err := do()
	m.log("%s %s: %v", p, what, err)
	m.observe(ctx)
	if !m.healed && draw == 1 {
		m.log("%s does not hear of it", p)
		return errModelDown
	}
	return err
}

// Tokens, SetTokens and the rest are the storage as this process meets it.
func (p *modelProcess) Tokens(ctx context.Context) (tokens prisma.Tokens, err error) {
	if !p.seam() {
		return prisma.Tokens{}, errModelDead
	}
	return p.model.storage.Tokens(ctx)
}

func (p *modelProcess) SetTokens(ctx context.Context, tokens prisma.Tokens) error {
	return p.store(ctx, "set", func() error { return p.model.storage.SetTokens(ctx, tokens) })
}

func (p *modelProcess) ClearTokens(ctx context.Context) error {
	return p.store(ctx, "clear", func() error { return p.model.storage.ClearTokens(ctx) })
}

func (p *modelProcess) ClearTokensIfCurrent(ctx context.Context, tokens prisma.Tokens) error {
	return p.store(ctx, "clear if current", func() error { return p.model.storage.ClearTokensIfCurrent(ctx, tokens) })
}

func (p *modelProcess) Claim(ctx context.Context, refused prisma.Tokens) (claim prisma.Claim, err error) {
	err = p.store(ctx, "claim of "+refused.Refresh, func() error {
		claim, err = p.model.storage.Claim(ctx, refused)
		p.model.log("%s due %t, held %t", p, claim.Due, claim.Held)
		if claim.Held {
			p.model.seen["a lease that another process holds"]++
		}
		if t := p.model.tokens[claim.Current.Refresh]; claim.Due {
			t.leases = append(t.leases, claim.Taken.Add(prisma.RefreshSettings{}.WithDefaults().Lease))
		}
		return err
	})
	if err != nil {
		return prisma.Claim{}, err
	}
	return claim, nil
}

func (p *modelProcess) Save(ctx context.Context, claim prisma.Claim, fresh prisma.Tokens) error {
	m := p.model
	return p.store(ctx, "save of "+fresh.Refresh, func() error {
		next, used := m.tokens[fresh.Refresh], m.tokens[claim.Current.Refresh]
		_, before := m.durable[fresh.Refresh] // then an earlier try had stored it
		wanted := !before && m.user == next.grant && next.grant.current == next && !next.grant.revoked
		err := m.storage.Save(ctx, claim, fresh)
		switch lease := (prisma.RefreshSettings{}).WithDefaults().Lease; {
		case errors.Is(err, prisma.ErrSuperseded):
			m.seen["a superseded save"]++
		case now().Sub(claim.Taken) > lease && !before:
			m.seen["a save after its lease"]++
		}
		if wanted {
			used.delivered = true
			if stored, e := m.storage.Tokens(ctx); e != nil || stored.Refresh != fresh.Refresh {
				m.violation("I6: %s was thrown away, and it is the only live one: %v", fresh.Refresh, err)
			}
		}
		return err
	})
}

func (p *modelProcess) Settle(ctx context.Context, claim prisma.Claim, outcome prisma.Outcome) error {
	return p.store(ctx, fmt.Sprintf("settle of %s as %s", claim.Current.Refresh, outcome), func() error {
		t := p.model.tokens[claim.Current.Refresh]
		until := claim.Taken.Add(prisma.RefreshSettings{}.WithDefaults().Lease)
		t.leases = slices.DeleteFunc(t.leases, until.Equal)
		return p.model.storage.Settle(ctx, claim, outcome)
	})
}

// Probe asks the token endpoint how it is; the process may die or stand still meanwhile.
func (p *modelProcess) Probe(context.Context) error {
	m := p.model
	if !p.seam() {
		return errModelDead
	}
	m.mu.Lock()
	down := !m.healed && m.rand.IntN(4) == 0
	m.seen["a probe"]++
	m.log("%s asks the endpoint: down %t", p, down)
	m.mu.Unlock()
	time.Sleep(time.Duration(1+m.draw(2_000)) * time.Millisecond)
	if !p.seam() {
		return errModelDead
	}
	if down {
		return &prisma.TokenError{Class: prisma.NotSent, Status: 503}
	}
	return nil
}

// spooled is one entry of the spool, which outlives processes.
type spooled struct {
	claim prisma.Claim
	fresh prisma.Tokens
}

// Keep is the process's spool. It is out of order as often as not.
func (p *modelProcess) Keep(_ context.Context, _ prisma.Connection, claim prisma.Claim, fresh prisma.Tokens) (func(), error) {
	if !p.seam() {
		return nil, errModelDead
	}
	m := p.model
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rand.IntN(2) == 0 {
		return nil, errModelDown
	}
	m.log("%s spools %s", p, fresh.Refresh)
	m.spool = append(m.spool, spooled{claim, fresh})
	return func() {}, nil // left behind, as after a crash: whoever replays it must do no harm
}

// call is one request of a partner: it needs a token, uses it, and may have to get
// another one after a 401.
func (p *modelProcess) call() error {
	conn := connection("c", p)
	ctx := context.Background()
	tokens, err := p.r.AccessToken(ctx, conn)
	if err != nil {
		return err
	}
	p.model.handedOut(p, tokens)
	if p.model.works(tokens.Access) {
		return nil
	}
	fresh, err := p.r.AfterRefusal(ctx, conn, tokens)
	if err != nil {
		return err
	}
	p.model.handedOut(p, fresh)
	if !p.model.works(fresh.Access) {
		return fault.New(fault.PrismaRefused, "Refused twice.", nil)
	}
	return nil
}
