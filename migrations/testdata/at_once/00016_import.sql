-- An import looks up whether a refresh token is stored already, for whomever: by its
-- fingerprints in the refresh ledger, which knows every pair that was ever stored.

-- +goose Up
CREATE INDEX refresh_ledger_stored ON refresh_ledger (fingerprint)
    WHERE fingerprint IS NOT NULL AND entry IN ('stored', 'adopted', 'saved', 'found_saved');
CREATE INDEX refresh_ledger_folds_stored ON refresh_ledger_folds (fingerprint) WHERE fingerprint IS NOT NULL;

-- +goose Down
DROP INDEX refresh_ledger_folds_stored, refresh_ledger_stored;
