package prisma

import (
	"context"
	"errors"
	"net/http"
)

// Caller makes API calls for connections: it finds a live access token and renews one
// that the API refuses.
type Caller struct {
	client    *Client
	refresher *Refresher
}

// NewCaller returns a Caller that sends through client and takes tokens from
// refresher.
func NewCaller(client *Client, refresher *Refresher) *Caller {
	return &Caller{client: client, refresher: refresher}
}

// Call runs do with a client that carries the connection's access token. If do returns
// an *APIError of status 401, possibly wrapped, and the token can be renewed
// (Refresher.AfterRefusal), do runs exactly once more with the new one. So do must
// begin from scratch each time; with a 401 Prisma has done nothing.
//
// Errors are those of Refresher and of do, the latter through FaultOf: a *fault.Error
// whose cause is the *APIError or *FetchError.
func (c *Caller) Call(ctx context.Context, conn Connection, do func(ctx context.Context, client *Client) error) error {
	tokens, err := c.refresher.AccessToken(ctx, conn)
	if err != nil {
		return err
	}
	err = do(ctx, c.client.WithToken(tokens.Access))
	if refusal, ok := errors.AsType[*APIError](err); !ok || refusal.Status != http.StatusUnauthorized {
		return FaultOf(err)
	}
	fresh, err := c.refresher.AfterRefusal(ctx, conn, tokens)
	if err != nil {
		return err
	}
	return FaultOf(do(ctx, c.client.WithToken(fresh.Access)))
}
