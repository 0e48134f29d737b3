package provisioning

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/tenants"
)

// looksAtOnce is how many operations are looked at in parallel.
const looksAtOnce = 4

// Landings is what a run of LookForLandings came to.
type Landings struct {
	Looked  int // operations that were looked at
	Adopted int // things found that nobody knew of
	Removed int // doubles deleted
	Deleted int // deletions found done that nobody had told of
	Failed  int // looks that could not be finished; they are repeated
}

// LookForLandings looks for what operations made, and what deletions did, without anybody
// knowing, until none is due: see the package's comment. It returns early when ctx ends.
// Errors are the database's; what goes wrong with one operation leaves it for later.
func (s *Service) LookForLandings(ctx context.Context) (Landings, error) {
	var count landingCounts
	if err := s.store.ShortenWaits(ctx, s.lease); err != nil {
		return count.sum(), err
	}
	// Side by side: neither waits for the other's, while Prisma hangs.
	var deletions error
	var looking sync.WaitGroup
	looking.Go(func() { deletions = s.lookForDeletions(ctx, &count) })
	err := s.lookForCreations(ctx, &count)
	looking.Wait()
	if err = cmp.Or(err, deletions); err != nil {
		return count.sum(), err
	}
	return count.sum(), s.forget(ctx)
}

// lookForCreations looks for what operations made, until none is due.
func (s *Service) lookForCreations(ctx context.Context, count *landingCounts) error {
	for {
		list, err := s.store.LandingsToLookFor(ctx)
		if err != nil || len(list) == 0 {
			return err
		}
		before := count.looked.Load()
		atOnce(list, func(at tenants.Landing) { s.lookAt(ctx, at, count) })
		if ctx.Err() != nil || count.looked.Load() == before { // the others are at it
			return ctx.Err()
		}
	}
}

// forget forgets what was kept for looks and no look will ask for any more.
func (s *Service) forget(ctx context.Context) error {
	for _, some := range []func(context.Context) (int, error){s.store.ForgetUses, s.store.ForgetDeletions} {
		for n := 1; n > 0; {
			var err error
			if n, err = some(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// atOnce looks at each of a list, a few at a time.
func atOnce[T any](list []T, look func(T)) {
	var looks sync.WaitGroup
	slots := make(chan struct{}, looksAtOnce)
	for _, at := range list {
		slots <- struct{}{}
		looks.Go(func() {
			defer func() { <-slots }()
			look(at)
		})
	}
	looks.Wait()
}

type landingCounts struct{ looked, adopted, removed, deleted, failed atomic.Int64 }

func (c *landingCounts) sum() Landings {
	return Landings{
		Looked: int(c.looked.Load()), Adopted: int(c.adopted.Load()),
		Removed: int(c.removed.Load()), Deleted: int(c.deleted.Load()), Failed: int(c.failed.Load()),
	}
}

// lookAt looks for what one operation made.
func (s *Service) lookAt(ctx context.Context, at tenants.Landing, count *landingCounts) {
	began := s.now()
	look, due, err := s.store.BeginLook(ctx, at, s.lease)
	if err == nil && due {
		count.looked.Add(1)
		err = s.look(ctx, look, &run{
			service: s, at: scope{look.Tenant, look.Connection}, op: look.Operation, by: tenants.System(), heldSince: began,
		}, count)
	}
	if err != nil {
		count.failed.Add(1)
		s.logger.WarnContext(ctx, "a look for what an operation made failed",
			slog.String("operation_id", at.Operation.String()), slog.String("error", err.Error()))
	}
}

func (s *Service) look(ctx context.Context, look tenants.Look, r *run, count *landingCounts) error {
	work, cancel := context.WithTimeout(ctx, s.deadline)
	defer cancel()
	stop := func() {}
	if !look.Done {
		stop = r.keepLease(work)
	}
	var settled bool
	var err error
	if look.Done || look.Known() {
		err = s.removeDoubles(work, look, r, count)
	} else {
		settled, err = s.adopt(work, look, r, count)
	}
	stop()
	if settled {
		return err
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	return errors.Join(err, s.store.EndLook(end, look, err == nil))
}

// adopt looks for what the operation made and stores it: for a client that can ask
// again as landed, since its connection string is made when it does; else as done. It
// reports whether it did.
func (s *Service) adopt(ctx context.Context, look tenants.Look, r *run, count *landingCounts) (bool, error) {
	in, ok := requestOf(look.Operation)
	if !ok {
		return false, nil
	}
	var answer any
	var made tenants.Made
	var found bool
	var err error
	switch look.Kind { //nolint:exhaustive // the others make nothing
	case tenants.OperationCreateProject:
		var project Project
		project, found, err = r.findProject(ctx)
		answer, made = project, tenants.Made{ResourceID: project.ID, ProjectID: project.ID}
	case tenants.OperationCreateDatabase:
		var database Database
		database, found, err = r.findAsked(ctx, in)
		answer, made = database, madeDatabase(database, in.ProjectID == "")
	case tenants.OperationCreateCredentials:
		var list []managementapi.Connection
		list, err = r.markedCredentials(ctx, in.DatabaseID)
		if found = len(list) > 0; found {
			credentials := listedCredentialsOf(oldest(list, createdConnection))
			answer, made = credentials, madeCredentials(credentials, in.DatabaseID)
		}
		if gone(err) { // its database went, and everything in it
			err = nil
		}
	}
	if err != nil || !found {
		return false, err
	}
	count.adopted.Add(1)
	s.logger.InfoContext(ctx, "what an operation made was found later",
		slog.String("operation_id", look.ID.String()), slog.String("kind", string(look.Kind)))
	made.MayLand = true
	if made.Answer, err = json.Marshal(answer); err != nil {
		return false, fmt.Errorf("encode the answer of %s: %w", look.Operation, err)
	}
	if look.Keyed && look.Kind != tenants.OperationCreateProject {
		return true, s.save(ctx, func(ctx context.Context) error { return s.store.Landed(ctx, r.by, look, made) })
	}
	_, err = s.finish(ctx, r.by, look.Operation, made)
	return true, err
}

// errHalfMade tells that a project is there and its first database is not.
var errHalfMade = errors.New("a project has no database yet")

// findAsked looks up the database that a request asked for.
func (r *run) findAsked(ctx context.Context, in request) (Database, bool, error) {
	if in.ProjectID != "" {
		database, found, err := r.findDatabase(ctx, in.ProjectID)
		if gone(err) { // its project went, and everything in it
			err = nil
		}
		return database, found, err
	}
	project, ok, err := r.findProject(ctx)
	if err != nil || !ok {
		return Database{}, false, err
	}
	database, found, err := firstDatabaseIn(ctx, r.service, r.at, project.ID)
	if err == nil && !found {
		err = errHalfMade
	}
	return database, found, err
}
