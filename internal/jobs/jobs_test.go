package jobs_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/jobs"
	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// patience is how long a test waits for something that has to happen.
const patience = 30 * time.Second

// workspaces is what the name_workspace job calls.
type workspaces func(ctx context.Context, tenant tenants.TenantID, id tenants.ConnectionID) error

func (f workspaces) NameWorkspace(ctx context.Context, tenant tenants.TenantID, id tenants.ConnectionID) error {
	return f(ctx, tenant, id)
}

// sweeper is a store that tells when a sweep has ended.
type sweeper struct {
	*tenants.Store

	swept chan int
}

func (s *sweeper) SweepSessions(ctx context.Context) (int, error) {
	n, err := s.Store.SweepSessions(ctx)
	select {
	case s.swept <- n:
	default:
	}
	return n, err
}

// service is a store on a database of its own, with a tenant.
type service struct {
	*sweeper

	db     *pgtest.Database
	tenant tenants.TenantID
}

func openService(t *testing.T) *service {
	t.Helper()
	text, err := sealing.Generate()
	ok(t, err)
	keyset, err := sealing.Parse(text, "test")
	ok(t, err)
	db := pgtest.Open(t)
	store, err := tenants.NewStore(tenants.Config{Pool: db.Pool, Keyset: keyset})
	ok(t, err)
	tenant, err := store.CreateTenant(t.Context(), tenants.System(), tenants.TenantInput{
		Name: "Acme", Completion: tenants.CompletionAutomatic, Client: tenants.OAuthClient{ID: "client"},
	})
	ok(t, err)
	return &service{sweeper: &sweeper{Store: store, swept: make(chan int, 100)}, db: db, tenant: tenant.ID}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// runner returns a runner that is not started, and ends with the test at the latest.
func (s *service) runner(t *testing.T, cfg jobs.Config) *jobs.Runner {
	t.Helper()
	cfg.Pool, cfg.Store = s.db.Pool, s.sweeper
	if cfg.Workspaces == nil {
		cfg.Workspaces = workspaces(func(context.Context, tenants.TenantID, tenants.ConnectionID) error { return nil })
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	runner, err := jobs.New(cfg)
	ok(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := runner.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return runner
}

func (s *service) session(t *testing.T, user string) tenants.Session {
	t.Helper()
	x, _, err := s.CreateSession(t.Context(), tenants.System(), s.tenant, tenants.NewSession{UserID: user})
	ok(t, err)
	return x
}

func (s *service) completing(t *testing.T, user string) tenants.Session {
	t.Helper()
	x := s.session(t, user)
	ok(t, s.StartSession(t.Context(), tenants.System(), x, tenants.Start{State: "s", ClientID: "client", RedirectURI: "https://connect.example/cb"}))
	_, err := s.ReturnSession(t.Context(), tenants.System(), x, tenants.Return{State: "s", Code: "c", Verifier: "v"})
	ok(t, err)
	return x
}

// connect makes a connection, and with it the job that names its workspace.
func (s *service) connect(t *testing.T, user string) tenants.Connection {
	t.Helper()
	c, err := s.FinishSession(t.Context(), tenants.System(), s.completing(t, user), "client",
		prisma.Tokens{WorkspaceID: "wksp_1", Access: "access-canary", Refresh: "refresh-canary"})
	ok(t, err)
	return c
}

// one returns the one value of a query of a superuser.
func one[T any](t *testing.T, s *service, sql string) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.db.AdminURL)
	ok(t, err)
	defer conn.Close(context.WithoutCancel(t.Context()))
	var got T
	if err := conn.QueryRow(t.Context(), sql).Scan(&got); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return got
}

// makeDue lets the time pass that stored jobs wait for.
func (s *service) makeDue(t *testing.T) {
	t.Helper()
	one[int](t, s, `WITH due AS (UPDATE river.river_job SET state = 'available', scheduled_at = now()
		WHERE kind = 'name_workspace' RETURNING 1) SELECT count(*)::int FROM due`)
}

// receive waits for a signal.
func receive[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case got := <-from:
		return got
	case <-time.After(patience):
		t.Fatalf("%s did not happen", what)
		panic("unreachable")
	}
}

// A connect session that nobody finishes ends all the same, and its tenant is told.
func TestOverdueSessionsEnd(t *testing.T) {
	t.Parallel()
	for _, pollOnly := range []bool{false, true} {
		s := openService(t)
		open, lost := s.session(t, "user"), s.completing(t, "user")
		s.db.Advance(t, time.Hour)
		fresh := s.session(t, "user")
		ok(t, s.runner(t, jobs.Config{PollOnly: pollOnly}).Start(t.Context()))
		if n := receive(t, "a sweep at the start", s.swept); n != 2 {
			t.Errorf("the first sweep ended %d sessions, want 2", n)
		}
		for x, want := range map[*tenants.Session]tenants.SessionStatus{
			&open: tenants.SessionExpired, &lost: tenants.SessionFailed, &fresh: tenants.SessionCreated,
		} {
			if got, err := s.Session(t.Context(), s.tenant, x.ID); err != nil || got.Status != want {
				t.Errorf("a session is %s, want %s; %v", got.Status, want, err)
			}
		}
		if got := one[string](t, s, `SELECT string_agg(type, ' ' ORDER BY type) FROM events`); got != "connect_session.expired connect_session.failed" {
			t.Errorf("events = %s", got)
		}
	}
}

func TestSweepsRecur(t *testing.T) {
	t.Parallel()
	s := openService(t)
	ok(t, s.runner(t, jobs.Config{SweepEvery: 100 * time.Millisecond}).Start(t.Context()))
	receive(t, "the first sweep", s.swept)
	s.session(t, "user")
	s.db.Advance(t, time.Hour)
	for ended := 0; ended != 1; { // sweeps that began before found nothing to do
		ended = receive(t, "a later sweep", s.swept)
	}
}

// The job that names a workspace is stored with the connection, waits for the flow
// to do it by itself, and runs with no more than ids.
func TestStoredJobRuns(t *testing.T) {
	t.Parallel()
	s := openService(t)
	connection := s.connect(t, "user")
	if wait := one[float64](t, s, `SELECT extract(epoch FROM scheduled_at - created_at)::float8 FROM river.river_job`); wait < 25 || wait > 35 {
		t.Errorf("the job waits %.0f s, want about 30", wait)
	}
	if args := one[string](t, s, `SELECT args::text FROM river.river_job`); strings.Contains(args, "canary") || !strings.Contains(args, connection.ID.UUID.String()) {
		t.Errorf("the job's arguments are %s", args)
	}
	type call struct {
		tenant tenants.TenantID
		id     tenants.ConnectionID
	}
	calls := make(chan call, 10)
	ok(t, s.runner(t, jobs.Config{Workspaces: workspaces(
		func(_ context.Context, tenant tenants.TenantID, id tenants.ConnectionID) error {
			calls <- call{tenant, id}
			return nil
		},
	)}).Start(t.Context()))
	receive(t, "a sweep", s.swept)
	if n := len(calls); n != 0 {
		t.Errorf("the job ran %d times before it was due", n)
	}
	s.makeDue(t)
	if got := receive(t, "the job", calls); got != (call{s.tenant, connection.ID}) {
		t.Errorf("the job ran for %s of %s", got.id, got.tenant)
	}
	// A connection that has its name needs no job when it is connected again.
	ok(t, s.NameWorkspace(t.Context(), s.tenant, connection.ID, "Acme's workspace"))
	s.connect(t, "user")
	if n := one[int](t, s, `SELECT count(*)::int FROM river.river_job WHERE kind = 'name_workspace'`); n != 1 {
		t.Errorf("%d jobs to name a workspace, want 1", n)
	}
}

// What fails is logged, without what it was about, and tried again.
func TestFailedJobIsTriedAgain(t *testing.T) {
	t.Parallel()
	s := openService(t)
	s.connect(t, "user")
	s.connect(t, "user2")
	s.makeDue(t)
	var log lockedBuffer
	tries := make(chan int, 10)
	var mu sync.Mutex
	try := 0
	ok(t, s.runner(t, jobs.Config{
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Workspaces: workspaces(func(context.Context, tenants.TenantID, tenants.ConnectionID) error {
			mu.Lock()
			defer mu.Unlock()
			try++
			tries <- try
			switch try {
			case 1:
				return errors.New("prisma is away")
			case 2:
				panic("canary-of-a-panic")
			}
			return nil
		}),
	}).Start(t.Context()))
	for range 4 { // both once more, after River's pause of a second
		receive(t, "a try", tries)
	}
	text := log.String()
	for _, want := range []string{"job failed", "job panicked", "kind=name_workspace", "prisma is away"} {
		if !strings.Contains(text, want) {
			t.Errorf("the log does not say %q", want)
		}
	}
	if strings.Contains(text, s.tenant.UUID.String()) {
		t.Error("the log shows a job's arguments")
	}
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Of two replicas one runs each job.
func TestReplicasShareTheWork(t *testing.T) {
	t.Parallel()
	const connections = 12
	s := openService(t)
	for i := range connections {
		s.connect(t, "user"+string(rune('a'+i)))
	}
	s.makeDue(t)
	done := make(chan tenants.ConnectionID, 10*connections)
	record := workspaces(func(_ context.Context, _ tenants.TenantID, id tenants.ConnectionID) error {
		done <- id
		return nil
	})
	runners := []*jobs.Runner{s.runner(t, jobs.Config{Workspaces: record}), s.runner(t, jobs.Config{Workspaces: record})}
	for _, runner := range runners {
		ok(t, runner.Start(t.Context()))
	}
	seen := map[tenants.ConnectionID]int{}
	for range connections {
		seen[receive(t, "a job", done)]++
	}
	for _, runner := range runners {
		ok(t, runner.Stop(t.Context()))
	}
	if len(seen) != connections || len(done) != 0 {
		t.Errorf("%d connections were named and %d jobs ran twice", len(seen), len(done))
	}
}

// Stop lets running jobs end; the start's context does not end them.
func TestStopWaits(t *testing.T) {
	t.Parallel()
	s := openService(t)
	s.connect(t, "user")
	s.makeDue(t)
	running, release := make(chan struct{}), make(chan struct{})
	ended := false
	runner := s.runner(t, jobs.Config{Workspaces: workspaces(func(ctx context.Context, _ tenants.TenantID, _ tenants.ConnectionID) error {
		close(running)
		select {
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
		ended = true
		return nil
	})})
	start, cancel := context.WithCancel(t.Context())
	ok(t, runner.Start(start))
	cancel()
	receive(t, "the job", running)
	stopped := make(chan error, 1)
	go func() { stopped <- runner.Stop(t.Context()) }()
	select {
	case err := <-stopped:
		t.Fatalf("Stop() = %v while a job runs", err)
	case <-time.After(200 * time.Millisecond): // a Stop that does not wait would be back
	}
	close(release)
	if err := receive(t, "the end of Stop", stopped); err != nil || !ended {
		t.Errorf("Stop() = %v, the job ended = %t", err, ended)
	}
	if got := one[string](t, s, `SELECT state::text FROM river.river_job WHERE kind = 'name_workspace'`); got != "completed" {
		t.Errorf("the job is %s, want completed", got)
	}
}

// A job that is not done when there is no more time is cancelled, and not forgotten.
func TestStopGivesUp(t *testing.T) {
	t.Parallel()
	s := openService(t)
	s.connect(t, "user")
	s.makeDue(t)
	running := make(chan struct{})
	runner := s.runner(t, jobs.Config{Workspaces: workspaces(func(ctx context.Context, _ tenants.TenantID, _ tenants.ConnectionID) error {
		close(running)
		<-ctx.Done()
		return ctx.Err()
	})})
	ok(t, runner.Start(t.Context()))
	receive(t, "the job", running)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	ok(t, runner.Stop(gone))
	if got := one[string](t, s, `SELECT state::text FROM river.river_job WHERE kind = 'name_workspace'`); got != "retryable" && got != "available" {
		t.Errorf("the job is %s, want it to run again", got)
	}
	again := make(chan struct{}, 10)
	s.makeDue(t)
	ok(t, s.runner(t, jobs.Config{Workspaces: workspaces(func(context.Context, tenants.TenantID, tenants.ConnectionID) error {
		again <- struct{}{}
		return nil
	})}).Start(t.Context()))
	receive(t, "the job on another replica", again)
}
