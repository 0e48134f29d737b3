package web

import "time"

// AdminSignInPage asks an admin for email address and password.
type AdminSignInPage struct {
	Error string // why the last try failed; "" on the first
	Email string // what was typed the last time; the password is never shown again
	Next  string // the dashboard path to go to afterwards; "": the first page
}

// AdminTenantsPage is the dashboard's first page: every tenant with how its
// connections are.
type AdminTenantsPage struct {
	Admin   string // email address of the signed-in admin
	Tenants []AdminTenantRow
	Total   AdminConnectionCounts // over all tenants
}

// AdminTenantRow is one tenant in the list.
type AdminTenantRow struct {
	ID          string
	Name        string
	URL         string // its page
	Paused      bool
	CreatedAt   time.Time
	Connections AdminConnectionCounts
}

// AdminConnectionCounts counts connections by status.
type AdminConnectionCounts struct {
	Active, Suspect, NeedsReconnect, Disconnected int
}

// AdminTenantPage is one tenant with its settings, keys and connections.
type AdminTenantPage struct {
	Admin        string // email address of the signed-in admin
	ID           string
	Name         string
	Paused       bool
	Completion   string // "code" or "automatic"
	ClientID     string // OAuth client; "" with SharedClient
	SharedClient bool
	RestartURL   string // "": none
	ReturnURLs   []string
	CreatedAt    time.Time
	Keys         []AdminKeyRow
	Connections  []AdminConnectionRow
	Limited      bool // there are more connections than are listed
}

// AdminKeyRow is what may be shown of an API key.
type AdminKeyRow struct {
	ID         string
	Name       string
	Hint       string // its first characters
	Scopes     []string
	State      string // "live", "expired" or "revoked"
	CreatedAt  time.Time
	ExpiresAt  time.Time // zero: never
	LastUsedAt time.Time // zero: never
}

// AdminConnectionRow is one connection in the list.
type AdminConnectionRow struct {
	ID            string
	UserID        string
	WorkspaceID   string
	WorkspaceName string // "": not read yet
	Status        string // "active", "suspect", "needs_reconnect" or "disconnected"
	Reason        string // what is wrong, in a word or two; "": nothing
	Message       string // the same as a sentence; "": nothing is wrong
	Action        string // who must act: "wait", "reconnect" or "operator"; "": nobody
	Since         time.Time
	AccessUntil   time.Time // calls work at least until then
	CreatedAt     time.Time
}

func (AdminSignInPage) template() string  { return "admin_sign_in" }
func (AdminTenantsPage) template() string { return "admin_tenants" }
func (AdminTenantPage) template() string  { return "admin_tenant" }
