//! What golden cases reach of a policy: routes, refusals, roles, budgets, flags, custom rules; and what they say of it: caps, and what
//! the backend gets. How approvals are answered needs no part of its own: it is the status of every case that waits for one.

use crate::Files;
use crate::cases::{Case, Forwarded, Token, Verdict};
use crate::evaluate::Evaluation;
use decision_core::decision::{Check, DenyReason, Finding};
use decision_core::flag::{FlagState, Switch};
use decision_core::policy::CompiledPolicy;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use wire::policy::{CredentialForwarding, PolicyDocument, Route};

/// A part of a policy that a case can reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A route, matched.
    Route(String),
    /// A coded reason, refused with.
    Reason(String),
    /// A role, whose bearer was let past authentication.
    Role(String),
    /// A budget that charges; one per client address, whose route was asked for.
    Budget(String),
    /// A flag where it is on and that matters: on its route, or for a user whose checks it switches.
    FlagOn(String),
    /// A flag where it is off: its route is not there, or a check of its was skipped.
    FlagOff(String),
    /// The ownership rule of a route: a case says where the customer id is forced into the request.
    Ownership(String),
    /// What the backend gets as credential on a route, if it gets one: a case says what.
    Credential(String),
    /// The other path that the backend gets on a route: a case says which.
    Rewrite(String),
    /// The cap of a budget: a case says how much.
    Cap(String),
    /// A custom rule, as the one that decided.
    Rule(String),
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(name) => write!(formatter, "route `{name}`"),
            Self::Reason(name) => write!(formatter, "reason `{name}`"),
            Self::Role(name) => write!(formatter, "role `{name}`"),
            Self::Budget(name) => write!(formatter, "budget `{name}`"),
            Self::FlagOn(name) => write!(formatter, "flag `{name}`, on"),
            Self::FlagOff(name) => write!(formatter, "flag `{name}`, off"),
            Self::Ownership(name) => write!(formatter, "ownership on route `{name}`"),
            Self::Credential(name) => write!(formatter, "credential on route `{name}`"),
            Self::Rewrite(name) => write!(formatter, "rewrite on route `{name}`"),
            Self::Cap(name) => write!(formatter, "cap of budget `{name}`"),
            Self::Rule(name) => write!(formatter, "custom rule `{name}`"),
        }
    }
}

/// Refusals that no case can show, each with the reason.
pub const REASONS_OUT_OF_REACH: [(&str, &str); 18] = [
    ("ambiguous_header", "a case has no repeated headers; the tests of headers show it"),
    ("client_limited", "whether a client address has room is counted, not decided"),
    ("budget_spent", "whether a budget has room is decided by leases"),
    ("budget_unscoped", "the scope of a budget is looked at when it is reserved"),
    ("body_not_object", "a case has no body; the tests of ownership show it"),
    ("body_key_repeated", "a case has no body; the tests of ownership show it"),
    ("body_too_large", "a case has no body; the tests of ownership show it"),
    ("metered_body", "a case has no body; the tests of metering show it"),
    ("metered_body_too_large", "a case has no body; the tests of metering show it"),
    ("output_unlimited", "a case has no body; the tests of metering show it"),
    ("cost_unbounded", "a case has no body; the tests of metering show it"),
    ("model_unpriced", "a case has no body; the tests of metering show it"),
    ("approval_refused", "a case presents no approval; the tests of approvals show it"),
    ("approval_header", "a case has no repeated headers; the tests of approvals show it"),
    ("approval_body_too_large", "a case has no body; the tests of approvals show it"),
    ("audited_body_too_large", "a case has no body; the tests of audit levels show it"),
    ("upgrade_refused", "only where a route is listed for an upgrade, or a case asks for one"),
    ("verification_budget_spent", "only a worker refuses so; a case may name it"),
];

/// What cases reach, and what they do not.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    wanted: BTreeSet<Part>,
    reached: BTreeSet<Part>,
}

impl Coverage {
    /// Everything that the cases of this policy should reach; so far they reach nothing. `files` has the modules of custom rules.
    #[must_use]
    pub fn of(document: &PolicyDocument, policy: &CompiledPolicy, files: &Files) -> Self {
        let mut wanted = BTreeSet::new();
        wanted.extend(document.routes.iter().map(|route| Part::Route(route.name.clone())));
        wanted.extend(document.roles.iter().map(|role| Part::Role(role.name.clone())));
        wanted.extend(reasons(document).map(|code| Part::Reason(code.to_owned())));
        let charged: BTreeSet<_> = policy.routes().iter().flat_map(|route| route.charges.iter().map(|charge| charge.budget)).collect();
        let limits = policy.routes().iter().filter_map(|route| route.limit);
        let used: BTreeSet<_> = charged.into_iter().chain(limits).collect();
        for name in used.into_iter().filter_map(|id| Some(policy.budget(id)?.name.to_string())) {
            wanted.extend([Part::Cap(name.clone()), Part::Budget(name)]);
        }
        for flag in &document.flags {
            wanted.extend([Part::FlagOn(flag.name.clone()), Part::FlagOff(flag.name.clone())]);
        }
        for Route { name, ownership, rewrite, credential, .. } in &document.routes {
            wanted.extend(ownership.as_ref().map(|_owner| Part::Ownership(name.clone())));
            wanted.extend(rewrite.as_ref().map(|_path| Part::Rewrite(name.clone())));
            wanted.extend((*credential != CredentialForwarding::default()).then(|| Part::Credential(name.clone())));
        }
        wanted.extend(rule_names(document, files).into_iter().map(Part::Rule));
        Self { wanted, reached: BTreeSet::new() }
    }

    /// Notes what one case reaches.
    pub fn note(&mut self, document: &PolicyDocument, policy: &CompiledPolicy, case: &Case, evaluation: &Evaluation) {
        let answer = &evaluation.decided;
        let route = answer.route.as_deref().and_then(|name| document.routes.iter().find(|route| route.name == name));
        self.reached.insert(Part::Reason(answer.reason.clone()));
        self.reached.extend(answer.charges.keys().map(|name| Part::Budget(name.clone())));
        self.reached.extend(answer.rule.iter().map(|name| Part::Rule(name.clone())));
        if let Some(route) = route {
            self.reached.insert(Part::Route(route.name.clone()));
            self.reached.extend(route.limit.iter().map(|name| Part::Budget(name.clone())));
        }
        self.note_said(case, evaluation);
        let authenticated = evaluation.checks.contains(&(Check::Authentication, Finding::Passed));
        if let (true, Token::Good(claims)) = (authenticated, &case.token) {
            let named = |role: &&wire::policy::Role| claims.roles.iter().any(|name| *name == role.name || role.aliases.contains(name));
            self.reached.extend(document.roles.iter().filter(named).map(|role| Part::Role(role.name.clone())));
        }
        self.note_flags(policy, evaluation, route.and_then(|route| route.flag.as_deref()));
    }

    /// Notes what the case says of what becomes of a request that is permitted. What is permitted is not enough.
    fn note_said(&mut self, case: &Case, evaluation: &Evaluation) {
        let (answer, want) = (&evaluation.decided, &case.want);
        let (Verdict::Permit, Some(route)) = (answer.decision, &answer.route) else { return };
        self.reached.extend(want.caps.keys().map(|name| Part::Cap(name.clone())));
        if let Some(Forwarded { ownership, rewrite, credential, path: _ }) = &want.forwarded {
            self.reached.extend(ownership.as_ref().map(|_owner| Part::Ownership(route.clone())));
            self.reached.extend(rewrite.as_ref().map(|_path| Part::Rewrite(route.clone())));
            self.reached.extend(credential.map(|_credential| Part::Credential(route.clone())));
        }
    }

    fn note_flags(&mut self, policy: &CompiledPolicy, evaluation: &Evaluation, routes_flag: Option<&str>) {
        let hidden = evaluation.decided.reason == DenyReason::FeatureDisabled.code();
        for (flag, (name, state)) in policy.flags().iter().zip(&evaluation.flags) {
            let on_route = routes_flag == Some(name.as_str());
            let made = |wanted: fn(Finding) -> bool| {
                let switched = Switch::ALL.into_iter().filter(|switch| flag.switches.contains(*switch)).map(Check::from);
                switched.into_iter().any(|check| evaluation.checks.iter().any(|(at, finding)| *at == check && wanted(*finding)))
            };
            let authenticated = evaluation.checks.contains(&(Check::Authentication, Finding::Passed));
            let switches = Switch::ALL.into_iter().any(|switch| flag.switches.contains(switch));
            match state {
                FlagState::On
                    if (on_route && !hidden) || (switches && authenticated && !made(|finding| finding == Finding::SkippedByFlag)) =>
                {
                    self.reached.insert(Part::FlagOn(name.clone()));
                }
                FlagState::Off if (on_route && hidden) || made(|finding| finding == Finding::SkippedByFlag) => {
                    self.reached.insert(Part::FlagOff(name.clone()));
                }
                FlagState::On | FlagState::Off => {}
            }
        }
    }

    /// What no case reaches.
    #[must_use]
    pub fn missing(&self) -> Vec<&Part> {
        self.wanted.difference(&self.reached).collect()
    }

    /// How many parts there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.wanted.len()
    }

    /// The share of parts that cases reach, in percent, rounded down: 100 only if nothing is missing.
    #[must_use]
    pub fn percent(&self) -> usize {
        let reached = self.wanted.intersection(&self.reached).count();
        reached.saturating_mul(100).checked_div(self.wanted.len()).unwrap_or(100)
    }

    /// What is reached and what there is, by kind.
    #[must_use]
    pub fn by_kind(&self) -> BTreeMap<&'static str, (usize, usize)> {
        let mut kinds: BTreeMap<&'static str, (usize, usize)> = BTreeMap::new();
        for part in &self.wanted {
            let (reached, all) = kinds.entry(kind(part)).or_default();
            *all = all.saturating_add(1);
            *reached = reached.saturating_add(usize::from(self.reached.contains(part)));
        }
        kinds
    }
}

const fn kind(part: &Part) -> &'static str {
    match part {
        Part::Route(_) => "routes",
        Part::Reason(_) => "reasons",
        Part::Role(_) => "roles",
        Part::Budget(_) => "budgets",
        Part::FlagOn(_) | Part::FlagOff(_) => "flag states",
        Part::Ownership(_) => "ownership rules",
        Part::Credential(_) => "credentials",
        Part::Rewrite(_) => "rewrites",
        Part::Cap(_) => "caps",
        Part::Rule(_) => "custom rules",
    }
}

/// The refusals that this policy can give and a case can show.
fn reasons(document: &PolicyDocument) -> impl Iterator<Item = &'static str> {
    use wire::policy::{Approval, ExchangeKind, Requirement, TrialAccess, TrialTokens};
    let any = |wanted: fn(&wire::policy::Route) -> bool| document.routes.iter().any(wanted);
    let with_token = any(|route| matches!(route.require, Requirement::Authenticated | Requirement::Permission));
    let given = [
        ("feature_disabled", any(|route| route.flag.is_some())),
        ("upgrade_refused", any(|route| route.exchange == ExchangeKind::Websocket)),
        ("registration_key_refused", any(|route| route.require == Requirement::RegistrationKey)),
        ("permission_missing", any(|route| route.require == Requirement::Permission)),
        ("trial_expired", with_token),
        ("trial_restricted", any(|route| route.trial == TrialAccess::Deny)),
        ("owner_missing", any(|route| route.ownership.is_some())),
        ("rule_refused", document.rules.is_some()),
        ("approval_required", any(|route| route.approval == Approval::Governor)),
        ("trial_refused", document.issuers.iter().any(|issuer| issuer.trials == TrialTokens::Refuse)),
    ];
    let mut reachable: Vec<&'static str> = vec!["ok"];
    for code in DenyReason::codes() {
        let out_of_reach = code != "upgrade_refused" && REASONS_OUT_OF_REACH.iter().any(|(known, _)| *known == code);
        let conditional = given.iter().find(|(known, _)| *known == code).map(|(_, possible)| *possible);
        let about_token = decision_core::principal::CredentialFault::ALL.iter().any(|fault| fault.code() == code);
        let plain = !about_token && code != "credential_missing" || with_token;
        if !out_of_reach && conditional.unwrap_or(plain) && !reachable.contains(&code) {
            reachable.push(code);
        }
    }
    reachable.into_iter()
}

/// The names that the modules give their decisions: every text that stands after `"rule":`. Those of tests are none.
fn rule_names(document: &PolicyDocument, files: &Files) -> BTreeSet<String> {
    let modules = document.rules.iter().flat_map(|rules| &rules.modules).filter(|name| !name.ends_with("_test.rego"));
    let mut names = BTreeSet::new();
    for text in modules.filter_map(|name| files.get(name)) {
        let code = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        for line in code {
            let values = line.split("\"rule\"").skip(1).filter_map(|rest| rest.trim_start().strip_prefix(':'));
            let quoted = values.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split_once('"').map(|(name, _)| name));
            names.extend(quoted.map(str::to_owned));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cases::read;
    use crate::evaluate::Candidate;

    const POLICY: &str = "
permissions: [a.read]
roles:
  - { name: reader, permissions: [a.read] }
  - { name: nobody, permissions: [] }
issuers: [{ name: pp, issuer: pp, gateways: [PP], algorithms: [ES256] }]
flags:
  - { name: new, default: on, overrides: [{ customers: [old], state: off }] }
  - { name: free, default: on, overrides: [{ customers: [old], state: off }], switches: [permission] }
budgets:
  - { name: money, unit: micro_usd, window: day, scope: platform, cap: 1000000 }
  - { name: guests, unit: requests, window: minute, scope: client_address, cap: 30, durable: false }
routes:
  - { name: a, gateways: [PP], methods: [GET], path: /a, require: permission, permission: a.read }
  - { name: b, gateways: [PP], methods: [GET], path: /b, require: authenticated, flag: new, cost_micros: 0, ownership: { in: query }, rewrite: /c, credential: forward, limit: guests }
";

    fn coverage_of(policy: &str, cases: &[&str]) -> Coverage {
        let mut candidate = Candidate::new(Files::from([("policy.yaml".to_owned(), policy.to_owned())])).unwrap();
        let text = cases.iter().enumerate().map(|(index, case)| {
            // What a case says and what it reaches are two things: it need not pass.
            let (asked, said) = case.split_once("; says ").unwrap_or((case, ""));
            format!(
                "  - {{ name: c{index}, gateway: PP, method: GET, {asked}, want: {{ decision: deny, status: 0, reason: x, {said} }} }}\n"
            )
        });
        let text = format!("cases:\n{}", text.collect::<String>());
        let cases = read(&Files::from([("cases/a.yaml".to_owned(), text)])).unwrap();
        let mut coverage = Coverage::of(&candidate.document, &candidate.bundle.policy, &candidate.files);
        for filed in &cases {
            let evaluation = candidate.evaluate(&filed.case);
            coverage.note(&candidate.document, &candidate.bundle.policy, &filed.case, &evaluation);
        }
        coverage
    }

    fn coverage(cases: &[&str]) -> Coverage {
        coverage_of(POLICY, cases)
    }

    fn flags_missing(policy: &str, cases: &[&str]) -> Vec<String> {
        coverage_of(policy, cases).missing().iter().map(ToString::to_string).filter(|part| part.starts_with("flag")).collect()
    }

    fn missing(cases: &[&str]) -> Vec<String> {
        coverage(cases).missing().iter().map(ToString::to_string).filter(|part| !part.starts_with("reason")).collect()
    }

    #[test]
    fn each_part_is_reached_by_its_own_case_and_no_other() {
        let all = [
            "path: /a, token: { issuer: pp, roles: [reader] }; says caps: { money: 1 }",
            "path: /b, token: { issuer: pp, roles: [nobody], customer_id: new }; says caps: { guests: 1 }, forwarded: { ownership: { in: body, name: x }, rewrite: /x, credential: drop }",
            "path: /b, token: { issuer: pp, roles: [nobody], customer_id: old }",
            "path: /a, token: { issuer: pp, roles: [nobody], customer_id: old }",
        ];
        assert_eq!(missing(&all), [""; 0]);
        assert_eq!(missing(&all[1..]), ["role `reader`", "cap of budget `money`"]);
        let on_route_b = ["ownership on route `b`", "credential on route `b`", "rewrite on route `b`", "cap of budget `guests`"];
        assert_eq!(missing(&[all[0], all[2], all[3]]), [&["flag `new`, on"][..], &on_route_b].concat());
        // It is permitted, and nothing is said of what becomes of it; or it is said, and it is not permitted.
        let unsaid = all[1].split_once(';').unwrap().0;
        assert_eq!(missing(&[all[0], unsaid, all[2], all[3]]), on_route_b);
        let denied = all[1].replace(", customer_id: new", "");
        assert_eq!(missing(&[all[0], &denied, unsaid, all[2], all[3]]), on_route_b);
        assert_eq!(missing(&[all[0], all[1], all[3]]), ["flag `new`, off"]);
        assert_eq!(missing(&all[..3]), ["flag `free`, off"]);
        let none = coverage(&[]);
        assert_eq!(none.percent(), 0);
        assert_eq!(none.by_kind()["routes"], (0, 2));
    }

    #[test]
    fn a_flag_that_stands_one_way_for_everybody_needs_a_case_the_other_way_too() {
        let everybody = POLICY.replace(", overrides: [{ customers: [old], state: off }], switches", ", switches");
        let nobody = "path: /a, token: { issuer: pp, roles: [nobody] }, flags: { free: off }";
        let reader = "path: /a, token: { issuer: pp, roles: [reader] }, flags: { free: on }";
        let missing = |cases: &[&str]| flags_missing(&everybody, cases);
        assert_eq!(missing(&[]), ["flag `free`, on", "flag `new`, on", "flag `free`, off", "flag `new`, off"]);
        assert_eq!(missing(&[nobody]), ["flag `free`, on", "flag `new`, on", "flag `new`, off"]);
        assert_eq!(missing(&[nobody, reader]), ["flag `new`, on", "flag `new`, off"]);
    }

    #[test]
    fn a_refusal_counts_where_the_policy_can_give_it() {
        let wanted: Vec<String> = coverage(&[]).missing().iter().map(ToString::to_string).collect();
        for reason in ["expired", "permission_missing", "owner_missing", "feature_disabled", "no_route"] {
            assert!(wanted.contains(&format!("reason `{reason}`")), "{reason}");
        }
        for reason in ["approval_required", "trial_restricted", "rule_refused", "budget_spent", "upgrade_refused"] {
            assert!(!wanted.contains(&format!("reason `{reason}`")), "{reason}");
        }
    }

    #[test]
    fn the_names_of_custom_rules_are_found_in_their_modules() {
        let module = "package gateway\n# \"rule\": \"commented\"\ndecision := {\"allow\": true, \"rule\": \"one\"} if x\nelse := {\"rule\":\"two\"}\n";
        let document = PolicyDocument {
            rules: Some(wire::policy::Rules {
                modules: vec!["a.rego".into(), "a_test.rego".into()],
                inputs: vec![],
                gateways: vec![],
                data: None,
            }),
            ..PolicyDocument::default()
        };
        let files = Files::from([("a.rego".to_owned(), module.to_owned()), ("a_test.rego".to_owned(), "\"rule\": \"three\"".to_owned())]);
        assert_eq!(rule_names(&document, &files).into_iter().collect::<Vec<_>>(), ["one", "two"]);
    }
}
