package tenants

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
)

// The secret of an OAuth client is replaced without a pause: its next one is stored before
// Prisma knows it or takes no other, is sent when Prisma refuses the current one
// (prisma.SecretRefused), and becomes the current one as soon as it has worked.

// OAuthClientOf returns the tenant's client at Prisma with its secrets, or the
// installation's shared one.
func (s *Store) OAuthClientOf(ctx context.Context, id TenantID) (OAuthClient, error) {
	var stored clientRow
	err := s.inTenant(ctx, id, func(tx pgx.Tx) (err error) {
		stored, err = readClient(ctx, tx, id, "")
		return err
	})
	if err != nil {
		return OAuthClient{}, fmt.Errorf("read OAuth client: %w", err)
	}
	if stored.shared {
		return s.shared.get()
	}
	return s.openClient(id, stored)
}

// AdoptClientSecret makes the next secret of a tenant's client its current one, and reports
// whether it did: not if that is not the secret in client.Secret, with which a token request
// has just succeeded, or if the tenant has another client by now. Of the shared client
// only this process takes note: its secrets are settings.
func (s *Store) AdoptClientSecret(ctx context.Context, by Actor, id TenantID, client OAuthClient) (bool, error) {
	current, err := s.OAuthClientOf(ctx, id)
	if err != nil || current.ID != client.ID || !sameSecret(current.NextSecret, client.Secret) {
		return false, err // as a rule because somebody else was faster
	}
	adopted := false
	err = s.inOperator(ctx, func(tx pgx.Tx) error {
		row, err := readClient(ctx, tx, id, "FOR NO KEY UPDATE")
		if err != nil {
			return err
		}
		if row.shared {
			adopted = s.shared.adopt(client.Secret)
			return nil
		}
		stored, err := s.openClient(id, row)
		if err != nil || stored.ID != client.ID || !sameSecret(stored.NextSecret, client.Secret) {
			return err
		}
		sealed, err := s.sealTenant(id, clientSecretColumn, client.Secret)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `
			UPDATE tenants SET client_secret_sealed = $2, client_next_secret_sealed = NULL, updated_at = app.now()
			WHERE id = $1`, id, sealed); err != nil {
			return fmt.Errorf("adopt client secret: %w", err)
		}
		adopted = true
		return s.record(ctx, tx, id, by, change{action: auditClientAdopted, target: id.String(), data: map[string]any{"clientId": client.ID}})
	})
	if err == nil && adopted {
		s.fence.log.WarnContext(ctx, "Prisma takes the next secret of an OAuth client and not the current one: it is the current one from now on",
			slog.String("tenant", id.String()), slog.String("client", client.ID))
	}
	return adopted, err
}

// sealNextSecret checks and seals the next secret of a change, in the transaction that has
// locked the tenant.
func (s *Store) sealNextSecret(ctx context.Context, tx pgx.Tx, id TenantID, c TenantChange) ([]byte, error) {
	if *c.NextSecret == "" {
		return nil, nil
	}
	var current OAuthClient
	if c.Client != nil {
		current = *c.Client
	} else {
		row, err := readClient(ctx, tx, id, "")
		if err != nil {
			return nil, err
		}
		row.next = nil // of no interest, and perhaps what is to be put right
		if current, err = s.openClient(id, row); err != nil {
			return nil, err
		}
	}
	refused := fault.New(fault.InvalidValue, "The tenant has values that can't be used.", nil)
	switch {
	case current.Secret == "":
		return nil, refused.WithField("/nextSecret", "The tenant has no OAuth client of its own with a secret that could be replaced.")
	case sameSecret(current.Secret, *c.NextSecret):
		return nil, refused.WithField("/nextSecret", "That is the current secret.")
	}
	return s.sealTenant(id, nextSecretColumn, *c.NextSecret)
}

// Columns of tenants.
const (
	clientSecretColumn = "client_secret"
	nextSecretColumn   = "client_next_secret"
)

// clientRow is what tenants says of the OAuth client.
type clientRow struct {
	shared       bool
	id           string
	secret, next []byte // sealed
}

func readClient(ctx context.Context, tx pgx.Tx, id TenantID, lock string) (row clientRow, err error) {
	err = tx.QueryRow(ctx, `
		SELECT shared_client, coalesce(oauth_client_id, ''), client_secret_sealed, client_next_secret_sealed
		FROM tenants WHERE id = $1 `+lock, id).Scan(&row.shared, &row.id, &row.secret, &row.next)
	return row, err
}

func (s *Store) openClient(id TenantID, row clientRow) (OAuthClient, error) {
	client := OAuthClient{ID: row.id}
	for _, part := range []struct {
		column string
		sealed []byte
		plain  *string
	}{{clientSecretColumn, row.secret, &client.Secret}, {nextSecretColumn, row.next, &client.NextSecret}} {
		if part.sealed == nil {
			continue
		}
		plain, err := s.keyset.Open(part.sealed, tenantPlace(id, part.column))
		if err != nil {
			return OAuthClient{}, err
		}
		*part.plain = string(plain)
	}
	return client, nil
}

// sameSecret compares two secrets, of which an empty one equals none.
func sameSecret(a, b string) bool {
	return a != "" && subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// sharedClient is the installation's OAuth client, whose secrets are settings.
type sharedClient struct {
	mu     sync.Mutex
	client *OAuthClient // nil: the installation has none
}

func (c *sharedClient) get() (OAuthClient, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil {
		return OAuthClient{}, errors.New("the tenant uses the shared OAuth client, and PRISMA_CLIENT_ID is not set")
	}
	return *c.client, nil
}

// id is "" if the installation has none.
func (c *sharedClient) id() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil {
		return ""
	}
	return c.client.ID
}

// adopt makes the next secret the current one until the process ends, if it is that.
func (c *sharedClient) adopt(secret string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil || !sameSecret(c.client.NextSecret, secret) {
		return false
	}
	c.client = &OAuthClient{ID: c.client.ID, Secret: secret}
	return true
}
