package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/admin"
	"github.com/connect-prisma/server/internal/httpapi"
	"github.com/connect-prisma/server/internal/jobs"
	"github.com/connect-prisma/server/internal/oauthflow"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/provisioning/passthrough"
	"github.com/connect-prisma/server/internal/tenants"
	"github.com/connect-prisma/server/migrations"
	"github.com/connect-prisma/server/web"
)

const (
	// requestsFor is how long requests may go on meanwhile; a creating call may take
	// a minute. A client that reads slowly must not eat the time of the exchanges.
	requestsFor = 75 * time.Second
	// exchangesOpen is how long, once connections are refused, a request that is still
	// here may begin an exchange. Later ones would not fit.
	exchangesOpen = 10 * time.Second
	// databaseAnswersWithin is how long a start waits for the database.
	databaseAnswersWithin = 15 * time.Second
	// The reserved pool that saves token pairs.
	tokenPoolSize = 4
	// cacheFor is how long a presented key is good without asking again: a second less than
	// what is promised of revocations, in which a call that began before may end.
	cacheFor = 4 * time.Second
)

// service is one replica: everything that serve runs.
type service struct {
	cfg       settings
	log       *slog.Logger
	pool      *pgxpool.Pool
	entryPool *pgxpool.Pool
	tokenPool *pgxpool.Pool
	beatPool  *pgxpool.Pool
	jobPool   *pgxpool.Pool
	pollOnly  bool // jobs are looked for, and changes not heard of: LISTEN does not pass a pooler
	store     *tenants.Store
	oauth     *prisma.OAuth
	spool     *tenants.Spool // nil: none
	refresher *prisma.Refresher
	flow      *oauthflow.Flow
	api       *httpapi.Server
	jobs      *jobs.Runner
}

// newService builds a replica from its settings. It asks the database who it is
// there and whether the schema is new enough; it sends nothing to Prisma.
func newService(ctx context.Context, cfg settings, log *slog.Logger) (*service, error) {
	if err := cfg.checkServe(); err != nil {
		return nil, err
	}
	s := &service{cfg: cfg, log: log}
	if err := s.open(ctx); err != nil {
		s.close()
		return nil, err
	}
	if err := s.build(); err != nil { //nolint:contextcheck // handlers have their request's context
		s.close()
		return nil, err
	}
	if err := s.store.CheckReplicaKeys(ctx, false); err != nil {
		s.close()
		return nil, fmt.Errorf("TOKEN_KEYSET: %w", forPeople(err))
	}
	return s, nil
}

// open opens the pools and checks the database.
func (s *service) open(ctx context.Context) error {
	var err error
	s.pool, err = postgres.OpenPool(ctx, postgres.PoolConfig{URL: s.cfg.DatabaseURL, Name: "connect-prisma", MaxConns: 14})
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	s.entryPool, err = postgres.OpenPool(ctx, postgres.PoolConfig{URL: s.cfg.DatabaseURL, Name: "connect-prisma entry", MaxConns: 2})
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	s.tokenPool, err = postgres.OpenPool(ctx, postgres.PoolConfig{
		URL: s.cfg.DatabaseURL, Name: "connect-prisma tokens", MaxConns: tokenPoolSize, MinConns: 2,
	})
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	s.beatPool, err = postgres.OpenPool(ctx, postgres.PoolConfig{URL: s.cfg.DatabaseURL, Name: "connect-prisma beats", MaxConns: 1})
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	direct := s.cfg.DatabaseURL
	if s.cfg.DatabaseDirectURL != "" {
		direct = s.cfg.DatabaseDirectURL
	}
	s.jobPool, err = postgres.OpenPool(ctx, postgres.PoolConfig{URL: direct, Name: "connect-prisma jobs", MaxConns: 6})
	if err != nil {
		return fmt.Errorf("DATABASE_DIRECT_URL: %w", err)
	}
	if err := checkDatabase(ctx, s.pool, s.cfg.Environment); err != nil {
		return err
	}
	return s.lookForPooler(ctx)
}

// lookForPooler finds out whether the jobs can be told of new work.
func (s *service) lookForPooler(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, databaseAnswersWithin)
	defer cancel()
	var err error
	if s.pollOnly, err = postgres.BehindPooler(within, s.jobPool); err != nil {
		name := "DATABASE_URL"
		if s.cfg.DatabaseDirectURL != "" {
			name = "DATABASE_DIRECT_URL"
		}
		return fmt.Errorf("%s: %w", name, err)
	}
	const so = " leads to a pooler; jobs poll for work, and a key that ends elsewhere ends here within seconds"
	if s.pollOnly && s.cfg.DatabaseDirectURL != "" {
		s.log.WarnContext(ctx, "DATABASE_DIRECT_URL"+so)
	} else if s.pollOnly {
		s.log.InfoContext(ctx, "DATABASE_URL"+so)
	}
	return nil
}

// checkDatabase refuses a role that row-level security would not hold, an old
// schema, and a database that belongs to another environment.
func checkDatabase(ctx context.Context, pool *pgxpool.Pool, environment string) error {
	ctx, cancel := context.WithTimeout(ctx, databaseAnswersWithin)
	defer cancel()
	if err := pool.Ping(ctx); err != nil {
		if postgres.SQLSTATE(err) == "28P01" {
			return errors.New("DATABASE_URL: the database refuses the password")
		}
		return fmt.Errorf("DATABASE_URL: the database does not answer: %w", err)
	}
	if err := postgres.CheckRole(ctx, pool); err != nil {
		return err
	}
	if err := migrations.Check(ctx, pool); errors.Is(err, migrations.ErrOutdated) {
		return fmt.Errorf("%w; run `server migrate` first", err)
	} else if err != nil {
		return err
	}
	stored, err := migrations.Environment(ctx, pool)
	if err != nil {
		return err
	}
	if stored != environment {
		return fmt.Errorf("the database belongs to the environment %q, and ENVIRONMENT says %q", stored, environment)
	}
	return nil
}

// build makes the parts and wires them, lower layers first.
func (s *service) build() error {
	keyset, err := s.cfg.keyset()
	if err != nil {
		return err
	}
	cookieKeys, err := s.cfg.cookieKeys()
	if err != nil {
		return err
	}
	s.store, err = tenants.NewStore(tenants.Config{
		Pool: s.pool, EntryPool: s.entryPool, TokenPool: s.tokenPool, BeatPool: s.beatPool, Keyset: keyset,
		SharedClient: s.cfg.sharedClient(), Environment: s.cfg.Environment, Hold: s.cfg.Refresh.Hold, Now: time.Now, Logger: s.log, FenceDir: s.cfg.SpoolDir,
		LeaseFor: s.cfg.Refresh.lease(), Leeway: s.cfg.Refresh.Leeway, Late: s.cfg.Refresh.tune().Late,
		CacheFor: cacheFor,
	})
	if err != nil {
		return err
	}
	s.oauth, err = prisma.NewOAuth(prisma.OAuthConfig{
		AuthURL: s.cfg.PrismaAuthURL, PlainHTTP: s.cfg.relaxed(), Timeouts: s.cfg.Refresh.timeouts(),
	})
	if err != nil {
		return fmt.Errorf("PRISMA_AUTH_URL: %w", err)
	}
	client, err := managementapi.New(managementapi.Config{BaseURL: s.cfg.PrismaAPIURL, PlainHTTP: s.cfg.relaxed()})
	if err != nil {
		return fmt.Errorf("PRISMA_API_URL: %w", err)
	}
	spool, err := s.openSpool()
	if err != nil {
		return err
	}
	s.refresher, err = prisma.NewRefresher(prisma.RefresherConfig{
		Exchanger: s.oauth, Settings: s.cfg.Refresh.tune(), Now: time.Now, Logger: s.log, Spool: spool,
	})
	if err != nil {
		return err
	}
	caller := prisma.NewCaller(client, s.refresher)
	s.flow, err = oauthflow.New(oauthflow.Config{
		Store: s.store, OAuth: s.oauth, API: client, Caller: caller, Cookies: cookieKeys,
		PublicURL: s.cfg.PublicURL, Now: time.Now, Logger: s.log, Refresher: s.refresher,
	})
	if err != nil {
		return err
	}
	provisioner, err := provisioning.New(provisioning.Config{
		Store: s.store, Caller: caller, Client: client, Now: time.Now, Logger: s.log,
	})
	if err != nil {
		return err
	}
	passThrough, err := passthrough.New(passthrough.Config{Store: s.store, Caller: caller, Logger: s.log})
	if err != nil {
		return err
	}
	pages, err := web.New()
	if err != nil {
		return err
	}
	dashboard, err := admin.New(admin.Config{
		Store: s.store, Pages: pages, Now: time.Now, Origin: s.cfg.PublicURL, Logger: s.log,
		RequestID: httpapi.RequestID,
		Diagnose:  s.flow.Diagnose,
		IP:        func(r *http.Request) netip.Addr { return httpapi.ClientAddr(r, s.cfg.TrustedHops) },
	})
	if err != nil {
		return err
	}
	s.api, err = httpapi.New(httpapi.Config{
		Store: s.store, Flow: s.flow, Provisioning: provisioner, PassThrough: passThrough, Pages: pages, PublicURL: s.cfg.PublicURL,
		Now: time.Now, Logger: s.log, TrustedHops: s.cfg.TrustedHops, MountAdmin: dashboard.Mount,
	})
	if err != nil {
		return err
	}
	s.jobs, err = jobs.New(jobs.Config{
		Pool: s.jobPool, Store: s.store, Workspaces: s.flow, Logger: s.log, PollOnly: s.pollOnly,
		LedgerRetention: s.cfg.LedgerRetention, Landings: provisioner,
		KeepAlive: jobs.NewKeepAlive(jobs.KeepAliveConfig{
			Store: s.store, Renewer: s.refresher, Checker: s.flow, After: s.cfg.Refresh.KeepAlive, Logger: s.log,
		}),
	})
	return err
}

// serve asks the authorization server what it is, answers requests on listener until
// ctx ends, and then drains: readiness goes off, requests and exchanges in flight
// finish, pairs are saved.
func (s *service) serve(ctx context.Context, listener net.Listener) error {
	unfollow, err := s.discover(ctx)
	if err != nil {
		_ = listener.Close() // nothing was accepted yet
		return err
	}
	defer unfollow()
	defer s.beat(ctx)()
	defer s.replaySpool(ctx)()
	defer s.followChanges(ctx)()
	server := httpapi.NewHTTPServer(s.api, s.log)
	if err := s.jobs.Start(ctx); err != nil {
		_ = listener.Close() // nothing was accepted yet
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(httpapi.LimitConnections(listener)) }()
	s.log.InfoContext(ctx, "serving", slog.String("listen", listener.Addr().String()), slog.String("public_url", s.cfg.PublicURL))
	select {
	case err = <-failed:
	case <-ctx.Done():
	}
	return errors.Join(err, s.drain(ctx, server))
}

// followChanges keeps what is cached in step with the database until the returned
// function is called, if there is a way to hear of changes.
func (s *service) followChanges(ctx context.Context) (stop func()) {
	if s.pollOnly {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // also while it drains
	var following sync.WaitGroup
	following.Go(func() { s.store.FollowChanges(ctx, postgres.Dial(s.jobPool, "connect-prisma changes")) })
	return func() {
		cancel()
		following.Wait()
	}
}

// discover reads the authorization server's metadata and keeps it fresh until the
// returned function is called. Metadata that must not be used stops the start: it is
// the wrong server, or one that can't keep codes safe. Metadata that can't be had does
// not, because stored tokens can be served without it.
func (s *service) discover(ctx context.Context) (stop func(), err error) {
	_, first := s.oauth.Discover(ctx)
	if refused, ok := errors.AsType[*prisma.MetadataError](first); ok {
		return nil, fmt.Errorf("PRISMA_AUTH_URL: %w", refused)
	}
	ctx, cancel := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { s.oauth.FollowMetadata(ctx, s.log, first) })
	return func() {
		cancel()
		following.Wait()
	}, nil
}

// drain ends the replica without losing anything. Readiness goes off first, for
// DRAIN_DELAY, so that balancers stop sending. Then requests and completions end,
// and after them the jobs; exchanges of refresh tokens end beside all that.
func (s *service) drain(ctx context.Context, server *http.Server) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainDelay+s.cfg.Refresh.drain())
	defer cancel()
	began := time.Now()
	s.log.InfoContext(ctx, "draining")
	s.api.Drain()
	pause(ctx, s.cfg.DrainDelay) // serving as ever, exchanges too
	s.api.EndStreams()
	served := make(chan error, 1)
	go func() {
		within, cancel := context.WithTimeout(ctx, requestsFor)
		defer cancel()
		err := server.Shutdown(within)
		if err != nil {
			err = errors.Join(err, server.Close())
		}
		served <- errors.Join(err, s.flow.Wait(ctx), s.jobs.Stop(ctx))
	}()
	var err error
	select {
	case err = <-served:
		err = errors.Join(err, s.refresher.Wait(ctx))
	case <-time.After(exchangesOpen):
		err = s.refresher.Wait(ctx) // begins no more, waits for those in flight
		err = errors.Join(err, <-served)
	}
	err = errors.Join(err, s.store.Wait(ctx))
	s.log.InfoContext(ctx, "drained", slog.Duration("took", time.Since(began)), slog.Bool("clean", err == nil))
	return err
}

func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (s *service) close() {
	if s.spool != nil {
		s.spool.Close()
	}
	for _, pool := range []*pgxpool.Pool{s.pool, s.entryPool, s.tokenPool, s.beatPool, s.jobPool} {
		if pool != nil {
			pool.Close()
		}
	}
}
