//! The list of differences that were chosen: `oracle.yaml` beside the golden cases. Each entry has to occur, and so has every
//! value that it lists; else it would hide a difference that nobody chose.

use super::{Compared, Says, Situation};
use crate::cases::{FOLDER, ORACLE};
use crate::fault::{PolicyFault, chain};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::Path;

/// All that were chosen.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedFile {
    differences: Vec<Entry>,
}

/// One choice.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// How the set says who may do what: `permissions` or `levels`.
    set: Form,
    /// The rule, as `gateway.rbac_pp.allow`.
    rule: String,
    #[serde(default)]
    situation: Situation,
    /// What the policy says.
    policy: Says,
    /// What the rule says.
    oracle: Says,
    /// Only where the route takes one of these.
    #[serde(default)]
    permissions: Vec<String>,
    /// Only on these routes.
    #[serde(default)]
    routes: Vec<String>,
    /// Only where the token has none but these roles.
    #[serde(default)]
    roles: Vec<String>,
    /// The original's fault, by its number.
    fault: Option<String>,
    /// Why we decide otherwise.
    reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Form {
    Permissions,
    Levels,
}

impl Form {
    const fn name(self) -> &'static str {
        match self {
            Self::Permissions => "permissions",
            Self::Levels => "levels",
        }
    }
}

impl Entry {
    fn covers(&self, form: &str, compared: &Compared) -> bool {
        let judgement = &compared.judgement;
        let subject = &judgement.subject;
        let listed = |list: &[String], value: Option<&str>| list.is_empty() || value.is_some_and(|value| list.iter().any(|one| one == value));
        self.set.name() == form
            && self.rule == judgement.rule
            && self.situation == judgement.situation
            && (self.policy, Some(self.oracle)) == (judgement.ours, compared.theirs)
            && listed(&self.permissions, subject.permission.as_deref())
            && listed(&self.routes, Some(&subject.route))
            && subject.roles.iter().all(|role| listed(&self.roles, Some(role)))
    }

    fn told(&self) -> String {
        match &self.fault {
            Some(fault) => format!("{fault}: {}", self.reason),
            None => self.reason.clone(),
        }
    }

    /// What it lists and what never occurred.
    fn unmet<'e>(&'e self, met: &[&Compared]) -> Vec<&'e str> {
        let roles: BTreeSet<&str> = met.iter().flat_map(|compared| &compared.judgement.subject.roles).map(String::as_str).collect();
        let permissions: BTreeSet<&str> = met.iter().filter_map(|compared| compared.judgement.subject.permission.as_deref()).collect();
        let routes: BTreeSet<&str> = met.iter().map(|compared| compared.judgement.subject.route.as_str()).collect();
        let missing = |listed: &'e [String], seen: &BTreeSet<&str>| {
            listed.iter().map(String::as_str).filter(|value| !seen.contains(value)).collect::<Vec<_>>()
        };
        [missing(&self.permissions, &permissions), missing(&self.routes, &routes), missing(&self.roles, &roles)].concat()
    }
}

/// Differences of one set, sorted.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub(super) chosen: Vec<(Compared, String)>,
    pub(super) unexpected: Vec<Compared>,
    /// Entries, or values in them, that did not occur.
    pub(super) stale: Vec<String>,
}

impl Expected {
    /// The list in the folder of a policy; empty where there is none.
    ///
    /// # Errors
    /// It cannot be read, or is none.
    pub fn read_directory(policies: &Path) -> Result<Self, PolicyFault> {
        let path = policies.join(FOLDER).join(ORACLE);
        match std::fs::read_to_string(&path) {
            Ok(text) => Self::read(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(PolicyFault {
                file: Some(path.display().to_string()),
                message: format!("cannot be read: {}", chain(&error)),
                ..PolicyFault::default()
            }),
        }
    }

    /// The list in this text.
    ///
    /// # Errors
    /// It is none.
    pub fn read(text: &str) -> Result<Self, PolicyFault> {
        let parsed: ExpectedFile = serde_norway::from_str(text).map_err(|error| PolicyFault {
            file: Some(format!("{FOLDER}/{ORACLE}")),
            line: error.location().map(|at| at.line()),
            field: None,
            message: error.to_string(),
        })?;
        Ok(Self { entries: parsed.differences })
    }

    /// Sorts the differences of a set of this form. The first entry that covers one has it.
    pub(super) fn sort(&self, form: &str, differences: Vec<Compared>) -> Sorted {
        let mut sorted = Sorted::default();
        let mut of_entries: Vec<Vec<Compared>> = self.entries.iter().map(|_| Vec::new()).collect();
        for compared in differences {
            let at = self.entries.iter().position(|entry| entry.covers(form, &compared));
            match at.and_then(|at| of_entries.get_mut(at)) {
                Some(met) => met.push(compared),
                None => sorted.unexpected.push(compared),
            }
        }
        for (entry, met) in self.entries.iter().zip(of_entries).filter(|(entry, _)| entry.set.name() == form) {
            if met.is_empty() {
                sorted.stale.push(format!("no difference is as the choice about {} says: {}", entry.rule, entry.told()));
            }
            let all: Vec<&Compared> = met.iter().collect();
            for value in entry.unmet(&all).into_iter().filter(|_| !met.is_empty()) {
                sorted.stale.push(format!("`{value}` does not occur in the choice about {}: {}", entry.rule, entry.told()));
            }
            sorted.chosen.extend(met.into_iter().map(|compared| (compared, entry.told())));
        }
        sorted
    }
}
