package managementapi

import (
	"cmp"
	"encoding/json"

	"github.com/oapi-codegen/nullable"
)

// DatabaseURL returns the connection string of the project's first database, as one puts
// it into DATABASE_URL; empty if the project was made without one. It is shown this once.
func (p CreatedProject) DatabaseURL() Secret {
	database, err := p.Database.Get()
	if err != nil {
		return Secret{}
	}
	return database.DatabaseURL()
}

// DatabaseURL returns the connection string of the database, empty if the answer
// shows none. It is shown this once.
func (d InitialDatabase) DatabaseURL() Secret {
	return databaseURL(d.Connections, d.DefaultConnectionID, d.ConnectionString)
}

// DatabaseURL returns the connection string of the new database, empty if the answer
// shows none. It is shown this once.
func (d CreatedDatabase) DatabaseURL() Secret {
	return databaseURL(d.Connections, d.DefaultConnectionID, nil)
}

// DatabaseURL returns the connection string of the new database, empty if the answer
// shows none. It is shown this once.
func (d CreatedProjectDatabase) DatabaseURL() Secret {
	return databaseURL(d.Connections, d.DefaultConnectionID, d.ConnectionString)
}

// DatabaseURL returns a postgres:// string that opens the database: the direct
// endpoint's, else the pooled one's, else the deprecated one. It is shown this once.
func (c CreatedConnection) DatabaseURL() Secret {
	for _, endpoint := range []*CreatedEndpoint{c.Endpoints.Direct, c.Endpoints.Pooled} {
		if endpoint != nil && endpoint.ConnectionString != (Secret{}) {
			return endpoint.ConnectionString
		}
	}
	return c.ConnectionString
}

// DatabaseURL returns a postgres:// string that opens the database: the direct
// endpoint's, else the pooled one's. It is empty except in the answer that made the
// connection.
func (c DatabaseConnection) DatabaseURL() Secret {
	for _, endpoint := range []*DatabaseEndpoint{c.Endpoints.Direct, c.Endpoints.Pooled} {
		if endpoint != nil && endpoint.ConnectionString != nil && *endpoint.ConnectionString != (Secret{}) {
			return *endpoint.ConnectionString
		}
	}
	return Secret{}
}

// databaseURL returns the connection string of the default connection, else the first
// that any connection shows, else the deprecated one.
func databaseURL(
	connections []DatabaseConnection, standard nullable.Nullable[string], deprecated nullable.Nullable[Secret],
) Secret {
	preferred, err := standard.Get()
	var first Secret
	for _, connection := range connections {
		text := connection.DatabaseURL()
		if err == nil && connection.ID == preferred && text != (Secret{}) {
			return text
		}
		first = cmp.Or(first, text)
	}
	if legacy, err := deprecated.Get(); first == (Secret{}) && err == nil {
		return legacy
	}
	return first
}

// The constants of a source are the interface's business: they are filled in when a
// source is encoded, so that nobody has to.

// MarshalJSON encodes the source with its type.
func (s BackupSource) MarshalJSON() ([]byte, error) {
	type plain BackupSource
	s.Type = BackupSourceTypeBackup
	return json.Marshal(plain(s))
}

// MarshalJSON encodes the source with its type.
func (s CloneSource) MarshalJSON() ([]byte, error) {
	type plain CloneSource
	s.Type = CloneSourceTypeDatabase
	return json.Marshal(plain(s))
}

// MarshalJSON encodes the source with its type.
func (s EmptySource) MarshalJSON() ([]byte, error) {
	type plain EmptySource
	s.Type = EmptySourceTypeEmpty
	return json.Marshal(plain(s))
}
