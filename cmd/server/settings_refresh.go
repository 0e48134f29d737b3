package main

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/caarlos0/env/v11"

	"github.com/connect-prisma/server/internal/prisma"
)

// The bounds of REFRESH_KEEP_ALIVE: a connection is kept alive up to 5 days later, and
// an unused refresh token dies after 90.
const (
	leastKeepAlive = 24 * time.Hour
	mostKeepAlive  = 80 * 24 * time.Hour
)

// refreshNames are the variables of refreshSettings.
func refreshNames() []string {
	var names []string
	for field := range reflect.TypeFor[refreshSettings]().Fields() {
		names = append(names, field.Tag.Get("env"))
	}
	return names
}

// describeParseError says which variable can't be read and what it must look like,
// without its value.
func describeParseError(err error) error {
	failure, ok := errors.AsType[env.ParseError](err)
	if !ok {
		return errors.New("the settings can't be read")
	}
	name := failure.Name
	for _, t := range []reflect.Type{reflect.TypeFor[settings](), reflect.TypeFor[refreshSettings]()} {
		if field, ok := t.FieldByName(failure.Name); ok && field.Type == failure.Type {
			name = field.Tag.Get("env")
			break
		}
	}
	form := "a number"
	switch failure.Type {
	case reflect.TypeFor[time.Duration]():
		form = "a duration such as 5s"
	case reflect.TypeFor[int]():
		form = "a whole number"
	}
	return fmt.Errorf("%s must be %s", name, form)
}

// tune returns the numbers as the refresher takes them.
func (s refreshSettings) tune() prisma.RefreshSettings {
	return prisma.RefreshSettings{
		Margin: s.Margin, RefreshFrom: s.From, RefreshTo: s.To, RefusalAge: s.RefusalAge, CallerWait: s.CallerWait,
		Waiters:   s.Waiters,
		SendGuard: s.SendGuard, Exchanges: s.Exchanges, Exchange: s.timeouts(), Write: s.Write, Stall: s.Stall,
		Lease: s.Lease, WriteAttempt: s.WriteAttempt, SaveRetryFrom: s.SaveFrom, SaveRetryTo: s.SaveTo,
		PollFrom: s.PollFrom, PollTo: s.PollTo, BackoffFrom: s.BackoffFrom, BackoffTo: s.BackoffTo,
		BreakerAfter: s.BreakerAfter, BreakerSlow: s.BreakerSlow, BreakerFrom: s.BreakerFrom, BreakerTo: s.BreakerTo,
		SuspectPause: s.SuspectPause, Late: prisma.LatePauses{From: s.LateFrom, To: s.LateTo},
	}
}

// timeouts bound one token request.
func (s refreshSettings) timeouts() prisma.ExchangeTimeouts {
	return prisma.ExchangeTimeouts{Dial: s.Dial, TLS: s.TLS, Answer: s.Answer}
}

// lease is how long a refresh lease lasts, for the refresher and for the database.
func (s refreshSettings) lease() time.Duration { return s.tune().WithDefaults().Lease }

// drain is how long a shutdown may take at most: an exchange that has just begun, the
// save of its pair, and some time for what comes before and after.
func (s refreshSettings) drain() time.Duration {
	full := s.tune().WithDefaults()
	return full.Exchange.Dial + full.Exchange.TLS + full.Exchange.Answer + full.Write + 15*time.Second
}

// check refuses numbers that do not fit together, in one line.
func (s refreshSettings) check() error {
	if min(s.Hold, s.Leeway) < 0 || max(s.Hold, s.Leeway) > time.Hour {
		return errors.New("REFRESH_HOLD and REFRESH_LEEWAY must be between 0s and 1h")
	}
	if k := cmp.Or(s.KeepAlive, mostKeepAlive); k < leastKeepAlive || k > mostKeepAlive {
		return errors.New("REFRESH_KEEP_ALIVE must be between 24h and 1920h")
	}
	if err := s.tune().Validate(); err != nil {
		return fmt.Errorf("REFRESH_*: %w", err)
	}
	return nil
}

// refuseZero refuses a number that was given as 0 and would silently mean its default.
func (s refreshSettings) refuseZero() error {
	value := reflect.ValueOf(s)
	for field, one := range value.Fields() {
		name := field.Tag.Get("env")
		if one.IsZero() && field.Tag.Get("envDefault") != "0s" && name != "REFRESH_HOLD" {
			return fmt.Errorf("%s must be above 0", name)
		}
	}
	return nil
}
