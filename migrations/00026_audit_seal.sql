-- Where a tenant's chain of the audit log ends is sealed, and where the admin log does, as
-- the refresh ledger's chains are: their newest rows can't be cut off unseen any more,
-- even before a checkpoint has seen them.

-- +goose NO TRANSACTION
-- +goose Up
ALTER TABLE tenant_sequences
    ADD COLUMN IF NOT EXISTS audit_seal bytea, -- a key's id and a MAC; null: not sealed
    DROP CONSTRAINT IF EXISTS tenant_sequences_audit_seal_check,
    ADD CONSTRAINT tenant_sequences_audit_seal_check CHECK (octet_length(audit_seal) = 36) NOT VALID;
ALTER TABLE tenant_sequences VALIDATE CONSTRAINT tenant_sequences_audit_seal_check;
ALTER TABLE admin_log_head
    ADD COLUMN IF NOT EXISTS seal bytea,
    DROP CONSTRAINT IF EXISTS admin_log_head_seal_check,
    ADD CONSTRAINT admin_log_head_seal_check CHECK (octet_length(seal) = 36) NOT VALID;
ALTER TABLE admin_log_head VALIDATE CONSTRAINT admin_log_head_seal_check;

-- Part of what the row's own MAC covers: who wrote it also sealed the chain's end, so a
-- chain that ends with such a row and has no seal was cut. False: written by a version before.
ALTER TABLE audit_log ADD COLUMN IF NOT EXISTS head_sealed boolean NOT NULL DEFAULT false;
ALTER TABLE admin_log ADD COLUMN IF NOT EXISTS head_sealed boolean NOT NULL DEFAULT false;

-- +goose StatementBegin
-- The version before moves the end and knows no seal. While both run, the seal goes with
-- its write, and the row that it adds says that there is none.
CREATE OR REPLACE FUNCTION app.unseal_audit() RETURNS trigger
    LANGUAGE plpgsql SET search_path = ''
    AS $$ BEGIN NEW.audit_seal := NULL; RETURN NEW; END $$;
-- +goose StatementEnd
CREATE OR REPLACE TRIGGER unseal_audit BEFORE UPDATE OF audit_chained ON tenant_sequences FOR EACH ROW
    WHEN (NEW.audit_chained <> OLD.audit_chained AND NEW.audit_seal IS NOT DISTINCT FROM OLD.audit_seal)
    EXECUTE FUNCTION app.unseal_audit();

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION app.unseal_admin_log() RETURNS trigger
    LANGUAGE plpgsql SET search_path = ''
    AS $$ BEGIN NEW.seal := NULL; RETURN NEW; END $$;
-- +goose StatementEnd
CREATE OR REPLACE TRIGGER unseal_admin_log BEFORE UPDATE OF chained ON admin_log_head FOR EACH ROW
    WHEN (NEW.chained <> OLD.chained AND NEW.seal IS NOT DISTINCT FROM OLD.seal)
    EXECUTE FUNCTION app.unseal_admin_log();

-- +goose Down
DROP TRIGGER unseal_admin_log ON admin_log_head;
DROP TRIGGER unseal_audit ON tenant_sequences;
DROP FUNCTION app.unseal_admin_log();
DROP FUNCTION app.unseal_audit();
ALTER TABLE admin_log DROP COLUMN head_sealed;
ALTER TABLE audit_log DROP COLUMN head_sealed;
ALTER TABLE admin_log_head DROP COLUMN seal;
ALTER TABLE tenant_sequences DROP COLUMN audit_seal;
