-- Where a connection's chain of the refresh ledger ends is sealed. Its newest rows can't be
-- cut off unseen any more, even before a checkpoint has seen them: count and head of the
-- row before are known to whoever reads the chain, and its seal is not.

-- +goose Up
ALTER TABLE connections
    ADD COLUMN ledger_seal bytea CHECK (octet_length(ledger_seal) = 36); -- a key's id and a MAC; null: not sealed

-- Part of what the row's own MAC covers: who wrote it also sealed the chain's end, so a
-- chain that ends with such a row and has no seal was cut. False: written by a version before.
ALTER TABLE refresh_ledger ADD COLUMN head_sealed boolean NOT NULL DEFAULT false;

-- +goose StatementBegin
-- The version before moves the end and knows no seal. While both run, the seal goes with
-- its write, and the row that it adds says that there is none.
CREATE FUNCTION app.unseal_ledger() RETURNS trigger
    LANGUAGE plpgsql SET search_path = ''
    AS $$ BEGIN NEW.ledger_seal := NULL; RETURN NEW; END $$;
-- +goose StatementEnd
CREATE TRIGGER unseal_ledger BEFORE UPDATE OF ledger_count ON connections FOR EACH ROW
    WHEN (NEW.ledger_count <> OLD.ledger_count AND NEW.ledger_seal IS NOT DISTINCT FROM OLD.ledger_seal)
    EXECUTE FUNCTION app.unseal_ledger();

-- +goose Down
DROP TRIGGER unseal_ledger ON connections;
DROP FUNCTION app.unseal_ledger();
ALTER TABLE refresh_ledger DROP COLUMN head_sealed;
ALTER TABLE connections DROP COLUMN ledger_seal;
