-- Stands in for the migration that gives the audit log these columns; deleted with it.
ALTER TABLE gateway_audit_logs
    ADD COLUMN phase             TEXT    NOT NULL DEFAULT 'outcome',
    ADD COLUMN upgrade           TEXT,
    ADD COLUMN email             TEXT,
    ADD COLUMN governor_agent_id TEXT,
    ADD COLUMN tier              TEXT,
    ADD COLUMN trial_until       TIMESTAMPTZ,
    ADD COLUMN sampled_of        INTEGER NOT NULL DEFAULT 1,
    ADD COLUMN ours_us           BIGINT,
    ADD COLUMN query_params      JSONB,
    ADD COLUMN request_headers   JSONB,
    ADD COLUMN response_headers  JSONB;
CREATE INDEX idx_audit_request_id ON gateway_audit_logs (request_id);
CREATE INDEX idx_audit_place ON gateway_audit_logs ("timestamp", holder, sequence);
