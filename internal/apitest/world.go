package apitest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/connect-prisma/server/internal/audittest"
	"github.com/connect-prisma/server/internal/httpapi"
	"github.com/connect-prisma/server/internal/httpapi/limits"
	"github.com/connect-prisma/server/internal/oauthflow"
	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/postgres"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/prismasim"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/provisioning/passthrough"
	"github.com/connect-prisma/server/internal/redact"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
	"github.com/connect-prisma/server/web"
)

const (
	// PublicURL is where browsers and partners think that the service is. Their
	// connections are led to the test's listener.
	PublicURL  = "http://localhost:8080"
	publicHost = "localhost:8080"

	// ReturnURL is what every tenant has registered, with a query of its own.
	ReturnURL = "https://partner.example/connected?from=prisma"
	// OtherReturnURL is the second one.
	OtherReturnURL = "https://partner.example/retry"
)

// World is one running service with all that is around it.
type World struct {
	DB    *pgtest.Database
	Sim   *prismasimtest.Server
	Store *tenants.Store
	Flow  *oauthflow.Flow
	API   *httpapi.Server

	// Refresher is what keeps the access tokens fresh.
	Refresher *prisma.Refresher

	// Tenant is a tenant with a key of all scopes; NewTenant makes more.
	Tenant Tenant

	wire      *wire
	record    *record
	keyset    *sealing.Keyset
	ahead     atomic.Int64 // how far the service's clock is before the real one
	listener  string
	transport *http.Transport
}

// options are what a test may change before the service starts.
type options struct {
	flow     func(*oauthflow.Config)
	refresh  prisma.RefreshSettings
	failures limits.FailureRate
	ticks    <-chan time.Time
}

// Option changes how New builds the service.
type Option func(*options)

// WithFlow changes the configuration of the connect flow.
func WithFlow(change func(*oauthflow.Config)) Option {
	return func(o *options) { o.flow = change }
}

// WithRefresh sets numbers of the refresh algorithm; zero fields keep their defaults.
func WithRefresh(settings prisma.RefreshSettings) Option {
	return func(o *options) { o.refresh = settings }
}

// WithTicks makes the pass-through ask at each tick, instead of every 5 seconds, whether
// its callers would still be let in.
func WithTicks(ticks <-chan time.Time) Option {
	return func(o *options) { o.ticks = ticks }
}

// WithAuthFailures sets how often keys may be refused; without it tests present as many
// bad ones as they like.
func WithAuthFailures(rate limits.FailureRate) Option {
	return func(o *options) { o.failures = rate }
}

// New starts a World that ends, and is judged, with its test.
func New(t *testing.T, opts ...Option) *World {
	t.Helper()
	o := options{failures: limits.FailureRate{Burst: 1_000_000}}
	for _, opt := range opts {
		opt(&o)
	}
	w := &World{record: newRecord(), DB: pgtest.Open(t)}
	w.wire = newWire(t, w.record)
	key, err := signingKey()
	check(t, err)
	w.Sim = prismasimtest.Start(t, func(c *prismasim.Config) { c.URL, c.SigningKey = w.wire.url, key })
	w.wire.pass(prismasimtest.Validated(t, w.Sim.Simulator))
	w.build(t, o)
	w.Tenant = w.NewTenant(t, "Acme", nil)
	w.record.secret("client secret", prismasimtest.ClientSecret)
	w.record.secret("service token", prismasimtest.ServiceToken)
	w.record.allowRedirect(w.wire.url+"/authorize", ReturnURL, OtherReturnURL)
	return w
}

// signingKey is that of all the simulated Prismas of a process: making one takes as long as
// all the rest of a World. They tell their tokens apart by the issuer.
//
//nolint:gochecknoglobals // made once, and never changed
var signingKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })

// build makes the parts as the serve command does, and a listener.
func (w *World) build(t *testing.T, o options) {
	t.Helper()
	keyset, cookies := w.keys(t)
	w.keyset = keyset
	tokenPool, err := pgxpool.New(t.Context(), w.DB.AppURL+"&pool_max_conns=2")
	check(t, err)
	t.Cleanup(tokenPool.Close)
	w.Store, err = tenants.NewStore(tenants.Config{Pool: w.DB.Pool, TokenPool: tokenPool, Keyset: keyset, Now: w.Now, CacheFor: 4 * time.Second})
	check(t, err)
	w.followChanges(t)
	oauth, err := prisma.NewOAuth(prisma.OAuthConfig{AuthURL: w.wire.url, DialContext: w.wire.dial})
	check(t, err)
	w.transport = &http.Transport{DialContext: (&net.Dialer{}).DialContext, MaxIdleConnsPerHost: 64}
	t.Cleanup(w.transport.CloseIdleConnections)
	client, err := managementapi.New(managementapi.Config{BaseURL: w.wire.url, Transport: w.transport})
	check(t, err)

	log := slog.New(slog.NewMultiHandler(
		slog.NewJSONHandler(&w.record.raw, &slog.HandlerOptions{Level: slog.LevelDebug}),
		slog.NewJSONHandler(&w.record.redacted, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: redact.New().Attr}),
	))
	w.Refresher, err = prisma.NewRefresher(prisma.RefresherConfig{
		Exchanger: oauth, Settings: o.refresh, Now: w.Now, Logger: log,
	})
	check(t, err)
	caller := prisma.NewCaller(client, w.Refresher)
	flow := oauthflow.Config{
		Store: w.Store, OAuth: oauth, API: client, Caller: caller, Cookies: cookies,
		PublicURL: PublicURL, Now: w.Now, Logger: log, Refresher: w.Refresher,
	}
	if o.flow != nil {
		o.flow(&flow)
	}
	w.Flow, err = oauthflow.New(flow)
	check(t, err)
	provisioner, err := provisioning.New(provisioning.Config{Store: w.Store, Caller: caller, Client: client, Now: w.Now, Logger: log})
	check(t, err)
	through := passthrough.Config{Store: w.Store, Caller: caller, Logger: log}
	if o.ticks != nil {
		through.Tick = func(time.Duration) (<-chan time.Time, func()) { return o.ticks, func() {} }
	}
	passThrough, err := passthrough.New(through)
	check(t, err)
	pages, err := web.New()
	check(t, err)
	w.API, err = httpapi.New(httpapi.Config{
		Store: w.Store, Flow: w.Flow, Provisioning: provisioner, PassThrough: passThrough, Pages: pages,
		PublicURL: PublicURL, Now: w.Now, Logger: log, AuthFailures: o.failures,
	})
	check(t, err)
	t.Cleanup(func() {
		w.record.judge(t)
		w.judgeAudit(t)
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
		defer cancel()
		if err := errors.Join(w.Flow.Wait(ctx), w.Refresher.Wait(ctx), w.Store.Wait(ctx)); err != nil {
			t.Errorf("left running: %v", err)
		}
	})
	w.listen(t)
}

// judgeAudit fails the test if the audit log does not tell how everything came to stand as
// it does.
func (w *World) judgeAudit(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, w.DB.AdminURL)
	check(t, err)
	defer conn.Close(ctx)
	_, wrong, err := audittest.Check(ctx, conn)
	check(t, err)
	for _, what := range wrong {
		t.Errorf("audit log: %s", what)
	}
}

// followChanges lets the service hear of changed keys and tenants, as serve does.
func (w *World) followChanges(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var following sync.WaitGroup
	following.Go(func() { w.Store.FollowChanges(ctx, postgres.Dial(w.DB.Pool, "changes")) })
	t.Cleanup(func() {
		cancel()
		following.Wait()
	})
}

// keys makes a keyset and cookie keys that nothing else has.
func (w *World) keys(t *testing.T) (*sealing.Keyset, []sealing.CookieKeys) {
	t.Helper()
	text, err := sealing.Generate()
	check(t, err)
	keyset, err := sealing.Parse(text, "test")
	check(t, err)
	pair := sealing.GenerateCookieKeys()
	cookies, err := sealing.ParseCookieKeys(pair)
	check(t, err)
	w.record.secret("keyset", text)
	w.record.secret("cookie keys", pair)
	return keyset, cookies
}

// listen starts a server with the limits of the real one.
func (w *World) listen(t *testing.T) {
	t.Helper()
	server := httptest.NewUnstartedServer(w.record.watch(w.API))
	server.Config = httpapi.NewHTTPServer(server.Config.Handler, slog.New(slog.NewJSONHandler(&w.record.raw, nil)))
	server.Start()
	t.Cleanup(server.Close)
	w.listener = server.Listener.Addr().String()
}

// Addr is the address of the listener, for tests that speak HTTP by hand.
func (w *World) Addr() string { return w.listener }

// Now is the service's clock.
func (w *World) Now() time.Time {
	return time.Now().Add(time.Duration(w.ahead.Load())) //nolint:forbidigo // this is the injected clock
}

// Advance moves every clock: the service's, the database's and Prisma's.
func (w *World) Advance(t *testing.T, by time.Duration) {
	t.Helper()
	w.AdvanceService(by)
	w.DB.Advance(t, by)
	w.AdvancePrisma(t, by)
}

// AdvanceService moves the service's own clock alone, back when by is negative.
func (w *World) AdvanceService(by time.Duration) { w.ahead.Add(int64(by)) }

// AdvancePrisma moves Prisma's clock alone.
func (w *World) AdvancePrisma(t *testing.T, by time.Duration) {
	t.Helper()
	w.Sim.Control(t, http.MethodPost, "clock", map[string]string{"advance": by.String()}, nil)
}

// Faults sets what goes wrong at Prisma.
func (w *World) Faults(t *testing.T, faults map[string]any) {
	t.Helper()
	w.Sim.Control(t, http.MethodPut, "faults", faults, nil)
}

// Expect announces statuses above 499 that are right in this test.
func (w *World) Expect(statuses ...int) { w.record.expect(statuses...) }

// AllowRedirect adds an address that answers may redirect to.
func (w *World) AllowRedirect(address string) { w.record.allowRedirect(address) }

// Secret adds a text that must not be logged or shown.
func (w *World) Secret(kind, text string) { w.record.secret(kind, text) }

// Figures counts what was recorded so far: answers, log lines and the secrets
// that are looked for.
func (w *World) Figures() (answers, lines, secrets int) { return w.record.figures() }

// SecretKinds counts, by kind, the secrets that are looked for.
func (w *World) SecretKinds() map[string]int { return w.record.kinds() }

// Query returns the only column of a query's only row, read past row-level
// security.
func Query[T any](t *testing.T, w *World, sql string, args ...any) T {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.DB.AdminURL)
	check(t, err)
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), sql, args...)
	check(t, err)
	value, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	check(t, err)
	return value
}

// Events returns the types of a tenant's events, the oldest first, and checks that
// their numbers have no gap.
func (w *World) Events(t *testing.T, tenant Tenant) []string {
	t.Helper()
	text := Query[string](t, w, `
		SELECT coalesce(json_agg(json_build_object('type', type, 'no', sequence) ORDER BY sequence), '[]')::text
		FROM events WHERE tenant_id = $1`, tenant.ID)
	var rows []struct {
		Type string `json:"type"`
		No   int    `json:"no"`
	}
	check(t, json.Unmarshal([]byte(text), &rows))
	types := make([]string, 0, len(rows))
	for i, row := range rows {
		if row.No != i+1 {
			t.Errorf("event %d has the number %d", i+1, row.No)
		}
		types = append(types, row.Type)
	}
	return types
}

// AtOnce runs fn n times in parallel, as nearly at the same moment as may be, and
// waits for all.
func AtOnce(n int, fn func(i int)) {
	start := make(chan struct{})
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			<-start
			fn(i)
		})
	}
	close(start)
	all.Wait()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
