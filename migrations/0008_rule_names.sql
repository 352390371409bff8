-- Since when the policy in force names a rule, without interruption: a rule of yesterday has not failed to match for 30 days.
CREATE TABLE rule_names (
    kind  TEXT        COLLATE "C" NOT NULL,
    rule  TEXT        COLLATE "C" NOT NULL,
    since TIMESTAMPTZ NOT NULL,
    CONSTRAINT rule_names_pk PRIMARY KEY (kind, rule),
    CONSTRAINT rule_names_kind_known CHECK (kind IN ('route', 'budget'))
);

-- The activation whose names they are. One row.
CREATE TABLE rule_names_of (
    only_row   BOOLEAN PRIMARY KEY DEFAULT true,
    activation BIGINT  NOT NULL,
    CONSTRAINT rule_names_of_only_row CHECK (only_row)
);
INSERT INTO rule_names_of (activation) VALUES (0);
