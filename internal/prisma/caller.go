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
	scouts    *scouts
}

// NewCaller returns a Caller that sends through client and takes tokens from
// refresher.
func NewCaller(client *Client, refresher *Refresher) *Caller {
	return &Caller{client: client, refresher: refresher, scouts: newScouts(refresher.now)}
}

// Call runs do with a client that carries the connection's access token. If do returns
// an *APIError of status 401, possibly wrapped, and the token can be renewed
// (Refresher.AfterRefusal), do runs exactly once more with the new one. So do must
// begin from scratch each time; with a 401 Prisma has done nothing. Of many calls for one
// connection at once, some go first, so that a token which Prisma has ended before its time
// is not sent by all of them.
//
// Errors are those of Refresher and of do, the latter through FaultOf: a *fault.Error
// whose cause is the *APIError or *FetchError.
func (c *Caller) Call(ctx context.Context, conn Connection, do func(ctx context.Context, client *Client) error) error {
	return FaultOf(callWithToken(ctx, connectionTokens{c.refresher, conn}, func(ctx context.Context, bearer string) error {
		leave := c.scouts.enter(ctx.Done(), conn.Key, bearer)
		if leave == nil {
			return errRefusedBefore()
		}
		err := errors.New("the call did not end")
		defer func() { leave(err) }()
		err = do(ctx, c.client.WithToken(bearer))
		return err
	}))
}

// tokenSource is where a call finds its access token.
type tokenSource interface {
	// current returns the tokens to send first.
	current(ctx context.Context) (Tokens, error)

	// renewed returns tokens other than those that the API refused with refusal, or
	// the error to end the call with.
	renewed(ctx context.Context, refused Tokens, refusal error) (Tokens, error)
}

// callWithToken runs send with an access token, and once more with a renewed one if the
// API answers 401. It is the only place that repeats a call for that reason. Errors of
// source and send come back as they are.
func callWithToken(ctx context.Context, source tokenSource, send func(ctx context.Context, bearer string) error) error {
	tokens, err := source.current(ctx)
	if err != nil {
		return err
	}
	err = send(ctx, tokens.Access)
	if !refusesToken(err) {
		return err
	}
	fresh, err := source.renewed(ctx, tokens, err)
	if err != nil {
		return err
	}
	return send(ctx, fresh.Access)
}

// refusesToken reports whether err is an API answer of status 401.
func refusesToken(err error) bool {
	answer, ok := errors.AsType[*APIError](err)
	return ok && answer.Status == http.StatusUnauthorized
}

// connectionTokens are a connection's tokens, with the refresher's own errors.
type connectionTokens struct {
	refresher *Refresher
	conn      Connection
}

func (t connectionTokens) current(ctx context.Context) (Tokens, error) {
	return t.refresher.AccessToken(ctx, t.conn)
}

func (t connectionTokens) renewed(ctx context.Context, refused Tokens, _ error) (Tokens, error) {
	return t.refresher.AfterRefusal(ctx, t.conn, refused)
}
