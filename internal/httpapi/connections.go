package httpapi

import (
	"net/http"
	"net/url"
	"time"
	"unicode/utf8"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/oauthflow"
	"github.com/connect-prisma/server/internal/tenants"
)

type workspaceBody struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type connectionBody struct {
	ID          string            `json:"id"`
	UserID      string            `json:"userId"`
	Workspace   workspaceBody     `json:"workspace"`
	Status      string            `json:"status"`
	Diagnosis   diagnosis         `json:"diagnosis"`
	AccessUntil time.Time         `json:"accessUntil"`
	Metadata    map[string]string `json:"metadata"`
	CreatedAt   time.Time         `json:"createdAt"`
}

// diagnosis says how a connection is and who has to act.
type diagnosis struct {
	Code    string    `json:"code"`
	Message string    `json:"message"`
	Action  string    `json:"action"`
	Since   time.Time `json:"since"`
}

func (s *Server) newConnectionBody(c tenants.Connection) connectionBody {
	d := s.cfg.Flow.Diagnose(c)
	body := connectionBody{
		ID: c.ID.String(), UserID: c.UserID, Workspace: workspaceBody{ID: c.WorkspaceID, Name: c.WorkspaceName},
		Status:      string(c.Status),
		Diagnosis:   diagnosis{Code: string(d.Code), Message: d.Message, Action: string(d.Action), Since: d.Since.UTC()},
		AccessUntil: c.UsableUntil().UTC(), Metadata: c.Metadata, CreatedAt: c.CreatedAt.UTC(),
	}
	if body.Metadata == nil {
		body.Metadata = map[string]string{}
	}
	return body
}

// listConnections serves GET /v1/connections?userId=&workspaceId=&status=&cursor=&limit=.
func (s *Server) listConnections(c echo.Context) error {
	values, err := query(c, "userId", "workspaceId", "status", "cursor", "limit")
	if err != nil {
		return err
	}
	filter, list, err := s.parseFilter(callerOf(c).Tenant.ID, values)
	if err != nil {
		return err
	}
	found, more, err := s.cfg.Store.Connections(c.Request().Context(), callerOf(c).Tenant.ID, filter)
	if err != nil {
		return err
	}
	bodies := make([]connectionBody, 0, len(found))
	for _, one := range found {
		bodies = append(bodies, s.newConnectionBody(one))
	}
	next := ""
	if more {
		if next, err = s.cfg.Store.Cursor(callerOf(c).Tenant.ID, list, found[len(found)-1].ID); err != nil {
			return err
		}
	}
	return sendPage(c, bodies, next)
}

// parseFilter also returns a text that names the filtered list: a cursor holds for
// that list alone.
func (s *Server) parseFilter(tenant tenants.TenantID, values url.Values) (tenants.ConnectionFilter, string, error) {
	filter := tenants.ConnectionFilter{
		UserID: values.Get("userId"), WorkspaceID: values.Get("workspaceId"),
		Status: tenants.ConnectionStatus(values.Get("status")),
	}
	switch filter.Status {
	case "", tenants.ConnectionActive, tenants.ConnectionSuspect, tenants.ConnectionNeedsReconnect, tenants.ConnectionDisconnected:
	default:
		return filter, "", fault.New(fault.InvalidRequest, "There is no such status.", nil).
			WithField("status", "Use active, suspect, needs_reconnect or disconnected.")
	}
	for _, name := range []string{"userId", "workspaceId", "status"} {
		// An empty filter would silently list everybody.
		if given, ok := values[name]; ok && (given[0] == "" || utf8.RuneCountInString(given[0]) > 255) {
			return filter, "", fault.New(fault.InvalidRequest, "A filter has no usable value.", nil).
				WithField(name, "Give 1 to 255 characters, or leave it out.")
		}
	}
	var err error
	if filter.Limit, err = limitOf(values); err != nil {
		return filter, "", err
	}
	list := url.Values{"u": {filter.UserID}, "w": {filter.WorkspaceID}, "s": {string(filter.Status)}}.Encode()
	filter.After, err = s.cfg.Store.ParseCursor(tenant, list, values.Get("cursor"))
	return filter, list, err
}

// getConnection serves GET /v1/connections/:connection.
func (s *Server) getConnection(c echo.Context) error {
	if _, err := query(c); err != nil {
		return err
	}
	id, err := connectionID(c)
	if err != nil {
		return err
	}
	connection, err := s.cfg.Store.Connection(c.Request().Context(), callerOf(c).Tenant.ID, id)
	if err != nil {
		return err
	}
	return send(c, http.StatusOK, s.newConnectionBody(connection))
}

// checkConnection serves POST /v1/connections/:connection/check.
func (s *Server) checkConnection(c echo.Context) error {
	if _, err := query(c); err != nil {
		return err
	}
	if err := noBody(c); err != nil {
		return err
	}
	id, err := connectionID(c)
	if err != nil {
		return err
	}
	connection, err := s.cfg.Flow.Check(c.Request().Context(), actorOf(c), callerOf(c).Tenant.ID, id)
	if err != nil {
		return err
	}
	return send(c, http.StatusOK, s.newConnectionBody(connection))
}

// disconnectedBody says what disconnecting did and what it left.
type disconnectedBody struct {
	ID                 string `json:"id"`
	Status             string `json:"status"`
	IntegrationRemoved bool   `json:"integrationRemoved"`
	Integration        string `json:"integration"` // kept, removed, shared, unreachable
	Message            string `json:"message"`
}

// deleteConnection serves DELETE /v1/connections/:connection?revoke=.
func (s *Server) deleteConnection(c echo.Context) error {
	values, err := query(c, "revoke")
	if err != nil {
		return err
	}
	if err := noBody(c); err != nil {
		return err
	}
	revoke := values.Get("revoke")
	if _, given := values["revoke"]; given && revoke != "true" && revoke != "false" {
		return fault.New(fault.InvalidRequest, "The parameter revoke is true or false.", nil).WithField("revoke", "Use true or false.")
	}
	id, err := connectionID(c)
	if err != nil {
		return err
	}
	integration, err := s.cfg.Flow.Disconnect(c.Request().Context(), actorOf(c), callerOf(c).Tenant.ID, id, revoke == "true")
	if err != nil {
		return err
	}
	return send(c, http.StatusOK, disconnectedBody{
		ID: id.String(), Status: string(tenants.ConnectionDisconnected),
		IntegrationRemoved: integration == oauthflow.IntegrationRemoved, Integration: string(integration),
		Message: integrationMessage(integration),
	})
}

func integrationMessage(i oauthflow.Integration) string {
	switch i {
	case oauthflow.IntegrationRemoved:
		return "The tokens are forgotten and the integration is removed from the workspace at Prisma."
	case oauthflow.IntegrationShared:
		return "The tokens are forgotten. The integration stays at Prisma, because another live connection rests on it."
	case oauthflow.IntegrationUnreachable:
		return "The tokens are forgotten. Our access had ended already, so only the user can remove the integration in Prisma's console."
	case oauthflow.IntegrationKept:
	}
	return "The tokens are forgotten. The integration stays at Prisma until the user, or a call with revoke=true, removes it."
}
