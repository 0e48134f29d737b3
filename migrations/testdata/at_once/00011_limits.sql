-- What each tenant may use, and the budgets that its replicas share.

-- +goose Up
-- Null: the default of the version that serves.
ALTER TABLE tenants
    ADD COLUMN requests_per_second integer CHECK (requests_per_second BETWEEN 1 AND 1000000),
    ADD COLUMN requests_burst      integer CHECK (requests_burst BETWEEN 1 AND 2000000),
    ADD COLUMN sessions_per_second integer CHECK (sessions_per_second BETWEEN 1 AND 1000000),
    ADD COLUMN creates_per_second  integer CHECK (creates_per_second BETWEEN 1 AND 1000000),
    ADD COLUMN calls_at_once       integer CHECK (calls_at_once BETWEEN 1 AND 1000000);

-- One token bucket a tenant and budget. Replicas borrow slices of it and spend them
-- by themselves. Unlogged: it is written several times a second, and all that a crash
-- of the server can do is fill it.
CREATE UNLOGGED TABLE rate_budgets (
    tenant_id uuid             NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    budget    text             NOT NULL CHECK (budget IN ('requests', 'sessions', 'creates')),
    tokens    double precision NOT NULL CHECK (tokens >= 0), -- at that time; they grow since
    lent      integer          NOT NULL CHECK (lent >= 0),   -- what the last borrower got
    at        timestamptz      NOT NULL,                     -- by app.wall_clock()
    PRIMARY KEY (tenant_id, budget)
) WITH (fillfactor = 50);

ALTER TABLE rate_budgets ENABLE ROW LEVEL SECURITY;
ALTER TABLE rate_budgets FORCE  ROW LEVEL SECURITY;
CREATE POLICY tenant   ON rate_budgets TO connect_app      USING (tenant_id = app.tenant());
CREATE POLICY operator ON rate_budgets TO connect_operator USING (true);
GRANT SELECT, INSERT, UPDATE ON rate_budgets TO connect_app;
GRANT SELECT                 ON rate_budgets TO connect_operator;

-- +goose Down
DROP TABLE rate_budgets;
ALTER TABLE tenants DROP COLUMN requests_per_second, DROP COLUMN requests_burst, DROP COLUMN sessions_per_second,
    DROP COLUMN creates_per_second, DROP COLUMN calls_at_once;
