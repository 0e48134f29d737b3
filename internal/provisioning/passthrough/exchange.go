package passthrough

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/tenants"
)

// errSlow is the cause of the end of an exchange that took too long.
var errSlow = errors.New("a time limit of the pass-through")

// exchange is one request on its way.
type exchange struct {
	*Proxy

	in     Request
	op     *operation
	target target
	raw    managementapi.RawRequest
	body   *body // nil: none

	w      http.ResponseWriter
	wire   *http.ResponseController
	ctx    context.Context //nolint:containedctx // of the request to Prisma, which has a life of its own
	cancel context.CancelCauseFunc
	client context.Context //nolint:containedctx // of the client's request

	sending, uploaded, answered atomic.Bool // how far it has come

	audited  *tenants.AuditedCall // the intent, once it is written
	deletion *deletion            // what is to be told; nil: nothing
	emptied  []string             // the databases of a branch that is deleted
	last     error                // how the last attempt failed; nil: it did not
}

func (p *Proxy) newExchange(w http.ResponseWriter, r *http.Request, in Request, to target, raw managementapi.RawRequest) *exchange {
	x := &exchange{
		Proxy: p, in: in, op: to.op, target: to, raw: raw,
		w: w, wire: http.NewResponseController(w), client: r.Context(),
	}
	ctx := r.Context()
	if x.op.changes() {
		ctx = context.WithoutCancel(ctx) // until it is known what became of it
	}
	x.ctx, x.cancel = context.WithCancelCause(ctx)
	if r.ContentLength != 0 {
		x.body = &body{from: r.Body, limit: MaxBody, ended: func() {
			x.uploaded.Store(true)
			x.readBy(time.Time{})
		}}
		x.readBy(time.Now().Add(p.limits.Upload)) //nolint:forbidigo // sockets have their deadlines in real time
	} else {
		x.uploaded.Store(true)
		x.readBy(time.Time{}) // else the server's own would end the request's context
	}
	return x
}

// readBy sets the deadline for reading from the client. A server that has none to set is
// a test's.
func (x *exchange) readBy(deadline time.Time) { _ = x.wire.SetReadDeadline(deadline) }

// finish ends what the exchange still holds.
func (x *exchange) finish() {
	x.cancel(nil)
	if server, ok := x.client.Value(http.ServerContextKey).(*http.Server); ok && server.WriteTimeout == 0 {
		_ = x.wire.SetWriteDeadline(time.Time{}) // nobody else sets one for the connection's next request
	}
}

// exchange sends the request and returns Prisma's answer, a usable one, whose body the
// caller closes.
func (x *exchange) exchange() (*http.Response, error) {
	slow := time.AfterFunc(x.limits.Head, func() { x.cancel(errSlow) })
	defer slow.Stop()
	var resp *http.Response
	err := x.caller.Call(x.ctx, x.store.PrismaConnection(x.in.Tenant, x.in.Connection),
		func(ctx context.Context, client *prisma.Client) (err error) {
			resp, err = x.attempt(ctx, client) //nolint:bodyclose // the caller closes it
			return err
		})
	if err == nil && !usable(resp.StatusCode) {
		x.last = &prisma.APIError{Status: resp.StatusCode}
		err = managementapi.NewFetchError(true, x.last)
		_ = resp.Body.Close()
	}
	if err != nil {
		x.conclude(tenants.ResultOf(x.last))
		return nil, x.explain(err)
	}
	result := tenants.CallResult{Outcome: tenants.CallDone, Status: resp.StatusCode}
	if resp.StatusCode >= http.StatusMultipleChoices {
		result = tenants.ResultOf(&prisma.APIError{Status: resp.StatusCode})
	}
	x.conclude(result)
	return resp, nil
}

// usable reports whether an answer may be passed on. A redirect may not: the client would
// look for its target here, with its API key.
func usable(status int) bool {
	return status >= 200 && status < 300 || status == http.StatusNotModified || status >= 400 && status < 600
}

// attempt sends the request with one access token.
func (x *exchange) attempt(ctx context.Context, client *prisma.Client) (*http.Response, error) {
	if x.op.changes() && x.audited == nil {
		uses, err := x.uses()
		if err != nil {
			return nil, err
		}
		if err := x.lookAtDeletion(ctx, client); err != nil {
			return nil, err
		}
		begun, err := x.store.BeginCall(ctx, x.in.By, x.in.Tenant, tenants.OutgoingCall{
			Connection: x.in.Connection, Operation: x.op.String(), Target: x.target.id, Uses: uses,
		})
		if err != nil {
			return nil, err
		}
		x.audited, x.last = &begun, managementapi.NewFetchError(false, errors.New("not yet sent"))
		if err := x.beforeSending(ctx); err != nil {
			return nil, err
		}
	}
	raw := x.raw
	if x.body != nil {
		reader, whole := x.body.attempt()
		if !whole {
			return nil, fault.New(fault.PrismaRefused, "Prisma refused the access token. It has been renewed, "+
				"but the body was too long to be kept: send the request again.", x.last)
		}
		raw.Body = reader
	}
	x.sending.Store(true)
	resp, err := client.Raw(ctx, raw)
	x.last = err
	return resp, err
}

// conclude writes how a changing call ended, and tells what it deleted.
func (x *exchange) conclude(result tenants.CallResult) {
	if x.audited == nil {
		return
	}
	if err := x.store.EndCall(x.ctx, x.in.By, *x.audited, result); err != nil {
		x.logger.ErrorContext(x.ctx, "the end of a call is not in the audit log",
			slog.String("operation", x.op.String()), slog.String("connection", x.in.Connection.String()),
			slog.String("outcome", result.Outcome), slog.String("error", err.Error()))
	}
	x.tellDeletion(result)
}

// explain turns a failure to get an answer into the error for the client.
func (x *exchange) explain(err error) error {
	if refused, ok := errors.AsType[*fault.Error](context.Cause(x.ctx)); ok {
		return refused
	}
	if x.body != nil {
		if trouble := x.body.clientFailure(); trouble != nil {
			return ofBody(trouble)
		}
	}
	failed, ok := errors.AsType[*prisma.FetchError](err)
	switch {
	case !ok:
		return err
	case errors.Is(err, errForgotten):
		return fault.New(fault.PrismaRefused, "Prisma refused the access token. It has been renewed, "+
			"but the body was too long to be kept: send the request again.", err)
	case !x.op.changes() && x.client.Err() != nil:
		return context.Cause(x.client)
	case !x.op.changes():
		return fault.New(fault.PrismaUnavailable, "Prisma gave no usable answer. Try again later.", err)
	case !failed.Sent:
		return fault.New(fault.PrismaUnavailable, "Prisma could not be reached, and nothing was sent. Try again later.", err).
			WithExtra("outcome", tenants.CallNotSent)
	}
	return fault.New(fault.PrismaUnavailable,
		"Prisma gave no usable answer, so that nobody knows whether this was done. "+
			"Look before you send it again: read what it was to change, or the list that it was to be in, now and once more in a minute.", err).
		WithoutRetry().WithExtra("outcome", tenants.CallUnknown)
}

// ofBody is the error for a client's body that could not be read.
func ofBody(trouble error) error {
	if large, ok := errors.AsType[*http.MaxBytesError](trouble); ok {
		return large
	}
	return fault.New(fault.InvalidRequest, "The body could not be read to its end within the time for it.", trouble)
}
