//! Budgets: what is counted, per what, in which window.

use crate::failure::FailureMode;
use crate::gateway::GatewaySet;
use crate::principal::{Principal, Tier};
use crate::time::Timestamp;
use core::fmt;
use core::time::Duration;

pub use crate::thresholds::{AlertLevel, AtCritical, Thresholds};

/// An amount in a budget's unit. Never negative by construction of its users; arithmetic saturates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Units(i64);

impl Units {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From a number of units.
    #[must_use]
    pub const fn new(units: i64) -> Self {
        Self(units)
    }

    /// The number of units.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The sum, saturating.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, at least zero.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        let difference = self.0.saturating_sub(other.0);
        Self(if difference < 0 { 0 } else { difference })
    }
}

impl fmt::Display for Units {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A budget's index in its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BudgetId(pub(crate) u16);

impl BudgetId {
    /// The index.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What a budget counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Unit {
    /// Millionths of a US dollar.
    MicroUsd,
    /// Tasks, as routes say.
    Tasks,
    /// Requests.
    Requests,
    /// Tokens of language models.
    Tokens,
}

impl Unit {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::MicroUsd, Self::Tasks, Self::Requests, Self::Tokens];

    /// Its name in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MicroUsd => "micro_usd",
            Self::Tasks => "tasks",
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }

    /// What a spent budget of this unit answers with, unless it says otherwise.
    #[must_use]
    pub const fn spent(self) -> (SpentProblem, u16) {
        match self {
            Self::MicroUsd => (SpentProblem::BudgetExceeded, 402),
            Self::Tasks => (SpentProblem::TrialLimitExceeded, 429),
            Self::Requests | Self::Tokens => (SpentProblem::RateLimitExceeded, 429),
        }
    }
}

/// A budget's rhythm: fixed windows in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Rhythm {
    Minute,
    Hour,
    Day,
    Month,
}

/// One window: from `start` up to, but not with, `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// Its first moment.
    pub start: Timestamp,
    /// The first moment after it.
    pub end: Timestamp,
}

impl Window {
    /// Whether `now` lies in it.
    #[must_use]
    pub fn contains(&self, now: Timestamp) -> bool {
        self.start <= now && now < self.end
    }
}

impl Rhythm {
    /// The window that contains `now`.
    #[must_use]
    pub fn window_at(self, now: Timestamp) -> Window {
        let seconds = now.as_seconds();
        let fixed = |length: i64| {
            let start = seconds.div_euclid(length).saturating_mul(length);
            Window { start: Timestamp::from_seconds(start), end: Timestamp::from_seconds(start.saturating_add(length)) }
        };
        match self {
            Self::Minute => fixed(60),
            Self::Hour => fixed(3_600),
            Self::Day => fixed(86_400),
            Self::Month => {
                let (year, month, _) = date_of_day(seconds.div_euclid(86_400));
                let (next_year, next_month) = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
                Window {
                    start: Timestamp::from_seconds(first_day_of(year, month).saturating_mul(86_400)),
                    end: Timestamp::from_seconds(first_day_of(next_year, next_month).saturating_mul(86_400)),
                }
            }
        }
    }
}

/// Year, month (1–12) and day (1–31) of a day since the epoch, proleptic Gregorian (Hinnant, "chrono-compatible
/// low-level date algorithms").
#[must_use]
pub const fn date_of_day(day: i64) -> (i64, i64, i64) {
    let shifted = day.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + (month <= 2) as i64, month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}

/// Day since the epoch of the first of a month.
const fn first_day_of(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// A variable of a scope template.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variable {
    /// The issuer's name and the subject: the user.
    Subject,
    /// The `user_id` claim.
    UserId,
    /// The `customer_id` claim.
    CustomerId,
    /// The `agent_id` claim.
    AgentId,
}

impl Variable {
    /// From its name in a template.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "subject" => Self::Subject,
            "user_id" => Self::UserId,
            "customer_id" => Self::CustomerId,
            "agent_id" => Self::AgentId,
            _ => return None,
        })
    }

    const fn tag(self) -> &'static str {
        match self {
            Self::Subject => "subject",
            Self::UserId => "user_id",
            Self::CustomerId => "customer_id",
            Self::AgentId => "agent_id",
        }
    }
}

/// A piece of a scope template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScopePart {
    /// Fixed text.
    Literal(Box<str>),
    /// The first of these variables that the user has.
    FirstOf(Vec<Variable>),
}

/// Per what a budget counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeTemplate(pub Vec<ScopePart>);

/// The largest charge: sums of many stay exact in the doubles that Lua counts with.
pub const CHARGE_MAX: i64 = 1 << 50;

/// What the scopes of override accounts begin with, and no template of a policy.
pub const OVERRIDE_PREFIX: &str = "override=";

/// The longest scope that is kept: longer texts fit no index entry of Postgres.
pub const SCOPE_BYTES_MAX: usize = 1_024;

/// The longest value of a claim, and the longest name of an issuer with it (see `authn`'s limit of claims).
const VALUE_BYTES_MAX: usize = 256;

impl ScopeTemplate {
    /// The longest scope that it can make.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        // `=256:`, and `=128:issuer,256:` for a subject.
        let value = |variable: &Variable| match variable {
            Variable::Subject => 2 * (VALUE_BYTES_MAX + 5),
            Variable::UserId | Variable::CustomerId | Variable::AgentId => VALUE_BYTES_MAX + 5,
        };
        let part = |part: &ScopePart| match part {
            ScopePart::Literal(text) => text.len(),
            ScopePart::FirstOf(variables) => variables.iter().map(|variable| variable.tag().len() + value(variable)).max().unwrap_or(0),
        };
        self.0.iter().map(part).fold(0, usize::saturating_add)
    }

    /// Appends the scope of `principal` to `out`. A value is written as `name=length:value`, so that no choice of
    /// values makes two scopes equal.
    ///
    /// # Errors
    /// The user has none of the variables that a part names.
    pub fn write_scope(&self, principal: &Principal, out: &mut String) -> Result<(), Unscoped> {
        for part in &self.0 {
            match part {
                ScopePart::Literal(text) => out.push_str(text),
                ScopePart::FirstOf(variables) => {
                    let found = variables.iter().find_map(|variable| Some((*variable, value_of(*variable, principal)?)));
                    let (variable, value) = found.ok_or(Unscoped)?;
                    out.push_str(variable.tag());
                    if variable == Variable::Subject {
                        push_length_prefixed(out, '=', &principal.identity.issuer);
                        push_length_prefixed(out, ',', value);
                    } else {
                        push_length_prefixed(out, '=', value);
                    }
                }
            }
        }
        Ok(())
    }
}

impl ScopeTemplate {
    /// Which variables a scope of this template names, in the template's order, each with its value: what
    /// [`Self::write_scope`] wrote. `None` when it wrote no such text.
    #[must_use]
    pub fn read_scope<'s>(&self, scope: &'s str) -> Option<Vec<(Variable, &'s str)>> {
        let mut values = Vec::new();
        let mut rest = scope;
        for part in &self.0 {
            rest = match part {
                ScopePart::Literal(text) => rest.strip_prefix(&**text)?,
                ScopePart::FirstOf(variables) => {
                    let (variable, value, after) = variables.iter().find_map(|variable| read_value(*variable, rest))?;
                    values.push((variable, value));
                    after
                }
            };
        }
        rest.is_empty().then_some(values)
    }

    /// The scope of an agent, whoever vouches for it. `None` when the template does not begin with the agent, or names more.
    #[must_use]
    pub fn scope_of_agent(&self, agent_id: &str) -> Option<String> {
        let mut scope = String::new();
        let mut named = false;
        for part in &self.0 {
            match part {
                ScopePart::Literal(text) => scope.push_str(text),
                ScopePart::FirstOf(variables) if !named && variables.first() == Some(&Variable::AgentId) => {
                    named = true;
                    scope.push_str(Variable::AgentId.tag());
                    push_length_prefixed(&mut scope, '=', agent_id);
                }
                ScopePart::FirstOf(_) => return None,
            }
        }
        named.then_some(scope)
    }
}

/// `tag=length:value`, for a subject `subject=length:issuer,length:value`: the value, and what follows it.
fn read_value(variable: Variable, text: &str) -> Option<(Variable, &str, &str)> {
    let text = text.strip_prefix(variable.tag())?.strip_prefix('=')?;
    let (first, rest) = read_length_prefixed(text)?;
    if variable == Variable::Subject {
        let (subject, rest) = read_length_prefixed(rest.strip_prefix(',')?)?;
        Some((variable, subject, rest))
    } else {
        Some((variable, first, rest))
    }
}

fn read_length_prefixed(text: &str) -> Option<(&str, &str)> {
    let (length, rest) = text.split_once(':')?;
    // As it was written: no sign, no leading zero.
    let plain = length.bytes().all(|digit| digit.is_ascii_digit()) && (length.len() == 1 || !length.starts_with('0'));
    rest.split_at_checked(length.parse().ok().filter(|_| plain)?)
}

fn value_of(variable: Variable, principal: &Principal) -> Option<&str> {
    let identity = &principal.identity;
    match variable {
        Variable::Subject => Some(&identity.subject),
        Variable::UserId => Some(&identity.user_id),
        Variable::CustomerId => identity.customer_id.as_deref(),
        Variable::AgentId => identity.agent_id.as_deref(),
    }
}

fn push_length_prefixed(out: &mut String, separator: char, value: &str) {
    out.push(separator);
    push_number(out, u64::try_from(value.len()).unwrap_or(u64::MAX));
    out.push(':');
    out.push_str(value);
}

/// Appends a number without allocating for it.
pub(crate) fn push_number(out: &mut String, number: u64) {
    let mut digits = [0_u8; 20];
    let mut rest = number;
    let mut start = digits.len();
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        start = start.saturating_sub(1);
        if rest == 0 {
            break;
        }
    }
    for digit in digits.iter().skip(start) {
        out.push(char::from(*digit));
    }
}

/// A budget's scope names a variable that the user does not have, and no fallback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the user has none of the values that the scope names")]
pub struct Unscoped;

/// Who counts a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// The control plane, through leases; per user.
    ByLease,
    /// Each worker for itself, per client address, on the routes that name the budget as their limit. Never leased: its
    /// scope is one that no user has.
    ByClientAddress,
}

/// Which problem a spent budget answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpentProblem {
    /// `budget-exceeded`.
    BudgetExceeded,
    /// `trial-limit-exceeded`.
    TrialLimitExceeded,
    /// `rate-limit-exceeded`.
    RateLimitExceeded,
}

impl SpentProblem {
    /// From its slug.
    #[must_use]
    pub fn parse(slug: &str) -> Option<Self> {
        [Self::BudgetExceeded, Self::TrialLimitExceeded, Self::RateLimitExceeded].into_iter().find(|problem| problem.slug() == slug)
    }

    /// Its slug.
    #[must_use]
    pub const fn slug(self) -> &'static str {
        match self {
            Self::BudgetExceeded => "budget-exceeded",
            Self::TrialLimitExceeded => "trial-limit-exceeded",
            Self::RateLimitExceeded => "rate-limit-exceeded",
        }
    }
}

/// A compiled budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Its index.
    pub id: BudgetId,
    /// Its name.
    pub name: Box<str>,
    /// What it counts.
    pub unit: Unit,
    /// Its windows.
    pub rhythm: Rhythm,
    /// Who counts.
    pub counted: Counted,
    /// Per what it counts.
    pub scope: ScopeTemplate,
    /// How much may be spent in one window.
    pub cap: Units,
    /// In Postgres, or in Redis/Valkey.
    pub durable: bool,
    /// Only users of this tier.
    pub tier: Option<Tier>,
    /// Only on these gateways.
    pub gateways: GatewaySet,
    /// The problem when it is spent.
    pub problem: SpentProblem,
    /// The status when it is spent.
    pub status: u16,
    /// What happens when it cannot be told whether there is room.
    pub failure_mode: FailureMode,
    /// When its level rises; none where nobody is told.
    pub thresholds: Option<Thresholds>,
    /// What happens when the last threshold is reached.
    pub at_critical: AtCritical,
}

/// Whom a money budget is for, in the words of the original's answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// One agent's.
    Agent,
    /// Everybody's.
    Platform,
    /// Another.
    Other,
}

impl Budget {
    /// Whom it is for.
    #[must_use]
    pub fn whose(&self) -> Whose {
        let names_agent = |part: &ScopePart| matches!(part, ScopePart::FirstOf(variables) if variables.first() == Some(&Variable::AgentId));
        match &*self.scope.0 {
            [ScopePart::Literal(text)] if **text == *"platform" => Whose::Platform,
            parts if parts.iter().any(names_agent) => Whose::Agent,
            _ => Whose::Other,
        }
    }

    /// The window that contains `now`.
    #[must_use]
    pub fn window_at(&self, now: Timestamp) -> Window {
        self.rhythm.window_at(now)
    }

    /// Whether requests of `tier` are charged to it.
    #[must_use]
    pub fn applies_to(&self, tier: Tier) -> bool {
        self.tier.is_none_or(|only| only == tier)
    }
}

/// How long until a window ends, in whole seconds, rounded up: `Retry-After` (RFC 9110 §10.2.3).
#[must_use]
pub fn seconds_until(end: Timestamp, now: Timestamp) -> u64 {
    let left = end.since(now);
    left.as_secs().saturating_add(u64::from(left > Duration::from_secs(left.as_secs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_starts_on_its_first_and_ends_where_the_next_starts() {
        // 2024-02-29T12:00:00Z, 2025-12-31T23:59:59Z, 2100-03-01T00:00:00Z (no leap year)
        for (moment, start, end) in [
            (1_709_208_000, 1_706_745_600, 1_709_251_200),
            (1_767_225_599, 1_764_547_200, 1_767_225_600),
            (4_107_542_400, 4_107_542_400, 4_110_220_800),
        ] {
            let window = Rhythm::Month.window_at(Timestamp::from_seconds(moment));
            assert_eq!((window.start.as_seconds(), window.end.as_seconds()), (start, end));
        }
    }

    #[test]
    fn a_scope_is_read_as_it_was_written_and_nothing_else_is() {
        let agent =
            ScopeTemplate(vec![ScopePart::Literal("agent:".into()), ScopePart::FirstOf(vec![Variable::AgentId, Variable::Subject])]);
        let scope = agent.scope_of_agent("a,7:x").unwrap();
        assert_eq!(scope, "agent:agent_id=5:a,7:x");
        assert_eq!(agent.read_scope(&scope), Some(vec![(Variable::AgentId, "a,7:x")]));
        assert_eq!(agent.read_scope("agent:subject=2:cp,3:s:1"), Some(vec![(Variable::Subject, "s:1")]));
        for other in [
            "",
            "agent:",
            "agent:a-1",
            "agent:agent_id=3:a-12",
            "agent:agent_id=4:a-1",
            "agent:agent_id=+3:a-1",
            "agent:agent_id=03:a-1",
            "agent:agent_id=2:\u{e9}x",
            "agent:subject=2:cp",
            "agent:customer_id=3:a-1",
            "override=1,agent:agent_id=3:a-1",
        ] {
            assert_eq!(agent.read_scope(other), None, "{other}");
        }
        let platform = ScopeTemplate(vec![ScopePart::Literal("platform".into())]);
        assert_eq!((platform.read_scope("platform"), platform.read_scope("platforms")), (Some(vec![]), None));
        assert_eq!(platform.scope_of_agent("a"), None);
        let fallback = ScopeTemplate(vec![ScopePart::FirstOf(vec![Variable::Subject, Variable::AgentId])]);
        assert_eq!(fallback.scope_of_agent("a"), None, "an agent is only its fallback");
    }

    #[test]
    fn retry_after_is_rounded_up() {
        assert_eq!(seconds_until(Timestamp::from_micros(1_000_001), Timestamp::EPOCH), 2);
        assert_eq!(seconds_until(Timestamp::from_micros(1_000_000), Timestamp::EPOCH), 1);
        assert_eq!(seconds_until(Timestamp::EPOCH, Timestamp::from_seconds(5)), 0);
    }
}
