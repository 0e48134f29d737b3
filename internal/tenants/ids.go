package tenants

import (
	"encoding/base32"
	"errors"
	"strings"

	"github.com/google/uuid"
)

// Ids are UUIDv7 in Postgres and prefix + 26 characters of lower-case base32
// outside. Each kind is a type of its own, so that the compiler keeps them apart.
type (
	// TenantID names a tenant, "ten_…".
	TenantID struct{ uuid.UUID }
	// KeyID names an API key, "key_…"; it is not the key.
	KeyID struct{ uuid.UUID }
	// SessionID names a connect session, "cs_…".
	SessionID struct{ uuid.UUID }
	// ConnectionID names a connection, "cnx_…".
	ConnectionID struct{ uuid.UUID }
	// OperationID names an operation, "op_…".
	OperationID struct{ uuid.UUID }
	// EventID names an event, "evt_…".
	EventID struct{ uuid.UUID }
	// AdminID names an admin, "adm_…".
	AdminID struct{ uuid.UUID }
)

const (
	tenantPrefix     = "ten_"
	keyPrefix        = "key_"
	sessionPrefix    = "cs_"
	connectionPrefix = "cnx_"
	operationPrefix  = "op_"
	eventPrefix      = "evt_"
	adminPrefix      = "adm_"
)

// ErrMalformedID tells that a text is no id of the wanted kind.
var ErrMalformedID = errors.New("malformed id")

// String is the id as partners see it.
func (id TenantID) String() string { return formatID(tenantPrefix, id.UUID) }

// String is the id as partners see it.
func (id KeyID) String() string { return formatID(keyPrefix, id.UUID) }

// String is the id as partners see it.
func (id SessionID) String() string { return formatID(sessionPrefix, id.UUID) }

// String is the id as partners see it.
func (id ConnectionID) String() string { return formatID(connectionPrefix, id.UUID) }

// String is the id as partners see it; Prisma keeps it as logicalId.
func (id OperationID) String() string { return formatID(operationPrefix, id.UUID) }

// String is the id as partners see it.
func (id EventID) String() string { return formatID(eventPrefix, id.UUID) }

// String is the id as the log shows it.
func (id AdminID) String() string { return formatID(adminPrefix, id.UUID) }

// ParseTenantID reads what TenantID.String wrote; ErrMalformedID otherwise.
func ParseTenantID(s string) (TenantID, error) {
	id, err := parseID(tenantPrefix, s)
	return TenantID{id}, err
}

// ParseKeyID reads what KeyID.String wrote; ErrMalformedID otherwise.
func ParseKeyID(s string) (KeyID, error) {
	id, err := parseID(keyPrefix, s)
	return KeyID{id}, err
}

// ParseSessionID reads what SessionID.String wrote; ErrMalformedID otherwise.
func ParseSessionID(s string) (SessionID, error) {
	id, err := parseID(sessionPrefix, s)
	return SessionID{id}, err
}

// ParseConnectionID reads what ConnectionID.String wrote; ErrMalformedID
// otherwise.
func ParseConnectionID(s string) (ConnectionID, error) {
	id, err := parseID(connectionPrefix, s)
	return ConnectionID{id}, err
}

// ParseOperationID reads what OperationID.String wrote; ErrMalformedID otherwise.
func ParseOperationID(s string) (OperationID, error) {
	id, err := parseID(operationPrefix, s)
	return OperationID{id}, err
}

func newID() uuid.UUID { return uuid.Must(uuid.NewV7()) } // fails only without a random source

func idEncoding() *base32.Encoding {
	return base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
}

func formatID(prefix string, id uuid.UUID) string {
	return prefix + idEncoding().EncodeToString(id[:])
}

func parseID(prefix, s string) (uuid.UUID, error) {
	text, ok := strings.CutPrefix(s, prefix)
	if !ok || len(text) != 26 {
		return uuid.Nil, ErrMalformedID
	}
	raw, err := idEncoding().DecodeString(text)
	if err != nil {
		return uuid.Nil, ErrMalformedID
	}
	id, err := uuid.FromBytes(raw)
	// The last character carries spare bits: only one spelling of an id is taken.
	if err != nil || formatID(prefix, id) != s {
		return uuid.Nil, ErrMalformedID
	}
	return id, nil
}

// PlainID is one of Prisma's ids without the prefix that tells its kind. Prisma takes ids
// with it and without it, so that this is the form to compare.
func PlainID(id string) string { return id[strings.LastIndexByte(id, '_')+1:] }

// idForms are the forms in which one of Prisma's ids may be stored.
func idForms(id string) []string {
	plain := PlainID(id)
	return []string{plain, "proj_" + plain, "db_" + plain, "con_" + plain}
}
