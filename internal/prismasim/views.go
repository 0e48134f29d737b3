package prismasim

import (
	"time"
)

// The bodies of the API. What the document calls nullable is a pointer without
// omitempty: it is sent as null, never left out.

type refView struct {
	ID   string `json:"id"`
	URL  string `json:"url"`
	Name string `json:"name"`
}

type namedView struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type workspaceView struct {
	ID        string    `json:"id"`
	Type      string    `json:"type"`
	URL       string    `json:"url"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"createdAt"`
}

type projectView struct {
	ID            string    `json:"id"`
	Type          string    `json:"type"`
	URL           string    `json:"url"`
	Name          string    `json:"name"`
	LogicalID     *string   `json:"logicalId"`
	CreatedAt     time.Time `json:"createdAt"`
	DefaultRegion *string   `json:"defaultRegion"`
	Workspace     refView   `json:"workspace"`
}

type createdProjectView struct {
	projectView

	Database *initialDatabaseView `json:"database"`
}

// endpointView is where a connection leads; the string is there only when the
// connection was just made.
type endpointView struct {
	Host             string `json:"host"`
	Port             int    `json:"port"`
	ConnectionString string `json:"connectionString,omitempty"`
}

type endpointsView struct {
	Direct endpointView `json:"direct"`
}

type directView struct {
	Host string `json:"host"`
	Pass string `json:"pass"`
	User string `json:"user"`
}

type connectionView struct {
	ID               string        `json:"id"`
	Type             string        `json:"type"`
	URL              string        `json:"url"`
	Name             string        `json:"name"`
	CreatedAt        time.Time     `json:"createdAt"`
	Kind             string        `json:"kind"`
	Endpoints        endpointsView `json:"endpoints"`
	DirectConnection *directView   `json:"directConnection"`
	Database         refView       `json:"database"`
}

type createdConnectionView struct {
	connectionView

	ConnectionString string  `json:"connectionString"`
	Host             *string `json:"host"`
	Pass             *string `json:"pass"`
	User             *string `json:"user"`
}

// databaseFields are what all bodies of a database share.
type databaseFields struct {
	ID                  string           `json:"id"`
	Type                string           `json:"type"`
	URL                 string           `json:"url"`
	Name                string           `json:"name"`
	Status              string           `json:"status"`
	CreatedAt           time.Time        `json:"createdAt"`
	IsDefault           bool             `json:"isDefault"`
	DefaultConnectionID *string          `json:"defaultConnectionId"`
	Connections         []connectionView `json:"connections"`
	Region              namedView        `json:"region"`
	Source              source           `json:"source"`
	BranchID            *string          `json:"branchId"`
	LogicalID           *string          `json:"logicalId"`
}

type databaseView struct {
	databaseFields

	Project refView `json:"project"`
}

// initialDatabaseView is the first database inside a project just made.
type initialDatabaseView struct {
	databaseFields
	legacyFields
}

// createdDatabaseView is the body of the per-project creation.
type createdDatabaseView struct {
	databaseView
	legacyFields
}

// legacyFields are deprecated and still required.
type legacyFields struct {
	APIKeys          []legacyKeyView `json:"apiKeys"`
	ConnectionString *string         `json:"connectionString"`
	DirectConnection *directView     `json:"directConnection"`
}

type legacyKeyView struct {
	connectionView

	ConnectionString string `json:"connectionString"`
}

// optional returns nil for the empty text.
func optional(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

func (s *Simulator) ref(kind, id, name string) refView {
	return refView{ID: id, URL: s.url + "/v1/" + kind + "/" + id, Name: name}
}

func (s *Simulator) viewWorkspace(row workspace) workspaceView {
	return workspaceView{
		ID: row.ID, Type: "workspace", URL: s.url + "/v1/workspaces/" + row.ID, Name: row.Name, CreatedAt: row.CreatedAt,
	}
}

func (s *Simulator) viewProject(st *state, row project) projectView {
	owner := st.workspaces.rows[row.WorkspaceID]
	return projectView{
		ID: row.ID, Type: "project", URL: s.url + "/v1/projects/" + row.ID, Name: row.Name,
		LogicalID: optional(row.LogicalID), CreatedAt: row.CreatedAt, DefaultRegion: optional(row.Region),
		Workspace: s.ref("workspaces", owner.ID, owner.Name),
	}
}

func (s *Simulator) viewConnection(st *state, row connection) connectionView {
	owner := st.databases.rows[row.DatabaseID]
	return connectionView{
		ID: row.ID, Type: "connection", URL: s.url + "/v1/connections/" + row.ID, Name: row.Name, CreatedAt: row.CreatedAt,
		Kind: "postgres", Endpoints: endpointsView{Direct: endpointView{Host: s.real.host, Port: s.real.port}},
		Database: s.ref("databases", owner.ID, owner.Name),
	}
}

// viewFresh is a connection with its string, which is shown this once.
func (s *Simulator) viewFresh(st *state, row connection, password string) connectionView {
	view := s.viewConnection(st, row)
	view.Endpoints.Direct.ConnectionString = s.real.connectionString(row.DatabaseID, row.ID, password)
	view.DirectConnection = &directView{Host: s.real.address(), Pass: password, User: row.ID}
	return view
}

func (s *Simulator) viewCreatedConnection(st *state, row connection, password string) createdConnectionView {
	view := s.viewFresh(st, row, password)
	direct := view.DirectConnection
	return createdConnectionView{
		connectionView: view, ConnectionString: view.Endpoints.Direct.ConnectionString,
		Host: &direct.Host, Pass: &direct.Pass, User: &direct.User,
	}
}

// viewFields renders a database with its connections that lists show by now.
func (s *Simulator) viewFields(st *state, row database, now time.Time) databaseFields {
	view := databaseFields{
		ID: row.ID, Type: "database", URL: s.url + "/v1/databases/" + row.ID, Name: row.Name, Status: row.Status,
		CreatedAt: row.CreatedAt, IsDefault: row.IsDefault, DefaultConnectionID: optional(row.DefaultConnectionID),
		Connections: []connectionView{}, Region: namedView{ID: row.Region, Name: regionName(row.Region)},
		Source: row.Source, LogicalID: optional(row.LogicalID),
	}
	for _, c := range st.connections.under(row.ID) {
		if !c.VisibleAt.After(now) {
			view.Connections = append(view.Connections, s.viewConnection(st, c))
		}
	}
	return view
}

func (s *Simulator) viewDatabase(st *state, row database, now time.Time) databaseView {
	owner := st.projects.rows[row.ProjectID]
	return databaseView{databaseFields: s.viewFields(st, row, now), Project: s.ref("projects", owner.ID, owner.Name)}
}

// viewLegacy is the deprecated half of a database just made.
func viewLegacy(fresh connectionView) legacyFields {
	text := fresh.Endpoints.Direct.ConnectionString
	bare := fresh
	bare.Endpoints.Direct.ConnectionString = ""
	return legacyFields{
		APIKeys:          []legacyKeyView{{connectionView: bare, ConnectionString: text}},
		ConnectionString: &text,
		DirectConnection: fresh.DirectConnection,
	}
}
