package prisma_test

import (
	"context"
	"fmt"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
)

// modelLife is the life of the model's access tokens: short, so that one schedule sees
// several generations, and long enough to hold a lease.
const modelLife = 10 * time.Minute

// modelGrant is one consent of the user at the model's authorization server.
type modelGrant struct {
	id      int
	revoked bool
	current *modelToken
	tokens  []*modelToken
}

// modelToken is one refresh token in the server's ledger, with its access token.
type modelToken struct {
	grant     *modelGrant
	name      string
	expires   time.Time // of the access token, by the server
	inFlight  int
	presented int         // requests that came far enough to use it up
	leases    []time.Time // ends of the leases under which it may have been presented, without those that were settled
	processed bool
	delivered bool // its successor reached a storage that could take it
	tooLate   bool // not before it was presented again
	refused   bool // the API has answered its access token with 401

	after *modelToken // whose access token it is used with, if the answer broke off before its own
}

// isRefused reports whether the API has refused the access token that goes with t.
func (t *modelToken) isRefused() bool { return t.refused || t.after != nil && t.after.isRefused() }

// grant is a new consent.
func (m *model) grant() *modelToken {
	m.grants++
	g := &modelGrant{id: m.grants}
	return m.issue(g)
}

// issue makes a grant's next pair.
func (m *model) issue(g *modelGrant) *modelToken {
	t := &modelToken{grant: g, name: fmt.Sprintf("g%d.%d", g.id, len(g.tokens)+1), expires: now().Add(modelLife)}
	g.current = t
	g.tokens = append(g.tokens, t)
	m.tokens[t.name] = t
	return t
}

// pair is the token as a login stores it.
func (t *modelToken) pair() prisma.Tokens {
	return prisma.Tokens{
		WorkspaceID: "wksp_1", Access: "access-" + t.name, Refresh: t.name,
		IssuedAt: t.expires.Add(-modelLife), ExpiresAt: t.expires,
	}
}

// works is the API's answer to an access token.
func (m *model) works(access string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tokens[access[len("access-"):]]
	if t.grant.revoked || !now().Before(t.expires) || m.rand.IntN(50) == 0 && !m.healed {
		t.refused = true
		return false
	}
	return true
}

// arrive enters a request in the ledger and checks that it may have been sent.
func (m *model) arrive(p *modelProcess, name string) *modelToken {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.tokens[name]
	m.log("%s presents %s", p, name)
	if t.inFlight > 0 {
		m.violation("I1: %s is in two requests at once", name)
	}
	switch {
	case t.presented == 0:
	case t.presented == 1 && !t.isRefused() && now().Before(m.durable[name].Add(-time.Minute)):
		m.violation("I2: %s is presented again while its access token lives", name)
	case t.presented > 1 && now().Before(m.durable[name]):
		m.violation("I2: %s is presented a further time while its access token lives", name)
	}
	// Its own lease is the last one.
	for _, until := range t.leases[:max(len(t.leases)-1, 0)] {
		if t.presented > 0 && now().Before(until) {
			m.violation("I2: %s is presented again while an earlier lease runs", name)
		}
	}
	switch t.presented {
	case 0:
	case 1:
		m.seen["a late retry"]++
	default:
		m.seen["a further late retry"]++
	}
	t.tooLate = t.tooLate || t.processed && !t.delivered
	t.inFlight++
	t.presented++
	return t
}

// process does what a token endpoint does: rotate, or revoke after a replay.
func (m *model) process(t *modelToken) (prisma.Grant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	g := t.grant
	if g.revoked || g.current != t {
		if g.current != t && !g.revoked {
			m.log("grant %d is revoked: %s was replayed", g.id, t.name)
			m.seen["a replay"]++
		}
		g.revoked = true
		return prisma.Grant{}, &prisma.TokenError{Class: prisma.InvalidGrant, Code: "invalid_grant", Status: 400}
	}
	t.processed = true
	if t.presented > 2 {
		m.seen["a pair that healed late"]++
	}
	next := m.issue(g)
	return prisma.Grant{
		Access: "access-" + next.name, Refresh: next.name, WorkspaceID: "wksp_1", ExpiresIn: modelLife, Rotated: true,
	}, nil
}

// breakOff notes that of the answer for t only the refresh token arrives.
func (m *model) breakOff(t *modelToken, next string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen["an answer that breaks off"]++
	m.log("the answer for %s breaks off after %s", t.name, next)
	m.tokens[next].after = t
}

// depart ends a request. lost: nobody hears the answer.
func (m *model) depart(p *modelProcess, t *modelToken, lost bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t.inFlight--
	if lost {
		m.log("the answer for %s to %s is lost", t.name, p)
	}
}

// Refresh is one exchange of a process, with whatever goes wrong in it.
func (p *modelProcess) Refresh(_ context.Context, _ prisma.OAuthClient, name string) (prisma.Grant, error) {
	m := p.model
	fate, latency := m.fate()
	if p.dead.Load() { // it died between the claim and the request
		return prisma.Grant{}, errModelDead
	}
	switch fate {
	case fateNotSent:
		time.Sleep(min(latency, 5*time.Second))
		return prisma.Grant{}, &prisma.TokenError{Class: prisma.NotSent}
	case fateLimited:
		return prisma.Grant{}, &prisma.TokenError{Class: prisma.Misconfigured, Status: 429}
	case fateAnswered, fateHalf, fateLostBefore, fateLostAfter:
	}
	t := m.arrive(p, name)
	time.Sleep(latency / 2)
	var grant prisma.Grant
	var err error
	if fate != fateLostBefore {
		grant, err = m.process(t)
	}
	time.Sleep(latency / 2)
	m.depart(p, t, fate != fateAnswered && fate != fateHalf)
	if !p.seam() || fate != fateAnswered && fate != fateHalf { // it dies or stands still with the answer in its socket
		return prisma.Grant{}, &prisma.TokenError{Class: prisma.Unknown, Status: 503}
	}
	if fate == fateHalf && err == nil {
		m.breakOff(t, grant.Refresh)
		return prisma.Grant{Refresh: grant.Refresh, ExpiresIn: modelLife, Rotated: true}, nil
	}
	return grant, err
}

// What may become of an exchange.
type fate int

const (
	fateAnswered fate = iota
	fateNotSent
	fateLimited
	fateLostBefore // the request was not processed
	fateLostAfter  // it was
	fateHalf       // the answer breaks off after its refresh token
)

// fate draws what becomes of an exchange, and how long it takes altogether.
func (m *model) fate() (fate, time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.healed {
		return fateAnswered, 100 * time.Millisecond
	}
	latency := time.Duration(1+m.rand.IntN(300)) * time.Millisecond
	if m.rand.IntN(4) == 0 {
		latency = time.Duration(1+m.rand.IntN(59_000)) * time.Millisecond
	}
	switch n := m.rand.IntN(20); {
	case n < 12:
		return fateAnswered, latency
	case n < 13:
		return fateHalf, latency
	case n < 14:
		return fateNotSent, latency
	case n < 15:
		return fateLimited, latency
	case n < 17:
		return fateLostBefore, latency
	default:
		return fateLostAfter, latency
	}
}
