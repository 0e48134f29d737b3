-- What is to be told, and erased, once something is gone at Prisma: stored before the
-- deletion is sent, so that a crash between the two loses nothing.

-- +goose Up
CREATE TABLE deletions (
    tenant_id      uuid        NOT NULL REFERENCES tenants (id),
    id             uuid        NOT NULL, -- of one call; a thing may be deleted by several
    connection_id  uuid        NOT NULL,
    resource_id    text        NOT NULL CHECK (length(resource_id) BETWEEN 1 AND 255), -- without the prefix of its kind
    project_id     text        CHECK (length(project_id) BETWEEN 1 AND 255),
    database_id    text        CHECK (length(database_id) BETWEEN 1 AND 255),
    credentials_id text        CHECK (length(credentials_id) BETWEEN 1 AND 255),
    database_ids   text[]      NOT NULL, -- what goes with a project
    operation_id   uuid,       -- that had made it twice; null: somebody asked for the deletion
    begun_at       timestamptz NOT NULL DEFAULT app.now(),
    look_at        timestamptz NOT NULL, -- when to look whether it is gone
    PRIMARY KEY (tenant_id, id),
    FOREIGN KEY (tenant_id, connection_id) REFERENCES connections (tenant_id, id),
    CONSTRAINT deletes_something CHECK (coalesce(project_id, database_id, credentials_id) IS NOT NULL)
);
CREATE INDEX deletions_resource ON deletions (tenant_id, resource_id);
CREATE INDEX deletions_look ON deletions (look_at);

ALTER TABLE deletions ENABLE ROW LEVEL SECURITY;
ALTER TABLE deletions FORCE  ROW LEVEL SECURITY;
CREATE POLICY tenant   ON deletions TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON deletions TO connect_operator USING (true);
GRANT SELECT, INSERT, DELETE ON deletions TO connect_app;
GRANT SELECT, UPDATE         ON deletions TO connect_operator;

-- +goose Down
DROP TABLE deletions;
