//! How two versions of a policy differ: as text, and as decisions that change.
//!
//! Decisions are made by [`decision_core::decide`], the code that enforces, for every kind of caller on every endpoint. Callers
//! that the policies cannot tell apart are one class, and so are endpoints: what is decided is (classes of callers) × (classes of
//! endpoints), whatever the number of roles and routes. A policy has at most 256 permissions, so 10,000 routes fall into some
//! hundreds of classes; 1,000 roles with different permissions are some thousands.

mod callers;
mod endpoints;
mod outcome;

use crate::Files;
use callers::{Callers, customers};
use decision_core::gateway::Gateway;
use decision_core::policy::CompiledPolicy;
use endpoints::Endpoints;
use outcome::Judge;
use similar::TextDiff;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use wire::policy::PolicyDocument;

/// The most pairs of classes that are decided; beyond it the comparison says that it is not whole.
const PAIRS_MAX: usize = 20_000_000;

/// The most groups of changes, and names in a group.
const CHANGES_MAX: usize = 500;
const NAMES_MAX: usize = 50;

/// The longest that lines of one file are matched; beyond it the diff is correct and not minimal.
const TEXT_TIME_MAX: Duration = Duration::from_millis(500);

/// One version of a policy.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// As operators wrote it.
    pub document: &'a PolicyDocument,
    /// As it decides.
    pub compiled: &'a CompiledPolicy,
}

/// Decisions that change in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// On which gateway.
    pub gateway: Gateway,
    /// The old decision, in words.
    pub from: String,
    /// The new one.
    pub to: String,
    /// `METHOD path`; at most 50.
    pub endpoints: Vec<String>,
    /// How many endpoints.
    pub endpoint_count: usize,
    /// Who; at most 50.
    pub callers: Vec<String>,
    /// How many callers.
    pub caller_count: usize,
}

/// How the decisions of two versions compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Those that change, in groups, largest first.
    pub changes: Vec<Change>,
    /// How many decisions there are: callers times endpoints.
    pub compared: u64,
    /// How many change.
    pub changed: u64,
    /// Whether there were too many to compare all, or too many groups to list.
    pub truncated: bool,
    /// All of it in a sentence.
    pub summary: String,
}

/// A unified diff of every file that differs.
#[must_use]
pub fn text(from: &Files, to: &Files) -> String {
    let names: BTreeSet<&String> = from.keys().chain(to.keys()).collect();
    let mut text = String::new();
    for name in names {
        let (old, new) = (from.get(name), to.get(name));
        if old == new {
            continue;
        }
        let header = |side: Option<&String>, prefix: &str| side.map_or_else(|| "/dev/null".to_owned(), |_| format!("{prefix}/{name}"));
        let lines = TextDiff::configure()
            .timeout(TEXT_TIME_MAX)
            .diff_lines(old.map_or("", String::as_str), new.map_or("", String::as_str))
            .unified_diff()
            .context_radius(3)
            .header(&header(old, "a"), &header(new, "b"))
            .to_string();
        text.push_str(&lines);
    }
    text
}

/// The decisions that change.
#[must_use]
pub fn decisions(from: &Side<'_>, to: &Side<'_>) -> Comparison {
    let mut comparison = Comparison::default();
    let judge = Judge::new(from.compiled, to.compiled);
    let customers = customers(from, to);
    let mut pairs = 0_usize;
    for gateway in Gateway::ALL {
        let callers = Callers::of(gateway, &customers, from, to);
        let endpoints = Endpoints::of(gateway, from, to);
        comparison.compared = comparison.compared.saturating_add(product(callers.count(), endpoints.count()));
        pairs = pairs.saturating_add(callers.classes().len().saturating_mul(endpoints.classes().len()));
        if pairs > PAIRS_MAX {
            comparison.truncated = true;
            continue;
        }
        let mut groups = Groups::default();
        for (at_endpoint, endpoint) in endpoints.classes().iter().enumerate() {
            for (at_caller, caller) in callers.classes().iter().enumerate() {
                if let Some(change) = judge.differ(gateway, caller, endpoint) {
                    comparison.changed = comparison.changed.saturating_add(product(caller.names.len(), endpoint.names.len()));
                    groups.entry(change).or_default().entry(at_caller).or_default().push(at_endpoint);
                }
            }
        }
        for ((from, to), by_caller) in groups {
            for (endpoints, callers) in merged(by_caller, &callers, &endpoints) {
                comparison.changes.push(Change {
                    gateway,
                    from: judge.words(from),
                    to: judge.words(to),
                    endpoint_count: endpoints.count,
                    endpoints: endpoints.names,
                    caller_count: callers.count,
                    callers: callers.names,
                });
            }
        }
    }
    let size = |change: &Change| product(change.caller_count, change.endpoint_count);
    comparison.changes.sort_by_key(|change| std::cmp::Reverse(size(change)));
    if comparison.changes.len() > CHANGES_MAX {
        comparison.changes.truncate(CHANGES_MAX);
        comparison.truncated = true;
    }
    comparison.summary = summary(&comparison);
    comparison
}

fn product(one: usize, other: usize) -> u64 {
    u64::try_from(one).unwrap_or(u64::MAX).saturating_mul(u64::try_from(other).unwrap_or(u64::MAX))
}

/// By what changes into what: the classes of endpoints under the class of callers that they change for.
type Groups = BTreeMap<(outcome::Outcome, outcome::Outcome), BTreeMap<usize, Vec<usize>>>;

/// The first names, and how many there are.
#[derive(Default)]
struct Names {
    names: Vec<String>,
    count: usize,
}

impl Names {
    fn add(&mut self, names: &[String]) {
        self.count = self.count.saturating_add(names.len());
        let room = NAMES_MAX.saturating_sub(self.names.len());
        self.names.extend(names.iter().take(room).cloned());
    }
}

/// Callers for whom the same endpoints change are one entry: a hundred roles and a hundred routes are not ten thousand lines.
fn merged(by_caller: BTreeMap<usize, Vec<usize>>, callers: &Callers, endpoints: &Endpoints<'_>) -> Vec<(Names, Names)> {
    let mut by_endpoints: BTreeMap<Vec<usize>, Names> = BTreeMap::new();
    for (caller, at) in by_caller {
        if let Some(caller) = callers.classes().get(caller) {
            by_endpoints.entry(at).or_default().add(&caller.names);
        }
    }
    let named = |classes: Vec<usize>| {
        let mut names = Names::default();
        classes.into_iter().filter_map(|class| endpoints.classes().get(class)).for_each(|endpoint| names.add(&endpoint.names));
        names
    };
    by_endpoints.into_iter().map(|(classes, callers)| (named(classes), callers)).collect()
}

fn summary(comparison: &Comparison) -> String {
    let Comparison { compared, changed, truncated, .. } = comparison;
    match (changed, truncated) {
        (0, false) => format!("no decision of {compared} changes"),
        (changed, false) => format!("{changed} of {compared} decisions change"),
        (changed, true) => format!("at least {changed} of {compared} decisions change; there are too many to tell all"),
    }
}

#[cfg(test)]
mod tests;
