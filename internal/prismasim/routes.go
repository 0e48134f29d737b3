package prismasim

import (
	"fmt"
	"net/http"

	"github.com/getkin/kin-openapi/routers"

	"github.com/connect-prisma/server/internal/prismasim/apidoc"
)

// operations lists what of the interface document is stood in for, by method and
// path template. The rest of the document answers 501.
func (s *Simulator) operations() map[string]operation {
	return map[string]operation{
		"GET /v1/me": s.getMe,

		"GET /v1/workspaces":                                                  s.listWorkspaces,
		"POST /v1/workspaces":                                                 s.createWorkspace,
		"GET /v1/workspaces/{id}":                                             s.getWorkspace,
		"GET /v1/workspaces/{id}/subscription":                                s.getSubscription,
		"GET /v1/workspaces/{workspaceId}/integrations":                       s.listWorkspaceIntegrations,
		"DELETE /v1/workspaces/{workspaceId}/integrations/{clientId}":         s.revokeIntegration,
		"GET /v1/workspaces/{workspaceId}/service-tokens":                     s.listServiceTokens,
		"POST /v1/workspaces/{workspaceId}/service-tokens":                    s.createServiceToken,
		"DELETE /v1/workspaces/{workspaceId}/service-tokens/{serviceTokenId}": s.deleteServiceToken,

		"GET /v1/integrations":         s.listIntegrations,
		"GET /v1/integrations/{id}":    s.getIntegration,
		"DELETE /v1/integrations/{id}": s.deleteIntegration,

		"GET /v1/regions":            s.listRegions,
		"GET /v1/regions/postgres":   s.listPostgresRegions,
		"GET /v1/regions/accelerate": s.listAccelerateRegions,

		"GET /v1/projects":                        s.listProjects,
		"POST /v1/projects":                       s.createProject,
		"GET /v1/projects/{id}":                   s.getProject,
		"PATCH /v1/projects/{id}":                 s.updateProject,
		"DELETE /v1/projects/{id}":                s.deleteProject,
		"POST /v1/projects/{id}/transfer":         s.transferProject,
		"GET /v1/projects/{projectId}/databases":  s.listProjectDatabases,
		"POST /v1/projects/{projectId}/databases": s.createProjectDatabase,

		"GET /v1/databases":                             s.listDatabases,
		"POST /v1/databases":                            s.createDatabase,
		"GET /v1/databases/{databaseId}":                s.getDatabase,
		"PATCH /v1/databases/{databaseId}":              s.updateDatabase,
		"DELETE /v1/databases/{databaseId}":             s.deleteDatabase,
		"GET /v1/databases/{databaseId}/connections":    s.listDatabaseConnections,
		"POST /v1/databases/{databaseId}/connections":   s.createDatabaseConnection,
		"GET /v1/databases/{databaseId}/backups":        s.listBackups,
		"GET /v1/databases/{databaseId}/usage":          s.getUsage,
		"POST /v1/databases/{targetDatabaseId}/restore": s.restoreDatabase,

		"GET /v1/connections":              s.listConnections,
		"POST /v1/connections":             s.createConnection,
		"GET /v1/connections/{id}":         s.getConnection,
		"DELETE /v1/connections/{id}":      s.deleteConnection,
		"POST /v1/connections/{id}/rotate": s.rotateConnection,
	}
}

// routes builds the handler of the whole origin.
func (s *Simulator) routes() (http.Handler, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /authorize", s.getAuthorize)
	mux.HandleFunc("POST /authorize", s.postAuthorize)
	mux.HandleFunc("POST /token", s.postToken)
	mux.HandleFunc("GET /_assets/style.css", s.getStyle)
	mux.HandleFunc("GET /.well-known/oauth-authorization-server", s.getDiscovery)
	mux.HandleFunc("GET /.well-known/jwks.json", s.getKeySet)
	mux.Handle("/_control/", s.controlRoutes())
	if err := s.apiRoutes(mux); err != nil {
		return nil, err
	}
	return mux, nil
}

// apiRoutes mounts every operation of the interface document below /v1.
func (s *Simulator) apiRoutes(mux *http.ServeMux) error {
	doc, err := apidoc.Load()
	if err != nil {
		return err
	}
	known := s.operations()
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			pattern := method + " " + path
			work, ok := known[pattern]
			if !ok {
				work = notSimulated
			}
			delete(known, pattern)
			route := &routers.Route{Spec: doc, Path: path, PathItem: item, Method: method, Operation: op}
			mux.HandleFunc(pattern, s.serve(route, work))
		}
	}
	if len(known) > 0 {
		return fmt.Errorf("%d simulated operations are not in the interface document", len(known))
	}
	// The seed's examples create projects below their workspace, which the document
	// no longer lists: the operation is that of POST /v1/projects.
	create := doc.Paths.Value("/v1/projects")
	mux.HandleFunc("POST /v1/workspaces/{workspaceId}/projects", s.serve(&routers.Route{
		Spec: doc, Path: "/v1/projects", PathItem: create, Method: http.MethodPost, Operation: create.Post,
	}, s.createProject))
	mux.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		s.apiRequests.Add(1)
		s.answer(w, r, reply{}, notFound("The operation"))
	})
	return nil
}

// notSimulated answers operations that are documented but not stood in for.
func notSimulated(*call) (reply, error) {
	return reply{}, &apiError{
		status: http.StatusNotImplemented, code: "not-implemented-here", message: "The simulator does not stand in for this operation.",
	}
}

// getDiscovery serves GET /.well-known/oauth-authorization-server (RFC 8414).
func (s *Simulator) getDiscovery(w http.ResponseWriter, r *http.Request) {
	s.writeJSON(w, r, http.StatusOK, map[string]any{
		"issuer":                                         s.url,
		"authorization_endpoint":                         s.url + "/authorize",
		"token_endpoint":                                 s.url + "/token",
		"jwks_uri":                                       s.url + "/.well-known/jwks.json",
		"scopes_supported":                               []string{scopeAdmin, scopeOffline},
		"response_types_supported":                       []string{"code"},
		"response_modes_supported":                       []string{"query"},
		"grant_types_supported":                          []string{"authorization_code", "refresh_token"},
		"token_endpoint_auth_methods_supported":          []string{"client_secret_basic", "client_secret_post", "none"},
		"code_challenge_methods_supported":               []string{"S256"},
		"authorization_response_iss_parameter_supported": true,
	})
}

// getKeySet serves GET /.well-known/jwks.json.
func (s *Simulator) getKeySet(w http.ResponseWriter, r *http.Request) {
	s.writeJSON(w, r, http.StatusOK, s.signer.keySet())
}
