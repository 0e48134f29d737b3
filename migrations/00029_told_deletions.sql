-- What was told to be gone: of several deletions of one thing, one tells, also if another
-- of them ends when that is long over. An earlier version writes nothing here.

-- +goose Up
CREATE TABLE told_deletions (
    tenant_id   uuid        NOT NULL REFERENCES tenants (id),
    kind        text        NOT NULL CHECK (kind IN ('project', 'database', 'credentials')),
    resource_id text        NOT NULL CHECK (length(resource_id) BETWEEN 1 AND 255), -- without the prefix of its kind
    told_at     timestamptz NOT NULL DEFAULT app.now(),
    PRIMARY KEY (tenant_id, kind, resource_id)
);
CREATE INDEX told_deletions_at ON told_deletions (told_at);

ALTER TABLE told_deletions ENABLE ROW LEVEL SECURITY;
ALTER TABLE told_deletions FORCE  ROW LEVEL SECURITY;
CREATE POLICY tenant   ON told_deletions TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON told_deletions TO connect_operator USING (true);
GRANT SELECT, INSERT         ON told_deletions TO connect_app;
GRANT SELECT, UPDATE, DELETE ON told_deletions TO connect_operator;

-- +goose Down
DROP TABLE told_deletions;
