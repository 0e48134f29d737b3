-- What each tenant may use, and the budgets that its replicas share.

-- +goose NO TRANSACTION
-- +goose Up
-- Null: the default of the version that serves.
ALTER TABLE tenants
    ADD COLUMN IF NOT EXISTS requests_per_second integer,
    ADD COLUMN IF NOT EXISTS requests_burst      integer,
    ADD COLUMN IF NOT EXISTS sessions_per_second integer,
    ADD COLUMN IF NOT EXISTS creates_per_second  integer,
    ADD COLUMN IF NOT EXISTS calls_at_once       integer,
    DROP CONSTRAINT IF EXISTS tenants_requests_per_second_check,
    ADD CONSTRAINT tenants_requests_per_second_check CHECK (requests_per_second BETWEEN 1 AND 1000000) NOT VALID,
    DROP CONSTRAINT IF EXISTS tenants_requests_burst_check,
    ADD CONSTRAINT tenants_requests_burst_check CHECK (requests_burst BETWEEN 1 AND 2000000) NOT VALID,
    DROP CONSTRAINT IF EXISTS tenants_sessions_per_second_check,
    ADD CONSTRAINT tenants_sessions_per_second_check CHECK (sessions_per_second BETWEEN 1 AND 1000000) NOT VALID,
    DROP CONSTRAINT IF EXISTS tenants_creates_per_second_check,
    ADD CONSTRAINT tenants_creates_per_second_check CHECK (creates_per_second BETWEEN 1 AND 1000000) NOT VALID,
    DROP CONSTRAINT IF EXISTS tenants_calls_at_once_check,
    ADD CONSTRAINT tenants_calls_at_once_check CHECK (calls_at_once BETWEEN 1 AND 1000000) NOT VALID;
ALTER TABLE tenants
    VALIDATE CONSTRAINT tenants_requests_per_second_check,
    VALIDATE CONSTRAINT tenants_requests_burst_check,
    VALIDATE CONSTRAINT tenants_sessions_per_second_check,
    VALIDATE CONSTRAINT tenants_creates_per_second_check,
    VALIDATE CONSTRAINT tenants_calls_at_once_check;

-- One token bucket a tenant and budget. Replicas borrow slices of it and spend them
-- by themselves. Unlogged: it is written several times a second, and all that a crash
-- of the server can do is fill it.
-- +goose StatementBegin
CREATE UNLOGGED TABLE IF NOT EXISTS rate_budgets (
    tenant_id uuid             NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    budget    text             NOT NULL CHECK (budget IN ('requests', 'sessions', 'creates')),
    tokens    double precision NOT NULL CHECK (tokens >= 0), -- at that time; they grow since
    lent      integer          NOT NULL CHECK (lent >= 0),   -- what the last borrower got
    at        timestamptz      NOT NULL,                     -- by app.wall_clock()
    PRIMARY KEY (tenant_id, budget)
) WITH (fillfactor = 50);

ALTER TABLE rate_budgets ENABLE ROW LEVEL SECURITY;
ALTER TABLE rate_budgets FORCE  ROW LEVEL SECURITY;
DROP POLICY IF EXISTS tenant   ON rate_budgets;
DROP POLICY IF EXISTS operator ON rate_budgets;
CREATE POLICY tenant   ON rate_budgets TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON rate_budgets TO connect_operator USING (true);
GRANT SELECT, INSERT, UPDATE ON rate_budgets TO connect_app;
GRANT SELECT                 ON rate_budgets TO connect_operator;
-- +goose StatementEnd

-- +goose Down
DROP TABLE rate_budgets;
ALTER TABLE tenants DROP COLUMN requests_per_second, DROP COLUMN requests_burst, DROP COLUMN sessions_per_second,
    DROP COLUMN creates_per_second, DROP COLUMN calls_at_once;
