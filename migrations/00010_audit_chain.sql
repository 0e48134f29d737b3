-- The audit log proves itself: each row carries a MAC over itself and the row before
-- it, whose key is not in this database, and the tenant's sequence row carries the
-- last one. Checkpoints of the refresh ledger note these heads too, under a
-- connection of zeros.
--
-- The version before this one writes rows without a MAC. The next row with one covers
-- them, as it covers what was there before this migration.

-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE audit_log
    ADD COLUMN IF NOT EXISTS key_id bigint,
    ADD COLUMN IF NOT EXISTS mac    bytea,
    DROP CONSTRAINT IF EXISTS audit_log_mac_check,
    ADD CONSTRAINT audit_log_mac_check CHECK (octet_length(mac) = 32) NOT VALID,
    DROP CONSTRAINT IF EXISTS mac_has_a_key,
    ADD CONSTRAINT mac_has_a_key CHECK ((mac IS NULL) = (key_id IS NULL)) NOT VALID;
ALTER TABLE audit_log
    VALIDATE CONSTRAINT audit_log_mac_check,
    VALIDATE CONSTRAINT mac_has_a_key;

-- Where each tenant's chain ends: the last row with a MAC.
ALTER TABLE tenant_sequences
    ADD COLUMN IF NOT EXISTS audit_chained bigint NOT NULL DEFAULT 0,
    ADD COLUMN IF NOT EXISTS audit_head    bytea,
    DROP CONSTRAINT IF EXISTS tenant_sequences_audit_chained_check,
    ADD CONSTRAINT tenant_sequences_audit_chained_check CHECK (audit_chained >= 0) NOT VALID,
    DROP CONSTRAINT IF EXISTS tenant_sequences_audit_head_check,
    ADD CONSTRAINT tenant_sequences_audit_head_check CHECK (octet_length(audit_head) = 32) NOT VALID,
    DROP CONSTRAINT IF EXISTS audit_chain_is_whole,
    ADD CONSTRAINT audit_chain_is_whole CHECK ((audit_chained = 0) = (audit_head IS NULL)) NOT VALID;
ALTER TABLE tenant_sequences
    VALIDATE CONSTRAINT tenant_sequences_audit_chained_check,
    VALIDATE CONSTRAINT tenant_sequences_audit_head_check,
    VALIDATE CONSTRAINT audit_chain_is_whole;

-- The same for what belongs to no tenant. Rows are chained in the order of chained;
-- those of the version before have none. A row covers the ones without a MAC that are
-- a minute older than it and that no row before it covered. Without an actor_type it is
-- an earlier version's row.
ALTER TABLE admin_log
    ADD COLUMN IF NOT EXISTS actor_type text,
    ADD COLUMN IF NOT EXISTS target     text NOT NULL DEFAULT '',
    ADD COLUMN IF NOT EXISTS details    jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN IF NOT EXISTS chained    bigint,
    ADD COLUMN IF NOT EXISTS key_id     bigint,
    ADD COLUMN IF NOT EXISTS mac        bytea,
    DROP CONSTRAINT IF EXISTS admin_log_actor_type_check,
    ADD CONSTRAINT admin_log_actor_type_check CHECK (actor_type IN ('admin', 'command', 'system')) NOT VALID,
    DROP CONSTRAINT IF EXISTS admin_log_target_check,
    ADD CONSTRAINT admin_log_target_check CHECK (length(target) <= 255) NOT VALID,
    DROP CONSTRAINT IF EXISTS admin_log_details_check,
    ADD CONSTRAINT admin_log_details_check CHECK (jsonb_typeof(details) = 'object') NOT VALID,
    DROP CONSTRAINT IF EXISTS admin_log_chained_check,
    ADD CONSTRAINT admin_log_chained_check CHECK (chained > 0) NOT VALID,
    DROP CONSTRAINT IF EXISTS admin_log_mac_check,
    ADD CONSTRAINT admin_log_mac_check CHECK (octet_length(mac) = 32) NOT VALID,
    DROP CONSTRAINT IF EXISTS admin_mac_has_a_key,
    ADD CONSTRAINT admin_mac_has_a_key CHECK ((mac IS NULL) = (key_id IS NULL) AND (mac IS NULL) = (chained IS NULL)) NOT VALID;
ALTER TABLE admin_log
    VALIDATE CONSTRAINT admin_log_actor_type_check,
    VALIDATE CONSTRAINT admin_log_target_check,
    VALIDATE CONSTRAINT admin_log_details_check,
    VALIDATE CONSTRAINT admin_log_chained_check,
    VALIDATE CONSTRAINT admin_log_mac_check,
    VALIDATE CONSTRAINT admin_mac_has_a_key;

-- +goose StatementBegin
CREATE TABLE IF NOT EXISTS admin_log_head (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    chained bigint  NOT NULL DEFAULT 0 CHECK (chained >= 0), -- rows in the chain
    head    bytea   CHECK (octet_length(head) = 32),
    covered timestamptz NOT NULL DEFAULT '0001-01-01 00:00:00Z', -- rows without a MAC until then are covered
    CONSTRAINT chain_is_whole CHECK ((chained = 0) = (head IS NULL))
);
ALTER TABLE admin_log_head NO FORCE ROW LEVEL SECURITY; -- run again, the owner may insert as the first time
INSERT INTO admin_log_head DEFAULT VALUES ON CONFLICT (one) DO NOTHING;
ALTER TABLE admin_log_head ENABLE ROW LEVEL SECURITY;
ALTER TABLE admin_log_head FORCE  ROW LEVEL SECURITY;
DROP POLICY IF EXISTS operator ON admin_log_head;
CREATE POLICY operator ON admin_log_head TO connect_operator USING (true);
GRANT SELECT, UPDATE ON admin_log_head TO connect_operator;
-- +goose StatementEnd

SET lock_timeout = 0;
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS admin_log_chained ON admin_log (chained) WHERE chained IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS admin_log_unchained ON admin_log (at) WHERE chained IS NULL;
RESET lock_timeout;

-- +goose Down
DROP TABLE admin_log_head;
ALTER TABLE admin_log DROP COLUMN actor_type, DROP COLUMN target, DROP COLUMN details, DROP COLUMN chained,
    DROP COLUMN key_id, DROP COLUMN mac;
ALTER TABLE tenant_sequences DROP COLUMN audit_chained, DROP COLUMN audit_head;
ALTER TABLE audit_log DROP COLUMN key_id, DROP COLUMN mac;
