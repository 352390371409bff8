//! What a PromQL expression asks of the metrics: which there have to be, with which labels and values of labels.

use std::collections::{BTreeMap, BTreeSet};

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{AggregateExpr, BinaryExpr, Expr, LabelModifier, VectorSelector, parse};

/// One metric of an expression.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Use {
    /// Its name.
    pub(crate) metric: String,
    /// Labels that it has to have: what is matched, grouped by, joined on, or shown.
    pub(crate) labels: BTreeSet<String>,
    /// Values that a label is compared with. Of a regular expression the alternatives, if it is nothing but those.
    pub(crate) values: BTreeMap<String, BTreeSet<String>>,
}

/// The metrics of an expression whose result has to have these labels.
///
/// # Errors
/// It cannot be parsed, or a label that is needed was aggregated away.
pub(crate) fn uses(expression: &str, shown: &BTreeSet<String>) -> Result<Vec<Use>, String> {
    let mut found = Vec::new();
    walk(&parse(expression)?, shown, &mut found)?;
    Ok(found)
}

/// The labels of an expression's result, as far as it says them.
pub(crate) fn labels_of(expression: &str) -> Result<BTreeSet<String>, String> {
    fn of(expression: &Expr) -> BTreeSet<String> {
        match expression {
            Expr::Aggregate(aggregate) => match &aggregate.modifier {
                Some(LabelModifier::Include(labels)) => labels.labels.iter().cloned().collect(),
                Some(LabelModifier::Exclude(_)) | None => BTreeSet::new(),
            },
            Expr::Binary(binary) => of(&binary.lhs),
            Expr::Paren(paren) => of(&paren.expr),
            Expr::Unary(unary) => of(&unary.expr),
            // The label by which it is computed is gone.
            Expr::Call(call) => call.args.args.last().map(|argument| of(argument)).unwrap_or_default().into_iter().filter(not_le).collect(),
            Expr::Subquery(_)
            | Expr::NumberLiteral(_)
            | Expr::StringLiteral(_)
            | Expr::VectorSelector(_)
            | Expr::MatrixSelector(_)
            | Expr::Extension(_) => BTreeSet::new(),
        }
    }
    parse(expression).map(|expression| of(&expression))
}

fn not_le(label: &String) -> bool {
    label != "le"
}

fn walk(expression: &Expr, needed: &BTreeSet<String>, found: &mut Vec<Use>) -> Result<(), String> {
    match expression {
        Expr::Aggregate(aggregate) => aggregated(aggregate, needed, found),
        Expr::Binary(binary) => both(binary, needed, found),
        Expr::Paren(paren) => walk(&paren.expr, needed, found),
        Expr::Unary(unary) => walk(&unary.expr, needed, found),
        Expr::Subquery(subquery) => walk(&subquery.expr, needed, found),
        Expr::VectorSelector(selector) => selected(selector, needed, found),
        Expr::MatrixSelector(matrix) => selected(&matrix.vs, needed, found),
        Expr::Call(call) => {
            let mut needed = needed.clone();
            match call.func.name {
                "histogram_quantile" => drop(needed.insert("le".to_owned())),
                // Its result has the labels that are matched, and those are looked at anyway.
                "absent" | "absent_over_time" | "vector" | "scalar" => needed.clear(),
                _ => {}
            }
            call.args.args.iter().try_for_each(|argument| walk(argument, &needed, found))
        }
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => Ok(()),
        Expr::Extension(_) => Err("an extension".to_owned()),
    }
}

fn aggregated(aggregate: &AggregateExpr, needed: &BTreeSet<String>, found: &mut Vec<Use>) -> Result<(), String> {
    match &aggregate.modifier {
        Some(LabelModifier::Include(kept)) => {
            let kept: BTreeSet<String> = kept.labels.iter().cloned().collect();
            match needed.difference(&kept).next() {
                Some(lost) => Err(format!("`{lost}` is needed, and aggregated away: {aggregate}")),
                None => walk(&aggregate.expr, &kept, found),
            }
        }
        Some(LabelModifier::Exclude(dropped)) => match dropped.labels.iter().find(|label| needed.contains(*label)) {
            Some(lost) => Err(format!("`{lost}` is needed, and aggregated away: {aggregate}")),
            None => walk(&aggregate.expr, needed, found),
        },
        None => match needed.first() {
            Some(lost) => Err(format!("`{lost}` is needed, and aggregated away: {aggregate}")),
            None => walk(&aggregate.expr, needed, found),
        },
    }
}

fn both(binary: &BinaryExpr, needed: &BTreeSet<String>, found: &mut Vec<Use>) -> Result<(), String> {
    let matching = binary.modifier.as_ref().and_then(|modifier| modifier.matching.as_ref());
    let (mut left, mut right) = (needed.clone(), needed.clone());
    match matching {
        // What the right side has beyond these is not in the result.
        Some(LabelModifier::Include(on)) => {
            right = on.labels.iter().cloned().collect();
            left.extend(on.labels.iter().cloned());
        }
        Some(LabelModifier::Exclude(_)) => right.clear(),
        // `and` and `unless` have the labels of their left side.
        None if binary.op.is_set_operator() && binary.op.to_string() != "or" => right.clear(),
        None => {}
    }
    walk(&binary.lhs, &left, found)?;
    walk(&binary.rhs, &right, found)
}

fn selected(selector: &VectorSelector, needed: &BTreeSet<String>, found: &mut Vec<Use>) -> Result<(), String> {
    let Some(name) = &selector.name else { return Err(format!("a selector without a name: {selector}")) };
    let mut one = Use { metric: name.clone(), labels: needed.clone(), ..Use::default() };
    for matcher in selector.matchers.matchers.iter().chain(selector.matchers.or_matchers.iter().flatten()) {
        one.labels.insert(matcher.name.clone());
        one.values.entry(matcher.name.clone()).or_default().extend(values(matcher));
    }
    found.push(one);
    Ok(())
}

fn values(matcher: &Matcher) -> Vec<String> {
    let plain = |value: &str| value.chars().all(|character| character.is_ascii_alphanumeric() || "_-.|".contains(character));
    match matcher.op {
        MatchOp::Equal | MatchOp::NotEqual => vec![matcher.value.clone()],
        MatchOp::Re(_) | MatchOp::NotRe(_) if plain(&matcher.value) => matcher.value.split('|').map(str::to_owned).collect(),
        MatchOp::Re(_) | MatchOp::NotRe(_) => Vec::new(),
    }
}

mod tests {
    use super::*;

    fn set(labels: &[&str]) -> BTreeSet<String> {
        labels.iter().map(|label| (*label).to_owned()).collect()
    }

    #[test]
    fn finds_what_an_expression_needs() {
        let found = uses(r#"sum by (a) (rate(x{b=~"c|d"}[5m])) / on (a) group_left () y"#, &set(&["a"])).unwrap();
        assert_eq!((found[0].metric.as_str(), &found[0].labels, &found[0].values["b"]), ("x", &set(&["a", "b"]), &set(&["c", "d"])));
        assert_eq!((found[1].metric.as_str(), &found[1].labels), ("y", &set(&["a"])));
        assert_eq!(uses("histogram_quantile(0.5, sum by (le) (rate(x_bucket[5m])))", &set(&[])).unwrap()[0].labels, set(&["le"]));
        assert_eq!(labels_of("histogram_quantile(0.5, sum by (le, z) (rate(x_bucket[5m])))").unwrap(), set(&["z"]));
    }

    #[test]
    fn finds_what_was_aggregated_away() {
        for (expression, shown) in
            [("sum(x)", &["a"][..]), ("sum by (b) (x)", &["a"]), ("sum without (a) (x)", &["a"]), ("sum by (a) (sum by (b) (x))", &["a"])]
        {
            assert!(uses(expression, &set(shown)).unwrap_err().contains("aggregated away"), "{expression}");
        }
        assert!(uses("sum by (x", &set(&[])).is_err());
    }
}
