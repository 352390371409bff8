//! From what somebody asks for to what is set: one check for operators and for the gateways' users.

use super::Kind;
use super::store::Wanted;
use crate::budgets::ledger::CAP_MAX;
use crate::extract::utc;
use crate::problem::ApiError;
use crate::revocations::request::distance;
use decision_core::budget::{Budget, Counted, OVERRIDE_PREFIX, SCOPE_BYTES_MAX, Units};
use decision_core::policy::CompiledPolicy;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// `override=`, a number and a comma: an override account's scope must fit where scopes do.
const OVERRIDE_BYTES: usize = OVERRIDE_PREFIX.len() + 20;

/// An override is for an emergency.
const OVERRIDE_MAX: Duration = Duration::days(366);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// What it is.
    pub kind: Kind,
    /// The budget.
    pub budget: &'a str,
    /// The scope.
    pub scope: &'a str,
    /// The cap.
    pub cap: i64,
    /// When it ends.
    pub expires_at: Option<OffsetDateTime>,
    /// The approval that it is asked for under.
    pub approval: Option<Uuid>,
}

/// Checks it against the policy in force. Whether its end lies ahead is for the database's clock.
///
/// # Errors
/// What is wrong with it.
pub fn check(policy: &CompiledPolicy, asked: Asked<'_>) -> Result<Wanted, ApiError> {
    let budget = leased_budget(policy, asked.budget)?;
    if !(0..=CAP_MAX).contains(&asked.cap) {
        return Err(ApiError::invalid(format!("`cap` is not 0 to {CAP_MAX}")));
    }
    check_scope(budget, asked.scope)?;
    let expires_at = asked.expires_at.map(whole_seconds).transpose()?;
    match (asked.kind, expires_at) {
        (Kind::Override, None) => return Err(ApiError::invalid("`expires_at` is missing: an override account ends")),
        (Kind::Override, Some(end)) if end > OffsetDateTime::now_utc().saturating_add(OVERRIDE_MAX) => {
            return Err(ApiError::invalid("`expires_at` is more than 366 days ahead; change the policy, or set a cap"));
        }
        (Kind::Cap | Kind::Override, _) => {}
    }
    Ok(Wanted {
        kind: asked.kind,
        budget: budget.name.to_string(),
        scope: asked.scope.to_owned(),
        cap: Units::new(asked.cap),
        expires_at,
        approval: asked.approval,
    })
}

/// The budget of this name that is counted by leases.
///
/// # Errors
/// There is none; the nearest name is told.
pub fn leased_budget<'p>(policy: &'p CompiledPolicy, name: &str) -> Result<&'p Budget, ApiError> {
    let Some(budget) = policy.budget_by_name(name) else {
        let leased = policy.budgets().iter().filter(|budget| budget.counted == Counted::ByLease);
        let nearest = leased.min_by_key(|budget| distance(&budget.name, name));
        let hint = nearest.map(|budget| format!("; did you mean `{}`?", budget.name)).unwrap_or_default();
        let shown: String = name.chars().filter(|letter| !letter.is_control()).take(64).collect();
        return Err(ApiError::invalid(format!("`{shown}` is no budget of the policy in force{hint}")));
    };
    match budget.counted {
        Counted::ByLease => Ok(budget),
        Counted::ByClientAddress => Err(ApiError::invalid(format!(
            "`{}` is counted by each worker per client address: it has no accounts here; change its cap in the policy",
            budget.name
        ))),
    }
}

/// A scope that no user can have would be without effect, and nobody would know.
fn check_scope(budget: &Budget, scope: &str) -> Result<(), ApiError> {
    if scope.len() > SCOPE_BYTES_MAX.saturating_sub(OVERRIDE_BYTES) || scope.chars().any(char::is_control) {
        return Err(ApiError::invalid("`scope` is too long, or has control characters"));
    }
    if budget.scope.read_scope(scope).is_none() {
        let form = budget.scope.scope_of_agent("a-1").or_else(|| budget.scope.read_scope("platform").map(|_| "platform".to_owned()));
        let form = form.map_or_else(|| "the list of accounts shows its form".to_owned(), |form| format!("its form is `{form}`"));
        return Err(ApiError::invalid(format!("`scope` is none of `{}`: {form}", budget.name)));
    }
    Ok(())
}

fn whole_seconds(end: OffsetDateTime) -> Result<OffsetDateTime, ApiError> {
    utc(end)?.replace_nanosecond(0).map_err(|error| ApiError::internal("expires_at", error))
}
