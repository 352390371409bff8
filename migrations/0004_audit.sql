-- The audit log. Rows are inserted and read, never changed.
-- Identifiers are TEXT: what a client sent as its correlation id is kept as it was sent.

CREATE TABLE gateway_audit_logs (
    id               BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    holder           UUID        NOT NULL,
    sequence         BIGINT      NOT NULL,
    envoy_id         TEXT        NOT NULL,
    received_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    "timestamp"      TIMESTAMPTZ NOT NULL,
    gateway_type     TEXT        NOT NULL,
    stage            TEXT        NOT NULL,
    correlation_id   TEXT        COLLATE "C" NOT NULL,
    causation_id     TEXT        COLLATE "C",
    request_id       TEXT        COLLATE "C" NOT NULL,
    http_method      TEXT,
    endpoint         TEXT,
    route            TEXT        COLLATE "C",
    action           TEXT        COLLATE "C",
    issuer           TEXT,
    subject          TEXT,
    user_id          TEXT        COLLATE "C",
    customer_id      TEXT        COLLATE "C",
    agent_id         TEXT        COLLATE "C",
    roles            TEXT[],
    trial_mode       BOOLEAN     NOT NULL,
    sandbox          BOOLEAN     NOT NULL,
    decision         TEXT        NOT NULL,
    reason           TEXT        NOT NULL,
    checks           JSONB       NOT NULL,
    charges          JSONB       NOT NULL,
    approval_id      TEXT,
    activation       BIGINT      NOT NULL,
    revision         BIGINT      NOT NULL,
    key_set          BIGINT      NOT NULL,
    status_code      INTEGER,
    response_details TEXT,
    total_us         BIGINT      NOT NULL,
    upstream_us      BIGINT,
    CONSTRAINT gateway_audit_logs_gateway CHECK (gateway_type IN ('CP', 'PP', 'PLANT', 'ADMIN')),
    CONSTRAINT gateway_audit_logs_stage CHECK (stage IN ('filter', 'envoy')),
    CONSTRAINT gateway_audit_logs_decision CHECK (decision IN ('permit', 'deny', 'indeterminate', 'none')),
    CONSTRAINT gateway_audit_logs_status CHECK (status_code BETWEEN 100 AND 599),
    CONSTRAINT gateway_audit_logs_latency CHECK (total_us >= 0 AND upstream_us >= 0)
);

CREATE INDEX idx_audit_timestamp ON gateway_audit_logs ("timestamp" DESC, id DESC);
CREATE INDEX idx_audit_correlation_id ON gateway_audit_logs (correlation_id);
CREATE INDEX idx_audit_causation_id ON gateway_audit_logs (causation_id) WHERE causation_id IS NOT NULL;
CREATE INDEX idx_audit_user_timestamp ON gateway_audit_logs (user_id, "timestamp" DESC) WHERE user_id IS NOT NULL;
CREATE INDEX idx_audit_customer_timestamp ON gateway_audit_logs (customer_id, "timestamp" DESC) WHERE customer_id IS NOT NULL;
CREATE INDEX idx_audit_agent_timestamp ON gateway_audit_logs (agent_id, "timestamp" DESC) WHERE agent_id IS NOT NULL;
CREATE INDEX idx_audit_errors ON gateway_audit_logs (status_code, reason, "timestamp" DESC) WHERE status_code >= 400;
CREATE INDEX idx_audit_route_timestamp ON gateway_audit_logs (route, "timestamp" DESC) WHERE route IS NOT NULL;

-- The only idempotency key: a batch is stored in the same transaction as its records.
CREATE TABLE audit_batches (
    holder         UUID        NOT NULL,
    first_sequence BIGINT      NOT NULL,
    count          BIGINT      NOT NULL,
    stored_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (holder, first_sequence),
    CONSTRAINT audit_batches_count CHECK (first_sequence >= 1 AND count >= 1)
);

-- What is known to be missing. before_sequence is NULL when the holder was closed: nobody knows how much it had.
CREATE TABLE audit_gaps (
    id              BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    holder          UUID        NOT NULL,
    after_sequence  BIGINT      NOT NULL,
    before_sequence BIGINT,
    from_at         TIMESTAMPTZ NOT NULL,
    to_at           TIMESTAMPTZ NOT NULL,
    reason          TEXT        NOT NULL,
    CONSTRAINT audit_gaps_once UNIQUE (holder, after_sequence, reason),
    CONSTRAINT audit_gaps_reason CHECK (reason IN ('sequence', 'holder_closed'))
);

-- Records that do not decode, that the table refuses, or of which a value was cut: as they came.
CREATE TABLE audit_quarantine (
    id          BIGINT      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    holder      UUID        NOT NULL,
    sequence    BIGINT      NOT NULL,
    envoy_id    TEXT        NOT NULL,
    received_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    bytes       BYTEA       NOT NULL,
    error       TEXT        NOT NULL
);
CREATE INDEX audit_quarantine_time ON audit_quarantine (received_at DESC);
