package prisma

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"
)

// RefreshSettings are the numbers of the refresh algorithm. A zero field takes its
// default. Tests scale them down; what must keep its proportion, Validate checks.
type RefreshSettings struct {
	// Margin is how much life an access token must have left to be served without
	// waiting, at most a tenth of its whole life. Default 60 s.
	Margin time.Duration

	// RefreshFrom and RefreshTo bound the share of its life after which a token is
	// refreshed in the background. Where in between depends on the connection, so
	// that tokens issued together are not refreshed together. Defaults 0.75 and 0.85.
	RefreshFrom, RefreshTo float64

	// RefusalAge is how old a token must be for a 401 to count as a reason to refresh.
	// A younger one that is refused would be refused again. Default 60 s.
	RefusalAge time.Duration

	// CallerWait is how long a caller waits for a refresh before it is told to come
	// back; the refresh goes on. Default 15 s.
	CallerWait time.Duration

	// Waiters is how many callers may wait for one connection's refresh in this process;
	// further ones are told to come back at once. Default 1,000.
	Waiters int

	// SendGuard is the most time between the start of a claim and the request. After
	// a longer pause the lease is given back unused, because somebody else may think
	// it ended. Default 5 s.
	SendGuard time.Duration

	// Exchanges is how many exchanges may be in flight in this process, from the claim
	// until the pair is stored. It bounds what a crash can cost. Default 8.
	Exchanges int

	// Exchange bounds one token request. NewRefresher takes it from an exchanger that
	// tells its Timeouts, as *OAuth does.
	Exchange ExchangeTimeouts

	// Write is how long the lease allows for storing the answer. Saving goes on after
	// that; only the lease no longer covers it. Default 90 s.
	Write time.Duration

	// Stall is how long the process may stand still, altogether, without the lease
	// running out under it. Default 25 s.
	Stall time.Duration

	// Lease is how long the storage's lease lasts. It has to be what the storage uses.
	// Default 180 s.
	Lease time.Duration

	// WriteAttempt bounds one attempt to save or settle, and each read that a refresh
	// makes by itself. Default 10 s.
	WriteAttempt time.Duration

	// SaveRetryFrom and SaveRetryTo bound the doubling pause between attempts to save.
	// Defaults 50 ms and 2 s.
	SaveRetryFrom, SaveRetryTo time.Duration

	// PollFrom and PollTo bound the doubling pause between looks at a refresh that
	// another process makes. Defaults 50 ms and 400 ms; up to a quarter is added.
	PollFrom, PollTo time.Duration

	// BackoffFrom and BackoffTo bound the doubling pause after an exchange that failed;
	// up to a quarter is added. Defaults 1 s and 30 s.
	BackoffFrom, BackoffTo time.Duration

	// BreakerAfter is how many exchanges in a row without a prompt, usable answer make
	// this process leave the token endpoint alone. Default 3.
	BreakerAfter int

	// BreakerSlow is how long an answer may take to count as prompt. A later one is
	// waited for and stored all the same. Default 5 s.
	BreakerSlow time.Duration

	// BreakerFrom and BreakerTo bound the doubling pause before one exchange is tried
	// again; up to a quarter is added. BreakerSlow and BreakerTo together are about how
	// long it takes to notice that the endpoint is well. Defaults 5 s and 30 s.
	BreakerFrom, BreakerTo time.Duration

	// SuspectPause is how long this process leaves a connection alone whose refresh
	// token must not be sent yet. Default 5 s.
	SuspectPause time.Duration

	// Late are the pauses between two late retries of a refresh token of unknown fate.
	// They have to be what the storage uses. Defaults 1 min and 1 h.
	Late LatePauses
}

// WithDefaults returns s with its zero fields filled.
func (s RefreshSettings) WithDefaults() RefreshSettings {
	return RefreshSettings{
		Margin:        cmp.Or(s.Margin, time.Minute),
		RefreshFrom:   cmp.Or(s.RefreshFrom, 0.75),
		RefreshTo:     cmp.Or(s.RefreshTo, 0.85),
		RefusalAge:    cmp.Or(s.RefusalAge, time.Minute),
		CallerWait:    cmp.Or(s.CallerWait, 15*time.Second),
		Waiters:       cmp.Or(s.Waiters, 1000),
		SendGuard:     cmp.Or(s.SendGuard, 5*time.Second),
		Exchanges:     cmp.Or(s.Exchanges, 8),
		Exchange:      s.Exchange.withDefaults(),
		Write:         cmp.Or(s.Write, 90*time.Second),
		Stall:         cmp.Or(s.Stall, 25*time.Second),
		Lease:         cmp.Or(s.Lease, 180*time.Second),
		WriteAttempt:  cmp.Or(s.WriteAttempt, 10*time.Second),
		SaveRetryFrom: cmp.Or(s.SaveRetryFrom, 50*time.Millisecond),
		SaveRetryTo:   cmp.Or(s.SaveRetryTo, 2*time.Second),
		PollFrom:      cmp.Or(s.PollFrom, 50*time.Millisecond),
		PollTo:        cmp.Or(s.PollTo, 400*time.Millisecond),
		BackoffFrom:   cmp.Or(s.BackoffFrom, time.Second),
		BackoffTo:     cmp.Or(s.BackoffTo, 30*time.Second),
		BreakerAfter:  cmp.Or(s.BreakerAfter, 3),
		BreakerSlow:   cmp.Or(s.BreakerSlow, 5*time.Second),
		BreakerFrom:   cmp.Or(s.BreakerFrom, 5*time.Second),
		BreakerTo:     cmp.Or(s.BreakerTo, 30*time.Second),
		SuspectPause:  cmp.Or(s.SuspectPause, 5*time.Second),
		Late:          s.Late.WithDefaults(),
	}
}

// Validate checks the settings, after defaults: above all that an exchange which uses
// every allowance still ends within the lease. It names each rule that is broken.
func (s RefreshSettings) Validate() error {
	s = s.WithDefaults()
	var problems []error
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"margin", s.Margin},
		{"refusal age", s.RefusalAge},
		{"caller wait", s.CallerWait},
		{"send guard", s.SendGuard},
		{"dial timeout", s.Exchange.Dial},
		{"TLS timeout", s.Exchange.TLS},
		{"answer timeout", s.Exchange.Answer},
		{"write allowance", s.Write},
		{"stall allowance", s.Stall},
		{"lease", s.Lease},
		{"write attempt", s.WriteAttempt},
		{"save retry", min(s.SaveRetryFrom, s.SaveRetryTo)},
		{"poll", min(s.PollFrom, s.PollTo)},
		{"backoff", min(s.BackoffFrom, s.BackoffTo)},
		{"breaker's slow answer", s.BreakerSlow},
		{"breaker pause", min(s.BreakerFrom, s.BreakerTo)},
		{"suspect pause", s.SuspectPause},
		{"pause between late retries", min(s.Late.From, s.Late.To)},
	} {
		if d.value <= 0 {
			problems = append(problems, fmt.Errorf("%s must be positive, is %s", d.name, d.value))
		}
	}
	needed := s.Exchange.Dial + s.Exchange.TLS + s.Exchange.Answer + s.Write + s.Stall
	if needed > s.Lease {
		problems = append(problems, fmt.Errorf(
			"connect + answer + write + stall take %s, longer than the lease of %s", needed, s.Lease))
	}
	if s.SendGuard > s.Stall {
		problems = append(problems, fmt.Errorf(
			"send guard of %s is longer than the stall allowance of %s", s.SendGuard, s.Stall))
	}
	if s.WriteAttempt > s.Write {
		problems = append(problems, fmt.Errorf(
			"write attempt of %s is longer than the write allowance of %s", s.WriteAttempt, s.Write))
	}
	for _, pause := range []struct {
		name     string
		from, to time.Duration
	}{
		{"save retry", s.SaveRetryFrom, s.SaveRetryTo},
		{"poll", s.PollFrom, s.PollTo},
		{"backoff", s.BackoffFrom, s.BackoffTo},
		{"breaker pause", s.BreakerFrom, s.BreakerTo},
		{"pause between late retries", s.Late.From, s.Late.To},
	} {
		if pause.from > pause.to {
			problems = append(problems, fmt.Errorf("%s grows from %s to less, %s", pause.name, pause.from, pause.to))
		}
	}
	if s.Exchanges < 1 {
		problems = append(problems, fmt.Errorf("exchanges must be at least 1, is %d", s.Exchanges))
	}
	if s.Waiters < 1 {
		problems = append(problems, fmt.Errorf("waiters must be at least 1, is %d", s.Waiters))
	}
	if s.BreakerAfter < 1 {
		problems = append(problems, fmt.Errorf("breaker must open after at least 1 failure, is %d", s.BreakerAfter))
	}
	if !(0 < s.RefreshFrom && s.RefreshFrom <= s.RefreshTo && s.RefreshTo < 1) {
		problems = append(problems, fmt.Errorf(
			"refresh must lie between 0 and 1 of a token's life, is %g to %g", s.RefreshFrom, s.RefreshTo))
	}
	var text []string
	for _, problem := range problems {
		text = append(text, problem.Error())
	}
	if text != nil {
		return errors.New("refresh settings: " + strings.Join(text, "; "))
	}
	return nil
}
