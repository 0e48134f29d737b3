-- What a connection's diagnosis is made of beside its status, and which connections
-- nobody uses, so that their refresh tokens don't grow old.

-- +goose Up
ALTER TABLE connections
    -- The refresh of this generation failed without spending its token: since when, and
    -- how the last one ended. A later generation makes all three meaningless, so nobody
    -- has to clear them.
    ADD COLUMN failing_generation bigint,
    ADD COLUMN failing_since      timestamptz,
    ADD COLUMN failing_outcome    text CHECK (failing_outcome IN ('not_sent', 'misconfigured')),
    -- The last look at the connection at Prisma: when one was begun, when one ended and
    -- what it found of which generation.
    ADD COLUMN check_begun_at     timestamptz,
    ADD COLUMN checked_at         timestamptz,
    ADD COLUMN check_generation   bigint,
    ADD COLUMN check_finding      text CHECK (length(check_finding) BETWEEN 1 AND 60),
    -- No background job looks after the connection before then.
    ADD COLUMN tended_not_before  timestamptz,
    ADD CONSTRAINT failing_is_whole CHECK (
        (failing_generation IS NULL) = (failing_since IS NULL) AND (failing_since IS NULL) = (failing_outcome IS NULL)),
    ADD CONSTRAINT check_is_whole CHECK (
        (checked_at IS NULL) = (check_generation IS NULL) AND (checked_at IS NULL) = (check_finding IS NULL));

-- "Which pairs are old?"
CREATE INDEX connections_idle ON connections (access_issued_at) WHERE status = 'active';
-- "Whose fate is open, though nobody asks?": an unknown outcome, an exchange that may
-- have died with its process, a grant that nothing can renew.
CREATE INDEX connections_unsettled ON connections (access_expires_at)
    WHERE status = 'suspect' OR status = 'active' AND (refresh_token_sealed IS NULL OR intent_generation IS NOT NULL);

-- +goose Down
DROP INDEX connections_unsettled;
DROP INDEX connections_idle;
ALTER TABLE connections
    DROP CONSTRAINT check_is_whole,
    DROP CONSTRAINT failing_is_whole,
    DROP COLUMN tended_not_before,
    DROP COLUMN check_finding,
    DROP COLUMN check_generation,
    DROP COLUMN checked_at,
    DROP COLUMN check_begun_at,
    DROP COLUMN failing_outcome,
    DROP COLUMN failing_since,
    DROP COLUMN failing_generation;
