package prismasim

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
)

// Values of source.Type.
const (
	sourceEmpty  = "empty"
	sourceClone  = "database"
	sourceBackup = "backup"
)

// ownDatabase finds a database of the token's workspace.
func (st *state) ownDatabase(workspaceID, id string) (database, error) {
	row, ok := st.databases.get(canonicalID(prefixDatabase, id))
	if !ok || st.projects.rows[row.ProjectID].WorkspaceID != workspaceID {
		return database{}, notFound("The database")
	}
	return row, nil
}

// databaseFilter is what GET /v1/databases can be asked for.
type databaseFilter struct {
	projectID, logicalID, branchID, branchName string
}

// matches tells whether a row passes. There are no branches here: every database
// is in none, which the filter calls "unassigned".
func (f databaseFilter) matches(row database, strict bool) bool {
	return (f.projectID == "" || row.ProjectID == f.projectID) &&
		(f.logicalID == "" || !strict || row.LogicalID == f.logicalID) &&
		(f.branchID == "" || f.branchID == "unassigned") && f.branchName == ""
}

// listDatabases serves GET
// /v1/databases?cursor=&limit=&projectId=&logicalId=&branchId=&branchGitName=.
func (s *Simulator) listDatabases(c *call) (reply, error) {
	query := c.URL.Query()
	return s.databasePage(c, databaseFilter{
		projectID: canonicalID(prefixProject, query.Get("projectId")), logicalID: query.Get("logicalId"),
		branchID: query.Get("branchId"), branchName: query.Get("branchGitName"),
	})
}

// listProjectDatabases serves GET /v1/projects/{projectId}/databases.
func (s *Simulator) listProjectDatabases(c *call) (reply, error) {
	var err error
	s.read(func(st *state) { _, err = st.ownProject(c.actor.workspaceID, c.PathValue("projectId")) })
	if err != nil {
		return reply{}, err
	}
	return s.databasePage(c, databaseFilter{projectID: canonicalID(prefixProject, c.PathValue("projectId"))})
}

func (s *Simulator) databasePage(c *call, filter databaseFilter) (reply, error) {
	at, err := c.window()
	if err != nil {
		return reply{}, err
	}
	var body listBody[databaseView]
	s.read(func(st *state) {
		var rows []database
		strict := st.strict()
		for _, owner := range st.projects.under(c.actor.workspaceID) {
			rows = append(rows, visible(st.databases.under(owner.ID), func(d database) bool {
				return !d.VisibleAt.After(c.now) && filter.matches(d, strict)
			})...)
		}
		slices.SortFunc(rows, func(a, b database) int { return cmp.Compare(a.Seq, b.Seq) })
		body = page(rows, func(d database) uint64 { return d.Seq }, at, false,
			func(d database) databaseView { return s.viewDatabase(st, d, c.now) })
	})
	return reply{http.StatusOK, body}, nil
}

// getDatabase serves GET /v1/databases/{databaseId}.
func (s *Simulator) getDatabase(c *call) (reply, error) {
	var view databaseView
	var err error
	s.read(func(st *state) {
		var row database
		if row, err = st.ownDatabase(c.actor.workspaceID, c.PathValue("databaseId")); err == nil {
			view = s.viewDatabase(st, row, c.now)
		}
	})
	return reply{http.StatusOK, dataBody{view}}, err
}

// newDatabaseBody is what both creations take; fields that only one has are
// absent in the other.
type newDatabaseBody struct {
	ProjectID     string          `json:"projectId"`
	Region        string          `json:"region"`
	Name          *string         `json:"name"`
	IsDefault     bool            `json:"isDefault"`
	Source        *source         `json:"source"`
	FromDatabase  *fromDatabase   `json:"fromDatabase"`
	BranchID      json.RawMessage `json:"branchId"`
	BranchGitName json.RawMessage `json:"branchGitName"`
	LogicalID     *string         `json:"logicalId"`
}

// fromDatabase is the deprecated form of a source.
type fromDatabase struct {
	ID       string `json:"id"`
	BackupID string `json:"backupId"`
}

// createDatabase serves POST /v1/databases.
func (s *Simulator) createDatabase(c *call) (reply, error) {
	var body newDatabaseBody
	if err := c.decode(&body); err != nil {
		return reply{}, err
	}
	made, err := s.createFrom(c, body, body.ProjectID)
	if err != nil {
		return reply{}, err
	}
	var view databaseView
	s.read(func(st *state) {
		view = s.viewDatabase(st, made.database, c.now)
		view.Connections = []connectionView{s.viewFresh(st, made.connection, made.password)}
	})
	return reply{http.StatusCreated, dataBody{view}}, nil
}

// createProjectDatabase serves POST /v1/projects/{projectId}/databases.
func (s *Simulator) createProjectDatabase(c *call) (reply, error) {
	var body newDatabaseBody
	if err := c.decode(&body); err != nil {
		return reply{}, err
	}
	body.LogicalID, body.BranchID, body.BranchGitName = nil, nil, nil
	made, err := s.createFrom(c, body, c.PathValue("projectId"))
	if err != nil {
		return reply{}, err
	}
	var view createdDatabaseView
	s.read(func(st *state) {
		fresh := s.viewFresh(st, made.connection, made.password)
		view = createdDatabaseView{databaseView: s.viewDatabase(st, made.database, c.now), legacyFields: viewLegacy(fresh)}
		view.Connections = []connectionView{fresh}
	})
	return reply{http.StatusCreated, dataBody{view}}, nil
}

// createFrom checks a creation's body and carries it out.
func (s *Simulator) createFrom(c *call, body newDatabaseBody, projectID string) (created, error) {
	if err := c.checkBranch(body.BranchID, body.BranchGitName, body.LogicalID); err != nil {
		return created{}, err
	}
	what := creation{
		Kind: kindDatabase, WorkspaceID: c.actor.workspaceID, ParentID: canonicalID(prefixProject, projectID),
		Region: cmp.Or(body.Region, defaultRegion), IsDefault: body.IsDefault, Source: source{Type: sourceEmpty},
	}
	var err error
	if what.Name, err = c.name(body.Name, "Untitled database"); err != nil {
		return created{}, err
	}
	if what.LogicalID, err = c.logicalID(body.LogicalID); err != nil {
		return created{}, err
	}
	switch {
	case body.Source != nil && body.FromDatabase != nil:
		return created{}, c.invalid("source and fromDatabase exclude each other.")
	case body.Source != nil:
		what.Source = *body.Source
	case body.FromDatabase != nil && body.FromDatabase.BackupID != "":
		what.Source = source{Type: sourceBackup, DatabaseID: body.FromDatabase.ID, BackupID: body.FromDatabase.BackupID}
	case body.FromDatabase != nil:
		what.Source = source{Type: sourceClone, DatabaseID: body.FromDatabase.ID}
	}
	what.Source.DatabaseID = canonicalID(prefixDatabase, what.Source.DatabaseID)
	what.Source.BackupID = canonicalID(prefixBackup, what.Source.BackupID)
	// What the project or the source is not, is said now, not when it lands late.
	s.read(func(st *state) {
		if _, err = st.ownProject(what.WorkspaceID, what.ParentID); err == nil {
			err = st.checkSource(what.WorkspaceID, what.Source)
		}
	})
	if err != nil {
		return created{}, err
	}
	return s.creating(c, what)
}

// checkBranch refuses what the document's notes on branches refuse, and then any
// branch: none exist here.
func (c *call) checkBranch(id, name json.RawMessage, logicalID *string) error {
	switch {
	case id == nil && name == nil:
		return nil
	case string(id) == "null" || string(name) == "null":
		return c.invalid("branchId and branchGitName must not be null.")
	case id != nil && name != nil:
		return c.invalid("branchId and branchGitName exclude each other.")
	case name != nil && logicalID != nil:
		return c.invalid("logicalId and branchGitName exclude each other.")
	}
	return notFound("The branch")
}

// updateDatabase serves PATCH /v1/databases/{databaseId}.
func (s *Simulator) updateDatabase(c *call) (reply, error) {
	var body newDatabaseBody
	if err := c.decode(&body); err != nil {
		return reply{}, err
	}
	if body.LogicalID != nil && (body.BranchID != nil || body.BranchGitName != nil) {
		return reply{}, c.invalid("logicalId cannot be set together with a move to a branch.")
	}
	var view databaseView
	err := s.write(c.Context(), func(st *state) error {
		row, err := st.ownDatabase(c.actor.workspaceID, c.PathValue("databaseId"))
		if err != nil {
			return err
		}
		if err := c.checkBranch(body.BranchID, body.BranchGitName, body.LogicalID); err != nil {
			return err
		}
		if row.Name, err = c.name(body.Name, row.Name); err != nil {
			return err
		}
		if body.LogicalID != nil {
			if row.LogicalID, err = c.logicalID(body.LogicalID); err != nil {
				return err
			}
			if err := st.freeLogicalID(row.ProjectID, row.LogicalID, row.ID); err != nil {
				return err
			}
		}
		st.databases.set(row.ID, row)
		view = s.viewDatabase(st, row, c.now)
		return nil
	})
	return reply{http.StatusOK, dataBody{view}}, err
}

// freeLogicalID refuses a logicalId that another database of the project's one
// branch has.
func (st *state) freeLogicalID(projectID, logicalID, except string) error {
	if logicalID == "" || !st.strict() {
		return nil
	}
	for _, other := range st.databases.under(projectID) {
		if other.LogicalID == logicalID && other.ID != except {
			return conflict("A database with this logicalId exists.")
		}
	}
	return nil
}

// deleteDatabase serves DELETE /v1/databases/{databaseId}; a project's default
// database goes only with its project.
func (s *Simulator) deleteDatabase(c *call) (reply, error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	var row database
	var err error
	s.read(func(st *state) { row, err = st.ownDatabase(c.actor.workspaceID, c.PathValue("databaseId")) })
	if err != nil {
		return reply{}, err
	}
	if row.IsDefault {
		return reply{}, forbidden("The default database of a project cannot be deleted.")
	}
	return reply{status: http.StatusNoContent}, s.discard(c.Context(), row.ID)
}
