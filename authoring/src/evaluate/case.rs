//! One golden case, decided twice: by the code that enforces and by the code that explains.

use super::asked::{Asked, Asker, Explained, Judge, decide, explain};
use crate::cases::{Approval, Case, Claims, NOW, Owner, RegistrationKey, Target, Token, TrialEnd, Verdict, Want};
use decision_core::budget::date_of_day;
use decision_core::decision::{self, ApprovalNeed, Check, DenyReason, Finding};
use decision_core::explain::{ExplainedOutcome, Explanation};
use decision_core::facts;
use decision_core::flag::{FlagState, Switch};
use decision_core::gateway::{Gateway, Method};
use decision_core::obligations::Obligations;
use decision_core::path::CanonicalPath;
use decision_core::policy::{CompiledPolicy, CredentialForwarding, Requirement, Route};
use decision_core::principal::CredentialFault;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use wire::bundle::LoadedBundle;
use wire::policy::{Issuer, PolicyDocument};

/// What became of a request, in the words of the cases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// By the rules.
    pub decision: Verdict,
    /// What the client gets.
    pub status: u16,
    /// The coded reason.
    pub reason: String,
    /// The route that matched.
    pub route: Option<String>,
    /// The custom rule that decided.
    pub rule: Option<String>,
    /// Where it goes.
    pub target: Target,
    /// Whether an approval is needed.
    pub approval: Approval,
    /// All charges.
    pub charges: BTreeMap<String, i64>,
    /// The caps of the budgets that are charged, and of the one that counts the client's address.
    pub caps: BTreeMap<String, i64>,
    /// Where the caller's customer id is forced into it.
    pub ownership: Option<Owner>,
    /// The path that the backend gets instead.
    pub rewrite: Option<String>,
    /// What the backend gets as credential.
    pub credential: Option<CredentialForwarding>,
}

/// A case that was decided.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// By the code that enforces.
    pub decided: Answer,
    /// By the code that explains.
    pub explained: Answer,
    /// The checks, in order.
    pub checks: Vec<(Check, Finding)>,
    /// The state of every flag for the caller.
    pub flags: Vec<(String, FlagState)>,
    /// Why it was not decided as the case says: its flags cannot stand so.
    pub fault: Option<String>,
}

/// Decides a case.
#[must_use]
pub fn evaluate(document: &PolicyDocument, bundle: &LoadedBundle, case: &Case, judge: &mut dyn Judge) -> Evaluation {
    let policy = &bundle.policy;
    let asker = asker(document, bundle, case);
    let upgrade = case.upgrade.map_or(facts::Upgrade::None, Into::into);
    let asked = Asked { gateway: case.gateway.into(), method: &case.method, path: &case.path, upgrade, asker: &asker, now: NOW };
    let identity = match &asker {
        Asker::Verified(principal) => Some(&principal.identity),
        Asker::Anonymous | Asker::Registered | Asker::Refused(_) => None,
    };
    let flags = policy.flags().iter().map(|flag| (flag.name.to_string(), flag.state(identity))).collect();
    let story = explain(policy, &asked, judge);
    let decided = decided(policy, &asked, judge);
    Evaluation { decided, explained: explained(&story), checks: story.explanation.checks, flags, fault: None }
}

/// Whether the answers are what the case wants, and agree.
///
/// # Errors
/// What differs.
pub fn compare(case: &Case, evaluation: &Evaluation) -> Result<(), String> {
    if let Some(fault) = &evaluation.fault {
        return Err(fault.clone());
    }
    let got = &evaluation.decided;
    let wanted = wanted(&case.want, got);
    if wanted != *got {
        return Err(differences(&wanted, got).join("; "));
    }
    if evaluation.decided != evaluation.explained {
        return Err(format!("decided and explained differently: {}", differences(&evaluation.decided, &evaluation.explained).join("; ")));
    }
    let passed_over: BTreeSet<&str> =
        evaluation.checks.iter().filter(|(_, finding)| *finding == Finding::SkippedByFlag).map(|(check, _)| check.name()).collect();
    if passed_over != skipped(case) {
        return Err(format!("skipped: want {:?}, got {passed_over:?}", skipped(case)));
    }
    match (evaluation.checks.last(), got.decision) {
        (Some((_, Finding::Refused(_))), Verdict::Permit) => Err("it is permitted after a check that refused".to_owned()),
        (Some((_, Finding::Passed | Finding::SkippedByFlag)) | None, Verdict::Deny) => Err("it is denied and no check refused".to_owned()),
        (Some((_, Finding::Refused(_))), Verdict::Deny) | (Some(_) | None, Verdict::Permit) => Ok(()),
    }
}

/// What the case wants; where it says nothing, what it got.
fn wanted(want: &Want, got: &Answer) -> Answer {
    let forwarded = want.forwarded.clone().unwrap_or_default();
    let mut caps = got.caps.clone();
    caps.extend(want.caps.clone());
    Answer {
        decision: want.decision,
        status: want.status,
        reason: want.reason.clone(),
        route: want.route.clone(),
        rule: want.rule.clone().or_else(|| got.rule.clone()),
        target: want.target,
        approval: want.approval,
        charges: want.charges.clone().unwrap_or_else(|| got.charges.clone()),
        caps,
        ownership: forwarded.ownership.or_else(|| got.ownership.clone()),
        rewrite: forwarded.rewrite.or_else(|| got.rewrite.clone()),
        credential: forwarded.credential.map(Into::into).or(got.credential),
    }
}

/// The names of the checks that a flag has to skip.
#[must_use]
pub fn skipped(case: &Case) -> BTreeSet<&'static str> {
    case.want.skipped.iter().map(|switch| Check::from(Switch::from(*switch)).name()).collect()
}

fn differences(want: &Answer, got: &Answer) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |what: &str, want: String, got: String| {
        if want != got {
            found.push(format!("{what}: want {want}, got {got}"));
        }
    };
    note("decision", format!("{:?}", want.decision), format!("{:?}", got.decision));
    note("status", want.status.to_string(), got.status.to_string());
    note("reason", want.reason.clone(), got.reason.clone());
    note("route", format!("{:?}", want.route), format!("{:?}", got.route));
    note("rule", format!("{:?}", want.rule), format!("{:?}", got.rule));
    note("target", format!("{:?}", want.target), format!("{:?}", got.target));
    note("approval", format!("{:?}", want.approval), format!("{:?}", got.approval));
    note("charges", format!("{:?}", want.charges), format!("{:?}", got.charges));
    note("caps", format!("{:?}", want.caps), format!("{:?}", got.caps));
    let or_none = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    note("ownership", or_none(want.ownership.as_ref().map(Owner::to_string)), or_none(got.ownership.as_ref().map(Owner::to_string)));
    note("rewrite", or_none(want.rewrite.clone()), or_none(got.rewrite.clone()));
    let credential = |answer: &Answer| or_none(answer.credential.map(|credential| credential.name().to_owned()));
    note("credential", credential(want), credential(got));
    found
}

fn decided(policy: &CompiledPolicy, asked: &Asked<'_>, judge: &mut dyn Judge) -> Answer {
    let (decision, ruling) = decide(policy, asked, judge);
    let rule = ruling.map(|ruling| ruling.rule.to_string());
    let permit = match decision {
        Ok(permit) => permit,
        Err(denial) => {
            let route = denial.route.and_then(|id| policy.route_by_id(id)).map(|route| route.name.to_string());
            let answer = refusal(denial.reason, Some(denial.reason.status(Some(policy))), route);
            return Answer { rule, ..answer };
        }
    };
    let route = policy.route_by_id(permit.route());
    let obligations = Obligations::of(policy, &permit);
    let cap_of = |name: &str| Some((name.to_owned(), policy.budget_by_name(name)?.cap.get()));
    let needed = obligations.approval == ApprovalNeed::Governor;
    let status = needed.then(|| DenyReason::ApprovalRequired.status(Some(policy)));
    Answer {
        rule,
        charges: obligations.charges.iter().map(|(name, amount)| (name.to_owned(), amount.get())).collect(),
        caps: obligations.charges.iter().map(|(name, _)| name).chain(obligations.limit).filter_map(cap_of).collect(),
        ownership: route.and_then(Route::owner).map(|(place, name)| Owner { place: place.into(), name: name.to_owned() }),
        rewrite: obligations.rewrite.map(str::to_owned),
        credential: Some(obligations.credential),
        ..permission(obligations.approval, status, obligations.target, route.map(|route| route.name.to_string()))
    }
}

fn explained(story: &Explained) -> Answer {
    let Explanation { route, status, outcome, .. } = &story.explanation;
    let rule = story.ruling.as_ref().map(|ruling| ruling.rule.to_string());
    let permit = match outcome {
        ExplainedOutcome::Permit(permit) => permit,
        ExplainedOutcome::Deny(reason) => return Answer { rule, ..refusal(*reason, *status, route.clone()) },
    };
    let caps = permit.charges.iter().map(|charge| (charge.budget.clone(), charge.cap.get()));
    Answer {
        rule,
        charges: permit.charges.iter().map(|charge| (charge.budget.clone(), charge.amount.get())).collect(),
        caps: caps.chain(permit.limit.iter().map(|(name, cap)| (name.clone(), cap.get()))).collect(),
        ownership: permit.ownership.as_ref().map(|(place, name)| Owner { place: (*place).into(), name: name.clone() }),
        rewrite: permit.rewrite.clone(),
        credential: Some(permit.credential),
        ..permission(permit.approval, *status, permit.target, route.clone())
    }
}

/// A permit; `status` is what the client gets where the backend does not answer.
fn permission(approval: ApprovalNeed, status: Option<u16>, target: decision::Target, route: Option<String>) -> Answer {
    // Without a grant, which no case presents, the client is told to get one.
    let (approval, reason) = match approval {
        ApprovalNeed::None => (Approval::None, "ok"),
        ApprovalNeed::Governor => (Approval::Needed, DenyReason::ApprovalRequired.code()),
    };
    let target = match target {
        decision::Target::Production => Target::Production,
        decision::Target::Sandbox => Target::Sandbox,
    };
    answer(Verdict::Permit, status.unwrap_or(200), reason, route, target, approval)
}

fn refusal(reason: DenyReason, status: Option<u16>, route: Option<String>) -> Answer {
    answer(Verdict::Deny, status.unwrap_or_default(), reason.code(), route, Target::default(), Approval::default())
}

/// One under which nothing is charged or changed.
fn answer(decision: Verdict, status: u16, reason: &str, route: Option<String>, target: Target, approval: Approval) -> Answer {
    Answer {
        decision,
        status,
        reason: reason.into(),
        route,
        rule: None,
        target,
        approval,
        charges: BTreeMap::new(),
        caps: BTreeMap::new(),
        ownership: None,
        rewrite: None,
        credential: None,
    }
}

/// Everything that the caller presents reaches the decision, also what the route does not ask for; where it asks for a
/// registration key, a good one is what counts.
pub(crate) fn asker(document: &PolicyDocument, bundle: &LoadedBundle, case: &Case) -> Asker {
    let registered = case.registration_key == Some(RegistrationKey::Valid);
    let presented = match &case.token {
        Token::None(_) if registered => return Asker::Registered,
        Token::None(_) => Asker::Anonymous,
        Token::Bad(_) | Token::Good(_) => match claims(document, case) {
            Some(claims) => Asker::of_claims(bundle, &claims, NOW),
            None => Asker::Refused(fault(case).unwrap_or(CredentialFault::IssuerMismatch)),
        },
    };
    if registered && wants_key(&bundle.policy, case) { Asker::Registered } else { presented }
}

fn wants_key(policy: &CompiledPolicy, case: &Case) -> bool {
    let path = CanonicalPath::parse(case.path.as_bytes()).ok();
    let route = path.zip(Method::parse(case.method.as_bytes())).and_then(|(path, method)| {
        let gateway: Gateway = case.gateway.into();
        policy.route(gateway, method, path.path())
    });
    route.is_some_and(|route| route.requirement == Requirement::RegistrationKey)
}

fn fault(case: &Case) -> Option<CredentialFault> {
    let Token::Bad(bad) = &case.token else { return None };
    CredentialFault::ALL.into_iter().find(|fault| fault.code() == bad.fault)
}

/// The claims of a case's token at [`NOW`], where they say everything: none for a token that is refused for its form, its
/// signature, or what was revoked.
#[must_use]
pub fn claims(document: &PolicyDocument, case: &Case) -> Option<Map<String, Value>> {
    match &case.token {
        Token::None(_) => None,
        Token::Good(good) => Some(good_claims(document, good, &case.name)),
        Token::Bad(bad) => {
            let (issuer, role) = match case.gateway {
                wire::policy::Gateway::Pp => ("pp", "admin"),
                wire::policy::Gateway::Cp | wire::policy::Gateway::Plant => ("cp", "customer_admin"),
                wire::policy::Gateway::Admin => ("ops", "admin"),
            };
            let mut claims = plain(document, issuer, &[role.to_owned()], &case.name);
            let now = NOW.as_seconds();
            let (name, value) = match bad.fault.as_str() {
                "issuer_mismatch" => ("iss", json!("nobody.example.com")),
                "audience_mismatch" => ("aud", json!("another-service")),
                "token_type_refused" => ("token_type", json!("refresh")),
                "claim_missing" => ("email", Value::Null),
                "expired" => {
                    claims.insert("iat".to_owned(), json!(now.saturating_sub(7_200)));
                    ("exp", json!(now.saturating_sub(3_600)))
                }
                "not_yet_valid" => {
                    claims.insert("exp".to_owned(), json!(now.saturating_add(7_200)));
                    ("iat", json!(now.saturating_add(3_600)))
                }
                "lifetime_too_long" => ("exp", json!(now.saturating_add(2_592_000))),
                "trial_claims_invalid" => ("trial_mode", json!(true)),
                _ => return None,
            };
            put(&mut claims, name, value);
            Some(claims)
        }
    }
}

fn good_claims(document: &PolicyDocument, good: &Claims, subject: &str) -> Map<String, Value> {
    let mut claims = plain(document, &good.issuer, &good.roles, subject);
    let named = [
        ("user_id", &good.user_id),
        ("customer_id", &good.customer_id),
        ("agent_id", &good.agent_id),
        ("governor_agent_id", &good.governor_agent_id),
        ("tier", &good.tier),
    ];
    for (name, value) in named {
        if let Some(value) = value {
            claims.insert(name.to_owned(), json!(value));
        }
    }
    if good.trial_mode {
        claims.insert("trial_mode".to_owned(), json!(true));
    }
    if let Some(end) = good.trial_expires_at {
        let now = NOW.as_seconds();
        let seconds = match end {
            TrialEnd::Future => now.saturating_add(604_800),
            TrialEnd::Now => now,
            TrialEnd::SecondAgo => now.saturating_sub(1),
            TrialEnd::Past => now.saturating_sub(86_400),
        };
        claims.insert("trial_expires_at".to_owned(), json!(rfc3339(seconds)));
    }
    for (name, value) in &good.claims {
        put(&mut claims, name, value.clone());
    }
    claims
}

/// The claims of an ordinary user, for a quarter of an hour.
fn plain(document: &PolicyDocument, name: &str, roles: &[String], subject: &str) -> Map<String, Value> {
    let issuer: Option<&Issuer> = document.issuers.iter().find(|issuer| issuer.name == name);
    let mut claims = Map::new();
    let mut put = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    put("iss", json!(issuer.map_or(name, |issuer| issuer.issuer.as_str())));
    if let Some(audience) = issuer.and_then(|issuer| issuer.audiences.first()) {
        put("aud", json!(audience));
    }
    put("sub", json!(subject));
    put("user_id", json!(subject));
    put("email", json!("someone@example.com"));
    put("roles", json!(roles));
    put("iat", json!(NOW.as_seconds()));
    put("exp", json!(NOW.as_seconds().saturating_add(900)));
    put("jti", json!(subject));
    put("trial_mode", json!(false));
    claims
}

fn put(claims: &mut Map<String, Value>, name: &str, value: Value) {
    if value.is_null() {
        claims.remove(name);
    } else {
        claims.insert(name.to_owned(), value);
    }
}

fn rfc3339(seconds: i64) -> String {
    let (year, month, day) = date_of_day(seconds.div_euclid(86_400));
    let of_day = seconds.rem_euclid(86_400);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3_600, of_day / 60 % 60, of_day % 60)
}
