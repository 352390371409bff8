//! For each reason: a record that is permitted by a changed policy, and one that is refused by it.

use super::*;
use crate::Files;
use decision_core::principal::Trial;
use decision_core::time::Timestamp;
use metering::Usage;

const POLICY: &str = "
permissions: [a.read, b.read]
roles: [{ name: reader, permissions: [a.read] }, { name: other, permissions: [b.read] }]
issuers:
  - { name: pp, issuer: pp, gateways: [PP], algorithms: [ES256] }
  - { name: cp, issuer: cp, gateways: [CP], algorithms: [ES256] }
approvals: { governor_role: other }
flags: [{ name: gate, default: off }]
budgets: [{ name: daily, unit: micro_usd, window: day, scope: 'agent:{agent_id}', cap: 100000 }]
prices: [{ model: small, input: 1000000, output: 2000000 }]
routes:
  - { name: a, gateways: [PP], methods: [GET], path: /a, require: permission, permission: a.read, cost_micros: 10 }
  - { name: m, gateways: [PP], methods: [POST], path: /m, require: permission, permission: a.read, cost_micros: 20 }
  - { name: b, gateways: [PP], methods: [GET], path: /b, require: permission, permission: b.read, cost_micros: 0 }
  - { name: gated, gateways: [PP], methods: [GET], path: /gated, require: authenticated, flag: gate, cost_micros: 0 }
  - { name: open, gateways: [PP], methods: [GET], path: /open, require: public, cost_micros: 0 }
  - { name: trials, gateways: [PP], methods: [GET], path: /trials, require: authenticated, cost_micros: 0, trial: deny }
  - { name: approved, gateways: [PP], methods: [POST], path: /approved, require: authenticated, cost_micros: 0, approval: governor }
  - { name: owned, gateways: [PP], methods: [GET], path: /owned, require: authenticated, cost_micros: 0, ownership: { in: query, name: customer_id } }
  - { name: asked, gateways: [PP], methods: [POST], path: /asked, require: authenticated, cost_micros: 0 }
";

fn policy_of(text: &str) -> CompiledPolicy {
    let files = Files::from([("policy.yaml".to_owned(), text.to_owned())]);
    Candidate::new(files).unwrap_or_else(|fault| panic!("{fault}")).bundle.policy
}

fn changed(from: &str, to: &str) -> CompiledPolicy {
    assert!(POLICY.contains(from), "{from}");
    policy_of(&POLICY.replacen(from, to, 1))
}

fn user(issuer: &str, role: &str, change: impl FnOnce(&mut Identity)) -> Asker {
    let mut identity = Identity {
        issuer: issuer.into(),
        subject: "ann".into(),
        user_id: "ann".into(),
        email: "ann@example.com".into(),
        customer_id: Some("c".into()),
        agent_id: Some("agent".into()),
        governor_agent_id: None,
        roles: vec![role.into()],
        tier: None,
        trial: Trial::No,
        token_id: None,
        token_version: None,
        key_id: None,
        issued_at: Timestamp::EPOCH,
        expires_at: Timestamp::MAX,
    };
    change(&mut identity);
    Asker::of_identity(&policy_of(POLICY), identity)
}

fn whole(line: &str, asker: Asker) -> Whole {
    let (method, path) = line.split_once(' ').unwrap();
    Whole { gateway: Gateway::Pp, method: method.into(), path: path.into(), upgrade: Upgrade::None, asker }
}

fn replayed(then: &CompiledPolicy, now: &CompiledPolicy, whole: &Whole) -> Outcome {
    let mut own = Side::new(Arc::new(then.clone()));
    with_record(then, whole, false, |recorded, _seen| Replay::new(now, &[]).judge(recorded, Some(&mut own), &mut NoRules).outcome)
}

fn different(rule: &str, aspect: &'static str, before: &str, after: &str) -> Outcome {
    Outcome::Different(Difference { rule: rule.into(), aspect, before: before.into(), after: after.into() })
}

/// A request, why it is refused, the edit that lets it in, and whether it is told that without the edit it would be refused.
type Row = (&'static str, Whole, (&'static str, &'static str), bool);

fn table() -> Vec<Row> {
    let reader = || user("pp", "reader", |_| {});
    let trial = |end| user("pp", "reader", |identity: &mut Identity| identity.trial = Trial::Until(end));
    let past = Timestamp::from_seconds(NOW.as_seconds() - 60);
    let to_public = ("path: /a, require: permission, permission: a.read, cost_micros: 10", "path: /a, require: public, cost_micros: 0");
    let skipped = ("{ name: gate, default: off }", "{ name: gate, default: off, switches: [trial] }");
    vec![
        ("no_route", whole("GET /new", reader()), ("path: /open", "path: /new"), true),
        ("feature_disabled", whole("GET /gated", reader()), ("gate, default: off", "gate, default: on"), true),
        ("credential_missing", whole("GET /a", Asker::Anonymous), to_public, false),
        ("expired", whole("GET /a", Asker::Refused(CredentialFault::Expired)), to_public, false),
        (
            "token_revoked",
            whole("GET /a", Asker::Refused(CredentialFault::Revoked(decision_core::principal::RevocationKind::Token))),
            to_public,
            false,
        ),
        ("no_known_role", whole("GET /a", Asker::Refused(CredentialFault::NoKnownRole)), to_public, false),
        (
            "issuer_mismatch",
            whole("POST /asked", user("cp", "reader", |_| {})),
            ("issuer: cp, gateways: [CP]", "issuer: cp, gateways: [CP, PP]"),
            true,
        ),
        (
            "permission_missing",
            whole("GET /b", reader()),
            ("name: reader, permissions: [a.read]", "name: reader, permissions: [a.read, b.read]"),
            true,
        ),
        ("trial_expired", whole("GET /b", user("pp", "other", |identity| identity.trial = Trial::Until(past))), skipped, true),
        ("trial_restricted", whole("GET /trials", trial(Timestamp::MAX)), (", trial: deny", ""), true),
        (
            "owner_missing",
            whole("GET /owned", user("pp", "reader", |identity| identity.customer_id = None)),
            (", ownership: { in: query, name: customer_id }", ""),
            true,
        ),
        ("approval_required", whole("POST /approved", reader()), (", approval: governor", ""), true),
        (
            "budget_unscoped",
            whole("GET /a", user("pp", "reader", |identity| identity.agent_id = None)),
            ("{agent_id}", "{agent_id|subject}"),
            true,
        ),
    ]
}

#[test]
fn every_reason_goes_away_and_comes_back_with_the_policy() {
    let unchanged = policy_of(POLICY);
    for (reason, request, (from, to), back) in table() {
        let other = changed(from, to);
        match replayed(&unchanged, &other, &request) {
            Outcome::Different(difference) => {
                assert_eq!((difference.before.as_str(), difference.after.as_str()), (reason, "ok"), "{reason}")
            }
            otherwise @ (Outcome::Same | Outcome::Undecidable(_)) => panic!("{reason}: {otherwise:?}"),
        }
        match replayed(&other, &unchanged, &request) {
            Outcome::Different(difference) if back => {
                assert_eq!((difference.before.as_str(), difference.after.as_str()), ("ok", reason), "{reason}");
            }
            // Where everybody may come in, nobody looks at who comes.
            Outcome::Undecidable(Why::CredentialNotLookedAt) if !back => {}
            otherwise @ (Outcome::Same | Outcome::Different(_) | Outcome::Undecidable(_)) => panic!("{reason}: {otherwise:?}"),
        }
    }
    let other =
        changed("path: /open, require: public, cost_micros: 0", "path: /open, require: public, cost_micros: 0, exchange: websocket");
    let open = whole("GET /open", Asker::Anonymous);
    assert_eq!(replayed(&unchanged, &other, &open), different("open", "route", "ok", "upgrade_refused"));
    assert_eq!(replayed(&other, &unchanged, &open), different("open", "route", "upgrade_refused", "ok"));
    // Whose request it was is not known, and does not matter before there is such a route.
    let upgraded = Whole { upgrade: Upgrade::Websocket, ..whole("GET /a", Asker::Refused(CredentialFault::Expired)) };
    assert_eq!(replayed(&unchanged, &unchanged, &upgraded), Outcome::Same);
}

/// A record of what only the filter can meet.
fn of_state(reason: &str, then: &CompiledPolicy, now: &CompiledPolicy, line: &str) -> Outcome {
    let request = whole(line, user("pp", "reader", |_| {}));
    let mut own = Side::new(Arc::new(then.clone()));
    with_record(then, &request, true, |recorded, _seen| {
        let recorded = RecordedRequest { outcome: RecordedOutcome::Deny, reason, charges: &[], ..*recorded };
        Replay::new(now, &[]).judge(&recorded, Some(&mut own), &mut NoRules).outcome
    })
}

#[test]
fn what_was_left_in_a_budget_stays_refused_while_the_budget_stays() {
    let unchanged = policy_of(POLICY);
    let elsewhere = changed("cost_micros: 0, trial: deny", "cost_micros: 5, trial: deny");
    assert_eq!(of_state("budget_spent", &unchanged, &elsewhere, "GET /a"), Outcome::Same);
    let raised = changed("cap: 100000", "cap: 100001");
    assert_eq!(of_state("budget_spent", &unchanged, &raised, "GET /a"), Outcome::Undecidable(Why::State));
    let dearer = changed("cost_micros: 10", "cost_micros: 11");
    assert_eq!(of_state("budget_spent", &unchanged, &dearer, "GET /a"), Outcome::Undecidable(Why::State));
    let free = changed("cost_micros: 10", "cost_micros: 0");
    assert_eq!(of_state("budget_spent", &unchanged, &free, "GET /a"), different("a", "budget", "budget_spent", "ok"));
    let closed = changed("name: reader, permissions: [a.read]", "name: reader, permissions: [b.read]");
    let refused = of_state("budget_spent", &unchanged, &closed, "GET /a");
    assert_eq!(refused, different("a", "permission", "budget_spent", "permission_missing"));
    for reason in ["approval_refused", "approval_header", "approval_body_too_large"] {
        assert_eq!(of_state(reason, &unchanged, &unchanged, "POST /approved"), Outcome::Same);
        let open = changed(", approval: governor", "");
        assert_eq!(of_state(reason, &unchanged, &open, "POST /approved"), different("approved", "approval", reason, "ok"));
    }
    assert_eq!(of_state("nonsense", &unchanged, &unchanged, "GET /a"), Outcome::Undecidable(Why::UnknownReason));
}

#[test]
fn every_reason_of_the_pipeline_is_sorted_and_none_is_guessed() {
    let unchanged = policy_of(POLICY);
    for reason in DenyReason::codes() {
        let outcome = of_state(reason, &unchanged, &unchanged, "GET /a");
        // The record contradicts itself where the policy decides alone: its request is permitted.
        assert!(!matches!(outcome, Outcome::Undecidable(Why::UnknownReason)), "{reason}");
    }
}

#[test]
fn spend_is_of_the_new_policy_and_metered_requests_are_priced_anew() {
    let unchanged = policy_of(POLICY);
    let request = whole("POST /m", user("pp", "reader", |_| {}));
    let spending = |now: &CompiledPolicy, charged: i64, usage: Option<(&str, Usage)>| {
        with_record(&unchanged, &request, true, |recorded, _seen| {
            let charges = [RecordedCharge { budget: "daily", amount: charged }];
            let recorded = RecordedRequest { charges: &charges, usage, ..*recorded };
            let verdict = Replay::new(now, &[]).judge(&recorded, None, &mut NoRules);
            let [(budget, before, after)] = verdict.spending.budgets[..] else { panic!("{:?}", verdict.spending) };
            assert_eq!(budget, "daily");
            (before, after, verdict.spending.unpriced.len())
        })
    };
    assert_eq!(spending(&unchanged, 20, None), (20, 20, 0));
    assert_eq!(spending(&changed("cost_micros: 20", "cost_micros: 25"), 10, None), (10, 25, 0));
    assert_eq!(spending(&changed("cost_micros: 20", "cost_micros: 25"), 0, None), (0, 0, 0), "the backend was never reached");
    let closed = changed("name: reader, permissions: [a.read]", "name: reader, permissions: [b.read]");
    assert_eq!(spending(&closed, 10, None), (10, 0, 0));
    let metered =
        changed("permission: a.read, cost_micros: 20", "permission: a.read, metering: { by: usage, api: openai_chat, output_tokens: 10 }");
    let usage = Usage { input: 3, cache_read: 0, cache_write: 0, output: 2 };
    assert_eq!(spending(&metered, 10, Some(("small", usage))), (10, 7, 0));
    assert_eq!(spending(&metered, 10, Some(("unknown", usage))), (10, 10, 1));
    assert_eq!(spending(&metered, 10, None), (10, 10, 0));
}

#[test]
fn the_tally_has_bounds() {
    let request = whole("GET /a", Asker::Anonymous);
    let unchanged = policy_of(POLICY);
    let mut tally = Tally::default();
    with_record(&unchanged, &request, false, |recorded, _seen| {
        let recorded = RecordedRequest { sampled_of: 10, ..*recorded };
        for number in 0..1_000 {
            let difference = Difference { rule: format!("rule-{number}"), aspect: "route", before: "ok".into(), after: "no_route".into() };
            let names: Vec<String> = (0..2).map(|budget| format!("budget-{number}-{budget}")).collect();
            let budgets = names.iter().map(|name| (name.as_str(), 2, 1)).collect();
            let spending = Spending { budgets, unpriced: Vec::new() };
            let verdict = Verdict { outcome: Outcome::Different(difference), spending };
            (0..7).for_each(|_| tally.count(&recorded, &verdict));
        }
        tally.count(&recorded, &Verdict { outcome: Outcome::Undecidable(Why::State), spending: Spending::default() });
    });
    assert_eq!((tally.records, tally.different, tally.undecidable()), (7_001, 70_000, 10));
    let groups = tally.groups();
    assert_eq!(groups.len(), 257);
    assert_eq!((groups[0].difference.rule.as_str(), groups[0].requests), ("", 70 * (1_000 - 256)), "those without a place of their own");
    assert!(groups.iter().all(|group| group.examples.len() == 5));
    assert_eq!(groups.iter().map(|group| group.requests).sum::<u64>(), 70_000);
    assert_eq!(tally.spend().len(), 257);
    let (before, after) = tally.spend().values().fold((0, 0), |(before, after), spend| (before + spend.recorded, after + spend.replayed));
    assert_eq!((before, after), (1_000 * 7 * 10 * 4, 1_000 * 7 * 10 * 2));
}
