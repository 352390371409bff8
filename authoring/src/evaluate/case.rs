//! One golden case, decided twice: by the code that enforces and by the code that explains.

use super::asked::{Asked, Asker, Explained, Judge, Ruling, decide, explain};
use crate::cases::{Approval, Case, Claims, NOW, RegistrationKey, Target, Token, TrialEnd, Upgrade, Verdict};
use decision_core::budget::date_of_day;
use decision_core::decision::{self, ApprovalNeed, Check, DenyReason, Finding};
use decision_core::explain::ExplainedOutcome;
use decision_core::facts;
use decision_core::flag::FlagState;
use decision_core::gateway::{Gateway, Method};
use decision_core::path::CanonicalPath;
use decision_core::policy::{CompiledPolicy, Requirement};
use decision_core::principal::CredentialFault;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
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
}

/// Decides a case.
#[must_use]
pub fn evaluate(document: &PolicyDocument, bundle: &LoadedBundle, case: &Case, judge: &mut dyn Judge) -> Evaluation {
    let policy = &bundle.policy;
    let asker = asker(document, bundle, case);
    let upgrade = match case.upgrade {
        None => facts::Upgrade::None,
        Some(Upgrade::Websocket) => facts::Upgrade::Websocket,
        Some(Upgrade::Other) => facts::Upgrade::Other,
    };
    let asked = Asked { gateway: case.gateway.into(), method: &case.method, path: &case.path, upgrade, asker: &asker, now: NOW };
    let identity = match &asker {
        Asker::Verified(principal) => Some(&principal.identity),
        Asker::Anonymous | Asker::Registered | Asker::Refused(_) => None,
    };
    let flags = policy.flags().iter().map(|flag| (flag.name.to_string(), flag.state(identity))).collect();
    let story = explain(policy, &asked, judge);
    let decided = decided(policy, &asked, judge);
    Evaluation { decided, explained: explained(policy, &story), checks: story.explanation.checks, flags }
}

/// Whether the answers are what the case wants, and agree.
///
/// # Errors
/// What differs.
pub fn compare(case: &Case, evaluation: &Evaluation) -> Result<(), String> {
    let want = &case.want;
    let got = &evaluation.decided;
    let wanted = Answer {
        decision: want.decision,
        status: want.status,
        reason: want.reason.clone(),
        route: want.route.clone(),
        rule: want.rule.clone().or_else(|| got.rule.clone()),
        target: want.target,
        approval: want.approval,
        charges: want.charges.clone().unwrap_or_else(|| got.charges.clone()),
    };
    if wanted != *got {
        return Err(differences(&wanted, got).join("; "));
    }
    if evaluation.decided != evaluation.explained {
        return Err(format!("decided and explained differently: {}", differences(&evaluation.decided, &evaluation.explained).join("; ")));
    }
    match (evaluation.checks.last(), got.decision) {
        (Some((_, Finding::Refused(_))), Verdict::Permit) => Err("it is permitted after a check that refused".to_owned()),
        (Some((_, Finding::Passed | Finding::SkippedByFlag)) | None, Verdict::Deny) => Err("it is denied and no check refused".to_owned()),
        (Some((_, Finding::Refused(_))), Verdict::Deny) | (Some(_) | None, Verdict::Permit) => Ok(()),
    }
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
    found
}

fn decided(policy: &CompiledPolicy, asked: &Asked<'_>, judge: &mut dyn Judge) -> Answer {
    let (decision, ruling) = decide(policy, asked, judge);
    let route_name = |id| policy.route_by_id(id).map(|route| route.name.to_string());
    match decision {
        Ok(permit) => {
            let charges = permit.charges().iter();
            let named = charges.filter_map(|charge| Some((policy.budget(charge.budget)?.name.to_string(), charge.amount.get())));
            permission(route_name(permit.route()), permit.target(), permit.approval(), named.collect(), ruling)
        }
        Err(denial) => refusal(policy, denial.reason, denial.route.and_then(route_name), ruling),
    }
}

fn explained(policy: &CompiledPolicy, story: &Explained) -> Answer {
    let (route, ruling) = (story.explanation.route.clone(), story.ruling.clone());
    match &story.explanation.outcome {
        ExplainedOutcome::Permit { target, approval, charges } => {
            let charges = charges.iter().map(|(name, amount)| (name.clone(), amount.get())).collect();
            permission(route, *target, *approval, charges, ruling)
        }
        ExplainedOutcome::Deny(reason) => refusal(policy, *reason, route, ruling),
    }
}

fn permission(
    route: Option<String>,
    target: decision::Target,
    approval: ApprovalNeed,
    charges: BTreeMap<String, i64>,
    ruling: Option<Ruling>,
) -> Answer {
    // Without a grant, which no case presents, the client is told to get one.
    let (approval, status, reason) = match approval {
        ApprovalNeed::None => (Approval::None, 200, "ok"),
        ApprovalNeed::Governor => (Approval::Needed, 403, "approval_required"),
    };
    let target = match target {
        decision::Target::Production => Target::Production,
        decision::Target::Sandbox => Target::Sandbox,
    };
    let rule = ruling.and_then(|ruling| ruling.rule);
    Answer { decision: Verdict::Permit, status, reason: reason.into(), route, rule, target, approval, charges }
}

fn refusal(policy: &CompiledPolicy, reason: DenyReason, route: Option<String>, ruling: Option<Ruling>) -> Answer {
    let status = match reason {
        DenyReason::AmbiguousPath(_) | DenyReason::AmbiguousHeader(_) => 400,
        DenyReason::UpgradeRefused | DenyReason::BodyNotObject | DenyReason::BodyKeyRepeated | DenyReason::ApprovalHeader(_) => 400,
        DenyReason::NoRoute | DenyReason::FeatureDisabled => policy.settings().no_route_status,
        DenyReason::CredentialRefused(CredentialFault::VerificationBudgetSpent) | DenyReason::ClientLimited(_) => 429,
        DenyReason::CredentialMissing | DenyReason::CredentialRefused(_) | DenyReason::RegistrationKeyRefused => 401,
        DenyReason::OwnerMissing => 401,
        DenyReason::RuleRefused | DenyReason::PermissionMissing | DenyReason::TrialExpired | DenyReason::TrialRestricted => 403,
        DenyReason::ApprovalRequired | DenyReason::ApprovalRefused => 403,
        DenyReason::ApprovalBodyTooLarge | DenyReason::BodyTooLarge => 413,
        DenyReason::BudgetSpent(budget) | DenyReason::BudgetUnscoped(budget) => policy.budget(budget).map_or(429, |budget| budget.status),
    };
    Answer {
        decision: Verdict::Deny,
        status,
        reason: reason.code().into(),
        route,
        rule: ruling.and_then(|ruling| ruling.rule),
        target: Target::default(),
        approval: Approval::default(),
        charges: BTreeMap::new(),
    }
}

/// Everything that the caller presents reaches the decision, also what the route does not ask for; where it asks for a
/// registration key, a good one is what counts.
fn asker(document: &PolicyDocument, bundle: &LoadedBundle, case: &Case) -> Asker {
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
