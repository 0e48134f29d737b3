package connect

import (
	"context"
	"net/http"
	"time"
)

// Session is one attempt of one user to connect a Prisma workspace.
type Session struct {
	ID     string `json:"id"` // cs_…
	Status string `json:"status"`
	// URL is where to send the user's browser. It works once and is told only in
	// the answer that creates the session.
	URL          string    `json:"url"`
	ExpiresAt    time.Time `json:"expiresAt"`
	UserID       string    `json:"userId"`
	ConnectionID string    `json:"connectionId"`
}

// NewSession asks for a connect session.
type NewSession struct {
	// UserID is the partner's own id of its logged-in user.
	UserID string `json:"userId"`
	// UserLabel is how the connect page names the user, so that somebody who was
	// sent another person's link notices; "": the user id.
	UserLabel string `json:"userLabel,omitempty"`
	// ReturnURL is where the browser comes back to, byte for byte one of the URLs
	// registered for the partner.
	ReturnURL string `json:"returnUrl"`
	// ConnectionID repairs this connection, pinned to its workspace; "": a new one.
	ConnectionID string `json:"connectionId,omitempty"`
	// Completion is "code" for a backend with its own login, as here.
	Completion string `json:"completion,omitempty"`
}

// BeginSession creates a connect session.
//
//	POST /v1/connect-sessions
//	201 {"data": Session}
func (c *Client) BeginSession(ctx context.Context, in NewSession) (Session, error) {
	return one[Session](ctx, c, call{method: http.MethodPost, path: []string{"connect-sessions"}, body: in})
}

// CompleteSession turns the completion code that the browser brought back into a
// connection. userID is the user who is logged in now: naming them here is what
// proves that the person who consented is the partner's user. The same call may be
// repeated for ten minutes and gives the same connection.
//
//	POST /v1/connect-sessions/{id}/complete
//	200 {"data": Connection}
//
// Problems: CompletionInProgress, try again after RetryAfter; WorkspaceChanged;
// Expired, RestartConnect, Conflict and NotFound, begin a new session.
func (c *Client) CompleteSession(ctx context.Context, id, completionCode, userID string) (Connection, error) {
	return one[Connection](ctx, c, call{
		method: http.MethodPost,
		path:   []string{"connect-sessions", id, "complete"},
		body: struct {
			CompletionCode string `json:"completionCode"`
			UserID         string `json:"userId"`
		}{completionCode, userID},
	})
}
