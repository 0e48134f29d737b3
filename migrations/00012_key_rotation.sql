-- A key may make its successor. Of a chain of keys two at most are live.

-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE api_keys
    ADD COLUMN IF NOT EXISTS succeeds   uuid,        -- the key that made this one
    ADD COLUMN IF NOT EXISTS lifetime   interval,    -- how long it was made for, which its successor inherits; null: see expires_at
    ADD COLUMN IF NOT EXISTS rotated_at timestamptz, -- since when it has a successor, and ends because of it
    DROP CONSTRAINT IF EXISTS succeeds_a_key_of_the_tenant,
    ADD CONSTRAINT succeeds_a_key_of_the_tenant FOREIGN KEY (tenant_id, succeeds) REFERENCES api_keys (tenant_id, id) NOT VALID;
ALTER TABLE api_keys VALIDATE CONSTRAINT succeeds_a_key_of_the_tenant;
-- A key has one successor that is live or was.
SET lock_timeout = 0;
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS api_keys_successor ON api_keys (tenant_id, succeeds) WHERE succeeds IS NOT NULL AND revoked_at IS NULL;
RESET lock_timeout;

-- +goose Down
DROP INDEX api_keys_successor;
ALTER TABLE api_keys DROP CONSTRAINT succeeds_a_key_of_the_tenant, DROP COLUMN rotated_at, DROP COLUMN lifetime, DROP COLUMN succeeds;
