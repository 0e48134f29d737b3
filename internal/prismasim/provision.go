package prismasim

import (
	"context"
	"fmt"
	"log/slog"
	"time"
)

// reserveDatabase enters a database that is still to be made. Its first
// connection's id is fixed with it, so that a restart knows what to clean up.
func (s *Simulator) reserveDatabase(st *state, projectID, id string, what creation, now time.Time) database {
	row := database{
		ID: id, Seq: st.nextSeq(), ProjectID: projectID, Name: what.Name, LogicalID: what.LogicalID, Region: what.Region,
		Status: statusProvisioning, IsDefault: what.IsDefault, DefaultConnectionID: newID(prefixConnection), Source: what.Source,
		CreatedAt: now, VisibleAt: s.visibleAt(st, now),
	}
	if row.IsDefault {
		for _, other := range st.databases.under(projectID) {
			if other.IsDefault {
				other.IsDefault = false
				st.databases.set(other.ID, other)
			}
		}
	}
	st.databases.set(id, row)
	return row
}

// makeDatabase carries out the creation of a database in a project.
func (s *Simulator) makeDatabase(ctx context.Context, what creation) (created, error) {
	id := newID(prefixDatabase)
	defer s.rows.lock(id, what.Source.DatabaseID)()
	var row database
	now := s.clock.now()
	err := s.write(ctx, func(st *state) error {
		owner, err := st.ownProject(what.WorkspaceID, what.ParentID)
		if err != nil {
			return err
		}
		if err := st.freeLogicalID(owner.ID, what.LogicalID, ""); err != nil {
			return err
		}
		if err := st.checkSource(what.WorkspaceID, what.Source); err != nil {
			return err
		}
		if what.Region == regionInherit {
			what.Region = owner.Region
		}
		row = s.reserveDatabase(st, owner.ID, id, what, now)
		return nil
	})
	if err != nil {
		return created{}, err
	}
	made, err := s.provision(ctx, row)
	if err == nil {
		s.read(func(st *state) { made.project = st.projects.rows[row.ProjectID] })
	}
	return made, err
}

// checkSource refuses a source that is not there, not the workspace's, or not
// ready to be copied.
func (st *state) checkSource(workspaceID string, from source) error {
	if from.Type == sourceEmpty {
		return nil
	}
	row, err := st.ownDatabase(workspaceID, from.DatabaseID)
	if err != nil {
		return err
	}
	if from.Type == sourceBackup {
		if b, ok := st.backups.get(from.BackupID); !ok || b.DatabaseID != row.ID {
			return notFound("The backup")
		}
		return nil
	}
	if row.Status != statusReady {
		return badRequest("The source database is not ready.")
	}
	return nil
}

// provision makes the real database of a reserved row and its first login, and
// then the row ready. When that fails the row goes. The caller holds the locks of
// the row and of its source.
func (s *Simulator) provision(ctx context.Context, row database) (created, error) {
	made := created{database: row}
	password, err := s.makeReal(ctx, row)
	if err != nil {
		_ = s.real.drop(ctx, row.ID, []string{row.DefaultConnectionID}) // what there is of it; the first error tells why
		_ = s.write(ctx, func(st *state) error {                        // fn never fails
			st.databases.remove(row.ID)
			return nil
		})
		return created{}, err
	}
	made.password = password
	err = s.write(ctx, func(st *state) error {
		current, ok := st.databases.get(row.ID)
		if !ok {
			return fmt.Errorf("database %s went while it was made", row.ID)
		}
		current.Status = statusReady
		st.databases.set(current.ID, current)
		now := s.clock.now()
		made.database = current
		made.connection = connection{
			ID: current.DefaultConnectionID, Seq: st.nextSeq(), DatabaseID: current.ID, Name: current.Name,
			CreatedAt: now, VisibleAt: current.VisibleAt,
		}
		st.connections.set(made.connection.ID, made.connection)
		if b, ok := st.backups.get(row.Source.BackupID); row.Source.Type == sourceEmpty || ok && b.Empty {
			first := backup{ID: newID(prefixBackup), Seq: st.nextSeq(), DatabaseID: current.ID, Empty: true, CreatedAt: now}
			st.backups.set(first.ID, first)
		}
		return nil
	})
	return made, err
}

// makeReal makes the real database of a row, from its source, with its first
// login, whose password it returns.
func (s *Simulator) makeReal(ctx context.Context, row database) (password string, err error) {
	from, fromOwner, fromLogins := s.contentOf(row.Source)
	if from == "" {
		err = s.real.create(ctx, row.ID)
	} else {
		err = s.real.clone(ctx, from, row.ID, fromOwner, fromLogins)
	}
	if err != nil {
		return "", err
	}
	return s.real.addLogin(ctx, row.ID, row.DefaultConnectionID)
}

// contentOf returns the real database that holds a source's content, "" for
// none, and the roles that own what is in it.
func (s *Simulator) contentOf(from source) (name, owner string, logins []string) {
	s.read(func(st *state) {
		switch from.Type {
		case sourceClone:
			name, owner = from.DatabaseID, from.DatabaseID
			logins = st.logins(from.DatabaseID)
		case sourceBackup:
			if b, ok := st.backups.get(from.BackupID); ok && !b.Empty {
				name, owner = b.ID, b.DatabaseID
			}
		}
	})
	return name, owner, logins
}

// logins returns the login roles of a database.
func (st *state) logins(databaseID string) []string {
	var names []string
	for _, c := range st.connections.under(databaseID) {
		names = append(names, c.ID)
	}
	return names
}

// discard drops a real database with its backups and roles, and then its rows.
// One that is gone is a 404.
func (s *Simulator) discard(ctx context.Context, id string) error {
	defer s.rows.lock(id)()
	var row database
	var found bool
	var logins []string
	var copies []backup
	s.read(func(st *state) {
		row, found = st.databases.get(id)
		logins, copies = st.logins(id), st.backups.under(id)
	})
	if !found {
		return notFound("The database")
	}
	for _, b := range copies {
		if b.Empty {
			continue
		}
		if err := s.real.drop(ctx, b.ID, nil); err != nil {
			return err
		}
	}
	if row.Status == statusProvisioning {
		logins = append(logins, row.DefaultConnectionID) // its role may be there before its row
	}
	if err := s.real.drop(ctx, id, logins); err != nil {
		return err
	}
	return s.write(ctx, func(st *state) error {
		for _, b := range st.backups.under(id) {
			st.backups.remove(b.ID)
		}
		for _, c := range st.connections.under(id) {
			st.connections.remove(c.ID)
		}
		st.databases.remove(id)
		return nil
	})
}

// dropEverything drops every real database. The caller holds the gate.
func (s *Simulator) dropEverything(ctx context.Context) error {
	var ids []string
	s.read(func(st *state) {
		for id := range st.databases.rows {
			ids = append(ids, id)
		}
	})
	for _, id := range ids {
		if err := s.discard(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// recoverDatabases brings rows and real databases together after a start: what
// was being made is made again from the beginning, what was being restored is
// restored, what was shut for a copy is opened, and a row whose real database is
// gone says so.
func (s *Simulator) recoverDatabases(ctx context.Context) error {
	present, err := s.real.present(ctx)
	if err != nil {
		return err
	}
	var rows []database
	s.read(func(st *state) {
		for _, row := range st.databases.rows {
			rows = append(rows, row)
		}
	})
	for _, row := range rows {
		open, there := present[row.ID]
		switch {
		case row.Status == statusProvisioning:
			if err := s.real.drop(ctx, row.ID, []string{row.DefaultConnectionID}); err != nil {
				return err
			}
			if _, err := s.provision(ctx, row); err != nil {
				s.logger.ErrorContext(ctx, "prisma simulator: a database begun before the restart cannot be made",
					slog.String("database", row.ID), slog.Any("error", err))
			}
			continue
		case !there:
			s.logger.WarnContext(ctx, "prisma simulator: a database is gone from the server", slog.String("database", row.ID))
			s.setStatus(ctx, row.ID, statusFailure)
			continue
		case !open:
			if err := s.real.open(ctx, row.ID); err != nil {
				return err
			}
		}
		if row.Status == statusRecovering {
			background := context.WithoutCancel(ctx)
			s.tasks.Go(func() { s.recoverContent(background, row.ID) })
		}
	}
	return nil
}

// setStatus changes the status of a database, if it is still there.
func (s *Simulator) setStatus(ctx context.Context, id, status string) {
	_ = s.write(ctx, func(st *state) error { // fn never fails
		if row, ok := st.databases.get(id); ok {
			row.Status = status
			st.databases.set(id, row)
		}
		return nil
	})
}
