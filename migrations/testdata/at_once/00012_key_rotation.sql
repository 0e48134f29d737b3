-- A key may make its successor. Of a chain of keys two at most are live.

-- +goose Up
ALTER TABLE api_keys
    ADD COLUMN succeeds uuid,     -- the key that made this one
    ADD COLUMN lifetime interval, -- how long it was made for, which its successor inherits; null: see expires_at
    ADD COLUMN rotated_at timestamptz, -- since when it has a successor, and ends because of it
    ADD CONSTRAINT succeeds_a_key_of_the_tenant FOREIGN KEY (tenant_id, succeeds) REFERENCES api_keys (tenant_id, id);
-- A key has one successor that is live or was.
CREATE UNIQUE INDEX api_keys_successor ON api_keys (tenant_id, succeeds) WHERE succeeds IS NOT NULL AND revoked_at IS NULL;

-- +goose Down
DROP INDEX api_keys_successor;
ALTER TABLE api_keys DROP CONSTRAINT succeeds_a_key_of_the_tenant, DROP COLUMN rotated_at, DROP COLUMN lifetime, DROP COLUMN succeeds;
