package prismasim

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
)

// ownConnection finds a connection of the token's workspace.
func (st *state) ownConnection(workspaceID, id string) (connection, error) {
	row, ok := st.connections.get(canonicalID(prefixConnection, id))
	if ok {
		if _, err := st.ownDatabase(workspaceID, row.DatabaseID); err == nil {
			return row, nil
		}
	}
	return connection{}, notFound("The connection")
}

// listConnections serves GET /v1/connections?cursor=&limit=&databaseId=.
func (s *Simulator) listConnections(c *call) (reply, error) {
	return s.connectionPage(c, canonicalID(prefixDatabase, c.URL.Query().Get("databaseId")))
}

// listDatabaseConnections serves GET /v1/databases/{databaseId}/connections.
func (s *Simulator) listDatabaseConnections(c *call) (reply, error) {
	var err error
	s.read(func(st *state) { _, err = st.ownDatabase(c.actor.workspaceID, c.PathValue("databaseId")) })
	if err != nil {
		return reply{}, err
	}
	return s.connectionPage(c, canonicalID(prefixDatabase, c.PathValue("databaseId")))
}

// connectionPage lists the connections of one database, or with "" of all of the
// workspace.
func (s *Simulator) connectionPage(c *call, databaseID string) (reply, error) {
	at, err := c.window()
	if err != nil {
		return reply{}, err
	}
	var body listBody[connectionView]
	s.read(func(st *state) {
		var rows []connection
		for _, p := range st.projects.under(c.actor.workspaceID) {
			for _, d := range st.databases.under(p.ID) {
				if databaseID != "" && d.ID != databaseID {
					continue
				}
				rows = append(rows, visible(st.connections.under(d.ID), func(row connection) bool { return !row.VisibleAt.After(c.now) })...)
			}
		}
		slices.SortFunc(rows, func(a, b connection) int { return cmp.Compare(a.Seq, b.Seq) })
		body = page(rows, func(row connection) uint64 { return row.Seq }, at, false,
			func(row connection) connectionView { return s.viewConnection(st, row) })
	})
	return reply{http.StatusOK, body}, nil
}

// getConnection serves GET /v1/connections/{id}.
func (s *Simulator) getConnection(c *call) (reply, error) {
	var view connectionView
	var err error
	s.read(func(st *state) {
		var row connection
		if row, err = st.ownConnection(c.actor.workspaceID, c.PathValue("id")); err == nil {
			view = s.viewConnection(st, row)
		}
	})
	return reply{http.StatusOK, dataBody{view}}, err
}

// createConnection serves POST /v1/connections.
func (s *Simulator) createConnection(c *call) (reply, error) {
	return s.connect(c, "", http.StatusCreated)
}

// createDatabaseConnection serves POST /v1/databases/{databaseId}/connections,
// which answers 200 where the other answers 201.
func (s *Simulator) createDatabaseConnection(c *call) (reply, error) {
	return s.connect(c, c.PathValue("databaseId"), http.StatusOK)
}

func (s *Simulator) connect(c *call, databaseID string, status int) (reply, error) {
	var body struct {
		DatabaseID string `json:"databaseId"`
		Name       string `json:"name"`
	}
	if err := c.decode(&body); err != nil {
		return reply{}, err
	}
	if strings.TrimSpace(body.Name) == "" {
		return reply{}, c.invalid("name must not be empty.")
	}
	what := creation{
		Kind: kindConnection, WorkspaceID: c.actor.workspaceID, Name: body.Name,
		ParentID: canonicalID(prefixDatabase, cmp.Or(databaseID, body.DatabaseID)),
	}
	var err error
	s.read(func(st *state) { _, err = st.ownDatabase(what.WorkspaceID, what.ParentID) })
	if err != nil {
		return reply{}, err
	}
	made, err := s.creating(c, what)
	if err != nil {
		return reply{}, err
	}
	var view createdConnectionView
	s.read(func(st *state) { view = s.viewCreatedConnection(st, made.connection, made.password) })
	return reply{status, dataBody{view}}, nil
}

// makeConnection carries out the creation of a connection: the login role, then
// the row. A role without a row (the process was killed between) is nobody's.
func (s *Simulator) makeConnection(ctx context.Context, what creation) (created, error) {
	defer s.rows.lock(what.ParentID)()
	var made created
	var err error
	s.read(func(st *state) { made.database, err = st.ownDatabase(what.WorkspaceID, what.ParentID) })
	if err != nil {
		return created{}, err
	}
	made.connection = connection{
		ID: newID(prefixConnection), DatabaseID: made.database.ID, Name: what.Name, CreatedAt: s.clock.now(),
	}
	if made.password, err = s.real.addLogin(ctx, made.database.ID, made.connection.ID); err != nil {
		return created{}, err
	}
	err = s.write(ctx, func(st *state) error {
		made.connection.Seq, made.connection.VisibleAt = st.nextSeq(), s.visibleAt(st, made.connection.CreatedAt)
		st.connections.set(made.connection.ID, made.connection)
		return nil
	})
	return made, err
}

// deleteConnection serves DELETE /v1/connections/{id}: the credentials are dead
// and their sessions ended when it answers.
func (s *Simulator) deleteConnection(c *call) (reply, error) {
	err := s.withConnection(c, func(row connection) error {
		if err := s.real.removeLogin(c.Context(), row.DatabaseID, row.ID); err != nil {
			return err
		}
		return s.write(c.Context(), func(st *state) error {
			st.connections.remove(row.ID)
			if owner, ok := st.databases.get(row.DatabaseID); ok && owner.DefaultConnectionID == row.ID {
				owner.DefaultConnectionID = ""
				st.databases.set(owner.ID, owner)
			}
			return nil
		})
	})
	return reply{status: http.StatusNoContent}, err
}

// rotateConnection serves POST /v1/connections/{id}/rotate: a fresh string for
// the same connection; the one before is dead when it answers.
func (s *Simulator) rotateConnection(c *call) (reply, error) {
	var view createdConnectionView
	err := s.withConnection(c, func(row connection) error {
		password, err := s.real.rotateLogin(c.Context(), row.ID)
		if err != nil {
			return err
		}
		s.read(func(st *state) { view = s.viewCreatedConnection(st, row, password) })
		return nil
	})
	return reply{http.StatusOK, dataBody{view}}, err
}

// withConnection runs fn on the connection of the path, alone on its database.
func (s *Simulator) withConnection(c *call, fn func(connection) error) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	find := func() (row connection, err error) {
		s.read(func(st *state) { row, err = st.ownConnection(c.actor.workspaceID, c.PathValue("id")) })
		return row, err
	}
	row, err := find()
	if err != nil {
		return err
	}
	defer s.rows.lock(row.DatabaseID)()
	if row, err = find(); err != nil { // another may have deleted it meanwhile
		return err
	}
	return fn(row)
}
