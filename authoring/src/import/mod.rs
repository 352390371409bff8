//! Roles and permissions out of policies that were written for an OPA server. The words are those of their tables; who may do what
//! is what their own rules answer, asked for every role. Rules with logic are not taken over: for each is said what covers it here.

mod compare;
mod remaining;

pub use compare::{Difference, DifferenceKind};
pub use remaining::NotImported;

use crate::PolicyFault;
use crate::opa::examine::Question;
use crate::opa::request::{Wanted, is_known_method};
use crate::opa::tables::{Levels, Permissions};
use crate::opa::{Grants, OpaSet, allows};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use wire::policy::{Gateway, PolicyDocument, Requirement, Route};

/// A permission that no table has: whoever is allowed it is allowed everything.
const UNHEARD_OF: &str = "unheard.of";

/// What an import makes of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Every permission, sorted.
    pub permissions: Vec<String>,
    /// Every role, the most powerful first.
    pub roles: Vec<ImportedRole>,
    /// What the set has beyond that.
    pub not_imported: Vec<NotImported>,
    /// What was odd about the tables.
    pub remarks: Vec<String>,
}

/// A role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedRole {
    /// Its name.
    pub name: String,
    /// What it permits.
    pub permissions: RolePermissions,
}

/// What a role permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolePermissions {
    /// Also what nobody has heard of.
    All,
    /// Only these.
    Only(BTreeSet<String>),
}

impl RolePermissions {
    /// Whether it is among them.
    #[must_use]
    pub fn has(&self, permission: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(permissions) => permissions.contains(permission),
        }
    }

    fn count(&self) -> usize {
        match self {
            Self::All => usize::MAX,
            Self::Only(permissions) => permissions.len(),
        }
    }
}

/// Makes roles and permissions of a set. `policy` is the one whose routes say which permission a request takes: a set of levels
/// knows requests only. Blocks, for 5 s at most for every 500 questions.
///
/// # Errors
/// The set cannot be asked, or there are no routes to ask it about.
pub fn import(set: &OpaSet, policy: Option<&PolicyDocument>) -> Result<Imported, PolicyFault> {
    let mut imported = match (&set.grants, policy) {
        (Grants::Permissions(table), _) => by_permission(set, table)?,
        (Grants::Levels(levels), Some(policy)) => by_request(set, levels, policy)?,
        (Grants::Levels(_), None) => {
            let message =
                "the set permits requests and knows no permissions: a policy is needed whose routes say which permission each takes";
            return Err(PolicyFault { message: message.into(), ..PolicyFault::default() });
        }
    };
    imported.roles.sort_by(|one, other| other.permissions.count().cmp(&one.permissions.count()).then_with(|| one.name.cmp(&other.name)));
    Ok(imported)
}

fn question(rule: &str, role: &str, wanted: &Wanted) -> Question {
    let jwt = json!({"user_id": "someone", "email": "someone@example.com", "roles": [role]});
    let input = json!({"resource": wanted.resource, "action": wanted.action, "jwt": jwt});
    Question { rule: rule.to_owned(), input, data: json!({}) }
}

/// Which of these each role is allowed.
fn allowed<'w>(
    set: &OpaSet,
    roles: &BTreeSet<String>,
    wanted: impl IntoIterator<Item = &'w Wanted>,
) -> Result<BTreeMap<String, BTreeSet<&'w Wanted>>, PolicyFault> {
    let wanted: Vec<&Wanted> = wanted.into_iter().collect();
    let pairs: Vec<(&String, &Wanted)> = roles.iter().flat_map(|role| wanted.iter().map(move |wanted| (role, *wanted))).collect();
    let questions: Vec<Question> = pairs.iter().map(|(role, wanted)| question(set.grants.decides(), role, wanted)).collect();
    let mut allowed: BTreeMap<String, BTreeSet<&Wanted>> = roles.iter().map(|role| (role.clone(), BTreeSet::new())).collect();
    for ((role, wanted), reply) in pairs.into_iter().zip(set.ask(&questions)?) {
        if allows(&reply) == Some(true) {
            allowed.entry(role.clone()).or_default().insert(wanted);
        }
    }
    Ok(allowed)
}

fn by_permission(set: &OpaSet, table: &Permissions) -> Result<Imported, PolicyFault> {
    let permissions: Vec<String> = table.granted.keys().cloned().collect();
    let known: BTreeMap<&str, Wanted> = permissions.iter().map(|name| (name.as_str(), Wanted::of_permission(name))).collect();
    let unheard_of = Wanted::of_permission(UNHEARD_OF);
    let allowed = allowed(set, &table.roles, known.values().chain([&unheard_of]))?;
    let (mut roles, mut remarks) = (Vec::new(), Vec::new());
    for (role, wanted) in &allowed {
        let has = |permission: &str| known.get(permission).is_some_and(|known| wanted.contains(known));
        for (permission, listed) in &table.granted {
            match (listed.contains(role), has(permission)) {
                (true, false) => remarks.push(format!("{} gives {permission} to {role}, and {} refuses it", table.table, table.decides)),
                // Whoever may do everything need not be listed everywhere.
                (false, true) if !wanted.contains(&unheard_of) => {
                    remarks.push(format!("{} does not give {permission} to {role}, and {} allows it", table.table, table.decides));
                }
                (true, true) | (false, true | false) => {}
            }
        }
        let only = || RolePermissions::Only(permissions.iter().filter(|permission| has(permission)).cloned().collect());
        let everything = wanted.contains(&unheard_of) && permissions.iter().all(|permission| has(permission));
        roles.push(ImportedRole { name: role.clone(), permissions: if everything { RolePermissions::All } else { only() } });
    }
    Ok(Imported { permissions, roles, not_imported: remaining::not_imported(set), remarks })
}

/// The requests that take each permission.
fn requests(policy: &PolicyDocument) -> BTreeMap<&str, BTreeSet<Wanted>> {
    let mut requests: BTreeMap<&str, BTreeSet<Wanted>> = BTreeMap::new();
    let asks = |route: &&Route| route.require == Requirement::Permission && route.gateways.iter().any(|on| *on != Gateway::Admin);
    for route in policy.routes.iter().filter(asks) {
        let Some(permission) = route.permission.as_deref() else { continue };
        let methods = route.methods.iter().map(|method| decision_core::gateway::Method::from(*method).name());
        let wanted = methods.filter(|method| is_known_method(method)).map(|method| Wanted::for_permission(method, &route.path));
        requests.entry(permission).or_default().extend(wanted);
    }
    requests.retain(|_, wanted| !wanted.is_empty());
    requests
}

fn by_request(set: &OpaSet, levels: &Levels, policy: &PolicyDocument) -> Result<Imported, PolicyFault> {
    let requests = requests(policy);
    let every: BTreeSet<&Wanted> = requests.values().flatten().collect();
    let allowed = allowed(set, &levels.roles, every.iter().copied())?;
    let mut remarks = Vec::new();
    for action in every.iter().map(|wanted| &wanted.action).collect::<BTreeSet<_>>() {
        let anybody = allowed.values().flatten().any(|wanted| wanted.action == *action);
        if !anybody {
            remarks.push(format!("nobody is allowed the action `{action}`, whatever the role"));
        }
    }
    let mut roles = Vec::new();
    for (role, wanted) in &allowed {
        let mut only = BTreeSet::new();
        for (permission, needed) in &requests {
            let refused: Vec<String> =
                needed.iter().filter(|needed| !wanted.contains(needed)).map(|needed| needed.action.clone()).collect();
            if refused.is_empty() {
                only.insert((*permission).to_owned());
            } else if refused.len() < needed.len() {
                remarks.push(format!("{role} does not get {permission}, which also takes {}", refused.join(", ")));
            }
        }
        roles.push(ImportedRole { name: role.clone(), permissions: RolePermissions::Only(only) });
    }
    let permissions = requests.into_keys().map(str::to_owned).collect();
    Ok(Imported { permissions, roles, not_imported: remaining::not_imported(set), remarks })
}

impl Imported {
    /// As the sections `permissions` and `roles` of a policy file.
    #[must_use]
    pub fn yaml(&self) -> String {
        let mut text = "permissions:\n".to_owned();
        for permission in &self.permissions {
            text.push_str(&format!("  - {}\n", scalar(permission)));
        }
        text.push_str("\nroles:\n");
        for role in &self.roles {
            text.push_str(&format!("  - name: {}\n", scalar(&role.name)));
            match &role.permissions {
                RolePermissions::All => text.push_str("    permissions: [\"*\"]\n"),
                RolePermissions::Only(permissions) if permissions.is_empty() => text.push_str("    permissions: []\n"),
                RolePermissions::Only(permissions) => {
                    text.push_str("    permissions:\n");
                    permissions.iter().for_each(|permission| text.push_str(&format!("      - {}\n", scalar(permission))));
                }
            }
        }
        text
    }
}

/// Plain where that is one text for sure, else as JSON, which is YAML.
fn scalar(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let reserved = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].iter().any(|word| text.eq_ignore_ascii_case(word));
    if text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(plain) && !reserved {
        text.to_owned()
    } else {
        json!(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_can_be_read_again() {
        let only = |names: &[&str]| RolePermissions::Only(names.iter().map(|name| (*name).to_owned()).collect());
        let imported = Imported {
            permissions: vec!["a.read".into(), "a.write".into()],
            roles: vec![
                ImportedRole { name: "admin".into(), permissions: RolePermissions::All },
                ImportedRole { name: "no".into(), permissions: only(&["a.read"]) },
                ImportedRole { name: "x: y".into(), permissions: only(&[]) },
            ],
            not_imported: vec![],
            remarks: vec![],
        };
        let read: serde_json::Value = serde_norway::from_str(&imported.yaml()).unwrap();
        let wanted = json!({"permissions": ["a.read", "a.write"], "roles": [
            {"name": "admin", "permissions": ["*"]}, {"name": "no", "permissions": ["a.read"]}, {"name": "x: y", "permissions": []},
        ]});
        assert_eq!(read, wanted);
    }

    #[test]
    fn requests_are_those_of_routes_that_ask_for_a_permission_behind_a_portal() {
        let text = "
permissions: [a.read, a.write, c.read]
routes:
  - { name: r, gateways: [PP], methods: [GET, HEAD], path: '/api/v1/as/{id}', require: permission, permission: a.read }
  - { name: w, gateways: [PP], methods: [PUT, PATCH], path: '/api/v1/as/{id}', require: permission, permission: a.write }
  - { name: x, gateways: [PP], methods: [POST], path: /api/v1/as, require: permission, permission: a.write }
  - { name: c, gateways: [ADMIN], methods: [GET], path: /admin/v1/c, require: permission, permission: c.read }
  - { name: p, gateways: [PP], methods: [GET], path: /p, require: public }
";
        let document = wire::sources::read(&crate::Files::from([("policy.yaml".to_owned(), text.to_owned())])).unwrap();
        let found = requests(&document);
        let words: Vec<(&str, Vec<&str>)> =
            found.iter().map(|(permission, wanted)| (*permission, wanted.iter().map(|wanted| wanted.action.as_str()).collect())).collect();
        assert_eq!(words, [("a.read", vec!["read"]), ("a.write", vec!["create", "update"])]);
    }
}
