//! What a set has beyond its tables, and what covers it here.

use crate::opa::{FoundRule, OpaSet};
use serde::Serialize;
use std::collections::BTreeMap;

/// Packages by the last part of their name, and where to look here.
const COVERED: [(&str, &str); 5] = [
    ("rbac_pp", "`roles` and `permissions`: nothing is inherited, and what is not listed is not allowed"),
    ("trial_mode", "`trial` of routes, the budget of tasks for the tier `trial`, and every trial's end"),
    ("governor_role", "`approval` of routes, and `approvals`"),
    ("agent_budget", "`budgets`, and `cost_micros` and `tasks` of routes"),
    ("sandbox_routing", "`routing`"),
];

/// Where everything else belongs.
const CUSTOM: &str = "nothing yet: write it as custom rules (`rules`)";

/// The rules of a package that are not imported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotImported {
    /// The package, as `gateway.trial_mode`.
    pub package: String,
    /// The module that begins with it.
    pub file: String,
    /// The names of its rules; a constant with its value.
    pub rules: Vec<String>,
    /// What covers it here.
    pub covered_by: &'static str,
}

/// Everything but the tables and the rule that decides about them.
pub(super) fn not_imported(set: &OpaSet) -> Vec<NotImported> {
    let tables = set.grants.tables();
    let mut packages: BTreeMap<&str, NotImported> = BTreeMap::new();
    for rule in &set.rules {
        let path = format!("{}.{}", rule.package, rule.name);
        if tables.contains(&path.as_str()) || path == set.grants.decides() {
            continue;
        }
        let entry = packages.entry(&rule.package).or_insert_with(|| NotImported {
            package: rule.package.clone(),
            file: rule.file.clone(),
            rules: Vec::new(),
            covered_by: covered_by(&rule.package),
        });
        entry.rules.push(shown(rule));
    }
    packages.into_values().collect()
}

fn covered_by(package: &str) -> &'static str {
    let last = package.rsplit('.').next().unwrap_or(package);
    COVERED.iter().find(|(name, _)| *name == last).map_or(CUSTOM, |(_, section)| section)
}

/// A value that stands there can be carried over by hand.
fn shown(rule: &FoundRule) -> String {
    match &rule.constant {
        Some(value) => format!("{} := {value}", rule.name),
        None => rule.name.clone(),
    }
}
