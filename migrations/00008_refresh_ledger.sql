-- The refresh ledger: what was done with each refresh token, so that anybody who has
-- the keys can prove that none was presented twice. Rows are only ever added; each is
-- chained to the one before it by a MAC whose key is not in this database.

-- +goose Up
-- Where each connection's chain ends, and which token pair it accounts for.
ALTER TABLE connections
    ADD COLUMN ledger_count      bigint NOT NULL DEFAULT 0 CHECK (ledger_count >= 0),
    ADD COLUMN ledger_head       bytea  CHECK (octet_length(ledger_head) = 32),
    ADD COLUMN ledger_generation bigint NOT NULL DEFAULT 0 CHECK (ledger_generation >= 0),
    ADD CONSTRAINT ledger_is_whole CHECK ((ledger_count = 0) = (ledger_head IS NULL));

CREATE TABLE refresh_ledger (
    tenant_id     uuid        NOT NULL,
    connection_id uuid        NOT NULL,
    sequence      bigint      NOT NULL CHECK (sequence > 0), -- per connection, without gaps
    entry         text        NOT NULL CHECK (entry IN ('stored', 'adopted', 'begun', 'saved', 'found_saved',
        'not_sent', 'misconfigured', 'invalid_grant', 'unknown', 'superseded')),
    generation    bigint      NOT NULL CHECK (generation > 0), -- of the pair that the entry is about
    attempt       bigint      NOT NULL CHECK (attempt >= 0 AND attempt < sequence), -- the 'begun' that it ends; 0: none
    late_retry    boolean     NOT NULL,
    replica       uuid        NOT NULL, -- the process that wrote it
    at            timestamptz NOT NULL, -- by app.wall_clock()
    fingerprint   bytea       CHECK (octet_length(fingerprint) = 32), -- of that pair's refresh token; null: none, or not known
    key_id        bigint      NOT NULL, -- of the key of fingerprint and mac
    mac           bytea       NOT NULL CHECK (octet_length(mac) = 32),
    PRIMARY KEY (tenant_id, connection_id, sequence),
    FOREIGN KEY (tenant_id, connection_id) REFERENCES connections (tenant_id, id),
    CONSTRAINT an_end_has_an_attempt CHECK ((attempt = 0) = (entry IN ('stored', 'adopted', 'begun')))
);
-- "What is new since the last checkpoint", "what is old enough to fold".
CREATE INDEX refresh_ledger_at ON refresh_ledger (at);

-- What the old rows of a chain came to, once they are deleted.
CREATE TABLE refresh_ledger_folds (
    tenant_id     uuid        NOT NULL,
    connection_id uuid        NOT NULL,
    sequence      bigint      NOT NULL CHECK (sequence > 0), -- the last row in it
    head          bytea       NOT NULL CHECK (octet_length(head) = 32), -- that row's MAC
    generation    bigint      NOT NULL CHECK (generation > 0), -- the pair that it left stored
    fingerprint   bytea       CHECK (octet_length(fingerprint) = 32), -- of that pair's refresh token
    fingerprint_key_id bigint NOT NULL,
    counts        bigint[]    NOT NULL CHECK (cardinality(counts) = 10), -- of each entry, in the order of the CHECK above
    late_retries  bigint      NOT NULL CHECK (late_retries >= 0), -- of those begun
    at            timestamptz NOT NULL,
    key_id        bigint      NOT NULL,
    mac           bytea       NOT NULL CHECK (octet_length(mac) = 32),
    PRIMARY KEY (tenant_id, connection_id),
    FOREIGN KEY (tenant_id, connection_id) REFERENCES connections (tenant_id, id)
);

-- Every few minutes: which chains grew, and how far they were. Checkpoints are a chain
-- too, over all tenants. Old ones stay; their entries go once newer ones stand for
-- them, which entries_from says.
CREATE TABLE ledger_checkpoints (
    sequence     bigint      PRIMARY KEY CHECK (sequence > 0),
    at           timestamptz NOT NULL,
    upto         timestamptz NOT NULL, -- every row until then is in this checkpoint or an older one
    entries_from bigint      NOT NULL CHECK (entries_from > 0 AND entries_from <= sequence),
    entries      integer     NOT NULL CHECK (entries > 0),
    digest       bytea       NOT NULL CHECK (octet_length(digest) = 32), -- of its entries, by tenant and connection
    key_id       bigint      NOT NULL,
    mac          bytea       NOT NULL CHECK (octet_length(mac) = 32)
);

CREATE TABLE ledger_checkpoint_entries (
    tenant_id     uuid   NOT NULL,
    connection_id uuid   NOT NULL,
    checkpoint    bigint NOT NULL CHECK (checkpoint > 0),
    count         bigint NOT NULL CHECK (count > 0),
    head          bytea  NOT NULL CHECK (octet_length(head) = 32),
    PRIMARY KEY (tenant_id, connection_id, checkpoint)
);
CREATE INDEX ledger_checkpoint_entries_checkpoint ON ledger_checkpoint_entries (checkpoint);

ALTER TABLE refresh_ledger            ENABLE ROW LEVEL SECURITY;
ALTER TABLE refresh_ledger            FORCE  ROW LEVEL SECURITY;
ALTER TABLE refresh_ledger_folds      ENABLE ROW LEVEL SECURITY;
ALTER TABLE refresh_ledger_folds      FORCE  ROW LEVEL SECURITY;
ALTER TABLE ledger_checkpoints        ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger_checkpoints        FORCE  ROW LEVEL SECURITY;
ALTER TABLE ledger_checkpoint_entries ENABLE ROW LEVEL SECURITY;
ALTER TABLE ledger_checkpoint_entries FORCE  ROW LEVEL SECURITY;

CREATE POLICY tenant   ON refresh_ledger            TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON refresh_ledger            TO connect_operator USING (true);
CREATE POLICY tenant   ON refresh_ledger_folds      TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON refresh_ledger_folds      TO connect_operator USING (true);
CREATE POLICY operator ON ledger_checkpoints        TO connect_operator USING (true);
CREATE POLICY tenant   ON ledger_checkpoint_entries TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON ledger_checkpoint_entries TO connect_operator USING (true);

-- Append-only for everybody but the two functions below. A fold is replaced by a
-- longer one.
GRANT SELECT, INSERT         ON refresh_ledger            TO connect_app, connect_operator;
GRANT SELECT                 ON refresh_ledger_folds      TO connect_app;
GRANT SELECT, INSERT, UPDATE ON refresh_ledger_folds      TO connect_operator;
GRANT SELECT, INSERT         ON ledger_checkpoints        TO connect_operator;
GRANT SELECT                 ON ledger_checkpoint_entries TO connect_app;
GRANT SELECT, INSERT         ON ledger_checkpoint_entries TO connect_operator;

-- The owner deletes what is folded, and may see it for that reason alone.
CREATE POLICY lookup ON refresh_ledger            FOR SELECT TO CURRENT_USER USING (true);
CREATE POLICY fold   ON refresh_ledger            FOR DELETE TO CURRENT_USER USING (true);
CREATE POLICY lookup ON refresh_ledger_folds      FOR SELECT TO CURRENT_USER USING (true);
CREATE POLICY lookup ON ledger_checkpoints        FOR SELECT TO CURRENT_USER USING (true);
CREATE POLICY lookup ON ledger_checkpoint_entries FOR SELECT TO CURRENT_USER USING (true);
CREATE POLICY prune  ON ledger_checkpoint_entries FOR DELETE TO CURRENT_USER USING (true);

-- +goose StatementBegin
-- Deletes the rows that the connection's fold covers, and no other.
CREATE FUNCTION app.delete_folded_rows(tenant uuid, connection uuid) RETURNS bigint
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = ''
    AS $$
        WITH gone AS (
            DELETE FROM public.refresh_ledger l USING public.refresh_ledger_folds f
            WHERE f.tenant_id = delete_folded_rows.tenant AND f.connection_id = delete_folded_rows.connection
              AND l.tenant_id = f.tenant_id AND l.connection_id = f.connection_id AND l.sequence <= f.sequence
            RETURNING 1)
        SELECT count(*) FROM gone
    $$;
-- +goose StatementEnd
-- +goose StatementBegin
-- Deletes the entries that the newest checkpoint says are not needed any more.
CREATE FUNCTION app.prune_checkpoint_entries() RETURNS bigint
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = ''
    AS $$
        WITH gone AS (
            DELETE FROM public.ledger_checkpoint_entries e
            WHERE e.checkpoint < (
                SELECT c.entries_from FROM public.ledger_checkpoints c ORDER BY c.sequence DESC LIMIT 1)
            RETURNING 1)
        SELECT count(*) FROM gone
    $$;
-- +goose StatementEnd
REVOKE EXECUTE ON FUNCTION app.delete_folded_rows(uuid, uuid), app.prune_checkpoint_entries() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.delete_folded_rows(uuid, uuid), app.prune_checkpoint_entries() TO connect_operator;

-- +goose Down
DROP FUNCTION app.delete_folded_rows(uuid, uuid), app.prune_checkpoint_entries();
DROP TABLE ledger_checkpoint_entries, ledger_checkpoints, refresh_ledger_folds, refresh_ledger;
ALTER TABLE connections DROP COLUMN ledger_count, DROP COLUMN ledger_head, DROP COLUMN ledger_generation;
