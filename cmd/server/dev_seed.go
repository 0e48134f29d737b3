package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/connect-prisma/server/internal/admin"
	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/tenants"
)

const devAdminEmail = "admin@example.com"

// seed makes the demo tenant, its API key and the admin, or finds those of an
// earlier start.
func (d *development) seed(ctx context.Context) error {
	store := d.service.store
	found, err := d.findTenant(ctx, store)
	if err != nil {
		return err
	}
	if !found {
		if err := d.makeTenant(ctx, store); err != nil {
			return err
		}
	}
	if _, hash, err := store.AdminByEmail(ctx, devAdminEmail); err == nil {
		if ok, err := admin.CheckPassword(hash, d.state.AdminPassword); err != nil || ok {
			return err
		}
	} else if fault.KindOf(err) != fault.NotFound {
		return err
	}
	hash, err := admin.HashPassword(d.state.AdminPassword)
	if err != nil {
		return err
	}
	_, err = store.SetAdmin(ctx, seeder(), devAdminEmail, hash)
	return err
}

// seeder is dev itself.
func seeder() tenants.Actor { return tenants.Actor{Type: tenants.ActorCommand, ID: "dev"} }

// findTenant looks for the tenant of an earlier start and gives it this start's
// addresses.
func (d *development) findTenant(ctx context.Context, store *tenants.Store) (bool, error) {
	id, err := tenants.ParseTenantID(d.state.TenantID)
	if err != nil {
		return false, nil //nolint:nilerr // there was none yet
	}
	tenant, err := store.Tenant(ctx, id)
	if fault.KindOf(err) == fault.NotFound {
		return false, nil // another database than last time
	}
	if err != nil {
		return false, err
	}
	if _, err := store.Authenticate(ctx, d.state.APIKey); fault.KindOf(err) == fault.Unauthorized {
		// Rotated or revoked, as the documents show: the tenant's data stays.
		if err := d.makeKey(ctx, store, id); err != nil {
			return false, err
		}
	} else if err != nil {
		return false, err
	}
	for _, known := range tenant.ReturnURLs {
		if known == d.returnURL() {
			return true, nil
		}
	}
	_, err = store.UpdateTenant(ctx, seeder(), id, tenants.TenantChange{ReturnURLs: append(tenant.ReturnURLs, d.returnURL())})
	return true, err
}

func (d *development) returnURL() string { return localURL(d.listeners.sample) + "/callback" }

func (d *development) makeTenant(ctx context.Context, store *tenants.Store) error {
	tenant, err := store.CreateTenant(ctx, seeder(), tenants.TenantInput{
		Name: "Sample app", Client: tenants.OAuthClient{ID: devClientID, Secret: d.state.ClientSecret},
		ServiceToken: d.state.ServiceToken, ReturnURLs: []string{d.returnURL()}, Limits: tenants.Unbound(),
	})
	if err != nil {
		return fmt.Errorf("seed tenant: %w", err)
	}
	return d.makeKey(ctx, store, tenant.ID)
}

// makeKey gives the demo tenant a key and keeps both for later starts.
func (d *development) makeKey(ctx context.Context, store *tenants.Store, id tenants.TenantID) error {
	_, key, err := store.CreateKey(ctx, seeder(), id, "demo", tenants.AllScopes(), time.Time{})
	if err != nil {
		return fmt.Errorf("seed key: %w", err)
	}
	d.state.TenantID, d.state.APIKey = id.String(), key
	return d.state.save(filepath.Join(d.cmd.DataDir, devStateFile))
}
