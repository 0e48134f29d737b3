-- The audit log proves itself: each row carries a MAC over itself and the row before
-- it, whose key is not in this database, and the tenant's sequence row carries the
-- last one. Checkpoints of the refresh ledger note these heads too, under a
-- connection of zeros.
--
-- The version before this one writes rows without a MAC. The next row with one covers
-- them, as it covers what was there before this migration.

-- +goose Up
ALTER TABLE audit_log
    ADD COLUMN key_id bigint,
    ADD COLUMN mac    bytea CHECK (octet_length(mac) = 32),
    ADD CONSTRAINT mac_has_a_key CHECK ((mac IS NULL) = (key_id IS NULL));

-- Where each tenant's chain ends: the last row with a MAC.
ALTER TABLE tenant_sequences
    ADD COLUMN audit_chained bigint NOT NULL DEFAULT 0 CHECK (audit_chained >= 0),
    ADD COLUMN audit_head    bytea  CHECK (octet_length(audit_head) = 32),
    ADD CONSTRAINT audit_chain_is_whole CHECK ((audit_chained = 0) = (audit_head IS NULL));

-- The same for what belongs to no tenant. Rows are chained in the order of chained;
-- those of the version before have none. A row covers the ones without a MAC that are
-- a minute older than it and that no row before it covered.
ALTER TABLE admin_log
    ADD COLUMN actor_type text CHECK (actor_type IN ('admin', 'command', 'system')), -- null: an earlier version's row
    ADD COLUMN target     text NOT NULL DEFAULT '' CHECK (length(target) <= 255),
    ADD COLUMN details    jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(details) = 'object'),
    ADD COLUMN chained    bigint CHECK (chained > 0),
    ADD COLUMN key_id     bigint,
    ADD COLUMN mac        bytea CHECK (octet_length(mac) = 32),
    ADD CONSTRAINT admin_mac_has_a_key CHECK ((mac IS NULL) = (key_id IS NULL) AND (mac IS NULL) = (chained IS NULL));
CREATE UNIQUE INDEX admin_log_chained ON admin_log (chained) WHERE chained IS NOT NULL;
CREATE INDEX admin_log_unchained ON admin_log (at) WHERE chained IS NULL;

CREATE TABLE admin_log_head (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    chained bigint  NOT NULL DEFAULT 0 CHECK (chained >= 0), -- rows in the chain
    head    bytea   CHECK (octet_length(head) = 32),
    covered timestamptz NOT NULL DEFAULT '0001-01-01 00:00:00Z', -- rows without a MAC until then are covered
    CONSTRAINT chain_is_whole CHECK ((chained = 0) = (head IS NULL))
);
INSERT INTO admin_log_head DEFAULT VALUES;
ALTER TABLE admin_log_head ENABLE ROW LEVEL SECURITY;
ALTER TABLE admin_log_head FORCE  ROW LEVEL SECURITY;
CREATE POLICY operator ON admin_log_head TO connect_operator USING (true);
GRANT SELECT, UPDATE ON admin_log_head TO connect_operator;

-- +goose Down
DROP TABLE admin_log_head;
ALTER TABLE admin_log DROP COLUMN actor_type, DROP COLUMN target, DROP COLUMN details, DROP COLUMN chained,
    DROP COLUMN key_id, DROP COLUMN mac;
ALTER TABLE tenant_sequences DROP COLUMN audit_chained, DROP COLUMN audit_head;
ALTER TABLE audit_log DROP COLUMN key_id, DROP COLUMN mac;
