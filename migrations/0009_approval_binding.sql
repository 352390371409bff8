-- Approvals are bound to more: for whom the user acts, where the request goes, and how its body is to be read.

ALTER TABLE approvals ADD COLUMN user_id          TEXT;
ALTER TABLE approvals ADD COLUMN customer_id      TEXT;
ALTER TABLE approvals ADD COLUMN agent_id         TEXT;
ALTER TABLE approvals ADD COLUMN target           TEXT;
ALTER TABLE approvals ADD COLUMN content_type     TEXT;
ALTER TABLE approvals ADD COLUMN content_encoding TEXT;
ALTER TABLE approvals ADD COLUMN body_length      BIGINT;
ALTER TABLE approvals ADD CONSTRAINT approvals_target CHECK (target IN ('production', 'sandbox'));
-- No query is not an empty one.
ALTER TABLE approvals ALTER COLUMN query DROP NOT NULL;

-- Nobody can tell for whom the open ones were asked: they are void. Also without this nothing would pass by them, since the
-- digest of a binding has other parts now; they would only wait, and be approved in vain.
WITH voided AS (
    UPDATE approvals AS a SET status = 'expired' FROM approvals AS before
    WHERE a.id = before.id AND a.status IN ('pending', 'approved')
    RETURNING a.id, before.status AS was, a.issuer, a.subject, a.route, a.action
)
INSERT INTO admin_events (actor_issuer, actor_subject, action, target, reason, detail)
SELECT 'control-plane', 'control-plane', 'approval.expire', id::text, 'asked for before approvals were bound to customer and target',
       jsonb_build_object('was', was, 'issuer', issuer, 'subject', subject, 'route', route, 'action', action)
FROM voided;
