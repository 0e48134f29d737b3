-- What GET /v1/audit can be asked for, found without reading the tenant's whole log.

-- +goose NO TRANSACTION
-- +goose Up
SET lock_timeout = 0;
CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_log_target ON audit_log (tenant_id, target, sequence);
CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_log_action ON audit_log (tenant_id, action, sequence);
CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_log_actor ON audit_log (tenant_id, actor_id, sequence);
CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_log_at ON audit_log (tenant_id, at);
RESET lock_timeout;

-- +goose Down
DROP INDEX audit_log_at, audit_log_actor, audit_log_action, audit_log_target;
