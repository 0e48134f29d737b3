-- +goose Up
CREATE TABLE connections (
    tenant_id            uuid        NOT NULL REFERENCES tenants (id),
    id                   uuid        NOT NULL,
    user_id              text        NOT NULL CHECK (length(user_id) BETWEEN 1 AND 255),
    workspace_id         text        NOT NULL CHECK (length(workspace_id) BETWEEN 1 AND 255),
    workspace_name       text        NOT NULL DEFAULT '' CHECK (length(workspace_name) <= 255), -- '': not read yet
    oauth_client_id      text        NOT NULL, -- the client that the tokens belong to
    status               text        NOT NULL CHECK (status IN ('active', 'suspect', 'needs_reconnect', 'disconnected')),
    status_reason        text        CHECK (length(status_reason) <= 60),
    status_since         timestamptz NOT NULL DEFAULT app.now(),
    metadata             jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(metadata) = 'object'),

    -- One token pair. The generation counts them and fences every write.
    generation           bigint      NOT NULL CHECK (generation >= 1),
    access_token_sealed  bytea,
    refresh_token_sealed bytea,      -- null without offline_access
    access_issued_at     timestamptz NOT NULL,
    access_expires_at    timestamptz NOT NULL,

    -- The refresh lease and its intent: which pair is being exchanged, and since when.
    lease_id             uuid,
    lease_until          timestamptz,
    intent_generation    bigint,
    intent_at            timestamptz,
    -- The pair that was presented once more after its outcome stayed unknown.
    late_retry_generation bigint,
    refresh_not_before   timestamptz, -- back-off after a failure that spent nothing

    created_at           timestamptz NOT NULL DEFAULT app.now(),
    updated_at           timestamptz NOT NULL DEFAULT app.now(),
    PRIMARY KEY (tenant_id, id),
    CONSTRAINT live_means_tokens CHECK (status NOT IN ('active', 'suspect') OR access_token_sealed IS NOT NULL),
    CONSTRAINT disconnected_means_none CHECK (
        status <> 'disconnected' OR (access_token_sealed IS NULL AND refresh_token_sealed IS NULL)),
    CONSTRAINT reason_when_broken CHECK (status <> 'needs_reconnect' OR status_reason IS NOT NULL),
    CONSTRAINT lease_is_whole CHECK ((lease_id IS NULL) = (lease_until IS NULL)),
    CONSTRAINT intent_is_whole CHECK ((intent_generation IS NULL) = (intent_at IS NULL)),
    CONSTRAINT lease_has_intent CHECK (lease_id IS NULL OR intent_generation IS NOT NULL),
    CONSTRAINT intent_is_current CHECK (intent_generation IS NULL OR intent_generation <= generation)
);
CREATE UNIQUE INDEX connections_one_per_workspace
    ON connections (tenant_id, user_id, workspace_id) WHERE status <> 'disconnected';
-- "Does another live connection share this client and workspace?"
CREATE INDEX connections_grant ON connections (oauth_client_id, workspace_id) WHERE status <> 'disconnected';

CREATE TABLE connect_sessions (
    tenant_id            uuid        NOT NULL REFERENCES tenants (id),
    id                   uuid        NOT NULL,
    link_hash            bytea       NOT NULL CHECK (octet_length(link_hash) = 32),
    user_id              text        NOT NULL CHECK (length(user_id) BETWEEN 1 AND 255),
    user_label           text        NOT NULL CHECK (length(user_label) BETWEEN 1 AND 255),
    completion           text        NOT NULL CHECK (completion IN ('code', 'automatic')),
    return_url           text        CHECK (length(return_url) <= 2048),
    restart_url          text        CHECK (length(restart_url) <= 2048),
    connection_id        uuid,       -- reconnect: pinned to this connection's workspace
    status               text        NOT NULL DEFAULT 'created' CHECK (status IN (
        'created', 'started', 'returned', 'completing', 'connected', 'denied', 'expired', 'failed')),
    failure              text        CHECK (length(failure) <= 60),
    created_at           timestamptz NOT NULL DEFAULT app.now(),
    expires_at           timestamptz NOT NULL,

    -- Since the click: what the callback must match.
    started_at           timestamptz,
    browser_hash         bytea       CHECK (octet_length(browser_hash) = 32), -- of the browser that clicked first
    state_hash           bytea       CHECK (octet_length(state_hash) = 32),
    oauth_client_id      text,
    redirect_uri         text,

    -- Between the callback and the completion: the parked code and verifier.
    returned_at          timestamptz,
    code_sealed          bytea,
    verifier_sealed      bytea,
    completion_code_hash bytea       CHECK (octet_length(completion_code_hash) = 32),

    completing_at        timestamptz,
    finished_at          timestamptz,
    result_connection_id uuid,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, connection_id) REFERENCES connections (tenant_id, id),
    FOREIGN KEY (tenant_id, result_connection_id) REFERENCES connections (tenant_id, id),
    CONSTRAINT started_is_whole CHECK (status <> 'started' OR (
        started_at IS NOT NULL AND state_hash IS NOT NULL AND oauth_client_id IS NOT NULL AND redirect_uri IS NOT NULL)),
    -- A code is in the row only while it waits for its one use.
    CONSTRAINT code_is_parked_while_returned CHECK (
        (status = 'returned') = (code_sealed IS NOT NULL) AND (code_sealed IS NULL) = (verifier_sealed IS NULL)),
    CONSTRAINT connected_means_connection CHECK ((status = 'connected') = (result_connection_id IS NOT NULL)),
    CONSTRAINT code_completion_returns CHECK (completion <> 'code' OR return_url IS NOT NULL)
);
CREATE INDEX connect_sessions_link ON connect_sessions (link_hash);
CREATE INDEX connect_sessions_open ON connect_sessions (expires_at)
    WHERE status IN ('created', 'started', 'returned', 'completing');

-- One creating call and its progress. The id is the marker that Prisma keeps as
-- logicalId, so that a create whose answer was lost can be found again.
CREATE TABLE operations (
    tenant_id       uuid        NOT NULL REFERENCES tenants (id),
    id              uuid        NOT NULL,
    connection_id   uuid        NOT NULL,
    kind            text        NOT NULL CHECK (kind IN ('create_project', 'create_database', 'create_credentials')),
    idempotency_key text        CHECK (length(idempotency_key) BETWEEN 1 AND 255),
    request_hash    bytea       NOT NULL CHECK (octet_length(request_hash) = 32),
    status          text        NOT NULL DEFAULT 'running' CHECK (status IN ('running', 'unknown', 'done', 'failed')),
    attempt         bigint      NOT NULL DEFAULT 1 CHECK (attempt >= 1), -- counts the leases, and fences their writes
    lease_until     timestamptz NOT NULL, -- by app.wall_clock(); means something while running
    resource_id     text        CHECK (length(resource_id) BETWEEN 1 AND 255), -- what was made
    database_id     text        CHECK (length(database_id) BETWEEN 1 AND 255), -- whose secret may be kept
    answer          jsonb       CHECK (pg_column_size(answer) < 20480), -- what was answered, without its secret
    secret_sealed   bytea,      -- the connection string, for replays until secret_until
    secret_until    timestamptz, -- null: there was none
    created_at      timestamptz NOT NULL DEFAULT app.now(),
    finished_at     timestamptz,
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, connection_id) REFERENCES connections (tenant_id, id),
    CONSTRAINT finished_is_dated CHECK ((status IN ('done', 'failed')) = (finished_at IS NOT NULL)),
    CONSTRAINT done_means_answer CHECK (
        (status = 'done') = (answer IS NOT NULL) AND (status = 'done') = (resource_id IS NOT NULL)),
    CONSTRAINT secret_has_an_end CHECK (secret_sealed IS NULL OR secret_until IS NOT NULL),
    CONSTRAINT secret_needs_answer CHECK (secret_until IS NULL OR status = 'done')
);
-- A key names one request of its kind in the whole tenant: the same key on
-- another connection is another request, and refused.
CREATE UNIQUE INDEX operations_key ON operations (tenant_id, kind, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
-- "Did an operation make this?"
CREATE INDEX operations_resource ON operations (tenant_id, resource_id) WHERE resource_id IS NOT NULL;
CREATE INDEX operations_secrets ON operations (secret_until) WHERE secret_sealed IS NOT NULL;
-- "Is the same request under way elsewhere?"
CREATE INDEX operations_unfinished ON operations (tenant_id, kind, request_hash) WHERE status IN ('running', 'unknown');

ALTER TABLE connections      ENABLE ROW LEVEL SECURITY;
ALTER TABLE connections      FORCE  ROW LEVEL SECURITY;
ALTER TABLE connect_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE connect_sessions FORCE  ROW LEVEL SECURITY;
ALTER TABLE operations       ENABLE ROW LEVEL SECURITY;
ALTER TABLE operations       FORCE  ROW LEVEL SECURITY;

CREATE POLICY tenant   ON connections      TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON connections      TO connect_operator USING (true);
CREATE POLICY tenant   ON connect_sessions TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON connect_sessions TO connect_operator USING (true);
CREATE POLICY tenant   ON operations       TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON operations       TO connect_operator USING (true);

GRANT SELECT, INSERT, UPDATE ON connections, connect_sessions, operations TO connect_app, connect_operator;
-- Operations are forgotten after their retention; nothing else is ever deleted here.
GRANT DELETE ON operations TO connect_app, connect_operator;

-- The look-ups that find the tenant of a browser: by the one-time link, and by
-- the session id inside the OAuth state. They return ids only.
CREATE POLICY lookup ON connect_sessions FOR SELECT TO CURRENT_USER USING (true);
-- +goose StatementBegin
CREATE FUNCTION app.find_connect_link(hashes bytea[]) RETURNS TABLE (tenant_id uuid, session_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
    AS $$ SELECT s.tenant_id, s.id FROM public.connect_sessions s WHERE s.link_hash = ANY (hashes) LIMIT 1 $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION app.find_connect_session(id uuid) RETURNS TABLE (tenant_id uuid)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
    AS $$ SELECT s.tenant_id FROM public.connect_sessions s WHERE s.id = find_connect_session.id LIMIT 1 $$;
-- +goose StatementEnd
-- Whether another live connection, of any tenant, shares client and workspace:
-- removing the integration at Prisma would kill it too.
CREATE POLICY lookup ON connections FOR SELECT TO CURRENT_USER USING (true);
-- +goose StatementBegin
CREATE FUNCTION app.grant_is_shared(client text, workspace text, except_connection uuid) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
    AS $$ SELECT EXISTS (SELECT FROM public.connections c
        WHERE c.oauth_client_id = client AND c.workspace_id = workspace
          AND c.id <> except_connection AND c.status IN ('active', 'suspect')) $$;
-- +goose StatementEnd
CREATE INDEX connect_sessions_id ON connect_sessions (id);
REVOKE EXECUTE ON FUNCTION app.find_connect_link(bytea[]), app.find_connect_session(uuid),
    app.grant_is_shared(text, text, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.find_connect_link(bytea[]), app.find_connect_session(uuid),
    app.grant_is_shared(text, text, uuid) TO connect_app;

-- +goose Down
DROP FUNCTION app.find_connect_link(bytea[]), app.find_connect_session(uuid), app.grant_is_shared(text, text, uuid);
DROP TABLE operations, connect_sessions, connections;
