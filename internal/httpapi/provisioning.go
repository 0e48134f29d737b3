package httpapi

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/httpapi/contract"
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
	GetProject(ctx context.Context, tenant tenants.TenantID, connection tenants.ConnectionID, id string) (provisioning.Project, error)
	UpdateProject(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, connection tenants.ConnectionID, id, name string) (provisioning.Project, error)
	DeleteProject(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, connection tenants.ConnectionID, id string) error
	UpdateDatabase(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, connection tenants.ConnectionID, id, name string) (provisioning.Database, error)
	ListBackups(ctx context.Context, tenant tenants.TenantID, connection tenants.ConnectionID, databaseID string, limit int) (provisioning.Backups, error)
	RestoreDatabase(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, connection tenants.ConnectionID, id string, in provisioning.Restore) (provisioning.Created[provisioning.Database], error)
	Usage(ctx context.Context, tenant tenants.TenantID, connection tenants.ConnectionID, databaseID string, in provisioning.Period) (provisioning.Usage, error)
	ListCredentials(ctx context.Context, tenant tenants.TenantID, connection tenants.ConnectionID, databaseID string, page provisioning.Page) (provisioning.List[provisioning.Credentials], error)
	RotateCredentials(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, connection tenants.ConnectionID, databaseID, id, key string) (provisioning.Created[provisioning.Credentials], error)
	DeleteCredentials(ctx context.Context, by tenants.Actor, tenant tenants.TenantID, connection tenants.ConnectionID, databaseID, id string) error
	Regions(ctx context.Context, tenant tenants.TenantID) ([]provisioning.Region, error)
}

func projectOf(p provisioning.Project) contract.Project {
	return contract.Project{ID: p.ID, Name: p.Name, Region: orNull(p.Region), CreatedAt: p.CreatedAt.UTC()}
}

func databaseOf(d provisioning.Database) contract.Database {
	shown := contract.Database{
		ID: d.ID, Name: d.Name, Region: orNull(d.Region), Status: d.Status, ProjectID: d.ProjectID,
		IsDefault: d.IsDefault, CreatedAt: d.CreatedAt.UTC(),
	}
	if d.Credentials != nil { // once, in the answer that made it
		shown.Credentials = &contract.Credentials{
			ID: d.Credentials.ID, ConnectionString: orNull(d.Credentials.ConnectionString),
		}
	}
	return shown
}

// prismaList is a list that Prisma pages: what is listed, through which connection, and of
// which database or project.
type prismaList struct {
	of         string
	connection tenants.ConnectionID
	within     string
}

func (l prismaList) name() string {
	return url.Values{"l": {l.of}, "c": {l.connection.String()}, "w": {l.within}}.Encode()
}

// page is the page of a list that a cursor of ours leads to.
func (h handlers) page(ctx context.Context, l prismaList, cursor *string, limit *int) (provisioning.Page, error) {
	place, err := h.cfg.Store.ParsePrismaCursor(tenantOf(ctx), l.name(), deref(cursor))
	return provisioning.Page{Cursor: place, Limit: limitOf(limit)}, err
}

// pagination leads to where Prisma's cursor leads.
func (h handlers) pagination(ctx context.Context, l prismaList, next string) (contract.Pagination, error) {
	if next == "" {
		return newPagination(""), nil
	}
	cursor, err := h.cfg.Store.PrismaCursor(tenantOf(ctx), l.name(), next)
	return newPagination(cursor), err
}

// idempotencyKey reads the header of that name: absent, bare, or quoted as a
// structured field string.
func idempotencyKey(header http.Header) (string, error) {
	given := header.Values(idempotencyHeader)
	if len(given) == 0 {
		return "", nil
	}
	refused := fault.New(fault.InvalidRequest, "The Idempotency-Key can't be used.", nil).
		WithField(idempotencyHeader, "Send one header of 1 to 255 printable ASCII characters.")
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

// ListProjects serves GET /v1/connections/{connectionId}/projects?cursor=&limit=.
func (h handlers) ListProjects(ctx context.Context, r contract.ListProjectsRequestObject,
) (contract.ListProjectsResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	what := prismaList{of: "projects", connection: id}
	page, err := h.page(ctx, what, r.Params.Cursor, r.Params.Limit)
	if err != nil {
		return nil, err
	}
	list, err := h.cfg.Provisioning.ListProjects(ctx, tenantOf(ctx), id, page)
	if err != nil {
		return nil, err
	}
	next, err := h.pagination(ctx, what, list.NextCursor)
	return contract.ListProjects200JSONResponse{Data: each(list.Items, projectOf), Pagination: next}, err
}

// CreateProject serves POST /v1/connections/{connectionId}/projects.
func (h handlers) CreateProject(ctx context.Context, r contract.CreateProjectRequestObject,
) (contract.CreateProjectResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	made, err := h.cfg.Provisioning.CreateProject(ctx, actorOf(ctx), tenantOf(ctx), id,
		provisioning.NewProject{Name: r.Body.Name, Region: r.Body.Region, IdempotencyKey: deref(r.Params.IdempotencyKey)})
	if err != nil {
		return nil, err
	}
	return contract.CreateProject201JSONResponse{
		Body:    contract.ProjectAnswer{Data: projectOf(made.Resource)},
		Headers: contract.CreateProject201ResponseHeaders{IdempotentReplayed: orNull(made.Replayed)},
	}, nil
}

// ListDatabases serves GET /v1/connections/{connectionId}/databases?projectId=&cursor=&limit=.
func (h handlers) ListDatabases(ctx context.Context, r contract.ListDatabasesRequestObject,
) (contract.ListDatabasesResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	what := prismaList{of: "databases", connection: id, within: deref(r.Params.ProjectID)}
	page, err := h.page(ctx, what, r.Params.Cursor, r.Params.Limit)
	if err != nil {
		return nil, err
	}
	list, err := h.cfg.Provisioning.ListDatabases(ctx, tenantOf(ctx), id, what.within, page)
	if err != nil {
		return nil, err
	}
	next, err := h.pagination(ctx, what, list.NextCursor)
	return contract.ListDatabases200JSONResponse{Data: each(list.Items, databaseOf), Pagination: next}, err
}

// CreateDatabase serves POST /v1/connections/{connectionId}/databases.
func (h handlers) CreateDatabase(ctx context.Context, r contract.CreateDatabaseRequestObject,
) (contract.CreateDatabaseResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	if r.Body.ProjectID == nil && r.Body.Region == nil { // a project's own region is the default of its databases
		return nil, badBody("/region", "This field is required.", nil)
	}
	made, err := h.cfg.Provisioning.CreateDatabase(ctx, actorOf(ctx), tenantOf(ctx), id, provisioning.NewDatabase{
		Name: r.Body.Name, Region: deref(r.Body.Region), ProjectID: deref(r.Body.ProjectID),
		IdempotencyKey: deref(r.Params.IdempotencyKey),
	})
	if err != nil {
		return nil, err
	}
	database := databaseOf(made.Resource)
	database.SecretExpired = orNull(made.SecretExpired)
	return contract.CreateDatabase201JSONResponse{
		Body:    contract.DatabaseAnswer{Data: database},
		Headers: contract.CreateDatabase201ResponseHeaders{IdempotentReplayed: orNull(made.Replayed)},
	}, nil
}

// GetDatabase serves GET /v1/connections/{connectionId}/databases/{databaseId}.
func (h handlers) GetDatabase(ctx context.Context, r contract.GetDatabaseRequestObject,
) (contract.GetDatabaseResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	database, err := h.cfg.Provisioning.GetDatabase(ctx, tenantOf(ctx), id, r.DatabaseID)
	if err != nil {
		return nil, err
	}
	return contract.GetDatabase200JSONResponse{Data: databaseOf(database)}, nil
}

// DeleteDatabase serves DELETE /v1/connections/{connectionId}/databases/{databaseId}.
func (h handlers) DeleteDatabase(ctx context.Context, r contract.DeleteDatabaseRequestObject,
) (contract.DeleteDatabaseResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	if err := h.cfg.Provisioning.DeleteDatabase(ctx, actorOf(ctx), tenantOf(ctx), id, r.DatabaseID); err != nil {
		return nil, err
	}
	return contract.DeleteDatabase204Response{}, nil
}

// GetProject serves GET /v1/connections/{connectionId}/projects/{projectId}.
func (h handlers) GetProject(ctx context.Context, r contract.GetProjectRequestObject,
) (contract.GetProjectResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	project, err := h.cfg.Provisioning.GetProject(ctx, tenantOf(ctx), id, r.ProjectID)
	if err != nil {
		return nil, err
	}
	return contract.GetProject200JSONResponse{Data: projectOf(project)}, nil
}

// UpdateProject serves PATCH /v1/connections/{connectionId}/projects/{projectId}.
func (h handlers) UpdateProject(ctx context.Context, r contract.UpdateProjectRequestObject,
) (contract.UpdateProjectResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	project, err := h.cfg.Provisioning.UpdateProject(ctx, actorOf(ctx), tenantOf(ctx), id, r.ProjectID, r.Body.Name)
	if err != nil {
		return nil, err
	}
	return contract.UpdateProject200JSONResponse{Data: projectOf(project)}, nil
}

// DeleteProject serves DELETE /v1/connections/{connectionId}/projects/{projectId}.
func (h handlers) DeleteProject(ctx context.Context, r contract.DeleteProjectRequestObject,
) (contract.DeleteProjectResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	if err := h.cfg.Provisioning.DeleteProject(ctx, actorOf(ctx), tenantOf(ctx), id, r.ProjectID); err != nil {
		return nil, err
	}
	return contract.DeleteProject204Response{}, nil
}

// UpdateDatabase serves PATCH /v1/connections/{connectionId}/databases/{databaseId}.
func (h handlers) UpdateDatabase(ctx context.Context, r contract.UpdateDatabaseRequestObject,
) (contract.UpdateDatabaseResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	database, err := h.cfg.Provisioning.UpdateDatabase(ctx, actorOf(ctx), tenantOf(ctx), id, r.DatabaseID, r.Body.Name)
	if err != nil {
		return nil, err
	}
	return contract.UpdateDatabase200JSONResponse{Data: databaseOf(database)}, nil
}

// ListRegions serves GET /v1/regions.
func (h handlers) ListRegions(ctx context.Context, _ contract.ListRegionsRequestObject,
) (contract.ListRegionsResponseObject, error) {
	regions, err := h.cfg.Provisioning.Regions(ctx, tenantOf(ctx))
	if err != nil {
		return nil, err
	}
	return contract.ListRegions200JSONResponse{
		Data: each(regions, func(r provisioning.Region) contract.Region { return contract.Region(r) }),
	}, nil
}
