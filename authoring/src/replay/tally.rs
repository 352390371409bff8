//! Verdicts counted, in constant memory: however many there are, the groups, examples and budgets are bounded.

use super::{Difference, Outcome, RecordedRequest, Verdict, Why};
use decision_core::gateway::Gateway;
use decision_core::time::Timestamp;
use std::collections::BTreeMap;

/// Groups of differences that are told apart. What comes beyond them is one group, by aspect.
const GROUPS_MAX: usize = 256;
/// Examples of one group.
const EXAMPLES_MAX: usize = 5;
/// Budgets whose spend is told apart. What comes beyond them is one, without a name.
const BUDGETS_MAX: usize = 256;

/// What came of all records so far. Counts are of requests: a record of a sampled route stands for many.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records that were looked at.
    pub records: u64,
    /// Requests that would be decided as they were.
    pub same: u64,
    /// Requests that would be decided otherwise.
    pub different: u64,
    /// Requests of which it cannot be told, by why.
    pub undecidable: BTreeMap<Why, u64>,
    groups: BTreeMap<Difference, Counted>,
    spend: BTreeMap<String, Spend>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counted {
    requests: u64,
    examples: Vec<Example>,
    spend: BTreeMap<String, Spend>,
}

/// One request of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Its id.
    pub request_id: String,
    /// Its correlation id.
    pub correlation_id: String,
    /// When it arrived.
    pub at: Timestamp,
    /// Where it came to.
    pub gateway: Gateway,
    /// Its method.
    pub method: String,
    /// Its path.
    pub path: String,
    /// The user's id, if there was a user.
    pub user_id: Option<String>,
}

/// What was spent of a budget, and what would have been, in the budget's unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spend {
    /// As recorded.
    pub recorded: i64,
    /// As replayed.
    pub replayed: i64,
    /// Requests whose new charge cannot be told. They count as before.
    pub unpriced: u64,
}

/// Requests that differ in the same way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group<'t> {
    /// In what. With an empty rule, and nothing before and after: all for which there was no room.
    pub difference: &'t Difference,
    /// How many requests.
    pub requests: u64,
    /// The first few of them.
    pub examples: &'t [Example],
    /// By how much the spend of them changes, by budget.
    pub spend: &'t BTreeMap<String, Spend>,
}

impl Tally {
    /// Counts one record.
    pub fn count(&mut self, recorded: &RecordedRequest<'_>, verdict: &Verdict<'_>) {
        let weight = u64::from(recorded.sampled_of.max(1));
        self.records = self.records.saturating_add(1);
        add_spend(&mut self.spend, verdict, weight);
        match &verdict.outcome {
            Outcome::Same => self.same = self.same.saturating_add(weight),
            Outcome::Undecidable(why) => {
                let count = self.undecidable.entry(*why).or_default();
                *count = count.saturating_add(weight);
            }
            Outcome::Different(difference) => {
                self.different = self.different.saturating_add(weight);
                let group = self.group(difference);
                group.requests = group.requests.saturating_add(weight);
                add_spend(&mut group.spend, verdict, weight);
                if group.examples.len() < EXAMPLES_MAX {
                    group.examples.push(Example::of(recorded));
                }
            }
        }
    }

    fn group(&mut self, difference: &Difference) -> &mut Counted {
        let known = self.groups.contains_key(difference) || self.groups.len() < GROUPS_MAX;
        let key = if known { difference.clone() } else { Difference { aspect: difference.aspect, ..Difference::default() } };
        self.groups.entry(key).or_default()
    }

    /// How many requests cannot be judged.
    #[must_use]
    pub fn undecidable(&self) -> u64 {
        self.undecidable.values().copied().fold(0, u64::saturating_add)
    }

    /// The groups, the largest first.
    #[must_use]
    pub fn groups(&self) -> Vec<Group<'_>> {
        let mut groups = Vec::with_capacity(self.groups.len());
        for (difference, Counted { requests, examples, spend }) in &self.groups {
            groups.push(Group { difference, requests: *requests, examples, spend });
        }
        groups.sort_by(|one, other| other.requests.cmp(&one.requests).then_with(|| one.difference.cmp(other.difference)));
        groups
    }

    /// The spend of every budget that anything was charged to, or would be.
    #[must_use]
    pub const fn spend(&self) -> &BTreeMap<String, Spend> {
        &self.spend
    }
}

fn add_spend(spend: &mut BTreeMap<String, Spend>, verdict: &Verdict<'_>, weight: u64) {
    let times = |amount: i64| amount.saturating_mul(i64::try_from(weight).unwrap_or(i64::MAX));
    for (budget, before, after) in &verdict.spending.budgets {
        let known = spend.contains_key(*budget) || spend.len() < BUDGETS_MAX;
        let name = if known { *budget } else { "" };
        // Looked up first: nearly every record names budgets that are known.
        if !spend.contains_key(name) {
            spend.insert(name.to_owned(), Spend::default());
        }
        if let Some(of_budget) = spend.get_mut(name) {
            of_budget.recorded = of_budget.recorded.saturating_add(times(*before));
            of_budget.replayed = of_budget.replayed.saturating_add(times(*after));
            if verdict.spending.unpriced.contains(budget) {
                of_budget.unpriced = of_budget.unpriced.saturating_add(weight);
            }
        }
    }
}

impl Example {
    fn of(recorded: &RecordedRequest<'_>) -> Self {
        Self {
            request_id: recorded.request_id.to_owned(),
            correlation_id: recorded.correlation_id.to_owned(),
            at: recorded.at,
            gateway: recorded.gateway,
            method: recorded.method.unwrap_or_default().to_owned(),
            path: recorded.path.unwrap_or_default().to_owned(),
            user_id: recorded.user.map(|user| user.user_id.to_owned()),
        }
    }
}
