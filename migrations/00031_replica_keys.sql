-- Which keys of TOKEN_KEYSET a replica has, the one that it writes with first: nobody is to
-- write with a key that another replica can't read with. The ids are not secret, every
-- sealed value bears one. An earlier version writes none.

-- +goose Up
ALTER TABLE app.replicas
    ADD COLUMN IF NOT EXISTS seal_keys        bigint[], -- null: not known
    ADD COLUMN IF NOT EXISTS fingerprint_keys bigint[];

-- +goose Down
ALTER TABLE app.replicas DROP COLUMN seal_keys, DROP COLUMN fingerprint_keys;
