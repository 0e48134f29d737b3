package tenants

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/connect-prisma/server/internal/postgres"
)

// rememberedSaves is how many of its latest saves a process remembers: more than can
// be under way at once. What is lost of a write-ahead log is always its end, so if the
// latest are there, the older ones are too.
const rememberedSaves = 64

// Why token requests are stopped, as the log says it.
const (
	fenceOpen         = ""
	fenceOtherPlace   = "the database was copied or moved: another cluster, database or environment than was accepted"
	fenceWritesLost   = "the database has forgotten what it had acknowledged: it was restored, or a standby without the last writes took over"
	fenceOtherProcess = "another replica found that the database has lost writes"
	fenceTimeline     = "the database's timeline changed before this process was started: it was restored, or failed over"
	fenceFailover     = "the database failed over; nothing is missing so far"
)

// fence is what this process remembers of its database, and tells it from a copy and
// from its own past by.
type fence struct {
	hold        time.Duration
	environment string // of this process; "": not compared
	now         func() time.Time
	log         *slog.Logger

	mu        sync.Mutex
	troubled  time.Time // when this process was started or last found the database away
	place     Place     // what the last look saw, the zero Place before the first
	startedAt time.Time // and when the server was started
	beat      int64     // the last that the database acknowledged
	saves     []written // the last rememberedSaves
	witnessed int64     // the last decision under which it found the fence open
	lostAt    int64     // witnessed, when it found writes lost
	lost      bool
	forgotten bool      // what is lost was acknowledged to an earlier process
	movedAt   time.Time // when it first saw the timeline that nothing was decided about
	said      string    // why token requests are stopped, as was last logged
	saidAt    time.Time // when that last changed
}

// memory is what a look has to find again in another run of the server.
type memory struct {
	place       Place
	startedAt   time.Time
	beat        int64
	tenants     []uuid.UUID
	connections []uuid.UUID
	generations []int64
}

// newFence checks what cfg says about the fence.
func newFence(cfg Config) (*fence, error) {
	f := &fence{hold: cfg.Hold, environment: cfg.Environment, now: cfg.Now, log: cfg.Logger}
	switch {
	case f.hold < 0 || cfg.Leeway < 0:
		return nil, errors.New("tenants: hold and leeway can't be negative")
	case f.now == nil && f.hold > 0:
		return nil, errors.New("tenants: a hold needs a clock")
	case f.now == nil:
		f.now = func() time.Time { return time.Time{} } // nothing is measured then
	}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	f.troubled = f.now()
	return f, nil
}

// memory is a copy of what the database has acknowledged to this process so far.
func (f *fence) memory() memory {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := memory{place: f.place, startedAt: f.startedAt, beat: f.beat}
	for _, w := range f.saves {
		m.tenants = append(m.tenants, w.tenant)
		m.connections = append(m.connections, w.connection)
		m.generations = append(m.generations, w.generation)
	}
	return m
}

// mustAsk reports whether the server was started again, or is another one, since.
func (m memory) mustAsk(seen sight) bool {
	return !m.startedAt.IsZero() && (!m.startedAt.Equal(seen.startedAt) || m.place != seen.Here)
}

// remember takes in a look, and whether the database turned out to have lost something.
func (f *fence) remember(seen sight, known memory, lost bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if lost && !f.lost {
		f.lost, f.lostAt = true, f.witnessed
		if f.startedAt.IsZero() { // an earlier process's evidence: the decisions that are there are as old as the rest
			f.lostAt, f.forgotten = seen.Decided.ID, true
		}
	}
	if f.lost && seen.Decided.What == DecidedByCommand && seen.Decided.ID > f.lostAt && seen.Decided.Place == seen.Here {
		// An operator knows about it. From here on this is the past that counts.
		f.lost, f.forgotten, f.beat, f.saves = false, false, 0, nil
	}
	if f.lost || f.place != known.place || !f.startedAt.Equal(known.startedAt) {
		return // what it remembers stays the evidence, or another look knows as much
	}
	if f.place.Timeline != seen.Here.Timeline {
		f.movedAt = f.now()
	}
	f.place, f.startedAt = seen.Here, seen.startedAt
}

// judge returns why token requests are stopped, fenceOpen if they are not, and logs it
// when it changes.
func (f *fence) judge(ctx context.Context, seen sight) string {
	f.mu.Lock()
	why := f.why(seen)
	if why == fenceOpen && f.beat > 0 { // without a beat it could not tell what is missing
		f.witnessed = seen.Decided.ID
	}
	before := f.said
	if f.said = why; why != before {
		f.saidAt = f.now()
	}
	f.mu.Unlock()
	switch why {
	case before:
	case fenceOpen:
		f.log.InfoContext(ctx, "token requests go on", slog.String("place", seen.Here.String()))
	case fenceFailover:
		f.log.WarnContext(ctx, "token requests wait for a failover to settle", slog.Duration("for", f.hold),
			slog.String("was", seen.Decided.Place.String()), slog.String("is", seen.Here.String()))
	default:
		f.log.ErrorContext(ctx, "token requests are stopped until an operator decides", slog.String("why", why),
			slog.String("command", FenceCommand), slog.String("was", seen.Decided.Place.String()),
			slog.String("is", seen.Here.String()))
	}
	return why
}

// why is judge without its traces. Its caller holds mu.
func (f *fence) why(seen sight) string {
	decided := seen.Decided
	switch {
	case f.lost && f.forgotten:
		return fenceWritesForgotten
	case f.lost:
		return fenceWritesLost
	case f.environment != "" && f.environment != seen.Here.Environment:
		return fenceOtherPlace
	case decided.ID == 0:
		return fenceOpen
	case !decided.Place.samePlace(seen.Here):
		return fenceOtherPlace
	case decided.What == DecidedWritesLost:
		return fenceOtherProcess
	case decided.Place.Timeline == seen.Here.Timeline:
		return fenceOpen
	case f.witnessed == decided.ID:
		return fenceFailover
	}
	return fenceTimeline
}

// decision is the one that this process can make about what it saw: "" for none, or
// none yet.
func (f *fence) decision(seen sight) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.why(seen) {
	case fenceWritesLost, fenceWritesForgotten:
		if seen.Decided.What != DecidedWritesLost {
			return DecidedWritesLost
		}
	case fenceFailover:
		// The others have this long to find that something of theirs is missing.
		if f.now().Sub(f.movedAt) >= f.hold {
			return DecidedFailover
		}
	}
	return ""
}

// acknowledged notes a beat that was committed.
func (f *fence) acknowledged(beat int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.lost {
		f.beat = max(f.beat, beat)
	}
}

// saved notes a pair that was committed.
func (f *fence) saved(w written) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lost {
		return
	}
	if f.saves = append(f.saves, w); len(f.saves) > rememberedSaves {
		f.saves = f.saves[1:]
	}
}

// notice looks at an error of the database: after one that says it was away, this
// process presents no refresh token from suspect for a while. Being short of
// connections or waiting for a lock is no such thing.
func (f *fence) notice(err error) {
	away := postgres.IsUnavailable(err) || errors.Is(err, errStandby)
	if err == nil || !away || errors.Is(err, postgres.ErrBusy) {
		return
	}
	switch postgres.SQLSTATE(err) {
	case "55P03", "57014", "53300": // lock_timeout, statement_timeout, too many connections
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.troubled = f.now()
}

// holding reports whether refresh tokens from suspect have to wait: the holders of
// their successors, and the spools, save first. The server's own age binds replicas
// that did not notice its restart.
func (f *fence) holding(seen sight) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hold > 0 && (seen.young || f.now().Sub(f.troubled) < f.hold)
}

// nextBeat is the number of the beat to write: one more than the last that was tried
// and is known to have arrived, so that a commit nobody answered does no harm.
func (f *fence) nextBeat() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.beat + 1
}

func (f *fence) isLost() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost
}

// restart forgets the beats: their row is gone.
func (f *fence) restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.beat, f.witnessed = 0, 0
}
