//! Budgets: from text to scope templates.

use super::error::{CompileError, range, unique, unknown};
use super::limits;
use crate::budget::{
    AtCritical, Budget, BudgetId, Counted, OVERRIDE_PREFIX, SCOPE_BYTES_MAX, ScopePart, ScopeTemplate, SpentProblem, Thresholds, Unit,
    Units, Variable,
};
use crate::gateway::GatewaySet;
use crate::policy::source::{BudgetSource, FailureModes, PolicySource};
use crate::principal::Tier;

pub(super) fn compile_budgets(source: &PolicySource) -> Result<Vec<Budget>, CompileError> {
    let mut budgets: Vec<Budget> = Vec::with_capacity(source.budgets.len());
    for budget in &source.budgets {
        let at = format!("budgets[{}]", budget.name);
        unique(&at, &budget.name, budgets.iter().map(|known| &*known.name))?;
        let id = u16::try_from(budgets.len()).map(BudgetId).map_err(|_| range(&at, &budget.name, "within 65536 budgets"))?;
        budgets.push(compile_budget(budget, id, &at, &source.settings.failure_modes)?);
    }
    Ok(budgets)
}

fn compile_budget(budget: &BudgetSource, id: BudgetId, at: &str, modes: &FailureModes) -> Result<Budget, CompileError> {
    let tier =
        |name: &String| Tier::parse(name).ok_or_else(|| unknown(&format!("{at}.tier"), name, ["trial", "paid", "enterprise"].into_iter()));
    let problem = |slug: &String| {
        let slugs = ["budget-exceeded", "trial-limit-exceeded", "rate-limit-exceeded"];
        SpentProblem::parse(slug).ok_or_else(|| unknown(&format!("{at}.problem"), slug, slugs.into_iter()))
    };
    let (problem_default, status_default) = budget.unit.spent();
    let failure_default = match budget.unit {
        Unit::MicroUsd => modes.money,
        Unit::Tasks => modes.tasks,
        Unit::Requests | Unit::Tokens => modes.requests,
    };
    let status = budget.status.unwrap_or(status_default);
    if !matches!(status, 400..=599) {
        return Err(range(&format!("{at}.status"), &status.to_string(), "a status from 400 to 599"));
    }
    if budget.cap < 0 {
        return Err(range(&format!("{at}.cap"), &budget.cap.to_string(), "0 or more"));
    }
    let counted = limits::counted(budget, at)?;
    let scope = match counted {
        Counted::ByLease => compile_scope(&budget.scope, &format!("{at}.scope"))?,
        // No user has it, so nothing could ever be leased for it.
        Counted::ByClientAddress => ScopeTemplate(vec![ScopePart::FirstOf(Vec::new())]),
    };
    Ok(Budget {
        id,
        name: budget.name.as_str().into(),
        unit: budget.unit,
        rhythm: budget.rhythm,
        counted,
        scope,
        cap: Units::new(budget.cap),
        durable: budget.durable,
        tier: budget.tier.as_ref().map(tier).transpose()?,
        gateways: if budget.gateways.is_empty() { GatewaySet::ALL } else { budget.gateways.iter().copied().collect() },
        problem: budget.problem.as_ref().map_or(Ok(problem_default), problem)?,
        status,
        failure_mode: budget.failure_mode.unwrap_or(failure_default),
        thresholds: thresholds(budget, at)?,
        at_critical: at_critical(budget, at)?,
    })
}

fn thresholds(budget: &BudgetSource, at: &str) -> Result<Option<Thresholds>, CompileError> {
    if let Some(Thresholds { warning, high, critical }) = budget.thresholds
        && !(0 < warning && warning < high && high < critical && critical <= 100)
    {
        return Err(range(&format!("{at}.thresholds"), &format!("{warning}, {high}, {critical}"), "rising percentages from 1 to 100"));
    }
    Ok(budget.thresholds.or(budget.durable.then_some(Thresholds::DEFAULT)))
}

fn at_critical(budget: &BudgetSource, at: &str) -> Result<AtCritical, CompileError> {
    let names_agent = budget.scope.contains("{agent_id");
    if budget.at_critical == AtCritical::PauseAgent && !(names_agent && budget.durable) {
        let rule = "`at_critical: pause_agent` goes with durable budgets whose scope begins with an agent: `agent:{agent_id|subject}`";
        return Err(CompileError::Inconsistent { at: at.into(), rule });
    }
    Ok(budget.at_critical)
}

fn compile_scope(text: &str, at: &str) -> Result<ScopeTemplate, CompileError> {
    if text.starts_with(OVERRIDE_PREFIX) {
        return Err(range(at, text, "a template that does not begin with `override=`, as override accounts do"));
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((literal, after)) = rest.split_once('{') {
        let (names, after) = after.split_once('}').ok_or_else(|| range(at, text, "a template with closed braces"))?;
        if !literal.is_empty() {
            parts.push(ScopePart::Literal(literal.into()));
        }
        let variables = names.split('|').map(|name| {
            let known = ["subject", "user_id", "customer_id", "agent_id"].into_iter();
            Variable::parse(name).ok_or_else(|| unknown(at, name, known))
        });
        parts.push(ScopePart::FirstOf(variables.collect::<Result<_, _>>()?));
        rest = after;
    }
    if rest.contains('}') || text.is_empty() {
        return Err(range(at, text, "a template such as `agent:{agent_id|subject}`"));
    }
    if !rest.is_empty() {
        parts.push(ScopePart::Literal(rest.into()));
    }
    let scope = ScopeTemplate(parts);
    // A scope that no store takes would leave such users without any lease, and nobody would know why.
    if scope.bytes_max() > SCOPE_BYTES_MAX {
        Err(range(at, text, "a template of fewer variables: values have up to 256 bytes, a scope 1024"))
    } else {
        Ok(scope)
    }
}
