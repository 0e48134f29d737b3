package prisma

import (
	"context"
	"errors"
	"log/slog"
)

// errOtherSecret says that the token endpoint did not take the client's secret, that the
// lease was given back, and that there is another secret to try.
var errOtherSecret = errors.New("prisma: another client secret is to be tried")

// sender is who an exchange is made as.
//
// While a client's secret is being replaced at Prisma, we know both: the current one is sent,
// and only if the server says invalid_client the same refresh token is sent with the next one.
// That is no replay. The server tells who asks before it looks at what is asked for, so the
// token was not used. All the same nothing is repeated within a claim: the lease is given
// back, which tells the storage that the token is unspent, and the second request has an
// intent of its own. There is no third one.
type sender struct {
	OAuthClient // its NextSecret is ""

	second bool // another secret was refused before
	next   bool // the secret is the client's next one
}

// senderOf chooses the secret to send, once refused ("": none) was not taken.
func senderOf(client OAuthClient, refused string) sender {
	if other, ok := client.Besides(refused); ok {
		return sender{OAuthClient: other, second: true, next: other.Secret != client.Secret}
	}
	return sender{OAuthClient: OAuthClient{ID: client.ID, Secret: client.Secret}, second: refused != ""}
}

// hasOther reports whether an exchange failed for a secret that has been replaced or is about
// to be. The client is read again: all this may have begun since the last time.
func (r *Refresher) hasOther(ctx context.Context, conn Connection, as sender, cause error) bool {
	if as.second || as.Secret == "" || !SecretRefused(cause) {
		return false
	}
	client, err := r.client(ctx, conn)
	if err != nil || client.ID != as.ID {
		return false
	}
	_, other := client.Besides(as.Secret)
	if other {
		r.logger.WarnContext(ctx, "Prisma does not take the client's secret; there is another one, which is tried",
			slog.String("connection", conn.Key), slog.Any("client", client))
	}
	return other
}

// adopt tells that the next secret has become the current one. It comes after the save: the
// pair is safe by now, and if this fails the next refresh finds out once more.
func (r *Refresher) adopt(ctx context.Context, conn Connection, as sender) {
	if !as.next || conn.AdoptSecret == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, r.settings.WriteAttempt)
	defer cancel()
	if err := conn.AdoptSecret(ctx, as.OAuthClient); err != nil {
		r.logger.WarnContext(ctx, "the client's next secret is in use and could not be made its current one",
			slog.Any("client", as.OAuthClient), slog.Any("error", err))
	}
}
