package httpapi

import (
	"context"

	"github.com/connect-prisma/server/internal/httpapi/contract"
	"github.com/connect-prisma/server/internal/provisioning"
)

// credentialsOf shows credentials with their connection string, if it is still kept.
func credentialsOf(made provisioning.Created[provisioning.Credentials]) contract.Credentials {
	return contract.Credentials{
		ID: made.Resource.ID, Name: orNull(made.Resource.Name), ConnectionString: orNull(made.Resource.ConnectionString),
		SecretExpired: orNull(made.SecretExpired),
	}
}

// ListCredentials serves GET /v1/connections/{connectionId}/databases/{databaseId}/credentials?cursor=&limit=.
func (h handlers) ListCredentials(ctx context.Context, r contract.ListCredentialsRequestObject,
) (contract.ListCredentialsResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	what := prismaList{of: "credentials", connection: id, within: r.DatabaseID}
	page, err := h.page(ctx, what, r.Params.Cursor, r.Params.Limit)
	if err != nil {
		return nil, err
	}
	list, err := h.cfg.Provisioning.ListCredentials(ctx, tenantOf(ctx), id, r.DatabaseID, page)
	if err != nil {
		return nil, err
	}
	next, err := h.pagination(ctx, what, list.NextCursor)
	return contract.ListCredentials200JSONResponse{
		Data: each(list.Items, func(c provisioning.Credentials) contract.CredentialsSummary {
			return contract.CredentialsSummary{ID: c.ID, Name: c.Name, CreatedAt: c.CreatedAt.UTC()}
		}),
		Pagination: next,
	}, err
}

// CreateCredentials serves POST /v1/connections/{connectionId}/databases/{databaseId}/credentials.
func (h handlers) CreateCredentials(ctx context.Context, r contract.CreateCredentialsRequestObject,
) (contract.CreateCredentialsResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	made, err := h.cfg.Provisioning.CreateCredentials(ctx, actorOf(ctx), tenantOf(ctx), id, r.DatabaseID,
		provisioning.NewCredentials{Name: r.Body.Name, IdempotencyKey: deref(r.Params.IdempotencyKey)})
	if err != nil {
		return nil, err
	}
	return contract.CreateCredentials201JSONResponse{
		Body:    contract.CredentialsAnswer{Data: credentialsOf(made)},
		Headers: contract.CreateCredentials201ResponseHeaders{IdempotentReplayed: orNull(made.Replayed)},
	}, nil
}

// RotateCredentials serves
// POST /v1/connections/{connectionId}/databases/{databaseId}/credentials/{credentialsId}/rotate.
func (h handlers) RotateCredentials(ctx context.Context, r contract.RotateCredentialsRequestObject,
) (contract.RotateCredentialsResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	rotated, err := h.cfg.Provisioning.RotateCredentials(ctx, actorOf(ctx), tenantOf(ctx), id, r.DatabaseID, r.CredentialsID,
		deref(r.Params.IdempotencyKey))
	if err != nil {
		return nil, err
	}
	return contract.RotateCredentials200JSONResponse{
		Body:    contract.CredentialsAnswer{Data: credentialsOf(rotated)},
		Headers: contract.RotateCredentials200ResponseHeaders{IdempotentReplayed: orNull(rotated.Replayed)},
	}, nil
}

// DeleteCredentials serves
// DELETE /v1/connections/{connectionId}/databases/{databaseId}/credentials/{credentialsId}.
func (h handlers) DeleteCredentials(ctx context.Context, r contract.DeleteCredentialsRequestObject,
) (contract.DeleteCredentialsResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	err = h.cfg.Provisioning.DeleteCredentials(ctx, actorOf(ctx), tenantOf(ctx), id, r.DatabaseID, r.CredentialsID)
	if err != nil {
		return nil, err
	}
	return contract.DeleteCredentials204Response{}, nil
}
