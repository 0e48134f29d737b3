-- "Which connections were saved after they had been refused?": nobody claims a refresh of
-- those again, so a sweep has to find what their ledger lacks.

-- +goose NO TRANSACTION
-- +goose Up
SET lock_timeout = 0;
CREATE INDEX CONCURRENTLY IF NOT EXISTS connections_refused ON connections (updated_at) WHERE status = 'needs_reconnect';
RESET lock_timeout;

-- +goose Down
DROP INDEX connections_refused;
