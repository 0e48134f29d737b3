package admin

import (
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
	"github.com/connect-prisma/server/web"
)

// maxListed is how many connections a tenant's page lists, the newest.
const maxListed = 200

// listTenants serves GET /admin.
func (s *Server) listTenants(c echo.Context, admin tenants.Admin) error {
	ctx := c.Request().Context()
	all, err := s.Store.Tenants(ctx)
	if err != nil {
		return err
	}
	counts, err := s.Store.CountConnections(ctx)
	if err != nil {
		return err
	}
	view := web.AdminTenantsPage{Admin: admin.Email}
	for _, t := range all {
		n := newCounts(counts[t.ID])
		view.Tenants = append(view.Tenants, web.AdminTenantRow{
			ID: t.ID.String(), Name: t.Name, URL: base + "/tenants/" + t.ID.String(),
			Paused: t.Paused, CreatedAt: t.CreatedAt, Connections: n,
		})
		view.Total.Active += n.Active
		view.Total.Suspect += n.Suspect
		view.Total.NeedsReconnect += n.NeedsReconnect
		view.Total.Disconnected += n.Disconnected
	}
	return s.render(c, http.StatusOK, view)
}

func newCounts(n map[tenants.ConnectionStatus]int) web.AdminConnectionCounts {
	return web.AdminConnectionCounts{
		Active:         n[tenants.ConnectionActive],
		Suspect:        n[tenants.ConnectionSuspect],
		NeedsReconnect: n[tenants.ConnectionNeedsReconnect],
		Disconnected:   n[tenants.ConnectionDisconnected],
	}
}

// showTenant serves GET /admin/tenants/:id.
func (s *Server) showTenant(c echo.Context, admin tenants.Admin) error {
	id, err := tenants.ParseTenantID(c.Param("id"))
	if err != nil || id == (tenants.TenantID{}) { // the store takes the zero id for "no tenant"
		return fault.New(fault.NotFound, "There is no such tenant.", err)
	}
	ctx := c.Request().Context()
	t, err := s.Store.Tenant(ctx, id)
	if err != nil {
		return err
	}
	keys, err := s.Store.Keys(ctx, id)
	if err != nil {
		return err
	}
	connections, err := s.Store.TenantConnections(ctx, id, maxListed+1)
	if err != nil {
		return err
	}
	view := web.AdminTenantPage{
		Admin: admin.Email, ID: t.ID.String(), Name: t.Name, Paused: t.Paused, Completion: string(t.Completion),
		ClientID: t.OAuthClientID, SharedClient: t.SharedClient, RestartURL: t.RestartURL, ReturnURLs: t.ReturnURLs,
		CreatedAt: t.CreatedAt, Limited: len(connections) > maxListed,
	}
	for _, k := range keys {
		view.Keys = append(view.Keys, newKeyRow(k, s.Now()))
	}
	for _, x := range connections[:min(len(connections), maxListed)] {
		view.Connections = append(view.Connections, s.newConnectionRow(x))
	}
	return s.render(c, http.StatusOK, view)
}

func (s *Server) newConnectionRow(c tenants.Connection) web.AdminConnectionRow {
	row := web.AdminConnectionRow{
		ID: c.ID.String(), UserID: c.UserID, WorkspaceID: c.WorkspaceID, WorkspaceName: c.WorkspaceName,
		Status: string(c.Status), Reason: c.Reason, Since: c.StatusSince, AccessUntil: c.UsableUntil(), CreatedAt: c.CreatedAt,
	}
	if s.Diagnose == nil {
		return row
	}
	d := s.Diagnose(c)
	row.Since = d.Since
	if d.Action != tenants.ActionNone {
		row.Reason, row.Message, row.Action = string(d.Code), d.Message, string(d.Action)
	}
	return row
}

func newKeyRow(k tenants.Key, now time.Time) web.AdminKeyRow {
	row := web.AdminKeyRow{
		ID: k.ID.String(), Name: k.Name, Hint: k.Hint, State: "live",
		CreatedAt: k.CreatedAt, ExpiresAt: k.ExpiresAt, LastUsedAt: k.LastUsedAt,
	}
	switch {
	case !k.RevokedAt.IsZero():
		row.State = "revoked"
	case !k.ExpiresAt.IsZero() && !now.Before(k.ExpiresAt):
		row.State = "expired"
	}
	for _, scope := range k.Scopes {
		row.Scopes = append(row.Scopes, string(scope))
	}
	return row
}
