-- Whether this database is the one that refresh tokens may be presented from, and
-- which replicas are alive. A refresh token works once: two copies of one database
-- that both use theirs kill every connection in it.

-- +goose Up
-- The decisions about where this database may be, oldest first; the newest holds.
-- The table is its own audit trail: rows are only ever added.
CREATE TABLE app.fence (
    -- Counts from 1: of two decisions that follow the same one, the second fails.
    id                bigint      PRIMARY KEY CHECK (id > 0),
    -- first_use: nothing had been decided. failover: a replica that lived through it
    -- found nothing missing. command: an operator's. writes_lost: a replica found that
    -- something is missing; token requests stop until the next decision.
    decision          text        NOT NULL CHECK (decision IN ('first_use', 'failover', 'command', 'writes_lost')),
    at                timestamptz NOT NULL DEFAULT app.now(),
    system_identifier bigint      NOT NULL, -- of the cluster, from initdb; 0: the server does not tell
    timeline          bigint      NOT NULL, -- of its WAL: moves with each promotion and restore; 0: not told
    database_oid      bigint      NOT NULL,
    database_name     text        NOT NULL,
    environment       text        NOT NULL
);
GRANT SELECT         ON app.fence TO connect_app;
GRANT SELECT, INSERT ON app.fence TO connect_operator;

-- +goose StatementBegin
-- Where this session is. The owner asks, so that every role sees the same, and so
-- that an administrator who has closed the two functions below to the public has to
-- open them to one role only. Where that can't be had the answer is 0, not an error.
-- The timeline is that of the WAL being written: the control file learns of a
-- promotion only at the next checkpoint, minutes later.
CREATE FUNCTION app.cluster(OUT system_identifier bigint, OUT timeline bigint, OUT database_oid bigint,
        OUT database_name text, OUT environment text, OUT started_at timestamptz)
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = ''
    AS $$
BEGIN
    BEGIN
        SELECT c.system_identifier INTO system_identifier FROM pg_catalog.pg_control_system() c;
    EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported THEN
        system_identifier := 0;
    END;
    BEGIN
        timeline := ('x' || pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::bigint;
    EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported
                OR object_not_in_prerequisite_state THEN -- a standby writes no WAL, and takes no claim either
        timeline := 0;
    END;
    SELECT d.oid::bigint, d.datname::text INTO database_oid, database_name
    FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database();
    SELECT p.environment INTO environment FROM app.deployment p;
    started_at := pg_catalog.pg_postmaster_start_time();
END
$$;
-- +goose StatementEnd

-- +goose StatementBegin
-- The first decision, made by the first replica. A migration can't make it: a database
-- may be copied between the two, as every test's is.
CREATE FUNCTION app.begin_fence() RETURNS void
    LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = ''
    AS $$
        INSERT INTO app.fence (id, decision, system_identifier, timeline, database_oid, database_name, environment)
        SELECT 1, 'first_use', c.system_identifier, c.timeline, c.database_oid, c.database_name, c.environment
        FROM app.cluster() c WHERE NOT EXISTS (SELECT FROM app.fence)
        ON CONFLICT (id) DO NOTHING
    $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- Whether the database has forgotten one of these token pairs, which it had once
-- acknowledged. A connection that is gone tells nothing.
CREATE FUNCTION app.token_writes_lost(tenants uuid[], connections uuid[], generations bigint[]) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
    AS $$ SELECT EXISTS (
        SELECT FROM unnest(tenants, connections, generations) AS w (tenant_id, id, generation)
        JOIN public.connections c ON c.tenant_id = w.tenant_id AND c.id = w.id
        WHERE c.generation < w.generation) $$;
-- +goose StatementEnd
REVOKE EXECUTE ON FUNCTION app.cluster(), app.begin_fence(), app.token_writes_lost(uuid[], uuid[], bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.cluster() TO connect_app, connect_operator;
GRANT EXECUTE ON FUNCTION app.begin_fence(), app.token_writes_lost(uuid[], uuid[], bigint[]) TO connect_app;

-- The processes that run the service. Each writes its own row every few seconds: it
-- tells the others that it lives, and itself, after a restart of the database, whether
-- the database still knows what it was told.
CREATE TABLE app.replicas (
    id         uuid        PRIMARY KEY,
    beat       bigint      NOT NULL CHECK (beat > 0), -- counts its beats
    beat_every interval    NOT NULL CHECK (beat_every > interval '0'),
    beat_at    timestamptz NOT NULL -- by app.wall_clock()
);
GRANT SELECT, INSERT, UPDATE, DELETE ON app.replicas TO connect_app;

-- The replica whose intent is open.
ALTER TABLE connections ADD COLUMN lease_owner uuid;

-- +goose Down
ALTER TABLE connections DROP COLUMN lease_owner;
DROP TABLE app.replicas;
DROP FUNCTION app.token_writes_lost(uuid[], uuid[], bigint[]), app.begin_fence(), app.cluster();
DROP TABLE app.fence;
