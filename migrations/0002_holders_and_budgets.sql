-- Holders (virtual machines that spend leases) and the durable budgets.
-- Texts that order locks are COLLATE "C", so that every session sorts them alike.

CREATE TABLE holders (
    holder          UUID        PRIMARY KEY,
    envoy_id        TEXT        NOT NULL,
    last_call       BIGINT      NOT NULL,
    -- The number before last_call: one upsert both advances the number and tells whether the call is new.
    previous_call   BIGINT      NOT NULL,
    activation      BIGINT      NOT NULL,
    -- The newest audit record that is stored, and when.
    last_sequence   BIGINT      NOT NULL DEFAULT 0,
    last_records_at TIMESTAMPTZ,
    first_seen_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_seen_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    closed_at       TIMESTAMPTZ
) WITH (fillfactor = 50);

-- On the key, not on last_seen_at: that changes with every call, and the update should stay in its page.
CREATE INDEX holders_open ON holders (holder) WHERE closed_at IS NULL;

CREATE TABLE budget_accounts (
    account_id   BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    budget       TEXT        COLLATE "C" NOT NULL,
    scope        TEXT        COLLATE "C" NOT NULL,
    window_start TIMESTAMPTZ NOT NULL,
    window_end   TIMESTAMPTZ NOT NULL,
    -- Grants of open leases and charges of closed ones. Kept at or below the cap at every grant.
    committed    BIGINT      NOT NULL DEFAULT 0,
    -- Charged: used by open leases, charges of closed ones, forfeits.
    settled      BIGINT      NOT NULL DEFAULT 0,
    -- Reserved by open requests under open leases.
    held         BIGINT      NOT NULL DEFAULT 0,
    -- Of settled: grants of holders that fell silent.
    forfeited    BIGINT      NOT NULL DEFAULT 0,
    -- Charged beyond what requests had reserved, booked apart.
    overrun      BIGINT      NOT NULL DEFAULT 0,
    -- Reported as spent although it was never granted.
    over_grant   BIGINT      NOT NULL DEFAULT 0,
    recalled_at  TIMESTAMPTZ,
    CONSTRAINT budget_accounts_key UNIQUE (budget, scope, window_start),
    CONSTRAINT budget_accounts_amounts CHECK (
        settled >= 0 AND held >= 0 AND forfeited >= 0 AND overrun >= 0 AND over_grant >= 0 AND committed >= settled + held
    ),
    CONSTRAINT budget_accounts_window CHECK (window_start < window_end)
) WITH (fillfactor = 50);

CREATE TABLE budget_leases (
    holder     UUID   NOT NULL REFERENCES holders (holder),
    account_id BIGINT NOT NULL REFERENCES budget_accounts (account_id),
    generation BIGINT NOT NULL,
    granted    BIGINT NOT NULL,
    used       BIGINT NOT NULL,
    held       BIGINT NOT NULL,
    overrun    BIGINT NOT NULL,
    PRIMARY KEY (holder, account_id),
    CONSTRAINT budget_leases_amounts CHECK (used >= 0 AND held >= 0 AND overrun >= 0 AND granted >= used + held)
) WITH (fillfactor = 50);

CREATE INDEX budget_leases_account ON budget_leases (account_id);
