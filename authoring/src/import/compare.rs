//! Where an import and a policy differ on who may do what.

use super::Imported;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use wire::policy::{PolicyDocument, Role};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Difference {
    /// The policy has no such role.
    RoleMissing {
        /// The import's role.
        role: String,
    },
    /// The import has no such role.
    RoleAdded {
        /// The policy's role.
        role: String,
    },
    /// The policy has no such permission.
    PermissionMissing {
        /// The import's permission.
        permission: String,
    },
    /// The import has no such permission.
    PermissionAdded {
        /// The policy's permission.
        permission: String,
    },
    /// The import's role has it, the policy's has not.
    GrantMissing {
        /// Both have the role.
        role: String,
        /// Both have the permission.
        permission: String,
    },
    /// The policy's role has it, the import's has not.
    GrantAdded {
        /// Both have the role.
        role: String,
        /// Both have the permission.
        permission: String,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RoleMissing { role } => write!(formatter, "the policy has no role `{role}`"),
            Self::RoleAdded { role } => write!(formatter, "only the policy has the role `{role}`"),
            Self::PermissionMissing { permission } => write!(formatter, "the policy has no permission `{permission}`"),
            Self::PermissionAdded { permission } => write!(formatter, "only the policy has the permission `{permission}`"),
            Self::GrantMissing { role, permission } => write!(formatter, "`{role}` has no `{permission}` under the policy"),
            Self::GrantAdded { role, permission } => write!(formatter, "`{role}` has `{permission}` under the policy only"),
        }
    }
}

impl Imported {
    /// All differences from a policy. Roles are found by their aliases too; what only one side knows is told once, not for each
    /// role or permission of the other.
    #[must_use]
    pub fn compare(&self, policy: &PolicyDocument) -> Vec<Difference> {
        let mut differences = BTreeSet::new();
        let here: BTreeSet<&str> = policy.permissions.iter().map(String::as_str).collect();
        let there: BTreeSet<&str> = self.permissions.iter().map(String::as_str).collect();
        differences.extend(there.difference(&here).map(|name| Difference::PermissionMissing { permission: (*name).to_owned() }));
        differences.extend(here.difference(&there).map(|name| Difference::PermissionAdded { permission: (*name).to_owned() }));
        let mut known: BTreeMap<&str, &Role> = policy.roles.iter().map(|role| (role.name.as_str(), role)).collect();
        known.extend(policy.roles.iter().flat_map(|role| role.aliases.iter().map(move |alias| (alias.as_str(), role))));
        let mut met = BTreeSet::new();
        for imported in &self.roles {
            let role = imported.name.clone();
            let Some(ours) = known.get(role.as_str()) else {
                differences.insert(Difference::RoleMissing { role });
                continue;
            };
            met.insert(ours.name.as_str());
            let has = |permission: &str| ours.permissions.iter().any(|own| own == "*" || own == permission);
            for permission in here.intersection(&there).copied() {
                let of = || (role.clone(), permission.to_owned());
                match (imported.permissions.has(permission), has(permission)) {
                    (true, false) => {
                        let (role, permission) = of();
                        differences.insert(Difference::GrantMissing { role, permission });
                    }
                    (false, true) => {
                        let (role, permission) = of();
                        differences.insert(Difference::GrantAdded { role, permission });
                    }
                    (true, true) | (false, false) => {}
                }
            }
        }
        let others = policy.roles.iter().map(|role| role.name.as_str()).filter(|role| !met.contains(role));
        differences.extend(others.map(|role| Difference::RoleAdded { role: role.to_owned() }));
        differences.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ImportedRole, RolePermissions};
    use super::*;
    use crate::Files;

    fn policy(text: &str) -> PolicyDocument {
        wire::sources::read(&Files::from([("policy.yaml".to_owned(), text.to_owned())])).unwrap()
    }

    #[test]
    fn each_kind_of_difference_is_found_and_told_once() {
        let only = |names: &[&str]| RolePermissions::Only(names.iter().map(|name| (*name).to_owned()).collect());
        let role = |name: &str, permissions| ImportedRole { name: name.into(), permissions };
        let imported = Imported {
            permissions: vec!["a.read".into(), "a.write".into(), "old.one".into()],
            roles: vec![role("admin", RolePermissions::All), role("user", only(&["a.write"])), role("gone", only(&["a.read"]))],
            not_imported: vec![],
            remarks: vec![],
        };
        let text = "
permissions: [a.read, a.write, new.one]
roles:
  - { name: admin, permissions: ['*'] }
  - { name: customer, aliases: [user], permissions: [a.read, new.one] }
  - { name: extra, permissions: [a.read] }
";
        let told: Vec<String> = imported.compare(&policy(text)).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "the policy has no role `gone`",
                "only the policy has the role `extra`",
                "the policy has no permission `old.one`",
                "only the policy has the permission `new.one`",
                "`user` has no `a.write` under the policy",
                "`user` has `a.read` under the policy only",
            ]
        );
    }
}
