-- How it became known what a request cost, and the tokens of a language model that it used.
ALTER TABLE gateway_audit_logs
    ADD COLUMN cost  TEXT,
    ADD COLUMN usage JSONB,
    ADD CONSTRAINT gateway_audit_logs_cost CHECK (cost IN ('fixed', 'reported', 'usage', 'unreadable'));
