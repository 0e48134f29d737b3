package provisioning

import (
	"context"
	"time"

	"github.com/connect-prisma/server/internal/fault"
	"github.com/connect-prisma/server/internal/prisma"
	"github.com/connect-prisma/server/internal/prisma/managementapi"
	"github.com/connect-prisma/server/internal/tenants"
)

// ListBackups returns the newest backups of a database. limit is 1 to 100; more counts as
// 100, 0 leaves it to Prisma (25). Errors: as GetDatabase; fault.InvalidRequest, a
// negative limit.
func (s *Service) ListBackups(ctx context.Context, tenant tenants.TenantID, connection tenants.ConnectionID,
	databaseID string, limit int,
) (Backups, error) {
	page, err := Page{Limit: limit}.checked()
	if err != nil {
		return Backups{}, err
	}
	if err := checkID(databasePrefix, databaseID); err != nil {
		return Backups{}, err
	}
	found, err := call(ctx, s, scope{tenant, connection},
		func(ctx context.Context, client *prisma.Client) (managementapi.BackupList, error) {
			return client.ListDatabaseBackups(ctx, databaseID, managementapi.ListDatabaseBackupsParams{Limit: page.Limit})
		})
	if err != nil {
		return Backups{}, err
	}
	backups := Backups{
		Items: make([]Backup, 0, len(found.Data)), More: found.Pagination.HasMore, RetentionDays: found.Meta.BackupRetentionDays,
	}
	for _, b := range found.Data {
		backups.Items = append(backups.Items, backupOf(b))
	}
	return backups, nil
}

// Usage returns what a database used in a period. Errors: as GetDatabase;
// fault.InvalidRequest, the period ends before it begins.
func (s *Service) Usage(ctx context.Context, tenant tenants.TenantID, connection tenants.ConnectionID,
	databaseID string, in Period,
) (Usage, error) {
	if !in.From.IsZero() && !in.To.IsZero() && in.To.Before(in.From) {
		return Usage{}, fault.New(fault.InvalidRequest, "The period can't be used.", nil).
			WithField("endDate", "Use a time that is not before startDate.")
	}
	if err := checkID(databasePrefix, databaseID); err != nil {
		return Usage{}, err
	}
	found, err := call(ctx, s, scope{tenant, connection},
		func(ctx context.Context, client *prisma.Client) (managementapi.DatabaseUsage, error) {
			return client.GetDatabaseUsage(ctx, databaseID, managementapi.GetDatabaseUsageParams{
				StartDate: timeText(in.From), EndDate: timeText(in.To),
			})
		})
	if err != nil {
		return Usage{}, err
	}
	return Usage{
		From: found.Period.Start.UTC(), To: found.Period.End.UTC(), GeneratedAt: found.GeneratedAt.UTC(),
		Operations: found.Metrics.Operations.Used, StorageGiB: found.Metrics.Storage.Used,
	}, nil
}

func timeText(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return at.UTC().Format(time.RFC3339)
}
