-- A refresh token of unknown fate is presented again until there is an answer, and not
-- once more only: how often that was, beside the pause in refresh_not_before.

-- +goose Up
ALTER TABLE connections
    ADD COLUMN late_retries    integer NOT NULL DEFAULT 0 CHECK (late_retries >= 0),
    ADD COLUMN late_retries_of bigint; -- the generation that they are of; null: none

-- So that the ledger proves that none of these came while an earlier one might have been
-- answered. Null: written by a version before, or with a leeway.
ALTER TABLE refresh_ledger
    ADD COLUMN lease_until timestamptz,
    ADD CONSTRAINT only_a_begun_has_a_lease CHECK (lease_until IS NULL OR entry = 'begun');

-- +goose StatementBegin
-- The version before gives a connection up after one late retry of unknown outcome. While
-- both run, such a row stays as it is: nothing is lost as long as the refresh token lives.
CREATE FUNCTION app.keep_unknown() RETURNS trigger
    LANGUAGE plpgsql SET search_path = ''
    AS $$ BEGIN RETURN NULL; END $$;
-- +goose StatementEnd
CREATE TRIGGER keep_unknown BEFORE UPDATE OF status ON connections FOR EACH ROW
    WHEN (NEW.status = 'needs_reconnect' AND NEW.status_reason = 'refresh_outcome_unknown'
          AND OLD.status IN ('active', 'suspect')
          AND OLD.access_issued_at > app.now() - interval '90 days')
    EXECUTE FUNCTION app.keep_unknown();

-- +goose Down
DROP TRIGGER keep_unknown ON connections;
DROP FUNCTION app.keep_unknown();
ALTER TABLE refresh_ledger DROP CONSTRAINT only_a_begun_has_a_lease, DROP COLUMN lease_until;
ALTER TABLE connections DROP COLUMN late_retries_of, DROP COLUMN late_retries;
