package tenants

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/jackc/pgx/v5"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/sealing"
)

// Completion says how a connect session is finished.
type Completion string

// The two ways.
const (
	// CompletionCode: the partner's backend redeems a completion code in its own
	// logged-in session. Whoever finished in the browser is thereby its user.
	CompletionCode Completion = "code"
	// CompletionAutomatic: the callback finishes the session, for tools that have
	// no backend session.
	CompletionAutomatic Completion = "automatic"
)

// Tenant is a partner app.
type Tenant struct {
	ID            TenantID
	Name          string // shown to end users
	Paused        bool
	Completion    Completion
	SharedClient  bool   // uses the installation's OAuth client
	OAuthClientID string // "" with SharedClient
	NextSecret    bool   // the client's next secret is stored, and was not needed so far
	RestartURL    string // where expired and failed pages lead; "": none
	ReturnURLs    []string
	Limits        Limits // with the defaults where nothing was set
	CreatedAt     time.Time
}

// OAuthClient is a registration at Prisma.
type OAuthClient struct {
	ID         string
	Secret     string // "": a public client
	NextSecret string // is about to replace Secret at Prisma; "": none
}

// TenantInput is what an operator says of a tenant.
type TenantInput struct {
	Name         string
	Completion   Completion // "": code
	Client       OAuthClient
	SharedClient bool
	ServiceToken string // "": none
	RestartURL   string
	ReturnURLs   []string
	Limits       Limits // zero fields: the defaults
}

// CreateTenant stores a new tenant. Client and SharedClient exclude each other
// and one is needed; a client's next secret is UpdateTenant's to store. A refused value is a fault.InvalidValue that names its field.
func (s *Store) CreateTenant(ctx context.Context, by Actor, in TenantInput) (Tenant, error) {
	if in.Completion == "" {
		in.Completion = CompletionCode
	}
	if err := in.check(); err != nil {
		return Tenant{}, err
	}
	id := TenantID{newID()}
	secret, err := s.sealTenant(id, clientSecretColumn, in.Client.Secret)
	if err != nil {
		return Tenant{}, err
	}
	service, err := s.sealTenant(id, "service_token", in.ServiceToken)
	if err != nil {
		return Tenant{}, err
	}
	err = s.inOperator(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO tenants (id, name, completion, shared_client, oauth_client_id,
				client_secret_sealed, service_token_sealed, restart_url)
			VALUES ($1, $2, $3, $4, NULLIF($5, ''), $6, $7, NULLIF($8, ''))`,
			id, in.Name, in.Completion, in.SharedClient, in.Client.ID, secret, service, in.RestartURL)
		if err != nil {
			return fmt.Errorf("insert tenant: %w", err)
		}
		if _, err := changeLimits(ctx, tx, id, in.Limits.change()); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `INSERT INTO tenant_sequences (tenant_id) VALUES ($1)`, id); err != nil {
			return fmt.Errorf("insert sequences: %w", err)
		}
		if err := setReturnURLs(ctx, tx, id, in.ReturnURLs); err != nil {
			return err
		}
		return s.record(ctx, tx, id, by, change{action: auditTenantCreated, target: id.String(), data: in.details()})
	})
	if err != nil {
		return Tenant{}, err
	}
	return s.Tenant(ctx, id)
}

// TenantChange is what UpdateTenant changes; nil leaves a value as it is.
type TenantChange struct {
	Name         *string
	Paused       *bool
	Completion   *Completion
	Client       *OAuthClient // replaces the client and its secrets; SharedClient false
	NextSecret   *string      // the client's next secret (AdoptClientSecret); "" removes it
	ServiceToken *string      // "" removes it
	RestartURL   *string      // "" removes it
	ReturnURLs   []string     // nil: unchanged
	Limits       LimitsChange
}

// UpdateTenant changes a tenant; fault.NotFound when there is none.
func (s *Store) UpdateTenant(ctx context.Context, by Actor, id TenantID, c TenantChange) (Tenant, error) {
	var secret, service, next []byte
	var err error
	if c.Client != nil {
		if secret, err = s.sealTenant(id, clientSecretColumn, c.Client.Secret); err != nil {
			return Tenant{}, err
		}
	}
	if c.ServiceToken != nil {
		if service, err = s.sealTenant(id, "service_token", *c.ServiceToken); err != nil {
			return Tenant{}, err
		}
	}
	var tenant Tenant
	defer s.forgetCallers(id)
	err = s.inOperator(ctx, func(tx pgx.Tx) error {
		// NO KEY: traffic refers to the row while it holds what record waits for.
		if tenant, err = tenantRow(ctx, tx, id, "FOR NO KEY UPDATE OF t"); err != nil {
			return err
		}
		if err := c.apply(&tenant); err != nil {
			return err
		}
		if c.NextSecret != nil {
			if next, err = s.sealNextSecret(ctx, tx, id, c); err != nil {
				return err
			}
			tenant.NextSecret = next != nil
		}
		_, err := tx.Exec(ctx, `
			UPDATE tenants SET name = $2, completion = $3, shared_client = $4, oauth_client_id = NULLIF($5, ''),
				client_secret_sealed = CASE WHEN $6 THEN $7 ELSE client_secret_sealed END,
				service_token_sealed = CASE WHEN $8 THEN $9 ELSE service_token_sealed END,
				client_next_secret_sealed = CASE WHEN $12 THEN $13 WHEN NOT $6 THEN client_next_secret_sealed END,
				restart_url = NULLIF($10, ''), status = CASE WHEN $11 THEN 'paused' ELSE 'active' END,
				updated_at = app.now()
			WHERE id = $1`,
			id, tenant.Name, tenant.Completion, tenant.SharedClient, tenant.OAuthClientID,
			c.Client != nil, secret, c.ServiceToken != nil, service, tenant.RestartURL, tenant.Paused,
			c.NextSecret != nil, next)
		if err != nil {
			return fmt.Errorf("update tenant: %w", err)
		}
		if err := setReturnURLs(ctx, tx, id, tenant.ReturnURLs); err != nil {
			return err
		}
		if tenant.Limits, err = changeLimits(ctx, tx, id, c.Limits); err != nil {
			return err
		}
		return s.record(ctx, tx, id, by, change{action: auditTenantUpdated, target: id.String(), data: c.details()})
	})
	return tenant, err
}

// apply merges the change into t and checks the result.
func (c TenantChange) apply(t *Tenant) error {
	if c.Name != nil {
		t.Name = *c.Name
	}
	if c.Paused != nil {
		t.Paused = *c.Paused
	}
	if c.Completion != nil {
		t.Completion = *c.Completion
	}
	if c.Client != nil {
		t.OAuthClientID, t.SharedClient, t.NextSecret = c.Client.ID, false, false
	}
	if c.RestartURL != nil {
		t.RestartURL = *c.RestartURL
	}
	if c.ReturnURLs != nil {
		t.ReturnURLs = c.ReturnURLs
	}
	return TenantInput{
		Name: t.Name, Completion: t.Completion, Client: OAuthClient{ID: t.OAuthClientID},
		SharedClient: t.SharedClient, RestartURL: t.RestartURL, ReturnURLs: t.ReturnURLs,
	}.check()
}

// Tenant returns one tenant; fault.NotFound when there is none.
func (s *Store) Tenant(ctx context.Context, id TenantID) (Tenant, error) {
	var t Tenant
	err := s.inTenant(ctx, id, func(tx pgx.Tx) error {
		var err error
		t, err = tenantRow(ctx, tx, id, "")
		return err
	})
	return t, err
}

// Tenants lists every tenant, the newest first.
func (s *Store) Tenants(ctx context.Context) ([]Tenant, error) {
	var all []Tenant
	err := s.inOperator(ctx, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, selectTenant+` ORDER BY t.id DESC`)
		if err != nil {
			return fmt.Errorf("list tenants: %w", err)
		}
		all, err = pgx.CollectRows(rows, scanTenant)
		return err
	})
	return all, err
}

const (
	tenantColumns = `
		t.id, t.name, t.status = 'paused', t.completion, t.shared_client, coalesce(t.oauth_client_id, ''),
		t.client_next_secret_sealed IS NOT NULL, coalesce(t.restart_url, ''), t.created_at, ` + limitColumns + `,
		ARRAY(SELECT u.url FROM tenant_return_urls u WHERE u.tenant_id = t.id ORDER BY u.url)`
	selectTenant = `SELECT ` + tenantColumns + ` FROM tenants t`
)

// columns are the destinations of tenantColumns.
func (t *Tenant) columns() []any {
	return []any{
		&t.ID, &t.Name, &t.Paused, &t.Completion, &t.SharedClient, &t.OAuthClientID,
		&t.NextSecret, &t.RestartURL, &t.CreatedAt,
		&t.Limits.Requests, &t.Limits.Burst, &t.Limits.Sessions, &t.Limits.Creates, &t.Limits.AtOnce,
		&t.ReturnURLs,
	}
}

func scanTenant(row pgx.CollectableRow) (Tenant, error) {
	var t Tenant
	err := row.Scan(t.columns()...)
	return t, err
}

func tenantRow(ctx context.Context, tx pgx.Tx, id TenantID, lock string) (Tenant, error) {
	rows, err := tx.Query(ctx, selectTenant+` WHERE t.id = $1 `+lock, id)
	if err != nil {
		return Tenant{}, fmt.Errorf("read tenant: %w", err)
	}
	t, err := pgx.CollectExactlyOneRow(rows, scanTenant)
	if errors.Is(err, pgx.ErrNoRows) {
		return Tenant{}, fault.New(fault.NotFound, "There is no such tenant.", err)
	}
	return t, err
}

// ServiceToken returns the token of the tenant's own workspace, "" when it has
// none.
func (s *Store) ServiceToken(ctx context.Context, id TenantID) (string, error) {
	var sealed []byte
	err := s.inTenant(ctx, id, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT service_token_sealed FROM tenants WHERE id = $1`, id).Scan(&sealed)
	})
	if err != nil || sealed == nil {
		return "", err
	}
	token, err := s.keyset.Open(sealed, tenantPlace(id, "service_token"))
	return string(token), err
}

func tenantPlace(id TenantID, column string) sealing.Place {
	return sealing.Place{Table: "tenants", Column: column, Tenant: id.String(), ID: id.String()}
}

func (s *Store) sealTenant(id TenantID, column, secret string) ([]byte, error) {
	if secret == "" {
		return nil, nil
	}
	return s.keyset.Seal([]byte(secret), tenantPlace(id, column))
}

func setReturnURLs(ctx context.Context, tx pgx.Tx, id TenantID, urls []string) error {
	_, err := tx.Exec(ctx, `DELETE FROM tenant_return_urls WHERE tenant_id = $1 AND NOT url = ANY ($2)`, id, urls)
	if err != nil {
		return fmt.Errorf("remove return URLs: %w", err)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO tenant_return_urls (tenant_id, url) SELECT $1, unnest($2::text[]) ON CONFLICT DO NOTHING`, id, urls)
	if err != nil {
		return fmt.Errorf("add return URLs: %w", err)
	}
	return nil
}

func (in TenantInput) check() error {
	bad := fault.New(fault.InvalidValue, "The tenant has values that can't be used.", nil)
	if !IsLabel(in.Name, 120) {
		bad = bad.WithField("/name", "Use 1 to 120 printable characters.")
	}
	if in.Completion != CompletionCode && in.Completion != CompletionAutomatic {
		bad = bad.WithField("/completion", `Use "code" or "automatic".`)
	}
	if in.SharedClient == (in.Client.ID != "") {
		bad = bad.WithField("/clientId", "Name the tenant's own OAuth client, or say that it shares the installation's.")
	}
	if in.RestartURL != "" && CheckRegisteredURL(in.RestartURL) != nil {
		bad = bad.WithField("/restartUrl", "Use an absolute https URL without a fragment.")
	}
	for i, u := range in.ReturnURLs {
		if CheckRegisteredURL(u) != nil {
			bad = bad.WithField(fmt.Sprintf("/returnUrls/%d", i), "Use an absolute https URL without a fragment; http only for loopback.")
		}
	}
	if len(bad.Fields) > 0 {
		return bad
	}
	return nil
}

var errUnusableURL = errors.New("not an absolute https URL")

// CheckRegisteredURL refuses what must never be a return or restart URL: another
// scheme than https (http for loopback only), user information, a fragment,
// control or non-ASCII characters, backslashes.
func CheckRegisteredURL(raw string) error {
	if len(raw) > 2048 || strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r > '~' || r == '\\' }) {
		return errUnusableURL
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.Hostname() == "" || u.User != nil || u.Opaque != "" || strings.Contains(raw, "#") {
		return errUnusableURL
	}
	if u.Scheme == "https" || u.Scheme == "http" && isLoopback(u.Hostname()) {
		return nil
	}
	return errUnusableURL
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// IsLabel reports whether text can be shown to people as it is: 1 to limit
// characters, printable, with no control and no direction-changing characters.
func IsLabel(text string, limit int) bool {
	runes := []rune(text)
	return len(runes) > 0 && len(runes) <= limit && strings.TrimSpace(text) == text &&
		!slices.ContainsFunc(runes, func(r rune) bool {
			return r == unicode.ReplacementChar || !unicode.IsPrint(r) && r != ' ' || unicode.Is(unicode.Bidi_Control, r)
		})
}
