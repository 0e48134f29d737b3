package provisioning_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/pgtest"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/sealing"
	"github.com/connect-prisma/server/internal/tenants"
)

// world is a service on real storage in front of a simulated Prisma, with one
// tenant that has one connection.
type world struct {
	*provisioning.Service

	db     *pgtest.Database
	store  *tenants.Store
	sim    *prismasimtest.Server
	wire   *wire
	caller *prisma.Caller
	client *prisma.Client

	tenant     tenants.TenantID
	connection tenants.ConnectionID
	tokens     prismasimtest.Tokens
	ahead      atomic.Int64 // how far the service's clock is before the real one
}

// open starts a world; options may change the service's configuration.
func open(t *testing.T, options ...func(*provisioning.Config)) *world {
	t.Helper()
	text, err := sealing.Generate()
	check(t, err)
	keyset, err := sealing.Parse(text, "test")
	check(t, err)
	w := &world{db: pgtest.Open(t), sim: prismasimtest.Start(t)}
	w.store, err = tenants.NewStore(tenants.Config{Pool: w.db.Pool, Keyset: keyset})
	check(t, err)
	w.wire = newWire(t, w.sim)

	oauth, err := prisma.NewOAuth(prisma.OAuthConfig{AuthURL: w.sim.URL})
	check(t, err)
	refresher, err := prisma.NewRefresher(prisma.RefresherConfig{Exchanger: oauth, Now: w.now})
	check(t, err)
	w.client, err = managementapi.New(managementapi.Config{BaseURL: w.wire.url, Transport: transport(t)})
	check(t, err)
	w.caller = prisma.NewCaller(w.client, refresher)
	w.Service = w.service(t, options...)

	w.tenant = w.newTenant(t, "Acme")
	w.tokens = w.sim.Connect(t, prismasimtest.WorkspaceA)
	w.connection = w.connect(t, w.tenant, w.tokens)
	return w
}

// service returns another service on the same storage, as of another replica.
func (w *world) service(t *testing.T, options ...func(*provisioning.Config)) *provisioning.Service {
	t.Helper()
	cfg := provisioning.Config{
		Store: w.store, Caller: w.caller, Client: w.client, Now: w.now,
		Patience: []time.Duration{0, time.Millisecond, time.Millisecond, time.Millisecond},
	}
	for _, option := range options {
		option(&cfg)
	}
	s, err := provisioning.New(cfg)
	check(t, err)
	return s
}

func transport(t *testing.T) *http.Transport {
	t.Helper()
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is one
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

func (w *world) newTenant(t *testing.T, name string) tenants.TenantID {
	t.Helper()
	tenant, err := w.store.CreateTenant(t.Context(), tenants.System(), tenants.TenantInput{
		Name: name, Client: tenants.OAuthClient{ID: prismasimtest.ClientID, Secret: prismasimtest.ClientSecret},
		ReturnURLs: []string{"https://partner.example/callback"}, ServiceToken: prismasimtest.ServiceToken,
	})
	check(t, err)
	return tenant.ID
}

// connect stores a grant on the first workspace as a connection of the tenant.
func (w *world) connect(t *testing.T, tenant tenants.TenantID, tokens prismasimtest.Tokens) tenants.ConnectionID {
	t.Helper()
	return w.connectAs(t, tenant, prismasimtest.WorkspaceA, tokens)
}

// connectAs stores a grant as a connection of the tenant, through a whole session.
func (w *world) connectAs(t *testing.T, tenant tenants.TenantID, workspace string, tokens prismasimtest.Tokens,
) tenants.ConnectionID {
	t.Helper()
	ctx, by := t.Context(), tenants.System()
	x, _, err := w.store.CreateSession(ctx, by, tenant, tenants.NewSession{
		UserID: "user-1", ReturnURL: "https://partner.example/callback",
	})
	check(t, err)
	check(t, w.store.StartSession(ctx, by, x, tenants.Start{
		State: "state", ClientID: prismasimtest.ClientID, RedirectURI: prismasimtest.RedirectURI,
	}))
	code, err := w.store.ReturnSession(ctx, by, x, tenants.Return{State: "state", Code: "spent", Verifier: "spent"})
	check(t, err)
	claim, err := w.store.ClaimCompletion(ctx, by, tenant, x.ID, code, "user-1")
	check(t, err)
	issued := now()
	connection, err := w.store.FinishSession(ctx, by, claim.Session, claim.ClientID, prisma.Tokens{
		WorkspaceID: workspace, Access: tokens.Access, Refresh: tokens.Refresh,
		IssuedAt: issued, ExpiresAt: issued.Add(time.Duration(tokens.ExpiresIn) * time.Second),
	})
	check(t, err)
	return connection.ID
}

// now is the clock of the tests: the real one, or the bubble's.
func now() time.Time {
	return time.Now() //nolint:forbidigo // this is the injected clock
}

func (w *world) now() time.Time { return now().Add(time.Duration(w.ahead.Load())) }

// advance moves every clock: the service's, the database's and Prisma's.
func (w *world) advance(t *testing.T, by time.Duration) {
	t.Helper()
	w.ahead.Add(int64(by))
	w.db.Advance(t, by)
	w.sim.Control(t, http.MethodPost, "clock", map[string]string{"advance": by.String()}, nil)
}

// field returns a text of an answer's data, or of its only item, by its dotted path.
func field(t *testing.T, body []byte, path string) string {
	t.Helper()
	var answer struct{ Data any }
	check(t, json.Unmarshal(body, &answer))
	value := answer.Data
	if list, ok := value.([]any); ok && len(list) == 1 {
		value = list[0]
	}
	for name := range strings.SplitSeq(path, ".") {
		object, _ := value.(map[string]any)
		value = object[name]
	}
	text, ok := value.(string)
	if !ok {
		t.Fatalf("no %s in the answer", path)
	}
	return text
}

// eventually polls until done is true, up to half a minute: for work of the
// simulator's that nobody is told of.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("within half a minute: not %s", what)
		}
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantKind fails the test unless err is of that kind.
func wantKind(t *testing.T, err error, kind fault.Kind) {
	t.Helper()
	_ = faultOf(t, err, kind) // its parts are of no interest here
}

// faultOf returns the failure of that kind that err is.
func faultOf(t *testing.T, err error, kind fault.Kind) *fault.Error {
	t.Helper()
	failure, ok := errors.AsType[*fault.Error](err)
	if !ok || failure.Kind != kind {
		t.Fatalf("error = %v, want kind %q", err, kind)
	}
	return failure
}

// opens reports whether a connection string opens its database.
func opens(t *testing.T, connectionString string) bool {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), connectionString)
	if err != nil {
		return false
	}
	defer conn.Close(t.Context())
	var one int
	return conn.QueryRow(t.Context(), "SELECT 1").Scan(&one) == nil && one == 1
}

// count returns how many things a list of the simulator holds.
func (w *world) count(t *testing.T, path string) int {
	t.Helper()
	status, body := w.sim.Do(t, http.MethodGet, path, w.tokens.Access, nil)
	if status != http.StatusOK {
		t.Fatalf("GET %s = %d", path, status)
	}
	var list struct {
		Data []json.RawMessage `json:"data"`
	}
	check(t, json.Unmarshal(body, &list))
	return len(list.Data)
}

// row returns one text of the tenant's only operation.
func (w *world) row(t *testing.T, expression string) string {
	t.Helper()
	return w.query(t, "SELECT "+expression+" FROM operations")
}

// query returns the first column of a query's only row, read as a superuser.
func (w *world) query(t *testing.T, sql string, args ...any) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.db.AdminURL)
	check(t, err)
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), sql, args...)
	check(t, err)
	text, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
	check(t, err)
	return text
}

func (w *world) exec(t *testing.T, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), w.db.AdminURL)
	check(t, err)
	defer conn.Close(t.Context())
	_, err = conn.Exec(t.Context(), sql)
	check(t, err)
}

// events returns the types of the tenant's events since it was connected.
func (w *world) events(t *testing.T) string {
	t.Helper()
	return w.query(t, `SELECT coalesce(string_agg(type, ' ' ORDER BY sequence), '') FROM events
		WHERE tenant_id = $1 AND type NOT LIKE 'conn%'`, w.tenant)
}

// wire lies between the service and Prisma and damages what it is told to.
type wire struct {
	url string
	sim *prismasimtest.Server

	mu   sync.Mutex
	hurt func(r *http.Request) harm
	seen map[string]int // requests by method and first path segments
}

type harm int

const (
	none     harm = iota
	lose          // processed, then the connection is cut
	fail          // processed, then 500
	refuse        // not processed, 503
	reject        // not processed, 400
	throttle      // not processed, 429
	conflict      // not processed, 409
	move          // processed, and the answer names us-east-1 by another name
)

func newWire(t *testing.T, sim *prismasimtest.Server) *wire {
	t.Helper()
	w := &wire{sim: sim, seen: make(map[string]int)}
	server := httptest.NewServer(w)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

// harms sets what happens to each request from now on.
func (w *wire) harms(hurt func(r *http.Request) harm) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hurt = hurt
}

// posts returns how many POSTs went to paths with that suffix.
func (w *wire) posts(suffix string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for line, times := range w.seen {
		if strings.HasPrefix(line, http.MethodPost) && strings.HasSuffix(line, suffix) {
			n += times
		}
	}
	return n
}

// ServeHTTP passes a request on to the simulator.
func (w *wire) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.seen[r.Method+" "+r.URL.Path]++
	hurt := w.hurt
	w.mu.Unlock()
	h := none
	if hurt != nil {
		h = hurt(r)
	}
	if status := map[harm]int{refuse: 503, reject: 400, throttle: 429, conflict: 409}[h]; status != 0 {
		rw.WriteHeader(status)
		return
	}
	// What was sent is processed even when the client has hung up.
	answer := w.forward(context.WithoutCancel(r.Context()), r)
	switch {
	case h == lose || answer == nil:
		panic(http.ErrAbortHandler)
	case h == fail:
		rw.WriteHeader(http.StatusInternalServerError)
		return
	}
	maps.Copy(rw.Header(), answer.Header())
	rw.WriteHeader(answer.Code)
	body := answer.Body.Bytes()
	if h == move {
		body = bytes.ReplaceAll(body, []byte("us-east-1"), []byte("us-East-1"))
	}
	_, _ = rw.Write(body)
}

func (w *wire) forward(ctx context.Context, r *http.Request) *httptest.ResponseRecorder {
	to := r.Clone(ctx)
	to.URL = &url.URL{Path: r.URL.Path, RawQuery: r.URL.RawQuery}
	answer := httptest.NewRecorder()
	w.sim.ServeHTTP(answer, to)
	return answer
}

// onPost hurts the first n POSTs to paths with that suffix; n < 0: all.
func onPost(suffix string, h harm, n int) func(r *http.Request) harm {
	var mu sync.Mutex
	return func(r *http.Request) harm {
		mu.Lock()
		defer mu.Unlock()
		if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, suffix) || n == 0 {
			return none
		}
		n--
		return h
	}
}

func newResponse(status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)),
	}
}

// onDelete harms every call that deletes.
func onDelete(h harm) func(*http.Request) harm {
	return func(r *http.Request) harm {
		if r.Method == http.MethodDelete {
			return h
		}
		return none
	}
}
