package prisma

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"hash/maphash"
	"log/slog"
	"strconv"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/connect-prisma/server/internal/fault"
)

// lastChance is the life that an access token must have left to be served when it
// should have been refreshed and that failed: enough for one call to reach Prisma.
const lastChance = 5 * time.Second

// Exchanger trades a refresh token for the next pair in exactly one request. Its
// errors are *TokenErrors; any other counts as Unknown. *OAuth is the real one.
type Exchanger interface {
	Refresh(ctx context.Context, client OAuthClient, refreshToken string) (Grant, error)
}

// RefresherConfig is what a Refresher needs.
type RefresherConfig struct {
	// Exchanger makes the token requests. Required.
	Exchanger Exchanger

	// Settings are the numbers; zero fields take their defaults.
	Settings RefreshSettings

	// Now is this process's clock, only used to measure elapsed time and as the clock
	// of storages that have none. Required; time.Now, whose values are monotonic.
	Now func() time.Time

	// Logger gets one record for each exchange that went wrong. Nil: none.
	Logger *slog.Logger

	// Spool keeps pairs that the storage can't take yet. Nil: none, and such a pair
	// lives no longer than this process.
	Spool Spool
}

// Refresher keeps the access tokens of any number of connections fresh. One per
// process; it is safe for concurrent use.
type Refresher struct {
	exchanger Exchanger
	settings  RefreshSettings
	now       func() time.Time
	logger    *slog.Logger

	flights  singleflight.Group
	breaker  *breaker
	slots    *slots
	drain    *drain
	backoffs *backoffs // by connection
	clients  *backoffs // by OAuth client
	limited  *backoffs // by OAuth client: those told to slow down
	suspects *backoffs // by connection: too early to send its token again
	stuck    *backoffs // by connection: its refresh did not get as far as an exchange

	suspicions *suspicions  // of pairs in plain storages
	spools     Spool        // may be nil
	seed       maphash.Seed // makes this process's jitter its own
}

// NewRefresher checks the configuration and returns a Refresher; it starts nothing.
func NewRefresher(cfg RefresherConfig) (*Refresher, error) {
	if cfg.Exchanger == nil || cfg.Now == nil {
		return nil, errors.New("refresher: an exchanger and a clock are needed")
	}
	if timed, ok := cfg.Exchanger.(interface{ Timeouts() ExchangeTimeouts }); ok {
		cfg.Settings.Exchange = timed.Timeouts()
	}
	if err := cfg.Settings.Validate(); err != nil {
		return nil, err
	}
	settings := cfg.Settings.WithDefaults()
	pauses := func() *backoffs {
		return newBackoffs(settings.BackoffFrom, settings.BackoffTo, settings.RefusalAge)
	}
	r := &Refresher{
		exchanger: cfg.Exchanger,
		settings:  settings,
		now:       cfg.Now,
		logger:    cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)),
		slots:     newSlots(settings.Exchanges),
		drain:     newDrain(),
		backoffs:  pauses(),
		clients:   pauses(),
		limited:   pauses(),
		suspects:  pauses(),
		stuck:     pauses(),

		suspicions: newSuspicions(settings.Late),
		spools:     cfg.Spool,
		seed:       maphash.MakeSeed(),
	}
	r.breaker = newBreaker(settings, cfg.Now, func(turn int) float64 { return r.jitter("", turn) }, r.logger)
	return r, nil
}

// RefresherState is what a Refresher does at the moment, for metrics and for people.
type RefresherState struct {
	// Exchanges is how many places for exchanges are taken, of Places; Waiting is how
	// many refreshes wait for one.
	Exchanges, Places, Waiting int

	// Breaker says whether the token endpoint is in use, and Since when that last
	// changed between closed and not closed, on the Refresher's clock; zero: never.
	Breaker BreakerState
	Since   time.Time

	// Draining: no new exchange begins (Wait).
	Draining bool
}

// State returns what the refresher does at the moment.
func (r *Refresher) State() RefresherState {
	state := RefresherState{Places: r.settings.Exchanges}
	state.Exchanges, state.Waiting = r.slots.counts()
	state.Breaker, state.Since = r.breaker.state()
	state.Draining = r.drain.isShut()
	return state
}

// reading is a stored pair and the local time just before it was read.
type reading struct {
	Tokens

	at time.Time
}

// AccessToken returns the connection's tokens with an access token that is worth
// sending.
//
// While the stored one is valid it is returned at once; past 75-85 % of its life a
// refresh is started behind the caller's back. Once it has expired the caller waits
// for a refresh that all callers in this process share, at most 15 s. A refresh
// outlives every caller: Prisma replaces the refresh token with each use, so stopping
// before the save would lose the connection.
//
// The error's kind:
//   - fault.NotFound: no tokens are stored.
//   - fault.ReconnectRequired: Prisma refused the refresh token, or there is none.
//   - fault.RefreshInProgress: the refresh takes longer than callers wait, or this
//     process is shutting down; RetryAfter is set.
//   - fault.PrismaUnavailable: the exchange failed or its outcome is unknown, or none is
//     made because the token endpoint is in trouble (BreakerOpen); what is stored did
//     not change, and RetryAfter is set.
//
// Errors of the storage and of Connection.Client come back wrapped. When ctx ends the
// error is ctx's.
func (r *Refresher) AccessToken(ctx context.Context, conn Connection) (Tokens, error) {
	stored, err := r.read(ctx, conn)
	if err != nil {
		return Tokens{}, err
	}
	return r.serve(ctx, conn, stored)
}

// AfterRefusal returns tokens to repeat a call with that the API refused with 401.
//
// If the refused pair is no longer the stored one, the stored one is returned as by
// AccessToken. Otherwise a refresh is forced, but only when the pair is at least 60 s
// old: Prisma would refuse its successor as well, and each try costs a refresh token.
// That keeps a connection to one forced refresh a minute wherever they run, since all
// processes see when the stored pair was issued; this process also remembers its own,
// for storages that can't say, and for those that gave no pair. Otherwise the error's
// kind is fault.PrismaRefused; the other errors are those of AccessToken.
func (r *Refresher) AfterRefusal(ctx context.Context, conn Connection, refused Tokens) (Tokens, error) {
	// Asked before the read: what a forced refresh stored before its end, the read finds.
	recently := r.backoffs.forcedSince(conn.Key, r.now().Add(-r.settings.RefusalAge))
	stored, err := r.read(ctx, conn)
	if err != nil {
		return Tokens{}, err
	}
	if !stored.SamePair(refused) && stored.Access != refused.Access {
		return r.serve(ctx, conn, stored)
	}
	if recently {
		return Tokens{}, fault.New(fault.PrismaRefused, "Prisma refused the access token, and a new one was asked for just now.", nil).
			WithRetryAfter(r.settings.RefusalAge)
	}
	if !stored.IssuedAt.IsZero() && r.clock(stored).Sub(stored.IssuedAt) < r.settings.RefusalAge {
		return Tokens{}, fault.New(fault.PrismaRefused, "Prisma refused an access token that it has only just issued.", nil)
	}
	useless := stored.Tokens
	useless.ExpiresAt = stored.ReadAt // refused is as good as expired, and Claim should know
	forced := order{stale: useless, forced: true}
	fresh, err := r.wait(ctx, conn, forced)
	if fault.KindOf(err) == fault.PrismaUnavailable && r.backoffs.remaining(conn.Key, r.now()) == 0 {
		// It may have joined a refresh ahead of need, for which it was too early to send a
		// token of unknown fate again. For this one it is not.
		fresh, err = r.wait(ctx, conn, forced)
	}
	if err != nil {
		return Tokens{}, err
	}
	if fresh.SamePair(refused) {
		return Tokens{}, fault.New(fault.PrismaRefused, "Prisma refused the access token and there is no newer one.", nil)
	}
	return fresh, nil
}

// Wait lets no new exchange begin and waits for those in flight, so that the process
// may end without losing a pair. Stored tokens that are still valid are served on.
// If ctx ends first, pairs that could not be saved so far are given up or, with a Spool,
// left in it for another process; the log says which, and the error how many exchanges
// there were. Giving up takes a second at most.
func (r *Refresher) Wait(ctx context.Context) error { return r.drain.wait(ctx) }

// serve returns the stored pair while it lasts and otherwise waits for the next one.
func (r *Refresher) serve(ctx context.Context, conn Connection, stored reading) (Tokens, error) {
	left := r.left(stored)
	if stored.Refresh == "" && left > 0 { // nothing can follow it: it serves to its end
		return stored.Tokens, nil
	}
	if left > r.margin(stored.Tokens) {
		if r.due(conn.Key, stored) && r.mayStart(conn.Key) {
			r.start(ctx, conn, order{stale: stored.Tokens})
		}
		return stored.Tokens, nil
	}
	fresh, err := r.wait(ctx, conn, order{stale: stored.Tokens})
	if err == nil {
		return fresh, nil
	}
	kind := fault.KindOf(err)
	gone := kind == fault.ReconnectRequired || kind == fault.NotFound
	if _, ok := errors.AsType[noClientError](err); ok {
		gone = false // nothing can renew the pair, which says nothing against it
	}
	if !gone && ctx.Err() == nil && r.left(stored) > lastChance {
		return stored.Tokens, nil // why the refresh failed is in the log already
	}
	return Tokens{}, err
}

// mayStart reports whether nothing keeps the connection's background refresh back.
func (r *Refresher) mayStart(key string) bool {
	now := r.now()
	return r.backoffs.remaining(key, now) == 0 && r.suspects.remaining(key, now) == 0 &&
		r.stuck.remaining(key, now) == 0 && r.breaker.refuses(false) == 0
}

// order is what a refresh is asked for.
type order struct {
	stale  Tokens // the pair to replace
	forced bool   // because the API refused it, and not because of its age

	refused string // the client secret that was not taken on the way; "": none
}

// start begins the connection's refresh, or joins the one that runs.
func (r *Refresher) start(ctx context.Context, conn Connection, o order) <-chan singleflight.Result {
	detached := context.WithoutCancel(ctx)
	return r.flights.DoChan(conn.Key, func() (any, error) { return r.fly(detached, conn, o) })
}

// wait begins or joins the connection's refresh and waits for its end, within limits.
func (r *Refresher) wait(ctx context.Context, conn Connection, o order) (Tokens, error) {
	waiting := r.slots.want(conn.Key)
	defer r.slots.unwant(conn.Key)
	if waiting > r.settings.Waiters {
		return Tokens{}, errInProgress()
	}
	timeout := time.NewTimer(r.settings.CallerWait)
	defer timeout.Stop()
	select {
	case <-ctx.Done():
		return Tokens{}, fmt.Errorf("wait for a token refresh: %w", ctx.Err())
	case <-timeout.C:
		return Tokens{}, errInProgress()
	case result := <-r.start(ctx, conn, o):
		tokens, _ := result.Val.(Tokens)
		return tokens, result.Err
	}
}

// read reads the stored pair and notes when.
func (r *Refresher) read(ctx context.Context, conn Connection) (reading, error) {
	at := r.now() // before the read: time spent reading counts as passed
	tokens, err := conn.Storage.Tokens(ctx)
	if err != nil {
		return reading{}, fmt.Errorf("read the tokens of %s: %w", conn, err)
	}
	if tokens.ReadAt.IsZero() {
		tokens.ReadAt = at
	}
	return reading{Tokens: tokens, at: at}, nil
}

// clock is the storage's time now, as far as this process can tell.
func (r *Refresher) clock(stored reading) time.Time {
	return stored.ReadAt.Add(r.now().Sub(stored.at))
}

// left is how long the access token will still be valid, negative once it has
// expired. Without an access token it is 0, without a known end a day.
func (r *Refresher) left(stored reading) time.Duration {
	switch {
	case stored.Access == "":
		return 0
	case stored.ExpiresAt.IsZero():
		return maxTokenLife
	}
	return stored.ExpiresAt.Sub(r.clock(stored))
}

// margin is the life that a pair's access token must have left to be served without
// waiting: a tenth of its life at most, so that a short-lived one is served at all.
func (r *Refresher) margin(t Tokens) time.Duration {
	if life, known := lifeOf(t); known {
		return min(r.settings.Margin, life/10)
	}
	return r.settings.Margin
}

// due reports whether a valid pair should be refreshed in the background.
func (r *Refresher) due(key string, stored reading) bool {
	life, known := lifeOf(stored.Tokens)
	if !known || stored.Refresh == "" {
		return false
	}
	from, to := r.settings.RefreshFrom, r.settings.RefreshTo
	share := from + (to-from)*spread(key, stored.Generation)
	return r.clock(stored).Sub(stored.IssuedAt) >= time.Duration(share*float64(life))
}

// lifeOf is the whole life of a pair's access token, if storage knows both ends.
func lifeOf(t Tokens) (time.Duration, bool) {
	if t.IssuedAt.IsZero() || t.ExpiresAt.IsZero() {
		return 0, false
	}
	return t.ExpiresAt.Sub(t.IssuedAt), true
}

// spread maps a pair to a number in [0, 1) that is the same in every process, so that
// all of them agree on when it is due.
func spread(key string, generation int64) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key + "\x00" + strconv.FormatInt(generation, 10))) // never fails
	// FNV's low bits differ well between similar inputs; its high bits do not.
	return float64(h.Sum64()%10_000) / 10_000
}

// jitter is a number in [0, 1) that differs between processes, connections and turns.
func (r *Refresher) jitter(key string, turn int) float64 {
	return float64(maphash.Comparable(r.seed, struct {
		key  string
		turn int
	}{key, turn})>>11) / (1 << 53)
}
