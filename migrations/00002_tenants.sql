-- +goose Up
CREATE TABLE tenants (
    id                   uuid        PRIMARY KEY,
    name                 text        NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
    status               text        NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'paused')),
    completion           text        NOT NULL DEFAULT 'code' CHECK (completion IN ('code', 'automatic')),
    shared_client        boolean     NOT NULL DEFAULT false,
    oauth_client_id      text        CHECK (length(oauth_client_id) BETWEEN 1 AND 255),
    client_secret_sealed bytea,      -- null: a public client
    service_token_sealed bytea,
    restart_url          text        CHECK (length(restart_url) <= 2048),
    created_at           timestamptz NOT NULL DEFAULT app.now(),
    updated_at           timestamptz NOT NULL DEFAULT app.now(),
    CONSTRAINT own_or_shared_client CHECK (shared_client = (oauth_client_id IS NULL)),
    CONSTRAINT secret_needs_client CHECK (client_secret_sealed IS NULL OR oauth_client_id IS NOT NULL)
);

CREATE TABLE tenant_return_urls (
    tenant_id uuid NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    url       text NOT NULL CHECK (length(url) BETWEEN 1 AND 2048),
    PRIMARY KEY (tenant_id, url)
);

-- One row a tenant, locked by each event and audit row it numbers: that makes
-- the sequences gapless and their order the order of commits. Kept apart from
-- tenants so that reading a tenant never waits for it.
CREATE TABLE tenant_sequences (
    tenant_id uuid   PRIMARY KEY REFERENCES tenants (id) ON DELETE CASCADE,
    events    bigint NOT NULL DEFAULT 0 CHECK (events >= 0),
    audit     bigint NOT NULL DEFAULT 0 CHECK (audit >= 0)
);

CREATE TABLE api_keys (
    tenant_id    uuid        NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    id           uuid        NOT NULL,
    name         text        NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
    hint         text        NOT NULL CHECK (length(hint) <= 20), -- the key's first characters
    key_hash     bytea       NOT NULL CHECK (octet_length(key_hash) = 32),
    scopes       text[]      NOT NULL CHECK (
        cardinality(scopes) > 0 AND scopes <@ ARRAY['read', 'write', 'connect', 'passthrough']),
    created_at   timestamptz NOT NULL DEFAULT app.now(),
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz, -- to the minute
    PRIMARY KEY (tenant_id, id)
);
-- Not unique: unique indexes lead with the tenant, and two 256-bit keys don't collide.
CREATE INDEX api_keys_hash ON api_keys (key_hash);

ALTER TABLE tenants            ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants            FORCE  ROW LEVEL SECURITY;
ALTER TABLE tenant_return_urls ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_return_urls FORCE  ROW LEVEL SECURITY;
ALTER TABLE tenant_sequences   ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_sequences   FORCE  ROW LEVEL SECURITY;
ALTER TABLE api_keys           ENABLE ROW LEVEL SECURITY;
ALTER TABLE api_keys           FORCE  ROW LEVEL SECURITY;

CREATE POLICY tenant   ON tenants            TO connect_app      USING (id = app.tenant());
CREATE POLICY operator ON tenants            TO connect_operator USING (true);
CREATE POLICY tenant   ON tenant_return_urls TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON tenant_return_urls TO connect_operator USING (true);
CREATE POLICY tenant   ON tenant_sequences   TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON tenant_sequences   TO connect_operator USING (true);
CREATE POLICY tenant   ON api_keys           TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON api_keys           TO connect_operator USING (true);

GRANT SELECT                         ON tenants            TO connect_app;
GRANT SELECT, INSERT, UPDATE         ON tenants            TO connect_operator;
GRANT SELECT                         ON tenant_return_urls TO connect_app;
GRANT SELECT, INSERT, DELETE         ON tenant_return_urls TO connect_operator;
GRANT SELECT, UPDATE                 ON tenant_sequences   TO connect_app;
GRANT SELECT, INSERT, UPDATE         ON tenant_sequences   TO connect_operator;
GRANT SELECT, UPDATE (last_used_at)  ON api_keys           TO connect_app;
GRANT SELECT, INSERT, UPDATE         ON api_keys           TO connect_operator;

-- The look-up that finds the tenant of a presented key. It runs as the owner,
-- who may read this table for that reason alone, and returns ids only.
CREATE POLICY lookup ON api_keys FOR SELECT TO CURRENT_USER USING (true);
-- +goose StatementBegin
CREATE FUNCTION app.find_api_key(hashes bytea[]) RETURNS TABLE (tenant_id uuid, key_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
    AS $$ SELECT k.tenant_id, k.id FROM public.api_keys k WHERE k.key_hash = ANY (hashes) LIMIT 1 $$;
-- +goose StatementEnd
REVOKE EXECUTE ON FUNCTION app.find_api_key(bytea[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.find_api_key(bytea[]) TO connect_app;

-- +goose Down
DROP FUNCTION app.find_api_key(bytea[]);
DROP TABLE api_keys, tenant_sequences, tenant_return_urls, tenants;
