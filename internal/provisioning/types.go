package provisioning

import (
	"log/slog"
	"time"
)

// Project is a project in the user's workspace.
type Project struct {
	ID        string    `json:"id"` // "proj_…"
	Name      string    `json:"name"`
	Region    string    `json:"region"` // where its databases go by default; "" if unknown
	CreatedAt time.Time `json:"createdAt"`
}

// Database is a Prisma Postgres database. Printing or logging it shows no
// connection string.
type Database struct {
	ID        string `json:"id"` // "db_…"
	Name      string `json:"name"`
	Region    string `json:"region"`    // "" while it is unknown
	Status    string `json:"status"`    // "provisioning", "ready", "recovering" or "failure"; others may come
	ProjectID string `json:"projectId"` // "proj_…"

	// IsDefault: the project's default database, which only goes with its project.
	IsDefault bool      `json:"isDefault"`
	CreatedAt time.Time `json:"createdAt"`

	// Credentials are there in the answer that made the database, nil otherwise.
	Credentials *Credentials `json:"credentials,omitempty"`
}

// String names the database.
func (d Database) String() string { return "database " + d.ID + " (" + d.Status + ")" }

// GoString is String, so that %#v shows no secret either.
func (d Database) GoString() string { return d.String() }

// LogValue names the database.
func (d Database) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", d.ID), slog.String("status", d.Status))
}

// Credentials open a database; Prisma calls them a connection. Printing or
// logging them shows no connection string, and neither does their JSON: that is
// for the log of operations. Who sends them to a client names the field.
type Credentials struct {
	ID        string    `json:"id"` // "con_…"
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"createdAt"`

	// ConnectionString is a postgres:// URL with its password; "" when it is no
	// longer kept (Created.SecretExpired).
	ConnectionString string `json:"-"`
}

// String names the credentials.
func (c Credentials) String() string { return "credentials " + c.ID }

// GoString is String, so that %#v shows no secret either.
func (c Credentials) GoString() string { return c.String() }

// LogValue names the credentials.
func (c Credentials) LogValue() slog.Value { return slog.StringValue(c.ID) }

// Region is a place for databases.
type Region struct {
	ID   string // "us-east-1"
	Name string // "US East (N. Virginia)"
}

// Page chooses a page of a list.
type Page struct {
	Cursor string // List.NextCursor of the page before; "": the first
	Limit  int    // 1 to 100 items; more counts as 100, 0 leaves it to Prisma (100)
}

// List is one page, in Prisma's own order.
type List[T any] struct {
	Items      []T    // never nil
	NextCursor string // leads to the next page; "" on the last
}

// NewProject says what project to make.
type NewProject struct {
	Name           string // 1 to 255 printable characters
	Region         string // one of Regions
	IdempotencyKey string // the client's name for this call, 1 to 255 printable ASCII characters; "": none
}

// NewDatabase says what database to make.
type NewDatabase struct {
	Name           string // 1 to 255 printable characters
	Region         string // one of Regions; with a ProjectID "" is that project's
	ProjectID      string // "": make a project of the same name, whose default database it is
	IdempotencyKey string // as in NewProject
}

// NewCredentials says what credentials to make.
type NewCredentials struct {
	Name           string // 1 to 255 printable characters
	IdempotencyKey string // as in NewProject
}

// Backup is a backup of a database that Prisma took.
type Backup struct {
	ID        string
	Type      string    // "full", "incremental" or "differential"
	Status    string    // "running", "completed", "failed" or "unknown"
	CreatedAt time.Time // zero: unknown
	Size      *int64    // bytes; nil: unknown
}

// Backups are a database's newest backups. Prisma has no cursor for older ones.
type Backups struct {
	Items         []Backup // the newest first; never nil
	More          bool     // there are older ones
	RetentionDays int      // how long Prisma keeps them
}

// Restore says what to restore.
type Restore struct {
	BackupID       string
	SourceID       string // the database that the backup is of; "": the one that is restored
	IdempotencyKey string // as in NewProject
}

// Period bounds a look at usage; a zero end leaves it to Prisma (this month, until now).
type Period struct{ From, To time.Time }

// Usage is what a database used in a period.
type Usage struct {
	From, To    time.Time
	Operations  float64
	StorageGiB  float64
	GeneratedAt time.Time
}

// Created is the answer to a call that runs as an operation.
type Created[T any] struct {
	Resource T

	// Replayed: the call had been answered before under the same key, and this is
	// that answer.
	Replayed bool

	// SecretExpired: it was answered over an hour ago, so the connection string is
	// no longer kept. Database.Credentials is nil, Credentials.ConnectionString "".
	SecretExpired bool
}
