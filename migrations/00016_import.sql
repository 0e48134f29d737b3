-- An import looks up whether a refresh token is stored already, for whomever: by its
-- fingerprints in the refresh ledger, which knows every pair that was ever stored.

-- +goose NO TRANSACTION
-- +goose Up
SET lock_timeout = 0;
CREATE INDEX CONCURRENTLY IF NOT EXISTS refresh_ledger_stored ON refresh_ledger (fingerprint)
    WHERE fingerprint IS NOT NULL AND entry IN ('stored', 'adopted', 'saved', 'found_saved');
CREATE INDEX CONCURRENTLY IF NOT EXISTS refresh_ledger_folds_stored ON refresh_ledger_folds (fingerprint) WHERE fingerprint IS NOT NULL;
RESET lock_timeout;

-- +goose Down
DROP INDEX refresh_ledger_folds_stored, refresh_ledger_stored;
