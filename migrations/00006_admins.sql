-- People who run the service. Their tables belong to no tenant: only
-- connect_operator can read them.

-- +goose Up
CREATE TABLE admins (
    id            uuid        PRIMARY KEY,
    email         text        NOT NULL UNIQUE CHECK (email = lower(email) AND length(email) BETWEEN 3 AND 254),
    password_hash text        NOT NULL CHECK (password_hash LIKE '$argon2id$%'),
    created_at    timestamptz NOT NULL DEFAULT app.now(),
    updated_at    timestamptz NOT NULL DEFAULT app.now()
);

CREATE TABLE admin_sessions (
    secret_hash  bytea       PRIMARY KEY CHECK (octet_length(secret_hash) = 32),
    admin_id     uuid        NOT NULL REFERENCES admins (id) ON DELETE CASCADE,
    created_at   timestamptz NOT NULL DEFAULT app.now(),
    last_seen_at timestamptz NOT NULL DEFAULT app.now()
);
CREATE INDEX admin_sessions_admin ON admin_sessions (admin_id);

CREATE TABLE admin_log (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at         timestamptz NOT NULL DEFAULT app.now(),
    admin_id   uuid, -- null: nobody is signed in
    action     text        NOT NULL CHECK (action ~ '^[a-z_]+\.[a-z_]+$'),
    request_id text        NOT NULL DEFAULT '' CHECK (length(request_id) <= 64),
    ip         inet
);

CREATE INDEX admin_log_at ON admin_log (at);

ALTER TABLE admins         ENABLE ROW LEVEL SECURITY;
ALTER TABLE admins         FORCE  ROW LEVEL SECURITY;
ALTER TABLE admin_sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE admin_sessions FORCE  ROW LEVEL SECURITY;
ALTER TABLE admin_log      ENABLE ROW LEVEL SECURITY;
ALTER TABLE admin_log      FORCE  ROW LEVEL SECURITY;
CREATE POLICY operator ON admins         TO connect_operator USING (true);
CREATE POLICY operator ON admin_sessions TO connect_operator USING (true);
CREATE POLICY operator ON admin_log      TO connect_operator USING (true);
GRANT SELECT, INSERT, UPDATE         ON admins         TO connect_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON admin_sessions TO connect_operator;
GRANT SELECT, INSERT                 ON admin_log      TO connect_operator;

-- serve compares this with what it needs, without a right to read goose's table.
-- +goose StatementBegin
CREATE FUNCTION app.schema_version() RETURNS bigint
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = ''
    AS $$ SELECT max(v.version_id) FROM public.goose_db_version v WHERE v.is_applied $$;
-- +goose StatementEnd
REVOKE EXECUTE ON FUNCTION app.schema_version() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.schema_version() TO connect_app;

-- +goose Down
DROP FUNCTION app.schema_version();
DROP TABLE admin_log, admin_sessions, admins;
