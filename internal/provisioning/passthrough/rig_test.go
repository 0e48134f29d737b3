package passthrough_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/provisioning/passthrough"
	"github.com/connect-prisma/server/internal/tenants"
)

const (
	// apiKey is what the client shows to us, and nobody else may see.
	apiKey = "cpk_test_0123456789"
	// prefix stands before Prisma's path.
	prefix = "/v1/connections/cnx_1/prisma"
)

// rig is a pass-through between a client and an upstream that records what it gets.
type rig struct {
	proxy  *passthrough.Proxy
	ask    func(*http.Request, *passthrough.Request) // changes what Serve is given
	url    string                                    // of the front, with prefix
	addr   string
	tokens *tokens
	audit  *audit

	hits atomic.Int32 // requests that reached an upstream of newRig
	mu   sync.Mutex
	seen []seen
	errs chan error // what Serve returned, in order

	paces chan time.Duration // at which ticks were asked for
	ticks chan time.Time
}

// seen is a request that arrived at the upstream.
type seen struct {
	method, uri, host string
	header            http.Header
	body              string
	bodyErr           error
	length            int64
	encoding          []string
}

// tokens gives the token "first", and "second" after a refusal.
type tokens struct {
	client    *prisma.Client
	exhausted bool // no second token
	err       error

	mu      sync.Mutex
	renewed int
}

func (c *tokens) Call(ctx context.Context, _ prisma.Connection, do func(ctx context.Context, client *prisma.Client) error) error {
	if c.err != nil {
		return c.err
	}
	err := do(ctx, c.client.WithToken("first"))
	if answer, ok := errors.AsType[*prisma.APIError](err); ok && answer.Status == http.StatusUnauthorized && !c.exhausted {
		c.mu.Lock()
		c.renewed++
		c.mu.Unlock()
		err = do(ctx, c.client.WithToken("second"))
	}
	return prisma.FaultOf(err)
}

func (c *tokens) renewals() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.renewed
}

// audit keeps the audited calls as lines.
type audit struct {
	mu    sync.Mutex
	lines []string
	uses  [][]string // of each call
	fail  error
	ended chan struct{}

	undeletable error // of BeginDeletion
}

func (*audit) PrismaConnection(tenants.TenantID, tenants.ConnectionID) prisma.Connection {
	return prisma.Connection{}
}

func (a *audit) BeginCall(_ context.Context, by tenants.Actor, _ tenants.TenantID, call tenants.OutgoingCall) (tenants.AuditedCall, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fail != nil {
		return tenants.AuditedCall{}, a.fail
	}
	a.uses = append(a.uses, call.Uses)
	a.lines = append(a.lines, "begun "+by.ID+" "+call.Operation+" "+call.Target)
	return tenants.AuditedCall{OutgoingCall: call}, nil
}

func (a *audit) EndCall(_ context.Context, _ tenants.Actor, call tenants.AuditedCall, result tenants.CallResult) error {
	a.mu.Lock()
	a.lines = append(a.lines, strings.TrimSpace("ended "+call.Operation+" "+result.Outcome+" "+http.StatusText(result.Status)))
	a.mu.Unlock()
	a.ended <- struct{}{}
	return nil
}

func (a *audit) note(line string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lines = append(a.lines, line)
}

func (a *audit) BeginDeletion(_ context.Context, gone tenants.ResourceChange) (tenants.Deletion, error) {
	a.note("deletes " + strings.Trim(strings.Join(append(gone.DatabaseIDs, gone.ProjectID, gone.DatabaseID, gone.CredentialsID), " "), " "))
	return tenants.Deletion{ResourceChange: gone}, a.undeletable
}

func (a *audit) CancelDeletion(context.Context, tenants.Deletion) error {
	a.note("cancelled")
	return nil
}

func (a *audit) FinishDeletion(_ context.Context, _ tenants.Actor, gone tenants.ResourceChange) (bool, error) {
	a.note("told " + strings.Trim(gone.ProjectID+" "+gone.DatabaseID+" "+gone.CredentialsID, " "))
	return true, nil
}

func (a *audit) ForgetString(_ context.Context, _ tenants.TenantID, credentials string) error {
	a.note("forgets " + credentials)
	return nil
}

func (a *audit) ForgetStringsOf(_ context.Context, _ tenants.TenantID, databases []string) error {
	a.note("forgets those of " + strings.Join(databases, " "))
	return nil
}

func (a *audit) log() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return strings.Join(a.lines, "\n")
}

// newRig starts a rig; upstream answers what was recorded.
func newRig(t *testing.T, limits passthrough.Limits, upstream http.HandlerFunc) *rig {
	t.Helper()
	r := &rig{errs: make(chan error, 1000), audit: &audit{ended: make(chan struct{}, 1000)}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.hits.Add(1)
		upstream(w, req)
		r.note(req)
	}))
	t.Cleanup(server.Close)
	r.start(t, limits, server.URL)
	return r
}

// note reads the rest of a request and records it. Upstreams that don't read the body
// themselves leave it to this.
func (r *rig) note(req *http.Request) {
	body, err := io.ReadAll(req.Body)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, seen{
		req.Method, req.RequestURI, req.Host, req.Header.Clone(), string(body), err, req.ContentLength, req.TransferEncoding,
	})
}

// recording records the whole request before it answers 200 with a JSON body.
func recording(t *testing.T, limits passthrough.Limits) *rig {
	t.Helper()
	r := &rig{errs: make(chan error, 1000), audit: &audit{ended: make(chan struct{}, 1000)}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.note(req)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"data":[]}`)
	}))
	t.Cleanup(server.Close)
	r.start(t, limits, server.URL)
	return r
}

// start puts the front before an upstream.
func (r *rig) start(t *testing.T, limits passthrough.Limits, upstream string) {
	t.Helper()
	transport := &http.Transport{MaxResponseHeaderBytes: 64 << 10, MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	client, err := managementapi.New(managementapi.Config{BaseURL: upstream, Transport: transport})
	check(t, err)
	r.tokens = &tokens{client: client}
	r.paces, r.ticks = make(chan time.Duration, 1000), make(chan time.Time)
	r.proxy, err = passthrough.New(passthrough.Config{
		Store: r.audit, Caller: r.tokens, Limits: limits,
		Tick: func(pace time.Duration) (<-chan time.Time, func()) {
			r.paces <- pace
			return r.ticks, func() {}
		},
	})
	check(t, err)
	front := httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	front.Config.MaxHeaderBytes = 32 << 10
	front.Start()
	t.Cleanup(front.Close)
	r.addr = front.Listener.Addr().String()
	r.url = front.URL + prefix
}

// serve does what the API does around the pass-through.
func (r *rig) serve(w http.ResponseWriter, req *http.Request) {
	_, path, _ := strings.Cut(req.URL.EscapedPath(), "/prisma/")
	in := passthrough.Request{By: tenants.Actor{ID: "key_1"}, Path: "/" + path}
	if r.ask != nil {
		r.ask(req, &in)
	}
	err := r.proxy.Serve(w, req, in) //nolint:contextcheck // the exchange has a context of its own
	r.errs <- err
	if errors.Is(err, passthrough.ErrBroken) {
		panic(http.ErrAbortHandler)
	}
	if err == nil {
		return
	}
	if _, large := errors.AsType[*http.MaxBytesError](err); large {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
		return
	}
	status := map[fault.Kind]int{
		fault.InvalidRequest: 400, fault.Unauthorized: 401, fault.OperationNotAllowed: 403, fault.NotFound: 404, fault.MethodNotAllowed: 405,
		fault.ReconnectRequired: 409, fault.QuotaExceeded: 429, fault.PrismaRefused: 502, fault.PrismaUnavailable: 503,
	}[fault.KindOf(err)]
	if status == 0 {
		status = http.StatusInternalServerError
	}
	w.Header().Set("X-Kind", string(fault.KindOf(err)))
	http.Error(w, err.Error(), status)
}

// arrived returns what the upstream has got so far.
func (r *rig) arrived() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]seen(nil), r.seen...)
}

// answer is a whole answer.
type answer struct {
	status int
	header http.Header
	body   string
	err    error // of reading the body
}

// client never follows redirects, decompresses nothing and keeps no connection.
func client(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{DisableCompression: true, ExpectContinueTimeout: 5 * time.Second}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// do sends a request to a path of Prisma's.
func (r *rig) do(t *testing.T, method, path string, body io.Reader, change func(*http.Request)) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, r.url+path, body)
	check(t, err)
	req.Header.Set("Authorization", "Bearer "+apiKey)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if change != nil {
		change(req)
	}
	resp, err := client(t).Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, string(text), err}
}

// raw sends bytes and returns the answer's status, 0 if there was none.
func (r *rig) raw(t *testing.T, request string) int {
	t.Helper()
	conn := r.dial(t)
	if _, err := io.WriteString(conn, request); err != nil {
		return 0
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

func (r *rig) dial(t *testing.T) net.Conn {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp", r.addr)
	check(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	check(t, conn.SetDeadline(time.Now().Add(20*time.Second))) //nolint:forbidigo // a socket's
	return conn
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
