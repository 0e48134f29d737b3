package drill

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/tenants"
)

// connectAll connects every user for the first time.
func (w *world) connectAll(ctx context.Context) error {
	for i := range w.cfg.Counts.Connections {
		c := &connection{user: fmt.Sprintf("user-%05d", i), workspace: fmt.Sprintf("wksp_drill%05d", i)}
		if err := w.connect(ctx, c); err != nil {
			return fmt.Errorf("connect %s: %w", c.user, err)
		}
		w.connections = append(w.connections, c)
	}
	return w.findGrants(ctx)
}

// connect lets a user consent, and stores the grant through a session as the service
// does: for the first time, or again under the same id.
func (w *world) connect(ctx context.Context, c *connection) error {
	grant, err := w.consent(ctx, c.workspace)
	if err != nil {
		return err
	}
	by := tenants.System()
	x, _, err := w.store.CreateSession(ctx, by, w.tenant, tenants.NewSession{
		UserID: c.user, ReturnURL: returnURL, ConnectionID: c.id,
	})
	if err != nil {
		return err
	}
	state := tenants.RandomToken()
	err = w.store.StartSession(ctx, by, x, tenants.Start{
		State: state, Browser: "drill", ClientID: clientID, RedirectURI: redirectURI,
	})
	if err != nil {
		return err
	}
	code, err := w.store.ReturnSession(ctx, by, x, tenants.Return{State: state, Code: "redeemed", Verifier: "none"})
	if err != nil {
		return err
	}
	claim, err := w.store.ClaimCompletion(ctx, by, w.tenant, x.ID, code, c.user)
	if err != nil {
		return err
	}
	stored, err := w.store.FinishSession(ctx, by, claim.Session, clientID, grant)
	if err != nil {
		return err
	}
	c.id, c.base, c.first = stored.ID, stored.Generation, grant.Refresh
	return nil
}

// consent leads the client through the authorization flow for a workspace.
func (w *world) consent(ctx context.Context, workspace string) (prisma.Tokens, error) {
	approve := map[string]string{"mode": "approve", "workspaceId": workspace}
	if err := w.plat.control(ctx, http.MethodPut, "consent", approve, nil); err != nil {
		return prisma.Tokens{}, err
	}
	query := url.Values{
		"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {redirectURI},
		"scope": {"workspace:admin offline_access"}, "state": {"drill"},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, w.plat.url+"/authorize?"+query.Encode(), nil)
	if err != nil {
		return prisma.Tokens{}, fmt.Errorf("make the request: %w", err)
	}
	response, err := http.DefaultTransport.RoundTrip(request) // follows no redirect
	if err != nil {
		return prisma.Tokens{}, fmt.Errorf("authorize: %w", err)
	}
	_ = response.Body.Close() // the redirect is all there is
	back, err := response.Location()
	if err != nil {
		return prisma.Tokens{}, fmt.Errorf("authorize: %w", err)
	}
	return w.redeem(ctx, back.Query().Get("code"), workspace)
}

// redeem exchanges a code.
func (w *world) redeem(ctx context.Context, code, workspace string) (prisma.Tokens, error) {
	form := url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {redirectURI},
		"client_id": {clientID}, "client_secret": {w.clientSecret},
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, w.plat.url+"/token", strings.NewReader(form.Encode()))
	if err != nil {
		return prisma.Tokens{}, fmt.Errorf("make the request: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	response, err := http.DefaultTransport.RoundTrip(request)
	if err != nil {
		return prisma.Tokens{}, fmt.Errorf("redeem a code: %w", err)
	}
	defer response.Body.Close()
	var answer struct {
		Access  string `json:"access_token"`  //nolint:tagliatelle // RFC 6749
		Refresh string `json:"refresh_token"` //nolint:tagliatelle // RFC 6749
	}
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusOK {
		return prisma.Tokens{}, fmt.Errorf("redeem a code: status %d", response.StatusCode)
	}
	var now time.Time
	if err := w.db.admin.QueryRow(ctx, `SELECT app.now()`).Scan(&now); err != nil {
		return prisma.Tokens{}, fmt.Errorf("read the database's clock: %w", err)
	}
	return prisma.Tokens{
		WorkspaceID: workspace, Access: answer.Access, Refresh: answer.Refresh, IssuedAt: now, ExpiresAt: now.Add(time.Hour),
	}, nil
}

// findGrants looks up which grant each connection has at Prisma: the newest one of its
// workspace.
func (w *world) findGrants(ctx context.Context) error {
	grants, err := w.grants(ctx)
	if err != nil {
		return err
	}
	newest := make(map[string]string)
	for _, g := range grants { // the oldest first
		newest[g.WorkspaceID] = g.ID
	}
	for _, c := range w.connections {
		c.grant = newest[c.workspace]
	}
	return nil
}

// grantView is a row of the simulator's grants.
type grantView struct {
	ID          string `json:"id"`
	WorkspaceID string `json:"workspaceId"`
	State       string `json:"state"`
}

func (w *world) grants(ctx context.Context) ([]grantView, error) {
	var view struct {
		Grants []grantView `json:"grants"`
	}
	err := w.plat.control(ctx, http.MethodGet, "grants", nil, &view)
	return view.Grants, err
}
