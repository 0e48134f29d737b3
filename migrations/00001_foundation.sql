-- Roles, the clock, and the rules that every later table follows:
--   * the tenant leads every primary key and unique index;
--   * row-level security is forced: the owner of the tables sees no row either,
--     but for the look-ups that find a tenant;
--   * the tenant comes from app.tenant, set with SET LOCAL in each transaction.
--     The setting is read without missing_ok: unset or empty, a query fails
--     instead of returning nothing.

-- +goose Up
-- +goose StatementBegin
DO $$
BEGIN
    -- Roles belong to the cluster, so another database may have made them.
    BEGIN
        -- NOINHERIT: its membership in connect_operator counts only after SET LOCAL ROLE.
        CREATE ROLE connect_app LOGIN NOINHERIT;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END;
    BEGIN
        CREATE ROLE connect_operator NOLOGIN;
    EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
    END;
    IF NOT pg_has_role('connect_app', 'connect_operator', 'MEMBER') THEN
        GRANT connect_operator TO connect_app;
    END IF;
END
$$;
-- +goose StatementEnd

CREATE SCHEMA app;
GRANT USAGE ON SCHEMA app TO connect_app, connect_operator;
GRANT USAGE ON SCHEMA public TO connect_app, connect_operator;

-- The one row that says which environment this database belongs to, and how far
-- its clock is moved. Only development and test databases may move it.
CREATE TABLE app.deployment (
    one          boolean     PRIMARY KEY DEFAULT true CHECK (one),
    environment  text        NOT NULL CHECK (environment ~ '^[a-z0-9-]{1,40}$'),
    clock_offset interval    NOT NULL DEFAULT interval '0',
    created_at   timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT clock_stands_still_in_production
        CHECK (clock_offset = interval '0' OR environment IN ('development', 'test'))
);
GRANT SELECT ON app.deployment TO connect_app, connect_operator;

-- +goose StatementBegin
CREATE FUNCTION app.now() RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT pg_catalog.now() + (SELECT d.clock_offset FROM app.deployment d) $$;
-- +goose StatementEnd

-- +goose StatementBegin
-- app.wall_clock is app.now() that moves inside a transaction: leases are
-- measured with it, since a transaction may wait for a row lock.
CREATE FUNCTION app.wall_clock() RETURNS timestamptz
    LANGUAGE sql VOLATILE PARALLEL SAFE
    AS $$ SELECT pg_catalog.clock_timestamp() + (SELECT d.clock_offset FROM app.deployment d) $$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION app.tenant() RETURNS uuid
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$ SELECT pg_catalog.current_setting('app.tenant')::uuid $$;
-- +goose StatementEnd

GRANT EXECUTE ON FUNCTION app.now(), app.wall_clock(), app.tenant() TO connect_app, connect_operator;

-- +goose Down
DROP SCHEMA app CASCADE;
