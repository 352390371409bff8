//! The list of differences that were chosen: `oracle.yaml` beside the golden cases. Each entry has to occur, and so has every
//! value that it lists; else it would hide a difference that nobody chose.

use super::{Compared, Says, Situation, Subject};
use crate::cases::{FOLDER, ORACLE};
use crate::fault::PolicyFault;
use decision_core::causes::chain;
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
    /// Only there.
    #[serde(default, rename = "where")]
    place: Place,
    /// The original's fault, by its number.
    fault: Option<String>,
    /// Why we decide otherwise.
    because: String,
}

/// Where a choice was made: in every respect that is listed, one of the values. Each value has to occur.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Place {
    /// The route's permission.
    permissions: Vec<String>,
    /// The route.
    routes: Vec<String>,
    /// A role of the token.
    roles: Vec<String>,
    /// The request's method.
    methods: Vec<String>,
    /// The coded reason of our decision.
    outcomes: Vec<String>,
}

/// What a subject has in one respect.
type Values = fn(&Subject) -> Vec<&str>;

impl Place {
    fn lists(&self) -> [(&[String], Values); 5] {
        [
            (&self.permissions, |subject| subject.permission.as_deref().into_iter().collect()),
            (&self.routes, |subject| vec![subject.route.as_str()]),
            (&self.roles, |subject| subject.roles.iter().map(String::as_str).collect()),
            (&self.methods, |subject| vec![subject.method.as_str()]),
            (&self.outcomes, |subject| vec![subject.outcome.as_str()]),
        ]
    }

    fn covers(&self, subject: &Subject) -> bool {
        let one = |listed: &[String], values: &[&str]| values.iter().any(|value| listed.iter().any(|one| one == value));
        self.lists().into_iter().all(|(listed, values)| listed.is_empty() || one(listed, &values(subject)))
    }

    /// What is listed and was never met.
    fn unmet(&self, met: &[Compared]) -> Vec<&str> {
        let mut unmet = Vec::new();
        for (listed, values) in self.lists() {
            let seen: BTreeSet<&str> = met.iter().flat_map(|compared| values(&compared.judgement.subject)).collect();
            unmet.extend(listed.iter().map(String::as_str).filter(|value| !seen.contains(value)));
        }
        unmet
    }
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
        self.set.name() == form
            && self.rule == judgement.rule
            && self.situation == judgement.situation
            && (self.policy, Some(self.oracle)) == (judgement.ours, compared.theirs)
            && self.place.covers(&judgement.subject)
    }

    fn told(&self) -> String {
        match &self.fault {
            Some(fault) => format!("{fault}: {}", self.because),
            None => self.because.clone(),
        }
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
            ..PolicyFault::default()
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
            for value in entry.place.unmet(&met).into_iter().filter(|_| !met.is_empty()) {
                sorted.stale.push(format!("`{value}` does not occur in the choice about {}: {}", entry.rule, entry.told()));
            }
            sorted.chosen.extend(met.into_iter().map(|compared| (compared, entry.told())));
        }
        sorted
    }
}

#[cfg(test)]
mod tests {
    use super::super::Judgement;
    use super::*;
    use crate::opa::examine::Question;
    use serde_json::Value;

    const LIST: &str = "differences:
  - { set: levels, rule: g.allow, policy: deny, oracle: allow, where: { permissions: [a.read, a.write], roles: [viewer] }, because: narrow }
  - { set: levels, rule: g.allow, policy: deny, oracle: allow, where: { outcomes: [late] }, fault: D1, because: wide }
  - { set: permissions, rule: g.allow, situation: granted, policy: allow, oracle: deny, because: of the other set }
";

    fn compared(permission: &str, role: &str, outcome: &str) -> Compared {
        let judgement = Judgement {
            file: "cases/a.yaml".into(),
            case: format!("{permission} {role}"),
            rule: "g.allow".into(),
            situation: Situation::AsAsked,
            ours: Says::Deny,
            subject: Subject {
                permission: Some(permission.into()),
                route: "r".into(),
                roles: vec![role.into(), "other".into()],
                method: "GET".into(),
                outcome: outcome.into(),
            },
            question: Question { rule: "g.allow".into(), input: Value::Null, data: Value::Null },
        };
        Compared { judgement, theirs: Some(Says::Allow), why: None }
    }

    fn sorted(differences: Vec<Compared>) -> (Vec<String>, usize, Vec<String>) {
        let sorted = Expected::read(LIST).unwrap().sort("levels", differences);
        (sorted.chosen.into_iter().map(|(_, told)| told).collect(), sorted.unexpected.len(), sorted.stale)
    }

    #[test]
    fn the_first_choice_that_covers_a_difference_has_it() {
        let all = vec![compared("a.read", "viewer", "late"), compared("a.write", "viewer", ""), compared("b.read", "viewer", "late")];
        assert_eq!(sorted(all), (vec!["narrow".into(), "narrow".into(), "D1: wide".into()], 0, vec![]));
    }

    #[test]
    fn what_nobody_chose_is_unexpected_and_what_does_not_occur_is_told() {
        let (chosen, unexpected, stale) = sorted(vec![compared("a.read", "viewer", ""), compared("a.read", "admin", "")]);
        assert_eq!((chosen.len(), unexpected), (1, 1));
        assert_eq!(
            stale,
            ["`a.write` does not occur in the choice about g.allow: narrow", "no difference is as the choice about g.allow says: D1: wide"]
        );
        let mut other = compared("a.read", "viewer", "late");
        other.judgement.situation = Situation::Granted;
        assert_eq!(sorted(vec![other]).1, 1, "another situation is another question");
    }

    #[test]
    fn a_list_that_is_none_names_its_line() {
        let fault = Expected::read(&LIST.replace("because: wide", "becaus: wide")).unwrap_err();
        assert_eq!((fault.file.as_deref(), fault.line), (Some("cases/oracle.yaml"), Some(3)), "{fault}");
    }
}
