-- Policies: which revisions exist, which is in force, and who decided so. Also: which Envoys may call the data plane.

-- The identity of this database. A restored or forked copy can be told apart by what was exported before.
CREATE TABLE gateway_database (
    singleton  boolean     NOT NULL DEFAULT true,
    id         uuid        NOT NULL DEFAULT gen_random_uuid(),
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT gateway_database_pk PRIMARY KEY (singleton),
    CONSTRAINT gateway_database_is_one CHECK (singleton)
);
INSERT INTO gateway_database DEFAULT VALUES;

-- A revision is never changed. It names secrets and never contains them.
CREATE TABLE policy_revisions (
    revision       bigint      GENERATED ALWAYS AS IDENTITY,
    content_sha256 bytea       NOT NULL,
    files          jsonb       NOT NULL,
    origin         text        NOT NULL,
    author_issuer  text        NOT NULL,
    author         text        NOT NULL,
    reason         text        NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT policy_revisions_pk PRIMARY KEY (revision),
    CONSTRAINT policy_revisions_hash_is_sha256 CHECK (octet_length(content_sha256) = 32),
    CONSTRAINT policy_revisions_files_is_object CHECK (jsonb_typeof(files) = 'object'),
    CONSTRAINT policy_revisions_origin_known CHECK (origin IN ('directory', 'api', 'cli'))
);
CREATE INDEX policy_revisions_by_origin ON policy_revisions (origin, revision DESC);

-- The activation with the highest number is in force. A rollback is a new activation of an old revision.
CREATE TABLE policy_activations (
    activation   bigint      GENERATED ALWAYS AS IDENTITY,
    revision     bigint      NOT NULL,
    author_issuer text       NOT NULL,
    author       text        NOT NULL,
    reason       text        NOT NULL,
    activated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT policy_activations_pk PRIMARY KEY (activation),
    CONSTRAINT policy_activations_revision_fk FOREIGN KEY (revision) REFERENCES policy_revisions (revision)
);
CREATE INDEX policy_activations_by_revision ON policy_activations (revision);

-- Which set of resolved keys a bundle carries. The fingerprint is a salted digest: keys cannot be read out of it.
CREATE TABLE key_sets (
    key_set     bigint      GENERATED ALWAYS AS IDENTITY,
    fingerprint bytea       NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT key_sets_pk PRIMARY KEY (key_set),
    CONSTRAINT key_sets_fingerprint_is_sha256 CHECK (octet_length(fingerprint) = 32)
);

-- The Envoys that may call the data plane. A token is stored as its SHA-256 only.
CREATE TABLE envoys (
    envoy_id     text        NOT NULL,
    token_sha256 bytea       NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    revoked_at   timestamptz,
    CONSTRAINT envoys_pk PRIMARY KEY (envoy_id),
    CONSTRAINT envoys_token_unique UNIQUE (token_sha256),
    CONSTRAINT envoys_token_is_sha256 CHECK (octet_length(token_sha256) = 32)
);

-- What people, and the control plane by itself, changed.
CREATE TABLE admin_events (
    id            bigint      GENERATED ALWAYS AS IDENTITY,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor_issuer  text        NOT NULL,
    actor_subject text        NOT NULL,
    action        text        NOT NULL,
    target        text        NOT NULL,
    reason        text        NOT NULL,
    detail        jsonb       NOT NULL,
    CONSTRAINT admin_events_pk PRIMARY KEY (id)
);
CREATE INDEX admin_events_by_time ON admin_events (at);
CREATE INDEX admin_events_by_target ON admin_events (action, target);

-- History is appended to. The owner can still lift this, which a restore needs; an ordinary statement cannot.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are never changed or deleted', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER policy_revisions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON policy_revisions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER policy_activations_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON policy_activations
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER key_sets_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON key_sets
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER admin_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON admin_events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
