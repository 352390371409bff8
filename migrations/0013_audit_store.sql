-- The audit log as a store of its own: roles, row security, partitions by gateway and day of arrival, and a hash chain per holder
-- and gateway. docs/audit.md says who may do what.

-- No version with the old table was ever released. Whoever has rows all the same must not lose them by an upgrade.
DO $$
BEGIN
    IF EXISTS (SELECT FROM gateway_audit_logs) THEN
        RAISE EXCEPTION 'gateway_audit_logs has rows of a version before the first release'
            USING HINT = 'Copy the table (CREATE TABLE … AS TABLE gateway_audit_logs), then DELETE FROM gateway_audit_logs, and start again.';
    END IF;
END
$$;

-- Roles belong to the cluster: another database may have them already, or make them in this moment. None can log in. Whoever runs
-- this gets the right to become each of them, and none of their rights before that.
DO $$
DECLARE
    role TEXT;
BEGIN
    FOREACH role IN ARRAY ARRAY[
        'plant_gateway_audit_owner', 'plant_gateway_audit_writer', 'plant_gateway_audit_reader', 'plant_gateway_audit_auditor'
    ] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN NULL;
            END;
        END IF;
        IF NOT pg_has_role(current_user, role, 'SET') THEN
            BEGIN
                EXECUTE format('GRANT %I TO CURRENT_USER WITH SET TRUE, INHERIT FALSE', role);
            EXCEPTION
                WHEN insufficient_privilege THEN
                    RAISE EXCEPTION 'the login % may not become %', current_user, role
                        USING HINT = format('An administrator has to run: GRANT %I TO %I WITH SET TRUE, INHERIT FALSE', role, current_user);
            END;
        END IF;
    END LOOP;
    EXECUTE format('GRANT CREATE ON SCHEMA %I TO plant_gateway_audit_owner', current_schema());
END
$$;

-- Partitions lie where nobody but the owner may name them: row security holds for the table that a statement names.
CREATE SCHEMA gateway_audit;

DROP TABLE gateway_audit_logs;

CREATE TABLE gateway_audit_logs (
    -- Which record: who reported it, and its place in the reporter's sequence.
    id               TEXT        GENERATED ALWAYS AS (holder::text || '-' || sequence::text) VIRTUAL,
    holder           UUID        NOT NULL,
    sequence         BIGINT      NOT NULL,
    envoy_id         TEXT        NOT NULL,
    received_at      TIMESTAMPTZ NOT NULL,
    "timestamp"      TIMESTAMPTZ NOT NULL,
    gateway_type     TEXT        NOT NULL,
    stage            TEXT        NOT NULL,
    phase            TEXT        NOT NULL,
    correlation_id   TEXT        COLLATE "C" NOT NULL,
    causation_id     TEXT        COLLATE "C",
    request_id       TEXT        COLLATE "C" NOT NULL,
    http_method      TEXT,
    endpoint         TEXT,
    upgrade          TEXT,
    query_params     JSONB,
    request_headers  JSONB,
    response_headers JSONB,
    route            TEXT        COLLATE "C",
    action           TEXT        COLLATE "C",
    sampled_of       BIGINT      NOT NULL,
    issuer           TEXT        COLLATE "C",
    subject          TEXT        COLLATE "C",
    user_id          TEXT        COLLATE "C",
    customer_id      TEXT        COLLATE "C",
    agent_id         TEXT        COLLATE "C",
    email            TEXT,
    governor_agent_id TEXT,
    roles            TEXT[],
    tier             TEXT,
    trial_mode       BOOLEAN     NOT NULL,
    trial_until      TIMESTAMPTZ,
    sandbox          BOOLEAN     NOT NULL,
    decision         TEXT        NOT NULL,
    reason           TEXT        NOT NULL,
    rule             TEXT        COLLATE "C",
    checks           JSONB       NOT NULL,
    shadow           JSONB,
    charges          JSONB       NOT NULL,
    cost             TEXT,
    usage            JSONB,
    approval_id      TEXT        COLLATE "C",
    activation       BIGINT      NOT NULL,
    revision         BIGINT      NOT NULL,
    key_set          BIGINT      NOT NULL,
    revocation       BIGINT      NOT NULL,
    status_code      INTEGER,
    response_details TEXT,
    total_us         BIGINT      NOT NULL,
    upstream_us      BIGINT,
    ours_us          BIGINT,
    -- SHA-256 over the hash of the chain's record before, and everything above.
    hash             BYTEA       NOT NULL,
    CONSTRAINT gateway_audit_logs_pk PRIMARY KEY (holder, sequence, gateway_type, received_at),
    CONSTRAINT gateway_audit_logs_gateway CHECK (gateway_type IN ('CP', 'PP', 'PLANT', 'ADMIN')),
    CONSTRAINT gateway_audit_logs_stage CHECK (stage IN ('filter', 'envoy')),
    CONSTRAINT gateway_audit_logs_phase CHECK (phase IN ('outcome', 'intent')),
    CONSTRAINT gateway_audit_logs_upgrade CHECK (upgrade IN ('websocket', 'other')),
    CONSTRAINT gateway_audit_logs_decision CHECK (decision IN ('permit', 'deny', 'indeterminate', 'none')),
    CONSTRAINT gateway_audit_logs_cost CHECK (cost IN ('fixed', 'reported', 'usage', 'unreadable')),
    CONSTRAINT gateway_audit_logs_status CHECK (status_code BETWEEN 100 AND 599),
    CONSTRAINT gateway_audit_logs_numbers CHECK (sequence >= 1 AND sampled_of >= 1 AND total_us >= 0 AND upstream_us >= 0 AND ours_us >= 0),
    CONSTRAINT gateway_audit_logs_hash CHECK (octet_length(hash) = 32)
) PARTITION BY LIST (gateway_type);

-- Of the original's twelve indexes: the one on the gateway is the partitioning, those on user and customer alone are the beginning of
-- those with the time, and the one on (action, resource) is on the permission, which names both.
CREATE INDEX idx_audit_timestamp ON gateway_audit_logs ("timestamp" DESC);
CREATE INDEX idx_audit_correlation_id ON gateway_audit_logs (correlation_id);
CREATE INDEX idx_audit_causation_id ON gateway_audit_logs (causation_id) WHERE causation_id IS NOT NULL;
CREATE INDEX idx_audit_request_id ON gateway_audit_logs (request_id);
CREATE INDEX idx_audit_user_timestamp ON gateway_audit_logs (user_id, "timestamp" DESC) WHERE user_id IS NOT NULL;
CREATE INDEX idx_audit_subject_timestamp ON gateway_audit_logs (subject, "timestamp" DESC) WHERE subject IS NOT NULL;
CREATE INDEX idx_audit_customer_timestamp ON gateway_audit_logs (customer_id, "timestamp" DESC) WHERE customer_id IS NOT NULL;
CREATE INDEX idx_audit_agent_timestamp ON gateway_audit_logs (agent_id, "timestamp" DESC) WHERE agent_id IS NOT NULL;
CREATE INDEX idx_audit_route_timestamp ON gateway_audit_logs (route, "timestamp" DESC) WHERE route IS NOT NULL;
CREATE INDEX idx_audit_action_timestamp ON gateway_audit_logs (action, "timestamp" DESC) WHERE action IS NOT NULL;
CREATE INDEX idx_audit_rule_timestamp ON gateway_audit_logs (rule, "timestamp" DESC) WHERE rule IS NOT NULL;
CREATE INDEX idx_audit_errors ON gateway_audit_logs (status_code, reason, "timestamp" DESC) WHERE status_code >= 400;
CREATE INDEX idx_audit_shadow ON gateway_audit_logs ("timestamp" DESC) WHERE shadow IS NOT NULL;
CREATE INDEX idx_audit_approval ON gateway_audit_logs (approval_id) WHERE approval_id IS NOT NULL;
-- What `opa_decisions` was in the original: which check came to what.
CREATE INDEX idx_audit_checks ON gateway_audit_logs USING GIN (checks jsonb_path_ops);
CREATE INDEX idx_audit_budgets ON gateway_audit_logs USING GIN (jsonb_path_query_array(charges, '$[*].budget'));

CREATE TABLE gateway_audit.cp PARTITION OF gateway_audit_logs FOR VALUES IN ('CP') PARTITION BY RANGE (received_at);
CREATE TABLE gateway_audit.pp PARTITION OF gateway_audit_logs FOR VALUES IN ('PP') PARTITION BY RANGE (received_at);
CREATE TABLE gateway_audit.plant PARTITION OF gateway_audit_logs FOR VALUES IN ('PLANT') PARTITION BY RANGE (received_at);
CREATE TABLE gateway_audit.admin PARTITION OF gateway_audit_logs FOR VALUES IN ('ADMIN') PARTITION BY RANGE (received_at);

-- Where each chain stands. A copy for the next batch: what it says is checked against the rows, and those against signed checkpoints.
CREATE TABLE gateway_audit.chains (
    holder       UUID        NOT NULL,
    gateway_type TEXT        NOT NULL,
    sequence     BIGINT      NOT NULL,
    records      BIGINT      NOT NULL,
    head         BYTEA       NOT NULL,
    advanced_at  TIMESTAMPTZ NOT NULL,
    -- How far a checkpoint has told of it.
    signed_sequence BIGINT   NOT NULL DEFAULT 0,
    CONSTRAINT chains_pk PRIMARY KEY (holder, gateway_type),
    CONSTRAINT chains_hash CHECK (octet_length(head) = 32)
) WITH (fillfactor = 50);

-- What was signed: every ten seconds the chains that have grown, and once for each partition that was dropped and for each restore.
CREATE TABLE gateway_audit.checkpoints (
    number    BIGINT      NOT NULL,
    kind      TEXT        NOT NULL,
    -- Of a dropped partition: its gateway and day.
    subject   TEXT,
    signed_at TIMESTAMPTZ NOT NULL,
    -- A JWS in compact form, EdDSA. Its payload names the SHA-256 of the one before.
    jws       TEXT        NOT NULL,
    CONSTRAINT checkpoints_pk PRIMARY KEY (number),
    CONSTRAINT checkpoints_kind CHECK (kind IN ('heads', 'dropped', 'restored'))
);
CREATE INDEX checkpoints_subject ON gateway_audit.checkpoints (subject) WHERE subject IS NOT NULL;

-- How many days of a gateway are kept.
CREATE TABLE gateway_audit.retention (
    gateway_type TEXT    NOT NULL,
    days         INTEGER NOT NULL DEFAULT 90,
    CONSTRAINT retention_pk PRIMARY KEY (gateway_type),
    CONSTRAINT retention_days CHECK (days BETWEEN 1 AND 36500)
);
INSERT INTO gateway_audit.retention (gateway_type) VALUES ('CP'), ('PP'), ('PLANT'), ('ADMIN');

-- Legal holds: while one is open nothing of its gateway is dropped.
CREATE TABLE gateway_audit.holds (
    id           BIGINT      GENERATED ALWAYS AS IDENTITY,
    -- NULL: every gateway.
    gateway_type TEXT,
    reason       TEXT        NOT NULL,
    placed_by    TEXT        NOT NULL,
    placed_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    released_by  TEXT,
    released_at  TIMESTAMPTZ,
    CONSTRAINT holds_pk PRIMARY KEY (id),
    CONSTRAINT holds_gateway FOREIGN KEY (gateway_type) REFERENCES gateway_audit.retention (gateway_type),
    CONSTRAINT holds_release CHECK ((released_by IS NULL) = (released_at IS NULL))
);

-- Which partitions there are: made ahead, summed up when their day is over, and dropped.
CREATE TABLE gateway_audit.partitions (
    gateway_type TEXT        NOT NULL,
    day          DATE        NOT NULL,
    summed_up_at TIMESTAMPTZ,
    dropped_at   TIMESTAMPTZ,
    CONSTRAINT partitions_pk PRIMARY KEY (gateway_type, day),
    CONSTRAINT partitions_gateway FOREIGN KEY (gateway_type) REFERENCES gateway_audit.retention (gateway_type)
);

-- Days that are over, each summed up once and without a lock: no row comes to a partition whose day has passed. Kept when it is dropped.
CREATE TABLE gateway_audit.daily_summaries (
    day           DATE    NOT NULL,
    gateway_type  TEXT    NOT NULL,
    issuer        TEXT    COLLATE "C",
    subject       TEXT    COLLATE "C",
    user_id       TEXT    COLLATE "C",
    customer_id   TEXT    COLLATE "C",
    trial_mode    BOOLEAN NOT NULL,
    requests      BIGINT  NOT NULL,
    succeeded     BIGINT  NOT NULL,
    client_errors BIGINT  NOT NULL,
    server_errors BIGINT  NOT NULL,
    denied        BIGINT  NOT NULL,
    average_us    BIGINT  NOT NULL,
    p50_us        BIGINT  NOT NULL,
    p95_us        BIGINT  NOT NULL,
    p99_us        BIGINT  NOT NULL
);
CREATE INDEX daily_summaries_subject ON gateway_audit.daily_summaries (subject, day DESC);
CREATE INDEX daily_summaries_customer ON gateway_audit.daily_summaries (customer_id, day DESC);

-- Whom a statement is for is said by settings of its transaction, and what those mean by its role. Nobody can log in as one of the
-- roles, so the settings are those of the control plane. Unset is NULL at first and empty after a transaction that set it.
CREATE FUNCTION gateway_audit.setting(name TEXT) RETURNS TEXT LANGUAGE sql STABLE PARALLEL SAFE
    RETURN NULLIF(current_setting('plant_gateway.' || name, true), '');

-- Row security is for the owner too. There are policies for SELECT and INSERT alone: rows of the log are never changed by anybody.
DO $$
DECLARE
    audited TEXT;
BEGIN
    FOREACH audited IN ARRAY ARRAY[
        'gateway_audit_logs', 'gateway_audit.cp', 'gateway_audit.pp', 'gateway_audit.plant', 'gateway_audit.admin', 'audit_batches',
        'audit_gaps', 'audit_quarantine', 'gateway_audit.chains', 'gateway_audit.checkpoints', 'gateway_audit.daily_summaries'
    ] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', audited);
        EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', audited);
    END LOOP;
    FOREACH audited IN ARRAY ARRAY[
        'gateway_audit_logs', 'audit_batches', 'audit_gaps', 'audit_quarantine', 'gateway_audit.chains', 'gateway_audit.checkpoints',
        'gateway_audit.daily_summaries'
    ] LOOP
        EXECUTE format('GRANT SELECT ON %s TO plant_gateway_audit_auditor', audited);
        EXECUTE format(
            'CREATE POLICY admin_all_access ON %s FOR SELECT TO plant_gateway_audit_auditor, plant_gateway_audit_owner USING (true)', audited);
    END LOOP;
    FOREACH audited IN ARRAY ARRAY['gateway_audit_logs', 'gateway_audit.daily_summaries'] LOOP
        EXECUTE format('GRANT SELECT ON %s TO plant_gateway_audit_reader', audited);
        EXECUTE format(
            'CREATE POLICY user_own_logs ON %s FOR SELECT TO plant_gateway_audit_reader '
            'USING (issuer = gateway_audit.setting(''issuer'') AND subject = gateway_audit.setting(''subject''))', audited);
        EXECUTE format(
            'CREATE POLICY customer_admin_logs ON %s FOR SELECT TO plant_gateway_audit_reader '
            'USING (customer_id = gateway_audit.setting(''customer''))', audited);
    END LOOP;
    -- A sender writes in the name of its own Envoy.
    FOREACH audited IN ARRAY ARRAY['gateway_audit_logs', 'audit_quarantine'] LOOP
        EXECUTE format('GRANT INSERT ON %s TO plant_gateway_audit_writer', audited);
        EXECUTE format(
            'CREATE POLICY system_insert_logs ON %s FOR INSERT TO plant_gateway_audit_writer '
            'WITH CHECK (envoy_id = gateway_audit.setting(''envoy''))', audited);
    END LOOP;
    FOREACH audited IN ARRAY ARRAY['audit_batches', 'audit_gaps', 'gateway_audit.chains', 'gateway_audit.checkpoints'] LOOP
        EXECUTE format('GRANT SELECT, INSERT ON %s TO plant_gateway_audit_writer', audited);
        EXECUTE format('CREATE POLICY system_reads ON %s FOR SELECT TO plant_gateway_audit_writer USING (true)', audited);
        EXECUTE format('CREATE POLICY system_inserts ON %s FOR INSERT TO plant_gateway_audit_writer WITH CHECK (true)', audited);
    END LOOP;
END
$$;
GRANT UPDATE (sequence, records, head, advanced_at, signed_sequence) ON gateway_audit.chains TO plant_gateway_audit_writer;
CREATE POLICY system_advances ON gateway_audit.chains FOR UPDATE TO plant_gateway_audit_writer USING (true);
CREATE POLICY owner_sums_up ON gateway_audit.daily_summaries FOR INSERT TO plant_gateway_audit_owner WITH CHECK (true);
-- Batches are forgotten some time after their holder was closed: nobody sends them again.
CREATE POLICY owner_forgets ON audit_batches FOR DELETE TO plant_gateway_audit_owner USING (true);
-- What was put aside is kept as long as the records that are kept longest.
CREATE POLICY owner_forgets ON audit_quarantine FOR DELETE TO plant_gateway_audit_owner USING (true);

-- A database that lacks what was exported was restored from a backup: nothing is granted from then on, until it is recovered. What was
-- spent after the backup is unknown, so windows that began by the end of the recovery grant nothing more.
ALTER TABLE gateway_database
    ADD COLUMN fenced_at            TIMESTAMPTZ,
    -- The newest checkpoint that is known outside.
    ADD COLUMN fenced_by            BIGINT,
    ADD COLUMN windows_closed_until TIMESTAMPTZ,
    ADD CONSTRAINT gateway_database_fence CHECK ((fenced_at IS NULL) = (fenced_by IS NULL));
GRANT SELECT ON gateway_database TO plant_gateway_audit_writer;

-- How far a receiver outside was told of checkpoints, and when it is tried again, or another replica has the turn.
CREATE TABLE checkpoint_posts (
    url             TEXT        NOT NULL,
    number          BIGINT      NOT NULL DEFAULT 0,
    attempts        INTEGER     NOT NULL DEFAULT 0,
    next_attempt_at TIMESTAMPTZ NOT NULL,
    CONSTRAINT checkpoint_posts_pk PRIMARY KEY (url)
) WITH (fillfactor = 50);

GRANT USAGE ON SCHEMA gateway_audit TO plant_gateway_audit_reader, plant_gateway_audit_writer, plant_gateway_audit_auditor;
-- Beside the audit log: what is written together with a batch.
GRANT SELECT (holder, last_sequence, last_records_at, first_seen_at), UPDATE (last_sequence, last_records_at) ON holders
    TO plant_gateway_audit_writer;
GRANT SELECT, INSERT, UPDATE ON rule_hits TO plant_gateway_audit_writer;
-- Which holders were closed long ago.
GRANT SELECT (holder, closed_at) ON holders TO plant_gateway_audit_owner;
-- Whose holder it was, of which something is missing.
GRANT SELECT (holder, envoy_id) ON holders TO plant_gateway_audit_auditor;

-- The original's table as it was, column by column: names, types and order. docs/audit.md says what stands in each. Its ids are UUIDs,
-- and ours are texts: of a text that is none there is one that is made from it, the same for the same text.
CREATE FUNCTION gateway_audit.as_uuid(id TEXT) RETURNS UUID LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    CASE
        WHEN id ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' THEN id::uuid
        -- Version 8 of RFC 9562, of the SHA-256.
        ELSE overlay(overlay(left(encode(sha256(convert_to(id, 'UTF8')), 'hex'), 32) PLACING '8' FROM 13) PLACING '8' FROM 17)::uuid
    END;

-- Names and values as members of an object. A name that comes more than once has them all, in order.
CREATE FUNCTION gateway_audit.as_object(named JSONB) RETURNS JSONB LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (
    SELECT jsonb_object_agg(name, CASE WHEN jsonb_array_length(had) = 1 THEN had -> 0 ELSE had END) FROM (
        SELECT pair ->> 'name' AS name, jsonb_agg(pair -> 'value' ORDER BY place) AS had
        FROM jsonb_array_elements(named) WITH ORDINALITY AS pairs (pair, place) WHERE pair ->> 'name' IS NOT NULL GROUP BY pair ->> 'name'
    ) AS names
);

-- What checks came to: `{"trial": {"allow": true}, "budget": {"allow": false, "deny_reason": "budget_spent"}}`.
CREATE FUNCTION gateway_audit.as_decisions(checks JSONB, reason TEXT) RETURNS JSONB LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (
    SELECT jsonb_object_agg(made ->> 'check', CASE
        WHEN made ->> 'outcome' IN ('deny', 'failed_closed') THEN jsonb_build_object('allow', false, 'deny_reason', reason)
        ELSE jsonb_build_object('allow', true)
    END ORDER BY place)
    FROM jsonb_array_elements(checks) WITH ORDINALITY AS all_made (made, place) WHERE made ->> 'check' IS NOT NULL
);

CREATE FUNCTION gateway_audit.as_ms(us BIGINT) RETURNS INTEGER LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN
    CASE WHEN us IS NOT NULL THEN LEAST(round(us / 1000.0), 2147483647)::integer END;

-- Row security is that of whoever reads.
CREATE VIEW gateway_audit.original_logs WITH (security_invoker = true) AS SELECT
    gateway_audit.as_uuid(holder::text || '-' || sequence::text) AS id,
    gateway_audit.as_uuid(correlation_id) AS correlation_id,
    gateway_audit.as_uuid(causation_id) AS causation_id,
    "timestamp",
    gateway_type::varchar(10) AS gateway_type,
    request_id::varchar(100) AS request_id,
    http_method::varchar(10) AS http_method,
    endpoint::varchar(500) AS endpoint,
    gateway_audit.as_object(query_params) AS query_params,
    -- With the ids as they were written, under the names that they have on their way to the backend.
    coalesce(gateway_audit.as_object(request_headers), '{}') || jsonb_strip_nulls(jsonb_build_object('x-correlation-id', correlation_id,
        'x-causation-id', causation_id, 'x-user-id', user_id, 'x-customer-id', customer_id)) AS request_headers,
    NULL::jsonb AS request_body,
    gateway_audit.as_uuid(user_id) AS user_id,
    gateway_audit.as_uuid(customer_id) AS customer_id,
    email::varchar(255) AS email,
    roles,
    trial_mode,
    ARRAY(SELECT made ->> 'check' FROM jsonb_array_elements(checks) WITH ORDINALITY AS all_made (made, place) ORDER BY place)
        AS opa_policies_evaluated,
    coalesce(gateway_audit.as_decisions(checks, reason), '{}') AS opa_decisions,
    gateway_audit.as_ms(ours_us) AS opa_latency_ms,
    status_code,
    gateway_audit.as_object(response_headers) AS response_headers,
    NULL::jsonb AS response_body,
    (CASE WHEN decision IN ('deny', 'indeterminate') THEN reason END)::varchar(100) AS error_type,
    CASE WHEN status_code >= 400 THEN response_details END AS error_message,
    gateway_audit.as_ms(total_us) AS total_latency_ms,
    gateway_audit.as_ms(upstream_us) AS plant_latency_ms,
    -- `agent.create` is the action `create` on the resource `agent`.
    (CASE WHEN strpos(action, '.') > 0 THEN substr(action, strpos(action, '.') + 1) ELSE action END)::varchar(100) AS action,
    (CASE WHEN strpos(action, '.') > 0 THEN left(action, strpos(action, '.') - 1) END)::varchar(100) AS resource,
    gateway_audit.as_uuid(substring(endpoint FROM '^/(?:api/)?(?:v[0-9]+/)?[^/]+/([^/]+)')) AS resource_id
FROM gateway_audit_logs;
GRANT SELECT ON gateway_audit.original_logs TO plant_gateway_audit_reader, plant_gateway_audit_auditor;

-- Makes the partitions from today to `ahead` days on. Batches go on meanwhile: attaching does not lock them out.
CREATE FUNCTION gateway_audit.create_partitions(ahead INTEGER) RETURNS INTEGER
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today   DATE := (now() AT TIME ZONE 'UTC')::date;
    made    INTEGER := 0;
    gateway TEXT;
    day     DATE;
    name    TEXT;
BEGIN
    IF ahead NOT BETWEEN 0 AND 400 THEN
        RAISE EXCEPTION 'partitions are made 0 to 400 days ahead';
    END IF;
    PERFORM pg_advisory_xact_lock(7411160213);
    FOREACH gateway IN ARRAY ARRAY['CP', 'PP', 'PLANT', 'ADMIN'] LOOP
        FOR days IN 0..ahead LOOP
            day := today + days;
            name := lower(gateway) || to_char(day, '_YYYYMMDD');
            CONTINUE WHEN to_regclass('gateway_audit.' || name) IS NOT NULL;
            EXECUTE format(
                'CREATE TABLE gateway_audit.%I (LIKE gateway_audit.%I INCLUDING CONSTRAINTS INCLUDING GENERATED)', name, lower(gateway));
            EXECUTE format('ALTER TABLE gateway_audit.%I ENABLE ROW LEVEL SECURITY', name);
            EXECUTE format('ALTER TABLE gateway_audit.%I FORCE ROW LEVEL SECURITY', name);
            EXECUTE format(
                'ALTER TABLE gateway_audit.%I ATTACH PARTITION gateway_audit.%I FOR VALUES FROM (%L) TO (%L)',
                lower(gateway), name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
            INSERT INTO gateway_audit.partitions (gateway_type, day) VALUES (gateway, day) ON CONFLICT DO NOTHING;
            made := made + 1;
        END LOOP;
    END LOOP;
    RETURN made;
END
$$;

-- Drops a partition that is older than is kept, under no hold, summed up, and of which a signed record says what it ended with.
CREATE FUNCTION gateway_audit.drop_partition(gateway TEXT, of_day DATE) RETURNS VOID
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- A hold that is being placed is waited for; one that comes later finds the partition gone.
    LOCK TABLE gateway_audit.holds IN SHARE MODE;
    IF NOT EXISTS (
        SELECT FROM gateway_audit.retention WHERE gateway_type = gateway AND of_day + days < (now() AT TIME ZONE 'UTC')::date
    ) THEN
        RAISE EXCEPTION 'the partition of % on % is to be kept', gateway, of_day;
    END IF;
    IF EXISTS (
        SELECT FROM gateway_audit.holds WHERE released_at IS NULL AND (gateway_type IS NULL OR gateway_type = gateway)
    ) THEN
        RAISE EXCEPTION 'a legal hold keeps the partitions of %', gateway;
    END IF;
    IF NOT EXISTS (
        SELECT FROM gateway_audit.checkpoints WHERE kind = 'dropped' AND subject = gateway || ' ' || of_day
    ) THEN
        RAISE EXCEPTION 'no signed record says what the partition of % on % ended with', gateway, of_day;
    END IF;
    UPDATE gateway_audit.partitions SET dropped_at = now()
        WHERE gateway_type = gateway AND day = of_day AND summed_up_at IS NOT NULL AND dropped_at IS NULL;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the partition of % on % is not summed up, or dropped already', gateway, of_day;
    END IF;
    EXECUTE format('DROP TABLE gateway_audit.%I', lower(gateway) || to_char(of_day, '_YYYYMMDD'));
END
$$;

REVOKE ALL ON FUNCTION gateway_audit.setting, gateway_audit.create_partitions, gateway_audit.drop_partition, gateway_audit.as_uuid,
    gateway_audit.as_object, gateway_audit.as_decisions, gateway_audit.as_ms FROM PUBLIC;
GRANT EXECUTE ON FUNCTION gateway_audit.setting TO plant_gateway_audit_reader, plant_gateway_audit_writer;
GRANT EXECUTE ON FUNCTION gateway_audit.create_partitions TO plant_gateway_audit_writer;
-- Of the view's own: nothing but what their arguments say.
GRANT EXECUTE ON FUNCTION gateway_audit.as_uuid, gateway_audit.as_object, gateway_audit.as_decisions, gateway_audit.as_ms
    TO plant_gateway_audit_reader, plant_gateway_audit_auditor;

-- Last, since whoever runs this has no rights on it any more.
GRANT CREATE, USAGE ON SCHEMA gateway_audit TO plant_gateway_audit_owner;
DO $$
DECLARE
    audited TEXT;
BEGIN
    FOREACH audited IN ARRAY ARRAY[
        'gateway_audit_logs', 'gateway_audit.cp', 'gateway_audit.pp', 'gateway_audit.plant', 'gateway_audit.admin', 'audit_batches',
        'audit_gaps', 'audit_quarantine', 'gateway_audit.chains', 'gateway_audit.checkpoints', 'gateway_audit.daily_summaries',
        'gateway_audit.retention', 'gateway_audit.holds', 'gateway_audit.partitions'
    ] LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO plant_gateway_audit_owner', audited);
    END LOOP;
END
$$;
ALTER VIEW gateway_audit.original_logs OWNER TO plant_gateway_audit_owner;
ALTER FUNCTION gateway_audit.as_uuid OWNER TO plant_gateway_audit_owner;
ALTER FUNCTION gateway_audit.as_object OWNER TO plant_gateway_audit_owner;
ALTER FUNCTION gateway_audit.as_decisions OWNER TO plant_gateway_audit_owner;
ALTER FUNCTION gateway_audit.as_ms OWNER TO plant_gateway_audit_owner;
ALTER FUNCTION gateway_audit.setting OWNER TO plant_gateway_audit_owner;
ALTER FUNCTION gateway_audit.create_partitions OWNER TO plant_gateway_audit_owner;
ALTER FUNCTION gateway_audit.drop_partition OWNER TO plant_gateway_audit_owner;
ALTER SCHEMA gateway_audit OWNER TO plant_gateway_audit_owner;
SET LOCAL ROLE plant_gateway_audit_owner;
SELECT gateway_audit.create_partitions(7);
RESET ROLE;
