package httpapi

import (
	"context"
	"time"

	"github.com/connect-prisma/server/internal/httpapi/contract"
	"github.com/connect-prisma/server/internal/tenants"
)

// GetTenant serves GET /v1/tenant.
func (h handlers) GetTenant(ctx context.Context, _ contract.GetTenantRequestObject) (contract.GetTenantResponseObject, error) {
	caller := callerOf(ctx)
	key, err := h.cfg.Store.Key(ctx, caller.Tenant.ID, caller.Key)
	if err != nil {
		return nil, err
	}
	t := caller.Tenant
	return contract.GetTenant200JSONResponse{Data: contract.Tenant{
		ID: t.ID.String(), Name: t.Name, Completion: contract.TenantCompletion(t.Completion),
		ReturnUrls: each(t.ReturnURLs, func(u string) string { return u }),
		Limits: contract.TenantLimits{
			RequestsPerSecond: t.Limits.Requests, Burst: t.Limits.Burst, ConnectSessionsPerSecond: t.Limits.Sessions,
			CreationsPerSecond: t.Limits.Creates, ConcurrentRequests: t.Limits.AtOnce,
		},
		Key: contract.APIKey{
			ID: key.ID.String(), Name: key.Name, Hint: key.Hint, Scopes: scopesOf(key),
			CreatedAt: key.CreatedAt.UTC(), ExpiresAt: orNull(key.ExpiresAt.UTC()), LastUsedAt: orNull(key.LastUsedAt.UTC()),
		},
	}}, nil
}

// RotateKey serves POST /v1/keys/rotate.
func (h handlers) RotateKey(ctx context.Context, r contract.RotateKeyRequestObject) (contract.RotateKeyResponseObject, error) {
	in := tenants.NewRotation{Overlap: tenants.KeyOverlap, Name: deref(r.Body.Name)}
	if seconds := r.Body.ExpiresInSeconds; seconds != nil {
		in.Overlap = time.Duration(*seconds) * time.Second
	}
	caller := callerOf(ctx)
	made, err := h.cfg.Store.RotateKey(ctx, actorOf(ctx), caller.Tenant.ID, caller.Key, in)
	if err != nil {
		return nil, err
	}
	shown := contract.RotatedKey{
		ID: made.Key.ID.String(), Name: made.Key.Name, Key: made.Secret, Scopes: scopesOf(made.Key),
		CreatedAt: made.Key.CreatedAt.UTC(), ExpiresAt: orNull(made.Key.ExpiresAt.UTC()),
	}
	shown.Previous.ID, shown.Previous.ExpiresAt = caller.Key.String(), made.OldEnds.UTC()
	return contract.RotateKey201JSONResponse{Data: shown}, nil
}

func scopesOf(k tenants.Key) []contract.Scope {
	return each(k.Scopes, func(s tenants.Scope) contract.Scope { return contract.Scope(s) })
}
