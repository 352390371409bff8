//! Who may do what: every kind of caller on every route of every gateway, as a table that anyone can read. It is kept in
//! the repository, so that a change of policy shows in review what it changes.

use crate::cases::NOW;
use decision_core::decide;
use decision_core::decision::{ApprovalNeed, Decision, Target};
use decision_core::facts::{Authentication, RequestFacts};
use decision_core::gateway::{Gateway, Method};
use decision_core::policy::CompiledPolicy;
use decision_core::principal::{Identity, Principal, Trial};
use decision_core::time::Timestamp;
use std::time::Duration;
use wire::policy::{PolicyDocument, Route};

const LEGEND: &str = "\
Who may do what under the default policy. Made by the golden tests from policies/; do not edit it by hand.

  Y  yes
  .  no
  A  once a governor has approved it
  S  yes, in the sandbox
  R  yes, unless a custom rule refuses

A budget may still be spent. On CP permissions are not asked for, only a valid token: every role can do the same there.
Customers have a customer id and the staff has none: routes that force it into the request are for the former only.
";

/// A kind of caller: a column.
struct Caller {
    name: String,
    who: Who,
}

enum Who {
    Nobody,
    KeyHolder,
    User(Box<Principal>),
}

/// The table of a policy.
#[must_use]
pub fn matrix(document: &PolicyDocument, policy: &CompiledPolicy) -> String {
    let mut text = LEGEND.to_string();
    for gateway in Gateway::ALL {
        let callers = callers(document, policy, gateway);
        let mut rows: Vec<(String, String)> = document
            .routes
            .iter()
            .filter(|route| route.gateways.iter().any(|on| Gateway::from(*on) == gateway))
            .flat_map(|route| rows(policy, gateway, route, &callers))
            .collect();
        rows.sort();
        let width = rows.iter().map(|(request, _)| request.len()).max().unwrap_or(0).saturating_add(2);
        text.push_str(&format!("\n{}\n\n", gateway.name()));
        for (index, caller) in callers.iter().enumerate() {
            text.push_str(&format!("{:width$}{}{}\n", "", "| ".repeat(index), caller.name));
        }
        for (request, cells) in rows {
            text.push_str(&format!("{request:width$}{cells}\n"));
        }
    }
    text
}

/// One row for the methods that are decided alike: `/path  METHODS`, so that what belongs together stands together.
fn rows(policy: &CompiledPolicy, gateway: Gateway, route: &Route, callers: &[Caller]) -> Vec<(String, String)> {
    let mut rows: Vec<(Vec<&str>, String)> = Vec::new();
    for method in route.methods.iter().map(|method| Method::from(*method)) {
        let cells = cells(policy, gateway, route, method, callers).join(" ");
        match rows.iter_mut().find(|(_, known)| *known == cells) {
            Some((methods, _)) => methods.push(method.name()),
            None => rows.push((vec![method.name()], cells)),
        }
    }
    rows.into_iter().map(|(methods, cells)| (format!("{}  {}", route.path, methods.join(" ")), cells)).collect()
}

fn callers(document: &PolicyDocument, policy: &CompiledPolicy, gateway: Gateway) -> Vec<Caller> {
    let user = |name: &str, role: &str, governor: bool, trial: Trial| {
        let issuer = document.issuers.iter().find(|issuer| {
            let assigns = issuer.roles.is_empty() || issuer.roles.iter().any(|assignable| assignable == role);
            assigns && issuer.gateways.iter().any(|on| Gateway::from(*on) == gateway)
        })?;
        let principal = policy.principal(identity(&issuer.name, role, governor, trial))?;
        Some(Caller { name: name.into(), who: Who::User(Box::new(principal)) })
    };
    let mut callers = vec![
        Caller { name: "nobody".into(), who: Who::Nobody },
        Caller { name: "service with the registration key".into(), who: Who::KeyHolder },
    ];
    callers.extend(document.roles.iter().filter_map(|role| user(&role.name, &role.name, false, Trial::No)));
    let governor_role = policy.settings().governor_role.as_str();
    callers.extend(user(&format!("governor ({governor_role} with a governor agent)"), governor_role, true, Trial::No));
    let running = Trial::Until(NOW.plus(Duration::from_secs(86_400)));
    let over = Trial::Until(Timestamp::from_seconds(NOW.as_seconds().saturating_sub(1)));
    // The last role is the least of them where roles are listed by rank, as the default policy does.
    let last = document.roles.last().map_or("", |role| role.name.as_str());
    callers.extend(user(&format!("{last} on trial"), last, false, running));
    callers.extend(user(&format!("{governor_role} on trial"), governor_role, false, running));
    callers.extend(user(&format!("{governor_role} whose trial is over"), governor_role, false, over));
    callers
}

fn cells(policy: &CompiledPolicy, gateway: Gateway, route: &Route, method: Method, callers: &[Caller]) -> Vec<&'static str> {
    let matched = policy.route(gateway, method, &example(&route.path));
    let cells = callers.iter().map(|caller| {
        let authentication = match &caller.who {
            Who::Nobody => Authentication::Anonymous,
            Who::KeyHolder => Authentication::Registered,
            Who::User(principal) => Authentication::Verified(principal),
        };
        let upgrade = matched.map(|route| route.exchange.upgrade()).unwrap_or_default();
        cell(policy, &RequestFacts { gateway, method, route: matched, authentication, upgrade })
    });
    cells.collect()
}

fn cell(policy: &CompiledPolicy, facts: &RequestFacts<'_>) -> &'static str {
    match decide(policy, facts, NOW) {
        Decision::Conditional(_) => "R",
        Decision::Deny(_) => ".",
        Decision::Permit(permit) => match (permit.approval(), permit.target()) {
            (ApprovalNeed::Governor, Target::Production | Target::Sandbox) => "A",
            (ApprovalNeed::None, Target::Sandbox) => "S",
            (ApprovalNeed::None, Target::Production) => "Y",
        },
    }
}

/// A path that the template matches: parameters are filled with words that no literal has.
#[must_use]
pub fn example(template: &str) -> String {
    let filled = |segment: &str| match segment {
        tail if tail.ends_with("...}") => "any/thing".to_string(),
        parameter if parameter.starts_with('{') => "any".to_string(),
        literal => literal.to_string(),
    };
    template.split('/').map(filled).collect::<Vec<_>>().join("/")
}

fn identity(issuer: &str, role: &str, governor: bool, trial: Trial) -> Identity {
    Identity {
        issuer: issuer.into(),
        subject: "someone".into(),
        user_id: "someone".into(),
        email: "someone@example.com".into(),
        customer_id: role.starts_with("customer_").then(|| "customer-1".into()),
        agent_id: None,
        governor_agent_id: governor.then(|| "governor".into()),
        roles: vec![role.into()],
        tier: None,
        trial,
        token_id: None,
        token_version: None,
        key_id: None,
        issued_at: NOW,
        expires_at: NOW.plus(Duration::from_secs(900)),
    }
}
