package httpapi

import (
	"context"

	"github.com/connect-prisma/server/internal/httpapi/contract"
	"github.com/connect-prisma/server/internal/provisioning"
)

func backupOf(b provisioning.Backup) contract.Backup {
	return contract.Backup{ID: b.ID, Type: b.Type, Status: b.Status, Size: b.Size, CreatedAt: b.CreatedAt.UTC()}
}

// ListBackups serves GET /v1/connections/{connectionId}/databases/{databaseId}/backups?limit=.
func (h handlers) ListBackups(ctx context.Context, r contract.ListBackupsRequestObject,
) (contract.ListBackupsResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	backups, err := h.cfg.Provisioning.ListBackups(ctx, tenantOf(ctx), id, r.DatabaseID, limitOf(r.Params.Limit))
	if err != nil {
		return nil, err
	}
	return contract.ListBackups200JSONResponse{
		Data: each(backups.Items, backupOf), Pagination: contract.Pagination{HasMore: backups.More},
		RetentionDays: backups.RetentionDays,
	}, nil
}

// RestoreDatabase serves POST /v1/connections/{connectionId}/databases/{databaseId}/restore.
func (h handlers) RestoreDatabase(ctx context.Context, r contract.RestoreDatabaseRequestObject,
) (contract.RestoreDatabaseResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	begun, err := h.cfg.Provisioning.RestoreDatabase(ctx, actorOf(ctx), tenantOf(ctx), id, r.DatabaseID, provisioning.Restore{
		BackupID: r.Body.BackupID, SourceID: deref(r.Body.SourceDatabaseID), IdempotencyKey: deref(r.Params.IdempotencyKey),
	})
	if err != nil {
		return nil, err
	}
	return contract.RestoreDatabase202JSONResponse{
		Body:    contract.DatabaseAnswer{Data: databaseOf(begun.Resource)},
		Headers: contract.RestoreDatabase202ResponseHeaders{IdempotentReplayed: orNull(begun.Replayed)},
	}, nil
}

// GetUsage serves GET /v1/connections/{connectionId}/databases/{databaseId}/usage?startDate=&endDate=.
func (h handlers) GetUsage(ctx context.Context, r contract.GetUsageRequestObject,
) (contract.GetUsageResponseObject, error) {
	id, err := connectionID(r.ConnectionID)
	if err != nil {
		return nil, err
	}
	usage, err := h.cfg.Provisioning.Usage(ctx, tenantOf(ctx), id, r.DatabaseID,
		provisioning.Period{From: deref(r.Params.StartDate), To: deref(r.Params.EndDate)})
	if err != nil {
		return nil, err
	}
	shown := contract.Usage{Operations: int64(usage.Operations), StorageGiB: usage.StorageGiB, GeneratedAt: usage.GeneratedAt}
	shown.Period.Start, shown.Period.End = usage.From, usage.To
	return contract.GetUsage200JSONResponse{Data: shown}, nil
}
