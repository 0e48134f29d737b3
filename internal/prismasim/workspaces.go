package prismasim

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// getMe serves GET /v1/me: who the token stands for.
func (s *Simulator) getMe(c *call) (reply, error) {
	type credential struct {
		Type string  `json:"type"`
		ID   *string `json:"id"`
		Name *string `json:"name"`
	}
	type person struct {
		ID    string  `json:"id"`
		Email string  `json:"email"`
		Name  *string `json:"name"`
	}
	body := struct {
		User       *person    `json:"user"`
		Workspace  *namedView `json:"workspace"`
		Credential credential `json:"credential"`
	}{}
	s.read(func(st *state) {
		owner := st.workspaces.rows[c.actor.workspaceID]
		body.Workspace = &namedView{ID: owner.ID, Name: owner.Name}
		if c.actor.grant.ID == "" {
			token := c.actor.service
			body.Credential = credential{Type: "service_token", ID: &token.ID, Name: &token.Name}
			return
		}
		u := st.users.rows[c.actor.grant.UserID]
		body.User = &person{ID: u.ID, Email: u.Email, Name: optional(u.Name)}
		app := st.clients.rows[c.actor.grant.ClientID]
		body.Credential = credential{Type: "oauth", ID: &app.ID, Name: &app.Name}
	})
	return reply{http.StatusOK, dataBody{body}}, nil
}

// owns tells whether id is the workspace that the token acts on.
func (c *call) owns(id string) bool { return canonicalID(prefixWorkspace, id) == c.actor.workspaceID }

// ownWorkspace refuses every workspace but the token's.
func (c *call) ownWorkspace(id string) error {
	if !c.owns(id) {
		return notFound("The workspace")
	}
	return nil
}

// listWorkspaces serves GET /v1/workspaces: a token sees the one it acts on.
func (s *Simulator) listWorkspaces(c *call) (reply, error) {
	at, err := c.window()
	if err != nil {
		return reply{}, err
	}
	var body listBody[workspaceView]
	s.read(func(st *state) {
		rows := []workspace{st.workspaces.rows[c.actor.workspaceID]}
		body = page(rows, func(workspace) uint64 { return 1 }, at, false, s.viewWorkspace)
	})
	return reply{http.StatusOK, body}, nil
}

// getWorkspace serves GET /v1/workspaces/{id}.
func (s *Simulator) getWorkspace(c *call) (reply, error) {
	if err := c.ownWorkspace(c.PathValue("id")); err != nil {
		return reply{}, err
	}
	var view workspaceView
	s.read(func(st *state) { view = s.viewWorkspace(st.workspaces.rows[c.actor.workspaceID]) })
	return reply{http.StatusOK, dataBody{view}}, nil
}

// createWorkspace serves POST /v1/workspaces: a user's token makes one that its
// user may then choose at consent; the token itself stays with its own.
func (s *Simulator) createWorkspace(c *call) (reply, error) {
	var body struct {
		DisplayName *string `json:"displayName"`
	}
	if err := c.decode(&body); err != nil {
		return reply{}, err
	}
	if c.actor.grant.ID == "" {
		return reply{}, forbidden("A service token cannot create workspaces.")
	}
	name := "New workspace"
	if body.DisplayName != nil {
		if name = strings.TrimSpace(*body.DisplayName); name == "" {
			return reply{}, c.invalid("displayName must not be empty.")
		}
	}
	row := workspace{ID: newID(prefixWorkspace), Name: name, CreatedAt: c.now}
	err := s.write(c.Context(), func(st *state) error {
		owner, ok := st.users.get(c.actor.grant.UserID)
		if !ok {
			return unauthorized()
		}
		owner.WorkspaceIDs = append(slices.Clone(owner.WorkspaceIDs), row.ID)
		st.workspaces.set(row.ID, row)
		st.users.set(owner.ID, owner)
		return nil
	})
	return reply{http.StatusCreated, dataBody{s.viewWorkspace(row)}}, err
}

// getSubscription serves GET /v1/workspaces/{id}/subscription.
func (s *Simulator) getSubscription(c *call) (reply, error) {
	if err := c.ownWorkspace(c.PathValue("id")); err != nil {
		return reply{}, err
	}
	return reply{http.StatusOK, dataBody{map[string]any{
		"planName": "Free", "usageBlocked": false, "upgradeUrl": s.url + "/billing/" + c.actor.workspaceID,
	}}}, nil
}

type serviceTokenView struct {
	ID        string     `json:"id"`
	Type      string     `json:"type"`
	Name      string     `json:"name"`
	ValueHint string     `json:"valueHint"`
	CreatedAt time.Time  `json:"createdAt"`
	ExpiresAt *time.Time `json:"expiresAt"` // always null: they do not expire
}

func viewServiceToken(row serviceToken) serviceTokenView {
	return serviceTokenView{ID: row.ID, Type: "serviceToken", Name: row.Name, ValueHint: row.Hint, CreatedAt: row.CreatedAt}
}

// listServiceTokens serves GET /v1/workspaces/{workspaceId}/service-tokens:
// newest first, and empty for a workspace that is not the token's.
func (s *Simulator) listServiceTokens(c *call) (reply, error) {
	at, err := c.window()
	if err != nil {
		return reply{}, err
	}
	var rows []serviceToken
	if c.owns(c.PathValue("workspaceId")) {
		s.read(func(st *state) { rows = st.serviceTokens.under(c.actor.workspaceID) })
		slices.Reverse(rows)
	}
	return reply{http.StatusOK, page(rows, func(t serviceToken) uint64 { return t.Seq }, at, true, viewServiceToken)}, nil
}

// createServiceToken serves POST /v1/workspaces/{workspaceId}/service-tokens.
// The value is in this answer and nowhere else.
func (s *Simulator) createServiceToken(c *call) (reply, error) {
	var body struct {
		Name string `json:"name"`
	}
	if err := c.decode(&body); err != nil {
		return reply{}, err
	}
	if err := c.ownWorkspace(c.PathValue("workspaceId")); err != nil {
		return reply{}, err
	}
	if strings.TrimSpace(body.Name) == "" {
		return reply{}, c.invalid("name must not be empty.")
	}
	value := newSecret()
	var row serviceToken
	err := s.write(c.Context(), func(st *state) error {
		row = s.addServiceToken(st, c.actor.workspaceID, body.Name, value, false)
		return nil
	})
	created := struct {
		serviceTokenView

		Value string `json:"value"`
	}{viewServiceToken(row), value}
	return reply{http.StatusCreated, dataBody{created}}, err
}

// deleteServiceToken serves DELETE
// /v1/workspaces/{workspaceId}/service-tokens/{serviceTokenId}.
func (s *Simulator) deleteServiceToken(c *call) (reply, error) {
	if err := c.ownWorkspace(c.PathValue("workspaceId")); err != nil {
		return reply{}, err
	}
	id := canonicalID(prefixServiceToken, c.PathValue("serviceTokenId"))
	err := s.write(c.Context(), func(st *state) error {
		row, ok := st.serviceTokens.get(id)
		if !ok || row.WorkspaceID != c.actor.workspaceID {
			return notFound("The service token")
		}
		st.serviceTokens.remove(id)
		delete(st.serviceTokenByHash, row.Hash)
		return nil
	})
	return reply{status: http.StatusNoContent}, err
}
