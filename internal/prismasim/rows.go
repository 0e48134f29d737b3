package prismasim

import (
	"encoding/json"
	"time"
)

// client is an OAuth client. SecretHash is empty for a public one.
type client struct {
	ID                  string    `json:"id"`
	Name                string    `json:"name"`
	SecretHash          string    `json:"secretHash,omitempty"`
	OtherSecretHashes   []string  `json:"otherSecretHashes,omitempty"`
	RedirectURIs        []string  `json:"redirectUris"`
	Public              bool      `json:"public,omitempty"`
	AnyLoopbackRedirect bool      `json:"anyLoopbackRedirect,omitempty"`
	CreatedAt           time.Time `json:"createdAt"`
}

// user is a person with a Prisma account, and the workspaces they may grant.
type user struct {
	ID           string   `json:"id"`
	Email        string   `json:"email"`
	Name         string   `json:"name"`
	WorkspaceIDs []string `json:"workspaceIds"`
}

// workspace owns projects. Seeded ones outlive a reset.
type workspace struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	CreatedAt time.Time `json:"createdAt"`
	Seeded    bool      `json:"seeded,omitempty"`
}

// serviceToken acts on one workspace and never expires. Only its hash is kept.
type serviceToken struct {
	ID          string    `json:"id"`
	Seq         uint64    `json:"seq"`
	WorkspaceID string    `json:"workspaceId"`
	Name        string    `json:"name"`
	Hash        string    `json:"hash"`
	Hint        string    `json:"hint"`
	CreatedAt   time.Time `json:"createdAt"`
	Seeded      bool      `json:"seeded,omitempty"`
}

// grant is one consent of one user to one client on one workspace: the family
// that all tokens of that authorization belong to.
type grant struct {
	ID          string    `json:"id"`
	Seq         uint64    `json:"seq"`
	ClientID    string    `json:"clientId"`
	UserID      string    `json:"userId"`
	WorkspaceID string    `json:"workspaceId"`
	Scope       string    `json:"scope"`
	CreatedAt   time.Time `json:"createdAt"`
	Revoked     bool      `json:"revoked,omitempty"`
	Reason      string    `json:"reason,omitempty"` // why it was revoked
}

// integration is what the workspace sees of a client that holds live grants.
type integration struct {
	ID          string    `json:"id"`
	Seq         uint64    `json:"seq"`
	WorkspaceID string    `json:"workspaceId"`
	ClientID    string    `json:"clientId"`
	UserID      string    `json:"userId"`
	Scope       string    `json:"scope"`
	CreatedAt   time.Time `json:"createdAt"`
	VisibleAt   time.Time `json:"visibleAt"`
}

// integrationKey names the pair that has at most one integration.
func integrationKey(workspaceID, clientID string) string { return workspaceID + "\n" + clientID }

// authCode is an authorization code, kept under its hash after use so that a
// second presentation is recognised.
type authCode struct {
	ClientID    string    `json:"clientId"`
	RedirectURI string    `json:"redirectUri"`
	Challenge   string    `json:"challenge,omitempty"`
	Scope       string    `json:"scope"`
	UserID      string    `json:"userId"`
	WorkspaceID string    `json:"workspaceId"`
	IssuedAt    time.Time `json:"issuedAt"`
	Used        bool      `json:"used,omitempty"`
	Replayed    bool      `json:"replayed,omitempty"` // presented after it was used
	GrantID     string    `json:"grantId,omitempty"`  // the grant it was exchanged for
}

// refreshToken is one token of a grant's family, with the ledger's counts.
type refreshToken struct {
	ID        string    `json:"id"`
	Seq       uint64    `json:"seq"`
	Hash      string    `json:"hash"`
	GrantID   string    `json:"grantId"`
	ExpiresAt time.Time `json:"expiresAt"`
	UsedAt    time.Time `json:"usedAt,omitzero"` // zero: not used yet
	Received  int       `json:"received"`
	Processed int       `json:"processed"`
	Answered  int       `json:"answered"`
}

// accessToken is what the API needs to know of an access token it issued.
type accessToken struct {
	GrantID   string    `json:"grantId"`
	ExpiresAt time.Time `json:"expiresAt"`
}

// project belongs to one workspace; a transfer changes which.
type project struct {
	ID          string          `json:"id"`
	Seq         uint64          `json:"seq"`
	WorkspaceID string          `json:"workspaceId"`
	Name        string          `json:"name"`
	LogicalID   string          `json:"logicalId,omitempty"`
	Region      string          `json:"region"`
	Settings    json.RawMessage `json:"settings,omitempty"`
	CreatedAt   time.Time       `json:"createdAt"`
	VisibleAt   time.Time       `json:"visibleAt"` // when lists begin to show it
}

// Statuses of a database, as the interface document has them.
const (
	statusProvisioning = "provisioning"
	statusReady        = "ready"
	statusRecovering   = "recovering"
	statusFailure      = "failure"
)

// database is a Prisma Postgres database; the real one has the same name.
type database struct {
	ID                  string    `json:"id"`
	Seq                 uint64    `json:"seq"`
	ProjectID           string    `json:"projectId"`
	Name                string    `json:"name"`
	LogicalID           string    `json:"logicalId,omitempty"`
	Region              string    `json:"region"`
	Status              string    `json:"status"`
	IsDefault           bool      `json:"isDefault,omitempty"`
	DefaultConnectionID string    `json:"defaultConnectionId,omitempty"`
	Source              source    `json:"source"`
	CreatedAt           time.Time `json:"createdAt"`
	VisibleAt           time.Time `json:"visibleAt"`
}

// source is where a database's first content came from: "empty", "database"
// (a clone) or "backup".
type source struct {
	Type       string `json:"type"`
	DatabaseID string `json:"databaseId,omitempty"`
	BackupID   string `json:"backupId,omitempty"`
}

// connection is a pair of credentials; the real login role has its id as name.
type connection struct {
	ID         string    `json:"id"`
	Seq        uint64    `json:"seq"`
	DatabaseID string    `json:"databaseId"`
	Name       string    `json:"name"`
	CreatedAt  time.Time `json:"createdAt"`
	VisibleAt  time.Time `json:"visibleAt"`
}

// backup is a copy of a database's content: a real database named by its id,
// or, when Empty, nothing at all (the backup of a database just made).
type backup struct {
	ID         string    `json:"id"`
	Seq        uint64    `json:"seq"`
	DatabaseID string    `json:"databaseId"`
	Empty      bool      `json:"empty,omitempty"`
	Size       int64     `json:"size"` // bytes
	CreatedAt  time.Time `json:"createdAt"`
}

// landing is a creation that was answered with an error and happens later.
type landing struct {
	Due      time.Time `json:"due"`
	Creation creation  `json:"creation"`
}

// settings are the switches of the control interface.
type settings struct {
	Faults  Faults        `json:"faults"`
	Consent consent       `json:"consent"`
	Offset  time.Duration `json:"offset"` // how far the clock was moved, nanoseconds
}

// tallies are the counters of the ledger.
type tallies struct {
	CodeExchanges int64 `json:"codeExchanges"`
	Refreshes     int64 `json:"refreshes"`
	Replays       int64 `json:"replays"`
	Revocations   int64 `json:"revocations"`
	APIRequests   int64 `json:"apiRequests"`
}

// signingKey signs the access tokens: PKCS #8 in DER. It is kept so that tokens
// given before a restart still verify after it.
type signingKey struct {
	PKCS8 []byte `json:"pkcs8"`
}

// only is the id of the row in a table that has one.
const only = "only"
