package prisma

import (
	"context"
	"log/slog"
)

// OAuthClient is a registration at Prisma's authorization server. Printing or logging
// it does not show the secret.
type OAuthClient struct {
	// ID is the client_id.
	ID string

	// Secret is the client_secret, sent in the form body; "" for a public client.
	Secret string

	// NextSecret is the one that is about to replace Secret; "": none. It is sent when
	// the server does not take Secret any more, and not before.
	NextSecret string
}

// Besides returns the client with the secret to send once refused was not taken, and
// whether that is another one: the current one if it was replaced since, else the next.
func (c OAuthClient) Besides(refused string) (OAuthClient, bool) {
	if c.Secret == refused {
		c.Secret = c.NextSecret
	}
	return OAuthClient{ID: c.ID, Secret: c.Secret}, refused != "" && c.Secret != "" && c.Secret != refused
}

// String is the client's id.
func (c OAuthClient) String() string { return "client " + c.ID }

// GoString is String, so that %#v shows no secret either.
func (c OAuthClient) GoString() string { return c.String() }

// LogValue is the client's id.
func (c OAuthClient) LogValue() slog.Value { return slog.StringValue(c.ID) }

// Connection is what the refresher needs to know of one connection.
type Connection struct {
	// Key names the connection within this process, for sharing one refresh between
	// callers and for logs. It is not secret and must be unique.
	Key string

	// Share names the party whose share of the exchanges in flight a refresh of this
	// connection uses. Where exchanges are short of places, each waiting party gets as
	// many as the others, however many connections it has. "" is a party too.
	Share string

	// Storage keeps the connection's tokens. If it implements RefreshLease, that
	// coordinates processes; otherwise refreshes are only kept apart within this one.
	Storage TokenStorage

	// Client returns the OAuth client that the grant was given to. It is called
	// before a refresh is claimed, so it may read a database.
	Client func(ctx context.Context) (OAuthClient, error)

	// AdoptSecret, if not nil, is told of a refresh that succeeded with the client's
	// NextSecret, which is now its Secret. It may be told several times, and should see to
	// it that Client returns that secret first from then on.
	AdoptSecret func(ctx context.Context, client OAuthClient) error
}

// String names the connection.
func (c Connection) String() string { return "connection " + c.Key }
