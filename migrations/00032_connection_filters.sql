-- GET /v1/connections?workspaceId and ?status: without these a tenant's list was walked from
-- its beginning until enough had been found.

-- +goose NO TRANSACTION
-- +goose Up
SET lock_timeout = 0;
CREATE INDEX CONCURRENTLY IF NOT EXISTS connections_workspace ON connections (tenant_id, workspace_id, id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS connections_status ON connections (tenant_id, status, id);
RESET lock_timeout;

-- +goose Down
DROP INDEX connections_status;
DROP INDEX connections_workspace;
