package prismasim

import (
	"net/http"
	"strings"
	"time"
)

type integrationView struct {
	ID            string          `json:"id"`
	URL           string          `json:"url"`
	CreatedAt     time.Time       `json:"createdAt"`
	Scopes        []string        `json:"scopes"`
	Client        integrationApp  `json:"client"`
	CreatedByUser integrationUser `json:"createdByUser"`
}

type integrationApp struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"createdAt"`
}

type integrationUser struct {
	ID          string  `json:"id"`
	Email       string  `json:"email"`
	DisplayName *string `json:"displayName"`
}

func (s *Simulator) viewIntegration(st *state, row integration) integrationView {
	app, creator := st.clients.rows[row.ClientID], st.users.rows[row.UserID]
	return integrationView{
		ID: row.ID, URL: s.url + "/v1/integrations/" + row.ID, CreatedAt: row.CreatedAt, Scopes: strings.Fields(row.Scope),
		Client:        integrationApp{ID: app.ID, Name: app.Name, CreatedAt: app.CreatedAt},
		CreatedByUser: integrationUser{ID: creator.ID, Email: creator.Email, DisplayName: optional(creator.Name)},
	}
}

// ensureIntegration makes the integration of a grant's client and workspace, if
// it is the first live grant of that pair.
func (s *Simulator) ensureIntegration(st *state, g grant, now time.Time) {
	if _, ok := st.integrationOf(g.WorkspaceID, g.ClientID); ok {
		return
	}
	current, _ := st.settings.get(only)
	row := integration{
		ID: newID(prefixIntegration), Seq: st.nextSeq(), WorkspaceID: g.WorkspaceID, ClientID: g.ClientID, UserID: g.UserID,
		Scope: g.Scope, CreatedAt: now, VisibleAt: now.Add(time.Duration(current.Faults.ListLag)),
	}
	st.integrations.set(row.ID, row)
}

// listIntegrations serves GET /v1/integrations?workspaceId=.
func (s *Simulator) listIntegrations(c *call) (reply, error) {
	if !c.owns(c.URL.Query().Get("workspaceId")) {
		return reply{http.StatusOK, listBody[integrationView]{Data: []integrationView{}}}, nil
	}
	return s.integrationPage(c)
}

// listWorkspaceIntegrations serves GET /v1/workspaces/{workspaceId}/integrations.
func (s *Simulator) listWorkspaceIntegrations(c *call) (reply, error) {
	if err := c.ownWorkspace(c.PathValue("workspaceId")); err != nil {
		return reply{}, err
	}
	return s.integrationPage(c)
}

func (s *Simulator) integrationPage(c *call) (reply, error) {
	at, err := c.window()
	if err != nil {
		return reply{}, err
	}
	var body listBody[integrationView]
	s.read(func(st *state) {
		rows := visible(st.integrations.under(c.actor.workspaceID), func(i integration) bool { return !i.VisibleAt.After(c.now) })
		body = page(rows, func(i integration) uint64 { return i.Seq }, at, false,
			func(i integration) integrationView { return s.viewIntegration(st, i) })
	})
	return reply{http.StatusOK, body}, nil
}

// getIntegration serves GET /v1/integrations/{id}.
func (s *Simulator) getIntegration(c *call) (reply, error) {
	id := canonicalID(prefixIntegration, c.PathValue("id"))
	var view integrationView
	var found bool
	s.read(func(st *state) {
		row, ok := st.integrations.get(id)
		if found = ok && row.WorkspaceID == c.actor.workspaceID; found {
			view = s.viewIntegration(st, row)
		}
	})
	if !found {
		return reply{}, notFound("The integration")
	}
	return reply{http.StatusOK, dataBody{view}}, nil
}

// deleteIntegration serves DELETE /v1/integrations/{id}.
func (s *Simulator) deleteIntegration(c *call) (reply, error) {
	id := canonicalID(prefixIntegration, c.PathValue("id"))
	return s.removeIntegration(c, func(row integration) bool { return row.ID == id })
}

// revokeIntegration serves DELETE
// /v1/workspaces/{workspaceId}/integrations/{clientId}: every grant of that
// client in the workspace goes with it.
func (s *Simulator) revokeIntegration(c *call) (reply, error) {
	if err := c.ownWorkspace(c.PathValue("workspaceId")); err != nil {
		return reply{}, err
	}
	return s.removeIntegration(c, func(row integration) bool { return row.ClientID == c.PathValue("clientId") })
}

func (s *Simulator) removeIntegration(c *call, is func(integration) bool) (reply, error) {
	err := s.write(c.Context(), func(st *state) error {
		for _, row := range st.integrations.under(c.actor.workspaceID) {
			if !is(row) {
				continue
			}
			for _, g := range st.grants.under(integrationKey(row.WorkspaceID, row.ClientID)) {
				s.revoke(st, g.ID, "integration removed")
			}
			return nil
		}
		return notFound("The integration")
	})
	return reply{status: http.StatusNoContent}, err
}

// visible returns the rows that a list shows.
func visible[T any](rows []T, shown func(T) bool) []T {
	kept := rows[:0] // rows is a copy made for this list
	for _, row := range rows {
		if shown(row) {
			kept = append(kept, row)
		}
	}
	return kept
}
