package provisioning

import (
	"context"
	"errors"
	"log/slog"

	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/tenants"
)

// removeDoubles deletes what bears the operation's marker beside what is known to be
// its own, where a server does not keep markers unique: only what no operation knows,
// and in which nobody has made anything.
func (s *Service) removeDoubles(ctx context.Context, look tenants.Look, r *run, count *landingCounts) error {
	in, ok := requestOf(look.Operation)
	if !ok {
		return nil
	}
	return errors.Join(s.removeDoubledThings(ctx, look, in, r, count), s.removeDoubledCredentials(ctx, look, r, count))
}

// removeDoubledThings deletes doubles of a project or a database.
func (s *Service) removeDoubledThings(ctx context.Context, look tenants.Look, in request, r *run, count *landingCounts) error {
	switch {
	case look.Kind == tenants.OperationCreateCredentials:
		return nil
	case look.Kind == tenants.OperationCreateProject, in.ProjectID == "":
		found, err := r.markedProjects(ctx)
		if err != nil {
			return err
		}
		return s.removeEach(ctx, r, doublesBeside(found, projectID, look.ProjectID), doubleProject(), count)
	}
	found, err := r.markedDatabases(ctx, in.ProjectID)
	if err != nil && !gone(err) {
		return err
	}
	return s.removeEach(ctx, r, doublesBeside(found, databaseID, look.DatabaseID), doubleDatabase(look.ProjectID), count)
}

func (s *Service) removeDoubledCredentials(ctx context.Context, look tenants.Look, r *run, count *landingCounts) error {
	if look.DatabaseID == "" || look.CredentialsID == "" && !look.Done && !look.Last {
		return nil // its client may yet come for credentials that were made and not told
	}
	found, err := r.markedCredentials(ctx, look.DatabaseID)
	if err != nil && !gone(err) {
		return err
	}
	return s.removeEach(ctx, r, doublesAmong(found, connectionID, look.CredentialsID), doubleCredentials(look.DatabaseID), count)
}

func projectID(p managementapi.Project) string       { return p.ID }
func databaseID(d managementapi.Database) string     { return d.ID }
func connectionID(c managementapi.Connection) string { return c.ID }

// doublesBeside is doublesAmong where something is known. Without that the real one would
// count as a double.
func doublesBeside[T any](found []T, id func(T) string, known string) []string {
	if known == "" {
		return nil
	}
	return doublesAmong(found, id, known)
}

// doublesAmong returns the ids of all but the one that is known.
func doublesAmong[T any](found []T, id func(T) string, known string) []string {
	var doubles []string
	for _, thing := range found {
		if tenants.PlainID(id(thing)) != tenants.PlainID(known) {
			doubles = append(doubles, id(thing))
		}
	}
	return doubles
}

// double is a kind of thing that may be there twice.
type double struct {
	removal func(tenants.ResourceChange) removal
	change  func(id string) tenants.ResourceChange
	// holds lists the ids of what came with it; false: somebody has put more into it. It
	// notes what is to be told when it goes.
	holds func(ctx context.Context, r *run, change *tenants.ResourceChange) (ids []string, alone bool, err error)
}

func doubleProject() double {
	return double{projectRemoval, func(id string) tenants.ResourceChange {
		return tenants.ResourceChange{ProjectID: id}
	}, heldByProject}
}

func doubleDatabase(projectID string) double {
	return double{databaseRemoval, func(id string) tenants.ResourceChange {
		return tenants.ResourceChange{ProjectID: projectID, DatabaseID: id}
	}, func(ctx context.Context, r *run, change *tenants.ResourceChange) ([]string, bool, error) {
		return heldByDatabase(ctx, r, change.DatabaseID)
	}}
}

func doubleCredentials(databaseID string) double {
	return double{credentialsRemoval, func(id string) tenants.ResourceChange {
		return tenants.ResourceChange{DatabaseID: databaseID, CredentialsID: id}
	}, func(_ context.Context, _ *run, change *tenants.ResourceChange) ([]string, bool, error) {
		return []string{change.CredentialsID}, true, nil
	}}
}

// removeEach deletes doubles, less those that somebody may be using. One that can't be
// deleted keeps none of the others.
func (s *Service) removeEach(ctx context.Context, r *run, ids []string, kind double, count *landingCounts) error {
	var failed error
	for _, id := range ids {
		if err := s.removeDouble(ctx, r, id, kind, count); err != nil && !gone(err) {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

func (s *Service) removeDouble(ctx context.Context, r *run, id string, kind double, count *landingCounts) error {
	change := kind.change(id)
	change.Tenant, change.Connection, change.Operation = r.at.tenant, r.at.connection, r.op.ID
	held, unused, err := kind.holds(ctx, r, &change)
	if err == nil && unused {
		unused, err = s.store.Condemn(ctx, r.op, held)
	}
	if err != nil {
		return err
	}
	log := s.logger.With(slog.String("operation_id", r.op.ID.String()), slog.String("id", id))
	if !unused {
		log.WarnContext(ctx, "what an operation made twice is in use, and stays")
		return nil
	}
	if err := s.remove(ctx, r.by, kind.removal(change)); err != nil {
		return err
	}
	log.InfoContext(ctx, "what an operation made twice was deleted")
	count.removed.Add(1)
	return nil
}

// heldByProject is holds of a project: its database, and the branch that this is of.
func heldByProject(ctx context.Context, r *run, change *tenants.ResourceChange) ([]string, bool, error) {
	ids := []string{change.ProjectID}
	databases, err := databasesIn(ctx, r.service, r.at, change.ProjectID)
	if err != nil || len(databases) > 1 {
		return nil, false, err
	}
	for _, database := range databases {
		held, alone, err := heldByDatabase(ctx, r, database.ID)
		if err != nil || !alone {
			return nil, false, err
		}
		ids = append(ids, held...)
		if branch := managementapi.Value(database.BranchID); branch != "" {
			ids = append(ids, branch)
		}
		change.DatabaseIDs = append(change.DatabaseIDs, database.ID)
	}
	return ids, true, nil
}

// heldByDatabase is holds of a database: the credentials that came with it, and those that
// the operation made for it before it was given out another.
func heldByDatabase(ctx context.Context, r *run, id string) ([]string, bool, error) {
	all, err := credentialsIn(ctx, r.service, r.at, id, func(managementapi.Connection) bool { return true })
	if err != nil {
		return nil, false, err
	}
	ids, others := []string{id}, 0
	for _, one := range all {
		ids = append(ids, one.ID)
		if !bearsMarker(one.Name, r.op.ID) {
			others++
		}
	}
	return ids, others <= 1, nil
}
