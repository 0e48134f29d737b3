-- An import presents no token to Prisma, so it can't learn what Prisma calls the workspace.
-- Whoever first uses the connection has it asked for.

-- +goose Up
ALTER TABLE connections ADD COLUMN name_due boolean NOT NULL DEFAULT false; -- a version before leaves it so

-- +goose Down
ALTER TABLE connections DROP COLUMN name_due;
