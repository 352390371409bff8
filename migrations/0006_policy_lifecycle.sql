-- Drafts, shadows and the hits of rules; what a rollback went back to; what records say of custom rules and shadows.

-- A rollback is an activation that goes back to an earlier one; the next rollback goes on from there.
ALTER TABLE policy_activations ADD COLUMN rollback_to BIGINT;
ALTER TABLE policy_activations ADD CONSTRAINT policy_activations_rollback_fk
    FOREIGN KEY (rollback_to) REFERENCES policy_activations (activation);

-- What is being written. Unlike a revision it may be changed, and it may be invalid. `version` counts the changes.
CREATE TABLE policy_drafts (
    id             BIGINT      GENERATED ALWAYS AS IDENTITY,
    name           TEXT        NOT NULL,
    base_revision  BIGINT      NOT NULL,
    version        BIGINT      NOT NULL DEFAULT 1,
    files          JSONB       NOT NULL,
    created_issuer TEXT        NOT NULL,
    created_by     TEXT        NOT NULL,
    created_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- Who changed it last, why and when.
    author_issuer  TEXT        NOT NULL,
    author         TEXT        NOT NULL,
    reason         TEXT        NOT NULL,
    updated_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT policy_drafts_pk PRIMARY KEY (id),
    CONSTRAINT policy_drafts_base_fk FOREIGN KEY (base_revision) REFERENCES policy_revisions (revision),
    CONSTRAINT policy_drafts_version_positive CHECK (version >= 1),
    CONSTRAINT policy_drafts_files_is_object CHECK (jsonb_typeof(files) = 'object')
);

-- The newest row says which revision is evaluated beside the active one; a row without a revision is the end of a run.
-- Every row is a new version of the bundle.
CREATE TABLE policy_shadows (
    number          BIGINT      GENERATED ALWAYS AS IDENTITY,
    revision        BIGINT,
    -- The revision that it is compared with: another activation begins another run.
    active_revision BIGINT      NOT NULL,
    author_issuer   TEXT        NOT NULL,
    author          TEXT        NOT NULL,
    reason          TEXT        NOT NULL,
    at              TIMESTAMPTZ NOT NULL DEFAULT now(),
    ends_at         TIMESTAMPTZ,
    CONSTRAINT policy_shadows_pk PRIMARY KEY (number),
    CONSTRAINT policy_shadows_revision_fk FOREIGN KEY (revision) REFERENCES policy_revisions (revision),
    CONSTRAINT policy_shadows_active_fk FOREIGN KEY (active_revision) REFERENCES policy_revisions (revision),
    CONSTRAINT policy_shadows_of_another CHECK (revision <> active_revision),
    CONSTRAINT policy_shadows_end_has_no_end CHECK (revision IS NOT NULL OR ends_at IS NULL)
);
CREATE TRIGGER policy_shadows_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON policy_shadows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What workers reported of a run. Their numbers are cumulative: the greatest counts.
CREATE TABLE shadow_totals (
    shadow      BIGINT      NOT NULL,
    holder      UUID        NOT NULL,
    compared    BIGINT      NOT NULL,
    unjudged    BIGINT      NOT NULL,
    reported_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT shadow_totals_pk PRIMARY KEY (shadow, holder),
    CONSTRAINT shadow_totals_shadow_fk FOREIGN KEY (shadow) REFERENCES policy_shadows (number),
    CONSTRAINT shadow_totals_amounts CHECK (compared >= 0 AND unjudged >= 0)
) WITH (fillfactor = 50);

CREATE TABLE shadow_counts (
    shadow     BIGINT NOT NULL,
    holder     UUID   NOT NULL,
    check_name TEXT   COLLATE "C" NOT NULL,
    route      TEXT   COLLATE "C" NOT NULL,
    active     TEXT   COLLATE "C" NOT NULL,
    in_shadow  TEXT   COLLATE "C" NOT NULL,
    count      BIGINT NOT NULL,
    CONSTRAINT shadow_counts_pk PRIMARY KEY (shadow, holder, check_name, route, active, in_shadow),
    CONSTRAINT shadow_counts_shadow_fk FOREIGN KEY (shadow) REFERENCES policy_shadows (number),
    CONSTRAINT shadow_counts_positive CHECK (count >= 1)
) WITH (fillfactor = 50);

-- How often each rule matched, per day of arrival, counted in the transaction that stores the records. Sharded by holder,
-- so that workers which report at the same moment do not wait for each other.
CREATE TABLE rule_hits (
    day      DATE        NOT NULL,
    kind     TEXT        COLLATE "C" NOT NULL,
    rule     TEXT        COLLATE "C" NOT NULL,
    outcome  TEXT        COLLATE "C" NOT NULL,
    shard    SMALLINT    NOT NULL,
    hits     BIGINT      NOT NULL,
    first_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    last_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    CONSTRAINT rule_hits_pk PRIMARY KEY (kind, rule, outcome, day, shard),
    CONSTRAINT rule_hits_kind_known CHECK (kind IN ('route', 'budget', 'rule', 'flag')),
    CONSTRAINT rule_hits_positive CHECK (hits >= 1)
) WITH (fillfactor = 50);
CREATE INDEX rule_hits_by_day ON rule_hits (day);

-- The custom rule that refused, and how the revision in shadow would have decided where that differs.
ALTER TABLE gateway_audit_logs ADD COLUMN rule TEXT COLLATE "C";
ALTER TABLE gateway_audit_logs ADD COLUMN shadow JSONB;
CREATE INDEX idx_audit_shadow ON gateway_audit_logs ("timestamp" DESC, id DESC) WHERE shadow IS NOT NULL;
