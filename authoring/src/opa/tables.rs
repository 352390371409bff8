//! How a set says who may do what: by a table of permissions, or by levels of roles and actions. Only the words are taken from
//! there; what follows from them is asked of the set's own rules.

use super::examine::FoundRule;
use crate::PolicyFault;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The rule that decides, in the package of the tables.
const DECIDES: &str = "allow";

/// How a set says who may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Grants {
    /// `permissions := {"agent.create": ["admin", …], …}`: asked are a resource and an action that make up a permission.
    Permissions(Permissions),
    /// A level for each role and one for each action: asked are the resource and the action that a request's path and method say.
    Levels(Levels),
}

/// A table of permissions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// The rule that decides, as `gateway.rbac_pp.allow`.
    pub decides: String,
    /// The rule that is the table.
    pub table: String,
    /// Who has which permission, as the table says.
    pub granted: BTreeMap<String, BTreeSet<String>>,
    /// All roles that are known.
    pub roles: BTreeSet<String>,
}

/// Levels of roles and actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Levels {
    /// The rule that decides.
    pub decides: String,
    /// The rules that have the levels.
    pub tables: [String; 2],
    /// All roles that are known.
    pub roles: BTreeSet<String>,
    /// All actions that are known.
    pub actions: BTreeSet<String>,
}

impl Grants {
    /// Finds the tables among constants.
    pub(super) fn of(rules: &[FoundRule]) -> Result<Self, PolicyFault> {
        let decides = |package: &str| {
            let decides = rules.iter().any(|rule| rule.package == package && rule.name == DECIDES);
            decides.then(|| format!("{package}.{DECIDES}"))
        };
        for rule in rules {
            let granted = rule.constant.as_ref().and_then(permissions);
            if let Some((granted, decides)) = granted.zip(decides(&rule.package)) {
                let roles_beside = levels(rules, &rule.package, "role").map(|(_, roles)| roles).unwrap_or_default();
                let roles = granted.values().flatten().cloned().chain(roles_beside).collect();
                return Ok(Self::Permissions(Permissions { decides, table: path(rule), granted, roles }));
            }
        }
        for package in rules.iter().map(|rule| rule.package.as_str()).collect::<BTreeSet<_>>() {
            let tables = levels(rules, package, "role").zip(levels(rules, package, "action"));
            if let Some((((of_roles, roles), (of_actions, actions)), decides)) = tables.zip(decides(package)) {
                return Ok(Self::Levels(Levels { decides, tables: [of_roles, of_actions], roles, actions }));
            }
        }
        let wanted = "there is no package with a rule `allow` and either a table of permissions (`{\"agent.create\": [\"admin\"]}`), or \
                      levels of roles and of actions (numbers, in rules whose names have `role` and `action`)";
        Err(PolicyFault { file: rules.first().map(|rule| rule.file.clone()), message: wanted.into(), ..PolicyFault::default() })
    }

    /// What the set is called where sets are told apart.
    #[must_use]
    pub const fn form(&self) -> &'static str {
        match self {
            Self::Permissions(_) => "permissions",
            Self::Levels(_) => "levels",
        }
    }

    /// The rule that decides.
    #[must_use]
    pub fn decides(&self) -> &str {
        match self {
            Self::Permissions(Permissions { decides, .. }) | Self::Levels(Levels { decides, .. }) => decides,
        }
    }

    /// The tables that an import takes its words from.
    #[must_use]
    pub fn tables(&self) -> Vec<&str> {
        match self {
            Self::Permissions(permissions) => vec![&permissions.table],
            Self::Levels(levels) => levels.tables.iter().map(String::as_str).collect(),
        }
    }
}

fn path(rule: &FoundRule) -> String {
    format!("{}.{}", rule.package, rule.name)
}

/// `{"resource.action": ["role", …]}`, and nothing else.
fn permissions(value: &Value) -> Option<BTreeMap<String, BTreeSet<String>>> {
    let table = value.as_object().filter(|table| !table.is_empty())?;
    let roles = |value: &Value| value.as_array()?.iter().map(|role| role.as_str().map(str::to_owned)).collect::<Option<BTreeSet<_>>>();
    let row = |(name, value): (&String, &Value)| {
        let named = name.split_once('.').is_some_and(|(resource, action)| !resource.is_empty() && !action.is_empty());
        Some((name.clone(), roles(value).filter(|_| named)?))
    };
    table.iter().map(row).collect()
}

/// The names that a rule of this package gives numbers to; `about` is in the rule's own name.
fn levels(rules: &[FoundRule], package: &str, about: &str) -> Option<(String, BTreeSet<String>)> {
    rules.iter().filter(|rule| rule.package == package && rule.name.contains(about)).find_map(|rule| {
        let table = rule.constant.as_ref()?.as_object().filter(|table| !table.is_empty())?;
        table.values().all(Value::is_number).then(|| (path(rule), table.keys().cloned().collect()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(rules: &[(&str, &str, Value)]) -> Vec<FoundRule> {
        let rule = |(package, name, value): &(&str, &str, Value)| FoundRule {
            file: "a.rego".into(),
            line: 1,
            package: (*package).into(),
            name: (*name).into(),
            constant: (!value.is_null()).then(|| value.clone()),
        };
        rules.iter().map(rule).collect()
    }

    #[test]
    fn a_table_of_permissions_is_found_with_the_roles_beside_it() {
        let table = json!({"agent.create": ["admin"], "agent.view": ["admin", "viewer"]});
        let found = Grants::of(&rules(&[
            ("g.a", "other", json!({"agent.create": ["admin"]})),
            ("g.b", "allow", Value::Null),
            ("g.b", "permissions", table),
            ("g.b", "role_levels", json!({"admin": 2, "viewer": 1, "idle": 0})),
        ]));
        let Ok(Grants::Permissions(found)) = found else { panic!("{found:?}") };
        assert_eq!((found.decides.as_str(), found.table.as_str()), ("g.b.allow", "g.b.permissions"), "`g.a` has no `allow`");
        assert_eq!(found.roles.iter().collect::<Vec<_>>(), ["admin", "idle", "viewer"]);
    }

    #[test]
    fn levels_are_found_by_what_their_names_say() {
        let levels = [("g", "allow", Value::Null), ("g", "role_rank", json!({"a": 1})), ("g", "action_rank", json!({"read": 7}))];
        let Ok(Grants::Levels(found)) = Grants::of(&rules(&levels)) else { panic!() };
        assert_eq!(found.tables, ["g.role_rank", "g.action_rank"]);
        assert!(found.roles.contains("a") && found.actions.contains("read"));
        for without in 0..3 {
            let fewer: Vec<_> = levels.iter().enumerate().filter(|(at, _)| *at != without).map(|(_, rule)| rule.clone()).collect();
            let told = Grants::of(&rules(&fewer)).unwrap_err().message;
            assert!(told.starts_with("there is no package with a rule `allow`"), "{told}");
        }
    }

    #[test]
    fn what_is_no_permission_is_no_table() {
        for value in [json!({}), json!({"agent": ["admin"]}), json!({"agent.create": "admin"}), json!({"agent.create": [1]}), json!([1])] {
            assert_eq!(permissions(&value), None, "{value}");
        }
    }
}
