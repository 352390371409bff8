//! Where an import and a policy differ on who may do what.

use super::Imported;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use wire::policy::{PolicyDocument, Role};

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Difference {
    /// What differs.
    pub kind: DifferenceKind,
    /// The role that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The permission.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permission: Option<String>,
}

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    /// The policy has no such role.
    RoleMissing,
    /// The import has no such role.
    RoleAdded,
    /// The policy has no such permission.
    PermissionMissing,
    /// The import has no such permission.
    PermissionAdded,
    /// The import's role has it, the policy's has not.
    GrantMissing,
    /// The policy's role has it, the import's has not.
    GrantAdded,
}

impl Difference {
    fn of_role(kind: DifferenceKind, role: &str) -> Self {
        Self { kind, role: Some(role.to_owned()), permission: None }
    }

    fn of_permission(kind: DifferenceKind, permission: &str) -> Self {
        Self { kind, role: None, permission: Some(permission.to_owned()) }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (role, permission) = (self.role.as_deref().unwrap_or_default(), self.permission.as_deref().unwrap_or_default());
        match self.kind {
            DifferenceKind::RoleMissing => write!(formatter, "the policy has no role `{role}`"),
            DifferenceKind::RoleAdded => write!(formatter, "only the policy has the role `{role}`"),
            DifferenceKind::PermissionMissing => write!(formatter, "the policy has no permission `{permission}`"),
            DifferenceKind::PermissionAdded => write!(formatter, "only the policy has the permission `{permission}`"),
            DifferenceKind::GrantMissing => write!(formatter, "`{role}` has no `{permission}` under the policy"),
            DifferenceKind::GrantAdded => write!(formatter, "`{role}` has `{permission}` under the policy only"),
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
        let of_permission = |kind| move |name: &&str| Difference::of_permission(kind, name);
        differences.extend(there.difference(&here).map(of_permission(DifferenceKind::PermissionMissing)));
        differences.extend(here.difference(&there).map(of_permission(DifferenceKind::PermissionAdded)));
        let mut known: BTreeMap<&str, &Role> = policy.roles.iter().map(|role| (role.name.as_str(), role)).collect();
        known.extend(policy.roles.iter().flat_map(|role| role.aliases.iter().map(move |alias| (alias.as_str(), role))));
        let mut met = BTreeSet::new();
        for imported in &self.roles {
            let Some(ours) = known.get(imported.name.as_str()) else {
                differences.insert(Difference::of_role(DifferenceKind::RoleMissing, &imported.name));
                continue;
            };
            met.insert(ours.name.as_str());
            let has = |permission: &str| ours.permissions.iter().any(|own| own == "*" || own == permission);
            for permission in here.intersection(&there).copied() {
                let kind = match (imported.permissions.has(permission), has(permission)) {
                    (true, false) => DifferenceKind::GrantMissing,
                    (false, true) => DifferenceKind::GrantAdded,
                    (true, true) | (false, false) => continue,
                };
                differences.insert(Difference { role: Some(imported.name.clone()), ..Difference::of_permission(kind, permission) });
            }
        }
        let others = policy.roles.iter().map(|role| role.name.as_str()).filter(|role| !met.contains(role));
        differences.extend(others.map(|role| Difference::of_role(DifferenceKind::RoleAdded, role)));
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
