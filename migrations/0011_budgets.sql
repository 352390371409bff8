-- Thresholds that were reached, caps and override accounts that somebody set, and where forfeits came from.

-- The highest level that was told in this window: 0 none, 1 warning, 2 high, 3 critical. It never falls.
ALTER TABLE budget_accounts ADD COLUMN level SMALLINT NOT NULL DEFAULT 0;
ALTER TABLE budget_accounts ADD CONSTRAINT budget_accounts_level CHECK (level BETWEEN 0 AND 3);

CREATE INDEX budget_accounts_ended ON budget_accounts (window_end);

-- One row per account, window and level, whoever noticed it, and however often.
CREATE TABLE budget_alerts (
    id           BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    budget       TEXT        COLLATE "C" NOT NULL,
    scope        TEXT        COLLATE "C" NOT NULL,
    window_start TIMESTAMPTZ NOT NULL,
    window_end   TIMESTAMPTZ NOT NULL,
    level        TEXT        NOT NULL,
    percent      SMALLINT    NOT NULL,
    -- In force when it was reached.
    cap          BIGINT      NOT NULL,
    -- Charged by then, overruns included.
    settled      BIGINT      NOT NULL,
    at           TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp(),
    -- The agent that was paused because of it.
    paused_agent TEXT,
    CONSTRAINT budget_alerts_once UNIQUE (budget, scope, window_start, level),
    CONSTRAINT budget_alerts_level CHECK (level IN ('warning', 'high', 'critical'))
);
CREATE INDEX budget_alerts_at ON budget_alerts (at);

-- Leases that were charged in full because nobody could say what became of them.
CREATE TABLE budget_forfeits (
    id         BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    account_id BIGINT      NOT NULL REFERENCES budget_accounts (account_id) ON DELETE CASCADE,
    holder     UUID        NOT NULL,
    units      BIGINT      NOT NULL,
    at         TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT budget_forfeits_units CHECK (units > 0)
);
CREATE INDEX budget_forfeits_account ON budget_forfeits (account_id);

-- Caps of single scopes (`cap`), and second accounts beside one (`override`).
CREATE TABLE budget_caps (
    id            BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          TEXT        COLLATE "C" NOT NULL,
    budget        TEXT        COLLATE "C" NOT NULL,
    scope         TEXT        COLLATE "C" NOT NULL,
    cap           BIGINT      NOT NULL,
    reason        TEXT        NOT NULL,
    author_issuer TEXT        NOT NULL,
    author        TEXT        NOT NULL,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at    TIMESTAMPTZ,
    ended_at      TIMESTAMPTZ,
    ended_reason  TEXT,
    -- The number of its latest change.
    changed       BIGINT      NOT NULL,
    -- The approval under which a gateway let the request through that asked for it.
    approval      UUID,
    CONSTRAINT budget_caps_kind CHECK (kind IN ('cap', 'override')),
    CONSTRAINT budget_caps_amount CHECK (cap >= 0),
    CONSTRAINT budget_caps_overrides_expire CHECK (kind = 'cap' OR expires_at IS NOT NULL),
    CONSTRAINT budget_caps_approval_once UNIQUE (approval)
);
-- A newer one replaces the older one; two at once would each be in force somewhere.
CREATE UNIQUE INDEX budget_caps_one_open ON budget_caps (kind, budget, scope) WHERE ended_at IS NULL;
CREATE INDEX budget_caps_changed ON budget_caps (changed);

-- Whoever changes a cap holds this row until the commit, so that changes become visible in the order of their numbers.
CREATE TABLE budget_caps_counter (
    singleton BOOLEAN NOT NULL DEFAULT true,
    number    BIGINT  NOT NULL DEFAULT 0,
    CONSTRAINT budget_caps_counter_pk PRIMARY KEY (singleton),
    CONSTRAINT budget_caps_counter_is_one CHECK (singleton)
);
INSERT INTO budget_caps_counter DEFAULT VALUES;

-- A request that a gateway passed on to the control plane finds the approval that it has consumed.
CREATE INDEX approvals_consumed_by ON approvals (consumed_by) WHERE status = 'consumed';
