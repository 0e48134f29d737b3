package provisioning

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptrace"
	"strings"
	"sync"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// writeTimeout bounds one attempt to write an operation's row.
const writeTimeout = 10 * time.Second

// creation is one call that is run as an operation: what was asked for and how it is
// made.
type creation[T any] struct {
	at      scope
	kind    tenants.OperationKind
	key     string
	asked   []string // all that the client chose, normalised
	request request  // what must be known to go on without the client
	// bad names what is refused, if this is asked for the first time; nil: nothing.
	bad *fault.Error
	// make does it, or finds it done by an earlier attempt. Its error is an
	// *unfinished.
	make func(ctx context.Context, r *run) (T, tenants.Made, error)
	// replay puts the connection string back into an answer; "": it is gone.
	replay func(answer *T, secret string)
}

// request is what an operation keeps of what was asked for, so that what it made can be
// found without its client.
type request struct {
	Name       string `json:"name,omitempty"`
	Region     string `json:"region,omitempty"`
	ProjectID  string `json:"projectId,omitempty"`
	DatabaseID string `json:"databaseId,omitempty"`

	// Again: the database held this backup's content before it was asked for.
	Again bool `json:"again,omitempty"`
	// Unlooked: what the database holds was not looked at yet, and so nothing was sent.
	Unlooked bool `json:"unlooked,omitempty"`
}

// requestOf reads what an operation keeps; an earlier version kept nothing.
func requestOf(op tenants.Operation) (in request, ok bool) {
	return in, json.Unmarshal(op.Request, &in) == nil
}

// hash is what tells one request from another under the same key.
func (c creation[T]) hash() [sha256.Size]byte {
	var b []byte
	for _, field := range append([]string{string(c.kind), c.at.connection.String()}, c.asked...) {
		b = binary.AppendUvarint(b, uint64(len(field)))
		b = append(b, field...)
	}
	return sha256.Sum256(b)
}

// bare is an id without its prefix, which Prisma takes both with and without.
func bare(prefix, id string) string { return strings.TrimPrefix(id, prefix) }

// create runs a creating call as an operation. It goes on when ctx ends: stopping
// half way would leave something behind that nobody knows of.
func create[T any](ctx context.Context, s *Service, by tenants.Actor, c creation[T]) (Created[T], error) {
	if err := checkKey(c.key); err != nil {
		return Created[T]{}, err
	}
	if err := s.refused(ctx, c.bad, c.at.tenant, c.kind, c.key, c.hash()); err != nil {
		return Created[T]{}, err
	}
	kept, err := json.Marshal(c.request)
	if err != nil {
		return Created[T]{}, fmt.Errorf("encode a request: %w", err)
	}
	began := s.now() // before the lease: time spent writing it counts as passed
	op, err := s.store.BeginOperation(ctx, c.at.tenant, tenants.NewOperation{
		Connection: c.at.connection, Kind: c.kind, Key: c.key, RequestHash: c.hash(), Request: kept, Lease: s.lease,
	})
	if err != nil {
		return Created[T]{}, err
	}
	if op.Done {
		return answerOf(c, op)
	}
	ctx = context.WithoutCancel(ctx)
	work, cancel := context.WithTimeout(ctx, s.deadline)
	defer cancel()
	r := &run{service: s, at: c.at, op: op, by: by, heldSince: began}
	stop := r.keepLease(work)
	answer, made, err := c.make(work, r)
	stop()
	if err != nil {
		return Created[T]{}, s.end(ctx, op, err)
	}
	if made.Answer, err = json.Marshal(answer); err != nil {
		return Created[T]{}, fmt.Errorf("encode the answer of %s: %w", op, err)
	}
	made.MayLand = r.mayLand()
	done, err := s.finish(ctx, by, op, made)
	if err != nil {
		return Created[T]{}, errUnsaved(err, op)
	}
	created, err := answerOf(c, done)
	created.Replayed = false
	return created, err
}

// refused returns bad if it names a field, unless the very same was asked for with this key
// before: regions come and go, and an answer that was given once must not go with them.
func (s *Service) refused(ctx context.Context, bad *fault.Error, tenant tenants.TenantID,
	kind tenants.OperationKind, key string, hash [sha256.Size]byte,
) error {
	if bad == nil || len(bad.Fields) == 0 {
		return nil
	}
	if key != "" {
		if known, err := s.store.HasOperation(ctx, tenant, kind, key, hash); err != nil || known {
			return err
		}
	}
	return bad
}

// finish saves what an operation made.
func (s *Service) finish(ctx context.Context, by tenants.Actor, op tenants.Operation, made tenants.Made) (tenants.Operation, error) {
	var done tenants.Operation
	err := s.save(ctx, func(ctx context.Context) (err error) {
		done, err = s.store.FinishOperation(ctx, by, op, made)
		return err
	})
	if err != nil {
		return tenants.Operation{}, fmt.Errorf("save %s: %w", op, err)
	}
	return done, nil
}

// answerOf reads the stored answer of a finished operation.
func answerOf[T any](c creation[T], op tenants.Operation) (Created[T], error) {
	created := Created[T]{Replayed: true, SecretExpired: op.SecretExpired}
	if err := json.Unmarshal(op.Answer, &created.Resource); err != nil {
		return Created[T]{}, fmt.Errorf("decode the answer of %s: %w", op, err)
	}
	c.replay(&created.Resource, op.Secret)
	return created, nil
}

// end stores how an attempt ended without an answer, and returns what to tell.
func (s *Service) end(ctx context.Context, op tenants.Operation, cause error) error {
	end, tell := tenants.OperationEnd{As: tenants.OperationUnknown}, cause
	if failure, ok := errors.AsType[*unfinished](cause); ok {
		end, tell = failure.end, failure.cause
	}
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err := s.store.EndOperation(ctx, op, end)
	if err != nil && fault.KindOf(err) != fault.OperationInProgress {
		// The lease will end, which says the same more slowly.
		s.logger.ErrorContext(ctx, "the end of an operation was not stored",
			slog.String("operation_id", op.ID.String()), slog.String("error", err.Error()))
	}
	return tell
}

// save repeats a write that must not be lost, for a while. Errors with a kind are
// answers and are not repeated.
func (s *Service) save(ctx context.Context, write func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, s.saveFor)
	defer cancel()
	pause := 50 * time.Millisecond
	for {
		err := attempt(ctx, write)
		if err == nil || fault.KindOf(err) != fault.Internal {
			return err
		}
		s.logger.WarnContext(ctx, "what was made at Prisma is not stored yet", slog.String("error", err.Error()))
		if wait(ctx, pause) != nil {
			return err
		}
		pause = min(2*pause, 2*time.Second)
	}
}

func attempt(ctx context.Context, write func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return write(ctx)
}

// wait pauses for d. If ctx ends first, its error says that what was looked for is not known.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	if err := ctx.Err(); err != nil {
		return fault.New(fault.PrismaUnavailable, "The time for this call ended before it was known what Prisma did.", err)
	}
	return nil
}

// run is one attempt at an operation.
type run struct {
	service *Service
	at      scope
	op      tenants.Operation
	by      tenants.Actor
	inDoubt bool // a request of this attempt may have made something unseen
	rotated bool // a request of this attempt may have rotated credentials unseen

	mu        sync.Mutex
	heldSince time.Time // when the lease was last known to begin anew
}

// keepLease renews the lease until stop is called, which waits for a renewal
// under way.
func (r *run) keepLease(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var renewing sync.WaitGroup
	renewing.Go(func() {
		ticker := time.NewTicker(r.service.lease / 3)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			err := r.renew(ctx)
			if fault.KindOf(err) == fault.OperationInProgress {
				return // it is somebody else's; hold tells before anything is sent
			}
			if err != nil && ctx.Err() == nil {
				r.service.logger.WarnContext(ctx, "the lease of an operation was not renewed",
					slog.String("operation_id", r.op.ID.String()), slog.String("error", err.Error()))
			}
		}
	})
	return func() {
		cancel()
		renewing.Wait()
	}
}

func (r *run) renew(ctx context.Context) error {
	began := r.service.now()
	if err := r.service.store.RenewOperation(ctx, r.op, r.service.lease); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.heldSince.Before(began) {
		r.heldSince = began
	}
	return nil
}

// hold makes sure that the operation is still ours for most of a lease, before
// something is made: a process that stood still may have been given up, and its
// operation taken up by another.
func (r *run) hold(ctx context.Context) error {
	r.mu.Lock()
	held := r.service.now().Sub(r.heldSince)
	r.mu.Unlock()
	if held < r.service.lease/6 {
		return nil
	}
	return r.renew(ctx)
}

// errStoodStill ends a request that is not written while the operation is surely ours.
var errStoodStill = errors.New("the lease of the operation was about to end before the request was sent")

// whileHeld ends ctx before the lease may have ended: a process that stood still after hold
// must not send what another may have begun by then. A request that is written goes on: to
// end it would take nothing back, and lose its answer.
func (r *run) whileHeld(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, end := context.WithCancelCause(ctx)
	r.mu.Lock()
	left := r.service.lease*5/6 - r.service.now().Sub(r.heldSince)
	r.mu.Unlock()
	timer := time.AfterFunc(left, func() { end(errStoodStill) })
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { timer.Stop() }})
	return ctx, func() {
		timer.Stop()
		end(nil)
	}
}

// mayExist reports whether an earlier attempt may have made something.
func (r *run) mayExist() bool {
	return r.op.Previous == tenants.OperationRunning || r.op.Previous == tenants.OperationUnknown
}

// mayLand reports whether something of the operation may still turn up at Prisma,
// beside what is known.
func (r *run) mayLand() bool { return r.inDoubt || r.op.MayLand || r.mayExist() }

// fails ends an attempt that made nothing. What an earlier attempt may have made
// stays unknown.
func (r *run) fails(cause error) error {
	if r.mayExist() {
		return &unfinished{tenants.OperationEnd{As: tenants.OperationUnknown}, cause}
	}
	return &unfinished{tenants.OperationEnd{As: tenants.OperationFailed, MayLand: r.mayLand()}, cause}
}

// unclear ends an attempt that may have made something.
func (r *run) unclear(cause error) error {
	return &unfinished{tenants.OperationEnd{As: tenants.OperationUnknown}, errUnknown(cause, r.op)}
}

// effort is one thing to make at Prisma.
type effort[T any] struct {
	call   tenants.OutgoingCall // what create does, for the audit log
	create func(ctx context.Context, client *prisma.Client) (T, error)
	// find looks it up by its marker; false: there is none, as far as lists tell.
	find func(ctx context.Context) (T, bool, error)
}

// pursue makes a thing once: it looks before it makes if an earlier attempt may
// have made it, and looks after a make whose answer was lost. It reports whether
// the thing was found rather than made here. Its error is an *unfinished.
func pursue[T any](ctx context.Context, r *run, e effort[T]) (thing T, adopted bool, err error) {
	if r.op.Previous != "" {
		pauses := r.service.patience[:1]
		if r.mayExist() {
			pauses = r.service.patience
		}
		thing, found, err := search(ctx, pauses, e.find)
		switch {
		case err != nil && r.mayExist():
			return thing, false, r.unclear(err)
		case err != nil:
			return thing, false, r.fails(err)
		case found:
			return thing, true, nil
		}
	}
	thing, err = send(ctx, r, e.call, e.create)
	result := outcomeOf(err)
	switch result {
	case happened:
		return thing, false, nil
	case refused, notSent:
		return thing, false, r.fails(err)
	case conflicts, unknown:
		r.inDoubt = true
	}
	r.service.logger.WarnContext(ctx, "a create has no clear outcome, looking it up",
		slog.String("operation_id", r.op.ID.String()), slog.String("error", err.Error()))
	thing, found, lookErr := search(ctx, r.service.patience, e.find)
	switch {
	case found:
		return thing, true, nil
	case result == conflicts && lookErr == nil && !r.mayExist():
		// Nothing bears our marker, so something else is in the way.
		return thing, false, r.fails(err)
	}
	return thing, false, r.unclear(cmp.Or(lookErr, err))
}

// send makes one call that changes something, while the operation is ours: it
// looks at the lease last, since finding a token may take a while.
func send[T any](ctx context.Context, r *run, what tenants.OutgoingCall,
	do func(ctx context.Context, client *prisma.Client) (T, error),
) (T, error) {
	what.OperationID = r.op.ID.String()
	what.Uses = append(what.Uses, what.Target)
	return changing(ctx, r.service, r.by, r.at, what, func(ctx context.Context, client *prisma.Client) (thing T, err error) {
		if err := r.hold(ctx); err != nil {
			return thing, err
		}
		ctx, end := r.whileHeld(ctx)
		defer end()
		return do(ctx, client)
	})
}

// search looks something up after each of the pauses until it is found. Its error
// is that of the last look: without one, the lists really don't show it.
func search[T any](ctx context.Context, pauses []time.Duration, find func(ctx context.Context) (T, bool, error),
) (thing T, found bool, err error) {
	for _, pause := range pauses {
		if ended := wait(ctx, pause); ended != nil {
			return thing, false, cmp.Or(err, ended)
		}
		thing, found, err = find(ctx)
		if found || err != nil && !mayPass(err) {
			return thing, found, err
		}
	}
	return thing, false, err
}
