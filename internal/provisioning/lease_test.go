package provisioning_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/tenants"
)

// leases is a store of one operation that counts what happens to its lease.
type leases struct {
	provisioning.Store // what a test does not expect panics

	renewErr  error
	finishErr error // of the first finishes
	failures  int
	renewals  atomic.Int64
	ended     tenants.OperationStatus
	finishes  int
}

func (l *leases) PrismaConnection(tenants.TenantID, tenants.ConnectionID) prisma.Connection {
	return prisma.Connection{}
}

func (l *leases) ServiceToken(context.Context, tenants.TenantID) (string, error) { return "", nil }

func (l *leases) BeginOperation(_ context.Context, _ tenants.TenantID, in tenants.NewOperation) (tenants.Operation, error) {
	return tenants.Operation{Kind: in.Kind, Attempt: 1}, nil
}

func (l *leases) RenewOperation(context.Context, tenants.Operation, time.Duration) error {
	l.renewals.Add(1)
	return l.renewErr
}

func (l *leases) BeginCall(_ context.Context, _ tenants.Actor, _ tenants.TenantID, call tenants.OutgoingCall) (tenants.AuditedCall, error) {
	return tenants.AuditedCall{OutgoingCall: call}, nil
}

func (l *leases) EndCall(context.Context, tenants.Actor, tenants.AuditedCall, tenants.CallResult) error {
	return nil
}

func (l *leases) EndOperation(_ context.Context, _ tenants.Operation, end tenants.OperationEnd) error {
	l.ended = end.As
	return nil
}

func (l *leases) FinishOperation(_ context.Context, _ tenants.Actor, op tenants.Operation, made tenants.Made) (tenants.Operation, error) {
	if l.finishes++; l.finishes <= l.failures {
		return tenants.Operation{}, l.finishErr
	}
	op.Done, op.Answer = true, made.Answer
	return op, nil
}

// slow takes a while to find a token, and then calls.
type slow struct {
	takes  time.Duration
	client *prisma.Client
}

func (s slow) Call(ctx context.Context, _ prisma.Connection, do func(context.Context, *prisma.Client) error) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(s.takes):
	}
	return prisma.FaultOf(do(ctx, s.client))
}

// answers counts requests and answers each with a project.
type answers struct{ requests atomic.Int64 }

func (a *answers) RoundTrip(*http.Request) (*http.Response, error) {
	a.requests.Add(1)
	return newResponse(http.StatusCreated, `{"data": {"id": "proj_1", "name": "a", "createdAt": "2026-01-02T03:04:05Z"}}`), nil
}

func TestLease(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		store    *leases
		takes    time.Duration
		renewals int64 // at least
		requests int64
		kind     fault.Kind
		fails    bool
		ended    tenants.OperationStatus
		finishes int
	}{
		"a quick call renews nothing": {store: &leases{}, takes: time.Second, requests: 1, finishes: 1},
		"a slow call keeps its lease": {store: &leases{}, takes: 45 * time.Second, renewals: 4, requests: 1, finishes: 1},
		"a lost lease stops the create": {
			store: &leases{renewErr: fault.New(fault.OperationInProgress, "", nil)}, takes: 15 * time.Second,
			renewals: 1, kind: fault.OperationInProgress, fails: true, ended: tenants.OperationFailed,
		},
		"an unknown lease stops the create": {
			store: &leases{renewErr: errDown}, takes: 15 * time.Second, renewals: 1, fails: true, ended: tenants.OperationFailed,
		},
		"the deadline ends it": {store: &leases{}, takes: time.Hour, renewals: 5, fails: true, ended: tenants.OperationFailed},
		"a failed save is repeated": {
			store: &leases{finishErr: errDown, failures: 3}, takes: time.Second, requests: 1, finishes: 4,
		},
		"a save that never succeeds is an error": {
			store: &leases{finishErr: errDown, failures: 1000}, takes: time.Second, requests: 1,
			kind: fault.PrismaUnavailable, fails: true, finishes: 15,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				upstream := &answers{}
				client, err := managementapi.New(managementapi.Config{BaseURL: "https://prisma.test", Transport: upstream})
				check(t, err)
				s, err := provisioning.New(provisioning.Config{
					Store: tc.store, Caller: slow{tc.takes, client}, Client: client, Now: now,
				})
				check(t, err)
				_, err = s.CreateProject(t.Context(), tenants.System(), tenants.TenantID{}, tenants.ConnectionID{},
					provisioning.NewProject{Name: "a", Region: "us-east-1"})
				if (err != nil) != tc.fails || fault.KindOf(err) != tc.kind {
					t.Errorf("CreateProject() = %v, want an error: %t, kind %q", err, tc.fails, tc.kind)
				}
				if got := tc.store.renewals.Load(); got < tc.renewals || tc.renewals == 0 && got > 0 {
					t.Errorf("%d renewals, want %d", got, tc.renewals)
				}
				if got := upstream.requests.Load(); got != tc.requests {
					t.Errorf("%d requests, want %d", got, tc.requests)
				}
				if tc.store.ended != tc.ended || tc.store.finishes != tc.finishes {
					t.Errorf("ended as %q with %d finishes, want %q with %d", tc.store.ended, tc.store.finishes, tc.ended, tc.finishes)
				}
			})
		})
	}
}

var errDown = errors.New("the database is down")

// stalls is answers behind a connection that takes a while to come, or to answer.
type stalls struct {
	answers

	connects, replies time.Duration
}

func (s *stalls) RoundTrip(r *http.Request) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(r.Context())
	trace.GetConn("prisma.test:443")
	if err := pass(r.Context(), s.connects); err != nil {
		return nil, err
	}
	trace.GotConn(httptrace.GotConnInfo{})
	trace.WroteHeaders()
	if err := pass(r.Context(), s.replies); err != nil {
		return nil, err
	}
	return s.answers.RoundTrip(r)
}

func pass(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// What could only be written when the lease may have ended is not sent; what is written by
// then may take its time.
func TestNothingIsSentAfterTheLease(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		upstream *stalls
		requests int64
		ended    tenants.OperationStatus
	}{
		"a connection in time":  {&stalls{connects: 4 * time.Second}, 1, ""},
		"a connection too late": {&stalls{connects: 7 * time.Second}, 0, tenants.OperationFailed},
		"a slow answer":         {&stalls{replies: 7 * time.Second}, 1, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				client, err := managementapi.New(managementapi.Config{BaseURL: "https://prisma.test", Transport: tc.upstream})
				check(t, err)
				store := &leases{renewErr: errDown}
				s, err := provisioning.New(provisioning.Config{
					Store: store, Caller: slow{0, client}, Client: client, Now: now, Lease: 6 * time.Second,
				})
				check(t, err)
				_, err = s.CreateProject(t.Context(), tenants.System(), tenants.TenantID{}, tenants.ConnectionID{},
					provisioning.NewProject{Name: "a", Region: "us-east-1"})
				if got := tc.upstream.requests.Load(); got != tc.requests || (err == nil) != (tc.requests == 1) {
					t.Errorf("CreateProject() = %v after %d requests, want %d", err, got, tc.requests)
				}
				if store.ended != tc.ended {
					t.Errorf("ended as %q, want %q", store.ended, tc.ended)
				}
			})
		})
	}
}
