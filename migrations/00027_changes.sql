-- Replicas remember for some seconds who may call. What changes that is told to all of
-- them: the payload is the tenant, and no payload means that all may have changed.

-- +goose NO TRANSACTION
-- +goose Up
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION app.tell_change() RETURNS trigger
    LANGUAGE plpgsql SET search_path = ''
    AS $$ BEGIN
        -- The argument names the column with the tenant. Equal ones of a transaction are told once.
        PERFORM pg_catalog.pg_notify('connect_changes',
            coalesce(pg_catalog.to_jsonb(CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END) ->> TG_ARGV[0], ''));
        RETURN NULL;
    END $$;
-- +goose StatementEnd
CREATE OR REPLACE TRIGGER tell_change AFTER UPDATE OR DELETE ON tenants
    FOR EACH ROW EXECUTE FUNCTION app.tell_change('id');
-- Not last_used_at: a busy tenant's keys have that each minute.
CREATE OR REPLACE TRIGGER tell_change AFTER UPDATE OF key_hash, scopes, expires_at, revoked_at OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION app.tell_change('tenant_id');
-- The clock that development and tests move.
CREATE OR REPLACE TRIGGER tell_change AFTER UPDATE OF clock_offset ON app.deployment
    FOR EACH ROW EXECUTE FUNCTION app.tell_change('');

-- +goose Down
DROP TRIGGER tell_change ON app.deployment;
DROP TRIGGER tell_change ON api_keys;
DROP TRIGGER tell_change ON tenants;
DROP FUNCTION app.tell_change();
