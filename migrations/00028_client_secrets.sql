-- The secret that is about to replace that of a tenant's OAuth client at Prisma. It becomes
-- the current one when it has worked. An earlier version knows of the current one alone.

-- +goose Up
ALTER TABLE tenants ADD COLUMN IF NOT EXISTS client_next_secret_sealed bytea; -- null: none

-- +goose Down
ALTER TABLE tenants DROP COLUMN client_next_secret_sealed;
