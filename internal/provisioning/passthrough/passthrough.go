package passthrough

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/tenants"
)

// MaxBody is the largest body of a request, in bytes.
const MaxBody = 10 << 20

// ErrBroken is the error of an answer that ended early after its head was sent. Nothing
// may be written any more: the connection has to be cut, so that the client sees it.
var ErrBroken = errors.New("the answer broke off")

// Store finds tokens, keeps the audit log and tells of deletions; *tenants.Store is one.
type Store interface {
	PrismaConnection(tenant tenants.TenantID, id tenants.ConnectionID) prisma.Connection
	BeginCall(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, call tenants.OutgoingCall) (tenants.AuditedCall, error)
	EndCall(ctx context.Context, by tenants.Actor, call tenants.AuditedCall, result tenants.CallResult) error

	BeginDeletion(ctx context.Context, gone tenants.ResourceChange) (tenants.Deletion, error)
	CancelDeletion(ctx context.Context, begun tenants.Deletion) error
	FinishDeletion(ctx context.Context, by tenants.Actor, gone tenants.ResourceChange) (told bool, err error)
	ForgetString(ctx context.Context, tenant tenants.TenantID, credentials string) error
	ForgetStringsOf(ctx context.Context, tenant tenants.TenantID, databases []string) error
}

// Caller makes calls with a connection's access token; *prisma.Caller is one.
type Caller interface {
	Call(ctx context.Context, conn prisma.Connection, do func(ctx context.Context, client *prisma.Client) error) error
}

// Limits bound what passes. A zero field takes its default.
type Limits struct {
	// Upload is how long a client may take to send its body. Default 30 s.
	Upload time.Duration

	// Head is how long Prisma may take until its status is there, the upload included.
	// Default 60 s.
	Head time.Duration

	// Idle is the longest pause within an answer, and how long the client may take to
	// read what is there. Default 30 s.
	Idle time.Duration

	// Whole is how long an answer may take. Default 5 min.
	Whole time.Duration

	// StreamIdle and StreamWhole are Idle and Whole for logs (application/x-ndjson) and
	// other streams of events, which may have nothing to say for long. Default 10 min
	// and 1 h.
	StreamIdle, StreamWhole time.Duration

	// Recheck is how often it is asked, while an answer goes on, whether its caller would
	// still be let in. Default 5 s.
	Recheck time.Duration

	// Answer is the most bytes of an answer. Default 256 MiB.
	Answer int64
}

func (l Limits) withDefaults() Limits {
	return Limits{
		Upload:      cmp.Or(l.Upload, 30*time.Second),
		Head:        cmp.Or(l.Head, time.Minute),
		Idle:        cmp.Or(l.Idle, 30*time.Second),
		Whole:       cmp.Or(l.Whole, 5*time.Minute),
		StreamIdle:  cmp.Or(l.StreamIdle, 10*time.Minute),
		StreamWhole: cmp.Or(l.StreamWhole, time.Hour),
		Recheck:     cmp.Or(l.Recheck, 5*time.Second),
		Answer:      cmp.Or(l.Answer, 256<<20),
	}
}

// Config is what a Proxy rests on.
type Config struct {
	Store  Store        // required
	Caller Caller       // required
	Logger *slog.Logger // default: none
	Limits Limits

	// Tick returns a channel that ticks at that pace, and what ends it. Default
	// time.NewTicker.
	Tick func(pace time.Duration) (ticks <-chan time.Time, stop func())
}

// Proxy passes requests through. It is safe for concurrent use.
type Proxy struct {
	store   Store
	caller  Caller
	logger  *slog.Logger
	limits  Limits
	tick    func(time.Duration) (<-chan time.Time, func())
	routes  routes
	buffers sync.Pool

	draining context.Context //nolint:containedctx // ends when streams have to
	drain    context.CancelFunc
}

// New returns a Proxy; an incomplete configuration is an error.
func New(cfg Config) (*Proxy, error) {
	if cfg.Store == nil || cfg.Caller == nil {
		return nil, errors.New("passthrough: a store and a caller are needed")
	}
	known, err := newRoutes(managementapi.Document(), decisions())
	if err != nil {
		return nil, err
	}
	p := &Proxy{
		store: cfg.Store, caller: cfg.Caller, logger: cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler)),
		limits: cfg.Limits.withDefaults(), tick: cfg.Tick, routes: known,
		buffers: sync.Pool{New: func() any { return new([32 << 10]byte) }},
	}
	if p.tick == nil {
		p.tick = func(pace time.Duration) (<-chan time.Time, func()) {
			ticker := time.NewTicker(pace)
			return ticker.C, ticker.Stop
		}
	}
	p.draining, p.drain = context.WithCancel(context.Background())
	return p, nil
}

// Drain ends the streams that are open, and those that open later: they could keep a
// process from stopping for an hour. Other requests go on.
func (p *Proxy) Drain() { p.drain() }

// Request says who calls through which connection.
type Request struct {
	By         tenants.Actor
	Tenant     tenants.TenantID
	Connection tenants.ConnectionID
	Path       string // Prisma's, escaped, with its leading "/v1/"

	// Still reports whether the caller would be let in now. An error of one of these kinds
	// ends the request and its answer, except that what became of a change is waited for
	// once it has been sent whole: fault.Unauthorized, fault.ForbiddenScope, fault.NotFound
	// and fault.ReconnectRequired. Any other means that nobody can tell, and it goes on.
	// Nil: nobody asks.
	Still func(ctx context.Context) error

	// Stream is called before the head of a stream is sent: it finds a place for it, which
	// leave gives back, or refuses it with an error to render. Nil: it needs none. The answer
	// to a changing call is not asked about, for what it was to do is done.
	Stream func(ctx context.Context) (leave func(), err error)
}

// Serve passes one request to Prisma and its answer to w. A nil error means that an
// answer was sent.
//
// Before anything was written it returns an error to render:
//   - fault.InvalidRequest (HTTP/1.0 included), fault.NotFound, fault.MethodNotAllowed (with
//     the header Allow set on w) and fault.OperationNotAllowed about the request,
//     *http.MaxBytesError for a body above MaxBody;
//   - those of prisma.Caller about the connection: fault.NotFound and
//     fault.ReconnectRequired among them, and fault.PrismaRefused for a 401 that a
//     renewed token did not mend or that came to a body too long to be sent again;
//   - fault.PrismaUnavailable when there was no usable answer, with "outcome" for a
//     changing call: "not_sent" or "unknown";
//   - those of Request.Stream and Request.Still.
//
// Afterwards it returns ErrBroken.
func (p *Proxy) Serve(w http.ResponseWriter, r *http.Request, in Request) error {
	x, err := p.prepare(w, r, in)
	if err != nil {
		return err
	}
	defer x.finish()
	defer x.watch()()
	resp, err := x.exchange()
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return x.relay(resp)
}

// prepare checks everything about a request that needs nobody else.
func (p *Proxy) prepare(w http.ResponseWriter, r *http.Request, in Request) (*exchange, error) {
	if r.URL.Host != "" || r.URL.Scheme != "" || r.URL.Opaque != "" { // meant for a proxy
		return nil, fault.New(fault.InvalidRequest, "Send the path alone, not a whole address, in the request line.", nil)
	}
	if !r.ProtoAtLeast(1, 1) {
		// HTTP/1.0 knows no chunks: the end of its connection is the end of a body whose length
		// nobody told, and one that broke off would look whole.
		return nil, fault.New(fault.InvalidRequest,
			"Use HTTP/1.1 or later, also between a proxy of yours and this service: in HTTP/1.0 half an answer can't be told from a whole one.", nil)
	}
	to, err := p.routes.match(r.Method, in.Path)
	if other, ok := errors.AsType[*methodError](err); ok {
		w.Header().Set("Allow", strings.Join(other.allowed, ", "))
		return nil, fault.New(fault.MethodNotAllowed,
			"Prisma's interface has no such method at this path; the Allow header names those it has.", err)
	}
	if err != nil {
		return nil, err
	}
	query, err := to.op.checkQuery(r.URL.RawQuery)
	if err != nil {
		return nil, err
	}
	header, err := requestHeader(r.Header, to.op)
	if err != nil {
		return nil, err
	}
	if r.ContentLength > MaxBody {
		return nil, &http.MaxBytesError{Limit: MaxBody}
	}
	if r.ContentLength != 0 && !to.op.changes() {
		return nil, fault.New(fault.InvalidRequest, "This operation takes no body.", nil)
	}
	return p.newExchange(w, r, in, to, managementapi.RawRequest{
		Method: to.op.method, Path: to.path, Query: query, Header: header, Length: r.ContentLength,
	}), nil
}
