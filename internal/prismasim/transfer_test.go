package prismasim_test

import (
	"net/http"
	"testing"

	"github.com/connect-prisma/server/internal/prismasim/prismasimtest"
)

func TestTransfer(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	user := sim.Connect(t, prismasimtest.WorkspaceA)
	shop := newProject(t, sim, prismasimtest.ServiceToken, "shop")
	path := "/v1/projects/" + shop.project
	to := func(token string) map[string]string { return map[string]string{"recipientAccessToken": token} }

	api(t, sim, http.MethodPost, path+"/transfer", prismasimtest.ServiceToken, to("nonsense"), http.StatusUnauthorized)
	api(t, sim, http.MethodPost, path+"/transfer", prismasimtest.ServiceToken, to(prismasimtest.OtherServiceToken), http.StatusUnauthorized)
	api(t, sim, http.MethodPost, path+"/transfer", prismasimtest.ServiceToken, to(user.Access), http.StatusNoContent)
	api(t, sim, http.MethodPost, path+"/transfer", prismasimtest.ServiceToken, to(user.Access), http.StatusNotFound) // not its own any more
	api(t, sim, http.MethodPost, path+"/transfer", user.Access, to(user.Access), http.StatusConflict)

	api(t, sim, http.MethodGet, path, prismasimtest.ServiceToken, nil, http.StatusNotFound)
	body := api(t, sim, http.MethodGet, path, user.Access, nil, http.StatusOK)
	if text(t, body, "data.workspace.id") != prismasimtest.WorkspaceA {
		t.Errorf("workspace = %s", text(t, body, "data.workspace.id"))
	}
	api(t, sim, http.MethodGet, "/v1/databases/"+shop.database, user.Access, nil, http.StatusOK)
	open(t, shop.url) // credentials go along
}

func TestTransferOfATakenLogicalID(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	user := sim.Connect(t, prismasimtest.WorkspaceA)
	create := map[string]any{"logicalId": "l", "createDatabase": false}
	mine := api(t, sim, http.MethodPost, "/v1/projects", prismasimtest.ServiceToken, create, http.StatusCreated)
	api(t, sim, http.MethodPost, "/v1/projects", user.Access, create, http.StatusCreated)
	api(t, sim, http.MethodPost, "/v1/projects/"+text(t, mine, "data.id")+"/transfer", prismasimtest.ServiceToken,
		map[string]string{"recipientAccessToken": user.Access}, http.StatusConflict)
}

func TestIntegrations(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	first, second := sim.Connect(t, prismasimtest.WorkspaceA), sim.Connect(t, prismasimtest.WorkspaceA)
	elsewhere := sim.Connect(t, prismasimtest.WorkspaceB)
	for _, path := range []string{
		"/v1/integrations?workspaceId=" + prismasimtest.WorkspaceA, "/v1/workspaces/" + prismasimtest.WorkspaceA + "/integrations",
	} {
		body := api(t, sim, http.MethodGet, path, first.Access, nil, http.StatusOK)
		if count(t, body, "data") != 1 || text(t, body, "data.0.client.id") != prismasimtest.ClientID ||
			text(t, body, "data.0.createdByUser.email") != "ada@example.com" || count(t, body, "data.0.scopes") != 2 {
			t.Errorf("%s: %s", path, body)
		}
	}
	body := api(t, sim, http.MethodGet, "/v1/workspaces/"+prismasimtest.WorkspaceA+"/integrations", first.Access, nil, http.StatusOK)
	id := text(t, body, "data.0.id")
	api(t, sim, http.MethodGet, "/v1/integrations/"+id, first.Access, nil, http.StatusOK)
	api(t, sim, http.MethodGet, "/v1/integrations/"+id, elsewhere.Access, nil, http.StatusNotFound)
	api(t, sim, http.MethodDelete, "/v1/integrations/"+id, elsewhere.Access, nil, http.StatusNotFound)

	path := "/v1/workspaces/" + prismasimtest.WorkspaceA + "/integrations/"
	api(t, sim, http.MethodDelete, path+"nobody", first.Access, nil, http.StatusNotFound)
	api(t, sim, http.MethodDelete, path+prismasimtest.ClientID, first.Access, nil, http.StatusNoContent)
	for _, tokens := range []prismasimtest.Tokens{first, second} { // every grant of the pair
		api(t, sim, http.MethodGet, "/v1/me", tokens.Access, nil, http.StatusUnauthorized)
		if status, body := sim.Refresh(t, tokens.Refresh); status != http.StatusBadRequest || text(t, body, "error") != "invalid_grant" {
			t.Errorf("refresh after the removal = %d", status)
		}
	}
	api(t, sim, http.MethodGet, "/v1/me", elsewhere.Access, nil, http.StatusOK)
	if c := sim.Ledger(t).Counters; c.Revocations != 2 || c.Replays != 0 {
		t.Errorf("counters = %+v", c)
	}

	again := sim.Connect(t, prismasimtest.WorkspaceA)
	body = api(t, sim, http.MethodGet, "/v1/workspaces/"+prismasimtest.WorkspaceA+"/integrations", again.Access, nil, http.StatusOK)
	if text(t, body, "data.0.id") == id {
		t.Error("a removed integration came back")
	}
	api(t, sim, http.MethodDelete, "/v1/integrations/"+text(t, body, "data.0.id"), again.Access, nil, http.StatusNoContent)
	api(t, sim, http.MethodGet, "/v1/me", again.Access, nil, http.StatusUnauthorized)
}

func TestWorkspacesAndMe(t *testing.T) {
	t.Parallel()
	sim := prismasimtest.Start(t)
	user := sim.Connect(t, prismasimtest.WorkspaceB)
	me := api(t, sim, http.MethodGet, "/v1/me", user.Access, nil, http.StatusOK)
	for path, want := range map[string]string{
		"data.user.id": prismasimtest.UserID, "data.user.email": "ada@example.com", "data.workspace.id": prismasimtest.WorkspaceB,
		"data.credential.type": "oauth", "data.credential.id": prismasimtest.ClientID, "data.credential.name": "Partner App",
	} {
		if got := text(t, me, path); got != want {
			t.Errorf("%s = %s, want %s", path, got, want)
		}
	}
	me = api(t, sim, http.MethodGet, "/v1/me", prismasimtest.ServiceToken, nil, http.StatusOK)
	if dig(t, me, "data.user") != nil || text(t, me, "data.credential.type") != "service_token" || text(t, me, "data.credential.name") != "provisioning" {
		t.Errorf("service token: %s", me)
	}
	list := api(t, sim, http.MethodGet, "/v1/workspaces", user.Access, nil, http.StatusOK)
	if count(t, list, "data") != 1 || text(t, list, "data.0.id") != prismasimtest.WorkspaceB {
		t.Errorf("workspaces: %s", list)
	}
	api(t, sim, http.MethodGet, "/v1/workspaces/"+prismasimtest.WorkspaceA, user.Access, nil, http.StatusNotFound) // one grant, one workspace
	api(t, sim, http.MethodGet, "/v1/workspaces/"+prismasimtest.WorkspaceB+"/subscription", user.Access, nil, http.StatusOK)

	api(t, sim, http.MethodPost, "/v1/workspaces", prismasimtest.ServiceToken, map[string]string{}, http.StatusForbidden)
	api(t, sim, http.MethodPost, "/v1/workspaces", user.Access, map[string]string{"displayName": ""}, http.StatusBadRequest)
	made := api(t, sim, http.MethodPost, "/v1/workspaces", user.Access, map[string]string{"displayName": "Third"}, http.StatusCreated)
	third := sim.Connect(t, text(t, made, "data.id")) // the user can grant it now
	body := api(t, sim, http.MethodGet, "/v1/workspaces", third.Access, nil, http.StatusOK)
	if text(t, body, "data.0.name") != "Third" {
		t.Errorf("workspaces: %s", body)
	}
}
