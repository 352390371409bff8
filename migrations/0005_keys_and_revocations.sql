-- Key sets that issuers publish, and what was revoked.

-- The last good JWK set of an issuer, as it was fetched: public keys only. A row stays when a policy no longer names it,
-- so that a rollback finds its keys.
CREATE TABLE jwk_sets (
    issuer       TEXT        COLLATE "C" NOT NULL,
    url          TEXT        COLLATE "C" NOT NULL,
    body         BYTEA,
    fetched_at   TIMESTAMPTZ,
    -- The fetch from which served keys are counted as good. It lags behind fetched_at on purpose: every change of it is
    -- a new bundle for every worker.
    served_from  TIMESTAMPTZ,
    -- Rises when what is served changes.
    changes      BIGINT      NOT NULL DEFAULT 0,
    attempted_at TIMESTAMPTZ,
    next_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- The replica that fetches has until then.
    leased_until TIMESTAMPTZ,
    failures     INTEGER     NOT NULL DEFAULT 0,
    last_error   TEXT,
    CONSTRAINT jwk_sets_pk PRIMARY KEY (issuer, url),
    CONSTRAINT jwk_sets_fetched_whole CHECK ((body IS NULL) = (fetched_at IS NULL) AND (body IS NULL) = (served_from IS NULL))
);

-- One row per thing that was revoked. `number` is that of its latest change.
CREATE TABLE revocations (
    kind          TEXT        COLLATE "C" NOT NULL,
    -- Empty for customers and agents, which are the same whoever vouches for them.
    issuer        TEXT        COLLATE "C" NOT NULL,
    value         TEXT        COLLATE "C" NOT NULL,
    number        BIGINT      NOT NULL,
    mark          BYTEA       NOT NULL,
    bound         BIGINT      NOT NULL,
    reason        TEXT        NOT NULL,
    author_issuer TEXT        NOT NULL,
    author        TEXT        NOT NULL,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at    TIMESTAMPTZ,
    lifted_at     TIMESTAMPTZ,
    CONSTRAINT revocations_pk PRIMARY KEY (kind, issuer, value),
    CONSTRAINT revocations_number_unique UNIQUE (number) DEFERRABLE INITIALLY IMMEDIATE,
    CONSTRAINT revocations_kind_known CHECK (kind IN ('token', 'subject', 'version', 'key', 'customer', 'agent')),
    CONSTRAINT revocations_mark_is_128_bits CHECK (octet_length(mark) = 16),
    CONSTRAINT revocations_number_positive CHECK (number >= 1)
);
CREATE INDEX revocations_expiring ON revocations (expires_at) WHERE lifted_at IS NULL AND expires_at IS NOT NULL;
CREATE INDEX revocations_lifted ON revocations (lifted_at) WHERE lifted_at IS NOT NULL;

-- Whoever changes a revocation holds this row until the commit, so that numbers have no gaps and become visible in order.
CREATE TABLE revocation_counter (
    singleton BOOLEAN NOT NULL DEFAULT true,
    -- The number of the latest change.
    number    BIGINT  NOT NULL DEFAULT 0,
    -- The highest number of a lifted entry that was deleted: what somebody knows up to an older number cannot be carried on.
    floor     BIGINT  NOT NULL DEFAULT 0,
    -- How many entries are in force.
    live      BIGINT  NOT NULL DEFAULT 0,
    CONSTRAINT revocation_counter_pk PRIMARY KEY (singleton),
    CONSTRAINT revocation_counter_is_one CHECK (singleton),
    CONSTRAINT revocation_counter_order CHECK (floor <= number AND live >= 0)
);
INSERT INTO revocation_counter DEFAULT VALUES;

-- The last revocation that a holder said it enforces.
ALTER TABLE holders ADD COLUMN revocation BIGINT NOT NULL DEFAULT 0;

-- The last revocation that was enforced when a request was decided.
ALTER TABLE gateway_audit_logs ADD COLUMN revocation BIGINT NOT NULL DEFAULT 0;
