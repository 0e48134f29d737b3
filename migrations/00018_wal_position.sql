-- How far the database's log had been written when it acknowledged something. A replica
-- keeps that on its own disk: a disk of the database that is put back is behind it.

-- +goose Up
-- +goose StatementBegin
-- The owner asks, as in app.cluster(). 0: the server does not tell, or is a standby.
CREATE FUNCTION app.wal_position() RETURNS bigint
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER SET search_path = ''
    AS $$
BEGIN
    RETURN pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), '0/0')::bigint;
EXCEPTION WHEN insufficient_privilege OR undefined_function OR feature_not_supported
            OR object_not_in_prerequisite_state THEN
    RETURN 0;
END
$$;
-- +goose StatementEnd
REVOKE EXECUTE ON FUNCTION app.wal_position() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION app.wal_position() TO connect_app;

-- +goose Down
DROP FUNCTION app.wal_position();
