-- What happened, in two readings: events for the tenant's machines, audit for
-- people. Both are written in the transaction of the change and never altered.

-- +goose Up
CREATE TABLE events (
    tenant_id  uuid        NOT NULL REFERENCES tenants (id),
    sequence   bigint      NOT NULL CHECK (sequence > 0), -- per tenant, without gaps
    id         uuid        NOT NULL,
    type       text        NOT NULL CHECK (type ~ '^[a-z_]+\.[a-z_]+$'),
    data       jsonb       NOT NULL CHECK (jsonb_typeof(data) = 'object' AND pg_column_size(data) < 20480),
    created_at timestamptz NOT NULL DEFAULT app.now(),
    PRIMARY KEY (tenant_id, sequence)
);
CREATE UNIQUE INDEX events_id ON events (tenant_id, id);

CREATE TABLE audit_log (
    tenant_id  uuid        NOT NULL REFERENCES tenants (id),
    sequence   bigint      NOT NULL CHECK (sequence > 0), -- per tenant, without gaps
    at         timestamptz NOT NULL DEFAULT app.now(),
    actor_type text        NOT NULL CHECK (actor_type IN ('api_key', 'user', 'admin', 'command', 'system')),
    actor_id   text        NOT NULL DEFAULT '' CHECK (length(actor_id) <= 255),
    action     text        NOT NULL CHECK (action ~ '^[a-z_]+\.[a-z_]+$'),
    target     text        NOT NULL CHECK (length(target) <= 255),
    request_id text        NOT NULL DEFAULT '' CHECK (length(request_id) <= 64),
    ip         inet,
    details    jsonb       NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(details) = 'object'),
    PRIMARY KEY (tenant_id, sequence)
);

ALTER TABLE events    ENABLE ROW LEVEL SECURITY;
ALTER TABLE events    FORCE  ROW LEVEL SECURITY;
ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_log FORCE  ROW LEVEL SECURITY;

CREATE POLICY tenant   ON events    TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON events    TO connect_operator USING (true);
CREATE POLICY tenant   ON audit_log TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON audit_log TO connect_operator USING (true);

-- Append-only: nobody but the owner may change or delete a row.
GRANT SELECT, INSERT ON events, audit_log TO connect_app, connect_operator;

-- +goose Down
DROP TABLE audit_log, events;
