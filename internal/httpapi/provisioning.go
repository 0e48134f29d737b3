package httpapi

import (
	"context"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/provisioning"
	"github.com/connect-prisma/server/internal/tenants"
)

// Provisioning acts in users' workspaces; *provisioning.Service implements it.
type Provisioning interface {
	ListProjects(ctx context.Context, tenant tenants.TenantID, connection tenants.ConnectionID, page provisioning.Page) (provisioning.List[provisioning.Project], error)
	CreateProject(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, connection tenants.ConnectionID, in provisioning.NewProject) (provisioning.Created[provisioning.Project], error)
	ListDatabases(ctx context.Context, tenant tenants.TenantID, connection tenants.ConnectionID, projectID string, page provisioning.Page) (provisioning.List[provisioning.Database], error)
	CreateDatabase(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, connection tenants.ConnectionID, in provisioning.NewDatabase) (provisioning.Created[provisioning.Database], error)
	GetDatabase(ctx context.Context, tenant tenants.TenantID, connection tenants.ConnectionID, id string) (provisioning.Database, error)
	DeleteDatabase(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, connection tenants.ConnectionID, id string) error
	CreateCredentials(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, connection tenants.ConnectionID, databaseID string, in provisioning.NewCredentials) (provisioning.Created[provisioning.Credentials], error)
	Regions(ctx context.Context, tenant tenants.TenantID) ([]provisioning.Region, error)
}

type projectBody struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Region    *string   `json:"region"` // null while it is unknown
	CreatedAt time.Time `json:"createdAt"`
}

func newProjectBody(p provisioning.Project) projectBody {
	return projectBody{ID: p.ID, Name: p.Name, Region: orNull(p.Region), CreatedAt: p.CreatedAt.UTC()}
}

type databaseBody struct {
	ID          string           `json:"id"`
	Name        string           `json:"name"`
	Region      *string          `json:"region"` // null while it is unknown
	Status      string           `json:"status"`
	ProjectID   string           `json:"projectId"`
	IsDefault   bool             `json:"isDefault"`
	CreatedAt   time.Time        `json:"createdAt"`
	Credentials *credentialsBody `json:"credentials,omitempty"` // once, in the answer that made it
	// SecretExpired: a replay of an answer whose connection string is not kept any more.
	SecretExpired bool `json:"secretExpired,omitempty"`
}

func newDatabaseBody(d provisioning.Database) databaseBody {
	body := databaseBody{
		ID: d.ID, Name: d.Name, Region: orNull(d.Region), Status: d.Status, ProjectID: d.ProjectID,
		IsDefault: d.IsDefault, CreatedAt: d.CreatedAt.UTC(),
	}
	if d.Credentials != nil {
		body.Credentials = &credentialsBody{ID: d.Credentials.ID, ConnectionString: orNull(d.Credentials.ConnectionString)}
	}
	return body
}

type credentialsBody struct {
	ID               string  `json:"id"`
	Name             string  `json:"name,omitempty"`
	ConnectionString *string `json:"connectionString"` // once; null in a late replay
	SecretExpired    bool    `json:"secretExpired,omitempty"`
}

type regionBody struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

func orNull(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// pageOf reads cursor and limit of a list that Prisma pages.
func pageOf(values url.Values) (provisioning.Page, error) {
	limit, err := limitOf(values)
	cursor := values.Get("cursor")
	if len(cursor) > 1024 {
		err = fault.New(fault.InvalidRequest, "The cursor does not belong to this list.", nil).
			WithField("cursor", "Use the nextCursor of the page before.")
	}
	return provisioning.Page{Cursor: cursor, Limit: limit}, err
}

// idempotencyKey reads the header of that name: absent, bare, or quoted as a
// structured field string.
func idempotencyKey(c echo.Context) (string, error) {
	given := c.Request().Header.Values("Idempotency-Key")
	if len(given) == 0 {
		return "", nil
	}
	refused := fault.New(fault.InvalidRequest, "The Idempotency-Key can't be used.", nil).
		WithField("Idempotency-Key", "Send one header of 1 to 255 printable ASCII characters.")
	if len(given) > 1 {
		return "", refused
	}
	key := given[0]
	if len(key) >= 2 && key[0] == '"' && key[len(key)-1] == '"' {
		key = key[1 : len(key)-1]
	}
	if key == "" || len(key) > 255 || strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' }) {
		return "", refused
	}
	return key, nil
}

// creating parses what every creating call has in common: no query, the path's
// connection, the body and the key.
func creating[T any](c echo.Context) (connection tenants.ConnectionID, body T, key string, err error) {
	if _, err = query(c); err != nil {
		return
	}
	if connection, err = connectionID(c); err != nil {
		return
	}
	if key, err = idempotencyKey(c); err != nil {
		return
	}
	body, err = decode[T](c)
	return
}

// created answers a creating call.
func created(c echo.Context, replayed bool, data any) error {
	if replayed {
		c.Response().Header().Set("Idempotent-Replayed", "true")
	}
	return send(c, http.StatusCreated, data)
}

// listProjects serves GET /v1/connections/:connection/projects?cursor=&limit=.
func (s *Server) listProjects(c echo.Context) error {
	values, err := query(c, "cursor", "limit")
	if err != nil {
		return err
	}
	page, err := pageOf(values)
	if err != nil {
		return err
	}
	id, err := connectionID(c)
	if err != nil {
		return err
	}
	list, err := s.cfg.Provisioning.ListProjects(c.Request().Context(), callerOf(c).Tenant.ID, id, page)
	if err != nil {
		return err
	}
	bodies := make([]projectBody, 0, len(list.Items))
	for _, p := range list.Items {
		bodies = append(bodies, newProjectBody(p))
	}
	return sendPage(c, bodies, list.NextCursor)
}

type createProjectRequest struct {
	Name   *string `json:"name"`
	Region *string `json:"region"`
}

// createProject serves POST /v1/connections/:connection/projects.
func (s *Server) createProject(c echo.Context) error {
	id, body, key, err := creating[createProjectRequest](c)
	if err != nil {
		return err
	}
	if err := firstOf(required("/name", body.Name), required("/region", body.Region)); err != nil {
		return err
	}
	made, err := s.cfg.Provisioning.CreateProject(c.Request().Context(), actorOf(c), callerOf(c).Tenant.ID, id,
		provisioning.NewProject{Name: *body.Name, Region: *body.Region, IdempotencyKey: key})
	if err != nil {
		return err
	}
	return created(c, made.Replayed, newProjectBody(made.Resource))
}

// listDatabases serves GET /v1/connections/:connection/databases?projectId=&cursor=&limit=.
func (s *Server) listDatabases(c echo.Context) error {
	values, err := query(c, "projectId", "cursor", "limit")
	if err != nil {
		return err
	}
	page, err := pageOf(values)
	if err != nil {
		return err
	}
	if given, ok := values["projectId"]; ok && given[0] == "" {
		return fault.New(fault.InvalidRequest, "A filter has no usable value.", nil).WithField("projectId", "Name a project, or leave it out.")
	}
	id, err := connectionID(c)
	if err != nil {
		return err
	}
	list, err := s.cfg.Provisioning.ListDatabases(c.Request().Context(), callerOf(c).Tenant.ID, id, values.Get("projectId"), page)
	if err != nil {
		return err
	}
	bodies := make([]databaseBody, 0, len(list.Items))
	for _, d := range list.Items {
		bodies = append(bodies, newDatabaseBody(d))
	}
	return sendPage(c, bodies, list.NextCursor)
}

type createDatabaseRequest struct {
	Name      *string `json:"name"`
	Region    *string `json:"region"`
	ProjectID *string `json:"projectId"`
}

// createDatabase serves POST /v1/connections/:connection/databases.
func (s *Server) createDatabase(c echo.Context) error {
	id, body, key, err := creating[createDatabaseRequest](c)
	if err != nil {
		return err
	}
	if err := required("/name", body.Name); err != nil {
		return err
	}
	if body.ProjectID == nil { // a project's own region is the default of its databases
		if err := required("/region", body.Region); err != nil {
			return err
		}
	} else if *body.ProjectID == "" {
		return fault.New(fault.InvalidValue, "The project has no id.", nil).WithField("/projectId", "Use the id of a project, or leave it out.")
	}
	made, err := s.cfg.Provisioning.CreateDatabase(c.Request().Context(), actorOf(c), callerOf(c).Tenant.ID, id,
		provisioning.NewDatabase{Name: *body.Name, Region: deref(body.Region), ProjectID: deref(body.ProjectID), IdempotencyKey: key})
	if err != nil {
		return err
	}
	database := newDatabaseBody(made.Resource)
	database.SecretExpired = made.SecretExpired
	return created(c, made.Replayed, database)
}

// getDatabase serves GET /v1/connections/:connection/databases/:database.
func (s *Server) getDatabase(c echo.Context) error {
	if _, err := query(c); err != nil {
		return err
	}
	id, err := connectionID(c)
	if err != nil {
		return err
	}
	database, err := s.cfg.Provisioning.GetDatabase(c.Request().Context(), callerOf(c).Tenant.ID, id, c.Param("database"))
	if err != nil {
		return err
	}
	return send(c, http.StatusOK, newDatabaseBody(database))
}

// deleteDatabase serves DELETE /v1/connections/:connection/databases/:database.
func (s *Server) deleteDatabase(c echo.Context) error {
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
	err = s.cfg.Provisioning.DeleteDatabase(c.Request().Context(), actorOf(c), callerOf(c).Tenant.ID, id, c.Param("database"))
	if err != nil {
		return err
	}
	return c.NoContent(http.StatusNoContent)
}

type createCredentialsRequest struct {
	Name *string `json:"name"`
}

// createCredentials serves POST /v1/connections/:connection/databases/:database/credentials.
func (s *Server) createCredentials(c echo.Context) error {
	id, body, key, err := creating[createCredentialsRequest](c)
	if err != nil {
		return err
	}
	if err := required("/name", body.Name); err != nil {
		return err
	}
	made, err := s.cfg.Provisioning.CreateCredentials(c.Request().Context(), actorOf(c), callerOf(c).Tenant.ID, id, c.Param("database"),
		provisioning.NewCredentials{Name: *body.Name, IdempotencyKey: key})
	if err != nil {
		return err
	}
	return created(c, made.Replayed, credentialsBody{
		ID: made.Resource.ID, Name: made.Resource.Name, ConnectionString: orNull(made.Resource.ConnectionString),
		SecretExpired: made.SecretExpired,
	})
}

// listRegions serves GET /v1/regions.
func (s *Server) listRegions(c echo.Context) error {
	if _, err := query(c); err != nil {
		return err
	}
	regions, err := s.cfg.Provisioning.Regions(c.Request().Context(), callerOf(c).Tenant.ID)
	if err != nil {
		return err
	}
	bodies := make([]regionBody, 0, len(regions))
	for _, r := range regions {
		bodies = append(bodies, regionBody(r))
	}
	return sendPage(c, bodies, "")
}
