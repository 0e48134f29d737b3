package prisma

import (
	"fmt"
	"log/slog"
	"time"
)

// Ref points at another resource.
type Ref struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// Project is a project. Source: schema Project.
type Project struct {
	ID        string    `json:"id"` // "proj_…"
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"createdAt"`

	// LogicalID is the creator's own name for it, unique in the workspace; "" without.
	LogicalID string `json:"logicalId"`

	// DefaultRegion is where its databases go by default ("us-east-1"); "" if unknown.
	DefaultRegion string `json:"defaultRegion"`

	Workspace Ref `json:"workspace"`
}

// CreatedProject is a new project. Source: schema CreatedProject.
type CreatedProject struct {
	Project

	// Database is the project's first database with its connection strings, which are
	// never shown again; nil if none was asked for.
	Database *Database `json:"database"`
}

// Database is a Prisma Postgres database. Source: schemas Database, CreatedDatabase
// and InitialDatabase. Printing or logging it shows no connection string.
type Database struct {
	ID        string    `json:"id"` // "db_…"
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"createdAt"`

	// Status is "provisioning", "ready", "recovering" or "failure"; others may come.
	Status string `json:"status"`

	// IsDefault: the project's default database, which only goes with its project.
	IsDefault bool `json:"isDefault"`

	// DefaultConnectionID is one of Connections, "" without.
	DefaultConnectionID string `json:"defaultConnectionId"`

	// Connections are the database's credentials. Their connection strings are only
	// there in the answer that made them.
	Connections []DatabaseConnection `json:"connections"`

	// Project is empty inside a CreatedProject.
	Project Ref `json:"project"`

	// Region is nil while it is unknown.
	Region *Ref `json:"region"`

	// BranchID and LogicalID are "" without.
	BranchID  string `json:"branchId"`
	LogicalID string `json:"logicalId"`
}

// ConnectionString returns the connection string of the default connection, else the
// first one that any connection shows, and "" when none does.
func (d Database) ConnectionString() string {
	first := ""
	for _, connection := range d.Connections {
		text := connection.ConnectionString()
		if connection.ID == d.DefaultConnectionID && text != "" {
			return text
		}
		if first == "" {
			first = text
		}
	}
	return first
}

// String describes the database without its connection strings.
func (d Database) String() string { return fmt.Sprintf("database %s (%s)", d.ID, d.Status) }

// GoString is String, so that %#v shows no secret either.
func (d Database) GoString() string { return d.String() }

// LogValue describes the database without its connection strings.
func (d Database) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", d.ID), slog.String("status", d.Status))
}

// DatabaseConnection is a set of credentials of a database; Prisma calls them
// connections. Source: schemas Connection, CreatedConnection and DatabaseConnection.
// Printing or logging it shows no connection string.
type DatabaseConnection struct {
	ID        string    `json:"id"` // "con_…"
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"createdAt"`

	// Kind is "postgres" or "accelerate".
	Kind string `json:"kind"`

	Endpoints Endpoints `json:"endpoints"`
	Database  Ref       `json:"database"`

	// LegacyString is the deprecated top-level connection string of a new connection.
	LegacyString string `json:"connectionString"`
}

// ConnectionString returns a postgres:// string that opens the database: the direct
// endpoint's, else the pooled one's, else the legacy one. It is "" except in the
// answer that made the connection.
func (c DatabaseConnection) ConnectionString() string {
	for _, endpoint := range []*Endpoint{c.Endpoints.Direct, c.Endpoints.Pooled} {
		if endpoint != nil && endpoint.ConnectionString != "" {
			return endpoint.ConnectionString
		}
	}
	return c.LegacyString
}

// String is the connection's id.
func (c DatabaseConnection) String() string { return "credentials " + c.ID }

// GoString is String, so that %#v shows no secret either.
func (c DatabaseConnection) GoString() string { return c.String() }

// LogValue is the connection's id.
func (c DatabaseConnection) LogValue() slog.Value { return slog.StringValue(c.ID) }

// Endpoints are the ways to reach a database; each may be nil.
type Endpoints struct {
	Direct     *Endpoint `json:"direct"`
	Pooled     *Endpoint `json:"pooled"`
	Accelerate *Endpoint `json:"accelerate"`
}

// Endpoint is one way to reach a database. Printing or logging it does not show the
// connection string.
type Endpoint struct {
	Host string `json:"host"`
	Port int    `json:"port"`

	// ConnectionString is "" except in the answer that made the connection.
	ConnectionString string `json:"connectionString"`
}

// String is the host and port.
func (e Endpoint) String() string { return fmt.Sprintf("%s port %d", e.Host, e.Port) }

// GoString is String, so that %#v shows no secret either.
func (e Endpoint) GoString() string { return e.String() }

// LogValue is the host and port.
func (e Endpoint) LogValue() slog.Value { return slog.StringValue(e.String()) }

// Region is a place for databases. Source: schema PostgresRegion.
type Region struct {
	ID   string `json:"id"` // "us-east-1"
	Name string `json:"name"`

	// Status is "available" or "unavailable".
	Status string `json:"status"`
}

// Workspace is a workspace. Source: schema Workspace.
type Workspace struct {
	ID        string    `json:"id"` // "wksp_…"
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"createdAt"`
}

// Principal is whom a token stands for. Source: schema Principal.
type Principal struct {
	// User is nil for a service token.
	User *PrincipalUser `json:"user"`

	// Workspace is nil when the token is not bound to one.
	Workspace *Ref `json:"workspace"`

	Credential PrincipalCredential `json:"credential"`
}

// PrincipalUser is the user of a token.
type PrincipalUser struct {
	ID    string `json:"id"`
	Email string `json:"email"`
	Name  string `json:"name"` // "" without
}

// PrincipalCredential says what kind of token it is.
type PrincipalCredential struct {
	// Type is "oauth", "service_token", "management_token" or "agent_token".
	Type string `json:"type"`

	ID   string `json:"id"`   // "" without
	Name string `json:"name"` // "" without
}
