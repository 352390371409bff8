-- Several governors for one approval, deliveries to webhooks, and who is signed in on the pages.

-- How many governors had to approve when the request was made. A setting that is lowered later does not weaken it.
ALTER TABLE approvals ADD COLUMN approvers_needed SMALLINT NOT NULL DEFAULT 1;
ALTER TABLE approvals ADD CONSTRAINT approvals_approvers CHECK (approvers_needed BETWEEN 1 AND 2);

-- What each governor said: once per approval, and never changed.
CREATE TABLE approval_decisions (
    approval         UUID        NOT NULL REFERENCES approvals (id),
    governor_issuer  TEXT        NOT NULL,
    governor_subject TEXT        NOT NULL,
    decision         TEXT        NOT NULL,
    reason           TEXT        NOT NULL,
    at               TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT approval_decisions_once PRIMARY KEY (approval, governor_issuer, governor_subject),
    CONSTRAINT approval_decisions_decision CHECK (decision IN ('approve', 'reject'))
);

-- Decisions from before this table.
INSERT INTO approval_decisions (approval, governor_issuer, governor_subject, decision, reason, at)
SELECT id, decided_by_issuer, decided_by_subject, CASE status WHEN 'rejected' THEN 'reject' ELSE 'approve' END,
       coalesce(decision_reason, ''), decided_at
FROM approvals WHERE decided_at IS NOT NULL;

CREATE FUNCTION refuse_own_decision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM approvals WHERE id = NEW.approval AND issuer = NEW.governor_issuer AND subject = NEW.governor_subject) THEN
        RAISE EXCEPTION 'nobody decides on an own request' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER approval_decisions_not_by_requester BEFORE INSERT ON approval_decisions
    FOR EACH ROW EXECUTE FUNCTION refuse_own_decision();
CREATE TRIGGER approval_decisions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON approval_decisions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Events for receivers outside, written in the transaction that makes them true. No secret is here, only its name.
CREATE TABLE webhook_deliveries (
    id              UUID        PRIMARY KEY,
    event_type      TEXT        NOT NULL,
    url             TEXT        NOT NULL,
    secret          TEXT        NOT NULL,
    payload         JSONB       NOT NULL,
    created_at      TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- Of this round; a redelivery starts a new one.
    attempts        INTEGER     NOT NULL DEFAULT 0,
    -- While an attempt is made, when its lease runs out.
    next_attempt_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    delivered_at    TIMESTAMPTZ,
    dead_at         TIMESTAMPTZ,
    -- A class such as `timed_out`, never a text from outside.
    last_error      TEXT,
    last_status     INTEGER,
    CONSTRAINT webhook_deliveries_one_end CHECK (delivered_at IS NULL OR dead_at IS NULL),
    CONSTRAINT webhook_deliveries_attempts CHECK (attempts >= 0)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_attempt_at) WHERE delivered_at IS NULL AND dead_at IS NULL;
CREATE INDEX webhook_deliveries_dead ON webhook_deliveries (dead_at) WHERE dead_at IS NOT NULL;
CREATE INDEX webhook_deliveries_delivered ON webhook_deliveries (delivered_at) WHERE delivered_at IS NOT NULL;
CREATE INDEX webhook_deliveries_newest ON webhook_deliveries (created_at DESC, id DESC);

-- Browsers that are signed in. The cookie is a random number; its digest is here, and what the token said, never the token.
CREATE TABLE page_sessions (
    id_sha256  BYTEA       PRIMARY KEY,
    identity   JSONB       NOT NULL,
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    expires_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT page_sessions_digest CHECK (octet_length(id_sha256) = 32)
);
CREATE INDEX page_sessions_expiry ON page_sessions (expires_at);
