-- What an operation needs to be finished without its client, and when somebody looks
-- for what it may have made. Rotations and restores become operations too.

-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE operations
    DROP CONSTRAINT IF EXISTS operations_kind_check,
    ADD CONSTRAINT operations_kind_check CHECK (kind IN (
        'create_project', 'create_database', 'create_credentials', 'rotate_credentials', 'restore_database')) NOT VALID,
    -- What was asked for, without secrets.
    ADD COLUMN IF NOT EXISTS request        jsonb,
    DROP CONSTRAINT IF EXISTS operations_request_check,
    ADD CONSTRAINT operations_request_check CHECK (pg_column_size(request) < 20480) NOT VALID,
    -- While set, a request of it may still land at Prisma: when to look next, and how
    -- long looking makes sense. An earlier version leaves both null.
    ADD COLUMN IF NOT EXISTS sweep_at       timestamptz,
    ADD COLUMN IF NOT EXISTS sweep_until    timestamptz,
    -- What was found without a client, and told by an event: the answer, but for its
    -- secret, which is made when the client asks again.
    ADD COLUMN IF NOT EXISTS landed         jsonb,
    DROP CONSTRAINT IF EXISTS operations_landed_check,
    ADD CONSTRAINT operations_landed_check CHECK (pg_column_size(landed) < 20480) NOT VALID,
    -- With resource_id, all that it made or used, so that nothing of it counts as a
    -- double and its secrets go when the thing goes.
    ADD COLUMN IF NOT EXISTS project_id     text,
    ADD COLUMN IF NOT EXISTS credentials_id text,
    DROP CONSTRAINT IF EXISTS operations_project_id_check,
    ADD CONSTRAINT operations_project_id_check CHECK (length(project_id) BETWEEN 1 AND 255) NOT VALID,
    DROP CONSTRAINT IF EXISTS operations_credentials_id_check,
    ADD CONSTRAINT operations_credentials_id_check CHECK (length(credentials_id) BETWEEN 1 AND 255) NOT VALID,
    DROP CONSTRAINT IF EXISTS sweep_is_whole,
    ADD CONSTRAINT sweep_is_whole CHECK ((sweep_at IS NULL) = (sweep_until IS NULL)) NOT VALID;
ALTER TABLE operations
    VALIDATE CONSTRAINT operations_kind_check,
    VALIDATE CONSTRAINT operations_request_check,
    VALIDATE CONSTRAINT operations_landed_check,
    VALIDATE CONSTRAINT operations_project_id_check,
    VALIDATE CONSTRAINT operations_credentials_id_check,
    VALIDATE CONSTRAINT sweep_is_whole;

SET lock_timeout = 0;
CREATE INDEX CONCURRENTLY IF NOT EXISTS operations_sweep ON operations (sweep_at) WHERE sweep_at IS NOT NULL;
-- "Which operations know this project, this database, these credentials?"
CREATE INDEX CONCURRENTLY IF NOT EXISTS operations_project ON operations (tenant_id, project_id) WHERE project_id IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS operations_database ON operations (tenant_id, database_id) WHERE database_id IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS operations_credentials ON operations (tenant_id, credentials_id) WHERE credentials_id IS NOT NULL;
RESET lock_timeout;

-- +goose Down
DROP INDEX operations_credentials;
DROP INDEX operations_database;
DROP INDEX operations_project;
DROP INDEX operations_sweep;
DELETE FROM operations WHERE kind IN ('rotate_credentials', 'restore_database');
ALTER TABLE operations
    DROP CONSTRAINT sweep_is_whole,
    DROP COLUMN credentials_id,
    DROP COLUMN project_id,
    DROP COLUMN landed,
    DROP COLUMN sweep_until,
    DROP COLUMN sweep_at,
    DROP COLUMN request,
    DROP CONSTRAINT operations_kind_check,
    ADD CONSTRAINT operations_kind_check CHECK (kind IN ('create_project', 'create_database', 'create_credentials'));
