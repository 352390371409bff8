//! Who may do what: every kind of caller on every route of every gateway, as a table that anyone can read. It is kept in
//! the repository, so that a change of policy shows in review what it changes. `UPDATE_MATRIX=1` writes it anew.

use crate::cases::NOW;
use crate::policies::{compiled, document, folder};
use decision_core::decide;
use decision_core::decision::{ApprovalNeed, Decision, Target};
use decision_core::facts::{Authentication, RequestFacts, Upgrade};
use decision_core::gateway::{Gateway, Method};
use decision_core::policy::CompiledPolicy;
use decision_core::principal::{Identity, Principal, Trial};
use decision_core::time::Timestamp;
use std::fmt::Write;
use std::fs;
use std::time::Duration;
use wire::policy::{PolicyDocument, Route};

const LEGEND: &str = "\
Who may do what under the default policy. Made by the golden tests from policies/; do not edit it by hand.

  Y  yes
  .  no
  A  once a governor has approved it
  S  yes, in the sandbox

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

#[test]
fn the_matrix_is_as_reviewed() {
    let made = matrix(&document(), &compiled());
    let file = folder().join("matrix.txt");
    if std::env::var_os("UPDATE_MATRIX").is_some() {
        fs::write(&file, &made).unwrap();
    }
    let reviewed = fs::read_to_string(&file).unwrap_or_default();
    let only_in = |one: &str, other: &str, mark: &str| -> Vec<String> {
        one.lines().filter(|line| !other.lines().any(|known| known == *line)).map(|line| format!("{mark} {line}")).take(20).collect()
    };
    let differing = [only_in(&reviewed, &made, "-"), only_in(&made, &reviewed, "+")].concat();
    assert!(
        made == reviewed,
        "policies/matrix.txt is not what the policy says now. If the change is meant: `UPDATE_MATRIX=1 cargo test -p wire --features sources`\n{}",
        differing.join("\n")
    );
}

fn matrix(document: &PolicyDocument, policy: &CompiledPolicy) -> String {
    let mut text = LEGEND.to_string();
    for gateway in Gateway::ALL {
        let callers = callers(document, policy, gateway);
        let mut rows: Vec<(String, String)> = document
            .routes
            .iter()
            .filter(|route| route.gateways.iter().any(|on| Gateway::from(*on) == gateway))
            .map(|route| (request(route), cells(policy, gateway, route, &callers)))
            .collect();
        rows.sort();
        let width = rows.iter().map(|(request, _)| request.len()).max().unwrap_or(0) + 2;
        write!(text, "\n{}\n\n", gateway.name()).unwrap();
        for (index, caller) in callers.iter().enumerate() {
            writeln!(text, "{:width$}{}{}", "", "| ".repeat(index), caller.name).unwrap();
        }
        for (request, cells) in rows {
            writeln!(text, "{request:width$}{cells}").unwrap();
        }
    }
    text
}

/// `/path  METHODS`: sorted by path, so that what belongs together stands together.
fn request(route: &Route) -> String {
    let methods: Vec<&str> = route.methods.iter().map(|method| Method::from(*method).name()).collect();
    format!("{}  {}", route.path, methods.join(" "))
}

fn callers(document: &PolicyDocument, policy: &CompiledPolicy, gateway: Gateway) -> Vec<Caller> {
    let user = |name: &str, role: &str, governor: bool, trial: Trial| {
        let issuer = document.issuers.iter().find(|issuer| {
            let assigns = issuer.roles.is_empty() || issuer.roles.iter().any(|assignable| assignable == role);
            assigns && issuer.gateways.iter().any(|on| Gateway::from(*on) == gateway)
        });
        let identity = identity(&issuer.unwrap().name, role, governor, trial);
        Caller { name: name.into(), who: Who::User(Box::new(policy.principal(identity).unwrap())) }
    };
    let mut callers = vec![
        Caller { name: "nobody".into(), who: Who::Nobody },
        Caller { name: "service with the registration key".into(), who: Who::KeyHolder },
    ];
    callers.extend(document.roles.iter().map(|role| user(&role.name, &role.name, false, Trial::No)));
    callers.push(user("governor (admin with a governor agent)", "admin", true, Trial::No));
    let running = Trial::Until(NOW.plus(Duration::from_secs(86_400)));
    callers.push(user("customer_user on trial", "customer_user", false, running));
    callers.push(user("admin on trial", "admin", false, running));
    let over = Trial::Until(Timestamp::from_seconds(NOW.as_seconds() - 1));
    callers.push(user("admin whose trial is over", "admin", false, over));
    callers
}

fn cells(policy: &CompiledPolicy, gateway: Gateway, route: &Route, callers: &[Caller]) -> String {
    let path = example(&route.path);
    let rows: Vec<String> = route
        .methods
        .iter()
        .map(|method| {
            let method = Method::from(*method);
            let matched = policy.route(gateway, method, &path);
            assert_eq!(matched.map(|route| &*route.name), Some(&*route.name), "{} {path} on {}", method.name(), gateway.name());
            let cells = callers.iter().map(|caller| {
                let authentication = match &caller.who {
                    Who::Nobody => Authentication::Anonymous,
                    Who::KeyHolder => Authentication::Registered,
                    Who::User(principal) => Authentication::Verified(principal),
                };
                cell(policy, &RequestFacts { gateway, method, route: matched, authentication, upgrade: Upgrade::None })
            });
            cells.collect::<Vec<_>>().join(" ")
        })
        .collect();
    let first = rows.first().unwrap();
    assert!(rows.iter().all(|row| row == first), "the methods of {} are decided differently", route.name);
    first.clone()
}

fn cell(policy: &CompiledPolicy, facts: &RequestFacts<'_>) -> &'static str {
    match decide(policy, facts, NOW) {
        Decision::Conditional(_) => unreachable!("the default policy has no custom rules"),
        Decision::Deny(_) => ".",
        Decision::Permit(permit) => match (permit.approval(), permit.target()) {
            (ApprovalNeed::Governor, Target::Production | Target::Sandbox) => "A",
            (ApprovalNeed::None, Target::Sandbox) => "S",
            (ApprovalNeed::None, Target::Production) => "Y",
        },
    }
}

/// A path that the template matches: parameters are filled with words that no literal has.
fn example(template: &str) -> String {
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
