-- Approvals: one row per request that waited for a governor.

CREATE TABLE approvals (
    id                 UUID        PRIMARY KEY,
    envoy_id           TEXT        NOT NULL,
    gateway            TEXT        NOT NULL,
    issuer             TEXT        NOT NULL,
    subject            TEXT        NOT NULL,
    method             TEXT        NOT NULL,
    authority          TEXT        NOT NULL,
    path               TEXT        NOT NULL,
    query              TEXT        NOT NULL,
    body_sha256        BYTEA       NOT NULL,
    route              TEXT        NOT NULL,
    action             TEXT        NOT NULL,
    -- Digests of (issuer, subject) and of the whole binding: texts of any length compare and index alike.
    user_sha256        BYTEA       NOT NULL,
    binding_sha256     BYTEA       NOT NULL,
    status             TEXT        NOT NULL DEFAULT 'pending',
    requested_at       TIMESTAMPTZ NOT NULL DEFAULT now(),
    requested_by       UUID        NOT NULL,
    expires_at         TIMESTAMPTZ NOT NULL,
    decided_at         TIMESTAMPTZ,
    decided_by_issuer  TEXT,
    decided_by_subject TEXT,
    decision_reason    TEXT,
    consumed_at        TIMESTAMPTZ,
    consumed_by        UUID,
    consumed_envoy_id  TEXT,
    CONSTRAINT approvals_status CHECK (status IN ('pending', 'approved', 'rejected', 'consumed', 'expired')),
    CONSTRAINT approvals_decided CHECK (
        status IN ('pending', 'expired')
        OR (decided_at IS NOT NULL AND decided_by_issuer IS NOT NULL AND decided_by_subject IS NOT NULL)
    ),
    CONSTRAINT approvals_consumed CHECK ((status = 'consumed') = (consumed_by IS NOT NULL)),
    CONSTRAINT approvals_not_by_requester CHECK (
        decided_by_subject IS NULL OR (decided_by_issuer, decided_by_subject) <> (issuer, subject)
    )
);

-- At most one open approval per exact request, whatever races.
CREATE UNIQUE INDEX approvals_one_open ON approvals (binding_sha256) WHERE status IN ('pending', 'approved');
CREATE INDEX approvals_pending_of_user ON approvals (user_sha256) WHERE status = 'pending';
CREATE INDEX approvals_open_expiry ON approvals (expires_at) WHERE status IN ('pending', 'approved');
CREATE INDEX approvals_status_time ON approvals (status, requested_at DESC, id DESC);
