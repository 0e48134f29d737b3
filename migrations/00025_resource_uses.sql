-- What somebody has begun to use or to change at Prisma, through whichever of our doors,
-- and what is about to be deleted because an operation made it twice: of the two the
-- first counts. An earlier version writes nothing here.

-- +goose Up
CREATE TABLE resource_uses (
    tenant_id       uuid NOT NULL REFERENCES tenants (id),
    resource_id     text NOT NULL CHECK (length(resource_id) BETWEEN 1 AND 255), -- without the prefix of its kind; '*': anything
    used_at         timestamptz, -- null: condemned, and never used
    operation_id    uuid,        -- the only one that used it; null: several, or none but somebody's call
    condemned_until timestamptz, -- until then nobody may begin to use it
    touched_at      timestamptz NOT NULL DEFAULT app.now(),
    PRIMARY KEY (tenant_id, resource_id),
    CONSTRAINT used_or_condemned CHECK (used_at IS NOT NULL OR condemned_until IS NOT NULL)
);
CREATE INDEX resource_uses_touched ON resource_uses (touched_at);

ALTER TABLE resource_uses ENABLE ROW LEVEL SECURITY;
ALTER TABLE resource_uses FORCE  ROW LEVEL SECURITY;
CREATE POLICY tenant   ON resource_uses TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON resource_uses TO connect_operator USING (true);
GRANT SELECT, INSERT, UPDATE ON resource_uses TO connect_app;
GRANT SELECT, UPDATE, DELETE ON resource_uses TO connect_operator;

-- +goose Down
DROP TABLE resource_uses;
