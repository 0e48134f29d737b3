package prismasim

import (
	"cmp"
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// Config says where the simulator lives and what it stands on.
type Config struct {
	// URL is the origin that browsers and clients reach it by, without a trailing
	// slash; it is the issuer of its tokens.
	URL string
	// DatabaseURL is the Postgres server, over TCP, on which the databases are
	// made. Its role needs CREATEDB and CREATEROLE, not superuser; its host and
	// port stand in the connection strings handed out.
	DatabaseURL string
	// StateDir holds the journal; "" keeps the state in memory, and Close then
	// drops the databases made.
	StateDir string
	// Now is the time that the movable offset is added to; default time.Now.
	Now func() time.Time
	// OnClockAdvance is called by POST /_control/clock before the clock moves; an
	// error stops the move. May be nil.
	OnClockAdvance func(ctx context.Context, by time.Duration) error
	// Logger is told of requests that failed here; default: none.
	Logger *slog.Logger
	// Seed is applied when there is no state yet.
	Seed Seed
	// SigningKey signs the tokens when there is no state yet; default: one made for this
	// simulator, which takes a while.
	SigningKey *rsa.PrivateKey
}

// Simulator is Prisma's platform in one http.Handler. Make it with New.
type Simulator struct {
	url       string
	onAdvance func(context.Context, time.Duration) error
	logger    *slog.Logger
	clock     *clock
	handler   http.Handler
	page      *template.Template
	signer    *signer
	real      *realServer
	memory    bool // no StateDir: nothing outlives Close

	mu          sync.RWMutex
	state       *state
	apiRequests atomic.Int64 // the state's count plus those since it was stored

	// gate is held for reading by work on real databases and for writing by reset
	// and Close, which must find none under way.
	gate    sync.RWMutex
	rows    keyedLocks // one worker at a time for each database
	tasks   sync.WaitGroup
	closing chan struct{}
	once    sync.Once
	landed  chan struct{} // wakes the worker of late landings
}

// New starts a simulator: it loads the state of cfg.StateDir, applies cfg.Seed
// if there was none, and finishes or undoes the work on real databases that a
// killed process left. Serve it at cfg.URL; Close it at the end.
//
// Errors: a DatabaseURL that is not over TCP or whose role may not create
// databases and roles; a StateDir in use by another simulator or unreadable; a
// Seed that names what does not exist.
func New(ctx context.Context, cfg Config) (*Simulator, error) {
	origin, err := url.Parse(cfg.URL)
	if err != nil || origin.Host == "" || strings.HasSuffix(cfg.URL, "/") {
		return nil, fmt.Errorf("simulator URL %q must be an origin without a trailing slash", cfg.URL)
	}
	now := cfg.Now
	if now == nil {
		now = time.Now //nolint:forbidigo // the default of the injected clock
	}
	s := &Simulator{
		url:       cfg.URL,
		onAdvance: cfg.OnClockAdvance,
		logger:    cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)),
		clock:     &clock{source: now},
		memory:    cfg.StateDir == "",
		closing:   make(chan struct{}),
		landed:    make(chan struct{}, 1),
	}
	if s.page, err = parsePages(); err != nil {
		return nil, err
	}
	if s.state, err = openJournal(cfg.StateDir, s.logger); err != nil {
		return nil, err
	}
	if err := s.start(ctx, cfg); err != nil {
		return nil, errors.Join(err, s.state.journal.close())
	}
	return s, nil
}

// start builds what hangs on the loaded state.
func (s *Simulator) start(ctx context.Context, cfg Config) error {
	var group errgroup.Group // the three slow parts, side by side
	group.Go(func() (err error) { s.signer, err = s.openSigner(ctx, cfg.SigningKey); return err })
	group.Go(func() (err error) { s.handler, err = s.routes(); return err })
	group.Go(func() (err error) { s.real, err = openRealServer(ctx, cfg.DatabaseURL); return err })
	if err := group.Wait(); err != nil {
		if s.real != nil {
			s.real.close()
		}
		return err
	}
	stored, _ := s.state.tallies.get(only)
	s.apiRequests.Store(stored.APIRequests)
	if current, ok := s.state.settings.get(only); ok {
		s.clock.offset.Store(int64(current.Offset))
	} else {
		err := s.applySeed(ctx, cfg.Seed)
		if err == nil { // last, so that a start that failed seeds again
			err = s.write(ctx, func(st *state) error {
				st.settings.set(only, settings{Faults: noFaults(), Consent: consent{Mode: consentPage}})
				return nil
			})
		}
		if err != nil {
			s.real.close()
			return err
		}
	}
	if err := s.recoverDatabases(ctx); err != nil {
		s.real.close()
		return err
	}
	s.tasks.Go(s.landLate)
	return nil
}

// ServeHTTP answers as Prisma would; see the package comment for the paths.
func (s *Simulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.handler.ServeHTTP(w, r)
}

// Close ends the simulator once the work on real databases under way is done;
// requests that wait out a latency are answered at once. Stop serving first.
// When ctx ends, Close returns its error and leaves the rest undone.
func (s *Simulator) Close(ctx context.Context) error {
	s.once.Do(func() { close(s.closing) })
	idle := make(chan struct{})
	go func() {
		s.tasks.Wait()
		s.gate.Lock()
		close(idle)
	}()
	select {
	case <-idle:
	case <-ctx.Done():
		return fmt.Errorf("close the simulator: %w", ctx.Err())
	}
	defer s.gate.Unlock()

	var err error
	if s.memory {
		err = s.dropEverything(ctx)
	}
	s.real.close()
	return errors.Join(err, s.write(ctx, func(st *state) error {
		s.storeTallies(st, func(*tallies) {})
		return nil
	}), s.closeJournal())
}

func (s *Simulator) closeJournal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.journal.close()
}

// read runs fn with the state locked for reading.
func (s *Simulator) read(fn func(st *state)) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	fn(s.state)
}

// write runs fn with the state locked for writing; its changes are in the
// journal, all together, when write returns. When fn fails it must have changed
// nothing.
func (s *Simulator) write(ctx context.Context, fn func(st *state) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.state.journal.commit(ctx)
	return fn(s.state)
}

// settings returns the switches now in force.
func (s *Simulator) settings() (current settings) {
	s.read(func(st *state) { current, _ = st.settings.get(only) })
	return current
}
