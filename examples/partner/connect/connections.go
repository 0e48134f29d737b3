package connect

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// The statuses of a connection.
const (
	Active         = "active"
	Suspect        = "suspect"         // works now, may need the user soon
	NeedsReconnect = "needs_reconnect" // only the user can repair it
	Disconnected   = "disconnected"
)

// Connection is a user's Prisma workspace that the partner may act in.
type Connection struct {
	ID        string    `json:"id"` // cnx_…
	UserID    string    `json:"userId"`
	Workspace Workspace `json:"workspace"`
	Status    string    `json:"status"`
	Diagnosis Diagnosis `json:"diagnosis"`
	CreatedAt time.Time `json:"createdAt"`
}

// Workspace is one of Prisma's.
type Workspace struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// What the app looks for in a diagnosis.
const (
	Healthy         = "healthy"   // code: nothing is wrong
	ActionReconnect = "reconnect" // action: the user has to connect again
)

// Diagnosis says how a connection is and who must act.
type Diagnosis struct {
	Code    string    `json:"code"`    // for programs
	Message string    `json:"message"` // for people
	Action  string    `json:"action"`  // who must act
	Since   time.Time `json:"since"`
}

// Disconnection is what became of a connection that was given up.
type Disconnection struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	// IntegrationRemoved tells whether Prisma forgot the partner too; if not, the
	// user may remove it in Prisma's own console.
	IntegrationRemoved bool `json:"integrationRemoved"`
}

// Connections lists one user's connections, the disconnected ones included.
//
//	GET /v1/connections?userId=
func (c *Client) Connections(ctx context.Context, userID string) ([]Connection, error) {
	return all[Connection](ctx, c, call{
		method: http.MethodGet, path: []string{"connections"}, query: url.Values{"userId": {userID}},
	})
}

// Connection returns one connection, whichever of the partner's users it belongs
// to: the API key speaks for all of them, so the caller compares UserID.
//
//	GET /v1/connections/{id}
func (c *Client) Connection(ctx context.Context, id string) (Connection, error) {
	return one[Connection](ctx, c, call{method: http.MethodGet, path: []string{"connections", id}})
}

// Disconnect makes the server forget the connection's tokens.
//
//	DELETE /v1/connections/{id}
func (c *Client) Disconnect(ctx context.Context, id string) (Disconnection, error) {
	return one[Disconnection](ctx, c, call{method: http.MethodDelete, path: []string{"connections", id}})
}
