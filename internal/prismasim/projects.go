package prismasim

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"unicode/utf8"
)

// maxProjectName is the greatest number of characters of a project's name.
const maxProjectName = 256

// ownProject finds a project of the token's workspace.
func (st *state) ownProject(workspaceID, id string) (project, error) {
	row, ok := st.projects.get(canonicalID(prefixProject, id))
	if !ok || row.WorkspaceID != workspaceID {
		return project{}, notFound("The project")
	}
	return row, nil
}

// listProjects serves GET /v1/projects?cursor=&limit=&logicalId=.
func (s *Simulator) listProjects(c *call) (reply, error) {
	at, err := c.window()
	if err != nil {
		return reply{}, err
	}
	logicalID := c.URL.Query().Get("logicalId")
	var body listBody[projectView]
	s.read(func(st *state) {
		rows := visible(st.projects.under(c.actor.workspaceID), func(p project) bool {
			return !p.VisibleAt.After(c.now) && (logicalID == "" || !st.strict() || p.LogicalID == logicalID)
		})
		body = page(rows, func(p project) uint64 { return p.Seq }, at, false,
			func(p project) projectView { return s.viewProject(st, p) })
	})
	return reply{http.StatusOK, body}, nil
}

// getProject serves GET /v1/projects/{id}.
func (s *Simulator) getProject(c *call) (reply, error) {
	var view projectView
	var err error
	s.read(func(st *state) {
		var row project
		if row, err = st.ownProject(c.actor.workspaceID, c.PathValue("id")); err == nil {
			view = s.viewProject(st, row)
		}
	})
	return reply{http.StatusOK, dataBody{view}}, err
}

// createProject serves POST /v1/projects, and POST
// /v1/workspaces/{workspaceId}/projects as the older examples have it.
func (s *Simulator) createProject(c *call) (reply, error) {
	body := struct {
		CreateDatabase *bool   `json:"createDatabase"`
		Name           *string `json:"name"`
		Region         string  `json:"region"`
		LogicalID      *string `json:"logicalId"`
		WorkspaceID    string  `json:"workspaceId"`
	}{}
	if err := c.decode(&body); err != nil {
		return reply{}, err
	}
	for _, id := range []string{body.WorkspaceID, c.PathValue("workspaceId")} {
		if id != "" && !c.owns(id) {
			return reply{}, notFound("The workspace")
		}
	}
	what := creation{
		Kind: kindProject, WorkspaceID: c.actor.workspaceID, Name: "Untitled project", Region: body.Region,
		WithDatabase: body.CreateDatabase == nil || *body.CreateDatabase, Source: source{Type: sourceEmpty},
	}
	var err error
	if what.Name, err = c.name(body.Name, what.Name); err != nil {
		return reply{}, err
	}
	if what.LogicalID, err = c.logicalID(body.LogicalID); err != nil {
		return reply{}, err
	}
	if what.Region == "" {
		what.Region = defaultRegion
	}
	made, err := s.creating(c, what)
	if err != nil {
		return reply{}, err
	}
	view := createdProjectView{}
	s.read(func(st *state) {
		view.projectView = s.viewProject(st, made.project)
		if what.WithDatabase {
			fresh := s.viewFresh(st, made.connection, made.password)
			view.Database = &initialDatabaseView{databaseFields: s.viewFields(st, made.database, c.now), legacyFields: viewLegacy(fresh)}
			view.Database.Connections = []connectionView{fresh}
		}
	})
	return reply{http.StatusCreated, dataBody{view}}, nil
}

// name reads the optional name of a new thing: not empty, at most 256 characters.
func (c *call) name(given *string, fallback string) (string, error) {
	if given == nil {
		return fallback, nil
	}
	if strings.TrimSpace(*given) == "" || utf8.RuneCountInString(*given) > maxProjectName {
		return "", c.invalid("name must have 1 to 256 characters.")
	}
	return *given, nil
}

// logicalID reads the optional logicalId of a new thing: not empty.
func (c *call) logicalID(given *string) (string, error) {
	if given == nil {
		return "", nil
	}
	if *given == "" {
		return "", c.invalid("logicalId must not be empty.")
	}
	return *given, nil
}

// makeProject carries out the creation of a project, with its first database if
// that is asked for. Both rows are there from the start, so that a second creation
// with the same logicalId finds them; what fails is taken back.
func (s *Simulator) makeProject(ctx context.Context, what creation) (created, error) {
	var made created
	now := s.clock.now()
	made.project = project{
		ID: newID(prefixProject), WorkspaceID: what.WorkspaceID, Name: what.Name, LogicalID: what.LogicalID,
		Region: what.Region, CreatedAt: now,
	}
	databaseID := newID(prefixDatabase)
	defer s.rows.lock(databaseID)()
	err := s.write(ctx, func(st *state) error {
		if _, ok := st.workspaces.get(what.WorkspaceID); !ok {
			return notFound("The workspace")
		}
		if what.LogicalID != "" && st.strict() {
			for _, other := range st.projects.under(what.WorkspaceID) {
				if other.LogicalID == what.LogicalID {
					return conflict("A project with this logicalId exists.")
				}
			}
		}
		made.project.Seq, made.project.VisibleAt = st.nextSeq(), s.visibleAt(st, now)
		st.projects.set(made.project.ID, made.project)
		if what.WithDatabase {
			made.database = s.reserveDatabase(st, made.project.ID, databaseID, creation{
				Name: what.Name, Region: what.Region, IsDefault: true, Source: what.Source,
			}, now)
		}
		return nil
	})
	if err != nil || !what.WithDatabase {
		return made, err
	}
	database, err := s.provision(ctx, made.database)
	if err != nil {
		_ = s.write(ctx, func(st *state) error { // fn never fails
			st.projects.remove(made.project.ID)
			return nil
		})
		return created{}, err
	}
	made.database, made.connection, made.password = database.database, database.connection, database.password
	return made, nil
}

// updateProject serves PATCH /v1/projects/{id}.
func (s *Simulator) updateProject(c *call) (reply, error) {
	var body struct {
		Name     *string         `json:"name"`
		Settings json.RawMessage `json:"settings"`
	}
	if err := c.decode(&body); err != nil {
		return reply{}, err
	}
	var view projectView
	err := s.write(c.Context(), func(st *state) error {
		row, err := st.ownProject(c.actor.workspaceID, c.PathValue("id"))
		if err != nil {
			return err
		}
		if row.Name, err = c.name(body.Name, row.Name); err != nil {
			return err
		}
		if body.Settings != nil {
			row.Settings = body.Settings
		}
		st.projects.set(row.ID, row)
		view = s.viewProject(st, row)
		return nil
	})
	return reply{http.StatusOK, dataBody{view}}, err
}

// deleteProject serves DELETE /v1/projects/{id}: its databases go with it, the
// real ones first, so that a failure leaves them in the lists.
func (s *Simulator) deleteProject(c *call) (reply, error) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	for {
		var left []database
		err := s.write(c.Context(), func(st *state) error {
			row, err := st.ownProject(c.actor.workspaceID, c.PathValue("id"))
			if err != nil {
				return err
			}
			if left = st.databases.under(row.ID); len(left) == 0 {
				st.projects.remove(row.ID)
			}
			return nil
		})
		if err != nil || len(left) == 0 {
			return reply{status: http.StatusNoContent}, err
		}
		for _, row := range left { // some may come while these go: look again
			if err := s.discard(c.Context(), row.ID); err != nil {
				return reply{}, err
			}
		}
	}
}

// transferProject serves POST /v1/projects/{id}/transfer: the project, with all
// that is in it, moves to the workspace of the recipient's access token.
func (s *Simulator) transferProject(c *call) (reply, error) {
	var body struct {
		RecipientAccessToken string `json:"recipientAccessToken"`
	}
	if err := c.decode(&body); err != nil {
		return reply{}, err
	}
	err := s.write(c.Context(), func(st *state) error {
		row, err := st.ownProject(c.actor.workspaceID, c.PathValue("id"))
		if err != nil {
			return err
		}
		recipient, ok := s.grantOf(st, hashSecret(body.RecipientAccessToken))
		if !ok {
			return &apiError{status: http.StatusUnauthorized, code: "authentication-failed", message: "The recipient's token is not valid."}
		}
		if recipient.workspaceID == row.WorkspaceID {
			return conflict("The project is in the recipient's workspace already.")
		}
		if row.LogicalID != "" && st.strict() {
			for _, other := range st.projects.under(recipient.workspaceID) {
				if other.LogicalID == row.LogicalID {
					return conflict("The recipient's workspace has a project with this logicalId.")
				}
			}
		}
		row.WorkspaceID = recipient.workspaceID
		st.projects.set(row.ID, row)
		return nil
	})
	return reply{status: http.StatusNoContent}, err
}
