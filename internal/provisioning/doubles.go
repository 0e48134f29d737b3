package provisioning

import (
	"context"
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
	switch {
	case look.Kind == tenants.OperationCreateCredentials:
	case look.Kind == tenants.OperationCreateProject, in.ProjectID == "":
		found, err := r.markedProjects(ctx)
		if err != nil {
			return err
		}
		if err := s.removeEach(ctx, r, doublesBeside(found, projectID, look.ProjectID), doubleProject(), count); err != nil {
			return err
		}
	default:
		found, err := r.markedDatabases(ctx, in.ProjectID)
		if err != nil && !gone(err) {
			return err
		}
		if err := s.removeEach(ctx, r, doublesBeside(found, databaseID, look.DatabaseID), doubleDatabase(look.ProjectID), count); err != nil {
			return err
		}
	}
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
	removal   func(tenants.ResourceChange) removal
	change    func(id string) tenants.ResourceChange
	untouched func(ctx context.Context, r *run, change *tenants.ResourceChange, id string) (bool, error)
}

func doubleProject() double {
	return double{projectRemoval, func(id string) tenants.ResourceChange {
		return tenants.ResourceChange{ProjectID: id}
	}, projectUntouched}
}

func doubleDatabase(projectID string) double {
	return double{databaseRemoval, func(id string) tenants.ResourceChange {
		return tenants.ResourceChange{ProjectID: projectID, DatabaseID: id}
	}, func(ctx context.Context, r *run, _ *tenants.ResourceChange, id string) (bool, error) {
		return databaseUntouched(ctx, r, id)
	}}
}

func doubleCredentials(databaseID string) double {
	return double{credentialsRemoval, func(id string) tenants.ResourceChange {
		return tenants.ResourceChange{DatabaseID: databaseID, CredentialsID: id}
	}, func(context.Context, *run, *tenants.ResourceChange, string) (bool, error) { return true, nil }} // there is nothing in them
}

func (s *Service) removeEach(ctx context.Context, r *run, ids []string, kind double, count *landingCounts) error {
	if len(ids) == 0 {
		return nil
	}
	free, err := s.store.NotRecorded(ctx, r.at.tenant, ids)
	if err != nil {
		return err
	}
	for _, id := range free {
		change := kind.change(id)
		change.Tenant, change.Connection, change.Operation = r.at.tenant, r.at.connection, r.op.ID
		untouched, err := kind.untouched(ctx, r, &change, id)
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		log := s.logger.With(slog.String("operation_id", r.op.ID.String()), slog.String("id", id))
		if !untouched {
			log.WarnContext(ctx, "what an operation made twice is in use, and stays")
			continue
		}
		if err := s.remove(ctx, r.by, kind.removal(change)); err != nil && !gone(err) {
			return err
		}
		log.InfoContext(ctx, "what an operation made twice was deleted")
		count.removed.Add(1)
	}
	return nil
}

// projectUntouched reports whether a project holds nothing but what came with it, and
// notes that for what is told when it goes.
func projectUntouched(ctx context.Context, r *run, change *tenants.ResourceChange, id string) (bool, error) {
	databases, err := databasesIn(ctx, r.service, r.at, id)
	if err != nil || len(databases) > 1 {
		return false, err
	}
	for _, database := range databases {
		if untouched, err := databaseUntouched(ctx, r, database.ID); err != nil || !untouched {
			return false, err
		}
		change.DatabaseIDs = append(change.DatabaseIDs, database.ID)
	}
	return true, nil
}

// databaseUntouched reports whether a database has no credentials but those that came
// with it, and no operation knows it or them.
func databaseUntouched(ctx context.Context, r *run, id string) (bool, error) {
	all, err := credentialsIn(ctx, r.service, r.at, id, func(managementapi.Connection) bool { return true })
	if err != nil || len(all) > 1 {
		return false, err
	}
	ids := []string{id}
	for _, one := range all {
		ids = append(ids, one.ID)
	}
	free, err := r.service.store.NotRecorded(ctx, r.at.tenant, ids)
	return len(free) == len(ids), err
}
