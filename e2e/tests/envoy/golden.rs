//! Golden cases through a real Envoy: what the client gets and what the audit log says is what the case wants. And through the
//! explain endpoint, which has to say the same. For cases that name flags the policy in which they stand so is put in force. The same
//! cases are decided natively by the tests of `authoring`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use authoring::Files;
use authoring::cases::{
    Approval, Case, FiledCase, FlagStates, Forwarded, NOW, Owner, RegistrationKey, Target, Token, TrialEnd, Upgrade, Verdict,
    read_directory,
};
use authoring::evaluate::{claims, skipped, with_flags};
use cli::stack::{Stack, State, repository};
use cli::token::{TokenSpec, mint};
use e2e::admin::Admin;
use e2e::http::{Answer, Ask, Client};
use e2e::policies::with_budget;
use e2e::revisions::{activate, enforced, publish};
use e2e::stacks::{options, ports, told};
use e2e::tokens::faulty;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use wire::policy::{CredentialForwarding, Gateway, OwnershipPlace, PolicyDocument};

const FLUSH: Duration = Duration::from_secs(10);
const DAY: i64 = 86_400;

#[tokio::test]
async fn every_case_comes_out_of_envoy_and_of_explain_as_it_wants() {
    let home = tempfile::tempdir().unwrap();
    let mut options = options("golden", ports::GOLDEN).unwrap();
    // The default policy, in which nothing is scarce: every case has the same client address.
    options.policies = with_budget(home.path(), "").unwrap();
    let files = authoring::directory::read(&options.policies).unwrap();
    let stack = Stack::start(options).unwrap_or_else(|error| panic!("{}", told(&error)));
    let cases = read_directory(&repository().join("policies")).unwrap_or_else(|fault| panic!("{fault}"));
    let mut runner = Runner::new(stack.state(), wire::sources::read(&files).unwrap());
    for (flags, cases) in by_flags(&cases) {
        if !flags.is_empty() {
            runner.switch(&files, &flags).await;
        }
        runner.through_envoy(&cases).await;
        runner.through_explain(&cases).await;
    }
    println!("{} cases through Envoy, {} through explain", runner.sent, runner.asked);
    assert!(runner.sent >= 300 && runner.asked >= 300, "{} cases through Envoy, {} through explain", runner.sent, runner.asked);
    let failures = runner.failures;
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    stack.stop();
}

/// The cases by the flags that they name; those that name none come first, under the policy as it is.
fn by_flags(cases: &[FiledCase]) -> Vec<(FlagStates, Vec<&FiledCase>)> {
    let mut groups = vec![(FlagStates::new(), Vec::new())];
    for filed in cases {
        match groups.iter_mut().find(|(flags, _)| *flags == filed.case.flags) {
            Some((_, group)) => group.push(filed),
            None => groups.push((filed.case.flags.clone(), vec![filed])),
        }
    }
    groups
}

/// One stack under one policy after the other, and what became of the cases.
struct Runner<'s> {
    state: &'s State,
    /// As it is without the flags of cases.
    document: PolicyDocument,
    /// Kept open, so that they stay with workers that are known to enforce what was activated.
    clients: BTreeMap<String, Client>,
    admin: Admin,
    sent: usize,
    asked: usize,
    failures: Vec<String>,
}

impl<'s> Runner<'s> {
    fn new(state: &'s State, document: PolicyDocument) -> Self {
        let clients = state.gateways.iter().map(|(name, url)| (name.clone(), Client::new(url))).collect();
        Self { state, document, clients, admin: Admin::new(state), sent: 0, asked: 0, failures: Vec::new() }
    }

    /// Puts the policy in force in which these flags stand so.
    async fn switch(&mut self, files: &Files, flags: &FlagStates) {
        let document = with_flags(&self.document, flags).unwrap_or_else(|unknown| panic!("{unknown}"));
        let mut files = files.clone();
        files.insert("flags.yaml".to_owned(), serde_norway::to_string(&json!({"flags": document.flags})).unwrap());
        let revision = publish(&mut self.admin, &files, "other flags").await.unwrap();
        activate(&mut self.admin, revision, "other flags").await.unwrap();
        assert!(enforced(&mut self.admin, revision, FLUSH).await.is_some(), "revision {revision} is not enforced: {flags:?}");
    }

    async fn through_envoy(&mut self, cases: &[&FiledCase]) {
        let mut answers = Vec::new();
        for filed in cases.iter().filter(|filed| filed.case.runs_through_envoy()) {
            let id = format!("golden-{}", self.sent);
            let ask = ask(self.state, &self.document, &filed.case, &id);
            answers.push((filed, self.clients.get_mut(gateway(&filed.case)).unwrap().send(&ask).await.unwrap(), id));
            self.sent += 1;
        }
        for (FiledCase { file, case }, answer, id) in answers {
            let mut differences = answer_differs(case, &answer);
            match self.admin.audit_record(&id, FLUSH).await.unwrap() {
                Some(record) => differences.extend(record_differs(case, &record)),
                None => differences.push("there is no audit record".to_owned()),
            }
            if !differences.is_empty() {
                self.failures.push(format!("{file}: {}:\n  {}\n  {}", case.name, differences.join("\n  "), answer.text()));
            }
        }
    }

    /// Every case whose caller can be described: by claims, without a credential, or with a good registration key.
    async fn through_explain(&mut self, cases: &[&FiledCase]) {
        let at = OffsetDateTime::from_unix_timestamp(NOW.as_seconds()).unwrap().format(&Rfc3339).unwrap();
        for FiledCase { file, case } in cases {
            let caller = match (claims(&self.document, case), &case.token, case.registration_key) {
                // What the route asks for decides which of both counts: only Envoy presents both.
                (Some(_), _, Some(RegistrationKey::Valid)) | (None, Token::Bad(_) | Token::Good(_), _) => continue,
                (Some(claims), ..) => ("claims", Value::Object(claims)),
                (None, Token::None(_), Some(RegistrationKey::Valid)) => ("registered", json!(true)),
                (None, Token::None(_), Some(RegistrationKey::Invalid) | None) => ("anonymous", json!(true)),
            };
            let upgrade = case.upgrade.map(protocol);
            let mut question = json!({"gateway": case.gateway, "method": case.method, "path": case.path, "at": at, "upgrade": upgrade});
            question[caller.0] = caller.1;
            let answer = self.admin.json(Ask::post("/admin/v1/explain").json(&question)).await.unwrap();
            self.asked += 1;
            let differences = explanation_differs(case, &answer);
            if !differences.is_empty() {
                self.failures.push(format!("explain: {file}: {}:\n  {}", case.name, differences.join("\n  ")));
            }
        }
    }
}

/// As explain names it.
const fn protocol(upgrade: Upgrade) -> &'static str {
    match upgrade {
        Upgrade::Websocket => "websocket",
        Upgrade::Other => "other",
    }
}

fn explanation_differs(case: &Case, answer: &Value) -> Vec<String> {
    let mut differences = Differences::default();
    let want = &case.want;
    let permitted = want.decision == Verdict::Permit;
    differences.note("decision", Some(if permitted { "permit" } else { "deny" }), answer["decision"].as_str());
    // A need for an approval is a condition there, and no reason.
    differences.note("reason", Some(if permitted { "ok" } else { want.reason.as_str() }), answer["reason"].as_str());
    differences.note("rule", want.route.as_deref(), answer["rule"].as_str());
    differences.note("skipped", skipped(case), passed_over(&answer["checks"]));
    if permitted {
        differences.note("target", Some(target(case)), answer["target"].as_str());
        differences.note("approval", want.approval == Approval::Needed, answer["approval"] == "governor");
        if let Some(charges) = &want.charges {
            differences.note("charges", charges, &charges_of(&answer["charges"]));
        }
        if let Some(forwarded) = &want.forwarded {
            forwarding_differs(&mut differences, forwarded, &answer["forwarded"]);
        }
        // Here nothing is scarce: that each budget is named is seen, and its cap natively.
        let limit = answer["limit"]["budget"].as_str().into_iter();
        let counted: BTreeSet<&str> =
            answer["charges"].as_array().unwrap().iter().filter_map(|due| due["budget"].as_str()).chain(limit).collect();
        differences.note("budgets without a cap", Vec::new(), want.caps.keys().filter(|name| !counted.contains(name.as_str())).collect());
    }
    // What the backend answers is not explained.
    differences.note("status", (want.status != 200).then_some(u64::from(want.status)), answer["status"].as_u64());
    differences.0
}

fn forwarding_differs(differences: &mut Differences, wanted: &Forwarded, told: &Value) {
    let Forwarded { path: _, ownership, rewrite, credential } = wanted;
    if let Some(Owner { place, name }) = ownership {
        differences.note("ownership", &json!({"in": place, "name": name}), &told["ownership"]);
    }
    if let Some(rewrite) = rewrite {
        differences.note("rewrite", Some(rewrite.as_str()), told["rewrite"].as_str());
    }
    if let Some(credential) = credential {
        differences.note("credential", &json!(credential), &told["credential"]);
    }
}

const fn target(case: &Case) -> &'static str {
    match case.want.target {
        Target::Production => "production",
        Target::Sandbox => "sandbox",
    }
}

fn charges_of(charges: &Value) -> BTreeMap<String, i64> {
    let charges = charges.as_array().unwrap().iter();
    charges.map(|charge| (charge["budget"].as_str().unwrap().to_owned(), charge["amount"].as_i64().unwrap())).collect()
}

/// The checks that a flag skipped.
fn passed_over(checks: &Value) -> BTreeSet<&str> {
    let skipped = checks.as_array().unwrap().iter().filter(|made| made["outcome"] == "skipped_by_flag");
    skipped.map(|made| made["check"].as_str().unwrap()).collect()
}

fn gateway(case: &Case) -> &'static str {
    match case.gateway {
        Gateway::Cp => "CP",
        Gateway::Pp => "PP",
        Gateway::Plant => "PLANT",
        Gateway::Admin => panic!("{}: the admin API is not behind Envoy", case.name),
    }
}

fn ask(state: &State, document: &PolicyDocument, case: &Case, id: &str) -> Ask {
    let mut ask = Ask::new(&case.method, &case.path).header("x-correlation-id", id);
    if let Some(authorization) = authorization(state, case) {
        ask = ask.header("authorization", authorization);
    }
    if let Some(upgrade) = case.upgrade {
        let protocol = match upgrade {
            Upgrade::Websocket => "websocket",
            Upgrade::Other => "something-else",
        };
        ask = ask.header("connection", "upgrade").header("upgrade", protocol);
    }
    // A customer id is forced into the body of such a route: there has to be one.
    let owned = |name: &str| document.routes.iter().find(|route| route.name == name).and_then(|route| route.ownership.as_ref());
    if case.want.route.as_deref().and_then(owned).is_some_and(|ownership| ownership.place == OwnershipPlace::Body) {
        ask = ask.json(&json!({}));
    }
    match case.registration_key {
        Some(RegistrationKey::Valid) => ask.header("x-cp-registration-key", &state.registration_key),
        Some(RegistrationKey::Invalid) => ask.header("x-cp-registration-key", "not-the-key"),
        None => ask,
    }
}

fn authorization(state: &State, case: &Case) -> Option<String> {
    match &case.token {
        Token::None(_) => None,
        Token::Bad(bad) => {
            let (issuer, role) = if gateway(case) == "PP" { ("pp", "admin") } else { ("cp", "customer_admin") };
            let value = faulty(&state.issuers[issuer], TokenSpec::new(&case.name, &[role]), &bad.fault).unwrap();
            Some(value.unwrap_or_else(|| panic!("{}: no token can have the fault `{}`", case.name, bad.fault)))
        }
        Token::Good(claims) => {
            let roles: Vec<&str> = claims.roles.iter().map(String::as_str).collect();
            let mut spec = TokenSpec::new(&case.name, &roles);
            spec.user_id.clone_from(&claims.user_id);
            spec.customer_id.clone_from(&claims.customer_id);
            spec.agent_id.clone_from(&claims.agent_id);
            spec.governor_agent_id.clone_from(&claims.governor_agent_id);
            if let Some(tier) = &claims.tier {
                spec = spec.claim("tier", Value::from(tier.as_str()));
            }
            if claims.trial_mode {
                spec = spec.trial_for(match claims.trial_expires_at {
                    Some(TrialEnd::Future) => 7 * DAY,
                    Some(TrialEnd::Past) => -DAY,
                    Some(TrialEnd::Now | TrialEnd::SecondAgo) | None => panic!("{}: Envoy's clock is not ours", case.name),
                });
            }
            for (name, value) in &claims.claims {
                spec = spec.claim(name, value.clone());
            }
            let issuer = state.issuers.get(&claims.issuer).unwrap_or_else(|| panic!("{}: issuer `{}`", case.name, claims.issuer));
            Some(format!("Bearer {}", mint(issuer, &spec).unwrap()))
        }
    }
}

/// The check that a coded reason belongs to.
fn check(reason: &str) -> &str {
    match reason {
        "ambiguous_path" | "ambiguous_header" => "path",
        "no_route" | "feature_disabled" | "upgrade_refused" => "route",
        "permission_missing" => "permission",
        "trial_expired" | "trial_restricted" => "trial",
        "owner_missing" | "body_not_object" | "body_key_repeated" | "body_too_large" => "ownership",
        "approval_required" | "approval_refused" => "approval",
        "rule_refused" => "rules",
        _ => "authentication",
    }
}

fn answer_differs(case: &Case, answer: &Answer) -> Vec<String> {
    let mut differences = Differences::default();
    let want = &case.want;
    differences.note("status", want.status, answer.status);
    if want.status == 200 {
        differences.note("backend", Some(target(case)), answer.header("x-echo-listener"));
        if let Some(forwarded) = &want.forwarded {
            arrived(&mut differences, case, forwarded, &answer.json());
        }
    } else if case.method != "HEAD" {
        let problem = answer.json();
        differences.note("check", Some(check(&want.reason)), problem["check"].as_str());
        differences.note("rule", want.route.as_deref(), problem["rule"].as_str());
        differences.note("status in the body", Some(u64::from(want.status)), problem["status"].as_u64());
    }
    differences.0
}

/// What the backend got, as it tells itself.
fn arrived(differences: &mut Differences, case: &Case, forwarded: &Forwarded, seen: &Value) {
    let (path, query) = (seen["path"].as_str().unwrap_or_default(), seen["query"].as_str().unwrap_or_default());
    if let Some(wanted) = &forwarded.path {
        let got = if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") };
        differences.note("path at the backend", wanted.clone(), got);
    }
    if let Some(rewrite) = &forwarded.rewrite {
        differences.note("path at the backend", rewrite.as_str(), path);
    }
    if let Some(owner) = &forwarded.ownership {
        let Token::Good(claims) = &case.token else { panic!("{}: nobody owns it", case.name) };
        let customer = claims.customer_id.as_deref().unwrap_or_else(|| panic!("{}: nobody owns it", case.name));
        differences.note("owners at the backend", vec![customer.to_owned()], owners(owner, path, query, seen));
    }
    if let Some(credential) = forwarded.credential {
        let got = |name: &str| seen["headers"].as_array().unwrap().iter().any(|header| header[0] == name);
        let wanted = match credential {
            CredentialForwarding::Drop => (false, false),
            CredentialForwarding::OriginalHeader => (true, false),
            CredentialForwarding::Forward => (false, true),
        };
        differences.note("x-original-authorization, authorization", wanted, (got("x-original-authorization"), got("authorization")));
    }
}

/// Every value that stands where the owner is to stand, in whatever spelling.
fn owners(owner: &Owner, path: &str, query: &str, seen: &Value) -> Vec<String> {
    match owner.place {
        OwnershipPlace::Query => query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .filter(|(name, _)| name.to_ascii_lowercase().starts_with(&owner.name))
            .map(|(_, value)| value.to_owned())
            .collect(),
        // In the default policy it is the last segment of every such path.
        OwnershipPlace::Path => path.rsplit('/').take(1).map(str::to_owned).collect(),
        OwnershipPlace::Body => {
            let body: Value = serde_json::from_str(seen["body"].as_str().unwrap_or_default()).unwrap_or_default();
            body.get(&owner.name).and_then(Value::as_str).map(str::to_owned).into_iter().collect()
        }
    }
}

fn record_differs(case: &Case, record: &Value) -> Vec<String> {
    let mut differences = Differences::default();
    let want = &case.want;
    // A request that needs an approval is permitted by the rules, and refused for want of one.
    let decision = if want.decision == Verdict::Permit && want.approval == Approval::None { "permit" } else { "deny" };
    differences.note("decision in the record", Some(decision), record["decision"].as_str());
    differences.note("reason in the record", Some(want.reason.as_str()), record["reason"].as_str());
    differences.note("route in the record", want.route.as_deref(), record["route"].as_str());
    differences.note("status in the record", Some(u64::from(want.status)), record["status_code"].as_u64());
    differences.note("approval in the record", want.approval == Approval::Needed, record["approval_id"].is_string());
    differences.note("skipped in the record", skipped(case), passed_over(&record["checks"]));
    differences.note("stage in the record", Some("filter"), record["stage"].as_str());
    if want.status == 200 {
        differences.note("sandbox in the record", Some(want.target == Target::Sandbox), record["sandbox"].as_bool());
        if let Some(charges) = &want.charges {
            differences.note("charges in the record", charges, &charges_of(&record["charges"]));
        }
    }
    differences.0
}

#[derive(Default)]
struct Differences(Vec<String>);

impl Differences {
    fn note<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, want: T, got: T) {
        if want != got {
            self.0.push(format!("{what}: want {want:?}, got {got:?}"));
        }
    }
}
