-- An Envoy that is about to stop gives back its leases first. Columns only, and all may be absent: a control plane that does not know
-- them goes on as before.
ALTER TABLE envoys
    -- When it was first asked to, and until when that counts.
    ADD COLUMN draining_since TIMESTAMPTZ,
    ADD COLUMN draining_until TIMESTAMPTZ;

-- What a worker said that it had left, and in which call. It counts for as long as that is the last one, whoever has taken it.
ALTER TABLE holders
    ADD COLUMN left_call    BIGINT,
    ADD COLUMN left_leases  BIGINT,
    ADD COLUMN left_units   BIGINT,
    ADD COLUMN left_records BIGINT;
